"""Command lines from dataclasses: each field is one flag with its default, its heading and its sentence of help.

`add_fields` turns a dataclass into grouped flags, `options_from` reads them back as the fields' types, and `guarded` runs
a command so that what a user can cause ends in one line. Needs neither torch nor transformers.
"""

import argparse
import dataclasses
import difflib
import itertools
import sys
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import yaml

T = TypeVar("T")


def option(default: Any, group: str, text: str, **more: Any) -> Any:
    """A recipe field: its default, the heading it stands under in `--help`, and the sentence there."""
    metadata = {"group": group, "help": text, **more}
    if isinstance(default, dict):
        return dataclasses.field(default_factory=lambda: dict(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


# ----------------------------------------------------------------------------------------------- the command line


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that names the nearest flag when one is unknown."""

    def __init__(self, **settings: Any):
        settings.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(allow_abbrev=False, **settings)

    def parse_args(self, args=None, namespace=None):
        namespace, unknown = self.parse_known_args(args, namespace)
        if unknown:
            hints = []
            for flag in unknown:
                near = difflib.get_close_matches(flag.split("=")[0], self._option_string_actions, n=1)
                hints.append(
                    f"unknown {flag!r}" + (f"; did you mean {near[0]}?" if near and flag.startswith("-") else "")
                )
            self.error("; ".join(hints))
        return namespace


def add_fields(parser: argparse.ArgumentParser, fields_of: type) -> None:
    """One flag a field, grouped under its heading. Only flags that were given end up in the namespace."""
    groups: dict[str, Any] = {}
    hints = typing.get_type_hints(fields_of)
    for field in dataclasses.fields(fields_of):
        if not field.metadata.get("flag", True):
            continue
        heading = field.metadata["group"]
        group = (
            groups.setdefault(heading, parser.add_argument_group(heading)) if heading not in groups else groups[heading]
        )
        default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        text = field.metadata["help"]
        if default not in (None, (), {}, "", False):
            text += f" [{_text(default)}]"
        group.add_argument(
            f"--{field.name}",
            default=argparse.SUPPRESS,
            help=text.replace("%", "%%"),
            metavar=_metavar(hints[field.name], field.metadata.get("choices")),
            **_flag_shape(hints[field.name]),
        )


def given_fields(arguments: argparse.Namespace, fields_of: type) -> dict[str, Any]:
    """Values of the flags that were given, as the fields' types, with a clear error where one does not fit."""
    names = {field.name for field in dataclasses.fields(fields_of)}
    given = {name: value for name, value in vars(arguments).items() if name in names}
    return checked_values(fields_of, given)


def options_from(arguments: argparse.Namespace, options_class: type[T]) -> T:
    return options_class(**given_fields(arguments, options_class))


# --------------------------------------------------------------------------------------------------------- values


def plain(value: Any) -> Any:
    """A dataclass (or part of one) as JSON and YAML values."""
    if dataclasses.is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, (tuple, list)):
        return [plain(entry) for entry in value]
    return value


def changed_fields(recorded: Any, current: Any) -> list[str]:
    """`name: old -> new` for every field in which two dataclasses of one type differ."""
    old, new = plain(recorded), plain(current)
    return [f"{name}: {old[name]!r} -> {new[name]!r}" for name in old if old[name] != new[name]]


def checked_values(fields_of: type, values: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """Values (from flags as text, from YAML as values) as the types of a dataclass's fields."""
    hints = typing.get_type_hints(fields_of)
    fields = {field.name: field for field in dataclasses.fields(fields_of)}
    result = {}
    for name, value in values.items():
        if name not in fields:
            near = difflib.get_close_matches(name, fields, n=1)
            raise ValueError(f"{where}no field {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
        try:
            result[name] = _converted(value, hints[name])
        except (ValueError, TypeError, KeyError):
            raise ValueError(f"{where}{name} must be {_type_text(hints[name])}, not {_text(value)!r}") from None
        choices = fields[name].metadata.get("choices")
        if choices and result[name] not in choices:
            raise ValueError(f"{where}{name} must be one of {', '.join(map(str, choices))}, not {result[name]!r}")
    return result


# ---------------------------------------------------------------------------------------------------------- types


def _flag_shape(hint: Any) -> dict[str, Any]:
    """How many words a flag takes."""
    hint, _ = _without_none(hint)
    origin = typing.get_origin(hint)
    if origin is tuple:
        inner = typing.get_args(hint)
        return {"nargs": "*" if inner[-1] is Ellipsis else len(inner)}
    if _is_mapping(origin):
        return {"nargs": "*"}
    return {"nargs": "?", "const": "true"} if hint is bool else {}


def _metavar(hint: Any, choices: tuple | None) -> str | tuple[str, ...]:
    if choices:
        return "{" + ",".join(map(str, choices)) + "}"
    hint, _ = _without_none(hint)
    if typing.get_origin(hint) is tuple and typing.get_args(hint)[-1] is not Ellipsis:
        return ("X",) * len(typing.get_args(hint))
    return {int: "N", float: "X", bool: "{true,false}"}.get(hint, "TEXT")


def _converted(value: Any, hint: Any) -> Any:
    hint, optional = _without_none(hint)
    if optional and (value is None or (isinstance(value, str) and value.lower() == "none")):
        return None
    origin = typing.get_origin(hint)
    if origin is tuple:
        if isinstance(value, str) or not isinstance(value, (list, tuple)):
            raise TypeError
        inner = typing.get_args(hint)
        if inner[-1] is not Ellipsis and len(inner) != len(value):
            raise ValueError
        return tuple(_converted(entry, inner[0]) for entry in value)
    if _is_mapping(origin):
        pairs = value.items() if isinstance(value, Mapping) else map(_pair, value)
        return {key: _scalar(entry) for key, entry in pairs}
    if hint is bool:
        if isinstance(value, str):
            return {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}[value.lower()]
        if not isinstance(value, bool):
            raise TypeError
        return value
    if isinstance(value, bool) or value is None or isinstance(value, (list, tuple, Mapping)):
        raise TypeError
    if hint is int and isinstance(value, float) and value != int(value):
        raise ValueError
    return hint(value)


def _pair(text: Any) -> tuple[str, Any]:
    name, separator, value = str(text).partition("=")
    if not separator:
        raise ValueError
    return name, _scalar(yaml.safe_load(value))


def _scalar(value: Any) -> Any:
    """YAML 1.1 reads 1e-6, without a dot, as text."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _without_none(hint: Any) -> tuple[Any, bool]:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        kinds = [kind for kind in typing.get_args(hint) if kind is not type(None)]
        return kinds[0], len(kinds) < len(typing.get_args(hint))
    return hint, False


def _is_mapping(origin: Any) -> bool:
    return isinstance(origin, type) and issubclass(origin, Mapping)


def _type_text(hint: Any) -> str:
    hint, optional = _without_none(hint)
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    origin = typing.get_origin(hint)
    if origin is tuple:
        inner = typing.get_args(hint)
        count = "some" if inner[-1] is Ellipsis else str(len(inner))
        text = f"{count} values, each {names[inner[0]]}"
    else:
        text = "NAME=VALUE pairs" if _is_mapping(origin) else names[hint]
    return text + (" or none" if optional else "")


def _text(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return " ".join(map(str, value))
    if isinstance(value, Mapping):
        return " ".join(f"{key}={entry}" for key, entry in value.items())
    return f"{value:g}" if isinstance(value, float) else str(value)


# ------------------------------------------------------------------------------------------------------- running


def explained(error: Exception, argv: list[str]) -> str:
    """The error's own words; those of the system for a file get the option that named it."""
    if not (isinstance(error, OSError) and error.strerror and error.filename):
        return str(error)
    options = [
        option for option, value in itertools.pairwise(argv) if value == str(error.filename) and option[:2] == "--"
    ]
    return f"{' '.join([*(options if len(options) == 1 else []), str(error.filename)])}: {error.strerror}"


def guarded(name: str, command: Callable[[list[str]], int | None], argv: list[str]) -> int:
    """Run a command; what a user can cause is one line, not a traceback."""
    try:
        return command(argv) or 0
    except (ValueError, TypeError, OSError) as error:
        print(f"{name}: {explained(error, argv)}", file=sys.stderr)
        return 1
