"""The layouts that `open_manifest` knows by name, how one is recognised, and the readers of particular data sets."""

import csv
import json
import os
import re
from array import array
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from videomae.data.class_folders import VIDEO_SUFFIXES, read_class_folders, read_folder
from videomae.data.list_files import has_header, read_frame_list, read_list, read_table, read_video_list
from videomae.data.manifests import Builder, Manifest, ReadOptions, packed, some_of

HMDB51_FILE = re.compile(r"(.+)_test_split([123])\.txt")
UCF101_FILE = re.compile(r"(train|test)list(0[123])\.txt")


def recognise(path: Path, options: ReadOptions) -> str:
    """The layout of a file or folder."""
    if path.is_dir():
        names = os.listdir(path)
        if "shards.json" in names:
            return "shards"
        if "classInd.txt" in names:
            return "ucf101"
        if any(HMDB51_FILE.fullmatch(name) for name in names):
            return "hmdb51"
        return "folders"
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
        return "something"
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
    found = _by_stem(Path(options.root or path.parent), path)
    builder, missing = Builder(path, options.root or path.parent, options), []
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        for row in reader:
            if options.split is not None and row.get("split") != options.split:
                continue
            try:
                times = f"_{int(float(row['time_start'])):06d}_{int(float(row['time_end'])):06d}"
            except (KeyError, TypeError, ValueError):
                raise ValueError(f"{path}, line {reader.line_num}: time_start and time_end must be seconds") from None
            video = found.get(row["youtube_id"] + times) or found.get(row["youtube_id"])
            if video is None:
                missing.append(f"{row['youtube_id']}{times} (line {reader.line_num})")
            else:
                builder.add(video, row.get("label") or None, reader.line_num)
    return _matched(builder, missing, options)


def read_something(path: Path, options: ReadOptions) -> Manifest:
    """The JSON files of Something-Something: entries with an id and a template, numbered by a labels.json beside it."""
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) and "id" in entry for entry in entries):
        raise ValueError(f"{path} is not a list of entries with an id, as Something-Something's files are")
    names = options.class_names
    for beside in ("labels.json", "something-something-v2-labels.json"):
        if names is None and (path.parent / beside).exists():
            numbers = json.loads((path.parent / beside).read_text(encoding="utf-8"))
            names = tuple(sorted(numbers, key=lambda name: int(numbers[name])))
    options = ReadOptions(**{**vars(options), "class_names": names})
    found = _by_stem(Path(options.root or path.parent), path)
    builder, missing = Builder(path, options.root or path.parent, options), []
    for number, entry in enumerate(entries, 1):
        label = entry.get("template", entry.get("label"))
        label = None if label is None else label.replace("[", "").replace("]", "")
        video = found.get(str(entry["id"]))
        if video is None:
            missing.append(f"{entry['id']} (entry {number})")
        else:
            builder.add(video, label, None)
    return _matched(builder, missing, options)


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
        raise FileNotFoundError(f"{classes} must lie beside {path.name}: it numbers the classes")
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
    return _matched(builder, missing, options)


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
    return _matched(builder, missing, options)


def _by_stem(root: Path, origin: Path) -> dict[str, str]:
    """Every video below the root, relative to it, by file name without its suffix; two of one name are an error."""
    if not root.is_dir():
        raise FileNotFoundError(f"no folder {root} with the videos of {origin}; give root")
    found: dict[str, str] = {}
    for folder, _, names in os.walk(root):
        for name in names:
            stem, suffix = os.path.splitext(name)
            if suffix.lower() not in VIDEO_SUFFIXES:
                continue
            path = os.path.relpath(os.path.join(folder, name), root)
            if stem in found:
                raise ValueError(f"two videos of one name below {root}: {found[stem]} and {path}; remove one")
            found[stem] = path
    return found


def _matched(builder: Builder, missing: list[str], options: ReadOptions) -> Manifest:
    if missing and (options.missing == "error" or not len(builder)):
        raise ValueError(
            f"{builder.origin}: {len(missing)} of {len(missing) + len(builder)} videos are not below {builder.root}: "
            f"{some_of(missing)}; fetch them, give the right root, or pass missing='drop'"
        )
    return builder.build()


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
        raise TypeError("an IterableDataset has no length; use videomae.data.streaming.StreamingVideoDataset for it")
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
        table=source, column=video,
    )  # fmt: skip


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


def video_name(source: Any, position: int) -> str:
    """How messages call a video of a table."""
    path = source.get("path") if isinstance(source, dict) else source if isinstance(source, str) else None
    return path or f"row {position}"


def _read_shards(path: Path, options: ReadOptions) -> Manifest:
    from videomae.data.shards import read_shards

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
    "shards": _read_shards,
}
