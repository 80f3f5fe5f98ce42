"""The folder of a run: who may use it, what a kill leaves in it, and how a run is interrupted."""

import argparse
import os
import signal

import pytest

from videomae.command_line import plain
from videomae.files import write_json
from videomae.training import runs
from videomae.training.options import FinetuneOptions, PretrainOptions, asked_for, read_recipe, write_recipe
from videomae.training.recipes import FINETUNING, PRETRAINING, PretrainRecipe
from videomae.training.runs import interruptible, open_run, record_start, rewind_log


def test_a_misspelt_resume_starts_nothing(tmp_path):
    with pytest.raises(ValueError, match=r"--resume atuo: .* holds no checkpoint to resume from; give auto, never or"):
        open_run(tmp_path / "run", PRETRAINING["tiny"], resume="atuo")
    assert not (tmp_path / "run").exists()


def test_a_recipe_file_that_is_missing_is_named():
    with pytest.raises(
        FileNotFoundError, match=r"--recipe nowhere\.yaml: no such file; give the path of a recipe\.yaml"
    ):
        read_recipe("nowhere.yaml", PretrainRecipe)


def test_a_second_run_in_a_folder_is_refused_while_the_first_has_it(tmp_path):
    first = open_run(tmp_path, PRETRAINING["tiny"], resume="auto")
    with pytest.raises(ValueError, match="another process is training in"):
        open_run(tmp_path, PRETRAINING["tiny"], resume="auto")
    del first
    open_run(tmp_path, PRETRAINING["tiny"], resume="auto")


@pytest.mark.parametrize("left", [".recipe.yaml.x.tmp", ".best.ab12.tmp/model.safetensors", ".checkpoint-3.old/file"])
def test_what_a_kill_left_never_blocks_a_run_and_is_removed(tmp_path, left):
    path = tmp_path / left
    path.parent.mkdir(exist_ok=True)
    path.write_text("half")
    open_run(tmp_path, PRETRAINING["tiny"], resume="auto")
    assert sorted(os.listdir(tmp_path)) == [".lock", "recipe.yaml"]


def test_a_best_model_whose_replacement_was_killed_is_there_again_at_the_next_start(tmp_path):
    run = open_run(tmp_path, PRETRAINING["tiny"], resume="never")
    (tmp_path / ".best.ab12.old" / "best").mkdir(parents=True)
    (tmp_path / ".best.ab12.old" / "best" / "config.json").write_text("{}")
    del run
    open_run(tmp_path, PRETRAINING["tiny"], resume="auto")
    assert (tmp_path / "best" / "config.json").read_text() == "{}"


def test_a_resume_that_finds_nothing_says_so(tmp_path):
    said = []
    open_run(tmp_path / "run", PRETRAINING["tiny"], resume="auto", say=said.append)
    assert said == [f"--resume auto: {tmp_path / 'run'} holds nothing to resume from; starting from the beginning"]
    (tmp_path / "run" / "log.jsonl").write_text("")
    open_run(tmp_path / "run", PRETRAINING["tiny"], resume="auto", say=said.append)
    assert "has no checkpoint yet; starting from the beginning" in said[-1]
    with pytest.raises(ValueError, match=r"nowhere holds no run to resume and --recipe is missing; choose one of"):
        asked(PretrainOptions, PRETRAINING, output=str(tmp_path / "nowhere"), resume="auto")
    with pytest.raises(ValueError, match=r"^--recipe is missing; .* small-data is the one for a set of your own$"):
        asked(FinetuneOptions, FINETUNING)


def asked(options_class, recipes, **given):
    return asked_for(argparse.Namespace(**{"recipe": None, **given}), options_class, recipes)


def test_a_resumed_run_takes_its_own_recipe_and_options_and_given_ones_win(tmp_path):
    first = FinetuneOptions(
        output=str(tmp_path), data="videos", val_share=0.2, trackers=("tensorboard",), save_minutes=3.0, max_steps=5
    )
    write_recipe(tmp_path / "recipe.yaml", FINETUNING["tiny"])
    write_json(tmp_path / "run.json", {"starts": [{"options": {"data": "other"}}, {"options": plain(first)}]})
    recipe, options = asked(FinetuneOptions, FINETUNING, output=str(tmp_path), resume="auto")
    assert recipe == FINETUNING["tiny"] and (options.data, options.val_share) == ("videos", 0.2)
    assert options.trackers == ("tensorboard",) and options.save_minutes == 3.0
    assert options.max_steps is None  # was meant for that start alone
    _, options = asked(FinetuneOptions, FINETUNING, output=str(tmp_path), resume="auto", data="moved", save_minutes="0")
    assert (options.data, options.val_share, options.save_minutes) == ("moved", 0.2, 0.0)
    # Without --resume nothing is taken over: the folder is refused later, by its name.
    _, options = asked(FinetuneOptions, FINETUNING, output=str(tmp_path), recipe="tiny")
    assert options.data == ""


def test_a_record_that_cannot_be_read_says_what_to_do(tmp_path):
    (tmp_path / "run.json").write_text('{"starts": [')
    with pytest.raises(ValueError, match=r"run\.json is not readable; give all options again, and remove it"):
        asked(PretrainOptions, PRETRAINING, output=str(tmp_path), resume="auto")


@pytest.mark.parametrize(
    "content", ["[]", '{"starts": 3}', '{"starts": ["x"]}', '{"starts": [{"options": 3}]}', "[" * 100_000]
)
def test_a_record_that_holds_other_things_is_one_line_whoever_reads_it(content, tmp_path):
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(ValueError, match=r"run\.json is not readable; give all options again, and remove it"):
        asked(PretrainOptions, PRETRAINING, output=str(tmp_path), resume="auto")
    if "options" not in content:
        with pytest.raises(ValueError, match=r"run\.json is not the record of a run; remove it"):
            record_start(tmp_path, options={}, effective={}, data={}, step=0)


def test_a_log_is_rewound_past_lines_that_are_no_lines_of_a_log(tmp_path):
    log = tmp_path / "log.jsonl"
    log.write_bytes(b'[1]\n3\n{"step": "x"}\n{"step": 1}\n{"step": 9}\n\xff\n' + b"[" * 100_000 + b"\n{")
    rewind_log(log, 5)
    assert log.read_text() == '{"step": 1}\n'


def test_the_first_ctrl_c_is_noted_and_the_second_ends_at_once(tmp_path, monkeypatch, capfd):
    (tmp_path / "checkpoint-7").mkdir()
    with interruptible(tmp_path) as interruption:
        os.kill(os.getpid(), signal.SIGINT)
        assert interruption.signal == "SIGINT"
        os.kill(os.getpid(), signal.SIGINT)  # passed on by a launcher: the same Ctrl-C
        os.kill(os.getpid(), signal.SIGTERM)
    assert "press it again to end at once" in capfd.readouterr().err
    monkeypatch.setattr(runs, "TOGETHER_SECONDS", 0.0)
    with pytest.raises(SystemExit) as ended, interruptible(tmp_path):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
    assert ended.value.code == 130
    with pytest.raises(SystemExit), interruptible(tmp_path) as interruption:
        os.kill(os.getpid(), signal.SIGTERM)  # a queue first, then a person who does not wait
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
    assert interruption.signal == "SIGTERM"
    assert "stopped at once; resume from checkpoint-7 with --resume auto" in capfd.readouterr().err
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
