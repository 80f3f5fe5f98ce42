"""The `videomae` command: every sub-command explains itself at once, and turns what a user can cause into one line."""

import json
import pickle
import re
import subprocess
import sys
from dataclasses import dataclass

import pytest
from documents import options_of
from safetensors import SafetensorError

import videomae
from videomae import choices, command_line
from videomae.command_line import (
    REQUIRED,
    UsageError,
    argument,
    describe_error,
    guarded,
    is_telling,
    option,
    read_options,
)
from videomae.commands.main import COMMANDS, main
from videomae.commands.pretrain import main as pretrain

TRAINERS = ("pretrain", "finetune", "train-detection")


# ------------------------------------------------------------------------------------------------- all the commands


def test_without_a_command_it_lists_them(capsys):
    assert main([]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in COMMANDS)


@pytest.mark.parametrize("word", ["-V", "--version"])
def test_the_version_is_that_of_the_package(word, capsys):
    assert main([word]) == 0
    assert capsys.readouterr().out == f"videomae {videomae.__version__}\n"


def test_an_unknown_command_suggests_the_nearest(capsys):
    assert main(["evalute"]) == 2
    assert "no command 'evalute'; did you mean 'evaluate'?" in capsys.readouterr().err


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself_with_a_short_usage_line(name, capsys):
    with pytest.raises(SystemExit) as done:
        main([name, "--help"])
    printed = capsys.readouterr().out
    assert done.value.code == 0 and printed.startswith(f"usage: videomae {name} ")
    usage, empty, about = printed.split("\n")[:3]
    assert usage.endswith("[--OPTION VALUE ...]") and len(usage) < 140 and not empty and about
    assert "(default" not in printed and "default " not in printed.replace("defaults", "").replace("the default is", "")


LIGHT = """
import contextlib, io, json, sys
from videomae.commands.main import COMMANDS, main
heavy = {}
for words in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as said:
        try:
            code = main(words)
        except SystemExit as done:
            code = done.code
    loaded = [name for name in ("torch", "transformers", "huggingface_hub") if name in sys.modules]
    if loaded or code != (0 if "--help" in words else 2):
        heavy[" ".join(words)] = [code, said.getvalue(), loaded]
print(json.dumps(heavy))
"""


