"""Which clips belong to which optimizer step, and the loader that brings them.

A step is `clips_per_step` consecutive clips of the epoch's global order, whatever the number of processes, devices,
workers or micro-batches. So a step is the same set of clips everywhere, and a position in the data is just a step.
"""

import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import Dataset

from videomae.data.randomness import sample_key
from videomae.data.sampler import RunSampler
from videomae.data.video_dataset import make_loader
from videomae.training.recipes import Recipe


@dataclass(frozen=True, kw_only=True)
class StepPlan:
    """How a training is cut into epochs, steps, processes and micro-batches. Clips here are decoded videos."""

    num_clips: int
    clips_per_step: int
    clips_per_device: int
    processes: int
    epochs: int

    @classmethod
    def of(
        cls, recipe: Recipe, *, num_clips: int, processes: int = 1, clips_per_device: int | None = None
    ) -> "StepPlan":
        """Check that the batch fits the data and divides over the devices, and fill in the micro-batch."""
        total = recipe.clips_per_step
        if num_clips == 0:
            raise ValueError("the data set has no videos; check --data")
        if num_clips < total:
            raise ValueError(
                f"the data set has {num_clips} videos, fewer than clips_per_step {total}; lower --clips_per_step "
                "(the learning rate follows)"
            )
        if total % processes:
            near = max(processes, round(total / processes) * processes)
            raise ValueError(
                f"clips_per_step {total} does not divide over {processes} processes; --clips_per_step {near} would"
            )
        share = total // processes
        micro = share if clips_per_device is None else clips_per_device
        if micro < 1 or share % micro:
            fitting = [size for size in range(1, share + 1) if share % size == 0]
            near = min(fitting, key=lambda size: (abs(size - micro), size))
            raise ValueError(
                f"clips_per_device {micro} does not divide the {share} clips that each of {processes} processes has in a "
                f"step; --clips_per_device {near} would"
            )
        return cls(
            num_clips=num_clips, clips_per_step=total, clips_per_device=micro, processes=processes, epochs=recipe.epochs
        )

    @property
    def accumulation(self) -> int:
        """Micro-batches of one device in a step."""
        return self.clips_per_step // (self.processes * self.clips_per_device)

    @property
    def steps_per_epoch(self) -> int:
        """Whole steps only, as in the official scripts: what is left of an epoch is dropped."""
        return self.num_clips // self.clips_per_step

    @property
    def total_steps(self) -> int:
        return self.epochs * self.steps_per_epoch


class MicroBatches:
    """The micro-batches of one step, fetched one at a time while the step is made, so that only one is in memory.

    Once they are used up, `sources` are the names of the step's clips and `waited` the seconds spent waiting for them.
    """

    def __init__(self, batches: Iterator[dict[str, Any]], count: int):
        self._batches, self._count = batches, count
        self.sources: list[str] = []
        self.waited = 0.0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for _ in range(self._count):
            began = time.perf_counter()
            batch = next(self._batches)
            self.waited += time.perf_counter() - began
            self.sources += batch["sources"]
            yield batch


def step_batches(
    dataset: Dataset,
    collate: Callable[[list], Any],
    plan: StepPlan,
    *,
    seed: int,
    first_step: int,
    last_step: int,
    rank: int = 0,
    num_workers: int = 0,
    pin_memory: bool = False,
) -> Iterator[tuple[int, MicroBatches]]:
    """Yield (step, its micro-batches for this process), from any step on. Each step's must be used up before the next.

    One loader serves the whole run: its workers start with the first step and prepare the next epoch before this one ends.
    """
    if first_step >= last_step:  # a run that is resumed at its end
        return
    sampler = RunSampler(
        plan.num_clips,
        seed,
        epoch_clips=plan.steps_per_epoch * plan.clips_per_step,
        first=first_step * plan.clips_per_step,
        last=last_step * plan.clips_per_step,
        rank=rank,
        world=plan.processes,
    )
    loader = make_loader(dataset, sampler, plan.clips_per_device, collate, workers=num_workers, pin_memory=pin_memory)
    loader.worker_init_fn = leave_ctrl_c_to_the_loop
    batches = iter(loader)
    for step in range(first_step, last_step):
        yield step, MicroBatches(batches, plan.accumulation)


def leave_ctrl_c_to_the_loop(worker: int) -> None:
    """For the workers of a loader: a terminal tells them of a Ctrl-C too, and the step under way still needs its clips."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def seed_step(seed: int, step: int, rank: int) -> None:
    """Seed torch's global generators (dropout, drop path) for one step of one process; no state to save then."""
    torch.manual_seed(sample_key(seed, step, rank, 0))


def default_workers() -> int:
    """Decoding processes per device: all cores but one, shared among the devices of this machine, at most 12."""
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, min(12, ((os.cpu_count() or 2) - 1) // here))
