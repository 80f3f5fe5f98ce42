"""Read a video of a prepared shard: from its table straight to the decoder, without a demuxer and without the rest of the file.

`prepare` writes one kind of MP4 (encoding.py). Its table tells the place, the order and the key frames of all pictures; what
video_io.py has to find out from the packets of any other file is known here before a packet is read. Whatever differs in the
least from that kind, and whatever the decoder does not give as the table says, is left to video_io.py: it then reads the
same bytes from the start, with the same frames and with its own errors.
"""

# n frames in the video | T frames asked for | H W pixels

import functools
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import av
import av.video.reformatter
import numpy as np
import torch

from videomae.video_container import boxes
from videomae.video_io import VideoReader
from videomae.video_pictures import Damage, Part, scaled_size, upright_rgb
from videomae.video_source import DECODER_ERRORS, Deadline, Limits, VideoReadError, check_bytes

MOVIE = (b"ftyp", b"free", b"mdat", b"moov")  # what a file of ours holds, in this order
TABLES = {b"stsd", b"stts", b"stsc", b"stsz", b"stco"}
ABSENT = {b"ctts", b"stss"}  # where frames are stored as they are shown; where all of them are key frames
THIS_FILE = bytes.fromhex("0000001c") + b"dref" + bytes.fromhex("00000000 00000001 0000000c") + b"url \0\0\0\1"
SAMPLE_ENTRY_BYTES = 78  # of a video entry of `stsd`, before the boxes inside of it
UPRIGHT = bytes.fromhex("00010000 00000000 00000000 00000000 00010000 00000000 00000000 00000000 40000000")
NAME = "the video"  # in errors, which sources.py begins with the name of the entry
MAX_TABLE_BYTES = 1 << 24  # a million frames; longer ones are read the other way

Reads = Callable[[int, int], bytes]  # (first byte, end) of the video -> its bytes


class NotAsPrepared(Exception):
    """The video differs from what `prepare` writes; it never leaves this module."""


@dataclass(frozen=True)
class Table:
    """Where the packets are, in decode order, and which picture each holds."""

    extradata: bytes  # what the decoder is told first
    width: int
    height: int
    starts: list[int]  # of the packets, and at last the end of the last
    order: list[int]  # frame -> packet
    keys: list[int]  # packets that begin a group of pictures, which needs nothing from outside


def read_table(read: Reads, size: int, max_frames: int) -> Table:
    """The table of a video of `size` bytes; NotAsPrepared where it is not of the kind that `prepare` writes."""
    found = list(boxes(lambda offset, length: read(offset, min(offset + length, size)), 0, size, lambda: None))
    _see(tuple(kind for kind, _, _ in found) == MOVIE and found[-1][2] == size)
    (_, packets, packets_end), (_, begin, _) = found[2:]
    _see(size - begin <= MAX_TABLE_BYTES)
    data = read(begin, size)
    movie = _inside(data, 0, len(data), {b"mvhd", b"trak"}, {b"udta"})
    track = _inside(data, *movie[b"trak"], {b"tkhd", b"edts", b"mdia"})
    media = _inside(data, *track[b"mdia"], {b"mdhd", b"hdlr", b"minf"})
    info = _inside(data, *media[b"minf"], {b"vmhd", b"dinf", b"stbl"})
    tables = _inside(data, *info[b"stbl"], TABLES, ABSENT)
    edits = _inside(data, *track[b"edts"], {b"elst"})
    field, rows = functools.partial(_numbers, data), functools.partial(_rows, data)
    _see(data[slice(*info[b"dinf"])] == THIS_FILE and data[media[b"hdlr"][0] + 8 :][:4] == b"vide")
    _see(data[track[b"tkhd"][0] + 40 :][: len(UPRIGHT)] == UPRIGHT)

    sizes = field(tables[b"stsz"], skip=12)
    n = len(sizes)
    _see(0 < n <= max_frames and field(tables[b"stsz"], 3).tolist() == [0, 0, n])
    starts = packets + np.concatenate([[0], np.cumsum(sizes)])
    _see(starts[-1] == packets_end and sizes.min() > 0)
    _check_chunks(rows(tables[b"stsc"], 3), rows(tables[b"stco"], 1)[:, 0], starts, n)

    steps = rows(tables[b"stts"], 2)
    delays = rows(tables[b"ctts"], 2) if b"ctts" in tables else np.array([[n, 0]])
    _see(steps[:, 0].sum() == delays[:, 0].sum() == n and (steps[:, 1] > 0).all() and (delays < 1 << 31).all())
    lengths = np.repeat(steps[:, 1], steps[:, 0])
    shown = np.cumsum(lengths) - lengths + np.repeat(delays[:, 1], delays[:, 0])
    order = np.argsort(shown, kind="stable")
    times = shown[order]
    _see((np.diff(times) > 0).all())
    _check_edit(field(edits[b"elst"]), times, field(movie[b"mvhd"], 4)[3], field(media[b"mdhd"], 4)[3])

    keys = rows(tables[b"stss"], 1)[:, 0] - 1 if b"stss" in tables else np.arange(n)
    _see(len(keys) > 0 and keys[0] == 0 and (np.diff(keys) > 0).all() and keys[-1] < n)
    # Nothing behind a key frame is shown before it: the groups are closed, so frames and packets share their ranges.
    _see((np.minimum.accumulate(shown[::-1])[::-1][keys] == shown[keys]).all())
    width, height, extradata = _sample_entry(data, tables[b"stsd"])
    return Table(extradata, width, height, starts.tolist(), order.tolist(), keys.tolist())


