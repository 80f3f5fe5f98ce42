"""The whole job on videos made from nothing: pre-train, fine-tune, compare with training from scratch, label a file.

    videomae demo                     # some minutes on 2 CPU cores, into ./demo_output
    videomae demo --quick             # under a minute, to see that the installation works; learns next to nothing

Each step is the command that it prints, so that any of them can be repeated with other data or options. Steps that are
done are noted in OUTPUT/SIZE/demo.json: after Ctrl-C, or anything else that ends it, the same command goes on.
"""

import csv
import dataclasses
import json
import math
import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from videomae.command_line import INTERRUPTED
from videomae.data.synthetic import SyntheticSet, make_synthetic_set
from videomae.files import write_atomic, write_json

RECORD = "demo.json"
SCRATCH, PRETRAINED = "from scratch", "pre-trained"


@dataclass(frozen=True)
class Size:
    """How much of everything. The labelled clips are the first of the unlabelled ones."""

    videos: SyntheticSet
    labelled: int
    pretrain_epochs: int
    finetune_epochs: int
    save_every: int  # steps of pre-training that an interruption may cost


def small_videos(*, clips: int, validation_clips: int, test_clips: int) -> SyntheticSet:
    """A little longer and wider than a clip, so that the views of the test differ; decoding them is the dearest part."""
    return SyntheticSet(clips, validation_clips, test_clips, num_frames=20, height=32, width=40, distractors=0)


SIZES = {
    "full": Size(small_videos(clips=1600, validation_clips=80, test_clips=320), 320, 30, 20, 250),
    "quick": Size(small_videos(clips=64, validation_clips=16, test_clips=16), 32, 4, 2, 4),
}

# 32 pixels: at 64 the loss needs some ten times as many clips before it starts to fall. V1's mask: with V2's second one a
# step rebuilds half as much, the loss falls later, and within these minutes the classifier gains nothing.
CLIP = ["--image_size", "32", "--num_frames", "8", "--stride_frames", "2"]
PRETRAIN = ["--clips_per_step", "32", "--num_samples", "1", "--crop_scales", "1.0", "--mask_ratio", "0.75"]
PRETRAIN += ["--base_lr", "3.2e-2", "--min_lr", "8e-5"]  # for 256 clips a step: 4e-3 to 1e-5 for 32
FINETUNE = ["--clips_per_step", "16", "--base_lr", "1.6e-2", "--min_lr", "1e-4", "--layer_decay", "none"]
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

    def run(
        self, title: str, command: str, main: Callable[[list[str]], int | None], arguments: list[str], *, product: Path
    ) -> None:
        """`product` is what the command leaves behind; without it, or with another command, the step is repeated."""
        text = f"videomae {command} {shlex.join(arguments)}"
        print(f"\n== {title}\n$ {text}", flush=True)
        if self.done.get(title, {}).get("command") == text and product.exists():
            print(f"   done before, in {self.done[title]['seconds']:.0f} s", flush=True)
            return
        start = time.monotonic()
        code = main(arguments)
        if code == INTERRUPTED:  # it has written its checkpoint
            raise KeyboardInterrupt
        if code:
            raise OSError(f"`videomae {command}` ended with code {code}; run the same command again to go on")
        seconds = time.monotonic() - start
        self.done[title] = {"command": text, "seconds": seconds}
        write_json(self.record, self.done)
        print(f"   {seconds:.0f} s", flush=True)


def make_fresh(folder: Path) -> Path:
    """The weights that both arms start from: those with which pre-training begins."""
    from videomae.train_pretrain import build_model
    from videomae.training.recipes import PRETRAINING

    if not (folder / "config.json").exists():
        recipe = dataclasses.replace(PRETRAINING["tiny"], config=MODEL, image_size=32, num_frames=8)
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


