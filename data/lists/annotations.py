"""Annotation files whose labels belong to stretches of videos: ActivityNet's JSON, a COCO-like JSON, THUMOS' text files."""

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from videomae.data.lists.class_folders import find_by_name, matched
from videomae.data.lists.manifests import Builder, Manifest, ReadOptions, some_of
from videomae.data.stretches import seconds_in

THUMOS_FILE = re.compile(r"(.+)_(val|test)\.txt")
THUMOS_CLASSES = "detclasslist.txt"
AMBIGUOUS = "Ambiguous"  # THUMOS' file of stretches that are neither a class nor background


def json_layout(path: Path) -> str:
    """Which kind of JSON a file is: "something" (a list), "activitynet" or "coco"."""
    data = read_json(path)
    if isinstance(data, Mapping):
        if isinstance(data.get("database"), Mapping):
            return "activitynet"
        if {"videos", "annotations"} <= data.keys():
            return "coco"
        raise ValueError(
            f"{path} is no known list: it holds {some_of(data) or 'nothing'}. Known are ActivityNet's `database`, `videos` with "
            "`annotations` and `categories`, and Something-Something's list of entries; for a table write one object a line (.jsonl)"
        )
    return "something"


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    except RecursionError:
        raise ValueError(f"{path} is nested too deep for a list of videos") from None


def read_activitynet(path: Path, options: ReadOptions) -> Manifest:
    """JSON of ActivityNet's kind (HACS, FineAction and OpenTAD's sets too): `database`, by video, with `annotations`.

    Videos are found below the root by name, `v_ID.*` or `ID.*`. Without `class_names` the classes are those of all
    subsets, sorted; `split` is a subset.
    """
    database = read_json(path)["database"]
    odd = next((name for name, video in database.items() if not isinstance(video, Mapping)), None)
    if odd is not None:
        raise ValueError(f"{path}: the entry of {odd} is no object with annotations")
    subsets = sorted({str(video.get("subset")) for video in database.values()})
    if options.split not in subsets and (options.split is not None or len(subsets) > 1):
        raise ValueError(
            f"{path} has the subsets {some_of(subsets)}, and split is {options.split!r}; choose one of them"
        )
    found = find_by_name(Path(options.root or path.parent), path)
    names = {str(one.get("label")) for video in database.values() for one in video.get("annotations") or ()}
    builder, missing = _builder(path, options, sorted(names)), []
    for name, video in database.items():
        if options.split is not None and str(video.get("subset")) != options.split:
            continue
        annotations = [
            (one.get("label"), *segment_of(one, f"{path}: {name}")) for one in video.get("annotations") or ()
        ]
        if not annotations and options.background is None:
            continue
        file = found.get(f"v_{name}") or found.get(name)
        if file is None:
            missing.append(name)
            continue
        _add(builder, file, annotations, video.get("duration"))
    return matched(builder, missing, options)


def read_coco(path: Path, options: ReadOptions) -> Manifest:
    """A COCO-like JSON: `videos` (id, file_name, maybe duration), `categories` (id, name), `annotations` (video_id,
    category_id, and start_seconds and end_seconds, or a segment of both)."""
    data = read_json(path)
    categories = _by_id(data.get("categories"), "categories", "name", path)
    names = [str(category["name"]) for _, category in sorted(categories.items(), key=lambda pair: pair[0])]
    videos = _by_id(data["videos"], "videos", "file_name", path)
    builder = _builder(path, options, names)
    of_video: dict[Any, list[tuple[Any, float, float]]] = {number: [] for number in videos}
    for place, one in enumerate(data["annotations"]):
        at = f"{path}: annotation {one.get('id', place) if isinstance(one, Mapping) else place}"
        if (
            not isinstance(one, Mapping)
            or one.get("video_id") not in videos
            or one.get("category_id") not in categories
        ):
            raise ValueError(f"{at} names no known video_id and category_id: {str(one)[:100]}")
        of_video[one["video_id"]].append((categories[one["category_id"]]["name"], *segment_of(one, at)))
    for number, annotations in of_video.items():
        video = videos[number]
        if options.split is None or str(video.get("split", video.get("subset"))) == options.split:
            _add(builder, str(video["file_name"]), annotations, video.get("duration", video.get("duration_seconds")))
    if not len(builder) and options.split is not None:
        raise ValueError(f"{path} has no labelled videos of split {options.split!r}")
    return builder.build()


def is_thumos(names: Iterable[str], folder: Path) -> bool:
    """Whether a folder holds text files of THUMOS' kind: `CLASS_val.txt`, with lines of a video and two times."""
    first = next((name for name in sorted(names) if THUMOS_FILE.fullmatch(name)), None)
    if first is None:
        return False
    with open(folder / first, encoding="utf-8-sig", errors="replace") as file:
        fields = next((line.split() for line in file if line.strip()), [])
    return len(fields) == 3


