"""AVA on disk: action lists, annotations, and key frames that do not count.

Boxes are shares of the frame's width and height throughout, as in the CSV files; a key frame is a video and a second.
The same formats serve AVA v2.1 and v2.2, AVA-Kinetics and data sets of one's own. Detected persons are read
by proposals.py, result files by detections.py, movies by movies.py; clips are made by dataset.py.
"""

import csv
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

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
                    f"{path} is not an action list: expected a pbtxt file or lines `NUMBER: NAME`, got {line!r}"
                )
            entries.append((int(match[1]), match[2], None))
    for number, name, kind in entries:
        if number in names:
            raise ValueError(f"{path} lists action {number} twice: {names[number]!r} and {name!r}")
        names[number] = name
        if kind:
            categories.setdefault(LABEL_TYPES.get(kind) or kind.lower(), []).append(number)
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
        persons = found.setdefault(key_frame_of(row, where), {})
        if not any(cell.strip() for cell in row[2:7]):
            continue
        box = parse_box(row[2:6], where)
        action = whole_number(row[6], "action", where)
        if actions is not None and action not in actions:
            raise ValueError(f"{where}: action {action} is not in the list of {len(actions)} actions")
        person = whole_number(row[7], "person", where) if len(row) == 8 and row[7].strip() else -1
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
        frames.append(key_frame_of(row, where))
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


def key_frame_of(row: Sequence[str], where: str) -> KeyFrame:
    try:
        seconds = float(row[1])
    except ValueError:
        raise ValueError(f"{where}: timestamp {row[1]!r} is not a number of seconds") from None
    if not math.isfinite(seconds) or seconds < 0:
        raise ValueError(f"{where}: timestamp {row[1]} is not a time in a video")
    return KeyFrame(row[0].strip(), seconds)


def whole_number(cell: str, what: str, where: str) -> int:
    try:
        value = float(cell)  # AVA-Kinetics writes 12.0
        if value != int(value):
            raise ValueError
    except (ValueError, OverflowError):
        raise ValueError(f"{where}: {what} {cell!r} is not a whole number") from None
    return int(value)


# --------------------------------------------------------------------------------------------------------- results


# AVA's 80 actions are numbered by kind: poses and movements, then what is done to objects, then to other persons.
AVA_CATEGORIES = {"pose": range(1, 15), "object": range(15, 64), "person": range(64, 81)}
