"""How well stretches of time are found: average precision by temporal IoU, as ActivityNet measures it, and accuracy over time.

Plain numpy on seconds. Who gives the truth, and which video is which, is evaluation/stretch_scores.py's part.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

# N stretches of one video  K thresholds
TIOUS = (0.3, 0.4, 0.5, 0.6, 0.7)  # those of THUMOS14's tables


class LabelledStretch(NamedTuple):
    """A label from one second of a video to another; the score of a labelled stretch means nothing."""

    label: str
    start_seconds: float
    end_seconds: float
    score: float = 1.0


def temporal_ious(one: LabelledStretch, others: Sequence[LabelledStretch]) -> np.ndarray:
    """Overlap over union of a stretch with each of the others, whatever their labels: (N,)."""
    starts = np.array([other.start_seconds for other in others])
    ends = np.array([other.end_seconds for other in others])
    shared = np.clip(np.minimum(ends, one.end_seconds) - np.maximum(starts, one.start_seconds), 0.0, None)
    return shared / ((ends - starts) + (one.end_seconds - one.start_seconds) - shared)


def average_precisions(
    truth: Mapping[str, Sequence[LabelledStretch]],
    found: Mapping[str, Sequence[LabelledStretch]],
    tious: Sequence[float] = TIOUS,
) -> np.ndarray:
    """(K,) of one class: `truth` and `found` have its stretches by video.

    From the highest score down, a found stretch is right where it reaches the threshold with a labelled one that no
    earlier one has taken, and takes the one that it overlaps most. Precision is that of the best point from there on
    (Pascal VOC 2011). Without labelled stretches it is 0.
    """
    total = sum(map(len, truth.values()))
    ranked = sorted(
        ((video, stretch) for video, stretches in found.items() for stretch in stretches),
        key=lambda pair: -pair[1].score,
    )
    if not total or not ranked:
        return np.zeros(len(tious))
    right = np.zeros((len(tious), len(ranked)), bool)
    taken = {video: np.zeros((len(tious), len(stretches)), bool) for video, stretches in truth.items()}
    for rank, (video, stretch) in enumerate(ranked):
        if not truth.get(video):
            continue
        overlaps = temporal_ious(stretch, truth[video])
        for number, tiou in enumerate(tious):
            free = np.where(taken[video][number], -1.0, overlaps)
            best = int(free.argmax())
            if free[best] >= tiou:
                right[number, rank] = taken[video][number, best] = True
    hits = right.cumsum(axis=1)
    precision = hits / np.arange(1, len(ranked) + 1)
    best_from_here = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    return (best_from_here * right).sum(axis=1) / total


class TimeShares(NamedTuple):
    """Seconds in which the answer is right, of all, and the same where the truth has a label."""

    right: float
    all: float
    right_labelled: float
    labelled: float


def time_shares(
    truth: Sequence[LabelledStretch], found: Sequence[LabelledStretch], duration_seconds: float
) -> TimeShares:
    """At each moment the answer is the found stretch of the highest score, or nothing.

    It is right where it is one of the labels that hold there, or where it is nothing and none holds.
    """
    right = right_labelled = labelled = covered = 0.0
    for start, end, true, said in spans(truth, found):
        length = max(min(end, duration_seconds) - max(start, 0.0), 0.0)
        labels = {stretch.label for stretch in true}
        answer = max(said, key=lambda stretch: stretch.score).label if said else None
        is_right = answer in labels if labels else answer is None
        covered += length
        right += length * is_right
        labelled += length * bool(labels)
        right_labelled += length * (bool(labels) and is_right)
    right += duration_seconds - covered  # before the first stretch and after the last, where nothing is right
    return TimeShares(right, duration_seconds, right_labelled, labelled)


def by_label(stretches: Mapping[str, Iterable[LabelledStretch]], label: str) -> dict[str, list[LabelledStretch]]:
    """Those of one label, by video."""
    return {video: [stretch for stretch in those if stretch.label == label] for video, those in stretches.items()}


def spans(*groups: Sequence[LabelledStretch]) -> Iterator[tuple]:
    """(start, end, the stretches of the first group that hold all that time, those of the second, ...), in order.

    From the first start to the last end, without gaps; nothing begins or ends inside a span.
    """
    moments = sorted({at for group in groups for stretch in group for at in stretch[1:3]})
    waiting = [sorted(group, key=lambda stretch: stretch.start_seconds, reverse=True) for group in groups]
    holding: list[list[LabelledStretch]] = [[] for _ in groups]
    for start, end in itertools.pairwise(moments):
        for there, later in zip(holding, waiting):
            there[:] = [stretch for stretch in there if stretch.end_seconds > start]
            while later and later[-1].start_seconds <= start:
                there.append(later.pop())
        yield start, end, *map(tuple, holding)