def read_thumos(path: Path, options: ReadOptions) -> Manifest:
    """A folder of THUMOS' text files, one a class (`BaseballPitch_val.txt`): lines of a video's name, start and end.

    `split` is val or test, where both are there. Videos are found below the root by name. Classes are numbered by
    `detclasslist.txt` where it lies beside, else sorted; the file of ambiguous stretches is left out.
    """
    files = {
        (found[1], found[2]): file for file in sorted(path.iterdir()) if (found := THUMOS_FILE.fullmatch(file.name))
    }
    splits = sorted({split for _, split in files})
    split = options.split or (splits[0] if len(splits) == 1 else None)
    if split not in splits:
        raise ValueError(f"{path} has text files of {' and '.join(splits)}, not of {options.split!r}; give split")
    names = _thumos_names(path) or sorted({name for name, _ in files} - {AMBIGUOUS})
    found = find_by_name(Path(options.root or path), path)
    builder, missing = _builder(path, options, names), {}
    of_video: dict[str, list[tuple[Any, float, float]]] = {}
    for (name, of), file in files.items():
        if of != split or name == AMBIGUOUS:
            continue
        for line, text in enumerate(file.read_text(encoding="utf-8-sig").splitlines(), 1):
            fields = text.split()
            if not fields:
                continue
            try:
                video, start, end = fields[0], seconds_in(fields[1], math.nan), seconds_in(fields[2], math.nan)
            except (ValueError, IndexError):
                raise ValueError(f"{file}, line {line}: expected `video start end`, not {text!r}") from None
            _check(start, end, f"{file}, line {line}: {video}")
            if video in found:
                of_video.setdefault(found[video], []).append((name, start, end))
            else:
                missing[video] = None
    for video, annotations in of_video.items():
        _add(builder, video, annotations, None)
    return matched(builder, list(missing), options)


def _thumos_names(folder: Path) -> list[str]:
    """The classes of detclasslist.txt, `7 BaseballPitch` a line, in the order of their numbers."""
    for place in (folder, folder.parent):
        if (place / THUMOS_CLASSES).is_file():
            lines = [line.split() for line in (place / THUMOS_CLASSES).read_text(encoding="utf-8-sig").splitlines()]
            if any(len(fields) != 2 or not fields[0].isdigit() for fields in lines if fields):
                raise ValueError(f"{place / THUMOS_CLASSES}: expected `number name` a line")
            return [name for _, name in sorted((int(fields[0]), fields[1]) for fields in lines if fields)]
    return []


# ------------------------------------------------------------------------------------------------------- what they share


def _builder(path: Path, options: ReadOptions, names: list[str]) -> Builder:
    """A builder with the classes that the caller gave, or those of the file and the background behind them."""
    own = tuple(dict.fromkeys([*names, *([options.background] if options.background else [])]))
    root = options.root or (path if path.is_dir() else path.parent)
    return Builder(path, root, replace(options, class_names=options.class_names or own))


def _add(builder: Builder, file: str, annotations: list[tuple[Any, float, float]], duration: Any) -> None:
    """The stretches of a video; those with the same times and several labels are one entry where that is allowed."""
    if isinstance(duration, (int, float)) and duration > 0:
        builder.lengths[file] = float(duration)
    if builder.options.label_kind != "multi":
        for label, start, end in annotations:
            builder.add(file, label, None, stretch=(start, end))
        return
    labels: dict[tuple[float, float], dict[Any, None]] = {}
    for label, start, end in annotations:
        labels.setdefault((start, end), {})[label] = None
    for times, several in labels.items():
        builder.add(file, list(several), None, stretch=times)


def segment_of(one: Mapping[str, Any], at: str) -> tuple[float, float]:
    """Start and end of an annotation."""
    given = one.get("segment", (one.get("start_seconds"), one.get("end_seconds")))
    try:
        start, end = (seconds_in(value, math.nan) for value in given)
    except (TypeError, ValueError):
        start = end = math.nan
    if start != start or end != end:
        raise ValueError(f"{at}: {given!r} is no start and end in seconds; give both as numbers or h:mm:ss")
    _check(start, end, at)
    return start, end


def _check(start: float, end: float, at: str) -> None:
    if not start < end:
        raise ValueError(f"{at}: the end {end:g} is not after the start {start:g}; exchange or correct them")


def _by_id(rows: Any, what: str, key: str, path: Path) -> dict[Any, Mapping[str, Any]]:
    """Entries of a COCO-like file by their ids."""
    if not isinstance(rows, list) or not all(isinstance(row, Mapping) and {"id", key} <= row.keys() for row in rows):
        raise ValueError(f"{path}: {what} must be a list of objects with id and {key}")
    found = {row["id"]: row for row in rows}
    if len(found) < len(rows):
        raise ValueError(f"{path}: two {what} have one id")
    return found
