"""The layouts that `open_manifest` knows by name, how one is recognised, and the readers of particular data sets."""

import csv
import dataclasses
import json
import os
import re
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from videomae.choices import LABEL_KINDS
from videomae.data.lists.annotations import is_thumos, json_layout, read_activitynet, read_coco, read_json, read_thumos
from videomae.data.lists.class_folders import find_by_name, matched, read_class_folders, read_folder
from videomae.data.lists.list_files import (
    END_SECONDS,
    START_SECONDS,
    has_header,
    read_frame_list,
    read_list,
    read_table,
    read_video_list,
    times_of,
)
from videomae.data.lists.manifests import FRAME_PATTERN, Builder, Manifest, ReadOptions, packed, some_of
from videomae.data.remote import is_url
from videomae.data.sources import VIDEO_SUFFIXES

HMDB51_FILE = re.compile(r"(.+)_test_split([123])\.txt")
UCF101_FILE = re.compile(r"(train|test)list(0[123])\.txt")
SAVED = {"dataset_info.json", "dataset_dict.json"}  # what save_to_disk of `datasets` writes: one split, or several


def recognise(path: Path, options: ReadOptions) -> str:
    """The layout of a file or folder."""
    if path.is_dir():
        names = os.listdir(path)
        if "shards.json" in names:
            return "shards"
        if SAVED.intersection(names):
            return "saved"
        if "classInd.txt" in names:
            return "ucf101"
        if any(HMDB51_FILE.fullmatch(name) for name in names):
            return "hmdb51"
        return "thumos" if is_thumos(names, path) else "folders"
    if path.name == "shards.json":
        return "shards"
    if UCF101_FILE.fullmatch(path.name):
        return "ucf101"
    suffix = path.suffix.lower()
    if suffix in VIDEO_SUFFIXES:
        raise ValueError(
            f"{path} is named like one video; give a list or table of videos, or the folder that holds them"
        )
    if suffix == ".json":
        return json_layout(path)
    if suffix in (".jsonl", ".ndjson", ".parquet"):
        return "table"
    if not has_header(path):
        return "list"
    with open(path, encoding="utf-8-sig", errors="replace") as file:
        return "kinetics" if "youtube_id" in file.readline() else "table"


# -- annotation files that are matched against the videos on the disk --------------------------------------------------


def read_kinetics(path: Path, options: ReadOptions) -> Manifest:
    """The CSVs of Kinetics: label, youtube_id, time_start, time_end, split.

    Videos are found below the root by name, `ID_000010_000020.*` as all downloaders write them, or `ID.*`.
    """
    found = find_by_name(Path(options.root or path.parent), path)
    builder, missing = Builder(path, options.root or path.parent, options), []
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        for row in reader:
            if options.split is not None and row.get("split") != options.split:
                continue
            try:
                times = f"_{int(float(row['time_start'])):06d}_{int(float(row['time_end'])):06d}"
            except (KeyError, TypeError, ValueError, OverflowError):
                raise ValueError(f"{path}, line {reader.line_num}: time_start and time_end must be seconds") from None
            video = found.get(row["youtube_id"] + times) or found.get(row["youtube_id"])
            if video is None:
                missing.append(f"{row['youtube_id']}{times} (line {reader.line_num})")
            else:
                builder.add(video, row.get("label") or None, reader.line_num)
    return matched(builder, missing, options)


def read_something(path: Path, options: ReadOptions) -> Manifest:
    """The JSON files of Something-Something: entries with an id and a template, numbered by a labels.json beside it."""
    entries = read_json(path)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) and "id" in entry for entry in entries):
        raise ValueError(f"{path} is not a list of entries with an id, as Something-Something's files are")
    names = options.class_names
    for beside in ("labels.json", "something-something-v2-labels.json"):
        if names is None and (path.parent / beside).exists():
            try:
                numbers = json.loads((path.parent / beside).read_text(encoding="utf-8"))
                names = tuple(sorted(numbers, key=lambda name: int(numbers[name])))
            except (ValueError, TypeError, IndexError, RecursionError):
                raise ValueError(f"{path.parent / beside} is no object of class names and their numbers") from None
    options = ReadOptions(**{**vars(options), "class_names": names})
    found = find_by_name(Path(options.root or path.parent), path)
    builder, missing = Builder(path, options.root or path.parent, options), []
    for number, entry in enumerate(entries, 1):
        label = entry.get("template", entry.get("label"))
        label = None if label is None else str(label).replace("[", "").replace("]", "")
        video = found.get(str(entry["id"]))
        if video is None:
            missing.append(f"{entry['id']} (entry {number})")
        else:
            builder.add(video, label, None)
    return matched(builder, missing, options)


