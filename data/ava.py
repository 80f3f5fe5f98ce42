"""AVA on disk: action lists, annotations, key frames that do not count, person proposals, and result files.

Boxes are shares of the frame's width and height throughout, as in the CSV files; a key frame is a video and a second.
The same formats serve AVA v2.1 and v2.2, AVA-Kinetics and data sets of one's own. Movies are read by ava_movies.py,
clips are made by ava_dataset.py, mAP is computed by videomae.metrics.ava_map.
"""

import csv
import io
import json
import math
import os
import pickle
import re
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from pyarrow import compute
from pyarrow import csv as arrow_csv

from videomae.files import write_atomic
from videomae.metrics.ava_map.average_precision import AVA_CATEGORIES, LabelledBoxes

# The 80 actions of ava_action_list_v2.2.pbtxt, number 1 first: 14 poses, 49 with objects, 17 with persons.
AVA_ACTIONS = (
    *("bend/bow (at the waist)", "crawl", "crouch/kneel", "dance", "fall down", "get up", "jump/leap", "lie/sleep"),
    *("martial art", "run/jog", "sit", "stand", "swim", "walk"),
    *("answer phone", "brush teeth", "carry/hold (an object)", "catch (an object)", "chop"),
    *("climb (e.g., a mountain)", "clink glass", "close (e.g., a door, a box)", "cook", "cut", "dig"),
    *("dress/put on clothing", "drink", "drive (e.g., a car, a truck)", "eat", "enter", "exit", "extract", "fishing"),
    *("hit (an object)", "kick (an object)", "lift/pick up", "listen (e.g., to music)"),
    *("open (e.g., a window, a car door)", "paint", "play board game", "play musical instrument", "play with pets"),
    *("point to (an object)", "press", "pull (an object)", "push (an object)", "put down", "read"),
    *("ride (e.g., a bike, a car, a horse)", "row boat", "sail boat", "shoot", "shovel", "smoke", "stir"),
    *("take a photo", "text on/look at a cellphone", "throw", "touch (an object)", "turn (e.g., a screwdriver)"),
    *("watch (e.g., TV)", "work on a computer", "write"),
    *("fight/hit (a person)", "give/serve (an object) to (a person)", "grab (a person)", "hand clap", "hand shake"),
    *("hand wave", "hug (a person)", "kick (a person)", "kiss (a person)", "lift (a person)", "listen to (a person)"),
    *("play with kids", "push (another person)", "sing to (e.g., self, a person, a group)"),
    *("take (an object) from (a person)", "talk to (e.g., self, a person, a group)", "watch (a person)"),
)
LABEL_TYPES = {"PERSON_MOVEMENT": "pose", "OBJECT_MANIPULATION": "object", "PERSON_INTERACTION": "person"}

# Annotators and detectors may reach a little over the border; further out a box is in another unit.
SLACK = 0.5


class KeyFrame(NamedTuple):
    video_id: str
    seconds: float

    def __str__(self) -> str:
        return f"{self.video_id},{seconds_text(self.seconds)}"


def seconds_text(seconds: float) -> str:
    """A time stamp as AVA writes it, 0902; fractions (AVA-Kinetics) with six digits."""
    return f"{int(seconds):04d}" if seconds == int(seconds) else f"{seconds:.6f}"


# ---------------------------------------------------------------------------------------------------- action lists


@dataclass(frozen=True)
class ActionList:
    """Action numbers with names, and the numbers of each category. Numbers need not be contiguous."""

    names: dict[int, str]
    categories: dict[str, list[int]]


