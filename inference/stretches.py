"""From scores of overlapping windows to stretches of time: smoothing, two thresholds, gaps, and what a subtitle shows.

Each window answers for the time that is nearer to its middle than to any other's. This makes stretches of a classifier's
answers; it is no localiser, and its edges are no finer than the distance of two windows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from videomae.data.lists.manifests import some_of
from videomae.metrics.temporal_detection import LabelledStretch, spans

# W windows  L labels


@dataclass(frozen=True, kw_only=True)
class StretchRules:
    """smooth_seconds: scores are means over the windows whose middles lie within half of it. A stretch is a run of
    windows that keep `keep_score` and somewhere reach `enter_score`; runs closer than `max_gap_seconds` are one, and
    those shorter than `min_seconds` are left out. Labels in `background` make none."""

    smooth_seconds: float = 2.0
    enter_score: float = 0.5
    keep_score: float = 0.3
    max_gap_seconds: float = 0.0
    min_seconds: float = 0.0
    background: tuple[str, ...] = ()

    def __post_init__(self):
        if self.keep_score > self.enter_score:
            raise ValueError(
                f"keep_score is {self.keep_score:g} and enter_score {self.enter_score:g}; a stretch keeps a score no higher "
                "than the one it must reach: lower keep_score"
            )

    def check_labels(self, names: Sequence[str]) -> None:
        """Refuse a background that is no label of the model."""
        if unknown := sorted(set(self.background) - set(names)):
            raise ValueError(
                f"background names {unknown[0]!r}, which is no label of the model; its labels are {some_of(names)}"
            )


def slots(times: np.ndarray) -> np.ndarray:
    """(W, 2) starts and ends of windows -> (W, 2) the time that each answers for, without overlap."""
    middles = times.mean(axis=1)
    edges = np.concatenate([times[:1, 0], (middles[1:] + middles[:-1]) / 2, times[-1:, 1]])
    return np.stack([edges[:-1], edges[1:]], axis=1)


def smoothed(scores: np.ndarray, times: np.ndarray, seconds: float) -> np.ndarray:
    """(W, L) means over the windows whose middles are at most half of `seconds` away."""
    middles, reach = times.mean(axis=1), seconds / 2 + 1e-6
    first, end = np.searchsorted(middles, middles - reach), np.searchsorted(middles, middles + reach, side="right")
    sums = np.concatenate([np.zeros((1, scores.shape[1])), np.cumsum(scores, axis=0, dtype=np.float64)])
    return (sums[end] - sums[first]) / (end - first)[:, None]


def find_stretches(
    scores: np.ndarray, times: np.ndarray, names: Sequence[str], rules: StretchRules
) -> list[LabelledStretch]:
    """The stretches of all labels by their start; several labels may hold at once. A score is the mean over the windows."""
    smooth, edges = smoothed(scores, times, rules.smooth_seconds), slots(times)
    found = []
    for column, name in enumerate(names):
        if name in rules.background or smooth[:, column].max(initial=-np.inf) < rules.enter_score:
            continue
        runs = [
            (first, last)
            for first, last in _runs(smooth[:, column] >= rules.keep_score)
            if smooth[first : last + 1, column].max() >= rules.enter_score
        ]
        for first, last in _joined(runs, edges, rules.max_gap_seconds):
            start, end = float(edges[first, 0]), float(edges[last, 1])
            if end - start >= rules.min_seconds:
                found.append(LabelledStretch(name, start, end, float(smooth[first : last + 1, column].mean())))
    return sorted(found, key=lambda stretch: (stretch.start_seconds, -stretch.score))


def best_labels(scores: np.ndarray, times: np.ndarray, names: Sequence[str]) -> list[LabelledStretch]:
    """The highest label at every moment; neighbours of one label are one stretch."""
    edges, best = slots(times), scores.argmax(axis=1)
    ends = np.flatnonzero(np.append(best[1:] != best[:-1], True))
    firsts = np.concatenate([[0], ends[:-1] + 1])
    return [
        LabelledStretch(
            names[int(best[first])],
            float(edges[first, 0]),
            float(edges[last, 1]),
            float(scores[first : last + 1, best[first]].mean()),
        )
        for first, last in zip(firsts.tolist(), ends.tolist())
    ]


class Cue(NamedTuple):
    """What is shown from one moment to the next: the stretches that hold, the surest first."""

    start_seconds: float
    end_seconds: float
    stretches: tuple[LabelledStretch, ...]


def cues(stretches: Sequence[LabelledStretch], most: int = 3) -> list[Cue]:
    """Cues without overlap, of at most so many labels each; where nothing holds there is none."""
    shown: list[Cue] = []
    for start, end, there in spans(stretches):
        there = tuple(sorted(there, key=lambda stretch: -stretch.score)[:most])
        if there and shown and shown[-1].stretches == there and shown[-1].end_seconds == start:
            shown[-1] = shown[-1]._replace(end_seconds=end)
        elif there:
            shown.append(Cue(start, end, there))
    return shown


def _runs(holds: np.ndarray) -> list[tuple[int, int]]:
    """(first, last) of every run of True."""
    changes = np.flatnonzero(np.diff(np.concatenate([[False], holds, [False]]).astype(np.int8)))
    return [(int(first), int(end) - 1) for first, end in zip(changes[::2], changes[1::2])]


def _joined(runs: Sequence[tuple[int, int]], edges: np.ndarray, max_gap: float) -> list[tuple[int, int]]:
    joined: list[tuple[int, int]] = []
    for first, last in runs:
        if joined and max_gap > 0 and edges[first, 0] - edges[joined[-1][1], 1] <= max_gap:
            first = joined.pop()[0]
        joined.append((first, last))
    return joined
