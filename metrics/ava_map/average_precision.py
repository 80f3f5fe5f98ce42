"""AVA frame mAP in numpy: the public evaluation restated without its loops.

A detection can only match the annotated box of its own key frame and class that it overlaps most, whatever the other
detections do; of those that reach the threshold the best-scored one is the true positive. So matching is one table of
pairs, one maximum per detection and one first-of-its-kind per annotated box. mmaction2's evaluation differs in what
counts, not in this; `ava_map` says how. Names, CSV files and label lists are read
by videomae.data.ava.annotations; ava_map.py makes an `evaluate` metric of this.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from videomae.choices import AVA_PROTOCOLS
from videomae.data.ava.annotations import AVA_CATEGORIES
from videomae.data.ava.boxes import iou

# mmaction2's test writes no score that does not exceed this (action_thr of its AVAMetric); a little more becomes 0.0020.
LEAST_SCORE = 0.002

# The 60 classes of ava_action_list_v2.2_for_activitynet_2019.pbtxt: those with enough validation boxes.
AVA_EVALUATED = (
    *(1, *range(3, 16), 17, 20, 22, 24, *range(26, 31), 34, *range(36, 39), 41, 43, *range(45, 50)),
    *(51, 52, 54, *range(56, 71), *range(72, 75), *range(76, 81)),
)


class LabelledBoxes(NamedTuple):
    """n boxes with one action each; a person with three actions stands here three times.

    frame: (n,) ints that name key frames. box: (n, 4) x1, y1, x2, y2, in one unit for annotations and detections.
    label: (n,) class numbers. score: (n,), higher is surer; annotations need none.
    """

    frame: np.ndarray
    box: np.ndarray
    label: np.ndarray
    score: np.ndarray | None = None

    @property
    def scores(self) -> np.ndarray:
        """`score`, where there must be one."""
        if self.score is None:
            raise ValueError("detections need scores")
        return self.score

    @classmethod
    def of(cls, frame, box, label, score=None) -> "LabelledBoxes":
        """From any sequences, checked: equal lengths and finite numbers."""
        frame = np.asarray(frame, dtype=np.int64).reshape(-1)
        columns: dict[str, np.ndarray] = dict(
            box=np.asarray(box, dtype=np.float64).reshape(-1, 4), label=np.asarray(label, dtype=np.int64).reshape(-1)
        )
        if score is not None:
            columns["score"] = np.asarray(score, dtype=np.float64).reshape(-1)
        for name, values in columns.items():
            if len(values) != len(frame):
                raise ValueError(f"{len(frame)} frames but {len(values)} values of {name}; each box needs one")
            if not np.isfinite(values).all():
                row = int(np.argwhere(~np.isfinite(values.reshape(len(frame), -1)).all(1))[0, 0])
                raise ValueError(f"{name} of box {row} is not finite")
        return cls(frame, **columns)

    def take(self, rows: np.ndarray) -> "LabelledBoxes":
        score = None if self.score is None else self.score[rows]
        return LabelledBoxes(self.frame[rows], self.box[rows], self.label[rows], score)


def true_positives(truth: LabelledBoxes, detections: LabelledBoxes, iou_threshold: float) -> np.ndarray:
    """(n,) bool over detections. Equal scores count in the order of the rows."""
    hits = np.zeros(len(detections.frame), dtype=bool)
    if not len(truth.frame) or not len(detections.frame):
        return hits
    # One number for key frame and class; annotated boxes in its order, so that those of a detection lie together.
    num_labels = max(truth.label.max(), detections.label.max()) + 1
    truth_key, key = truth.frame * num_labels + truth.label, detections.frame * num_labels + detections.label
    by_key = np.argsort(truth_key, kind="stable")
    first = np.searchsorted(truth_key[by_key], key, side="left")
    count = np.searchsorted(truth_key[by_key], key, side="right") - first

    candidates = np.flatnonzero(count)  # detections with anything to match
    if not len(candidates):
        return hits
    first, count = first[candidates], count[candidates]
    starts = np.cumsum(count) - count
    within = np.arange(count.sum()) - np.repeat(starts, count)
    pair_truth = by_key[np.repeat(first, count) + within]
    overlap = iou(detections.box[np.repeat(candidates, count)], truth.box[pair_truth])
    best = np.maximum.reduceat(overlap, starts)
    first_best = np.minimum.reduceat(
        np.where(overlap == np.repeat(best, count), np.arange(len(overlap)), len(overlap)), starts
    )

    near = best >= iou_threshold
    candidates, matched = candidates[near], pair_truth[first_best[near]]
    by_score = np.argsort(-detections.scores[candidates], kind="stable")
    _, winners = np.unique(matched[by_score], return_index=True)  # the best-scored detection of each annotated box
    hits[candidates[by_score[winners]]] = True
    return hits


def average_precision(hits: np.ndarray, num_truth: int) -> float:
    """Area under precision over recall, precision made monotone from the right (PASCAL VOC 2010). `hits` by score."""
    found = np.cumsum(hits)
    precision = found / np.arange(1, len(hits) + 1)
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    return float(precision[hits].sum() / num_truth)


def best_per_frame(detections: LabelledBoxes, most: int) -> LabelledBoxes:
    """The `most` best-scored boxes of every key frame, in the order they had."""
    order = np.lexsort((-detections.scores, detections.frame))
    frame = detections.frame[order]
    rank = np.arange(len(frame)) - np.searchsorted(frame, frame, side="left")
    return detections.take(np.sort(order[rank < most]))


def as_written(detections: LabelledBoxes) -> LabelledBoxes:
    """What is left of detections in mmaction2's result files: four digits, and single precision when read again."""
    kept = detections.take(detections.scores >= LEAST_SCORE)
    return kept._replace(box=kept.box.round(4).astype(np.float32), score=kept.scores.round(4).astype(np.float32))