def comparison(results: dict[str, dict[str, Any]], classes: int) -> str:
    """Both accuracies, and whether their difference is more than the choice of the test clips explains."""
    videos = results[SCRATCH]["videos"]
    shares = [results[arm]["metrics"]["top1"] for arm in results]
    gain = 100 * (shares[1] - shares[0])
    # Two independent proportions; the same clips are tested twice, which makes this the wider, more careful interval.
    margin = 196 * math.sqrt(sum(share * (1 - share) for share in shares) / videos)
    verdict = "more than" if gain > margin else "not more than"
    lines = [f"{arm:>14}  {100 * share:5.1f} % of {videos} test clips" for arm, share in zip(results, shares)]
    lines += [
        f"{'chance':>14}  {100 / classes:5.1f} %",
        f"{'difference':>14}  {gain:+5.1f} points, {verdict} the choice of test clips explains (±{margin:.1f})",
    ]
    return "\n".join(lines)


def demo(output: Path, name: str) -> None:
    from videomae import train_classification, train_pretrain

    began = time.monotonic()
    size, folder, data = SIZES[name], output / name, output / f"videos-{name}"
    motions = len(size.videos.motions)
    print(f"== Make videos of {motions} classes, each a motion that no single frame shows\n   {data}", flush=True)
    make_synthetic_set(data, size.videos)
    make_lists(data, size.labelled)
    fresh = make_fresh(folder / "fresh")
    steps = Steps(folder / RECORD)
    pretrained = folder / "pretrained"
    steps.run(
        "Pre-train without labels: three quarters of a clip are hidden and rebuilt",
        "pretrain",
        train_pretrain.main,
        ["--recipe", "tiny", "--model", str(fresh), "--config", "--data", f"{data}/train.csv", *CLIP, *PRETRAIN]
        + ["--epochs", str(size.pretrain_epochs), "--warmup_epochs", str(size.pretrain_epochs / 20)]
        + ["--picture_every", str(size.pretrain_epochs), "--log_every", "50", "--save_every", str(size.save_every)]
        + ["--output", str(pretrained), "--resume", "auto"],
        product=pretrained / "pictures",
    )
    starts = {SCRATCH: fresh, PRETRAINED: pretrained / "final"}
    runs = {SCRATCH: folder / "finetuned-from-scratch", PRETRAINED: folder / "finetuned"}
    for arm, what in ((SCRATCH, "random weights"), (PRETRAINED, "the pre-trained weights")):
        steps.run(
            f"Fine-tune {what} with {size.labelled} labels; test as the papers do, several clips and crops a video",
            "finetune",
            train_classification.main,
            ["--recipe", "tiny", "--model", str(starts[arm]), "--data", f"{data}/labelled.csv"]
            + ["--val_data", f"{data}/validation.csv", "--test_data", f"{data}/test.csv", *CLIP, *FINETUNE]
            + ["--epochs", str(size.finetune_epochs), "--warmup_epochs", str(size.finetune_epochs / 10)]
            + ["--validate_every", str(max(1, size.finetune_epochs // 3)), "--log_every", "20"]
            + ["--output", str(runs[arm]), "--resume", "auto"],
            product=runs[arm] / "test" / "results.json",
        )
    results = {arm: json.loads((runs[arm] / "test" / "results.json").read_text("utf-8")) for arm in starts}
    classifier = runs[PRETRAINED] / "final"  # the weights that were tested
    with open(data / "test.csv", newline="") as table:
        row = next(csv.DictReader(table))
    video = data / row["path"]
    print(f'\n== Label a file with pipeline("video-classification")\n   {video}, which shows: {row["label"]}')
    for guess in label(classifier, video):
        print(f"   {guess['score']:.3f}  {guess['label']}")

    picture = max((pretrained / "pictures").glob("*.png"), key=lambda path: path.stat().st_mtime)
    paths = {
        "videos and lists": data,
        "pre-trained model": starts[PRETRAINED],
        "reconstruction": picture,
        "classifier": classifier,
        "its card": classifier / "README.md",
        "its test": runs[PRETRAINED] / "test" / "results.json",
        "the other arm": runs[SCRATCH] / "final",
    }
    views = results[PRETRAINED]["protocol"]
    print(f"\n== Done in {(time.monotonic() - began) / 60:.1f} minutes. Top-1, {views} (frames x clips x crops):\n")
    print(comparison(results, motions))
    print("\nSame labels, steps and first weights, one seed; benchmarks/pretraining_gain.py runs five.\n")
    print("\n".join(f"{name:>18}  {path}" for name, path in paths.items()))
