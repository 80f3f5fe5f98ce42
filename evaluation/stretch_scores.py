"""Labelled stretches read from a file, matched with videos, and what found ones are worth against them.

The arithmetic is metrics/temporal_detection.py's.
"""

import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from videomae.data.lists.annotations import read_json, segment_of
from videomae.data.lists.list_files import END_SECONDS, LABEL_COLUMNS, PATH_COLUMNS, START_SECONDS, table_rows, times_of
from videomae.data.lists.manifests import some_of
from videomae.metrics.temporal_detection import TIOUS, LabelledStretch, average_precisions, by_label, time_shares


@dataclass(frozen=True)
class Truth:
    """Labelled stretches by video, and the subset (training, validation, ...) of those videos of which the file names one."""

    origin: str
    stretches: dict[str, list[LabelledStretch]] = field(default_factory=dict)
    subsets: dict[str, str] = field(default_factory=dict)


def read_truth(source: str | os.PathLike) -> Truth:
    """A table with path, label, start_seconds and end_seconds (and maybe split), or ActivityNet's JSON.

    An empty time is that of the start or the end of the video. A row that has a path alone, and an entry of ActivityNet without
    annotations, is a video in which nothing happens.
    """
    path = Path(source)
    if path.suffix.lower() == ".json":
        return _activitynet(path)
    truth = Truth(str(path))
    for line, row in table_rows(path):
        lower, at = {str(name).strip().lower(): name for name in row}, f"{path}, line {line}"
        video, label = (next((lower[name] for name in names if name in lower), None) for names in _COLUMNS)
        start, end = lower.get(START_SECONDS), lower.get(END_SECONDS)
        if video is None or label is None or not (start or end):
            missing = "path" if video is None else "label" if label is None else START_SECONDS
            raise ValueError(f"{at}: no column {missing} among {some_of(map(str, row))}")
        name = str(row[video]).strip()
        there = truth.stretches.setdefault(name, [])
        if any(row[column] not in ("", None) for column in (label, start, end) if column):
            there.append(_stretch(row[label], *times_of(row, start, end, at), at))
        subset = next((row[lower[word]] for word in ("split", "subset") if word in lower), None)
        if subset and truth.subsets.setdefault(name, str(subset)) != str(subset):
            raise ValueError(f"{at}: {name} is in {truth.subsets[name]} and in {subset}; a video is in one")
    return truth


_COLUMNS = (PATH_COLUMNS, LABEL_COLUMNS)


def _activitynet(path: Path) -> Truth:
    try:
        database = read_json(path)["database"]
        entries = {str(video): (entry.get("subset"), list(entry["annotations"])) for video, entry in database.items()}
    except (KeyError, TypeError, AttributeError):
        raise ValueError(
            f'{path} is not JSON of ActivityNet\'s kind, {{"database": {{VIDEO: {{"annotations": [{{"segment": [START, END], '
            '"label": NAME}]}}}; a table has path, label, start_seconds and end_seconds'
        ) from None
    truth = Truth(str(path))
    for video, (subset, annotations) in entries.items():
        there = truth.stretches[video] = []
        if subset:
            truth.subsets[video] = str(subset)
        for number, annotation in enumerate(annotations, 1):
            where = f"{path}, {video}, annotation {number}"
            if not isinstance(annotation, Mapping):
                raise ValueError(f"{where}: needs a segment of two times and a label, not {str(annotation)[:80]}")
            there.append(_stretch(annotation.get("label"), *segment_of(annotation, where), where))
    return truth


def _stretch(label: Any, start: float, end: float, where: str) -> LabelledStretch:
    name = str(label).strip()
    if label is None or not name:
        raise ValueError(f"{where}: a stretch without a label")
    if end <= start:
        raise ValueError(f"{where}: end_seconds {end:g} must be after start_seconds {start:g}")
    return LabelledStretch(name, start, end)


