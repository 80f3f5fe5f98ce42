"""The pre-training command, run as a user runs it, on a small synthetic set.

Exact resume is tested on the log and the weights: what a run writes must not depend on how often it was stopped, on the
number of workers, or (within rounding) on the number of processes.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
import support
import torch
from PIL import Image
from safetensors.torch import load_file
from support import history, killed_and_finished, tensors

from videomae import VideoMAEForPreTraining, VideoMAEVideoProcessor, train_pretrain
from videomae.data.synthetic import SyntheticSet, make_synthetic_set
from videomae.training import engines, loop
from videomae.training.batches import MicroBatches
from videomae.training.checkpoints import checkpoints, damage
from videomae.training.progress import WIDTH, Log, Meter, brief
from videomae.training.runs import EXIT_INTERRUPTED, read_log

# Twelve clips in steps of four: three steps an epoch, eighteen in all, warm-up until the third.
SMALL = {
    "--image_size": 32,
    "--num_frames": 8,
    "--epochs": 6,
    "--warmup_epochs": 1,
    "--clips_per_step": 4,
    "--ema_decay": 0.9,
    "--config": "patch_size=8 hidden_size=32 num_hidden_layers=2 num_attention_heads=2 intermediate_size=64 "
    "decoder_hidden_size=16 decoder_num_hidden_layers=1 decoder_num_attention_heads=2 decoder_intermediate_size=32",
    "--log_every": 1,
    "--num_workers": 0,
}


@pytest.fixture(scope="session")
def videos(tmp_path_factory):
    spec = SyntheticSet(clips=12, validation_clips=0, test_clips=0, num_frames=16, height=40, width=48)
    return make_synthetic_set(tmp_path_factory.mktemp("synthetic") / "set", spec) / "train.csv"


def command(videos, output, *more, recipe="tiny-v2"):
    fields = [word for flag, value in SMALL.items() for word in (flag, *str(value).split(" "))]
    return ["--recipe", recipe, "--data", str(videos), "--output", str(output), *fields, *more]


def pretrain(videos, output, *more, **options):
    return train_pretrain.main(command(videos, output, *more, **options))


def assert_same_run(one, two, step=18):
    support.assert_same_run(one, two, step)


@pytest.fixture(scope="session")
def whole(videos, tmp_path_factory):
    """The run that nothing interrupted."""
    output = tmp_path_factory.mktemp("runs") / "whole"
    assert pretrain(videos, output) == 0
    return output


def test_a_run_writes_its_recipe_its_log_and_a_model(whole):
    lines = read_log(whole / "log.jsonl")
    assert [line["step"] for line in lines] == list(range(1, 19))
    assert lines[0]["lr"] == 0.0 and lines[2]["lr"] == pytest.approx(1.6e-2 * 4 / 256) and lines[-1]["bad_steps"] == 0
    folder = whole / "final"
    model = VideoMAEForPreTraining.from_pretrained(folder)
    assert model.config.image_size == 32 and model.config.num_frames == 8
    assert VideoMAEVideoProcessor.from_pretrained(folder).sampling.num_frames == 8
    assert "tiny-v2" in (folder / "README.md").read_text()
    (start,) = json.loads((whole / "run.json").read_text())["starts"]
    assert start["effective"]["decoded tokens"] == 32 and start["versions"]["torch"] == torch.__version__


def test_a_run_ends_with_an_ordinary_folder_of_the_last_weights(whole):
    assert {path.name for path in (whole / "final").iterdir()} >= {"config.json", "model.safetensors", "README.md"}
    assert not (whole / "final/training").exists() and not (whole / "final/manifest.json").exists()
    # The recipe keeps an average here, which is the model to use.
    final, average = (load_file(whole / name / "model.safetensors") for name in ("final", "checkpoint-18/ema"))
    assert all(torch.equal(final[name], average[name]) for name in average)
    record = json.loads((whole / "final/training_record.json").read_text())
    assert (record["folder"], record["steps"]) == ("final", 18)


def test_a_final_folder_that_a_kill_prevented_is_written_by_the_next_start(videos, whole, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    before = load_file(tmp_path / "run/final/model.safetensors")
    shutil.rmtree(tmp_path / "run/final")
    assert pretrain(videos, tmp_path / "run", "--resume", "auto") == 0
    after = load_file(tmp_path / "run/final/model.safetensors")
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert history(tmp_path / "run") == history(whole)


def test_checkpoints_are_also_written_by_time(videos, whole, tmp_path):
    more = ("--save_minutes", "1e-9", "--keep_last", "99", "--max_steps", "4")
    assert pretrain(videos, tmp_path / "run", *more) == 0
    assert [path.name for path in checkpoints(tmp_path / "run")] == [f"checkpoint-{step}" for step in (1, 2, 3, 4)]
    assert pretrain(videos, tmp_path / "run", "--resume", "auto") == 0
    assert_same_run(whole, tmp_path / "run")


def test_stopping_in_the_middle_of_an_epoch_twice_changes_nothing(videos, whole, tmp_path):
    for stop in ("4", "11", "18"):
        assert pretrain(videos, tmp_path / "run", "--max_steps", stop, "--resume", "auto") == 0
    assert_same_run(whole, tmp_path / "run")


@pytest.mark.parametrize("workers", [1, 4])
def test_the_number_of_workers_changes_nothing(videos, whole, tmp_path, workers):
    for stop in ("5", "18"):
        more = ("--max_steps", stop, "--resume", "auto", "--num_workers", str(workers))
        assert pretrain(videos, tmp_path / "run", *more) == 0
    assert_same_run(whole, tmp_path / "run")


def test_the_folder_alone_is_enough_to_resume(videos, whole, tmp_path):
    assert pretrain(videos, tmp_path / "run", "--max_steps", "5") == 0
    assert train_pretrain.main(["--output", str(tmp_path / "run"), "--resume", "auto"]) == 0
    assert_same_run(whole, tmp_path / "run")


def test_a_damaged_checkpoint_costs_only_the_steps_since_the_one_before(videos, whole, tmp_path, capsys):
    pretrain(videos, tmp_path / "run", "--max_steps", "9", "--save_every", "4")
    with open(tmp_path / "run/checkpoint-9/model.safetensors", "r+b") as file:
        file.truncate(1000)
    assert pretrain(videos, tmp_path / "run", "--resume", "auto") == 0
    said = capsys.readouterr().err
    assert "checkpoint-9 is damaged (model.safetensors has 1000 bytes of" in said and "resuming from" in said
    assert_same_run(whole, tmp_path / "run")


def test_micro_batches_give_the_same_training_within_rounding(videos, whole, tmp_path):
    assert pretrain(videos, tmp_path / "run", "--clips_per_device", "1", "--max_steps", "6") == 0
    for ours, theirs in zip(history(tmp_path / "run"), history(whole)):
        assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-5)


@pytest.mark.filterwarnings("error:.*is deprecated:FutureWarning")
def test_gradient_checkpointing_changes_nothing(videos, whole, tmp_path):
    assert pretrain(videos, tmp_path / "run", "--gradient_checkpointing", "--max_steps", "6") == 0
    assert history(tmp_path / "run") == history(whole)[:6]


def test_the_loss_log_covers_the_same_steps_when_stopped_between_two_lines(videos, tmp_path):
    for name, stops in (("whole", ["18"]), ("parts", ["7", "18"])):
        for stop in stops:
            more = ("--log_every", "3", "--max_steps", stop, "--resume", "auto")
            train_pretrain.main(command(videos, tmp_path / name, *more))
    # Stopping writes the line that is due at the end, so only the lines after it can be compared.
    assert history(tmp_path / "whole")[3:] == [line for line in history(tmp_path / "parts") if line["step"] > 9]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "Ctrl-C"])
def test_a_signal_writes_a_checkpoint_and_exits_with_75(videos, whole, tmp_path, monkeypatch, capsys, number):
    step = loop.training_step

    def interrupted_step(*arguments, **options):
        interrupted_step.steps += 1
        if interrupted_step.steps == 5:
            os.kill(os.getpid(), number)
        return step(*arguments, **options)

    interrupted_step.steps = 0
    monkeypatch.setattr(loop, "training_step", interrupted_step)
    assert pretrain(videos, tmp_path / "run") == EXIT_INTERRUPTED == 75
    assert [path.name for path in checkpoints(tmp_path / "run")] == ["checkpoint-5"]
    assert f"{number.name}: checkpoint-5 written; resume with --resume auto" in capsys.readouterr().err
    assert not (tmp_path / "run/final").exists()
    assert pretrain(videos, tmp_path / "run", "--resume", "auto") == 0
    assert_same_run(whole, tmp_path / "run")


def test_a_non_finite_gradient_skips_the_step_and_names_the_clips(videos, tmp_path, monkeypatch, capsys):
    gradient_norm = engines.gradient_norm
    poisoned = iter([False, True, False, False])

    def poison(accelerator, model, bound):
        if next(poisoned):
            next(model.parameters()).grad.fill_(float("nan"))
        return gradient_norm(accelerator, model, bound)

    monkeypatch.setattr(engines, "gradient_norm", poison)
    assert pretrain(videos, tmp_path / "run", "--max_steps", "4") == 0
    lines = read_log(tmp_path / "run/log.jsonl")
    assert [line["bad_steps"] for line in lines] == [0, 1, 1, 1] and lines[1]["loss"] is None
    said = capsys.readouterr().err
    assert "step 1: non-finite gradient, step skipped; its clips: videos/train/" in said
    weights = load_file(tmp_path / "run/final/model.safetensors")
    assert all(value.isfinite().all() for value in weights.values())


def test_too_many_bad_steps_in_a_row_stop_the_run_with_advice(videos, tmp_path, monkeypatch):
    monkeypatch.setattr(engines, "gradient_norm", lambda *anything: torch.tensor(float("inf")))
    with pytest.raises(ValueError, match=r"3 steps in a row .* --mixed_precision bf16 .* a lower --base_lr"):
        pretrain(videos, tmp_path / "run", "--max_bad_steps", "3")


def test_a_dry_run_writes_the_card_that_the_run_will_have_and_nothing_else(videos, tmp_path, capsys):
    assert pretrain(videos, tmp_path / "run", "--dry_run", "--dataset_name", "me/motions") == 0
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["card.md"]
    card = (tmp_path / "run/card.md").read_text()
    assert card.startswith("<!-- made by --dry_run: no step of this run was made -->\n\n---\n")
    assert "datasets:\n- me/motions\n" in card and "18 optimizer steps of 4 clips" in card
    said = capsys.readouterr().err
    assert "visible tokens  16 of 64" in said
    for clips in (1, 2, 4):
        assert re.search(rf"{clips} clips at a time: [\d.]+ s, [\d.]+ GiB in use at most", said)
    assert re.search(
        r"dry run: about [\d.]+ \w+ on this machine without validation \(18 steps of 4 clips, [\d.]+ s each\); "
        r"--clips_per_device 4 takes [\d.]+ GiB; the card that the run will have: \S+/run/card.md",
        said,
    )
    assert pretrain(videos, tmp_path / "run", "--max_steps", "1") == 0  # the card is no obstacle


def test_pictures_of_a_reconstruction_are_drawn_every_n_epochs(videos, tmp_path):
    assert pretrain(videos, tmp_path / "run", "--picture_every", "2", "--max_steps", "13") == 0
    assert sorted(path.name for path in (tmp_path / "run/pictures").iterdir()) == ["step-12.png", "step-6.png"]
    with Image.open(tmp_path / "run/pictures/step-6.png") as picture:
        picture.load()


def test_pre_training_goes_on_from_a_folder_also_at_another_size(videos, whole, tmp_path):
    start = ["--model", str(whole / "final"), "--config", "--image_size", "48", "--max_steps", "2"]
    fields = [*start, "--recipe", "tiny", "--data", str(videos), "--output", str(tmp_path / "run")]
    assert train_pretrain.main([*fields, "--num_frames", "8", "--clips_per_step", "4", "--num_workers", "0"]) == 0
    model = VideoMAEForPreTraining.from_pretrained(tmp_path / "run/final")
    assert model.config.image_size == 32  # the positions are interpolated from this grid
    assert "tiny" in (tmp_path / "run/final/README.md").read_text()


@pytest.mark.parametrize(
    "more, message",
    [
        (["--recipe", "tinny"], "no recipe 'tinny'; did you mean tiny"),
        (["--mask_ratio", "1.0"], "mask_ratio 1.0 with a tube mask leaves no token visible in a grid of 4 x 4 x 4"),
        (["--mask_ratio", "0.01"], "mask_ratio 0.01 with a tube mask leaves no token hidden"),
        (
            ["--mask", "tubes"],
            "mask must be one of tube, random, frame, blocks, short_blocks, long_blocks, not 'tubes'",
        ),
        (["--epochs", "many"], "epochs must be a whole number, not 'many'"),
        (["--clips_per_step", "64"], "12 videos, fewer than clips_per_step 64; lower --clips_per_step"),
        (["--clips_per_device", "3"], "clips_per_device 3 does not divide the 4 clips .* --clips_per_device 2 would"),
        (["--data", ""], "--data is missing"),
        (["--output", ""], "--output is missing"),
        (["--image_size", "36"], "image_size=36 is not divisible by patch_size=8"),
        (["--warmup_epochs", "6"], "warmup_epochs 6.0 does not leave room in epochs 6"),
        (["--mixed_precision", "fp16"], "fp16 needs an accelerator"),
        (["--trackers", "wandb"], "--trackers wandb: its package is not installed"),
        (["--model", "released.pth"], "--model released.pth: there is no such folder"),
    ],
)
def test_what_cannot_work_stops_before_any_work(videos, tmp_path, more, message):
    with pytest.raises(ValueError, match=message):
        pretrain(videos, tmp_path / "run", *more)
    assert not checkpoints(tmp_path / "run")


def test_a_broken_video_is_replaced_and_counted_and_too_many_stop_the_run(videos, tmp_path):
    lines = videos.read_text().splitlines()
    (tmp_path / "broken.mp4").write_bytes(b"not a video")
    listing = tmp_path / "list.csv"
    listing.write_text("\n".join([*lines, f"{tmp_path / 'broken.mp4'},{lines[1].split(',')[1]}"]))
    more = ("--data", str(listing), "--data_root", str(videos.parent), "--max_steps", "9")
    with pytest.warns(RuntimeWarning, match=r"broken video: .*broken\.mp4"):
        assert pretrain(videos, tmp_path / "run", *more, "--max_broken", "0.1") == 0
    assert read_log(tmp_path / "run/log.jsonl")[-1]["broken_videos"] == 1
    with pytest.raises(ValueError, match=r"1 of 13 videos .* cannot be read, above max_broken=0\.01: .*broken\.mp4"):
        pretrain(videos, tmp_path / "other", *more)
    assert not (tmp_path / "other").exists()  # before the first step, and before the run


def test_an_unknown_flag_names_the_nearest(videos, tmp_path):
    with pytest.raises(ValueError, match=r"^unknown '--epoch'; did you mean --epochs[?]$"):
        pretrain(videos, tmp_path / "run", "--epoch", "3")


def test_the_folder_of_another_run_is_left_alone(videos, whole, tmp_path):
    with pytest.raises(ValueError, match="holds another run; add --resume auto to resume it"):
        pretrain(videos, whole)
    with pytest.raises(ValueError, match=r"has another recipe \(epochs: 6 -> 7\)"):
        pretrain(videos, whole, "--epochs", "7", "--resume", "auto")
    with pytest.raises(ValueError, match=r"has another recipe \(config: .*'hidden_size': 32.* -> .*'hidden_size': 48"):
        pretrain(videos, whole, "--config", "hidden_size=48", "--resume", "auto")
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"is not empty and not a run \(recipe.yaml is missing\)"):
        pretrain(videos, tmp_path)


def test_resuming_on_other_videos_is_refused(videos, tmp_path):
    pretrain(videos, tmp_path / "run", "--max_steps", "1")
    shorter = tmp_path / "shorter.csv"
    shorter.write_text("".join(videos.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(ValueError, match=r"--data is not the list that this run trains on \(clips: 12 -> 11"):
        pretrain(shorter, tmp_path / "run", "--resume", "auto", "--data_root", str(videos.parent))


def test_help_groups_and_explains_every_field(capsys):
    with pytest.raises(SystemExit):
        train_pretrain.main(["--help_all"])
    text = " ".join(capsys.readouterr().out.split())
    for heading in ("run:", "devices:", "checkpoints:", "logging:", "checks:", "masks:", "optimisation:"):
        assert heading in text
    assert "share hidden from the encoder [0.9]" in text and "v2-giant-hybrid" in text


def test_the_meter_gives_the_mean_of_the_good_steps():
    from accelerate import Accelerator

    meter = Meter(Accelerator(cpu=True), max_bad_steps=5)
    for step, loss in enumerate((1.0, float("nan"), 3.0)):
        bad = torch.tensor(loss != loss)
        batches = MicroBatches(iter([{"sources": ["a"]}]), 1)
        assert len(list(batches)) == 1
        meter.add(step, loss=torch.tensor(loss), norm=torch.tensor(loss), bad=bad, batches=batches, clips=1)
    again = Meter(Accelerator(cpu=True), max_bad_steps=5)
    again.restore(json.loads(json.dumps(meter.state())))
    line = again.take()
    assert line["loss"] == 2.0 and line["bad_steps"] == 1


def test_a_line_for_the_terminal_fits_and_leaves_out_what_is_zero():
    line = {"epoch": 1599.99, "lr": 1.2345e-4, "loss": 0.12345, "grad_norm": 12.345, "bad_steps": 12}
    line |= {"clips_per_second": 1234.5, "data_wait": 0.99, "memory_gib": 79.94, "broken_videos": 123}
    text = brief(line, before="step 187500/187500")
    assert len(text) <= WIDTH == 100 and "bad 12" in text and "broken 123" in text and text.endswith("79.9 GiB")
    line |= {"bad_steps": 0, "data_wait": 0.001, "memory_gib": 0.0, "broken_videos": 0, "loss": None}
    assert brief(line, before="step 8/12") == "step 8/12  norm 12.3  lr 0.00012  1234 clips/s"
    validation = {"val_loss": 2.0, "val_top1": 0.0}
    assert brief(validation, {"val_top1": "chance 0.125"}) == "loss 2  top1 0 (chance 0.125)"


@pytest.mark.parametrize("terminal", [True, False])
def test_the_log_is_a_bar_in_a_terminal_and_plain_lines_elsewhere(tmp_path, monkeypatch, capsys, terminal):
    from accelerate import Accelerator

    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    with Log(Accelerator(cpu=True), tmp_path / "log.jsonl", total_steps=4, first_step=1) as log:
        log.advance()
        log.line(2, {"loss": 1.5, "bad_steps": 0})
        log.line(2, {"val_top1": 0.5}, what="validation", beside={"val_top1": "chance 0.25"})
    said = capsys.readouterr()
    assert "step 2/4  validation:  top1 0.5 (chance 0.25)" in said.out
    assert ("step 2/4  loss 1.5\n" in said.out) is not terminal
    assert ("| 2/4 [" in said.err and "loss 1.5" in said.err) is terminal
    assert read_log(tmp_path / "log.jsonl") == [
        {"step": 2, "loss": 1.5, "bad_steps": 0}, {"step": 2, "val_top1": 0.5},
    ]  # fmt: skip


def test_a_tracker_gets_the_lines_of_the_log(videos, tmp_path, monkeypatch):
    from accelerate.tracking import GeneralTracker

    class Notes(GeneralTracker):
        name, requires_logging_directory, lines = "notes", False, []

        def __init__(self):
            super().__init__()

        tracker = property(lambda self: self.lines)

        def store_init_configuration(self, values):
            self.lines.append(values)

        def log(self, values, step=None, **more):
            self.lines.append((step, values["loss"]))

    start = engines.start_accelerator

    def with_notes(options):
        accelerator = start(options)
        accelerator.log_with = [Notes()]
        return accelerator

    monkeypatch.setattr(engines, "start_accelerator", with_notes)
    pretrain(videos, tmp_path / "run", "--max_steps", "2")
    assert Notes.lines[0]["recipe"] == "tiny-v2" and [line[0] for line in Notes.lines[1:]] == [1, 2]


def test_overfitting_reaches_the_goal_or_says_that_it_did_not(videos, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(train_pretrain, "OVERFIT_STEPS", 25)
    with pytest.raises(ValueError, match="after 25 steps on the same 2 samples the loss is"):
        pretrain(videos, tmp_path / "run", "--overfit", "2")
    monkeypatch.setattr(train_pretrain, "OVERFIT_GOAL", 2.0)
    assert pretrain(videos, tmp_path / "run", "--overfit", "2") == 0
    assert "overfitted 2 samples in 0 steps" in capsys.readouterr().err and not (tmp_path / "run").exists()


# ---------------------------------------------------------------------------------------------- other processes


def environment(**more):
    return {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **more}


@pytest.mark.slow
def test_two_processes_train_and_resume_as_one_does(videos, whole, tmp_path):
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    program = [*run, train_pretrain.__file__, *command(videos, tmp_path / "run", "--max_steps", "7")]
    subprocess.run(program, check=True, env=environment(), timeout=180)
    # The clocks of two processes differ; when a checkpoint is due they must agree on it all the same.
    program = [*run, train_pretrain.__file__, "--output", str(tmp_path / "run"), "--resume", "auto"]
    subprocess.run([*program, "--save_minutes", "1e-3"], check=True, env=environment(), timeout=180)
    first, second = json.loads((tmp_path / "run/run.json").read_text())["starts"]
    assert first["effective"]["processes"] == 2 and (first["from_step"], second["from_step"]) == (0, 7)
    for ours, theirs in zip(history(tmp_path / "run"), history(whole), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-4), ours["step"]
    one, two = tensors(whole / "checkpoint-18"), tensors(tmp_path / "run/checkpoint-18")
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=1e-2, atol=1e-4)
    assert VideoMAEForPreTraining.from_pretrained(tmp_path / "run/final").config.num_frames == 8


@pytest.mark.slow
def test_a_run_killed_at_ten_random_moments_ends_with_the_same_bits(videos, whole, tmp_path):
    """kill -9, also while a checkpoint is written: every step writes one here."""
    output = tmp_path / "run"
    program = [sys.executable, "-m", "videomae.commands.main", "pretrain"]
    killed_and_finished([*program, *command(videos, output, "--resume", "auto", "--save_every", "1")], output, kills=10)
    assert_same_run(whole, output)
    assert all(damage(folder) is None for folder in checkpoints(output))
    assert not list(output.glob(".checkpoint-*"))


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["0", "2"])
def test_ctrl_c_in_a_terminal_reaches_all_processes_and_still_writes_a_checkpoint(videos, whole, tmp_path, workers):
    """The terminal tells the whole group, decoding processes too; a second Ctrl-C ends the run without a checkpoint."""
    output = tmp_path / "run"
    program = [sys.executable, "-m", "videomae.commands.main", "pretrain"]
    program += command(videos, output, "--resume", "auto", "--num_workers", workers)
    process = subprocess.Popen(program, env=environment(), stderr=subprocess.PIPE, text=True, start_new_session=True)
    while not (output / "log.jsonl").exists() or len(read_log(output / "log.jsonl")) < 2:
        assert process.poll() is None
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGINT)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == EXIT_INTERRUPTED, said
    assert "SIGINT: checkpoint-" in said and "Traceback" not in said and said.count("press it again") == 1
    assert pretrain(videos, output, "--resume", "auto") == 0
    assert_same_run(whole, output)
