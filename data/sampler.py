"""The order of clips: one seeded permutation an epoch, shared out over processes, started at any position."""

from collections.abc import Iterator

import torch
from torch.utils.data import Sampler

from videomae.data.randomness import generator_for, sample_key


class EpochSampler(Sampler[int]):
    """Indices of one epoch for process `rank` of `world`.

    The global order is a permutation that depends on (seed, epoch) alone; process r takes the positions
    start + r, start + r + world, ... So a global batch is the same set of clips for any number of processes, and a run
    that stopped after `start` clips (counted over all processes) goes on with the next one at no cost.

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
            raise ValueError(f"start must lie in [0, {length}], not {start}")
        if not 0 <= rank < world:
            raise ValueError(f"rank must lie in [0, {world - 1}] of {world} processes, not {rank}")
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