def match_truth(
    truth: Truth, videos: Iterable[tuple[str, str]], labels: Sequence[str] | None = None
) -> tuple[Truth, list[str]]:
    """The truth by the names of videos, of which (path, name) are given, and what of it is of no video here.

    A key of the truth is a video's path, its path without the suffix, or the last part of it without the suffix. With
    `labels`, any other label is an error.
    """
    known: dict[str, set[str]] = {}
    for path, name in videos:
        for key in (path, name, Path(name).name):
            known.setdefault(key, set()).add(name)
    matched, unknown = Truth(truth.origin), []
    for key, stretches in truth.stretches.items():
        names = next((known[form] for form in (key, os.path.normpath(key), _stem(key)) if form in known), set())
        if len(names) > 1:
            raise ValueError(
                f"{truth.origin}: {key} may be {some_of(sorted(names))}; write paths as they are below the data"
            )
        if not names:
            unknown.append(key)
            continue
        (name,) = names
        matched.stretches.setdefault(name, []).extend(stretches)
        if key in truth.subsets:
            matched.subsets[name] = truth.subsets[key]
    if not matched.stretches:
        raise ValueError(
            f"{truth.origin} has none of the videos, but {some_of(truth.stretches)}; write paths as they are below the data"
        )
    said = {stretch.label for stretches in matched.stretches.values() for stretch in stretches}
    if labels is not None and (strange := sorted(said - set(labels))):
        raise ValueError(
            f"{truth.origin} has labels that the model does not know: {some_of(strange)}; rename or remove their rows. "
            f"The model knows {some_of(labels)}"
        )
    return matched, unknown


def ending(stretches: Sequence[LabelledStretch], duration_seconds: float | None) -> list[LabelledStretch]:
    """Those that last to the end of the video end there."""
    return [
        stretch
        if duration_seconds is None or math.isfinite(stretch.end_seconds)
        else stretch._replace(end_seconds=duration_seconds)
        for stretch in stretches
    ]


def _stem(key: str) -> str:
    return re.sub(r"\.\w{2,4}$", "", Path(key).name)


def stretch_scores(
    truth: Mapping[str, list[LabelledStretch]],
    found: Mapping[str, list[LabelledStretch]],
    durations: Mapping[str, float],
    tious: Sequence[float] = TIOUS,
) -> dict[str, Any]:
    """Average precision by label and tIoU, and accuracy over time, of the videos that the truth names.

    A video without a duration could not be read: its stretches count as missed.
    """
    truth = {video: ending(stretches, durations.get(video)) for video, stretches in truth.items()}
    found = {video: found.get(video, []) for video in truth}
    classes: dict[str, Any] = {}
    for label in sorted({stretch.label for stretches in truth.values() for stretch in stretches}):
        of_truth, of_found = by_label(truth, label), by_label(found, label)
        values = average_precisions(of_truth, of_found, tious)
        classes[label] = {
            "stretches": sum(map(len, of_truth.values())),
            "found": sum(map(len, of_found.values())),
            "ap": {f"{tiou:g}": round(float(value), 6) for tiou, value in zip(tious, values)},
        }
    means = [sum(entry["ap"][f"{tiou:g}"] for entry in classes.values()) / (len(classes) or 1) for tiou in tious]
    shares = [time_shares(truth[video], found[video], durations[video]) for video in truth if video in durations]
    right, everything, right_labelled, labelled = map(sum, zip(*shares)) if shares else (0.0,) * 4
    others = {stretch.label for stretches in found.values() for stretch in stretches} - set(classes)
    return {
        "videos": len(truth),
        "not_read": len(truth) - len(shares),
        "map": {f"{tiou:g}": round(mean, 6) for tiou, mean in zip(tious, means)} if classes else None,
        "mean_map": round(sum(means) / len(means), 6) if classes else None,
        "frame_accuracy": round(right / everything, 6) if everything else None,
        "frame_accuracy_labelled": round(right_labelled / labelled, 6) if labelled else None,
        "classes": classes,
        "found_of_other_labels": sum(stretch.label in others for stretches in found.values() for stretch in stretches),
    }


def stretch_report(scores: Mapping[str, Any], rows: int = 10) -> Iterator[str]:
    """The scores for a terminal."""
    if scores["map"]:
        row = "  ".join(f"{tiou}: {100 * value:.1f}" for tiou, value in scores["map"].items())
        yield f"mAP by tIoU, {len(scores['classes'])} labels in {scores['videos']} videos: {row}; mean {100 * scores['mean_map']:.1f}"
    for name, what in (("frame_accuracy", "all of the time"), ("frame_accuracy_labelled", "where a label holds")):
        if scores[name] is not None:
            yield f"frame accuracy, {what}: {100 * scores[name]:.1f} %"
    for label, entry in list(scores["classes"].items())[:rows]:
        aps = " ".join(f"{100 * value:.1f}" for value in entry["ap"].values())
        yield f"  {label}: AP {aps}; {entry['found']} found, {entry['stretches']} labelled"
    if scores["found_of_other_labels"]:
        yield f"  {scores['found_of_other_labels']} found of labels that the truth has nowhere; they count in frame accuracy alone"
    if scores["not_read"]:
        yield f"  videos that could not be read: {scores['not_read']}; their stretches count as missed"
