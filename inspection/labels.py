"""Labels and videos to check: what a model disagrees with, duplicates, and what leaks.

`videomae check-labels` prints and writes what `check` finds. The measures are metrics/label_quality.py, the comparison
of features is features/neighbours.py. check-data (data/check.py) looks at a set before any model is trained.
"""

import csv
import hashlib
import io
import itertools
import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from PIL import Image
from tqdm import tqdm

from videomae.data.lists.manifests import Manifest
from videomae.data.prepare import hash_of
from videomae.data.sources import Source, open_clip
from videomae.evaluation.score_tables import ScoreTable
from videomae.features.neighbours import close_pairs, near_pairs
from videomae.metrics.label_quality import judge
from videomae.video_io import Limits, VideoReadError

FRAMES_COMPARED = 8  # of each video, evenly spread
SMALL = (16, 16)  # the grey pictures that show whether two videos look alike
# Root mean square difference of their pixels, of 255. Copies at crf 30 stay below 1.4; of 1,500 mouths filmed alike no
# two are closer than 3.8 (docs/scores.md).
SAME_PICTURES = 2.5
KINDS = ("same bytes", "same frames", "same pictures", "near features")
SURE, MANY = 0.99, 50  # so right on so many videos, predictions look like those of the training set
WEAK = 0.8  # a model that agrees with fewer labels is mostly wrong itself where it disagrees


@dataclass(frozen=True)
class Video:
    """One video of the lists, with the part that it belongs to and what opens it."""

    path: str
    part: str
    label: str | None
    source: Source


def videos_of(parts: Mapping[str, Manifest]) -> list[Video]:
    """All videos of some lists, such as {"train": ..., "test": ...}."""
    videos = []
    for part, manifest in parts.items():
        for index in range(len(manifest)):
            label = manifest.label(index)
            names = manifest.class_names
            if label is not None and not isinstance(label, int):
                label = "|".join(names[k] if names else str(k) for k in label.nonzero().flatten().tolist())
            elif label is not None:
                label = names[label] if names and 0 <= label < len(names) else str(label)
            videos.append(Video(manifest.path(index), part, label, manifest.source(index)))
    return videos


# ------------------------------------------------------------------------------------------------------------- labels


def check_labels(tables: Sequence[ScoreTable]) -> dict[str, Any]:
    """Every video of the tables, the most doubtful label first, and how often which class seems mistaken for which."""
    first = tables[0]
    for table in tables[1:]:
        if (table.class_names, table.single) != (first.class_names, first.single):
            raise ValueError(f"{table.origin} and {first.origin} have other classes; check them one by one")
    twice = [path for path, count in _counts(path for table in tables for path in table.paths).items() if count > 1]
    if twice and len(tables) > 1:
        raise ValueError(f"{len(twice)} videos appear in several tables, the first is {twice[0]}; give each video once")
    paths = [path for table in tables for path in table.paths]
    scores, targets = (np.concatenate([getattr(table, name) for table in tables]) for name in ("scores", "targets"))
    names = first.class_names
    rows, noise = (_single if first.single else _several)(paths, scores, targets, names)
    rows.sort(key=lambda row: (not row["issue"], row["margin"], row["path"]))
    noise.sort(key=lambda row: (-row["videos"], row["given"], row["likely"]))
    doubtful = sum(row["issue"] for row in rows)
    reasons = [reason for table in tables if (reason := in_sample(table))]
    agreement = float(np.mean([row["given"] == row["predicted"] for row in rows]))
    return {
        "videos": len(rows),
        "issues": doubtful,
        "agreement": agreement,
        "noise": noise[:20],
        "in_sample": reasons,
        "rows": rows,
    }


def _single(paths: list[str], scores: np.ndarray, targets: np.ndarray, names: list[str]) -> tuple[list, list]:
    labels = targets.argmax(axis=1)
    judged = judge(scores, labels)
    rows = [
        {
            "path": path,
            "given": names[label],
            "predicted": names[int(own.argmax())],
            "self_confidence": float(confidence),
            "margin": float(margin),
            "issue": bool(issue),
        }
        for path, label, own, confidence, margin, issue in zip(
            paths, labels, scores, judged.self_confidence, judged.margin, judged.issue
        )
    ]
    return rows, _noise(judged.joint, names, names)


