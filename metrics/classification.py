"""What scores of a classifier are worth: AUC, average precision, F1, thresholds, calibration, temperature, bootstrap.

Plain numpy on probabilities and targets, by the definitions of scikit-learn where it has the measure: equal scores share
one threshold, a class without positives (or, for AUC, without negatives) has no value and is left out of means. Each
measure takes weights of the videos, so that the bootstrap and the results by group are the same code. Accuracy over views
is video_accuracy/scores.py; the tables and the report are evaluation/scores.py.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

# N videos  C classes
SMALLEST = 1e-12  # float32 softmax gives exact zeros, whose logarithm would be infinite
TEMPERATURES = (0.05, 20.0)  # outside of these the scores are (nearly) all wrong, or all right


@dataclass(frozen=True)
class Curve:
    """Counts of one class at every distinct score, from the highest: who is found when the threshold falls to it."""

    scores: np.ndarray
    targets: np.ndarray
    order: np.ndarray = field(init=False)
    ends: np.ndarray = field(init=False)

    def __post_init__(self):
        order = np.argsort(-self.scores, kind="stable")
        ranked = self.scores[order]
        object.__setattr__(self, "order", order)
        object.__setattr__(self, "ends", np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True)))

    @property
    def thresholds(self) -> np.ndarray:
        return self.scores[self.order][self.ends]

    def counts(self, weights: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """True and false positives at each threshold (a score that reaches it counts as positive)."""
        weights = np.ones(len(self.scores)) if weights is None else weights
        ranked, hits = weights[self.order], self.targets[self.order]
        return np.cumsum(ranked * hits)[self.ends], np.cumsum(ranked * ~hits)[self.ends]


def roc_auc(curve: Curve, weights: np.ndarray | None = None) -> float | None:
    """How often a positive stands above a negative; equal scores count half. None without both kinds."""
    return _area(*curve.counts(weights))


def average_precision(curve: Curve, weights: np.ndarray | None = None) -> float | None:
    """Mean over the positives of the precision at their threshold; None without positives."""
    return _mean_precision(*curve.counts(weights))


def _area(found: np.ndarray, false: np.ndarray) -> float | None:
    if not found[-1] or not false[-1]:
        return None
    heights = found + np.concatenate([[0.0], found[:-1]])
    return float((np.diff(false, prepend=0.0) * heights).sum() / 2 / found[-1] / false[-1])


def _mean_precision(found: np.ndarray, false: np.ndarray) -> float | None:
    if not found[-1]:
        return None
    precision = found / np.maximum(found + false, SMALLEST)
    return float((np.diff(found, prepend=0.0) * precision).sum() / found[-1])


def best_threshold(curve: Curve, weights: np.ndarray | None = None) -> dict[str, float] | None:
    """The score from which on to say yes, so that F1 is highest; of several, the highest. None without positives."""
    found, false = curve.counts(weights)
    if not found[-1]:
        return None
    f1 = 2 * found / (found + false + found[-1])
    best = int(f1.argmax())
    return {"threshold": float(curve.thresholds[best]), "f1": float(f1[best])}


def precision_recall_f1(
    right: np.ndarray, said: np.ndarray, true: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each class, from how often it was rightly said, said, and true; NaN where that leaves it undefined."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return right / said, right / true, 2 * right / (said + true)


# --------------------------------------------------------------------------------------------------- probabilities


def log_odds(probabilities: np.ndarray, *, single: bool) -> np.ndarray:
    """Logits that give these probabilities: by softmax over the last axis, or by sigmoid for each number alone."""
    p = np.clip(np.asarray(probabilities, np.float64), SMALLEST, 1.0)
    return np.log(p) if single else np.log(p) - np.log(np.clip(1.0 - p, SMALLEST, 1.0))


def probabilities_of(logits: np.ndarray, *, single: bool) -> np.ndarray:
    """Softmax over the classes where one class holds (`single`), else a sigmoid of each; in float64."""
    logits = np.asarray(logits, np.float64)
    if not single:
        return 0.5 * (1.0 + np.tanh(0.5 * logits))  # the sigmoid, without overflow
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def tempered(probabilities: np.ndarray, temperature: float, *, single: bool) -> np.ndarray:
    """The probabilities that logits divided by `temperature` give; the order of the classes stays."""
    return probabilities_of(log_odds(probabilities, single=single) / temperature, single=single)


def negative_log_likelihood(probabilities: np.ndarray, targets: np.ndarray, *, single: bool) -> np.ndarray:
    """Of each video, in nats; for several labels the mean over the classes."""
    p = np.clip(np.asarray(probabilities, np.float64), SMALLEST, 1.0)
    if single:
        return -np.log(p[targets])
    return -np.where(targets, np.log(p), np.log(np.clip(1.0 - probabilities, SMALLEST, 1.0))).mean(axis=1)


def fit_temperature(probabilities: np.ndarray, targets: np.ndarray, *, single: bool) -> float:
    """The temperature of the least negative log-likelihood (Guo et al., 2017), within TEMPERATURES.

    The likelihood is concave in one over the temperature, so the place where its slope is zero is bisected.
    """
    logits = log_odds(probabilities, single=single)

    def slope(inverse: float) -> float:
        return float(((probabilities_of(inverse * logits, single=single) - targets) * logits).sum())

    low, high = 1.0 / TEMPERATURES[1], 1.0 / TEMPERATURES[0]
    if slope(low) >= 0:
        return TEMPERATURES[1]
    if slope(high) <= 0:
        return TEMPERATURES[0]
    for _ in range(50):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return float((low * high) ** -0.5)


@dataclass(frozen=True)
class Reliability:
    """Confidences in bins of equal width (lower < confidence <= upper), and how often they were right."""

    confidence: np.ndarray
    hits: np.ndarray
    bins: int

    @cached_property
    def places(self) -> np.ndarray:
        return np.clip(np.ceil(self.confidence * self.bins).astype(np.int64) - 1, 0, self.bins - 1)

    def sums(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        parts = (weights, weights * self.confidence, weights * self.hits)
        counts, confidence, hits = (np.bincount(self.places, part, self.bins) for part in parts)
        return counts, confidence, hits

    def table(self) -> list[dict[str, Any]]:
        """A row for each bin; what a bin without videos would show is None."""
        rows = []
        for place, (count, confidence, hits) in enumerate(zip(*self.sums(np.ones(len(self.hits))))):
            bounds = {"lower": place / self.bins, "upper": (place + 1) / self.bins, "count": int(count)}
            shares = {"confidence": confidence / count, "accuracy": hits / count} if count else {}
            rows.append({**bounds, **{name: shares.get(name) for name in ("confidence", "accuracy")}})
        return rows

    def calibration_error(self, weights: np.ndarray | None = None) -> float:
        """Expected calibration error: mean distance of confidence and accuracy of the bins, by their counts."""
        counts, confidence, hits = self.sums(np.ones(len(self.hits)) if weights is None else weights)
        return float(np.abs(confidence - hits).sum() / counts.sum())


# ----------------------------------------------------------------------------------------------- the headline figures


@dataclass(frozen=True)
class Scored:
    """Probabilities and targets, both (N, C), and all measures of them; `single` is one class a video.

    Two classes, one a video, are a binary problem, whose positive class is number 1.
    """

    scores: np.ndarray
    targets: np.ndarray  # bool
    single: bool
    bins: int = 10

    @property
    def binary(self) -> bool:
        return self.single and self.scores.shape[1] == 2

    @cached_property
    def curves(self) -> list[Curve]:
        return [Curve(self.scores[:, k], self.targets[:, k]) for k in range(self.scores.shape[1])]

    @cached_property
    def predicted(self) -> np.ndarray:
        """(N, C) bool: the class with the highest score (of equal ones the first), or all scores from 0.5 on."""
        if not self.single:
            return self.scores >= 0.5
        return np.arange(self.scores.shape[1]) == self.scores.argmax(axis=1)[:, None]

    @cached_property
    def ranks(self) -> np.ndarray:
        """How many classes stand before the true one; of equal scores the lower number stands first."""
        true = self.scores[self.targets][:, None]
        number = self.targets.argmax(axis=1)[:, None]
        return ((self.scores > true) | ((self.scores == true) & (np.arange(self.scores.shape[1]) < number))).sum(axis=1)

    @cached_property
    def reliability(self) -> Reliability:
        """Of the predicted class; for several labels, of every class of every video."""
        if self.single:
            return Reliability(self.scores.max(axis=1), self.ranks < 1, self.bins)
        return Reliability(self.scores.ravel(), self.targets.ravel(), self.bins)

    @cached_property
    def losses(self) -> np.ndarray:
        return negative_log_likelihood(self.scores, self.targets, single=self.single)

    def headline(self, weights: np.ndarray | None = None) -> dict[str, float | None]:
        """The figures that stand for all videos, as shares of one (nll in nats); None where nothing defines them."""
        weights = np.ones(len(self.scores)) if weights is None else weights.astype(np.float64)
        total = weights.sum()
        figures: dict[str, float | None] = {}
        sums = self.class_sums(weights)
        precision, recall, f1 = precision_recall_f1(*sums)
        if self.single:
            figures["top1"] = float(weights @ (self.ranks < 1) / total)
            if self.scores.shape[1] > 5:
                figures["top5"] = float(weights @ (self.ranks < 5) / total)
            figures["mean_class_accuracy"] = mean(recall)
        else:
            right, said, true = (float(part.sum()) for part in sums)
            figures["micro_f1"] = float(2 * right / (said + true)) if said + true else None
            figures["exact_match"] = float(weights @ (self.predicted == self.targets).all(axis=1) / total)
        if self.binary:
            positive = self.curves[1]
            figures |= {"auc": roc_auc(positive, weights), "average_precision": average_precision(positive, weights)}
            figures |= {
                name: mean(part[1:]) for name, part in (("precision", precision), ("recall", recall), ("f1", f1))
            }
        else:
            counts = [curve.counts(weights) for curve in self.curves]
            figures["macro_auc"] = mean([_area(*pair) for pair in counts])
            figures["macro_average_precision"] = mean([_mean_precision(*pair) for pair in counts])
            figures |= {"macro_precision": mean(precision), "macro_recall": mean(recall), "macro_f1": mean(f1)}
        figures["nll"] = float(weights @ self.losses / total)
        spread = weights if self.single else np.repeat(weights, self.scores.shape[1])
        figures["ece"] = self.reliability.calibration_error(spread)
        return figures

    def class_sums(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """How often each class was rightly said, said, and true; all (C,)."""
        if not self.single:
            right, said, true = (weights @ part for part in self._answers)
            return right, said, true
        said, true = self._answers
        size = self.scores.shape[1]
        return (
            np.bincount(true, weights * (said == true), size),
            np.bincount(said, weights, size),
            np.bincount(true, weights, size),
        )

    @cached_property
    def _answers(self) -> tuple[np.ndarray, ...]:
        if self.single:
            return self.scores.argmax(axis=1), self.targets.argmax(axis=1)
        return tuple(part.astype(np.float64) for part in (self.predicted & self.targets, self.predicted, self.targets))

    def levels(self) -> dict[str, float]:
        """What the figures are without any skill: guessing evenly, always saying the most frequent class, and so on."""
        shares = self.targets.mean(axis=0)
        if self.binary:
            return {"chance_top1": 0.5, "majority_top1": float(shares.max()), "chance_auc": 0.5,
                    "chance_average_precision": float(shares[1])}  # fmt: skip
        levels = {"chance_auc": 0.5, "chance_average_precision": float(shares[shares > 0].mean())}
        if self.single:
            levels |= {"chance_top1": 1 / len(shares), "majority_top1": float(shares.max())}
        return levels

    def per_class(self, names: Sequence[str]) -> list[dict[str, Any]]:
        """A row for each class, in class order."""
        columns = precision_recall_f1(*self.class_sums(np.ones(len(self.scores))))
        rows = []
        for index, (name, curve) in enumerate(zip(names, self.curves)):
            row = {"index": index, "class": name, "videos": int(self.targets[:, index].sum())}
            row |= {key: number(part[index]) for key, part in zip(("precision", "recall", "f1"), columns)}
            best = best_threshold(curve) or {"threshold": None, "f1": None}
            row |= {"auc": roc_auc(curve), "average_precision": average_precision(curve)}
            rows.append({**row, "best_threshold": best["threshold"], "best_f1": best["f1"]})
        return rows


def mean(values: Sequence[float | None] | np.ndarray) -> float | None:
    """Over those that are defined; None if none is."""
    defined = [float(value) for value in values if value is not None and not np.isnan(value)]
    return float(np.mean(defined)) if defined else None


def number(value: float) -> float | None:
    """A figure for JSON, which has no NaN: None stands for it."""
    return None if np.isnan(value) else float(value)


def resampled_weights(
    count: int, groups: np.ndarray | None, resamples: int, generator: np.random.Generator
) -> Iterator[np.ndarray]:
    """How often each of `count` videos is drawn; with `groups` (their numbers, from 0) whole groups are drawn."""
    codes = np.arange(count) if groups is None else groups
    drawn = int(codes.max()) + 1
    for _ in range(resamples):
        yield np.bincount(generator.integers(drawn, size=drawn), minlength=drawn)[codes].astype(np.float64)


def intervals(
    scored: Scored, *, groups: np.ndarray | None = None, resamples: int = 1000, seed: int = 0
) -> Mapping[str, tuple[float, float] | None]:
    """95 % percentile bootstrap interval of each headline figure."""
    generator = np.random.default_rng(seed)
    draws = [
        scored.headline(weights) for weights in resampled_weights(len(scored.scores), groups, resamples, generator)
    ]
    found = {}
    for name in draws[0] if draws else ():
        values = [value for draw in draws if (value := draw[name]) is not None]
        found[name] = tuple(map(float, np.percentile(values, (2.5, 97.5)))) if values else None
    return found