def read_ucf101(path: Path, options: ReadOptions) -> Manifest:
    """UCF101's split files: `trainlist01.txt`, or their folder with split="train1" ... "test3".

    Class numbers come from classInd.txt, where they count from 1, and from the folder in each path.
    """
    if path.is_dir():
        split = re.fullmatch(r"(train|test)([123])", options.split or "")
        if split is None:
            raise ValueError(
                f"UCF101 has splits train1 ... train3 and test1 ... test3, not {options.split!r}; give split"
            )
        path = path / f"{split[1]}list0{split[2]}.txt"
    classes = path.parent / "classInd.txt"
    if not classes.exists():
        raise FileNotFoundError(f"{classes} must be beside {path.name}: it numbers the classes")
    names = {}
    for line, text in enumerate(classes.read_text(encoding="utf-8-sig").splitlines(), 1):
        if text.strip():
            number, _, name = text.strip().partition(" ")
            if not number.isdigit() or not name:
                raise ValueError(f"{classes}, line {line}: expected `number name`, not {text!r}")
            names[int(number)] = name.strip()
    class_names = tuple(names[number] for number in sorted(names))
    root = Path(options.root or path.parent)
    builder, missing = Builder(path, root, ReadOptions(**{**vars(options), "class_names": class_names})), []
    for line, text in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1):
        if not text.strip():
            continue
        video = text.split()[0]
        name = video.split("/")[0]
        if name not in class_names:
            raise ValueError(f"{path}, line {line}: no class {name!r} in {classes.name}")
        if (root / video).exists():
            builder.add(video, name, line)
        else:
            missing.append(f"{video} (line {line})")
    return matched(builder, missing, options)


def read_hmdb51(path: Path, options: ReadOptions) -> Manifest:
    """HMDB51's folder of split files, one a class, with split="train1" ... "test3"; videos in a folder per class."""
    split = re.fullmatch(r"(train|test)([123])", options.split or "")
    if split is None:
        raise ValueError(f"HMDB51 has splits train1 ... train3 and test1 ... test3, not {options.split!r}; give split")
    wanted = {"train": "1", "test": "2"}[split[1]]
    root = Path(options.root or path)
    builder, missing = Builder(path, root, options), []
    for file in sorted(path.iterdir()):
        match = HMDB51_FILE.fullmatch(file.name)
        if match is None or match[2] != split[2]:
            continue
        for line, text in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
            video, _, use = text.strip().rpartition(" ")
            if not text.strip() or use != wanted:
                if text.strip() and use not in ("0", "1", "2"):
                    raise ValueError(f"{file}, line {line}: expected `video 0|1|2`, not {text!r}")
                continue
            video = f"{match[1]}/{video.strip()}"
            if (root / video).exists():
                builder.add(video, match[1], None)
            else:
                missing.append(f"{video} ({file.name}, line {line})")
    return matched(builder, missing, options)


# -- datasets.Dataset --------------------------------------------------------------------------------------------------


