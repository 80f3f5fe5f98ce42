"""The order of clips: one seeded permutation an epoch, shared out over processes, started at any position."""

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch.utils.data import Sampler

from videomae.data.randomness import generator_for, sample_key


class EpochIndex(NamedTuple):
    """An index that says which epoch it belongs to, so that workers may be ahead of the training by an epoch's edge."""

    epoch: int
    index: int  # pyright: ignore[reportIncompatibleMethodOverride]  # not the method of tuples


class EpochSampler(Sampler[int]):
    """Indices of one epoch for process `rank` of `world`.

    The global order is a permutation that depends on (seed, epoch) alone; process r takes the positions
    start + r, start + r + world, ... So a global batch is the same set of clips for any number of processes, and a run
    that stopped after `start` clips (counted over all processes) continues with the next one at no cost.

    even: every process gets the same number of clips, dropping up to world - 1 at the end (training); without it each
        clip comes exactly once over all processes (evaluation).
    """

    def __init__(
        self,
        length: int,
        seed: int = 0,
        epoch: int = 0,
        start: int = 0,
        rank: int = 0,
        world: int = 1,
        *,
        shuffle: bool = True,
        even: bool = True,
    ):
        if length < 1:
            raise ValueError(f"a sampler needs at least 1 clip, got length={length}")
        if not 0 <= start <= length:
            raise ValueError(f"start must be in [0, {length}], not {start}")
        if not 0 <= rank < world:
            raise ValueError(f"rank must be in [0, {world - 1}] of {world} processes, not {rank}")
        self.length, self.seed, self.epoch, self.start = length, seed, epoch, start
        self.rank, self.world, self.shuffle, self.even = rank, world, shuffle, even

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """The order of another epoch, from its beginning or from a position in it."""
        self.epoch, self.start = epoch, start

    def order(self) -> torch.Tensor:
        """The global order of the epoch, before it is shared out."""
        if not self.shuffle:
            return torch.arange(self.length)
        return torch.randperm(self.length, generator=generator_for(sample_key(self.seed, self.epoch, 0, 0), "order"))

    def __iter__(self) -> Iterator[int]:
        indices = self.order()[self.start :]
        if self.even:
            indices = indices[: len(indices) // self.world * self.world]
        yield from indices[self.rank :: self.world].tolist()

    def __len__(self) -> int:
        left = self.length - self.start
        return left // self.world if self.even else len(range(self.rank, left, self.world))


class RunSampler(Sampler[EpochIndex]):
    """The clips of a whole run for process `rank` of `world`: the orders of EpochSampler, one epoch after the other.

    Of each epoch the first `epoch_clips` clips are used. first, last: where in the run to start and to end, in clips
    counted over all processes and epochs; all three are multiples of `world`.
    """

    def __init__(
        self, length: int, seed: int = 0, *, epoch_clips: int, first: int, last: int, rank: int = 0, world: int = 1
    ):
        if not 0 < epoch_clips <= length:
            raise ValueError(f"epoch_clips must be in [1, {length}], the length of the data set, not {epoch_clips}")
        if not 0 <= first <= last:
            raise ValueError(f"first must be in [0, {last}], where the run ends, not {first}")
        for name, value in (("epoch_clips", epoch_clips), ("first", first), ("last", last)):
            if value % world:
                raise ValueError(f"{name} must be a multiple of the {world} processes, not {value}")
        self.length, self.seed, self.epoch_clips = length, seed, epoch_clips
        self.first, self.last, self.rank, self.world = first, last, rank, world

    def __iter__(self) -> Iterator[EpochIndex]:
        position = self.first
        while position < self.last:
            epoch, start = divmod(position, self.epoch_clips)
            end = min(self.epoch_clips, self.last - epoch * self.epoch_clips)
            order = EpochSampler(self.length, self.seed, epoch, start=start, rank=self.rank, world=self.world)
            for index in itertools.islice(order, (end - start) // self.world):
                yield EpochIndex(epoch, index)
            position += end - start

    def __len__(self) -> int:
        return (self.last - self.first) // self.world
