"""Which given labels a model's out-of-sample probabilities speak against: confident learning (Northcutt et al., 2021).

Plain numpy. A label is judged by the probability that the model gives it (self-confidence), by its distance to the best other
class (normalised margin), and by thresholds of the classes: a video counts for another class if that class's
probability reaches what the class's own videos have on average. Probabilities of a model that has seen the labels in
training agree with them whatever they are, so they show nothing.
"""

from typing import NamedTuple

import numpy as np

# N videos  C classes


class Judged(NamedTuple):
    """What is known of each label: see the functions of the same names."""

    self_confidence: np.ndarray  # (N,)
    margin: np.ndarray  # (N,)
    confident: np.ndarray  # (N,), -1 where no class reaches its threshold
    issue: np.ndarray  # (N,) bool
    thresholds: np.ndarray  # (C,), NaN for classes without videos
    joint: np.ndarray  # (C, C) estimated counts, given class by row, likely class by column


def judge(scores: np.ndarray, labels: np.ndarray) -> Judged:
    """All of it for (N, C) probabilities and the given class of each video."""
    thresholds = class_thresholds(scores, labels)
    confident = confident_classes(scores, thresholds)
    issue = (confident >= 0) & (confident != labels) & (scores.argmax(axis=1) != labels)
    counts = confident_joint(labels, confident, scores.shape[1])
    margin, own = normalised_margin(scores, labels), self_confidence(scores, labels)
    return Judged(own, margin, confident, issue, thresholds, calibrated_joint(counts, labels))


def self_confidence(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The probability of the given label."""
    return scores[np.arange(len(labels)), labels]


def normalised_margin(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """From 0 (another class is certain) to 1 (the given one is): half of one plus the distance to the best other."""
    others = scores.copy()
    others[np.arange(len(labels)), labels] = -np.inf
    return (1 + self_confidence(scores, labels) - others.max(axis=1)) / 2


def class_thresholds(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The mean self-confidence of each class's videos."""
    counts = np.bincount(labels, minlength=scores.shape[1])
    sums = np.bincount(labels, self_confidence(scores, labels), minlength=scores.shape[1])
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def confident_classes(scores: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """The most probable of the classes that reach their threshold, or -1."""
    reached = np.where(scores >= np.nan_to_num(thresholds, nan=np.inf) - 1e-6, scores, -np.inf)
    return np.where(np.isfinite(reached).any(axis=1), reached.argmax(axis=1), -1)


def confident_joint(labels: np.ndarray, confident: np.ndarray, num_classes: int) -> np.ndarray:
    """(C, C) counts of the videos that have a confident class: the given class by row, the confident one by column."""
    known = confident >= 0
    return np.bincount(labels[known] * num_classes + confident[known], minlength=num_classes**2).reshape(
        -1, num_classes
    )


def calibrated_joint(counts: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The joint scaled so that each row holds as many videos as have the label."""
    videos = np.bincount(labels, minlength=len(counts)).astype(np.float64)
    totals = counts.sum(axis=1)
    # A class whose videos all stay below every threshold is taken to be as it was labelled.
    rows = np.where(totals[:, None] > 0, counts, np.eye(len(counts)))
    return rows / rows.sum(axis=1, keepdims=True) * videos[:, None]
