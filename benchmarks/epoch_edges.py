"""What the edges of epochs cost: many epochs of a few short clips against one epoch of as many, in pairs.

    python -m benchmarks epoch_edges                        # 20 epochs of 56 clips, one of 1,120; five pairs
    python -m benchmarks epoch_edges --epochs 3 --pairs 2   # a quick look

Both sides read the same files through the trainers' `step_batches` and make the same number of steps of a small model, from
the start of the workers to the last step; they take turns. Where workers stop and start at each epoch's end, the first
side is slower by that. Other work on the machine only ever adds time, to a side by chance; so the shortest runs of the two
sides are compared. Printed too: the median of the pairs, the ratio of processor time, and how long the first step of an epoch
waits for its data beside how long a step is.
"""

import argparse
import os
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from videomae import VideoMAEConfig, VideoMAEForPreTraining
from videomae.data.collators import PretrainCollator
from videomae.data.lists.layouts import open_manifest
from videomae.data.on_device import finish
from videomae.data.synthetic import SyntheticSet, make_synthetic_set
from videomae.data.transforms import PretrainTransform
from videomae.data.video_dataset import VideoDataset
from videomae.sampling_videomae import ClipSampling
from videomae.training.batches import StepPlan, step_batches

from .common.timing import header, record, take_turns

SIZE, FRAMES, BATCH = 32, 8, 8


@dataclass
class Run:
    """A short training over a list, and what its steps took."""

    listing: Path
    epochs: int
    workers: int

    def __post_init__(self):
        self.waits: list[float] = []  # of the first steps of epochs but the first, which waits for workers to start
        self.others: list[float] = []  # of all other steps
        self.steps: list[float] = []
        self.processor: list[float] = []  # seconds of this process and its workers

    def __call__(self, number: int) -> None:
        before = sum(os.times()[:4])
        self.train(number)
        self.processor.append(sum(os.times()[:4]) - before)  # the workers have ended, and count

    def train(self, number: int) -> None:
        torch.manual_seed(number)
        fields = {"hidden_size": 192, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 768}
        config = VideoMAEConfig.preset(
            "small", image_size=SIZE, num_frames=FRAMES, decoder_num_hidden_layers=2, **fields
        )
        model = VideoMAEForPreTraining(config).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
        dataset = VideoDataset(
            open_manifest(self.listing),
            mode="pretrain",
            sampling=ClipSampling(num_frames=FRAMES, stride_frames=1),
            transform=PretrainTransform(SIZE),
            seed=number,
        )
        plan = StepPlan(
            num_clips=len(dataset), clips_per_step=BATCH, clips_per_device=BATCH, processes=1, epochs=self.epochs
        )
        collate = PretrainCollator(config.grid, mask_ratio=0.75, as_bytes=True)
        steps = step_batches(
            dataset, collate, plan, seed=number, first_step=0, last_step=plan.total_steps, num_workers=self.workers
        )
        for step, batches in steps:
            began = time.perf_counter()
            for batch in batches:
                batch.pop("sources")
                model(**finish(batch)).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            if step:
                self.steps.append(time.perf_counter() - began)
                (self.others if step % plan.steps_per_epoch else self.waits).append(batches.waited)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=56, help="clips of an epoch; a multiple of 8")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--workers", type=int, default=1)
    args = parser.parse_args(argv)
    if args.clips < BATCH or args.clips % BATCH or args.epochs < 2:
        raise ValueError(
            f"--clips {args.clips} --epochs {args.epochs}: --clips must be a multiple of the {BATCH} clips of a step, "
            "and an edge needs 2 epochs"
        )
    with tempfile.TemporaryDirectory() as name:
        spec = SyntheticSet(clips=args.clips, validation_clips=8, test_clips=0, num_frames=12, height=SIZE, width=48)
        folder = make_synthetic_set(Path(name) / "set", spec)
        videos = sorted((folder / "videos" / "train").iterdir())
        short, long = folder / "short.txt", folder / "long.txt"
        short.write_text("".join(f"{path} 0\n" for path in videos))
        long.write_text("".join(f"{path} 0\n" for path in videos * args.epochs))
        many, one = Run(short, args.epochs, args.workers), Run(long, 1, args.workers)
        seconds = take_turns({"many": many, "one": one}, args.pairs)
    slower = min(seconds["many"]) / min(seconds["one"])
    median = statistics.median(a / b for a, b in zip(seconds["many"], seconds["one"]))
    work = statistics.median(a / b for a, b in zip(many.processor[1:], one.processor[1:]))  # the first warmed up
    step, wait = 1e3 * statistics.median(many.steps), 1e3 * statistics.median(many.waits)
    title = f"{args.epochs} epochs of {args.clips} short clips, {args.workers} workers"
    print(
        f"{header()}\n{title}: {min(seconds['many']):.2f} s; one epoch of as many clips: "
        f"{min(seconds['one']):.2f} s\n"
        f"ratio of the shortest of {args.pairs} runs {slower:.3f} (promised at most 1.1); median of the pairs {median:.3f}, "
        f"of processor time {work:.3f}\n"
        f"the first step of an epoch waits {wait:.1f} ms for its data (median of {len(many.waits)}, at most "
        f"{1e3 * max(many.waits):.1f}), other steps {1e3 * statistics.median(many.others):.1f} ms; a step takes {step:.1f} ms "
        "(promised: less than one step)"
    )
    # 1 / 1.1: a ratio above 1 means that ours, the many epochs, is faster
    record(
        title,
        ours=min(seconds["many"]),
        unit="s",
        peer="one epoch of as many clips",
        theirs=min(seconds["one"]),
        promised=round(1 / 1.1, 3),
        note=f"the shortest of {args.pairs} runs of each; the median pair takes {median:.3f} times as long as the peer, "
        f"and {work:.3f} times the processor time",
    )
    record("waiting for data at an epoch's edge", ours=wait, unit="ms", limit=step, note="the limit is one step")
    return 0