def read_action_list(path: str | os.PathLike) -> ActionList:
    """A label list: AVA's pbtxt files of both spellings (label_id, id), or lines `NUMBER: NAME`.

    Categories are those of the file (`label_type`); the list of the 2019 challenge has none, and its numbers are
    AVA's, which tell.
    """
    text = Path(path).read_text(encoding="utf-8-sig")
    names: dict[int, str] = {}
    categories: dict[str, list[int]] = {}
    entries = []
    for block in re.findall(r"\{(.*?)\}", text, flags=re.DOTALL):
        number = re.search(r"\b(?:label_)?id\s*:\s*(\d+)", block)
        name = re.search(r"\bname\s*:\s*\"([^\"]*)\"", block)
        if not number or not name:
            raise ValueError(f"{path} has an entry without name and id: {{{' '.join(block.split())[:60]}}}")
        kind = re.search(r"\blabel_type\s*:\s*(\w+)", block)
        entries.append((int(number[1]), name[1], kind[1] if kind else None))
    if not entries:
        for line in filter(str.strip, text.splitlines()):
            if not (match := re.fullmatch(r"\s*(\d+)\s*[:,\s]\s*(.*\S)\s*", line)):
                raise ValueError(
                    f"{path} is no action list: expected a pbtxt file or lines `NUMBER: NAME`, got {line!r}"
                )
            entries.append((int(match[1]), match[2], None))
    for number, name, kind in entries:
        if number in names:
            raise ValueError(f"{path} lists action {number} twice: {names[number]!r} and {name!r}")
        names[number] = name
        if kind:
            categories.setdefault(LABEL_TYPES.get(kind, kind.lower()), []).append(number)
    if not names:
        raise ValueError(f"{path} lists no action")
    if not categories and all(1 <= number <= 80 and AVA_ACTIONS[number - 1] == name for number, name in names.items()):
        categories = {
            category: [number for number in names if number in members] for category, members in AVA_CATEGORIES.items()
        }
    return ActionList(names, categories)


# ----------------------------------------------------------------------------------------------------- annotations


@dataclass
class Persons:
    """The persons of one key frame: (n, 4) boxes, the action numbers of each, and person numbers (-1 = unknown)."""

    boxes: np.ndarray
    actions: list[tuple[int, ...]]
    person_ids: list[int]


@dataclass
class Annotations:
    """Key frames in the order of the file, annotated or not, and where they came from."""

    path: str
    key_frames: dict[KeyFrame, Persons] = field(default_factory=dict)

    def without(self, excluded: Iterable[KeyFrame]) -> "Annotations":
        excluded = set(excluded)
        return Annotations(self.path, {key: value for key, value in self.key_frames.items() if key not in excluded})

    @property
    def video_ids(self) -> list[str]:
        return list(dict.fromkeys(key.video_id for key in self.key_frames))


def read_annotations(path: str | os.PathLike, *, actions: Mapping[int, str] | None = None) -> Annotations:
    """An AVA CSV: `video_id,timestamp,x1,y1,x2,y2,action_id[,person_id]`, boxes as shares of the frame.

    Rows of one key frame with one box (and person) are one person with several actions. A row that stops after the
    time stamp, or is empty after it, is a key frame in which nobody does anything. `actions` are the numbers that may
    occur; others are an error.
    """
    annotations = Annotations(str(path))
    found: dict[KeyFrame, dict[tuple, set[int]]] = {}
    for where, row in csv_rows(path):
        if len(row) not in (2, 7, 8):
            raise ValueError(
                f"{where} has {len(row)} columns; expected video_id,timestamp,x1,y1,x2,y2,action_id[,person_id]"
            )
        persons = found.setdefault(_key_frame(row, where), {})
        if not any(cell.strip() for cell in row[2:7]):
            continue
        box = parse_box(row[2:6], where)
        action = _whole_number(row[6], "action", where)
        if actions is not None and action not in actions:
            raise ValueError(f"{where}: action {action} is not in the list of {len(actions)} actions")
        person = _whole_number(row[7], "person", where) if len(row) == 8 and row[7].strip() else -1
        persons.setdefault((box, person), set()).add(action)
    for key, persons in found.items():
        annotations.key_frames[key] = Persons(
            boxes=np.array([box for box, _ in persons], dtype=np.float32).reshape(-1, 4),
            actions=[tuple(sorted(its_actions)) for its_actions in persons.values()],
            person_ids=[person for _, person in persons],
        )
    if not annotations.key_frames:
        raise ValueError(f"{path} has no rows")
    return annotations


