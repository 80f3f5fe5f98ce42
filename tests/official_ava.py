"""The two public evaluations of AVA restated, from result files to mAP: slow, loop by loop, and independent of the package.

`public_map` is the challenge's code, which VideoMAE-Action-Detection carries (evaluation/ava); `mmaction2_map` is
`ava_eval` of mmaction2 (evaluation/functional/ava_utils.py). Both give (mAP, average precision by class). `released_rows`
is how mmaction2 writes a result file.
"""

import csv
from collections import defaultdict

import numpy as np


def read_rows(path, classes):
    """By image key: rows of (box, class, score), in the order of the file; only of the classes."""
    found = defaultdict(list)
    with open(path, newline="") as file:
        for row in csv.reader(file):
            if int(row[6]) in classes:
                box, score = [float(cell) for cell in row[2:6]], float(row[7]) if len(row) == 8 else 1.0
                found[key_of(row)].append((box, int(row[6]), score))
    return found


def key_of(row):
    return f"{row[0]},{int(float(row[1])):04d}"


def read_excluded(path):
    if path is None:
        return set()
    with open(path, newline="") as file:
        return {key_of(row) for row in csv.reader(file)}


def overlap_of(boxes, others):
    """(n, m) intersection over union, in the precision of the boxes."""
    result = np.zeros((len(boxes), len(others)))
    for i, a in enumerate(boxes):
        for j, b in enumerate(others):
            sides = [max(0.0, np.float64(min(a[k + 2], b[k + 2]) - max(a[k], b[k]))) for k in (0, 1)]
            shared = sides[0] * sides[1]
            union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
            result[i, j] = shared / union if union else np.nan
    return result


def matched(boxes, truth):
    """Which of the boxes, best-scored first, are the first to find the annotated box that they overlap most."""
    hits, taken = [], set()
    overlaps = overlap_of(boxes, truth) if len(truth) else None
    for row in range(len(boxes)):
        best = int(np.argmax(overlaps[row])) if len(truth) else None
        hits.append(best is not None and overlaps[row][best] >= 0.5 and best not in taken)
        if hits[-1]:
            taken.add(best)
    return hits


def average_precision(hits, number):
    recall, precision, found = [0.0], [0.0], 0
    for rank, hit in enumerate(hits, start=1):
        found += hit
        recall.append(found / number)
        precision.append(found / rank)
    recall.append(1.0)
    precision.append(0.0)
    for index in range(len(precision) - 2, -1, -1):
        precision[index] = max(precision[index], precision[index + 1])
    return sum((recall[i] - recall[i - 1]) * precision[i] for i in range(1, len(recall)) if recall[i] != recall[i - 1])


def mmaction2_map(annotations, results, classes, excluded=None):
    classes, excluded = set(classes), read_excluded(excluded)
    truth, found = read_rows(annotations, classes), read_rows(results, classes)
    number = {label: sum(row[1] == label for rows in truth.values() for row in rows) for label in classes}
    scores, hits = defaultdict(list), defaultdict(list)
    for key in truth:  # frames with annotated boxes alone
        if key in excluded:
            continue
        rows = sorted(found.get(key, []), key=lambda row: -row[2])
        for label in {row[1] for row in rows}:
            boxes = np.array([row[0] for row in rows if row[1] == label], dtype=np.float32)
            its_truth = np.array([row[0] for row in truth[key] if row[1] == label], dtype=np.float32)
            scores[label] += [row[2] for row in rows if row[1] == label]
            hits[label] += matched(boxes, its_truth)
    precisions = {}
    for label in scores:  # classes that were found at least once
        if number[label]:
            order = np.argsort(np.array(scores[label], dtype=np.float32))[::-1]
            precisions[label] = average_precision([hits[label][row] for row in order], number[label])
    return float(np.mean(list(precisions.values()))), precisions


def public_map(annotations, results, classes, excluded=None):
    classes, excluded = set(classes), read_excluded(excluded)
    truth, found = read_rows(annotations, classes), read_rows(results, classes)
    precisions = {}
    for label in classes:
        number = sum(row[1] == label for key, rows in truth.items() if key not in excluded for row in rows)
        if not number:
            continue
        ranked = []
        for key, rows in found.items():
            if key in excluded:
                continue
            its_truth = [row[0] for row in truth.get(key, []) if row[1] == label]
            rows = [row for row in rows if row[1] == label and row[0][2] > row[0][0] and row[0][3] > row[0][1]]
            rows.sort(key=lambda row: -row[2])
            ranked += list(zip([row[2] for row in rows], matched([row[0] for row in rows], its_truth)))
        ranked.sort(key=lambda entry: -entry[0])
        precisions[label] = average_precision([hit for _, hit in ranked], number)
    return float(np.mean(list(precisions.values()))), precisions


def released_rows(video_id, seconds, boxes, scores):
    """What mmaction2 writes for a key frame: class by class the boxes above 0.002, with four digits."""
    return [
        f"{video_id},{seconds:04d}," + ",".join(f"{value:.4f}" for value in box) + f",{label + 1},{column[row]:.4f}\n"
        for label, column in enumerate(scores.T.tolist())
        for row, box in enumerate(boxes.tolist())
        if column[row] > 0.002
    ]