def test_help_a_misspelt_option_and_a_missing_file_need_neither_torch_nor_transformers(tmp_path):
    arguments = {
        "evaluate": ["missing/model/folder", "list.csv"],
        "detect": ["missing.mp4", "--model", "owner/name", "--whole_frame"],
        "label": ["missing.mp4", "--model", "owner/name"],
        "visualize": ["owner/name", "missing.mp4"],
        "app": ["missing"],
        "features": ["owner/name", "missing.csv", "out"],
        "fvd": ["missing", "missing"],
        "scores": ["missing.parquet"],
        "check-labels": ["missing.parquet"],
        "probe": ["owner/name", "missing.csv", "missing.csv"],
        "convert": ["missing.pth", "out"],
        "export": ["missing", "out"],
        "publish": ["missing", "owner/name"],
        "doctor": ["missing.csv"],
        "check-data": ["missing.csv"],
        "merge-labels": ["out", "--set", "one", "train=missing.csv"],
        "ava-map": ["--annotations", "missing.csv", "--detections", "missing.csv"],
        "prepare": ["missing.csv", "out"],
        "pretrain": ["--recipe", "tiny", "--data", "missing"],
        "finetune": ["--recipe", "small-data", "--model", "missing"],
        "train-detection": ["--recipe", "missing.yaml"],
    }
    words = [[name, "--help"] for name in COMMANDS] + [[name, "--no_such_option", "x"] for name in COMMANDS]
    words += [[name, *rest] for name, rest in arguments.items()]
    command = [sys.executable, "-c", LIGHT, json.dumps(words)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {}


def test_one_thing_has_one_name_in_all_commands():
    options = {name: {word for word in options_of_command(name) if word.startswith("--")} for name in COMMANDS}
    old = {"--views_per_step", "--clips_per_batch", "--workers", "--root", "--probe", "--detector", "--preset"}
    assert not {name: shared for name, words in options.items() if (shared := words & (old - {"--preset"}))}
    assert {name for name, words in options.items() if "--labels" in words} == {"convert", "publish"}
    assert {name for name, words in options.items() if "--preset" in words} == {"prepare"}  # x264's
    assert all("-" not in word[2:] for words in options.values() for word in words)
    reading = {
        "pretrain",
        "finetune",
        "evaluate",
        "probe",
        "features",
        "prepare",
        "check-data",
        "doctor",
        "visualize",
        "detect",
        "label",
        "train-detection",
        "app",
    }
    assert {name for name, words in options.items() if "--errors" in words} == reading


def options_of_command(name):
    import importlib

    return options_of(importlib.import_module(COMMANDS[name][0]).main)


@pytest.mark.parametrize("name", TRAINERS)
def test_help_of_a_trainer_is_a_dozen_options_and_help_all_has_the_rest(name, capsys):
    shown = {}
    for word in ("--help", "--help_all"):
        with pytest.raises(SystemExit):
            main([name, word])
        shown[word] = set(re.findall(r"^  (?:-h, )?(--\w+)", capsys.readouterr().out, re.MULTILINE))
    assert len(shown["--help"]) <= 20 < 40 < len(shown["--help_all"]) and shown["--help"] < shown["--help_all"]
    assert shown["--help_all"] == {word for word in options_of_command(name) if word.startswith("--")}


def test_the_choices_are_those_of_the_tables_that_they_name():
    from videomae.configuration_videomae import PRESETS
    from videomae.masking_videomae import MASKS
    from videomae.models import DTYPES
    from videomae.pictures.reconstruction import STATISTICS

    for name, table in (("PRESETS", PRESETS), ("MASKS", MASKS), ("DTYPES", DTYPES), ("STATISTICS", STATISTICS)):
        assert getattr(choices, name) == tuple(table), name


# ------------------------------------------------------------------------------------------------------- one command


@dataclass(frozen=True, kw_only=True)
class Options:
    model: str = argument("a model", kind="model")
    videos: tuple[str, ...] = argument("videos", default=(), kind="file", metavar="VIDEO")
    level: str = option(REQUIRED, "what", "how much", choices=("few", "many"))
    batch_size: int = option(8, "what", "clips in one forward pass", least=1)
    open: int | None = option(50, "what", "how many, or all", none="all")
    layers: tuple[int, ...] = option((-1,), "what", "which", convert=lambda number: number * 2)
    pairs: tuple[tuple[str, ...], ...] = option((), "what", "words that belong together")
    data_root: str | None = option(None, "what", "a folder", kind="folder")
    dry_run: bool = option(False, "switches", "a switch")
    fast: bool = option(True, "switches", "a switch that is on")


def read(*words):
    return read_options(Options, list(words), command="try", about="Try it.")


def test_arguments_options_and_switches_become_the_fields():
    assert read("a/b", "--level", "few") == Options(model="a/b", level="few", layers=(-1,))
    options = read("--dry_run", "a/b", "--fast", "false", "--level=many", "--open", "all", "--layers", "0", "-2")
    assert options.dry_run and not options.fast and options.open is None and options.layers == (0, -4)
    options = read("a/b", "--level", "few", "--pairs", "x", "y", "--pairs", "z")
    assert options.pairs == (("x", "y"), ("z",))


def test_hyphens_are_underscores():
    assert read("a/b", "--level", "few", "--dry-run", "--batch-size=3") == read(
        "a/b", "--level", "few", "--dry_run", "--batch_size", "3"
    )


@pytest.mark.parametrize(
    "words, message",
    [
        (["a/b", "--levle", "few"], "unknown '--levle'; did you mean --level?"),
        (["--bath-size", "3", "a/b", "--level", "few"], "unknown '--bath_size'; did you mean --batch_size?"),
        (["--level", "few"], "the following arguments are required: MODEL"),
        (["a/b"], "the following arguments are required: --level"),
        (["a/b", "--level", "some"], "--level must be one of few, many, not 'some'"),
        (["a/b", "--level", "few", "--batch_size", "0"], "--batch_size must be at least 1, not 0"),
        (["a/b", "--level", "few", "--batch_size", "x"], "--batch_size must be a whole number, not 'x'"),
        (["a/b", "--level", "few", "--batch_size", "inf"], "--batch_size must be a whole number, not 'inf'"),
        (["a/b", "--level", "few", "--open", "none"], "--open must be a whole number or all, not 'none'"),
        (["nowhere", "--level", "few"], "MODEL nowhere: there is no such folder, and names on the Hub are OWNER/NAME"),
        (["a/b", "no.mp4", "--level", "few"], "VIDEO no.mp4: no such file"),
        (["a/b", "--level", "few", "--data_root", "no"], "--data_root no: no such folder"),
        (["a/b", "--level", "few", "--data_root", "FILE"], "is a file; name a folder"),
    ],
)
def test_what_a_command_line_gets_wrong_is_said_of_it_alone(words, message, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    words = [str(tmp_path / "file") if word == "FILE" else word for word in words]
    assert guarded("videomae try", lambda argv: read(*argv), words) == 2
    error, *usage = capsys.readouterr().err.splitlines()
    assert message in error and error.startswith("videomae try: ")
    assert usage in ([], ["usage: videomae try MODEL [VIDEO ...] --level {few,many} [--OPTION VALUE ...]"])


def test_a_trainer_names_a_recipe_that_is_near(capsys):
    assert guarded("videomae pretrain", pretrain, ["--recipe", "tinny"]) == 2
    assert "no recipe 'tinny'; did you mean tiny" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------------ errors


def test_what_a_user_can_cause_is_one_line(capsys, tmp_path):
    (tmp_path / "list.csv").write_text("a.mp4 0\n")
    (tmp_path / "model").mkdir()
    assert main(["evaluate", str(tmp_path / "model"), str(tmp_path / "list.csv")]) == 1
    error = capsys.readouterr().err
    assert error.startswith("videomae evaluate: ") and "has no config.json" in error and len(error.splitlines()) == 1


def raising(error):
    def command(argv):
        raise error

    return command


class HubError(Exception):
    __module__ = "huggingface_hub.errors"


@pytest.mark.parametrize(
    "error, text",
    [
        (ValueError("a value"), "a value"),
        (OSError(28, "No space left on device", "out/weights"), "out/weights: No space left on device"),
        (SafetensorError("header too large"), "header too large"),
        (pickle.UnpicklingError("not allowed"), "not allowed"),
        (HubError("no such repository"), "no such repository"),
        (HubError("a field:\n    TypeError: of another type"), "a field: TypeError: of another type"),
        (
            RuntimeError("You set `ignore_mismatched_sizes` to `False`"),
            "config.json and the weights are not of one model",
        ),
        (MemoryError(), "not enough memory"),
        (RecursionError("maximum recursion depth exceeded"), "a file is nested too deep"),
        (OverflowError("int too large"), "OverflowError (int too large)"),
        (EOFError(), "EOFError"),
        (ModuleNotFoundError("No module named 'gradio'", name="gradio"), "No module named 'gradio'"),
        (
            ValueError("Caught ValueError in worker 0.\nOriginal Traceback (most recent call last):\nValueError: so"),
            "so",
        ),
    ],
)
def test_errors_of_files_and_machines_are_one_line_unless_tracebacks_are_asked_for(error, text, capsys, monkeypatch):
    assert guarded("videomae try", raising(error), []) == 1
    assert capsys.readouterr().err.startswith(f"videomae try: {text}")
    monkeypatch.setenv("VIDEOMAE_TRACEBACK", "1")
    with pytest.raises(type(error)):
        guarded("videomae try", raising(error), [])


@pytest.mark.parametrize(
    "error",
    [TypeError("x"), KeyError("x"), AttributeError("x"), IndexError("x"), ZeroDivisionError("x"), RuntimeError("x"),
     ImportError("x", name="videomae.models"), AssertionError("x")],
)  # fmt: skip
def test_a_bug_keeps_its_traceback(error):
    assert not is_telling(error)
    with pytest.raises(type(error)):
        guarded("videomae try", raising(error), [])


def test_ctrl_c_is_one_line_too(capsys):
    assert guarded("videomae try", raising(KeyboardInterrupt()), []) == command_line.STOPPED == 130
    assert "Traceback" not in capsys.readouterr().err


def test_a_file_that_is_missing_is_named_with_its_option():
    error = FileNotFoundError(2, "No such file or directory", "names.json")
    assert (
        describe_error(error, ["MODEL", "--label_map", "names.json"])
        == "--label_map names.json: No such file or directory"
    )
    assert describe_error(error, ["names.json"]) == "names.json: No such file or directory"
    assert describe_error(ValueError("so it is"), ["names.json"]) == "so it is"
    assert issubclass(UsageError, ValueError)
