"""Merge labelled data sets by class name into one, as Kinetics-710 was made of Kinetics-400, 600 and 700.

    videomae merge-labels MERGED --expect 710 \\
        --set k400 train=k400/train.csv test=k400/val.csv test=k400/test.csv data_root=/data/k400 \\
        --set k600 train=k600/train.csv test=k600/val.csv data_root=/data/k600 \\
        --set k700 train=k700/train.csv test=k700/val.csv data_root=/data/k700

Classes are one when their names are, up to case, blanks, hyphens and quotes; --aliases joins names that differ further.
A video that stands in several training lists is kept once (by the first set that has it), and one that stands in any
set's test lists is dropped from training: by video id, and with --hash by content too. MERGED holds train.csv,
labels.txt, for each set label_map_SET.json (the merged class of each of its classes, in its order) and report.json.
"""

import csv
import difflib
import io
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from videomae.data.lists.label_files import read_names
from videomae.data.lists.label_names import normalised
from videomae.data.lists.layouts import open_manifest
from videomae.data.lists.manifests import Manifest
from videomae.files import new_folder, sha256_of, write_atomic, write_json

# A clip of Kinetics is named by its 11-character YouTube id, with or without the seconds that were cut out.
CLIP_NAME = re.compile(r"([\w-]{11})_\d{6}_\d{6}$")


@dataclass(frozen=True)
class LabelledSet:
    """One of the data sets to merge: what is trained on, and what must not be."""

    name: str
    train: Manifest
    tests: tuple[Manifest, ...] = ()


@dataclass
class Merged:
    """The merged training list and how it came about."""

    class_names: list[str]
    maps: dict[str, list[int]]
    rows: list[tuple[str, int]] = field(default_factory=list)
    report: dict[str, Any] = field(default_factory=dict)

    def check_count(self, expected: int) -> None:
        if len(self.class_names) == expected:
            return
        similar = "".join(f"\n  {one!r} and {other!r}" for one, other in self.report["similar_names"][:20])
        raise ValueError(
            f"{len(self.class_names)} classes come out, not {expected}; names that may be one class go into --aliases. "
            f"Nearly equal names:{similar or ' none'}"
        )


def parse_set(words: Sequence[str]) -> LabelledSet:
    """`NAME train=LIST [test=LIST ...] [data_root=FOLDER] [class_names=FILE]`, each a word of a command line."""
    name, *pairs = words
    keys = ("train", "test", "data_root", "class_names")
    given: dict[str, list[str]] = {key: [] for key in keys}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        if not separator or key not in keys:
            raise ValueError(
                f"--set {name}: {pair!r} must be train=LIST, test=LIST, data_root=FOLDER or class_names=FILE"
            )
        given[key].append(value)
    if len(given["train"]) != 1 or len(given["data_root"]) > 1 or len(given["class_names"]) > 1:
        raise ValueError(f"--set {name} needs one train=LIST, and at most one data_root= and class_names=")
    root = given["data_root"][0] if given["data_root"] else None
    names = read_names(given["class_names"][0]) if given["class_names"] else None
    train = open_manifest(given["train"][0], root=root, class_names=names)
    train.check_labels(classes=False)
    tests = tuple(open_manifest(test, root=root, class_names=train.class_names) for test in given["test"])
    return LabelledSet(name, train, tests)


def read_aliases(path: str | os.PathLike) -> dict[str, str]:
    """Names that are one class: `name,other name` a line."""
    with open(path, encoding="utf-8-sig", newline="") as file:
        return {row[0]: row[1] for row in csv.reader(file) if len(row) > 1}


def merge(sets: Sequence[LabelledSet], *, aliases: Mapping[str, str] | None = None, by_content: bool = False) -> Merged:
    """Merge the training lists; the order of the sets decides who keeps a video that several have."""
    class_names, maps = merge_classes(sets, aliases or {})
    merged = Merged(class_names, maps)
    tested = {video_id(manifest.path(i)) for one in sets for manifest in one.tests for i in range(len(manifest))}
    tested_content = ContentIndex(file for one in sets for manifest in one.tests for file in files_of(manifest))
    kept_content = ContentIndex(())
    label_of: dict[str, int] = {}
    counts = {one.name: {"videos": len(one.train), "kept": 0, "leaks": 0, "duplicates": 0} for one in sets}
    conflicts = []
    for one in sets:
        for index, file in enumerate(files_of(one.train)):
            key, label = video_id(file), maps[one.name][int(one.train.given_labels[index])]
            count = counts[one.name]
            if key in tested or (by_content and file in tested_content):
                count["leaks"] += 1
            elif key in label_of or (by_content and file in kept_content):
                count["duplicates"] += 1
                if label_of.get(key, label) != label:
                    conflicts.append([file, class_names[label], class_names[label_of[key]]])
            else:
                label_of[key] = label
                kept_content.add(file)
                merged.rows.append((file, label))
                count["kept"] += 1
    videos = [0] * len(class_names)
    for _, label in merged.rows:
        videos[label] += 1
    merged.report = {
        "classes": len(class_names),
        "videos": len(merged.rows),
        "sets": counts,
        "classes_without_videos": [name for name, number in zip(class_names, videos) if not number],
        "kept_under_another_class": conflicts,  # [file, its class here, the class under which it was kept]
        "similar_names": similar_names(class_names),
    }
    return merged


