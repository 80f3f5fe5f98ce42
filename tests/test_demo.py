"""The demo: end to end at its smallest, ended in the middle and started again, and what it claims of its result."""

import dataclasses
import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from tqdm.auto import tqdm

from videomae import VideoMAEForPreTraining, VideoMAEForVideoClassification
from videomae.app.demo import PRETRAINED, SCRATCH, SIZES, Steps, figures, follow, one_bar, one_frame_accuracy, verdict
from videomae.command_line import INTERRUPTED, STOPPED
from videomae.commands.main import main
from videomae.data.encoding import encode_video
from videomae.data.synthetic import make_synthetic_set

RUNS = ("pretrained", "finetuned-from-scratch", "finetuned")


def starts(folder):
    """From which step each start of each training resumed."""
    records = {run: folder / "quick" / run / "run.json" for run in RUNS}
    return {
        run: [start["from_step"] for start in json.loads(path.read_text())["starts"]]
        for run, path in records.items()
        if path.exists()
    }


def begin(folder, wait_for):
    """The demo in a process group of its own, left alone until `wait_for` is there."""
    command = [sys.executable, "-m", "videomae.commands.main", "demo", "--quick", "--output", str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    for _ in range(3000):
        if wait_for.exists() or process.poll() is not None:
            break
        time.sleep(0.02)
    assert process.poll() is None, process.stdout.read()
    return process


@pytest.mark.slow
def test_the_demo_runs_from_videos_to_a_label_and_repeats_nothing(tmp_path, capsys):
    assert main(["demo", "--quick", "--output", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "which shows: " in printed and "8x1x1" in printed and "on 16 test clips" in printed
    page = (tmp_path / "index.html").read_text("utf-8")
    assert page.count("<img ") >= 8 + 3 + 1 and not re.search(r'(src|href)="(?!data:)', page)
    VideoMAEForPreTraining.from_pretrained(tmp_path / "quick" / "pretrained" / "final")
    final = tmp_path / "quick" / "finetuned" / "final"
    assert len(VideoMAEForVideoClassification.from_pretrained(final).config.id2label) == 8
    assert "8x1x1" in (final / "README.md").read_text()  # the card holds the test
    paths = [line.split()[-1] for line in printed.splitlines()[-7:]]
    assert len(paths) == 7 and all(os.path.exists(path) for path in paths)

    before = starts(tmp_path)
    assert before == {run: [0] for run in RUNS}
    assert main(["demo", "--quick", "--output", str(tmp_path)]) == 0
    assert capsys.readouterr().out.count("done before") == 3 and starts(tmp_path) == before


@pytest.mark.slow
def test_a_demo_that_is_killed_goes_on_from_its_last_checkpoint(tmp_path, capsys):
    process = begin(tmp_path, wait_for=tmp_path / "quick" / "pretrained" / f"checkpoint-{SIZES['quick'].save_every}")
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert main(["demo", "--quick", "--output", str(tmp_path)]) == 0
    first, *later = starts(tmp_path)["pretrained"]
    assert first == 0 and all(step >= SIZES["quick"].save_every for step in later)
    assert "on 16 test clips" in capsys.readouterr().out


@pytest.mark.slow
def test_ctrl_c_says_that_the_same_command_goes_on(tmp_path, capsys):
    process = begin(tmp_path, wait_for=tmp_path / "quick" / "finetuned-from-scratch" / "log.jsonl")
    os.killpg(process.pid, signal.SIGINT)  # a terminal sends it to the workers too
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == STOPPED and "The same command continues" in printed, printed
    assert "Traceback" not in printed
    assert main(["demo", "--quick", "--output", str(tmp_path)]) == 0
    assert capsys.readouterr().out.count("done before") == 1 and starts(tmp_path)["pretrained"] == [0]


def test_a_step_is_repeated_when_its_command_changed_or_its_product_is_gone(tmp_path, capsys):
    calls, product = [], tmp_path / "product"

    def command(arguments):
        calls.append(arguments)
        product.write_text("made")

    for arguments in (["--epochs", "1"], ["--epochs", "1"], ["--epochs", "2"]):
        Steps(tmp_path / "demo.json").run("Make it", "make", command, arguments, product=product)
    assert calls == [["--epochs", "1"], ["--epochs", "2"]]
    product.unlink()
    Steps(tmp_path / "demo.json").run("Make it", "make", command, ["--epochs", "2"], product=product)
    assert len(calls) == 3 and capsys.readouterr().out.count("done before") == 1
    with pytest.raises(OSError, match=r"`videomae make` ended with code 1; run the same command again to resume"):
        Steps(tmp_path / "demo.json").run("Fail", "make", lambda _: 1, [], product=product)
    with pytest.raises(KeyboardInterrupt):  # a training that was told to stop
        Steps(tmp_path / "demo.json").run("Stop", "make", lambda _: INTERRUPTED, [], product=product)


@pytest.mark.parametrize(
    "scratch, pretrained, words",
    [
        (0.300, 0.500, "+20.0 points, more than the choice of test clips explains (±8.6)"),
        (0.300, 0.350, "+5.0 points, not more than the choice of test clips explains (±8.4)"),
        (0.500, 0.300, "-20.0 points, not more than"),
    ],
)
def test_the_demo_claims_a_gain_only_where_the_test_clips_carry_it(scratch, pretrained, words):
    arms = ((SCRATCH, scratch), (PRETRAINED, pretrained))
    results = {arm: {"videos": 240, "metrics": {"top1": share}} for arm, share in arms}
    assert words in verdict(results) and "on 240 test clips" in verdict(results)
    assert figures(results, 8, 0.14)[:2] == [("chance", 0.125), ("one grey frame", 0.14)]
    assert figures(results, 8, 0.14)[2:] == [*arms]


def test_one_frame_is_near_chance_for_motions_and_enough_where_the_picture_tells(tmp_path):
    spec = dataclasses.replace(SIZES["full"].videos, clips=96, validation_clips=0, test_clips=96)
    data = make_synthetic_set(tmp_path / "motions", spec)
    (data / "labelled.csv").write_bytes((data / "train.csv").read_bytes())
    assert one_frame_accuracy(data) < 1 / 8 + 3 * (1 / 8 * 7 / 8 / 96) ** 0.5
    # A known answer: the label is whether the video is bright.
    data = tmp_path / "brightness"
    data.mkdir()
    for name in ("labelled", "test"):
        lines = ["path,label"]
        for number in range(8):
            frames = np.full((4, 32, 40, 3), 40 if number % 2 else 200, dtype=np.uint8)
            (data / f"{name}{number}.mp4").write_bytes(encode_video(frames, 8))
            lines.append(f"{name}{number}.mp4,{'dark' if number % 2 else 'bright'}")
        (data / f"{name}.csv").write_text("\n".join(lines) + "\n")
    assert one_frame_accuracy(data) == 1.0


def test_a_bar_follows_the_log_of_a_training_and_its_words_go_to_a_file(tmp_path, capsys):
    run = tmp_path / "pretrained"
    run.mkdir()
    with one_bar(run, 100):
        print("settings")
        (run / "log.jsonl").write_text('{"step": 40, "loss": 0.5}\n{"step": 80, "loss": 0.25}\n')
    shown = capsys.readouterr()
    assert "settings" not in shown.out + shown.err and "80/100" in shown.err and "loss 0.25" in shown.err
    assert (tmp_path / "logs" / "pretrained.txt").read_text() == "settings\n"


def test_a_bar_waits_while_a_line_of_the_log_is_half_written(tmp_path):
    ended, log = threading.Event(), tmp_path / "log.jsonl"
    ended.set()
    with tqdm(total=100, file=io.StringIO()) as bar:
        follow(bar, log, ended)  # there is no log yet
        log.write_text('{"step": 40}\n{"st')
        follow(bar, log, ended)
        assert bar.n == 0
        log.write_text('{"step": 40}\n')
        follow(bar, log, ended)
        assert bar.n == 40