def _several(paths: list[str], scores: np.ndarray, targets: np.ndarray, names: list[str]) -> tuple[list, list]:
    """Each class is a question of its own; a video is as doubtful as its most doubtful answer."""
    judged = [
        judge(np.stack([1 - scores[:, k], scores[:, k]], axis=1), targets[:, k].astype(int)) for k in range(len(names))
    ]
    margins = np.stack([one.margin for one in judged], axis=1)
    issues = np.stack([one.issue for one in judged], axis=1)
    rows = []
    for place, path in enumerate(paths):
        doubtful = issues[place] if issues[place].any() else np.ones(len(names), bool)
        worst = int(np.where(doubtful, margins[place], np.inf).argmin())
        given, said = targets[place], scores[place] >= 0.5
        rows.append(
            {
                "path": path,
                "given": "|".join(itertools.compress(names, given)),
                "predicted": "|".join(itertools.compress(names, said)),
                "class": names[worst],
                "self_confidence": float(judged[worst].self_confidence[place]),
                "margin": float(margins[place, worst]),
                "issue": bool(issues[place].any()),
            }
        )
    noise = [
        row
        for one, name in zip(judged, names)
        for row in _noise(one.joint, [f"not {name}", name], [f"not {name}", name])
    ]
    return rows, noise


def _noise(joint: np.ndarray, given: Sequence[str], likely: Sequence[str]) -> list[dict[str, Any]]:
    """The estimated number of videos of one class that belong to another, where it is half a video or more."""
    return [
        {"given": given[i], "likely": likely[j], "videos": float(joint[i, j])}
        for i, j in zip(*np.nonzero(joint >= 0.5))
        if i != j
    ]


def in_sample(table: ScoreTable) -> str | None:
    """Why the predictions look like a model's answers to its own training videos, or None."""
    record = Path(str(table.about.get("model", "")), "training_record.json")
    if table.about.get("model") and record.is_file():
        try:
            data = dict(json.loads(record.read_text("utf-8")).get("data", {}))
        except (ValueError, TypeError, AttributeError):
            data = {}
        dataset, _, fold = str(table.about.get("dataset", "")).partition("-fold-")
        trained_on = Path(str(data.get("name", ""))).stem
        held_out = str(data.get("fold_held_out", "")).replace("/", "-of-")
        if dataset and dataset == trained_on and not (fold and fold == held_out):
            return f"{table.origin}: by its record {table.about['model']} was trained on {data['name']}, a list of the same name"
    scored = table.scored()
    right = scored.ranks < 1 if table.single else (scored.predicted == scored.targets).all(axis=1)
    if len(table) >= MANY and right.mean() >= SURE:
        return f"{table.origin}: {right.mean():.1%} of {len(table)} answers are the given labels"
    return None


def _counts(values: Iterable[Any]) -> dict[Any, int]:
    counts: dict[Any, int] = defaultdict(int)
    for value in values:
        counts[value] += 1
    return counts


# --------------------------------------------------------------------------------------------------------- duplicates


@dataclass(frozen=True)
class Looked:
    """What reading a video showed: hashes of its bytes and of its frames, and small grey pictures of them."""

    bytes_sha256: str | None = None
    frames_sha256: str | None = None
    small: np.ndarray | None = None  # (FRAMES_COMPARED, 16, 16) of bytes
    error: str | None = None


def look(video: Video) -> Looked:
    """Read a video; one that cannot be decoded still has its bytes."""
    try:
        digest = hash_of(video.source)
    except OSError as error:
        return Looked(error=str(error))
    try:
        with open_clip(video.source, Limits(decode_seconds=60.0)) as clip:
            places = np.linspace(0, clip.num_frames - 1, FRAMES_COMPARED).round().astype(int).tolist()
            frames = np.asarray(clip.read(places))
            facts = f"{clip.num_frames} {frames.shape}".encode()
    except (VideoReadError, OSError) as error:
        return Looked(digest, error=str(error))
    return Looked(digest, hashlib.sha256(facts + frames.tobytes()).hexdigest(), small_pictures(frames))