def from_dataset(source: Any, options: ReadOptions) -> Manifest:
    """A `datasets.Dataset` (or one split of a DatasetDict) with a video column, decoded by us, not by `datasets`."""
    if isinstance(source, Mapping) and options.split is not None:
        if options.split not in source:
            raise ValueError(f"the data set has no split {options.split!r}; there are {some_of(source)}")
        source = source[options.split]
    if isinstance(source, Mapping):
        raise ValueError(f"the data set has several splits ({some_of(source)}); choose one with split")
    if type(source).__name__ == "IterableDataset":
        raise TypeError(
            "an IterableDataset has no length, so it cannot be trained on; load the data set without streaming=True"
        )
    if not hasattr(source, "features"):
        raise TypeError(f"a data set is a path or a datasets.Dataset, not {type(source).__name__}")
    from datasets import Video

    video, label = video_and_label_columns(source.features)
    if isinstance(source.features[video], Video):
        source = source.cast_column(video, Video(decode=False))
    names = getattr(source.features[label], "names", None) if label else None
    if names and options.class_names and list(options.class_names) != list(names):
        raise ValueError(f"the data set's classes {some_of(names)} are not those given, {some_of(options.class_names)}")
    labels, class_names = None, tuple(names) if names else options.class_names
    if label:
        values = source.with_format("numpy")[label][:] if len(source) else []
        if len(values) and isinstance(values[0], (str, np.str_)):
            class_names = class_names or tuple(sorted(set(map(str, values))))
            values = [class_names.index(str(value)) for value in values]
        array_of_labels = np.asarray(values)
        kind = np.float32 if array_of_labels.dtype.kind == "f" or array_of_labels.ndim == 2 else np.int64
        labels = torch.from_numpy(np.ascontiguousarray(array_of_labels, kind))
        labels = labels.unsqueeze(1) if kind is np.float32 and labels.dim() == 1 else labels
    paths = [name.encode("utf-8", "surrogateescape") for name in _row_names(source, video)]
    if not paths:
        raise ValueError("the data set has no rows")
    text, ends = packed(b"".join(paths), array("q", map(len, paths)))
    return Manifest(
        origin="datasets.Dataset", root="", text=text, ends=ends, labels=labels, class_names=class_names,
        table=source, column=video, stretches=_stretches_of_rows(source),
    )  # fmt: skip


def _stretches_of_rows(source: Any) -> torch.Tensor | None:
    """The times of the rows of a table, where it has columns of them."""
    names = [name if name in source.features else None for name in (START_SECONDS, END_SECONDS)]
    if names == [None, None]:
        return None
    rows = source.select_columns([name for name in names if name]).with_format(None)
    found = [times_of(row, *names, f"row {place}") for place, row in enumerate(rows)]
    for place, (start, end) in enumerate(found):
        if end <= start:
            raise ValueError(f"row {place}: end_seconds={end:g} is not after start_seconds={start:g}; correct them")
    return torch.tensor([[start, end, 0.0] for start, end in found], dtype=torch.float64)


def read_saved(path: Path, options: ReadOptions) -> Manifest:
    """A folder that `save_to_disk` of `datasets` wrote, of one split or of several."""
    from datasets import load_from_disk

    try:
        source = load_from_disk(str(path))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{path} looks like a data set that save_to_disk wrote, and load_from_disk cannot read it: {error}"
        ) from None
    return dataclasses.replace(from_dataset(source, options), origin=str(path))


def _row_names(source: Any, video: str) -> Iterator[str]:
    """The paths of the rows, read without their bytes where the table allows it."""
    column = source.data.column(video).combine_chunks() if source._indices is None else None
    paths = column.field("path").to_pylist() if column is not None and hasattr(column, "field") else None
    for i in range(len(source)):
        yield (paths[i] if paths else None) or f"row {i}"


def video_and_label_columns(features: Mapping[str, Any]) -> tuple[str, str | None]:
    """The columns of a table that hold the video and the label; features or an example tell."""
    video = next((name for name, kind in features.items() if type(kind).__name__ == "Video"), None)
    if video is None:
        names = ("video", "mp4", "webm", "avi", "mkv", "path", "file")
        video = next((name for name in names if name in features), None)
    if video is None:
        raise ValueError(f"no video column among {some_of(features)}; name it 'video' or cast it to datasets.Video()")
    labels = ("label", "labels", "cls", "class", "action", "category", "target")
    return video, next((name for name in labels if name in features), None)


def _read_shards(path: Path | str, options: ReadOptions) -> Manifest:
    from videomae.data.lists.shards import read_shards

    return read_shards(path, options)


LAYOUTS: dict[str, Callable[[Path, ReadOptions], Manifest]] = {
    "list": read_list,
    "video_list": read_video_list,
    "frame_list": read_frame_list,
    "table": read_table,
    "folders": read_class_folders,
    "videos": read_folder,
    "kinetics": read_kinetics,
    "something": read_something,
    "ucf101": read_ucf101,
    "hmdb51": read_hmdb51,
    "activitynet": read_activitynet,
    "coco": read_coco,
    "thumos": read_thumos,
    "shards": _read_shards,
    "saved": read_saved,
}