def _see(condition: object) -> None:
    if not condition:
        raise NotAsPrepared


def _inside(data: bytes, begin: int, end: int, needed: set[bytes], allowed: frozenset | set = frozenset()):
    """The boxes in data[begin:end], each once: {type: (begin, end) of its content}."""
    found = list(boxes(lambda offset, length: data[offset : offset + length], begin, end, lambda: None))
    kinds = {kind for kind, _, _ in found}
    _see(needed <= kinds <= needed | allowed and len(kinds) == len(found) and all(stop <= end for _, _, stop in found))
    return {kind: (start, stop) for kind, start, stop in found}


def _numbers(data: bytes, place: tuple[int, int], count: int | None = None, *, skip: int = 0) -> np.ndarray:
    """The 32 bit numbers of a box, of version 0 and without flags where they begin with these: all, or `count` of them."""
    start, stop = place[0] + skip, place[1]
    _see((stop - start) % 4 == 0 and 4 * (count or 1) <= stop - start and data[place[0]] == 0)
    return np.frombuffer(data[start:stop], ">u4", count or -1).astype(np.int64)


def _rows(data: bytes, place: tuple[int, int], width: int) -> np.ndarray:
    """The table of a box, which tells its number of rows first."""
    _, count, *_ = numbers = _numbers(data, place)
    _see(len(numbers) == 2 + count * width)
    return numbers[2:].reshape(-1, width)


def _check_chunks(rows: np.ndarray, places: np.ndarray, starts: np.ndarray, n: int) -> None:
    """The chunks lie one behind the other, as the packets do. rows: first chunk, packets of a chunk, description."""
    _see(len(rows) > 0 and rows[0, 0] == 1 and (rows[:, 2] == 1).all())
    chunks = np.diff(np.append(rows[:, 0], len(places) + 1))
    _see((chunks > 0).all() and (rows[:, 1] <= n).all())
    counts = np.repeat(rows[:, 1], chunks)
    first = np.cumsum(counts) - counts
    _see(counts.sum() == n and (places == starts[first]).all())


def _check_edit(edit: np.ndarray, times: np.ndarray, movie_scale: int, media_scale: int) -> None:
    """One edit, at the normal rate, that leaves out no frame."""
    _see(len(edit) == 5 and edit[1] == 1 and edit[4] == 1 << 16)
    _, _, duration, start, _ = edit.tolist()
    _see(start <= times[0] and (times[-1] - start) * movie_scale < duration * media_scale)


def _sample_entry(data: bytes, place: tuple[int, int]) -> tuple[int, int, bytes]:
    """(width, height, extradata) of the one description, which is H.264 and says nothing of colours."""
    _see(data[place[0] : place[0] + 8] == b"\0\0\0\0\0\0\0\1")
    entry = _inside(data, place[0] + 8, place[1], {b"avc1"})[b"avc1"]
    inner = _inside(data, entry[0] + SAMPLE_ENTRY_BYTES, entry[1], {b"avcC"}, {b"btrt", b"pasp"})
    width, height = np.frombuffer(data, ">u2", 2, entry[0] + 24).tolist()
    return width, height, data[slice(*inner[b"avcC"])]