def small_pictures(frames: np.ndarray) -> np.ndarray:
    """(T, H, W, 3) bytes to (T, 16, 16) grey ones, each the mean of its part of the frame."""
    pictures = (Image.fromarray(frame).convert("L").resize(SMALL, Image.Resampling.BOX) for frame in frames)
    return np.stack([np.asarray(picture) for picture in pictures])


def look_at(videos: Sequence[Video], *, workers: int = 1, progress: bool = True) -> list[Looked]:
    with ThreadPoolExecutor(workers) as pool:
        found = pool.map(look, videos)
        return list(tqdm(found, "reading", len(videos), unit="video", disable=None if progress else True))


def check_duplicates(
    videos: Sequence[Video],
    looked: Sequence[Looked] | None = None,
    features: tuple[Sequence[str], np.ndarray] | None = None,
    similarity: float = 0.9,
) -> list[dict[str, Any]]:
    """Pairs of one video, by the first of KINDS that holds; leaks first.

    Of videos with several equal copies each makes a pair with the first. `similarity` is a cosine for features, and for
    pictures minus their difference.
    """
    pairs: dict[tuple[int, int], tuple[str, float]] = {}
    for kind, field in zip(KINDS, ("bytes_sha256", "frames_sha256")):
        first: dict[str, int] = {}
        for index, one in enumerate(looked or ()):
            digest = getattr(one, field)
            if digest is not None and first.setdefault(digest, index) != index:
                pairs.setdefault((first[digest], index), (kind, 1.0 if kind == KINDS[0] else 0.0))
    copies = {later for _, later in pairs}  # they stand for nothing new below
    if looked:
        shown = [index for index, one in enumerate(looked) if one.small is not None and index not in copies]
        small = (
            np.stack([cast(np.ndarray, looked[index].small).ravel() for index in shown]) if shown else np.zeros((0, 1))
        )
        for pair in close_pairs(small, SAME_PICTURES) if shown else ():
            pairs.setdefault((shown[pair.one], shown[pair.other]), (KINDS[2], pair.similarity))
    if features is not None:
        rows, indices = _rows_of(videos, features[0])
        for pair in near_pairs(features[1][rows], similarity):
            one, other = sorted((indices[pair.one], indices[pair.other]))
            if one != other and not copies.intersection((one, other)):
                pairs.setdefault((one, other), (KINDS[3], pair.similarity))
    found = [_described(videos, key, *facts) for key, facts in pairs.items()]
    return sorted(found, key=lambda row: (not row["leak"], KINDS.index(row["kind"]), -row["similarity"], row["path"]))


def _rows_of(videos: Sequence[Video], paths: Sequence[str]) -> tuple[list[int], list[int]]:
    """Which row of the features belongs to which video, by path."""
    places = defaultdict(list)
    for index, video in enumerate(videos):
        places[video.path].append(index)
    known = [(row, index) for row, path in enumerate(paths) for index in places.get(path, ())]
    if not known:
        raise ValueError(
            f"none of the {len(paths)} videos of the features is in the lists; their paths must be written alike, and the "
            f"first are {paths[0]!r} and {videos[0].path!r}"
        )
    return [row for row, _ in known], [index for _, index in known]


def _described(videos: Sequence[Video], key: tuple[int, int], kind: str, similarity: float) -> dict[str, Any]:
    one, other = (videos[index] for index in key)
    return {
        "kind": kind,
        "similarity": similarity,
        "leak": one.part != other.part and kind != KINDS[3],
        "labels_differ": None not in (one.label, other.label) and one.label != other.label,
        "part": one.part,
        "path": one.path,
        "label": one.label,
        "other_part": other.part,
        "other_path": other.path,
        "other_label": other.label,
    }


