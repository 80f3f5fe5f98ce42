"""Detected persons by key frame, from the files that are in use."""

import json
import math
import os
import pickle
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from videomae.data.ava.annotations import KeyFrame, csv_rows, key_frame_of, parse_box
from videomae.data.ava.safe_pickle import ArraysOnly, unwrapped

Proposals = dict[KeyFrame, np.ndarray]  # (n, 5): x1, y1, x2, y2, score


def read_proposals(path: str | os.PathLike, *, images: str | os.PathLike | None = None) -> Proposals:
    """Detected persons by key frame, from any of the files that are in use.

    .pkl   `{"VIDEO,0902": (n, 5) array}`, FAIR's and mmaction2's; opened without running what a pickle may contain
    .csv   `video_id,timestamp,x1,y1,x2,y2[,label][,score]`, or annotations, whose boxes count as certain
    .json  COCO: results (a list with image_id, bbox, score) or a file with images and annotations; boxes are pixels
           x, y, width, height. Images carry `movie` and `timestamp` (AlphAction) or are named VIDEO/0902.jpg; for a
           bare list of results `images` is the annotation file that has them.
    """
    readers = {".pkl": _proposals_from_pickle, ".pickle": _proposals_from_pickle, ".csv": _proposals_from_csv}
    suffix = Path(path).suffix.lower()
    if suffix == ".json":
        return _with_sound_scores(_proposals_from_json(path, images), path)
    if suffix not in readers:
        raise ValueError(f"cannot tell the format of proposals from {path}; give a .pkl, .csv or .json file")
    return _with_sound_scores(readers[suffix](path), path)


def _with_sound_scores(proposals: Proposals, path: str | os.PathLike) -> Proposals:
    """The same, or an error: thresholds and VideoMAE-Action-Detection's action scores need shares of one."""
    for key, boxes in proposals.items():
        if len(boxes) and not (boxes[:, 4].min() >= 0 and boxes[:, 4].max() <= 1.001):
            worst = max(boxes[:, 4].tolist(), key=lambda score: abs(score - 0.5))
            raise ValueError(f"{path}: key frame {key} has a person of score {worst:g}; scores are between 0 and 1")
    return proposals


def check_split(proposals: Mapping[KeyFrame, Any], key_frames: Iterable[KeyFrame], *, path: str, of: str) -> float:
    """The share of key frames that have proposals; an error when it is none, as with the file of another split."""
    wanted = set(key_frames)
    covered = len(wanted & set(proposals))
    if wanted and not covered:
        same_videos = {key.video_id for key in wanted} & {key.video_id for key in proposals}
        reason = (
            f"its time stamps differ (it has {next(iter(proposals))}, wanted is {next(iter(wanted))})"
            if same_videos
            else "it has none of its videos, so it seems to be the file of the other split"
        )
        raise ValueError(f"{path} has no box for any of the {len(wanted)} key frames of {of}: {reason}")
    return covered / max(len(wanted), 1)


def choose_persons(boxes: np.ndarray, score: float, *, else_best: bool = False) -> np.ndarray:
    """Proposals (n, 5) that reach `score`; with `else_best` the best-scored ones where none does (mmaction2's rule)."""
    if else_best and len(boxes):
        score = min(score, boxes[:, 4].max())
    return boxes[boxes[:, 4] >= score]


def _proposals_from_pickle(path: str | os.PathLike) -> Proposals:
    try:
        with open(path, "rb") as file:
            content = ArraysOnly(file, encoding="latin1").load()
    except (pickle.UnpicklingError, EOFError, AttributeError, IndexError, KeyError, ValueError, TypeError) as error:
        raise ValueError(
            f"{path} is not a pickle of proposals that is safe to open ({error}); expected a dict of numpy arrays"
        ) from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}; expected a dict from 'VIDEO,0902' to boxes")
    proposals = {}
    for key, boxes in content.items():
        where = f"{path} entry {key!r}"
        video_id, separator, seconds = str(key).rpartition(",")
        if not separator:
            raise ValueError(f"{where} is not named VIDEO,SECONDS")
        boxes = np.asarray(unwrapped(boxes))
        if boxes.dtype == object or (boxes.size and (boxes.ndim != 2 or boxes.shape[1] not in (4, 5))):
            raise ValueError(f"{where} has shape {boxes.shape}; expected rows of x1, y1, x2, y2[, score]")
        proposals[key_frame_of((video_id, seconds), where)] = _scored(boxes.astype(np.float32), where)
    return proposals