def ava_map(
    truth: LabelledBoxes,
    detections: LabelledBoxes,
    *,
    classes: Iterable[int] | None = None,
    categories: Mapping[str, Sequence[int]] | None = None,
    key_frames: Sequence[int] | None = None,
    iou_threshold: float = 0.5,
    most_per_frame: int | None = None,
    protocol: str = "ava",
) -> dict:
    """Frame mAP: the mean over `classes` that have annotated boxes of their average precision.

    `key_frames` are the frames that count, with or without annotations; detections elsewhere are left out and
    counted. Without it every frame of either side counts, as in the public evaluation, where frames that a detector
    did not visit go unnoticed. `classes` are AVA's 60 unless others are given; `categories` groups them for means of
    their own.
    `most_per_frame` keeps the best-scored labelled boxes of a frame, as the challenge server did with 50. Boxes
    without area are left out and counted. Ties of scores are broken by the order of the rows.

    protocol "mmaction2" repeats that project's evaluation (`ava_eval` in its ava_utils.py): of the key frames only those
    with an annotated box of the classes count, scores below 0.002 are cut and the rest rounded to four digits, boxes too;
    boxes without area are false alarms; annotated boxes outside of `key_frames` (excluded ones) still are to be
    recalled; classes without any detection are left out of the mean. Equal scores fall as numpy's unstable sort drops
    them, frame after frame in the order of their numbers.
    """
    if protocol not in AVA_PROTOCOLS:
        raise ValueError(f"protocol must be one of {', '.join(AVA_PROTOCOLS)}, not {protocol!r}")
    mmaction2 = protocol == "mmaction2"
    given = len(detections.scores)
    if classes is None:
        classes, categories = AVA_EVALUATED, AVA_CATEGORIES if categories is None else categories
    counting = np.unique(np.asarray(list(classes), dtype=np.int64))
    if not len(counting):
        raise ValueError("classes is empty; name at least one class to evaluate")
    frames = np.union1d(truth.frame, detections.frame) if key_frames is None else np.unique(np.asarray(key_frames))
    every_truth = truth.take(np.isin(truth.label, counting))
    if mmaction2:
        frames = np.intersect1d(frames, every_truth.frame)
    truth = every_truth.take(np.isin(every_truth.frame, frames))
    detections = detections.take(np.isin(detections.frame, frames))
    elsewhere = given - len(detections.frame)

    detections = detections.take(np.isin(detections.label, counting))
    if most_per_frame is not None:
        detections = best_per_frame(detections, most_per_frame)
    solid = np.asarray((detections.box[:, 2:] > detections.box[:, :2]).all(1))
    empty = len(solid) - int(solid.sum())
    if mmaction2:
        truth = truth._replace(box=truth.box.astype(np.float32))
        detections = as_written(detections)
    else:
        detections = detections.take(solid)
    if not len(truth.frame):
        raise ValueError("no annotated box of the evaluated classes lies in the evaluated key frames; mAP is undefined")

    hits = true_positives(truth, detections, iou_threshold)
    num_truth = np.bincount((every_truth if mmaction2 else truth).label, minlength=counting[-1] + 1)
    by_class = np.lexsort((-detections.scores, *([detections.frame] if mmaction2 else []), detections.label))
    labels = detections.label[by_class]
    starts, ends = np.searchsorted(labels, counting, "left"), np.searchsorted(labels, counting, "right")
    per_class: dict[int, float | None] = {}
    for label, start, end in zip(counting.tolist(), starts, ends):
        rows = by_class[start:end]
        if mmaction2:  # compute_precision_recall sorts so, frame after frame; with four digits many scores are equal
            rows = rows[np.argsort(detections.scores[rows])[::-1]]
        per_class[label] = average_precision(hits[rows], int(num_truth[label])) if num_truth[label] else None
    unseen = [label for label, start, end in zip(counting.tolist(), starts, ends) if num_truth[label] and start == end]
    counted = {label: value for label, value in per_class.items() if not (mmaction2 and label in unseen)}
    if all(value is None for value in counted.values()):
        raise ValueError(
            "no detection of an annotated class lies in a key frame that counts, and mmaction2's evaluation leaves out "
            "classes without detections; mAP is undefined (protocol 'ava' counts them as 0)"
        )

    def mean_of(some) -> float | None:
        values = [value for label in some if (value := counted.get(label)) is not None]
        return float(np.mean(values)) if values else None

    return {
        "mAP": mean_of(counted),
        "protocol": protocol,
        "per_category": {name: mean_of(members) for name, members in (categories or {}).items()},
        "per_class": per_class,
        "classes_without_truth": [label for label, value in per_class.items() if value is None],
        "classes_without_detections": unseen,
        "iou_threshold": iou_threshold,
        "num_key_frames": len(frames),
        "num_truth": int(num_truth.sum()),
        "num_detections": len(detections.frame),
        "num_detections_elsewhere": elsewhere,
        "num_detections_without_area": empty,
    }