def read_key_frames(path: str | os.PathLike) -> list[KeyFrame]:
    """A CSV of `video_id,timestamp`: the excluded time stamps, or a list of key frames that count."""
    frames = []
    for where, row in csv_rows(path):
        if len(row) != 2:
            raise ValueError(f"{where} has {len(row)} columns; a list of key frames has video_id,timestamp")
        frames.append(_key_frame(row, where))
    return frames


def csv_rows(path: str | os.PathLike) -> Iterator[tuple[str, list[str]]]:
    """(file and line for messages, cells) of every row that is not blank; a header row is recognised and left out."""
    with open(path, newline="", encoding="utf-8-sig") as file:
        for number, row in enumerate(csv.reader(file), start=1):
            if not row or not any(cell.strip() for cell in row):
                continue
            if number == 1 and len(row) > 1 and row[0].strip().lower() in ("video_id", "video", "video_name"):
                continue
            yield f"{path} line {number}", row


def parse_box(cells: Sequence[Any], where: str) -> tuple[float, float, float, float]:
    """Four cells as x1, y1, x2, y2 within the frame, clipped; an error that names the row and the mistake."""
    try:
        box = tuple(float(cell) for cell in cells)
    except (TypeError, ValueError):
        raise ValueError(f"{where}: box {', '.join(map(str, cells))} is not four numbers") from None
    text = ", ".join(f"{value:g}" for value in box)
    if not all(map(math.isfinite, box)):
        raise ValueError(f"{where}: box {text} is not finite")
    if max(box) > 1 + SLACK or min(box) < -SLACK:
        raise ValueError(
            f"{where}: box {text} seems to be in pixels; divide x by the frame's width and y by its height"
        )
    if box[2] < box[0] or box[3] < box[1]:
        raise ValueError(
            f"{where}: box {text} ends before it starts; boxes are x1, y1, x2, y2, not x, y, width, height"
        )
    x1, y1, x2, y2 = (min(max(value, 0.0), 1.0) for value in box)
    return x1, y1, x2, y2


def _key_frame(row: Sequence[str], where: str) -> KeyFrame:
    try:
        seconds = float(row[1])
    except ValueError:
        raise ValueError(f"{where}: timestamp {row[1]!r} is not a number of seconds") from None
    if not math.isfinite(seconds) or seconds < 0:
        raise ValueError(f"{where}: timestamp {row[1]} is not a time in a video")
    return KeyFrame(row[0].strip(), seconds)


def _whole_number(cell: str, what: str, where: str) -> int:
    try:
        value = float(cell)  # AVA-Kinetics writes 12.0
        if value != int(value):
            raise ValueError
    except (ValueError, OverflowError):
        raise ValueError(f"{where}: {what} {cell!r} is not a whole number") from None
    return int(value)


# ------------------------------------------------------------------------------------------------------- proposals


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
        return _proposals_from_json(path, images)
    if suffix not in readers:
        raise ValueError(f"cannot tell the format of proposals from {path}; give a .pkl, .csv or .json file")
    return readers[suffix](path)


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
    """Proposals (n, 5) that reach `score`; with `else_best` the best-scored one where none does (mmaction2's rule)."""
    kept = boxes[boxes[:, 4] >= score]
    if not len(kept) and else_best and len(boxes):
        kept = boxes[[boxes[:, 4].argmax()]]
    return kept


class _PickledType:
    """What stands for a numpy dtype while a pickle is read: a number type and its byte order, nothing else."""

    def __init__(self, code: str, *_: Any):
        if not re.fullmatch(r"[biuf]\d+", str(code)):
            raise pickle.UnpicklingError(f"it has values of type {code!r}, which are no numbers")
        self.dtype = np.dtype(str(code))

    def __setstate__(self, state: tuple) -> None:
        self.dtype = self.dtype.newbyteorder("=" if state[1] == "|" else state[1])