def _scored(boxes: np.ndarray, where: str) -> np.ndarray:
    """(n, 4 or 5) normalised boxes checked as a whole, row by row only where something is wrong."""
    boxes = boxes.reshape(-1, boxes.shape[-1] if boxes.size else 5)
    if boxes.shape[1] == 4:
        boxes = np.concatenate([boxes, np.ones_like(boxes[:, :1])], 1)
    corners = boxes[:, :4]
    if len(boxes) and not (
        np.isfinite(boxes).all()
        and corners.min() >= 0
        and corners.max() <= 1
        and (corners[:, 2:] >= corners[:, :2]).all()
    ):
        checked = [parse_box(box[:4], f"{where} row {row}") for row, box in enumerate(boxes)]
        boxes = np.concatenate([np.array(checked, dtype=np.float32), np.nan_to_num(boxes[:, 4:])], 1)
    return boxes


def _proposals_from_csv(path: str | os.PathLike) -> Proposals:
    found: dict[KeyFrame, dict[tuple, float]] = {}
    rows = list(csv_rows(path))
    # Whole numbers alone at the end are the persons or the actions of annotations, not scores.
    scored = not all(re.fullmatch(r"-?\d*", row[-1].strip()) for _, row in rows if len(row) > 6)
    for where, row in rows:
        if len(row) not in (6, 7, 8):
            raise ValueError(f"{where} has {len(row)} columns; expected video_id,timestamp,x1,y1,x2,y2[,label][,score]")
        score = parse_score(row[-1], where) if scored and len(row) > 6 else 1.0
        scores, box = found.setdefault(key_frame_of(row, where), {}), parse_box(row[2:6], where)
        scores[box] = max(score, scores.get(box, score))  # files repeat a box for each of its actions
    return {
        key: np.array([(*box, score) for box, score in scores.items()], dtype=np.float32)
        for key, scores in found.items()
    }


def parse_score(cell: Any, where: str) -> float:
    try:
        score = float(cell)
    except (TypeError, ValueError):
        raise ValueError(f"{where}: score {cell!r} is not a number") from None
    if not math.isfinite(score):
        raise ValueError(f"{where}: score {cell} is not finite")
    return score


def _proposals_from_json(path: str | os.PathLike, images: str | os.PathLike | None) -> Proposals:
    content = _read_json(path)
    results = content.get("annotations") if isinstance(content, dict) else content
    described = content if isinstance(content, dict) else (_read_json(images) if images else None)
    if described is None:
        raise ValueError(
            f"{path} is a list of results, whose images are described elsewhere; give the annotation JSON that has them"
        )
    if (
        not isinstance(results, list)
        or not isinstance(described, dict)
        or not isinstance(described.get("images"), list)
    ):
        raise ValueError(f"{images or path} has no list of images with their sizes; expected a COCO file")
    persons = {
        entry["id"] for entry in described.get("categories", []) if str(entry.get("name", "")).lower() == "person"
    }
    by_id = {}
    for row, image in enumerate(described["images"]):
        by_id[image.get("id")] = _described_image(image, f"{images or path} image {row}")
    found: dict[KeyFrame, list] = {key: [] for key, _, _ in by_id.values()}
    for row, result in enumerate(results):
        where = f"{path} result {row}"
        if persons and result.get("category_id", next(iter(persons))) not in persons:
            continue
        if result.get("image_id") not in by_id:
            raise ValueError(
                f"{where} is of image {result.get('image_id')!r}, which {images or path} does not describe"
            )
        key, width, height = by_id[result["image_id"]]
        try:
            x, y, w, h = (float(value) for value in result["bbox"])
        except (KeyError, TypeError, ValueError):
            raise ValueError(f"{where} has no bbox of x, y, width, height") from None
        if 0 < max(x + w, y + h) <= 1 and min(width, height) > 2:
            raise ValueError(f"{where}: bbox {result['bbox']} seems normalised; COCO boxes are pixels")
        box = parse_box((x / width, y / height, (x + w) / width, (y + h) / height), where)
        found[key].append((*box, parse_score(result.get("score", 1.0), where)))
    return {key: np.array(boxes, dtype=np.float32).reshape(-1, 5) for key, boxes in found.items()}


def _read_json(path: str | os.PathLike) -> Any:
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error})") from None


def _described_image(image: Mapping[str, Any], where: str) -> tuple[KeyFrame, float, float]:
    """(key frame, width, height) of a COCO image."""
    video_id, seconds = image.get("movie", image.get("video_id")), image.get("timestamp")
    if video_id is None or seconds is None:
        name = Path(str(image.get("file_name", image.get("img_path", ""))))
        video_id, seconds = name.parent.as_posix(), name.stem
        if video_id in ("", "."):
            raise ValueError(f"{where} has neither movie and timestamp nor a file name like VIDEO/0902.jpg")
    try:
        width, height = float(image["width"]), float(image["height"])
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"{where} has no width and height, which its boxes need") from None
    if width <= 0 or height <= 0:
        raise ValueError(f"{where} has size {width:g}x{height:g}")
    return key_frame_of((str(video_id), str(seconds)), where), width, height
