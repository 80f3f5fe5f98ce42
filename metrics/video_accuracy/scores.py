"""Accuracy over views and videos, per class and by confusion, from plain score arrays.

Pure numpy, so that the `evaluate` module beside it works alone; `videomae evaluate` and the trainer use it too.
"""

import numpy as np

# V views  C classes


def softmax(logits: np.ndarray) -> np.ndarray:
    """Softmax over the last axis, in float64."""
    logits = np.asarray(logits, dtype=np.float64)
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def label_ranks(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """How many classes stand before the true one: 0 is a top-1 hit, below 5 a top-5 hit.

    Among equal scores the lower class index stands first, so a constant score never passes for a perfect one.
    """
    scores, labels = np.asarray(scores), np.asarray(labels)
    if scores.ndim != 2 or labels.shape != scores.shape[:1]:
        raise ValueError(f"scores must be (rows, classes) and labels (rows,), not {scores.shape} and {labels.shape}")
    if not np.isfinite(scores).all():
        rows = np.flatnonzero(~np.isfinite(scores).all(axis=1))
        raise ValueError(f"{len(rows)} of {len(scores)} rows hold a score that is not finite, the first is {rows[0]}")
    num_classes = scores.shape[1]
    if len(labels) and not (labels.min() >= 0 and labels.max() < num_classes):
        wrong = labels[(labels < 0) | (labels >= num_classes)][0]
        raise ValueError(f"label {wrong} is outside 0..{num_classes - 1}, the classes that the scores have")
    true = scores[np.arange(len(labels)), labels][:, None]
    before = (scores > true) | ((scores == true) & (np.arange(num_classes) < labels[:, None]))
    return before.sum(axis=1)


def average_views(
    scores: np.ndarray, video_ids: list, view_ids: list | None = None
) -> tuple[list, np.ndarray, np.ndarray]:
    """Mean score of each video over its views.

    Returns the videos in order of first appearance, (videos, C) means, and the row where each video first appears.
    With `view_ids` a view that arrives twice (as when processes pad their last batch) counts once.
    """
    scores = np.asarray(scores, dtype=np.float64)
    for name, ids in (("video", video_ids), ("view", view_ids)):
        if ids is not None and len(ids) != len(scores):
            raise ValueError(f"{len(scores)} rows of scores came with {len(ids)} {name} ids")
    rows_of: dict = {}
    for row in rows_counted_once(video_ids, view_ids):
        rows_of.setdefault(video_ids[row], []).append(row)
    means = np.stack([scores[rows].mean(axis=0) for rows in rows_of.values()]) if rows_of else scores[:0]
    return list(rows_of), means, np.array([rows[0] for rows in rows_of.values()], dtype=np.int64)


def rows_counted_once(video_ids: list, view_ids: list | None) -> list[int]:
    """The first row of each (video, view); all rows where views have no ids."""
    if view_ids is None:
        return list(range(len(video_ids)))
    return sorted({pair: row for row, pair in reversed(list(enumerate(zip(video_ids, view_ids))))}.values())


def video_accuracy(
    scores: np.ndarray, labels: np.ndarray, video_ids: list, view_ids: list | None = None
) -> dict[str, float | int]:
    """Top-1 and top-5 of videos (scores averaged over views) and of single views, as fractions of one.

    `scores` are probabilities: averaging logits is another rule and gives other numbers. Top-5 is left out where there
    are at most five classes, since it could only be 1.
    """
    labels = np.asarray(labels, dtype=np.int64)
    videos, means, first = average_views(scores, video_ids, view_ids)
    label_of = dict(zip(videos, labels[first]))
    for video, label in zip(video_ids, labels):
        if label != label_of[video]:
            raise ValueError(f"video {video!r} has two labels, {label_of[video]} and {label}")
    video_ranks = label_ranks(means, labels[first])
    kept = rows_counted_once(video_ids, view_ids)
    view_ranks = label_ranks(np.asarray(scores)[kept], labels[kept])
    result = {
        "video_top1": share(video_ranks < 1),
        "view_top1": share(view_ranks < 1),
        "num_videos": len(means),
        "num_views": len(view_ranks),
    }
    if means.shape[1] > 5:
        result |= {"video_top5": share(video_ranks < 5), "view_top5": share(view_ranks < 5)}
    return result


def share(hits: np.ndarray) -> float:
    """The mean of hits, 0.0 where there are none."""
    return float(np.mean(hits)) if len(hits) else 0.0


def per_class_table(predictions: np.ndarray, labels: np.ndarray, names: list[str]) -> list[dict]:
    """`rows_of_matrix` of predictions and labels."""
    return rows_of_matrix(confusion_matrix(predictions, labels, len(names)), names)


def rows_of_matrix(counts: np.ndarray, names: list[str]) -> list[dict]:
    """One row a class, in class order: videos, accuracy (recall), precision, and what it is most taken for.

    A class without videos has no accuracy, and one that is never predicted no precision: None, not 0.
    """
    rows = []
    for index, name in enumerate(names):
        videos, predicted, right = int(counts[index].sum()), int(counts[:, index].sum()), int(counts[index, index])
        others = counts[index].copy()
        others[index] = 0
        rows.append(
            {
                "index": index,
                "class": name,
                "videos": videos,
                "accuracy": right / videos if videos else None,
                "precision": right / predicted if predicted else None,
                "most_taken_for": names[int(others.argmax())] if others.any() else None,
            }
        )
    return rows


def confusion_pairs(predictions: np.ndarray, labels: np.ndarray, names: list[str], *, most: int = 20) -> list[dict]:
    """The most frequent mistakes: `videos` of class `true` that were called `predicted`, most frequent first."""
    counts = confusion_matrix(predictions, labels, len(names))
    totals = counts.sum(axis=1)
    np.fill_diagonal(counts, 0)
    true, predicted = np.nonzero(counts)
    order = sorted(zip(true, predicted), key=lambda pair: (-counts[pair], pair))[:most]
    return [
        {
            "true": names[t],
            "predicted": names[p],
            "videos": int(counts[t, p]),
            "share_of_class": float(counts[t, p]) / float(totals[t]),
        }
        for t, p in order
    ]


def confusion_matrix(predictions: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """(C, C) counts, true class by row, predicted class by column."""
    counts = np.zeros((num_classes, num_classes), dtype=np.int64)
    np.add.at(counts, (np.asarray(labels, dtype=np.int64), np.asarray(predictions, dtype=np.int64)), 1)
    return counts


def mean_average_precision(scores: np.ndarray, targets: np.ndarray) -> tuple[float, list[float | None]]:
    """Multi-label mAP, and the average precision of each class (None where a class has no positive).

    Average precision is the mean, over a class's positives, of the precision at the rank of each; equal scores keep
    the order of the rows. Classes without a positive are left out of the mean.
    """
    scores, targets = np.asarray(scores, dtype=np.float64), np.asarray(targets) > 0.5
    if scores.shape != targets.shape:
        raise ValueError(f"scores {scores.shape} and targets {targets.shape} must have one shape (rows, classes)")
    precisions: list[float | None] = []
    for column in range(scores.shape[1]):
        hits = targets[np.argsort(-scores[:, column], kind="stable"), column]
        if not hits.any():
            precisions.append(None)
            continue
        found = np.cumsum(hits)
        precisions.append(float((found / np.arange(1, len(hits) + 1))[hits].mean()))
    present = [value for value in precisions if value is not None]
    return (float(np.mean(present)) if present else 0.0), precisions
