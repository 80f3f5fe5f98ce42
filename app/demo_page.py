"""The demo's page: what was made, learnt and measured, as one HTML file that needs no server and no other file.

app/demo.py runs the trainings; everything here is read from their folders afterwards.
"""

import base64
import csv
import html
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from videomae.files import write_atomic
from videomae.metrics.video_accuracy.scores import confusion_matrix
from videomae.models import open_config, open_processor
from videomae.pictures.clip import read_clip
from videomae.pictures.drawing import film, gif_bytes
from videomae.pictures.plot import line_plot
from videomae.pictures.views import open_pretrained, rebuilt_clip, reconstruction_views
from videomae.training.runs import LOG, read_log
from videomae.video_io import VideoReader

STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 1rem; }
h1 { line-height: 1.2; } h2 { margin: 2.5rem 0 0.5rem; }
img { max-width: 100%; image-rendering: pixelated; border-radius: 4px; background: #fff; }
figure { margin: 0; } figcaption { font-size: 0.85rem; }
.row { display: flex; flex-wrap: wrap; gap: 1rem; } .row > * { flex: 0 1 auto; }
.clips img { width: 140px; }
table { border-collapse: collapse; font-size: 0.9rem; } td, th { padding: 0.25rem 0.5rem; text-align: left; }
.bars { width: 100%; } .bars td { white-space: nowrap; } .bars td:last-child { width: 60%; }
.bar { height: 1rem; background: #0072b2; border-radius: 2px; }
.confusion td { text-align: center; min-width: 1.2rem; } .confusion th { font-weight: normal; }
.wide { overflow-x: auto; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; padding: 0.75rem; border: 1px solid #8886; border-radius: 4px; }
"""
HEIGHT = 96  # pixels of a frame in the films of what is rebuilt
EXAMPLES = 3  # clips that are shown rebuilt
MASK_SEED = 4  # of their mask: some of the shape is left to see


@dataclass(frozen=True)
class Outcome:
    """Where the demo's parts lie, and what was measured."""

    data: Path  # the folder of videos and lists
    pretrained: Path  # run of the pre-training
    finetuned: Mapping[str, Path]  # run of each arm by its name; the last one is shown
    figures: Sequence[tuple[str, float]]  # (what, top-1), as printed
    verdict: str
    mask_ratio: float
    about: str  # sizes, minutes and machine, as one sentence


def write_page(path: Path, outcome: Outcome) -> Path:
    """Write the page; equal folders make equal pages."""
    classes = (outcome.data / "labels.txt").read_text("utf-8").splitlines()
    best = [*outcome.finetuned.values()][-1]
    answers = read_answers(best)
    parts = [
        "<h1>Pre-training on videos without labels, then eight motions from a few labels</h1>",
        f"<p>{html.escape(outcome.about)}</p>",
        "<h2>Result</h2>",
        bars(outcome.figures),
        f"<p>{html.escape(outcome.verdict)}</p>",
        "<h2>The videos</h2>",
        "<p>One test clip of each class. The motion of the shape is the class; size, shape, colours and background are drawn "
        "alike for all classes, and so are the place and the angle in the middle frame, which does not show the class. "
        "The first and the last frame can.</p>",
        class_clips(outcome.data, classes),
        "<h2>What the pre-trained model rebuilds</h2>",
        rebuilt_clips(outcome),
        "<h2>Loss of the pre-training</h2>",
        curve({"rebuilding": outcome.pretrained}, "loss", from_zero=False),
        "<h2>Fine-tuning</h2>",
        "<p>Top-1 on the validation clips, over steps. The steps are few on purpose: with more of them training from scratch "
        "comes closer.</p>",
        curve(outcome.finetuned, "val_top1"),
        "<h2>Answers on the test clips</h2>",
        confusion_table(answers, classes),
        "<p>The answer that the classifier is most sure of, right and wrong:</p>",
        examples(outcome.data, answers, classes),
        "<h2>Next</h2>",
        *[f"<p>{html.escape(what)}</p><pre>{html.escape(command)}</pre>" for what, command in next_commands(outcome)],
    ]
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    title = "<title>The demo of videomae</title>"
    page = f'<!doctype html>\n<html lang="en"><head>{head}{title}<style>{STYLE}</style></head>\n<body>\n'
    return write_atomic(path, page + "\n".join(parts) + "\n</body></html>\n")


def next_commands(outcome: Outcome) -> list[tuple[str, str]]:
    """(what for, command): what to do with the result, and the step to videos of one's own."""
    best = [*outcome.finetuned.values()][-1] / "final"
    video = outcome.data / first_of_class(outcome.data)[0][0]
    visualize = ["videomae", "visualize", str(outcome.pretrained / "final"), str(video)]
    visualize += ["--mask_ratio", str(outcome.mask_ratio)]
    own = ["videomae", "finetune", "--recipe", "small-data", "--model", "MCG-NJU/videomae-base", "--data", "VIDEOS"]
    return [
        ("Draw what the pre-trained model rebuilds of a clip, with other masks:", shlex.join(visualize)),
        ("Try the classifier in a browser, also on files of your own:", shlex.join(["videomae", "app", str(best)])),
        (
            "Fine-tune released weights on your own videos; VIDEOS has a folder for each class:",
            shlex.join([*own, "--val_share", "0.2", "--output", "runs/mine"]),
        ),
    ]


# ------------------------------------------------------------------------------------------------------ the parts


def bars(figures: Sequence[tuple[str, float]]) -> str:
    rows = [
        f'<tr><td>{html.escape(what)}</td><td>{100 * share:.1f} %</td><td><div class="bar" style="width:{100 * share:.1f}%"></div></td></tr>'
        for what, share in figures
    ]
    return f'<table class="bars">{"".join(rows)}</table>'


def class_clips(data: Path, classes: Sequence[str]) -> str:
    shown = {label: path for path, label in first_of_class(data)}
    return f'<div class="row clips">{"".join(clip_figure(data / shown[name], name) for name in classes if name in shown)}</div>'


def clip_figure(video: Path, caption: str) -> str:
    """A video as a moving picture with words below."""
    with VideoReader(video) as reader:
        frames, seconds = reader.read(range(reader.info.num_frames)), 1 / (reader.info.fps or 8)
    # In its own size: the browser enlarges it, and the page stays small.
    return figure(gif_bytes([Image.fromarray(frame.numpy()) for frame in frames], seconds), caption)


def rebuilt_clips(outcome: Outcome) -> str:
    """Films of test clips: as they are, what the encoder saw, and what came out."""
    folder = str(outcome.pretrained / "final")
    model, config = open_pretrained(folder), open_config(folder)
    processor = open_processor(folder, config)
    films, notes = [], []
    for path, label in first_of_class(outcome.data)[:EXAMPLES]:
        clip = read_clip(outcome.data / path, processor, config)
        made = rebuilt_clip(model, clip, mask_ratio=outcome.mask_ratio, seed=MASK_SEED)
        rows, notes = reconstruction_views(made, ["nearby", "patch"])
        films.append(figure(gif_bytes(film(rows, height=HEIGHT), 2 * clip.frame_seconds), label))
    how = f"{100 * outcome.mask_ratio:.0f} % of each clip is hidden, in the same places of all frames. The model predicts "
    how += "hidden patches without their brightness and contrast. In the third film these are guessed; in the last one each "
    how += (
        "hidden patch got its true ones back, as the visualiser of the VideoMAE release does it, which shows more than "
    )
    how += "the model predicted. Of the last clip:"
    lines = "".join(f"<li>{html.escape(note)}</li>" for note in notes)
    return f'<p>{html.escape(how)}</p><ul>{lines}</ul><div class="row">{"".join(films)}</div>'


def curve(runs: Mapping[str, Path], name: str, *, from_zero: bool = True) -> str:
    """A value of the logs over steps, one line a run."""
    rows = [
        {"step": line["step"], "label": label, "score": line[name]}
        for label, run in runs.items()
        for line in read_log(run / LOG)
        if line.get(name) is not None
    ]
    return line_plot(rows, across="step", from_zero=from_zero)


@dataclass(frozen=True)
class Answers:
    """The test of one arm: paths (n,), labels (n,), predictions (n,) and the probability of each prediction (n,)."""

    paths: Sequence[str]
    labels: np.ndarray
    predictions: np.ndarray
    certainty: np.ndarray

    def surest(self, *, right: bool) -> int | None:
        """The row of the most certain answer that is right, or wrong; None where there is none."""
        rows = np.flatnonzero((self.predictions == self.labels) == right)
        return int(rows[self.certainty[rows].argmax()]) if len(rows) else None


def read_answers(run: Path) -> Answers:
    columns: dict[str, list[Any]] = pq.read_table(run / "test" / "predictions.parquet").to_pydict()
    scores = np.array(columns["scores"], dtype=np.float64)
    return Answers(columns["path"], np.array(columns["label"]), np.array(columns["prediction"]), scores.max(axis=1))


def confusion_table(answers: Answers, classes: Sequence[str]) -> str:
    """True classes by row, answers by column; a darker cell has more of its row."""
    counts = confusion_matrix(answers.predictions, answers.labels, len(classes))
    numbers = "".join(f"<th>{number}</th>" for number in range(1, len(classes) + 1))
    rows = [f"<tr><th>true class, by row; answer, by column</th>{numbers}</tr>"]
    for number, (name, row) in enumerate(zip(classes, counts), start=1):
        shares = row / max(row.sum(), 1)
        cells = "".join(
            f'<td style="background:rgb(0 114 178 / {share:.2f})">{count or ""}</td>'
            for count, share in zip(row, shares)
        )
        rows.append(f"<tr><th>{number} {html.escape(name)}</th>{cells}</tr>")
    return f'<div class="wide"><table class="confusion">{"".join(rows)}</table></div>'


def examples(data: Path, answers: Answers, classes: Sequence[str]) -> str:
    figures = []
    for right in (True, False):
        row = answers.surest(right=right)
        if row is not None:
            said = f"{classes[answers.predictions[row]]} ({100 * answers.certainty[row]:.0f} %)"
            text = f"right: {said}" if right else f"wrong: {said}; shows: {classes[answers.labels[row]]}"
            figures.append(clip_figure(data / answers.paths[row], text))
    return f'<div class="row clips">{"".join(figures)}</div>'


# ------------------------------------------------------------------------------------------------- small questions


def first_of_class(data: Path) -> list[tuple[str, str]]:
    """(path, label) of the first test clip of each class, in the order of the list."""
    found: dict[str, str] = {}
    with open(data / "test.csv", newline="", encoding="utf-8") as table:
        for row in csv.DictReader(table):
            found.setdefault(row["label"], row["path"])
    return [(path, label) for label, path in found.items()]


def figure(gif: bytes, caption: str) -> str:
    source = f"data:image/gif;base64,{base64.b64encode(gif).decode()}"
    words = html.escape(caption)
    return f'<figure><img src="{source}" alt="{words}"><figcaption>{words}</figcaption></figure>'
