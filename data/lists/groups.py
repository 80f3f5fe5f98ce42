"""Groups of videos that must stay together (a patient, a camera, a speaker), and splits that keep them so."""

import os
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path

import numpy as np

from videomae.data.lists.list_files import END_SECONDS, PATH_COLUMNS, START_SECONDS, has_header, table_rows, times_of
from videomae.data.lists.manifests import WHOLE, Manifest, some_of
from videomae.data.stretches import named, parsed

# Names that the column has in the wild, the first found wins; compared in lower case.
GROUP_COLUMNS = ("group", "group_id", "patient", "patient_id", "subject", "subject_id", "speaker", "person", "camera")


def read_groups(table: str | os.PathLike, column: str | None = None) -> tuple[str, dict[str, str]]:
    """The name of the group column of a CSV, TSV, JSONL or Parquet table, and the group of each path in it."""
    path = Path(table)
    if path.suffix.lower() not in (".parquet", ".jsonl", ".ndjson", ".json") and not has_header(path):
        raise ValueError(f"{path} has no header line that names its columns; groups need one, such as path,label,group")
    groups: dict[str, str] = {}
    for line, row in table_rows(path):
        lower = {str(name).strip().lower(): name for name in row}
        video = next((lower[name] for name in PATH_COLUMNS if name in lower), None)
        wanted = [column.strip().lower()] if column else GROUP_COLUMNS
        found = next((lower[name] for name in wanted if name in lower), None)
        if video is None or found is None:
            missing = "the path" if video is None else f"groups called {some_of(wanted, 9)}"
            raise ValueError(f"{path}, line {line}: no column for {missing} among {some_of(map(str, row))}")
        group = "" if row[found] is None else str(row[found]).strip()
        if not group:
            raise ValueError(
                f"{path}, line {line}: {found} is empty; give every video a group, its own name if need be"
            )
        name = str(row[video]).strip()
        stretch = times_of(row, lower.get(START_SECONDS), lower.get(END_SECONDS), f"{path}, line {line}")
        name = name if stretch == WHOLE else named(name, *stretch)
        if groups.setdefault(name, group) != group:
            raise ValueError(f"{path}, line {line}: {name} is in two groups, {groups[name]} and {group}")
        column = str(found)
    return str(column), groups


def groups_of(manifest: Manifest, table: str | os.PathLike, column: str | None = None) -> list[str]:
    """The group of each video of a manifest, in its order."""
    name, groups = read_groups(table, column)
    paths = [manifest.path(index) for index in range(len(manifest))]
    found = [group_of(groups, path) for path in paths]
    if missing := [path for path, group in zip(paths, found) if group is None]:
        raise ValueError(
            f"{table} has no {name} for {len(missing)} of {len(paths)} videos of {manifest.origin}: {some_of(missing, 3)}; "
            "paths must be written as in the list"
        )
    return found


def group_of(groups: Mapping[str, str], path: str) -> str | None:
    """The group of a path; that of a stretch is that of its file."""
    return groups.get(path, groups.get(parsed(path)[0]))


def split_fold(
    manifest: Manifest, fold: tuple[int, int], groups: Sequence[Hashable] | None = None
) -> tuple[Manifest, Manifest]:
    """(the other parts, the part) of a fold such as (2, 5); equal for every seed of a training."""
    part, parts = fold
    return divided(manifest, groups, [1 / parts] * parts, part - 1, seed=0)


def split_share(
    manifest: Manifest, share: float, groups: Sequence[Hashable], *, seed: int
) -> tuple[Manifest, Manifest]:
    """(the rest, about this share of the videos), in whole groups."""
    return divided(manifest, groups, [1 - share, share], 1, seed=seed)


def divided(
    manifest: Manifest, groups: Sequence[Hashable] | None, shares: Sequence[float], chosen: int, *, seed: int
) -> tuple[Manifest, Manifest]:
    """The videos of all other parts, and those of the chosen one, in the order of the list.

    Without groups the stretches of one file stay together: they show the same people and places.
    """
    if groups is None and manifest.stretches is not None:
        groups = [manifest.file(index) for index in range(len(manifest))]
    labels = None if manifest.labels is None else manifest.labels.numpy()
    part_of = parts_of(labels, groups, shares, seed=seed, videos=len(manifest))
    rest, part = np.flatnonzero(part_of != chosen).tolist(), np.flatnonzero(part_of == chosen).tolist()
    if not rest or not part:
        raise ValueError(f"{manifest.origin} cannot be divided: a part of its {len(manifest)} videos would be empty")
    return manifest.subset(rest), manifest.subset(part)


def parse_fold(text: str) -> tuple[int, int]:
    """ "2/5" -> (2, 5): the second of five parts."""
    part, _, parts = text.partition("/")
    if not (part.isdigit() and parts.isdigit() and 1 <= int(part) <= int(parts) and int(parts) >= 2):
        raise ValueError(
            f"a fold is PART/PARTS, such as 2/5, with PART from 1 to PARTS and at least 2 parts, not {text!r}"
        )
    return int(part), int(parts)


def parts_of(
    labels: Sequence[int] | np.ndarray | None,
    groups: Sequence[Hashable] | None,
    shares: Sequence[float],
    *,
    seed: int = 0,
    videos: int | None = None,
) -> np.ndarray:
    """The part (from 0) of each video, so that no group is in two parts and each part has its share of every class.

    labels: class numbers, or (N, C) for several labels a video, or None. groups: None makes every video its own.
    Groups are placed one after the other, those with most videos first and of equal ones in an order that `seed`
    shuffles, each into the part that holds least of the group's classes for its share. Equal shares are k folds. The
    result depends on nothing but the arguments.
    """
    labels = np.zeros(videos or 0, np.int64) if labels is None else np.asarray(labels)
    classes = labels if labels.ndim == 2 else np.eye(int(labels.max(initial=0)) + 1)[labels]
    names, codes = np.unique(np.arange(len(labels)) if groups is None else np.asarray(groups), return_inverse=True)
    if len(names) < len(shares):
        raise ValueError(f"{len(names)} groups cannot fill {len(shares)} parts; ask for fewer parts")
    content = np.zeros((len(names), classes.shape[1] + 1))
    np.add.at(content, codes, np.concatenate([classes, np.ones((len(classes), 1))], axis=1))
    # The rarest class counts most; the number of videos decides only between parts that are equal by class.
    worth = np.append(1 / np.maximum(classes.sum(axis=0), 1) ** 2, 1e-6 / max(len(labels), 1) ** 2)
    order = np.random.default_rng(seed).permutation(len(names))
    order = order[np.argsort(-content[order, -1], kind="stable")]
    wanted = np.asarray(shares, np.float64)[:, None]
    held = np.zeros((len(shares), content.shape[1]))
    part_of = np.empty(len(names), np.int64)
    for group in order:
        # What each part would hold for its share: of each class of the group, half of what it adds counts with it.
        fill = ((held + content[group] / 2) / wanted) @ (content[group] * worth)
        part_of[group] = int(fill.argmin())
        held[part_of[group]] += content[group]
    return part_of[codes]