def findings(report: Mapping[str, Any], videos: Sequence[Video], looked: Sequence[Looked] | None) -> tuple[list, list]:
    """(problems, notes): sentences about what was found, and about what could not be judged."""
    problems, notes = [], []
    for reason in report.get("labels", {}).get("in_sample", ()):
        problems.append(f"the predictions look in-sample, so they show nothing about the labels: {reason}")
    agreement = report["labels"]["agreement"] if "labels" in report else 1.0
    if agreement < WEAK:
        notes.append(
            f"the model agrees with {agreement:.0%} of the labels only, so where it does not it is mostly the one that is "
            "wrong; trust the order, not the count"
        )
    pairs = report.get("duplicates", [])
    if leaks := [pair for pair in pairs if pair["leak"]]:
        one = leaks[0]
        problems.append(
            f"{len({pair['other_path'] for pair in leaks})} videos of the test list are among the others too: "
            f"{one['path']} is {one['other_path']} ({one['kind']})"
        )
    if contradictions := [pair for pair in pairs if pair["labels_differ"] and pair["kind"] != KINDS[3]]:
        one = contradictions[0]
        problems.append(
            f"{len(contradictions)} pairs of one video have two labels, the first is {one['path']} ({one['label']}) and "
            f"{one['other_path']} ({one['other_label']})"
        )
    if near := sum(pair["kind"] == KINDS[3] for pair in pairs):
        notes.append(f"{near} pairs have near features only; look at duplicates.png, or raise --similarity")
    unread = [(video.path, one.error) for video, one in zip(videos, looked or ()) if one.error]
    if unread:
        notes.append(f"{len(unread)} videos could not be read, the first is {unread[0][0]} ({unread[0][1]})")
    if videos and looked is None:
        notes.append("the videos were not read, so equal bytes, frames and pictures were not looked for")
    return problems, notes


# ------------------------------------------------------------------------------------------------------------- output


def middle_frame(source: Source | None) -> np.ndarray | None:
    """The middle frame, or None where the video cannot be read."""
    if source is None:
        return None
    try:
        with open_clip(source, Limits(decode_seconds=60.0)) as clip:
            return np.asarray(clip.read([clip.num_frames // 2]))[0]
    except (VideoReadError, OSError):
        return None


def label_tiles(
    rows: Sequence[Mapping[str, Any]], source_of: Callable[[str], Source | None]
) -> list[tuple[np.ndarray | None, str]]:
    """Pictures of doubtful labels for a contact sheet."""
    return [
        (
            middle_frame(source_of(row["path"])),
            f"given: {row['given'] or 'none'}\npredicted: {row['predicted'] or 'none'}\n"
            f"margin {row['margin']:.2f}\n{row['path']}",
        )
        for row in rows
    ]


def pair_tiles(
    pairs: Sequence[Mapping[str, Any]], source_of: Callable[[str], Source | None]
) -> list[tuple[np.ndarray | None, str]]:
    """Two pictures for each pair."""
    tiles = []
    for number, pair in enumerate(pairs, 1):
        for prefix in ("", "other_"):
            path, part, label = (pair[f"{prefix}{name}"] for name in ("path", "part", "label"))
            caption = f"{number}: {pair['kind']} {pair['similarity']:.3f}\n{part}: {label}\n{path}"
            tiles.append((middle_frame(source_of(path)), caption))
    return tiles


def as_csv(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(
        {key: f"{value:.6g}" if isinstance(value, float) else value for key, value in row.items()} for row in rows
    )
    return re.sub(r"[\ud800-\udfff]", "?", text.getvalue())


def report_lines(report: Mapping[str, Any], *, rows: int) -> Iterator[str]:
    """The report for a terminal."""
    if labels := report.get("labels"):
        yield f"{labels['issues']} of {labels['videos']} labels are doubtful"
        shown = [row for row in labels["rows"] if row["issue"]][:rows]
        for row in shown:
            yield f"  margin {row['margin']:.3f}  {row['path']}: given {row['given']}, predicted {row['predicted']}"
        for row in labels["noise"][:rows]:
            yield f"  about {row['videos']:.1f} videos given as {row['given']} are {row['likely']}"
    if (pairs := report.get("duplicates")) is not None:
        counts = ", ".join(f"{sum(pair['kind'] == kind for pair in pairs)} {kind}" for kind in KINDS)
        yield f"{len(pairs)} pairs of videos may be one: {counts}"
        for pair in pairs[:rows]:
            other = f", labelled {pair['label']} and {pair['other_label']}" if pair["labels_differ"] else ""
            yield (
                f"  {pair['kind']} {pair['similarity']:.3f}: {pair['part']} {pair['path']} = {pair['other_part']} "
                f"{pair['other_path']}{other}"
            )
    for problem in report["problems"]:
        yield f"PROBLEM: {problem}"
    for note in report["notes"]:
        yield f"note: {note}"