class PreparedReader:
    """An open video of a shard. `read` gives the bytes of a range; `reopen` opens it as any other video."""

    truncated = False

    def __init__(self, read: Reads, size: int, reopen: Callable[[], VideoReader], limits: Limits):
        """NotAsPrepared where it must be opened as any other video."""
        self._read, self._reopen, self._limits = read, reopen, limits
        try:
            self._table = read_table(read, size, limits.max_frames)
        except (IndexError, KeyError, ValueError):  # boxes that are too short
            raise NotAsPrepared from None
        _see(self._table.width * self._table.height <= limits.max_pixels)
        self.num_frames = len(self._table.order)
        self._deadline = Deadline(limits.decode_seconds, NAME)
        self._scaler = av.video.reformatter.VideoReformatter()
        self._other: VideoReader | None = None

    def close(self) -> None:
        if self._other is not None:
            self._other.close()

    @property
    def fps(self) -> float:
        return self._as_any_other().fps

    def read(self, indices: Sequence[int], *, short_side: int | None = None, part: Part | None = None) -> torch.Tensor:
        """The frames at `indices` as `VideoReader.read` gives them."""
        if self._other is None:
            self._deadline.restart()
            try:
                return self._gather([int(index) for index in indices], short_side, part)
            except VideoReadError:  # too slow, or too large
                raise
            except (NotAsPrepared, *DECODER_ERRORS, ValueError):
                pass
        return self._as_any_other().read(indices, short_side=short_side, part=part)

    def _as_any_other(self) -> VideoReader:
        if self._other is None:
            self._other = self._reopen()
            if self._other.num_frames != self.num_frames:  # the indices were chosen for another number
                raise VideoReadError(
                    f"{NAME} has {self.num_frames} frames in its table and {self._other.num_frames} can be decoded; prepare it again"
                )
        return self._other

    def _gather(self, indices: list[int], short_side: int | None, part: Part | None) -> torch.Tensor:
        table = self._table
        _see(bool(indices) and min(indices) >= 0 and max(indices) < self.num_frames)
        width, height = scaled_size(table.width, table.height, short_side)
        check_bytes(NAME, len(indices), width, height, self._limits)
        top, left, kept_height, kept_width = part(height, width) if part else (0, 0, height, width)
        out = np.empty((len(indices), kept_height, kept_width, 3), dtype=np.uint8)
        rows: dict[int, list[int]] = {}
        for row, index in enumerate(indices):
            rows.setdefault(index, []).append(row)
        for index, frame in self._decode(sorted(rows)):
            first, *others = rows.pop(index)
            picture = upright_rgb(frame, width, height, self._scaler)
            out[first] = picture[top : top + kept_height, left : left + kept_width]
            if others:
                out[others] = out[first]
        _see(not rows)
        return torch.from_numpy(out)

    def _decode(self, indices: list[int]) -> Iterator[tuple[int, av.VideoFrame]]:
        """(index, picture) for each of the sorted `indices`."""
        table, runs = self._table, []
        for index in indices:
            number = table.order[index]
            key = table.keys[bisect_right(table.keys, number) - 1]
            if runs and key <= runs[-1][1]:
                runs[-1] = (runs[-1][0], max(runs[-1][1], number), runs[-1][2] | {number: index})
            else:
                runs.append((key, number, {number: index}))
        codec = av.CodecContext.create("h264", "r")
        codec.extradata = table.extradata
        codec.thread_count, codec.thread_type = 1, "SLICE"
        codec.options = {"max_pixels": str(self._limits.max_pixels)}
        for first, last, wanted in runs:
            codec.flush_buffers()
            yield from self._run(codec, first, last, wanted)

    def _run(self, codec, first: int, last: int, wanted: dict[int, int]) -> Iterator[tuple[int, av.VideoFrame]]:
        starts, latest, damage = self._table.starts, -1, Damage()
        data = memoryview(self._read(starts[first], starts[last + 1]))
        _see(len(data) == starts[last + 1] - starts[first])
        for number in [*range(first, last + 1), None]:
            packet = None
            if number is not None:
                self._deadline.check()
                codec.skip_frame = "DEFAULT" if number in wanted else "NONREF"
                packet = av.Packet(cast(Any, data[starts[number] - starts[first] : starts[number + 1] - starts[first]]))
                packet.pts = packet.dts = number
            for frame in codec.decode(packet):
                damage.see(frame)
                index = wanted.get(frame.pts)
                if index is None:
                    continue
                _see(index > latest and not damage.reaches and not frame.interlaced_frame)
                _see((frame.width, frame.height) == (self._table.width, self._table.height))
                latest = index
                yield index, frame
