"""A labelled stretch of a long video: its times as people write them, its name, and reading its frames alone.

`Stretch` is a source like any other (sources.py): opened, it offers the frames between two times as if they were a video of
their own, numbered from 0. So sampling, views and windows need to know nothing of it. Which stretches there are is
lists/; where a frame lies in time is video_io.py's.
"""

import contextlib
import math
import os
import re
import threading
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from videomae.video_io import Limits, VideoReader, VideoReadError
from videomae.video_pictures import Part

# What an end may lie beyond the file: annotations are rounded up, and made on other copies of a video.
TOLERANCE_SECONDS = 1.0
IDLE_READERS = 4  # open files that wait in a process for the next stretch of theirs
NAME = re.compile(r"(.+)#t=([\d.]+)(?:,([\d.]+))?", re.DOTALL)


class Stretch(NamedTuple):
    """The part of a video file from one time to another, in seconds from its first frame."""

    source: Any  # a path, or the bytes or path of a table's row
    start_seconds: float
    end_seconds: float  # math.inf: to the end of the file
    place: str = ""  # where it is written, such as "train.csv, line 3"


def seconds_in(value: Any, default: float) -> float:
    """A time as people write it, 12.5 or "1:02:03.5" or "2:03"; `default` where there is none. ValueError for others."""
    if value is None or (isinstance(value, str) and not value.strip()) or (isinstance(value, float) and value != value):
        return default
    parts = value.split(":") if isinstance(value, str) else [value]
    numbers = [math.nan if isinstance(part, bool) else float(part) for part in parts]
    whole = all(number.is_integer() for number in numbers[:-1]) and all(number < 60 for number in numbers[1:])
    seconds = sum(number * 60**place for place, number in enumerate(reversed(numbers)))
    if len(numbers) > 3 or not whole or not math.isfinite(seconds) or min(numbers) < 0:
        raise ValueError(f"{value!r} is no time")
    return seconds


def named(path: str, start_seconds: float, end_seconds: float) -> str:
    """The name of a stretch: the path and its times as the W3C writes them, `long.mp4#t=12.5,20`."""
    end = "" if math.isinf(end_seconds) else f",{_plain(end_seconds)}"
    return f"{path}#t={_plain(start_seconds)}{end}"


def times_in_a_file_name(start_seconds: float, end_seconds: float) -> str:
    """What stands behind the name of a file that is made of a stretch: `.12.5-20`."""
    return f".{_plain(start_seconds)}-{'end' if math.isinf(end_seconds) else _plain(end_seconds)}"


def parsed(name: str) -> tuple[str, float, float]:
    """(path, start, end) of a name; one without times is that of a whole file."""
    found = NAME.fullmatch(name)
    return (found[1], float(found[2]), float(found[3] or math.inf)) if found else (name, 0.0, math.inf)


def _plain(seconds: float) -> str:
    return f"{seconds:.6f}".rstrip("0").rstrip(".")


class StretchReader:
    """An open stretch: the frames [first, end) of `reader`, numbered from 0."""

    def __init__(self, reader: VideoReader, stretch: Stretch):
        self._reader = reader
        self._first, end = frames_of(reader, stretch)
        self.num_frames = end - self._first

    @property
    def fps(self) -> float:
        return self._reader.fps

    @property
    def truncated(self) -> bool:
        return self._reader.truncated

    def read(self, indices: Sequence[int], *, short_side: int | None = None, part: Part | None = None) -> torch.Tensor:
        return self._reader.read([self._first + index for index in indices], short_side=short_side, part=part)

    def one_by_one(self, indices: Sequence[int], *, short_side: int | None = None) -> Iterator[np.ndarray]:
        """The frames at rising `indices`, from one decode that holds one of them at a time."""
        return self._reader.one_by_one([self._first + index for index in indices], short_side=short_side)

    def begins(self, index: int) -> float:
        """When a frame is shown, in seconds after the first one of the stretch."""
        return self._reader.begins(self._first + index) - self._reader.begins(self._first)


def frames_of(reader: VideoReader, stretch: Stretch) -> tuple[int, int]:
    """(first frame, end) of a stretch: the frames that begin nearest to its times."""
    start, end = stretch.start_seconds, stretch.end_seconds
    first, length = reader.frame_at(start), reader.begins(reader.num_frames)
    last = reader.num_frames if math.isinf(end) else reader.frame_at(end)
    at = f"{stretch.place}: " if stretch.place else ""
    if first >= reader.num_frames:
        raise VideoReadError(
            f"{at}start_seconds={start:g} lies beyond the end of {reader.name}, which is {length:.2f} s long; correct the "
            "times, or remove the row"
        )
    if not math.isinf(end) and end > length + TOLERANCE_SECONDS and not reader.truncated:
        raise VideoReadError(
            f"{at}end_seconds={end:g} lies beyond the end of {reader.name}, which is {length:.2f} s long; correct it, or "
            "leave it empty to read to the end"
        )
    if last <= first:
        raise VideoReadError(
            f"{at}{reader.name} begins no frame from start_seconds={start:g} to end_seconds={end:g}; make the stretch longer"
        )
    return first, last


@contextlib.contextmanager
def open_stretch(stretch: Stretch, limits: Limits, errors: str) -> Iterator[StretchReader]:
    """Open a stretch. The file stays open for the next stretch of it: its table is read once, not once a clip."""
    if not isinstance(stretch.source, (str, os.PathLike, bytes, dict)):
        raise VideoReadError(
            f"{stretch.place or stretch.source}: a stretch is of a video file, not of a {type(stretch.source).__name__}; "
            "folders of frames have no clock: give start and total in place of seconds"
        )
    key = _key(stretch.source, limits, errors)
    reader = _idle.take(key) or VideoReader(stretch.source, errors=errors, limits=limits)
    try:
        yield StretchReader(reader, stretch)
    except BaseException:
        reader.close()
        raise
    # What a damaged file gives may depend on what was read before.
    _idle.put(key, reader) if key and not (reader.truncated or reader.notes) else reader.close()


def _key(source: Any, limits: Limits, errors: str) -> tuple | None:
    """What makes an open file the one that is wanted; None where it cannot be kept."""
    try:
        status = os.stat(source)
    except (OSError, ValueError, TypeError):
        return None
    return os.fspath(source), status.st_ino, status.st_size, status.st_mtime_ns, limits, errors


class _Idle:
    """Readers that nobody uses, the latest last. Each is used by one thread at a time, and never after a fork."""

    def __init__(self):
        self.clear()

    def clear(self) -> None:
        self._lock, self._kept = threading.Lock(), []

    def take(self, key: tuple | None) -> VideoReader | None:
        with self._lock:
            place = next((i for i, (kept, _) in enumerate(self._kept) if kept == key), None)
            return None if place is None else self._kept.pop(place)[1]

    def put(self, key: tuple, reader: VideoReader) -> None:
        with self._lock:
            self._kept.append((key, reader))
            oldest = self._kept.pop(0)[1] if len(self._kept) > IDLE_READERS else None
        if oldest is not None:
            oldest.close()


_idle = _Idle()
# Parent and child would move one position in the file: the child opens its own.
if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=_idle.clear)
