"""Does pre-training teach the encoder anything? A linear probe on frozen features, before and after, from one command.

    python benchmarks/pretrain_probe.py                     # the tiny recipe on the synthetic motion set, about two minutes
    python benchmarks/pretrain_probe.py --recipe tiny-v2 --epochs 40 --output runs/probe

It makes the synthetic set (its classes are motions that no single frame shows), pre-trains without labels, and fits the
same logistic regression on the mean token of the untrained encoder and of the trained one.
"""

import argparse
import csv
import os
import platform
import tempfile
import time
from pathlib import Path

import torch

from videomae import VideoMAEForPreTraining, VideoMAEVideoProcessor, train_pretrain
from videomae.commands.probe import CentreClips, accuracy, extract_features, linear_scores
from videomae.data.synthetic import SyntheticSet, make_synthetic_set
from videomae.training.checkpoints import checkpoints
from videomae.training.options import read_recipe
from videomae.training.recipes import PretrainRecipe
from videomae.training.runs import read_log


def labelled(folder: Path, split: str) -> tuple[list[str], torch.Tensor]:
    names = (folder / "labels.txt").read_text("utf-8").splitlines()
    with open(folder / f"{split}.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    return [str(folder / row["path"]) for row in rows], torch.tensor([names.index(row["label"]) for row in rows])


def linear_probe(
    model: VideoMAEForPreTraining, processor: VideoMAEVideoProcessor, folder: Path, seeds: int = 3
) -> float:
    """Top-1 on the test split of a linear probe fitted on the training split, mean over seeds of its choice of decay."""
    features = {}
    for split in ("train", "test"):
        paths, labels = labelled(folder, split)
        features[split] = extract_features(model.videomae, CentreClips(paths, processor), quiet=True)[0], labels
    (train, train_labels), (test, labels) = features["train"], features["test"]
    classes = int(train_labels.max()) + 1
    scores = (linear_scores(train, train_labels, test, classes, seed=seed) for seed in range(seeds))
    return sum(accuracy(score, labels.tolist())["top1"] for score in scores) / seeds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="tiny")
    parser.add_argument("--epochs", type=int, default=None, help="instead of the recipe's")
    parser.add_argument("--clips", type=int, default=400)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--output", type=Path, help="keep the run and the videos here")
    args = parser.parse_args()
    print(f"{time.strftime('%Y-%m-%d')}  torch {torch.__version__}  {platform.machine()}, {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory() as temporary:
        output = args.output or Path(temporary)
        videos = make_synthetic_set(output / "motion", SyntheticSet(clips=args.clips, test_clips=200))
        command = ["--recipe", args.recipe, "--data", str(videos / "train.csv"), "--output", str(output / "run")]
        command += ["--num_workers", str(args.workers), "--log_every", "25", "--picture_every", "1000"]
        command += ["--epochs", str(args.epochs)] if args.epochs else []
        began = time.perf_counter()
        train_pretrain.main(command)
        seconds = time.perf_counter() - began

        trained = checkpoints(output / "run")[-1]
        processor = VideoMAEVideoProcessor.from_pretrained(trained)
        untrained = train_pretrain.build_model(read_recipe(output / "run" / "recipe.yaml", PretrainRecipe))
        before = linear_probe(untrained, processor, videos)
        after = linear_probe(VideoMAEForPreTraining.from_pretrained(trained), processor, videos)
        losses = [line["loss"] for line in read_log(output / "run" / "log.jsonl")]
        print(f"pre-training took {seconds:.0f} s; loss {losses[0]:.3f} -> {losses[-1]:.3f}")
        print(
            f"linear probe on frozen features, {after - before:+.1%}: before {before:.1%}, after {after:.1%} (chance 12.5 %)"
        )


if __name__ == "__main__":
    main()
