"""One number per sample: every random choice of training is a function of (seed, epoch, index, sample) and a stream.

Neither workers, processes, batches nor resuming enter, so they cannot change what a run sees.
"""

import hashlib
import math

import torch

# Streams of one sample that must not share draws: adding a draw to one would otherwise shift the others.
FRAMES, PIXELS, MASK, DECODER_MASK, MIXING, NOISE = "frames", "pixels", "mask", "decoder mask", "mixing", "noise"


def sample_key(seed: int, epoch: int, index: int, sample: int) -> int:
    """The identity of one augmented sample, as a non-negative 63-bit integer."""
    return _hash("sample", seed, epoch, index, sample)


def generator_for(key: int, stream: str) -> torch.Generator:
    """A fresh generator for one stream of a sample."""
    return torch.Generator().manual_seed(_hash(stream, key))


def seed_for(key: int, stream: str) -> int:
    """The number that `generator_for` seeds with, for other kinds of generator."""
    return _hash(stream, key)


def uniform(generator: torch.Generator, low: float, high: float) -> float:
    return low + (high - low) * torch.rand((), generator=generator, dtype=torch.float64).item()


def log_uniform(generator: torch.Generator, low: float, high: float) -> float:
    return math.exp(uniform(generator, math.log(low), math.log(high)))


def randint(generator: torch.Generator, bound: int) -> int:
    """An integer in [0, bound)."""
    return int(torch.randint(bound, (), generator=generator))


def _hash(*parts: int | str) -> int:
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