class _PickledArray:
    """What stands for a numpy array while a pickle is read."""

    def __init__(self, *_: Any):
        self.array = np.zeros(0, dtype=np.float32)

    def __setstate__(self, state: tuple) -> None:
        _, shape, of, fortran, content = state
        self.array = self.of_bytes(content, of, shape, "F" if fortran else "C").array

    @classmethod
    def of_bytes(cls, content: Any, of: _PickledType, shape: Any, order: str) -> "_PickledArray":
        made = cls()
        content = content.encode("latin1") if isinstance(content, str) else content  # Python 2's bytes
        made.array = np.frombuffer(content, of.dtype).reshape(shape, order=order)
        return made


def _pickled_number(of: _PickledType, content: Any) -> Any:
    return _PickledArray.of_bytes(content, of, (), "C").array[()]


def _pickled_bytes(text: str, encoding: str) -> bytes:
    if encoding != "latin1":  # the one that pickles of bytes use; others are modules to be looked up
        raise pickle.UnpicklingError(f"it asks for text as {encoding!r}")
    return text.encode("latin1")


def _unwrapped(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_unwrapped(entry) for entry in value]
    return value.array if isinstance(value, _PickledArray) else value


class _ArraysOnly(pickle.Unpickler):
    """Builds dicts, lists, numbers, texts and arrays of numbers; a pickle that asks for anything else is refused.

    Not even numpy's own classes are handed to it: `numpy.ndarray`, called with a buffer and the type "object", takes
    bytes of the file for addresses.
    """

    KNOWN = {
        **{
            (f"{package}.{module}", name): stand_in
            for package in ("numpy.core", "numpy._core")
            for module, name, stand_in in (
                ("multiarray", "_reconstruct", _PickledArray),
                ("multiarray", "scalar", _pickled_number),
                ("numeric", "_frombuffer", _PickledArray.of_bytes),
            )
        },
        ("numpy", "ndarray"): "ndarray",  # named in arrays, never called
        ("numpy", "dtype"): _PickledType,
        ("_codecs", "encode"): _pickled_bytes,
        ("collections", "OrderedDict"): OrderedDict,
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.KNOWN:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return self.KNOWN[module, name]


def _proposals_from_pickle(path: str | os.PathLike) -> Proposals:
    try:
        with open(path, "rb") as file:
            content = _ArraysOnly(file, encoding="latin1").load()
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
        boxes = np.asarray(_unwrapped(boxes))
        if boxes.dtype == object or (boxes.size and (boxes.ndim != 2 or boxes.shape[1] not in (4, 5))):
            raise ValueError(f"{where} has shape {boxes.shape}; expected rows of x1, y1, x2, y2[, score]")
        proposals[_key_frame((video_id, seconds), where)] = _scored(boxes.astype(np.float32), where)
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
        score = _score(row[-1], where) if scored and len(row) > 6 else 1.0
        scores, box = found.setdefault(_key_frame(row, where), {}), parse_box(row[2:6], where)
        scores[box] = max(score, scores.get(box, score))  # files repeat a box for each of its actions
    return {
        key: np.array([(*box, score) for box, score in scores.items()], dtype=np.float32)
        for key, scores in found.items()
    }


def _score(cell: Any, where: str) -> float:
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
        found[key].append((*box, _score(result.get("score", 1.0), where)))
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
    return _key_frame((str(video_id), str(seconds)), where), width, height


# --------------------------------------------------------------------------------------------------------- results


@dataclass
class Detections:
    """Labelled, scored boxes as columns: what a test produces and a result file holds."""

    key_frames: list[KeyFrame]  # the frames that were looked at, with or without a result
    frame: np.ndarray  # (n,) index into key_frames
    box: np.ndarray  # (n, 4) shares of the frame
    label: np.ndarray  # (n,) action numbers
    score: np.ndarray  # (n,)


RESULT_COLUMNS = ("video_id", "timestamp", "x1", "y1", "x2", "y2", "action_id", "score")


def write_detections(path: str | os.PathLike, detections: Detections, *, digits: int = 6) -> Path:
    """The CSV of the challenge: video_id,timestamp,x1,y1,x2,y2,action_id,score."""
    names = [(key.video_id, seconds_text(key.seconds)) for key in detections.key_frames]
    columns = [pa.array([name[part] for name in names], pa.string()).take(detections.frame) for part in (0, 1)]
    columns += [pa.array(detections.box[:, side].round(digits)) for side in range(4)]
    columns += [pa.array(detections.label), pa.array(detections.score.round(digits))]
    text = io.BytesIO()
    options = arrow_csv.WriteOptions(include_header=False, quoting_style="none")
    arrow_csv.write_csv(pa.table(columns, RESULT_COLUMNS), text, options)
    return write_atomic(path, text.getvalue())


def read_detections(path: str | os.PathLike) -> Detections:
    """A result file in the format of the challenge; it may have millions of rows."""
    types = [pa.string(), pa.string(), *[pa.float64()] * 4, pa.int64(), pa.float64()]
    try:
        table = arrow_csv.read_csv(
            path,
            read_options=arrow_csv.ReadOptions(column_names=RESULT_COLUMNS),
            convert_options=arrow_csv.ConvertOptions(column_types=dict(zip(RESULT_COLUMNS, types))),
        )
    except pa.ArrowInvalid:
        return _read_detections_row_by_row(path)
    box = np.stack([table[side].to_numpy() for side in RESULT_COLUMNS[2:6]], 1)
    score = table["score"].to_numpy()
    fine = (box[:, :2] <= box[:, 2:]).all() and box.min(initial=0) >= -SLACK and box.max(initial=0) <= 1 + SLACK
    if not fine or not np.isfinite(score).all() or table["action_id"].null_count:
        return _read_detections_row_by_row(path)
    texts = compute.binary_join_element_wise(table["video_id"], table["timestamp"], ",").combine_chunks()
    coded = texts.dictionary_encode()
    key_frames: dict[KeyFrame, int] = {}
    numbers = []  # two texts may be one time: 0902 and 902.0
    for text in coded.dictionary.to_pylist():
        key = _key_frame(text.rpartition(",")[::2], f"{path} key frame {text}")
        numbers.append(key_frames.setdefault(key, len(key_frames)))
    frame = np.array(numbers, dtype=np.int64)[coded.indices.to_numpy()]
    return Detections(list(key_frames), frame, box, table["action_id"].to_numpy(), score)


def _read_detections_row_by_row(path: str | os.PathLike) -> Detections:
    """The slow way, for files with a header or blank lines, and for naming the row that is wrong."""
    key_frames: dict[KeyFrame, int] = {}
    frame, box, label, score = [], [], [], []
    for where, row in csv_rows(path):
        if len(row) != len(RESULT_COLUMNS):
            raise ValueError(f"{where} has {len(row)} columns; results have {','.join(RESULT_COLUMNS)}")
        frame.append(key_frames.setdefault(_key_frame(row, where), len(key_frames)))
        box.append(parse_box(row[2:6], where))
        label.append(_whole_number(row[6], "action", where))
        score.append(_score(row[7], where))
    return Detections(
        list(key_frames),
        np.array(frame, dtype=np.int64),
        np.array(box, dtype=np.float64).reshape(-1, 4),
        np.array(label, dtype=np.int64),
        np.array(score, dtype=np.float64),
    )


def for_metric(
    annotations: Annotations, detections: Detections
) -> tuple[LabelledBoxes, LabelledBoxes, dict[KeyFrame, int]]:
    """Annotated and found boxes as the metric wants them, and the number that stands for each key frame of either."""
    numbers = {key: index for index, key in enumerate(annotations.key_frames)}
    frame, box, label = [], [], []
    for key, persons in annotations.key_frames.items():
        for its_box, actions in zip(persons.boxes, persons.actions):
            for action in actions:
                frame.append(numbers[key])
                box.append(its_box)
                label.append(action)
    theirs = np.array([numbers.setdefault(key, len(numbers)) for key in detections.key_frames], dtype=np.int64)
    found = LabelledBoxes.of(theirs[detections.frame], detections.box, detections.label, detections.score)
    return LabelledBoxes.of(frame, box, label), found, numbers
