"""Videos whose features are nearly equal: copies, re-encodings, neighbouring cuts of one recording.

Blocks of rows are compared with all others, so memory grows with the number of videos and not with its square.
"""

import json
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from videomae.features.files import read_array

BLOCK = 1 << 24  # similarities at a time: 64 MB
MOST_PAIRS = 100_000


class Pair(NamedTuple):
    one: int
    other: int
    similarity: float


def read_vectors(folder: str | os.PathLike) -> tuple[list[str], np.ndarray]:
    """Paths and one vector a video, (N, D), of a folder that `videomae features` wrote; windows are averaged."""
    manifest = Path(folder) / "manifest.json"
    if not manifest.is_file():
        raise FileNotFoundError(f"{folder} has no manifest.json; give a folder that `videomae features` wrote")
    described = json.loads(manifest.read_text("utf-8"))
    if not isinstance(described, dict) or not {"identity", "complete", "videos"} <= described.keys():
        raise ValueError(f"{manifest} is not what `videomae features` writes")
    if not described["complete"]:
        raise ValueError(f"{folder} is not complete; run the same `videomae features` again to finish it")
    if described["identity"]["level"] == "token":
        raise ValueError(f"{folder} holds tokens; make features with --level video or window to compare videos")
    paths, rows = [], []
    for video in described["videos"]:
        row = np.asarray(read_array(Path(folder) / video["file"]), np.float32)
        paths.append(video["path"])
        rows.append(row if row.ndim == 1 else row.mean(axis=0))
    if not rows:
        raise ValueError(f"{folder} holds no features; none of its videos could be read")
    return paths, np.stack(rows)


def comparable(vectors: np.ndarray) -> np.ndarray:
    """Centred and scaled by dimension, then of unit length: what all videos of a set have in common is no similarity."""
    vectors = np.asarray(vectors, np.float32)
    spread = vectors.std(axis=0)
    vectors = (vectors - vectors.mean(axis=0)) / np.where(
        spread > 1e-6 * max(float(spread.max(initial=0)), 1e-30), spread, np.inf
    )
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def near_pairs(vectors: np.ndarray, similarity: float, *, block: int = BLOCK) -> list[Pair]:
    """All pairs whose cosine, after `comparable`, reaches `similarity`, most similar first."""
    vectors = comparable(vectors)
    return _pairs(vectors, np.zeros(len(vectors), np.float32), similarity, block, "similar", "raise --similarity")


def close_pairs(vectors: np.ndarray, distance: float, *, block: int = BLOCK) -> list[Pair]:
    """All pairs whose root mean square difference is at most `distance`, closest first; `similarity` is minus that."""
    vectors = np.asarray(vectors, np.float32)
    vectors = vectors - vectors.mean(axis=0)  # so that squares stay small
    dimensions = vectors.shape[1]
    half = -0.5 * (vectors**2).sum(axis=1)
    pairs = _pairs(vectors, half, -0.5 * dimensions * distance**2, block, "close", "do not read them")
    return [pair._replace(similarity=-((max(-2 * pair.similarity, 0.0) / dimensions) ** 0.5)) for pair in pairs]


def _pairs(vectors: np.ndarray, terms: np.ndarray, least: float, block: int, how: str, way_out: str) -> list[Pair]:
    """Pairs whose product, with the terms of both added, is at least `least`; a block of rows at a time."""
    rows = max(block // max(len(vectors), 1), 1)
    pairs: list[Pair] = []
    for start in range(0, len(vectors), rows):
        products = vectors[start : start + rows] @ vectors[start:].T
        products += terms[start : start + rows, None]
        products += terms[start:]
        ones, others = np.nonzero(products >= least)
        later = others > ones
        found = zip(ones[later] + start, others[later] + start, products[ones[later], others[later]])
        pairs += [Pair(int(one), int(other), float(value)) for one, other, value in found]
        if len(pairs) > MOST_PAIRS:
            raise ValueError(
                f"more than {MOST_PAIRS:,} pairs of {len(vectors)} videos are as {how} as asked for; {way_out}"
            )
    return sorted(pairs, key=lambda pair: (-pair.similarity, pair.one, pair.other))
