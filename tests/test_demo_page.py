"""The demo's page: whole in one file, with the numbers of the runs, and commands that exist."""

import base64
import io
import json
import re

import pytest
from PIL import Image
from support import TINY

from videomae import VideoMAEConfig, VideoMAEForPreTraining, VideoMAEVideoProcessor
from videomae.app.demo_page import Outcome, next_commands, read_answers, write_page
from videomae.commands.main import COMMANDS
from videomae.data.synthetic import MOTIONS, SyntheticSet, make_synthetic_set
from videomae.evaluation.multi_view import write_parquet

ARMS = ("from scratch", "pre-trained")


def write_run(folder, predictions):
    """What a fine-tuning leaves behind of its curve and of its test."""
    folder.mkdir()
    lines = [{"step": step, "loss": 2.0} for step in (1, 2)] + [{"step": 2, "val_top1": 0.5}]
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    rows = []
    for number, (predicted, certainty) in enumerate(predictions):
        scores = [(1 - certainty) / 7] * 8
        scores[predicted] = certainty
        rows.append(
            {"path": f"videos/test/{number:05d}.mp4", "label": number, "prediction": predicted, "scores": scores}
        )
    (folder / "test").mkdir()
    write_parquet(folder / "test" / "predictions.parquet", rows)
    return folder


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    spec = SyntheticSet(clips=8, validation_clips=0, test_clips=8, num_frames=8, height=32, width=40)
    data = make_synthetic_set(folder / "data", spec)
    config = VideoMAEConfig(**{**TINY, "image_size": 32, "num_frames": 4})
    run = write_run(folder / "pretrained", [(0, 0.5)] * 8)
    VideoMAEForPreTraining(config).save_pretrained(run / "final")
    size = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    VideoMAEVideoProcessor(**size).save_pretrained(run / "final")
    answers = [(0, 0.6), (1, 0.9), (2, 0.5), (3, 0.4), (4, 0.3), (4, 0.3), (7, 0.8), (7, 0.7)]
    finetuned = {arm: write_run(folder / arm.replace(" ", "-"), answers) for arm in ARMS}
    figures = [("chance", 0.125), *[(arm, 0.75) for arm in ARMS]]
    return Outcome(data, run, finetuned, figures, "No gain & no loss.", 0.75, "A test <of> the page.")


def test_the_page_is_one_file_with_all_pictures_and_numbers(outcome, tmp_path):
    page = write_page(tmp_path / "index.html", outcome).read_text("utf-8")
    assert not re.search(r"(src|href)=.(?!data:)|https?:|<script|<link", page), "nothing is loaded from elsewhere"
    pictures = re.findall(r'<img src="data:image/gif;base64,([^"]+)" alt="([^"]+)">', page)
    assert len(pictures) == page.count("<img") == len(MOTIONS) + 3 + 2
    for encoded, _ in pictures:
        with Image.open(io.BytesIO(base64.b64decode(encoded))) as picture:
            assert picture.n_frames > 1 and picture.height >= 32
    assert [words for _, words in pictures[:8]] == list(MOTIONS)
    assert "75.0 %" in page and "No gain &amp; no loss." in page and "A test &lt;of&gt; the page." in page
    assert page.count("<polyline") == 1 + len(ARMS)


def test_the_examples_are_the_most_certain_answers_right_and_wrong(outcome, tmp_path):
    page = write_page(tmp_path / "index.html", outcome).read_text("utf-8")
    assert "right: moves left (90 %)" in page
    assert "wrong: circles counter-clockwise (80 %); shows: circles clockwise" in page
    answers = read_answers(outcome.finetuned["pre-trained"])
    assert answers.surest(right=True) == 1 and answers.surest(right=False) == 6


def test_a_classifier_without_mistakes_has_no_wrong_example(outcome, tmp_path):
    run = write_run(tmp_path / "run", [(number, 0.9) for number in range(8)])
    assert read_answers(run).surest(right=False) is None


def test_the_confusion_counts_each_answer_once(outcome, tmp_path):
    page = write_page(tmp_path / "index.html", outcome).read_text("utf-8")
    cells = re.findall(r"<td style=\"background:rgb\(0 114 178 / [\d.]+\)\">(\d*)</td>", page)
    assert len(cells) == 64 and sum(int(cell or 0) for cell in cells) == 8
    assert [cells[8 * row + column] for row, column in ((0, 0), (5, 4), (5, 5), (6, 7))] == ["1", "1", "", "1"]


def test_the_next_commands_exist_and_name_what_the_demo_made(outcome):
    commands = [command.split() for _, command in next_commands(outcome)]
    assert len(commands) == 3 and all(command[0] == "videomae" and command[1] in COMMANDS for command in commands)
    model, video = commands[0][2:4]
    assert model == str(outcome.pretrained / "final") and (outcome.data / "videos/test/00000.mp4").samefile(video)
    assert commands[1][2] == str(outcome.finetuned["pre-trained"] / "final")
