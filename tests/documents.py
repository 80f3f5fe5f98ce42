"""What the documents hold: fenced blocks, the commands in them, inline code, links; and what our parsers say to a command.

A command is resolved to the `main` that would run it and to the words it would get. Parsing stops right behind argparse, so
it costs an import and reads nothing.
"""

import argparse
import importlib.util
import inspect
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from unittest import mock

from videomae.command_line import UsageError
from videomae.commands.main import COMMANDS

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(
    str(path.relative_to(ROOT))
    for path in (
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *ROOT.glob("docs/*.md"),
        *ROOT.glob("metrics/*/README.md"),
    )
)
LANGUAGES = ("bash", "python", "text", "json", "yaml", "csv", "bibtex")


@dataclass(frozen=True)
class Block:
    line: int
    language: str
    text: str


def text_of(document: str) -> str:
    return (ROOT / document).read_text(encoding="utf-8")


def blocks(document: str) -> list[Block]:
    found, opened, language, lines = [], None, "", []
    for number, line in enumerate(text_of(document).splitlines(), start=1):
        fence = re.match(r"\s*```(.*)", line)
        if fence and opened is None:
            opened, language, lines = number, fence[1].strip(), []
        elif fence:
            found.append(Block(opened, language, "\n".join(lines)))
            opened = None
        elif opened is not None:
            lines.append(line)
    assert opened is None, f"{document}: the block of line {opened} has no end"
    return found


def prose(document: str) -> str:
    """The document without its fenced blocks."""
    return re.sub(r"^[ \t]*```.*?^[ \t]*```", "", text_of(document), flags=re.DOTALL | re.MULTILINE)


def code_spans(text: str) -> list[str]:
    return [" ".join(span.split()) for span in re.findall(r"`([^`\n]+(?:\n[^`\n]+)?)`", text)]


def shell_commands(text: str) -> list[list[str]]:
    """The commands of a shell block as lists of words, without comments and line breaks."""
    joined = re.sub(r"\\\n\s*", " ", text)
    return [words for line in joined.splitlines() if (words := shlex.split(line, comments=True))]


# ------------------------------------------------------------------------------------------------------------ commands


@dataclass(frozen=True)
class Call:
    """One of our commands: its name, what runs it, and its words."""

    name: str
    main: Callable
    words: list[str]


LAUNCHERS = ("accelerate", "torchrun")
SCRIPTS = {
    "train_pretrain.py": "pretrain",
    "train_classification.py": "finetune",
    "train_detection.py": "train-detection",
}


def resolve(words: list[str]) -> Call | None:
    """The call of ours that a command line makes; None for other programs. Launchers' own options are checked."""
    while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
        words = words[1:]
    program, *rest = words
    if program == "videomae" and rest and rest[0] in COMMANDS:
        name = rest[0]
        return Call(name, importlib.import_module(COMMANDS[name][0]).main, rest[1:])
    if program in ("python", "python3"):
        return _module(rest[1], rest[2:]) if rest[0] == "-m" else _script(rest[0], rest[1:])
    if program in LAUNCHERS:
        check_launcher(program, rest)
        place = next(i for i, word in enumerate(rest) if word == "-m" or word.endswith(".py"))
        return (
            _module(rest[place + 1], rest[place + 2 :])
            if rest[place] == "-m"
            else _script(rest[place], rest[place + 1 :])
        )
    if program == "sbatch":
        place = next(i for i, word in enumerate(rest) if word.endswith(".slurm"))
        assert (ROOT / rest[place]).is_file(), rest[place]
        return _script("train_pretrain.py", rest[place + 1 :])
    return None


