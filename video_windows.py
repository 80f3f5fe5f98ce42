"""Overlapping windows of a long video: which of its frames each one has, and how long they are kept.

Reading the frames is video_io.py's; here are only numbers and whatever the caller makes of a picture.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Window:
    """A stretch of a long video: frames `first_frame` … `last_frame` (both included) and their times."""

    first_frame: int
    last_frame: int
    start_seconds: float
    end_seconds: float
    frames: list[Any]  # one entry per frame of the clip: RGB arrays (H, W, 3), or what `transform` made of them


# Gives every frame from the first: index, start and end in seconds, and its pixels where the function says that it is needed.
ReadFrames = Callable[[Callable[[int], bool]], Iterator[tuple[int, float, float, np.ndarray | None]]]


def regular_windows(
    read: ReadFrames,
    *,
    num_frames: int,
    stride_frames: int,
    hop_frames: int,
    transform: Callable[[np.ndarray], Any] | None = None,
    partial: str = "repeat_last",
) -> Iterator[Window]:
    """Window k has the frames k * hop, k * hop + stride, …; see `walk_windows`."""
    for name, value in (("num_frames", num_frames), ("stride_frames", stride_frames), ("hop_frames", hop_frames)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, not {value}")
    return walk_windows(
        read,
        offsets=range(0, num_frames * stride_frames, stride_frames),
        start_of=lambda number: number * hop_frames,
        transform=transform,
        partial=partial,
    )


def walk_windows(
    read: ReadFrames,
    *,
    offsets: Sequence[int],
    start_of: Callable[[int], int],
    transform: Callable[[np.ndarray], Any] | None = None,
    partial: str = "repeat_last",
) -> Iterator[Window]:
    """The windows of `iter_windows` at any places: number k has the frames start_of(k) + offset, both rising.

    `read(needed)` gives every frame from the first, as `iter_frames` does; it asks `needed` whether to convert one.
    """
    if partial not in ("repeat_last", "drop"):
        raise ValueError(f"partial must be repeat_last or drop, not {partial!r}")
    inside, span = frozenset(offsets), offsets[-1] + 1
    kept: dict[int, Any] = {}
    times: dict[int, tuple[float, float]] = {}
    number, start, covered, seen = 0, start_of(0), 0, 0

    def needed(index: int) -> bool:
        later, first = number, start
        while first <= index:
            if index - first in inside:
                return True
            later += 1
            first = start_of(later)
        return False

    def window(last: int) -> Window:
        wanted = [start + offset for offset in offsets]
        reached = max(index for index in wanted if index <= last)
        frames = [kept[min(index, reached)] for index in wanted]
        end = min(start + span - 1, last)
        return Window(start, end, times[start][0], times[end][1], frames)

    for index, begin, end, picture in read(needed):
        seen, times[index] = index + 1, (begin, end)
        if picture is not None:
            kept[index] = transform(picture) if transform else picture
        if index == start + span - 1:
            yield window(index)
            number, covered = number + 1, seen
            start = start_of(number)
            for old in [old for old in times if old < start]:
                del times[old]
                kept.pop(old, None)
    if seen > max(covered, start) and partial == "repeat_last":
        yield window(seen - 1)