def merge_classes(sets: Sequence[LabelledSet], aliases: Mapping[str, str]) -> tuple[list[str], dict[str, list[int]]]:
    """The classes of all sets, sorted by name, and the merged number of each class of each set."""
    alias = {normalised(name): normalised(target) for name, target in aliases.items()}
    spelling: dict[str, str] = {}  # how the first set that has a class writes it
    keys: dict[str, list[str]] = {}
    for one in sets:
        if one.train.class_names is None:
            raise ValueError(f"set {one.name} has class numbers without names; give it names=FILE, one class a line")
        keys[one.name] = [alias.get(normalised(name), normalised(name)) for name in one.train.class_names]
        if len(set(keys[one.name])) < len(keys[one.name]):
            twice = next(key for key in keys[one.name] if keys[one.name].count(key) > 1)
            raise ValueError(
                f"set {one.name} has two classes that would become one, {twice!r}; check its names and aliases"
            )
        for key, name in zip(keys[one.name], one.train.class_names):
            if key == normalised(name) or key not in spelling:
                spelling.setdefault(key, name)
    order = {key: number for number, key in enumerate(sorted(spelling))}
    return [spelling[key] for key in order], {name: [order[key] for key in own] for name, own in keys.items()}


def similar_names(names: Sequence[str]) -> list[list[str]]:
    """Pairs of classes whose names nearly agree: candidates for --aliases, or truly different."""
    keys = sorted({normalised(name) for name in names})
    pairs = []
    for number, key in enumerate(keys):
        # Sorted neighbours first: comparing all pairs of a thousand names takes minutes.
        for other in keys[number + 1 : number + 6]:
            if difflib.SequenceMatcher(None, key, other).ratio() > 0.9:
                pairs.append([key, other])
    return pairs


def video_id(path: str) -> str:
    """What two files of one video have in common: the YouTube id of a Kinetics clip, else the file's name."""
    stem = Path(path).stem
    match = CLIP_NAME.search(stem)
    return match.group(1) if match else stem


def files_of(manifest: Manifest) -> Iterator[str]:
    """Absolute paths of a list of video files."""
    for index in range(len(manifest)):
        source = manifest.source(index)
        if not isinstance(source, str):
            raise ValueError(
                f"{manifest.origin}: only lists of video files can be merged, {manifest.path(index)} is not one"
            )
        yield os.path.abspath(source)


class ContentIndex:
    """Finds files of equal content; only files of equal size are read."""

    def __init__(self, files: Iterable[str]):
        self._by_size: dict[int, list[str]] = defaultdict(list)
        self._hashes: dict[str, str] = {}
        for file in files:
            self.add(file)

    def add(self, file: str) -> None:
        if os.path.isfile(file):
            self._by_size[os.path.getsize(file)].append(file)

    def __contains__(self, file: str) -> bool:
        if not os.path.isfile(file):
            return False
        others = self._by_size.get(os.path.getsize(file), [])
        return any(self._hash(file) == self._hash(other) for other in others)

    def _hash(self, file: str) -> str:
        if file not in self._hashes:
            self._hashes[file] = sha256_of(file)
        return self._hashes[file]


def write_merged(merged: Merged, output: str | os.PathLike) -> Path:
    with new_folder(output) as folder:
        table = io.StringIO()
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(["path", "label"])
        writer.writerows((file, merged.class_names[label]) for file, label in merged.rows)
        write_atomic(folder / "train.csv", table.getvalue())
        write_atomic(folder / "labels.txt", "".join(f"{name}\n" for name in merged.class_names))
        for name, numbers in merged.maps.items():
            write_json(folder / f"label_map_{name}.json", numbers)
        write_json(folder / "report.json", merged.report)
    return Path(output)
