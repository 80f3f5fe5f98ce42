"""Command lines from dataclasses: each field is one option or argument with its default, its heading and its help.

`read_options` is all that a command needs: it parses the words, checks values, bounds and the files that are named, and
returns the dataclass. `guarded` runs a command and turns what a file, a disk or a user can cause into one line. Needs
neither torch nor transformers, so that help and mistakes are answered at once.
"""

import argparse
import dataclasses
import difflib
import itertools
import math
import os
import pickle
import shutil
import sys
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

from videomae.choices import ERRORS

T = TypeVar("T")

# Exit codes of all commands; docs/commands.md explains them.
DONE = 0
FAILED = 1  # an error, or problems found in what was looked at
USAGE = 2  # the command line is not valid; nothing was done
INTERRUPTED = 75  # a training was told to stop and has written a checkpoint: run the same command again
STOPPED = 130  # Ctrl-C, as shells count it

REQUIRED = dataclasses.MISSING


class UsageError(ValueError):
    """What is wrong with a command line itself; `usage` is its usage line, where that helps."""

    def __init__(self, message: str, usage: str = ""):
        super().__init__(message)
        self.usage = usage


def option(default: Any, group: str, help: str, **more: Any) -> Any:
    """A field that is one --option: its default (or REQUIRED), the heading it stands under in `--help`, its sentence.

    more: `choices`; `least`, `above` and `most`, the bounds of numbers; `kind`, what must be there ("file", "folder", "path" for
    either, "model" and "weights" for a folder or Hub name); `convert`, a function of one word; `none`, a word that
    means None; `metavar`; `flag=False` for a field that no option sets.
    """
    metadata = {"group": group, "help": help, **more}
    if isinstance(default, dict):
        return dataclasses.field(default_factory=lambda: dict(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def argument(help: str, *, default: Any = REQUIRED, **more: Any) -> Any:
    """A field that is given by its place; a tuple takes all words that are left. `more` is that of `option`."""
    return option(default, "arguments", help, positional=True, **more)


def errors_option(group: str) -> Any:
    """`--errors`, the same for every command that reads videos; the reader takes it as `errors`."""
    return option(
        ERRORS[0],
        group,
        "a video that is cut off or damaged: strict refuses it, truncate takes the frames before the damage",
        choices=ERRORS,
    )


def background_option(group: str) -> Any:
    """`--background`, the same for every command that reads labelled stretches."""
    return option(None, group, "a class of this name for what no stretch of a video covers", metavar="NAME")


def read_options(options_class: type[T], argv: Sequence[str] | None, *, command: str, about: str | None) -> T:
    """What a command line says, checked; `command` is the name behind `videomae`, `about` the text of its help."""
    parser = Parser(prog=f"videomae {command}", usage=usage_of(command, options_class), description=about)
    add_fields(parser, options_class)
    arguments = parser.parse_args(argv)
    options = options_from(arguments, options_class)
    check_paths(options)
    return options


# ----------------------------------------------------------------------------------------------- the command line


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that takes hyphens for underscores, names the nearest option, and raises its errors."""

    def __init__(self, **settings: Any):
        super().__init__(allow_abbrev=False, formatter_class=_Formatter, **settings)
        self._positionals.title = "arguments"
        self.switches: set[str] = set()

    def parse_known_args(self, args: Iterable[str] | None = None, namespace: Any = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]  # it is the same; overloads hide it
        return super().parse_known_args(self._words(sys.argv[1:] if args is None else args), namespace)

    def _words(self, args: Iterable[str]) -> list[str]:
        """The words with options spelt as the fields are, and `--switch` told apart from `--switch VALUE`."""
        words = list(map(str, args))
        end = words.index("--") if "--" in words else len(words)
        unknown = []
        for place, word in enumerate(words[:end]):
            if not word.startswith("--") or " " in word.partition("=")[0]:
                continue
            name, equals, value = word.partition("=")
            name = name.replace("-", "_").replace("__", "--", 1)
            if name not in self._option_string_actions:
                near = difflib.get_close_matches(name, self._option_string_actions, n=1)
                unknown.append(f"unknown {name!r}" + (f"; did you mean {near[0]}?" if near else ""))
            following = words[place + 1].lower() if place + 1 < end else "-"
            valued = following in SWITCH_WORDS or not (following.startswith("-") or self._takes_arguments())
            if name in self.switches and not equals and not valued:
                equals, value = "=", "true"
            words[place] = f"{name}{equals}{value}"
        if unknown:
            self.error("; ".join(unknown))
        return words

    def _takes_arguments(self) -> bool:
        return any(not action.option_strings for action in self._actions)

    def error(self, message: str) -> typing.NoReturn:
        raise UsageError(message, self.usage or "")


class _Formatter(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=32, width=min(shutil.get_terminal_size((110, 24)).columns, 120) - 2)

    def _format_args(self, action, default_metavar):
        return "" if action.metavar == "" else super()._format_args(action, default_metavar)


def usage_of(command: str, options_class: type) -> str:
    """`videomae COMMAND ARGUMENT --needed VALUE [--OPTION VALUE ...]`"""
    words = []
    hints = typing.get_type_hints(options_class)
    for field in dataclasses.fields(options_class):
        needed, name = _needed(field), field.metadata.get("metavar", field.name.upper())
        if field.metadata.get("positional"):
            name += " ..." if _is_tuple(hints[field.name]) else ""
            words.append(name if needed else f"[{name}]")
        elif needed:
            words.append(f"--{field.name} {_metavar(hints[field.name], field.metadata)}")
    return " ".join(["videomae", command, *words, "[--OPTION VALUE ...]"])


def add_fields(parser: Parser, fields_of: type, *, shown: Sequence[str] | None = None) -> None:
    """One option or argument a field, grouped under its heading; with `shown`, help leaves the others out.

    Only what was given ends up in the namespace.
    """
    hints = typing.get_type_hints(fields_of)
    groups = {group.title: group for group in parser._action_groups}
    for field in dataclasses.fields(fields_of):
        metadata, hint = field.metadata, hints[field.name]
        if not metadata.get("flag", True):
            continue
        heading = metadata["group"]
        if heading not in groups:
            groups[heading] = parser.add_argument_group(heading)
        text = metadata["help"]
        default = None if _needed(field) else _default(field)
        if default is not False and default not in (None, (), {}, ""):
            text += f" [{_text(default)}]"
        help = text.replace("%", "%%") if shown is None or field.name in shown else argparse.SUPPRESS
        shape = {"default": argparse.SUPPRESS, "help": help, "metavar": _metavar(hint, metadata)}
        if metadata.get("positional"):
            nargs = {(True, True): "+", (True, False): "*", (False, True): None, (False, False): "?"}
            shape["metavar"] = metadata.get("metavar", field.name.upper())
            groups[heading].add_argument(field.name, nargs=nargs[_is_tuple(hint), _needed(field)], **shape)
            continue
        if hint is bool:
            parser.switches.add(f"--{field.name}")
            shape["metavar"] = "{true,false}" if default else ""
        groups[heading].add_argument(f"--{field.name}", required=_needed(field), **shape, **_words_taken(hint))


def given_fields(arguments: argparse.Namespace, fields_of: type) -> dict[str, Any]:
    """Values of the options that were given, as the fields' types, with a clear error where one does not fit."""
    names = {field.name for field in dataclasses.fields(fields_of)}
    given = {name: value for name, value in vars(arguments).items() if name in names}
    try:
        return checked_values(fields_of, given, spelt=_spelt)
    except ValueError as error:
        raise UsageError(str(error)) from None


def options_from(arguments: argparse.Namespace, options_class: type[T]) -> T:
    return options_class(**given_fields(arguments, options_class))


# ------------------------------------------------------------------------------------------------- what is named


def check_paths(options: Any) -> None:
    """Every file, folder and model that options name is there; whether it is what it should be is the library's to say."""
    for field in dataclasses.fields(options):
        value, kind = getattr(options, field.name), field.metadata.get("kind")
        if kind is not None and value not in (None, ""):
            for word in value if isinstance(value, tuple) else (value,):
                check_path(_spelt(field), word, kind)


def check_path(argument: str, path: str, kind: str) -> None:
    """`kind` is that of `option`; what is missing is a UsageError."""
    there = {"file": os.path.isfile, "folder": os.path.isdir}.get(kind, os.path.exists)(path)
    if there or (kind in ("model", "weights") and is_hub_name(path)) or (kind == "path" and "://" in path):
        return
    missing = {
        "file": "is a folder; name a file" if os.path.isdir(path) else "no such file",
        "folder": "is a file; name a folder" if os.path.isfile(path) else "no such folder",
        "path": "no such file or folder",
        "model": "there is no such folder, and names on the Hub are OWNER/NAME",
        "weights": "there is no such file or folder, and names on the Hub are OWNER/NAME",
    }[kind]
    raise UsageError(f"{argument} {path}: {missing}")


def is_hub_name(text: str) -> bool:
    """OWNER/NAME; any other name would be asked for on the Hub only to come back as a network problem."""
    return not Path(text).is_absolute() and not text.startswith(".") and text.count("/") == 1


def _spelt(field: dataclasses.Field) -> str:
    """A field as the user writes it."""
    if field.metadata.get("positional"):
        return field.metadata.get("metavar", field.name.upper())
    return f"--{field.name}"


def _needed(field: dataclasses.Field) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _default(field: dataclasses.Field) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


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


def checked_values(
    fields_of: type,
    values: Mapping[str, Any],
    where: str = "",
    spelt: Callable[[dataclasses.Field], str] = lambda field: field.name,
) -> dict[str, Any]:
    """Values (from options as text, from YAML as values) as the types of a dataclass's fields, within their bounds."""
    hints = typing.get_type_hints(fields_of)
    fields = {field.name: field for field in dataclasses.fields(fields_of)}
    result = {}
    for name, value in values.items():
        if name not in fields:
            name = str(name)  # a key of YAML can be anything
            near = difflib.get_close_matches(name, fields, n=1)
            raise ValueError(f"{where}no field {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
        metadata, said = fields[name].metadata, f"{where}{spelt(fields[name])}"
        try:
            result[name] = _converted(value, hints[name], metadata.get("none", "none"))
        except (ValueError, TypeError, KeyError, OverflowError):
            wanted = _type_text(hints[name], metadata.get("none", "none"))
            raise ValueError(f"{said} must be {wanted}, not {_shown(value)}") from None
        result[name] = _within(result[name], metadata, said)
    return result


def _within(value: Any, metadata: Mapping[str, Any], said: str) -> Any:
    """The value after the choices, bounds and conversion that a field sets; of a tuple, of each entry."""
    if value is None:
        return None
    if isinstance(value, tuple):
        return tuple(_within(entry, metadata, said) for entry in value)
    choices, least, above, most = (metadata.get(name) for name in ("choices", "least", "above", "most"))
    if choices and value not in choices:
        raise ValueError(f"{said} must be one of {', '.join(map(str, choices))}, not {value!r}")
    if least is not None and not value >= least:
        raise ValueError(f"{said} must be at least {least}, not {_text(value)}")
    if above is not None and not value > above:
        raise ValueError(f"{said} must be above {above}, not {_text(value)}")
    if most is not None and not value <= most:
        raise ValueError(f"{said} must be at most {most}, not {_text(value)}")
    if "convert" in metadata:
        try:
            return metadata["convert"](value)
        except ValueError as error:
            raise ValueError(f"{said}: {error}") from None
    return value


# ---------------------------------------------------------------------------------------------------------- types


SWITCH_WORDS = {"true": True, "yes": True, "false": False, "no": False}


def _words_taken(hint: Any) -> dict[str, Any]:
    """How many words an option takes, and whether it can be given several times."""
    hint, _ = _without_none(hint)
    if _is_mapping(typing.get_origin(hint)):
        return {"nargs": "*"}
    if not _is_tuple(hint):
        return {}
    inner = typing.get_args(hint)
    if _is_tuple(inner[0]):
        return {"nargs": "+", "action": "append"}
    return {"nargs": "*" if inner[-1] is Ellipsis else len(inner)}


def _metavar(hint: Any, metadata: Mapping[str, Any]) -> str | tuple[str, ...]:
    if "metavar" in metadata:
        return metadata["metavar"]
    if metadata.get("choices"):
        return "{" + ",".join(map(str, metadata["choices"])) + "}"
    hint, _ = _without_none(hint)
    if _is_tuple(hint) and typing.get_args(hint)[-1] is not Ellipsis:
        return ("X",) * len(typing.get_args(hint))
    kinds = {"file": "FILE", "folder": "FOLDER", "path": "DATA", "model": "MODEL", "weights": "FILE"}
    return {int: "N", float: "X", bool: "{true,false}"}.get(hint) or kinds.get(metadata.get("kind", ""), "TEXT")


def _converted(value: Any, hint: Any, none: str = "none") -> Any:
    hint, optional = _without_none(hint)
    if optional and (value is None or (isinstance(value, str) and value.lower() == none)):
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
        pairs = [(key, _scalar(entry)) for key, entry in pairs]
        if any(_is_nested(entry) for _, entry in pairs):
            raise TypeError
        return dict(pairs)
    if hint is bool:
        if isinstance(value, str):
            return SWITCH_WORDS[value.lower()]
        if not isinstance(value, bool):
            raise TypeError
        return value
    if isinstance(value, bool) or value is None or isinstance(value, (list, tuple, Mapping)):
        raise TypeError
    if hint is int and isinstance(value, float) and value != int(value):
        raise ValueError
    if hint is float and not math.isfinite(float(value)):
        raise ValueError
    return hint(value)


def _is_nested(value: Any) -> bool:
    """Whether a value holds lists of lists: no field does, and the aliases of YAML make endless ones of a few words."""
    entries = value.values() if isinstance(value, Mapping) else value if isinstance(value, (list, tuple)) else ()
    return any(isinstance(entry, (list, tuple, Mapping)) for entry in entries)


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


def _is_tuple(hint: Any) -> bool:
    return typing.get_origin(hint) is tuple


def _type_text(hint: Any, none: str = "none") -> str:
    hint, optional = _without_none(hint)
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    origin = typing.get_origin(hint)
    if origin is tuple:
        inner = typing.get_args(hint)
        count = "some" if inner[-1] is Ellipsis else str(len(inner))
        text = f"{count} values, each {names[inner[0]]}"
    else:
        text = "NAME=VALUE pairs" if _is_mapping(origin) else names[hint]
    return text + (f" or {none}" if optional else "")


def _shown(value: Any) -> str:
    """A value that was refused, in quotes; of nested ones, what it is."""
    return f"a {type(value).__name__} of {len(value)} entries" if _is_nested(value) else repr(_text(value))


def _text(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return " ".join(map(_text, value))
    if isinstance(value, Mapping):
        return " ".join(f"{key}={entry}" for key, entry in value.items())
    return f"{value:g}" if isinstance(value, float) else str(value)


# ------------------------------------------------------------------------------------------------------- running

# Packages whose own errors tell of a file, a disk or the network, by the root of the module that defines the class.
TELLING = (
    "huggingface_hub",
    "safetensors",
    "httpx",
    "httpx2",
    "av",
    "pyarrow",
    "tarfile",
    "struct",
    "zlib",
    "zipfile",
    "_csv",
)
TELLING_ERRORS = (
    *(ValueError, OSError, EOFError, MemoryError, OverflowError, RecursionError),
    *(pickle.UnpicklingError, yaml.YAMLError),
)
# What transformers says where weights have other shapes than the configuration of a folder on the Hub: a RuntimeError.
TELLING_TEXT = "ignore_mismatched_sizes"
TELLING_NAMES = ("BrokenVideosError", "OutOfMemoryError")  # ours and torch's, which both are RuntimeErrors


def is_telling(error: BaseException) -> bool:
    """Whether an error is what a user, a file or a machine can cause; any other is a bug, and its traceback is needed."""
    if isinstance(error, ImportError):
        return not (error.name or "").startswith("videomae")  # a package that is not installed
    kinds = [(kind.__module__.partition(".")[0], kind.__name__) for kind in type(error).__mro__]
    named = any(module in TELLING or name in TELLING_NAMES for module, name in kinds)
    return named or isinstance(error, TELLING_ERRORS) or (type(error) is RuntimeError and TELLING_TEXT in str(error))


def describe_error(error: Exception, argv: Sequence[str]) -> str:
    """The error's own words; those of the system for a file get the option that named it."""
    if isinstance(error, OSError) and error.strerror and error.filename:
        options = [
            option for option, value in itertools.pairwise(argv) if value == str(error.filename) and option[:2] == "--"
        ]
        return f"{' '.join([*(options if len(options) == 1 else []), str(error.filename)])}: {error.strerror}"
    text = str(error).strip()
    if text.startswith("Caught ") and "Traceback" in text:  # of a process that reads data, with its traceback
        text = text.splitlines()[-1].partition(": ")[2] or text
    kind = type(error).__name__
    if type(error).__module__.startswith("huggingface_hub"):  # whose errors of values have a line for each type
        text = " ".join(text.split())
    if isinstance(error, (MemoryError, RecursionError, OverflowError, EOFError)):
        hints = {MemoryError: "not enough memory", RecursionError: "a file is nested too deep"}
        return f"{hints.get(type(error), kind)}" + (f" ({text})" if text else "")
    if TELLING_TEXT in text:
        return "config.json and the weights are not of one model; `videomae doctor` shows where their shapes differ"
    return text or kind


def guarded(name: str, command: Callable[[list[str]], int | None], argv: list[str]) -> int:
    """Run a command; what a user, a file or a machine can cause is one line, a bug keeps its traceback.

    With VIDEOMAE_TRACEBACK=1 in the environment every error keeps it.
    """
    try:
        return command(argv) or DONE
    except KeyboardInterrupt:
        if os.environ.get("VIDEOMAE_TRACEBACK"):
            raise
        print(f"\n{name}: stopped", file=sys.stderr)
        return STOPPED
    except Exception as error:
        if os.environ.get("VIDEOMAE_TRACEBACK") or not is_telling(error):
            raise
        print(f"{name}: {describe_error(error, argv)}", file=sys.stderr)
        if not isinstance(error, UsageError):
            return FAILED
        if error.usage:
            print(f"usage: {error.usage}", file=sys.stderr)
        return USAGE