def open_manifest(
    source: Any,
    *,
    root: str | os.PathLike | None = None,
    split: str | None = None,
    class_names: Sequence[str] | None = None,
    num_labels: int | None = None,
    label_kind: str = "class",
    layout: str | None = None,
    missing: str = "error",
    pattern: str = FRAME_PATTERN,
    background: str | None = None,
) -> Manifest:
    """Read a data set of any known layout.

    source: a list (`path label` or V2's `path start total label` a line; blank, comma or tab), a CSV, TSV, JSONL or
        Parquet file with named columns, a folder with a sub-folder per class (of videos or of frame folders), prepared
        shards (a folder or its URL), a `datasets.Dataset` or the folder of its `save_to_disk`, or the annotation files of Kinetics, Something-Something,
        UCF101, HMDB51, ActivityNet (and a COCO-like JSON) and THUMOS. Tables and the last three can hold stretches of
        longer videos, in seconds.
    root: where relative paths start; by default the folder of the list.
    split: which part, where one source has several (train, validation, test; for UCF101 and HMDB51 `train1` ...).
    class_names: the classes in the order of their numbers. Give the training set's (or the checkpoint's) to every other
        split; without them they come from `labels.txt` beside the list, or are the sorted names that occur.
    label_kind: "class"; "multi" for several classes an entry (separated by | in text files); "value" for numbers.
    layout: name it where recognition fails: one of `LAYOUTS`.
    missing: what to do about videos that an annotation file names and the disk lacks ("error" or "drop"), for layouts
        that are matched against the disk.
    pattern: names of the images in frame folders that a list gives by start and total. Left alone, it is V2's:
        `img_00001.jpg`, and `image_000001.jpg` where the path holds `AVA2.2`.
    background: a class for what no stretch of a video covers: each gap of a second or more is an entry; the one behind the
        last stretch only where the length of the video is given (`duration_seconds` of a table, `duration` of JSON).
    """

    if label_kind not in LABEL_KINDS:
        raise ValueError(f"label_kind must be one of {', '.join(LABEL_KINDS)}, not {label_kind!r}")
    if missing not in ("error", "drop"):
        raise ValueError(f"missing must be error or drop, not {missing!r}")
    options = ReadOptions(
        root=None if root is None else str(root),
        split=split,
        class_names=None if class_names is None else tuple(class_names),
        num_labels=num_labels,
        label_kind=label_kind,
        missing=missing,
        pattern=pattern,
        background=background,
    )
    if isinstance(source, Manifest):
        return source
    if not isinstance(source, (str, os.PathLike)):
        return from_dataset(source, options)
    if isinstance(source, str) and is_url(source) and not source.startswith("file://"):
        if layout not in (None, "shards"):
            raise ValueError(f"{source}: only prepared shards are read from a URL, not layout {layout!r}; download it")
        return _read_shards(source, options)
    path = Path(source.removeprefix("file://") if isinstance(source, str) else source)
    if not path.exists():
        raise FileNotFoundError(f"no such list or folder: {path}")
    if not (path.is_file() or path.is_dir()):
        raise ValueError(f"{path} is a device or a pipe, which may have no end; give a list in a file, or a folder")
    if layout is None:
        layout = recognise(path, options)
    if layout not in LAYOUTS:
        raise ValueError(f"unknown layout {layout!r}; choose one of {', '.join(LAYOUTS)}")
    return LAYOUTS[layout](path, options)


def open_videos(data: str, **options: Any) -> Manifest:
    """The videos of a folder at any depth, of a list or table in any layout of docs/data.md, or one file."""
    if is_url(data):
        return open_manifest(data, **options)
    path = Path(data)
    if path.is_file() and path.suffix.lower() in VIDEO_SUFFIXES:
        root = options.get("root")
        builder = Builder(path, root or path.parent, ReadOptions(root=root))
        builder.add(os.path.relpath(path, root) if root else path.name, None, None)
        return builder.build()
    if path.is_dir() and options.get("layout") is None and options.get("split") is None:
        manifest_names = ("shards.json", "classInd.txt", "manifest.jsonl", *SAVED)
        if not any((path / name).exists() for name in manifest_names):
            return open_manifest(path, **{**options, "layout": "videos"})
    return open_manifest(path, **options)