def _module(name: str, words: list[str]) -> Call | None:
    if name == "benchmarks":
        suite = importlib.import_module("benchmarks.__main__")
        if words and words[0] in suite.benchmarks():
            return Call(f"benchmarks {words[0]}", importlib.import_module(f"benchmarks.{words[0]}").main, words[1:])
        return Call("benchmarks", suite.main, words)
    if name == "videomae.commands.main":
        return resolve(["videomae", *words])
    if not name.startswith("videomae"):
        return None
    known = {module: command for command, (module, _) in COMMANDS.items()}
    module = importlib.import_module(name)
    if hasattr(module, "__path__"):  # a package: what -m runs of it
        module = importlib.import_module(f"{name}.__main__")
    return Call(known.get(name, name), module.main, words) if hasattr(module, "main") else None


def _script(path: str, words: list[str]) -> Call:
    if path in SCRIPTS:
        return Call(SCRIPTS[path], importlib.import_module(COMMANDS[SCRIPTS[path]][0]).main, words)
    return Call(path, load_script(path).main, words)


@lru_cache
def load_script(path: str):
    """A script of experiments/ or examples/ as a module; experiments import each other by their bare names."""
    assert (ROOT / path).is_file(), f"there is no {path}"
    spec = importlib.util.spec_from_file_location(f"document_{Path(path).stem}", ROOT / path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    with mock.patch.object(sys, "path", [str((ROOT / path).parent), *sys.path]):
        spec.loader.exec_module(module)
    return module


def start(main: Callable, words: list[str]) -> int | None:
    """Run a main with its words, whether it takes them or reads sys.argv."""
    with mock.patch.object(sys, "argv", ["command", *words]):
        return main(words) if inspect.signature(main).parameters else main()


def check_launcher(program: str, words: list[str]) -> None:
    """Parse a launch with the launcher's own parser, and look for the configuration that it names."""
    if program == "accelerate":
        from accelerate.commands.launch import launch_command_parser

        arguments = launch_command_parser().parse_args(words[1:])
        assert words[0] == "launch"
        assert arguments.config_file is None or (ROOT / arguments.config_file).is_file(), arguments.config_file
    else:
        from torch.distributed.run import get_args_parser

        get_args_parser().parse_args(words)


class _Parsed(Exception):
    pass


@contextmanager
def _stop_after_parsing() -> Iterator[None]:
    parse = argparse.ArgumentParser.parse_known_args

    def parse_and_stop(self, args=None, namespace=None):
        namespace, unknown = parse(self, args, namespace)
        raise _Parsed(self, namespace, unknown)

    with mock.patch.object(argparse.ArgumentParser, "parse_known_args", parse_and_stop):
        yield


def parse(call: Call) -> argparse.Namespace:
    """What the command's parser makes of the words; an error of the parser, or an unknown word, is an AssertionError.

    "..." stands for the options of an earlier command.
    """
    message = ""

    def error(self, text):  # of scripts that have a parser of argparse
        nonlocal message
        message = text
        raise SystemExit(2)

    with _stop_after_parsing(), mock.patch.object(argparse.ArgumentParser, "error", error):
        try:
            start(call.main, [word for word in call.words if word != "..."])
        except _Parsed as parsed:
            _, namespace, unknown = parsed.args
            assert not unknown, f"{call.name} does not know {unknown}"
            return namespace
        except (SystemExit, UsageError) as error:
            raise AssertionError(f"{call.name}: {message or error}") from None
    raise AssertionError(f"{call.name} parsed nothing")


def options_of(main: Callable) -> set[str]:
    """Every option of a command, found where it parses."""

    def note(self, args=None, namespace=None):
        raise _Parsed(self)

    with mock.patch.object(argparse.ArgumentParser, "parse_known_args", note):
        try:
            start(main, [])
        except _Parsed as parsed:
            return set(parsed.args[0]._option_string_actions)
    raise AssertionError(f"{main} parsed nothing")


# --------------------------------------------------------------------------------------------------------------- links


def links(document: str) -> list[str]:
    """Targets of links that lead to no other host."""
    return [target for target in re.findall(r"\]\(([^)\s]+)\)", prose(document)) if not re.match(r"\w+:", target)]


def anchors(document: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a file."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(encoding="utf-8"), flags=re.MULTILINE)
    plain = (re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading) for heading in headings)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in plain}
