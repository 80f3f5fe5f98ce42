"""The `videomae` command: every sub-command is there, explains itself, and turns a user's error into one line."""

import importlib

import pytest

from videomae.command_line import explained
from videomae.commands.main import COMMANDS, main


def test_without_a_command_it_lists_them(capsys):
    assert main([]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in COMMANDS)


def test_an_unknown_command_suggests_the_nearest(capsys):
    assert main(["evalute"]) == 2
    assert "no command 'evalute'; did you mean 'evaluate'?" in capsys.readouterr().err


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_main_and_explains_itself(name, capsys):
    assert callable(importlib.import_module(COMMANDS[name][0]).main)
    with pytest.raises(SystemExit) as done:
        main([name, "--help"])
    assert done.value.code == 0 and "usage: " in capsys.readouterr().out


def test_what_a_user_can_cause_is_one_line(capsys, tmp_path):
    assert main(["evaluate", str(tmp_path / "nothing"), str(tmp_path / "list.csv")]) == 1
    error = capsys.readouterr().err
    assert error.startswith("videomae evaluate: ") and "Traceback" not in error


def test_a_file_that_is_missing_is_named_with_its_option():
    error = FileNotFoundError(2, "No such file or directory", "names.json")
    assert (
        explained(error, ["MODEL", "--label_map", "names.json"]) == "--label_map names.json: No such file or directory"
    )
    assert explained(error, ["names.json"]) == "names.json: No such file or directory"
    assert explained(ValueError("say so"), ["names.json"]) == "say so"
