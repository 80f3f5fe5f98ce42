"""The whole job on videos made from nothing: pre-train, fine-tune, compare with training from scratch, label a file.

    videomae demo                     # 2 to 3 minutes on 2 CPU cores, into ./demo_output
    videomae demo --quick             # under a minute, to see that the installation works; learns next to nothing

Each step is the command that it prints, so that any of them can be repeated with other data or options. Steps that are
done are noted in OUTPUT/SIZE/demo.json: after Ctrl-C, or anything else that ends it, the same command continues. In a
terminal a step is one bar, and what its command prints goes to OUTPUT/SIZE/logs. OUTPUT/index.html shows the result.
"""

import contextlib
import dataclasses
import json
import math
import os
import shlex
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from tqdm.auto import tqdm

from videomae.command_line import INTERRUPTED
from videomae.data.synthetic import SyntheticSet, make_synthetic_set
from videomae.files import write_atomic, write_json

RECORD, FIGURES, PAGE = "demo.json", "figures.json", "index.html"
SCRATCH, PRETRAINED = "from scratch", "pre-trained"
ONE_FRAME = "one grey frame"
MASK_RATIO = 0.75


@dataclass(frozen=True)
class Size:
    """How much of everything. The labelled clips are the first of the unlabelled ones."""

    videos: SyntheticSet
    labelled: int
    pretrain_epochs: int
    finetune_epochs: int
    save_every: int  # steps of pre-training that an interruption may cost

    @property
    def pretrain_steps(self) -> int:
        return self.pretrain_epochs * (self.videos.clips // PRETRAIN_CLIPS)

    @property
    def finetune_steps(self) -> int:
        return self.finetune_epochs * (self.labelled // FINETUNE_CLIPS)


def small_videos(*, clips: int, validation_clips: int, test_clips: int) -> SyntheticSet:
    """As long and as large as a clip, since decoding takes half of the time."""
    return SyntheticSet(
        clips, validation_clips, test_clips, num_frames=16, height=32, width=32, distractors=0, centred=True
    )


SIZES = {
    "full": Size(small_videos(clips=1024, validation_clips=80, test_clips=320), 160, 32, 4, 250),
    "quick": Size(small_videos(clips=64, validation_clips=16, test_clips=16), 32, 4, 2, 4),
}

# 32 pixels: at 64 the loss needs some ten times as many clips before it starts to fall. V1's mask: V2's second one halves
# what a step rebuilds. The fine-tuning is short: from scratch 40 steps are too few, with 100 the arms are 5 points apart
# (docs/results.md).
CLIP = ["--image_size", "32", "--num_frames", "8", "--stride_frames", "2"]
PRETRAIN_CLIPS, FINETUNE_CLIPS = 16, 16  # of an optimizer step
# Two masks of each decoded clip: decoding takes longer than the step of so small a model.
PRETRAIN = ["--clips_per_step", str(PRETRAIN_CLIPS), "--num_samples", "2", "--crop_scales", "1.0"]
PRETRAIN += ["--mask_ratio", str(MASK_RATIO)]
PRETRAIN += ["--base_lr", "3.2e-2", "--min_lr", "1.6e-4"]  # for 256 clips a step: 2e-3 to 1e-5 for 16
# The whole frame, without a resize: a random resized crop of 32 pixels blurs and cuts the shape.
FINETUNE = ["--clips_per_step", str(FINETUNE_CLIPS), "--base_lr", "3.2e-2", "--min_lr", "1e-4", "--layer_decay", "none"]
FINETUNE += ["--crop_area", "1", "1", "--crop_aspect", "1", "1", "--test_clips", "1", "--test_crops", "1"]
MODEL = {
    "patch_size": 8,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 256,
    "decoder_hidden_size": 48,
    "decoder_num_hidden_layers": 1,
    "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 192,
}


class Steps:
    """Runs commands in order and notes each that ended well, so that a second start passes over it."""

    def __init__(self, record: Path):
        self.record = record
        self.done: dict[str, Any] = json.loads(record.read_text("utf-8")) if record.exists() else {}

    @property
    def seconds(self) -> float:
        """Of all steps that are done, in whichever start."""
        return sum(step["seconds"] for step in self.done.values())

    def run(
        self,
        title: str,
        command: str,
        main: Callable[[list[str]], int | None],
        arguments: list[str],
        *,
        product: Path,
        run: Path | None = None,
        total_steps: int = 0,
    ) -> None:
        """`product` is what the command leaves behind; without it, or with another command, the step is repeated.

        `run` is the folder of a training and `total_steps` its steps: with them a terminal gets a bar.
        """
        text = f"videomae {command} {shlex.join(arguments)}"
        print(f"\n== {title}\n$ {text}", flush=True)
        if self.done.get(title, {}).get("command") == text and product.exists():
            print(f"   done before, in {self.done[title]['seconds']:.0f} s", flush=True)
            return
        start = time.monotonic()
        with one_bar(run, total_steps) if run and sys.stderr.isatty() else contextlib.nullcontext():
            code = main(arguments)
        if code == INTERRUPTED:  # it has written its checkpoint
            raise KeyboardInterrupt
        if code:
            raise OSError(f"`videomae {command}` ended with code {code}; run the same command again to resume")
        seconds = time.monotonic() - start
        self.done[title] = {"command": text, "seconds": seconds}
        write_json(self.record, self.done)
        print(f"   {seconds:.0f} s", flush=True)


@contextlib.contextmanager
def one_bar(run: Path, total_steps: int) -> Iterator[None]:
    """Show a training as one bar that follows its log; what the training prints goes to logs/RUN.txt beside its folder."""
    printed = run.parent / "logs" / f"{run.name}.txt"
    printed.parent.mkdir(parents=True, exist_ok=True)
    ended = threading.Event()
    # The terminal as it is before the redirection below.
    bar = tqdm(
        total=total_steps,
        file=sys.stderr,
        bar_format="   {percentage:3.0f}%|{bar:30}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}]{postfix}",
    )
    follower = threading.Thread(target=follow, args=(bar, run / "log.jsonl", ended), daemon=True)
    follower.start()
    try:
        with (
            open(printed, "a", encoding="utf-8") as file,
            contextlib.redirect_stdout(file),
            contextlib.redirect_stderr(file),
        ):
            yield
    finally:
        ended.set()
        follower.join()
        bar.close()


def follow(bar: tqdm, log: Path, ended: threading.Event) -> None:
    """Move the bar to the last step in a log.jsonl, twice a second, until `ended` is set."""
    while True:
        last = ended.wait(0.5)
        lines = log.read_text("utf-8").splitlines() if log.exists() else []
        with contextlib.suppress(IndexError, ValueError):  # no line yet, or half of one
            line = json.loads(lines[-1])
            bar.n = line["step"]
            if loss := line.get("loss"):
                bar.set_postfix_str(f"loss {loss:.3g}", refresh=False)
        bar.refresh()
        if last:
            return


def log_every(steps: int) -> int:
    """Some thirty lines a training: enough for a bar and a curve."""
    return max(1, steps // 30)


def make_fresh(folder: Path, seed: int) -> Path:
    """The weights that both arms start from: those with which pre-training begins."""
    from videomae.train_pretrain import build_model
    from videomae.training.recipes import PRETRAINING

    if not (folder / "config.json").exists():
        recipe = dataclasses.replace(PRETRAINING["tiny"], config=MODEL, image_size=32, num_frames=8, seed=seed)
        build_model(recipe).save_pretrained(folder)
    return folder


def make_lists(data: Path, labelled: int) -> Path:
    """A list of the clips whose labels are used."""
    lines = (data / "train.csv").read_text("utf-8").splitlines(keepends=True)
    return write_atomic(data / "labelled.csv", "".join(lines[: 1 + labelled]))


def label(model: Path, video: Path) -> list[dict]:
    """What `pipeline("video-classification")` of transformers says about a file, with our objects passed."""
    from transformers import pipeline

    from videomae import VideoMAEForVideoClassification, VideoMAEVideoProcessor

    pipe = pipeline(
        "video-classification",
        model=VideoMAEForVideoClassification.from_pretrained(model),
        # Its own base class, which transformers names here, needs torchvision.
        video_processor=cast(Any, VideoMAEVideoProcessor.from_pretrained(model)),
        device="cpu",
    )
    return pipe(str(video), top_k=3)


def one_frame_accuracy(data: Path) -> float:
    """Top-1 on the test clips of a linear classifier that sees the middle frame of a clip, in grey: near chance."""
    import torch

    from videomae.data.lists.layouts import open_manifest
    from videomae.data.sources import open_clip
    from videomae.evaluation.probes import linear_scores

    sets = []
    for name in ("labelled.csv", "test.csv"):
        manifest, frames = open_manifest(data / name), []
        for index in range(len(manifest)):
            with open_clip(manifest.source(index)) as clip:
                frames.append(clip.read([clip.num_frames // 2])[0].float().mean(-1))
        grey = torch.nn.functional.avg_pool2d(torch.stack(frames), 2)  # every 2 x 2 pixels are one feature
        sets.append((grey.flatten(1), manifest.labels))
    (train, labels), (test, truth) = sets
    scores = linear_scores(train, labels, test, int(labels.max()) + 1)
    return (scores.argmax(dim=1) == truth).float().mean().item()


def figures(results: dict[str, dict[str, Any]], classes: int, one_frame: float) -> list[tuple[str, float]]:
    """(what, top-1), from the least that a classifier can reach to the result."""
    arms = [(arm, results[arm]["metrics"]["top1"]) for arm in results]
    return [("chance", 1 / classes), (ONE_FRAME, one_frame), *arms]


def verdict(results: dict[str, dict[str, Any]]) -> str:
    """Whether the difference of both accuracies is more than the choice of the test clips explains."""
    videos = results[SCRATCH]["videos"]
    shares = [results[arm]["metrics"]["top1"] for arm in (SCRATCH, PRETRAINED)]
    gain = 100 * (shares[1] - shares[0])
    # Two independent proportions; the same clips are tested twice, which makes this the wider, more careful interval.
    margin = 196 * math.sqrt(sum(share * (1 - share) for share in shares) / videos)
    words = "more than" if gain > margin else "not more than"
    return (
        f"Pre-training changes top-1 on {videos} test clips by {gain:+.1f} points, {words} the choice of test clips explains "
        f"(±{margin:.1f}). Same labels, steps and first weights."
    )


def train_all(size: Size, folder: Path, data: Path, steps: Steps, seed: int) -> tuple[Path, dict[str, Path]]:
    """Pre-train, and fine-tune both arms; returns the folder of the pre-training, and those of the arms by name."""
    import torch

    from videomae import train_classification, train_pretrain

    torch.set_num_threads(1)  # steps this small only get slower on several threads, and decoding needs the other core
    fresh = make_fresh(folder / "fresh", seed)
    pretrained = folder / "pretrained"
    steps.run(
        "Pre-train without labels: three quarters of a clip are hidden and rebuilt",
        "pretrain",
        train_pretrain.main,
        ["--recipe", "tiny", "--model", str(fresh), "--config", "--data", f"{data}/train.csv", *CLIP, *PRETRAIN]
        + ["--epochs", str(size.pretrain_epochs), "--warmup_epochs", str(size.pretrain_epochs / 20)]
        + [
            "--picture_every",
            str(size.pretrain_epochs),
            "--log_every",
            str(log_every(size.pretrain_steps)),
            "--save_every",
            str(size.save_every),
        ]
        + ["--seed", str(seed), "--output", str(pretrained), "--resume", "auto"],
        product=pretrained / "pictures",
        run=pretrained,
        total_steps=size.pretrain_steps,
    )
    starts = {SCRATCH: fresh, PRETRAINED: pretrained / "final"}
    runs = {SCRATCH: folder / "finetuned-from-scratch", PRETRAINED: folder / "finetuned"}
    for arm, what in ((SCRATCH, "random weights"), (PRETRAINED, "the pre-trained weights")):
        steps.run(
            f"Fine-tune {what} with {size.labelled} labels, and test",
            "finetune",
            train_classification.main,
            ["--recipe", "tiny", "--model", str(starts[arm]), "--data", f"{data}/labelled.csv"]
            + ["--val_data", f"{data}/validation.csv", "--test_data", f"{data}/test.csv", *CLIP, *FINETUNE]
            + ["--epochs", str(size.finetune_epochs), "--warmup_epochs", str(size.finetune_epochs / 10)]
            + [
                "--validate_every",
                str(max(1, size.finetune_epochs // 5)),
                "--log_every",
                str(log_every(size.finetune_steps)),
            ]
            + ["--seed", str(seed), "--output", str(runs[arm]), "--resume", "auto"],
            product=runs[arm] / "test" / "results.json",
            run=runs[arm],
            total_steps=size.finetune_steps,
        )
    return pretrained, runs


def demo(output: Path, name: str, *, seed: int = 0) -> None:
    """Everything, in order; equal seeds give equal videos, first weights, order and masks."""
    began = time.monotonic()
    size, folder, data = SIZES[name], output / name, output / f"videos-{name}"
    motions = len(size.videos.motions)
    print(
        f"== Make videos of {motions} classes, each a motion that the middle frame does not show\n   {data}", flush=True
    )
    make_synthetic_set(data, dataclasses.replace(size.videos, seed=seed))
    make_lists(data, size.labelled)
    steps = Steps(folder / RECORD)
    pretrained, runs = train_all(size, folder, data, steps, seed)

    import torch

    from videomae.app.demo_page import Outcome, read_answers, write_page

    results = {arm: json.loads((run / "test" / "results.json").read_text("utf-8")) for arm, run in runs.items()}
    shares = figures(results, motions, one_frame_accuracy(data))
    write_json(folder / FIGURES, {"figures": dict(shares), "seconds": steps.seconds})
    classifier = runs[PRETRAINED] / "final"  # the weights that were tested
    answers = read_answers(runs[PRETRAINED])
    row = answers.surest(right=True)
    row = 0 if row is None else row
    video = data / answers.paths[row]
    truth = (data / "labels.txt").read_text("utf-8").splitlines()[answers.labels[row]]
    print(
        '\n== Label a file with pipeline("video-classification"): of the test clips, the right answer that is most certain'
    )
    print(f"   {video}, which shows: {truth}")
    for guess in label(classifier, video):
        print(f"   {guess['score']:.3f}  {guess['label']}")
    about = (
        f"{size.videos.clips} synthetic clips without labels, {size.labelled} of them then with labels, {size.videos.test_clips} others for "
        f"the test. The trainings took {steps.seconds / 60:.1f} minutes on {os.cpu_count()} CPU cores with torch {torch.__version__}."
    )
    page = write_page(output / PAGE, Outcome(data, pretrained, runs, shares, verdict(results), MASK_RATIO, about))
    paths = {
        "page with all results": page,
        "videos and lists": data,
        "pre-trained model": pretrained / "final",
        "classifier": classifier,
        "its card": classifier / "README.md",
        "its test": runs[PRETRAINED] / "test" / "results.json",
        "the other arm": runs[SCRATCH] / "final",
    }
    views = results[PRETRAINED]["protocol"]
    print(f"\n== Done in {(time.monotonic() - began) / 60:.1f} minutes. Top-1, {views} (frames x clips x crops):\n")
    print("\n".join(f"{what:>14}  {100 * share:5.1f} %" for what, share in shares))
    print(f"\n{verdict(results)} One seed; `python experiments/demo_seeds.py` runs five.\n")
    print("\n".join(f"{name:>21}  {path}" for name, path in paths.items()))
