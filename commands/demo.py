"""The whole job on videos made from nothing: pre-train, fine-tune, test with several views, label a file.

    videomae demo                     # a few minutes on 2 CPU cores, into ./demo_output
    videomae demo --quick             # one minute, to see that the installation works; learns next to nothing

Each step is the command that it prints, so that any of them can be repeated with other data or options.
"""

import argparse
import csv
import shlex
import time
from collections.abc import Callable
from pathlib import Path

from videomae.data.synthetic import SyntheticSet, make_synthetic_set

# Passes over the data in pre-training and in fine-tuning.
EPOCHS = {"full": (40, 20), "quick": (5, 3)}


def run(title: str, command: str, main: Callable[[list[str]], int | None], arguments: list[str]) -> None:
    print(f"\n== {title}\n$ videomae {command} {shlex.join(arguments)}", flush=True)
    start = time.monotonic()
    code = main(arguments)
    if code:
        raise RuntimeError(f"videomae {command} ended with code {code}")
    print(f"   {time.monotonic() - start:.0f} s", flush=True)


def label(model: Path, video: Path) -> list[dict]:
    """What `pipeline("video-classification")` of transformers says about a file, with our objects passed."""
    from transformers import pipeline

    from videomae import VideoMAEForVideoClassification, VideoMAEVideoProcessor

    pipe = pipeline(
        "video-classification",
        model=VideoMAEForVideoClassification.from_pretrained(model),
        video_processor=VideoMAEVideoProcessor.from_pretrained(model),
        device="cpu",
    )
    return pipe(str(video), top_k=3)


def parser() -> argparse.ArgumentParser:
    parse = argparse.ArgumentParser(
        prog="videomae demo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parse.add_argument("--output", default="demo_output", help="folder for data, runs and results [demo_output]")
    parse.add_argument("--quick", action="store_true", help="a few epochs on few clips")
    return parse


def main(argv: list[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    from videomae import train_classification, train_pretrain
    from videomae.commands import evaluation
    from videomae.training.checkpoints import latest_checkpoint

    output = Path(arguments.output)
    size = "quick" if arguments.quick else "full"
    pretrain_epochs, finetune_epochs = map(str, EPOCHS[size])
    data = output / f"videos-{size}"
    runs = output / size
    print(f"== Make videos whose class is a motion that no single frame shows\n   {data}")
    spec = SyntheticSet(clips=64, validation_clips=16, test_clips=16) if arguments.quick else SyntheticSet()
    make_synthetic_set(data, spec)

    pretrained, finetuned = runs / "pretrained", runs / "finetuned"
    run(
        "Pre-train without labels: hide most of a clip, rebuild it",
        "pretrain",
        train_pretrain.main,
        ["--recipe", "tiny", "--data", f"{data}/train.csv", "--output", str(pretrained), "--resume", "auto"]
        + ["--epochs", pretrain_epochs, "--picture_every", pretrain_epochs],
    )
    start = latest_checkpoint(pretrained)
    run(
        "Fine-tune with labels",
        "finetune",
        train_classification.main,
        ["--recipe", "tiny", "--model", str(start), "--data", f"{data}/train.csv"]
        + ["--val_data", f"{data}/validation.csv", "--output", str(finetuned), "--resume", "auto"]
        + ["--epochs", finetune_epochs, "--validate_every", "5"],
    )
    best = finetuned / "best"
    run(
        "Test as the papers do: several clips and crops of each video, scores averaged",
        "evaluate",
        evaluation.main,
        [str(best), f"{data}/test.csv", "--views", "2x3", "--output", str(runs / "results"), "--overwrite"],
    )
    with open(data / "test.csv", newline="") as table:
        row = next(csv.DictReader(table))
    video = data / row["path"]
    print(f'\n== Label a file with pipeline("video-classification")\n   {video}, which shows: {row["label"]}')
    for guess in label(best, video):
        print(f"   {guess['score']:.3f}  {guess['label']}")
    print(f"\nModels, logs, pictures and cards: {runs}")
    return 0
