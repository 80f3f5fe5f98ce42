"""What the outermost bytes of a file say, read before FFmpeg sees it: where it should end, how many frames it declares.

FFmpeg takes both on trust: of a file that is cut off it shows what is left, and it makes room for every frame that a
table declares. Nothing here reads pictures.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

# ISO 14496-12 and QuickTime: what stands at the top of an MP4 or MOV, and the boxes that hold the tables.
FIRST_BOXES = frozenset((b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"styp"))
TOP_BOXES = FIRST_BOXES | {b"moof", b"mfra", b"sidx", b"ssix", b"meta", b"udta", b"uuid", b"pnot", b"emsg", b"prft"}
NESTING_BOXES = frozenset((b"moov", b"trak", b"edts", b"mdia", b"minf", b"stbl", b"moof", b"traf"))
MAX_DEPTH = 6
CHECK_BOXES = 512  # how often the deadline is asked


@dataclass(frozen=True)
class Outline:
    """What a file says about itself; `end` is `size` and the rest 0 where it says nothing."""

    size: int = 0
    end: int = 0  # where it should end
    frames: int = 0  # of the longest video track of an MP4
    entries: int = 0  # table entries of one track, or of all fragments, for which FFmpeg would make room
    edited: bool = False  # an MP4 with an edit list, which may leave out pictures that the tables count

    @property
    def missing(self) -> str | None:
        """What a file that is cut off lacks, in words."""
        return f"it should be {self.end} bytes long and is {self.size}" if self.end > self.size else None


def outline(file: str | BinaryIO, check: Callable[[], None] = lambda: None) -> Outline:
    """The outline of an MP4, AVI or Matroska file; of others, and of what cannot seek, only the size or nothing.

    `check` may raise to end a walk over too many boxes.
    """
    opened = open(file, "rb") if isinstance(file, str) else contextlib.nullcontext(file)  # noqa: SIM115
    with opened as data:
        if not data.seekable():
            return Outline()
        size = data.seek(0, os.SEEK_END)

        def at(offset: int, length: int) -> bytes:
            data.seek(offset)
            return data.read(length)

        head = at(0, 12)
        if head[4:8] in FIRST_BOXES:
            found = _outline_of_mp4(at, size, check)
        elif head[:4] == b"RIFF":
            found = Outline(size, _end_of_avi(at, size, check))
        elif head[:4] == b"\x1a\x45\xdf\xa3":
            found = Outline(size, _end_of_matroska(at, size))
        else:
            found = Outline(size, size)
        data.seek(0)
    return found


def _outline_of_mp4(at: Callable[[int, int], bytes], size: int, check: Callable[[], None]) -> Outline:
    end, seen = 0, set()
    tracks: list[dict[bytes, int]] = []
    in_fragments = 0
    for kind, start, stop in boxes(at, 0, size, check):
        # Behind a whole film, whatever is no box of MP4 is something that was put there, not a part of it cut off.
        if stop > size and kind not in TOP_BOXES and {b"moov", b"mdat"} <= seen:
            stop = size
        end, seen = stop, seen | {kind}
        if kind not in (b"moov", b"moof"):
            continue
        for inner, place, inner_stop in _nested(at, start, min(stop, size), check):
            if inner == b"trak":
                tracks.append({})
            elif inner == b"trun":
                in_fragments += _number(at, place + 4)
            elif not tracks or kind == b"moof":
                continue
            elif inner == b"hdlr":
                tracks[-1][b"video"] = tracks[-1].get(b"video", 0) or at(place + 8, 4) == b"vide"
            elif inner in (b"stsz", b"stz2"):
                tracks[-1][b"samples"] = _number(at, place + 8)
            elif inner == b"elst":
                tracks[-1][b"edits"] = min(_number(at, place + 4), (inner_stop - place) // 12)
            elif inner == b"stts":  # sound in samples of its own, for which FFmpeg keeps one entry a chunk
                tracks[-1][b"raw"] = at(place + 4, 4) == b"\0\0\0\1" and _number(at, place + 12) == 1
    videos = [track for track in tracks if track.get(b"video")]
    tables = [track for track in tracks if track.get(b"video") or not track.get(b"raw")]
    return Outline(
        size=size,
        end=end,
        frames=max((track.get(b"samples", 0) for track in videos), default=0),
        # every edit may repeat the whole track
        entries=max([in_fragments, *(track.get(b"samples", 0) * max(track.get(b"edits", 0), 1) for track in tables)]),
        edited=any(track.get(b"edits") for track in videos),
    )


def _nested(
    at: Callable[[int, int], bytes], start: int, end: int, check: Callable[[], None], depth: int = 0
) -> Iterator[tuple[bytes, int, int]]:
    """As `boxes`, with every box inside the boxes that hold the tables, outer ones first."""
    for kind, place, stop in boxes(at, start, end, check):
        yield kind, place, stop
        if kind in NESTING_BOXES and stop <= end and depth < MAX_DEPTH:
            yield from _nested(at, place, stop, check, depth + 1)


def boxes(
    at: Callable[[int, int], bytes], start: int, end: int, check: Callable[[], None]
) -> Iterator[tuple[bytes, int, int]]:
    """(type, start of its content, declared end) of each box from `start` on; the last one may end beyond `end`."""
    number = 0
    while start + 8 <= end:
        if number % CHECK_BOXES == 0:
            check()
        number += 1
        head = at(start, 16)
        length, kind, header = int.from_bytes(head[:4], "big"), head[4:8], 8
        if length == 1:
            length, header = int.from_bytes(head[8:16], "big"), 16
        if length < header:  # 0: to the end of the file
            yield kind, start + header, end
            return
        yield kind, start + header, start + length
        start += length


def _number(at: Callable[[int, int], bytes], offset: int) -> int:
    return int.from_bytes(at(offset, 4), "big")


def _end_of_avi(at: Callable[[int, int], bytes], size: int, check: Callable[[], None]) -> int:
    position = 0
    while position + 8 <= size and at(position, 4) == b"RIFF":
        check()
        length = int.from_bytes(at(position + 4, 4), "little")
        if length in (0, 0xFFFFFFFF):  # written by a program that could not come back to fill it in
            return size
        position += 8 + length
    return position


def _end_of_matroska(at: Callable[[int, int], bytes], size: int) -> int:
    position = 4
    for element in (None, b"\x18\x53\x80\x67"):  # the EBML header, of which the id is read, then the segment
        if element is not None:
            if at(position, 4) != element:
                return size
            position += 4
        first = at(position, 1)
        width = 9 - first[0].bit_length() if first and first[0] else 9
        if width > 8:
            return size
        length = int.from_bytes(at(position, width), "big") & ((1 << 7 * width) - 1)
        if length == (1 << 7 * width) - 1:  # unknown: a live recording
            return size
        position += width + length
    return position
