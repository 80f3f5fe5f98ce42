"""Open a video, know it, and read just the frames that are asked for. PyAV alone; its wheel carries FFmpeg.

A frame's index is its place in a decode of the whole file from the start, whatever the container says of times and
counts. Which indices to read is decided in sampling_videomae.py; making model input of the pixels in
image_processing_videomae.py.

How a read works: MP4's own table, or else one pass over the packets (no decoding), gives the number of frames and where
the key frames are. The wanted frames are then grouped into runs; a run starts at a key frame and ends with the last
packet that its frames need. Packets are numbered on the way into the decoder, so that each picture coming out says
which packet it was, independent of time stamps. Where the packets alone do not tell the order, the file is decoded
from the start.
"""

# n frames in the file | T frames asked for | H W pixels of the upright frame

import contextlib
import functools
import itertools
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .video_container import outline
from .video_packets import FILLER_BYTES, UNTIMED_DEMUXERS, list_packets, may_be_fields, pictures, to_the_end
from .video_pictures import Damage, Part, orientation, scaled_size, upright_rgb, upright_size
from .video_source import (
    CORRUPT_HINT,
    DECODER_ERRORS,
    TRUNCATE_HINT,
    Deadline,
    Limits,
    Source,
    VideoReadError,
    av,
    check_bytes,
    check_outline,
    check_pixels,
    locate,
    open_container,
    reason,
)
from .video_windows import Window, regular_windows

# Decoders that give the same pictures when they start at a key frame as when they come from before it.
KEY_FRAME_CODECS = frozenset((
    "h264", "hevc", "vp8", "vp9", "av1", "libdav1d", "mpeg1video", "mpeg2video", "mpeg4", "mjpeg", "prores", "dnxhd",
    "ffv1", "theora", "png", "rawvideo",
))  # fmt: skip
# Decoders for which a packet can be passed over when no other picture refers to it, with the same pictures elsewhere.
SKIPPING_CODECS = frozenset(("h264", "mpeg2video", "mpeg4"))
# Up to this many packets ahead, reading on through the file costs less than a seek.
NEAR_PACKETS = 64
# Pictures are never shown more than this many packets away from their own (H.264 and HEVC hold at most 16 back).
REORDER_PACKETS = 16
_NOWHERE = -(1 << 62)  # a position in the file from which nothing is near


@dataclass(frozen=True)
class VideoInfo:
    """What is known of a video; width and height are of the upright picture."""

    num_frames: int
    fps: float
    duration_seconds: float
    width: int
    height: int
    codec: str
    pix_fmt: str
    rotation: int  # degrees counter-clockwise that make the stored picture upright, before `mirrored`
    key_frames: int
    start_seconds: float  # of the first frame on the file's own clock
    truncated: bool  # cut off or damaged; num_frames counts what can be decoded
    mirrored: bool = False  # whether left and right then change places
    notes: tuple[str, ...] = ()  # what is unusual about the file and how it was read all the same


def probe(source: Source, *, errors: str = "strict", limits: Limits | None = None) -> VideoInfo:
    """Know a video, mostly without decoding it. The count is exact: packets are counted, headers are not believed."""
    with VideoReader(source, errors=errors, limits=limits) as reader:
        return reader.info


def read_frames(
    source: Source,
    indices: Sequence[int],
    *,
    short_side: int | None = None,
    errors: str = "strict",
    limits: Limits | None = None,
    threads: int = 1,
) -> torch.Tensor:
    """The frames at `indices`, in that order, as uint8 RGB (T, H, W, 3), upright.

    `source` is a path, an http(s) URL, bytes, a binary file object, or a dict with "bytes" or "path".
    `short_side` scales larger frames down in the decoder's own scaler, which is cheaper than a resize afterwards
    but not equal to it. `errors="truncate"` uses the frames before the damage of a file that is cut off.
    """
    with VideoReader(source, errors=errors, limits=limits, threads=threads) as reader:
        return reader.read(indices, short_side=short_side)


def iter_windows(
    source: Source,
    *,
    num_frames: int,
    stride_frames: int,
    hop_frames: int,
    short_side: int | None = None,
    transform: Callable[[np.ndarray], Any] | None = None,
    partial: str = "repeat_last",
    errors: str = "strict",
    limits: Limits | None = None,
    threads: int = 1,
) -> Iterator[Window]:
    """Overlapping clips of a long or endless video, from one decode, holding no more than one window of frames.

    Window k has the frames k * hop, k * hop + stride, …; each frame is decoded once, and converted, scaled and given
    to `transform` once, however many windows share it. The video may end inside the last window: "repeat_last" fills
    it with the last frame it reached (only if the windows before left frames out), "drop" leaves it away. Damage raises
    where it is met, a file that is cut off at once; with `errors="truncate"` the video ends there.
    """
    # How many frames are kept: of the window, and of those that begin inside of it. `transform` makes less of them.
    later = -(-num_frames * stride_frames // max(hop_frames, 1))
    at_once = 1 if transform else max(min((num_frames - 1) * stride_frames + 1, num_frames * later), num_frames)
    return regular_windows(
        lambda needed: iter_frames(source, needed, short_side, errors, limits or Limits(), threads, at_once),
        num_frames=num_frames,
        stride_frames=stride_frames,
        hop_frames=hop_frames,
        transform=transform,
        partial=partial,
    )


class VideoReader:
    """An open video: `info` and any number of reads from one look at the packets."""

    # What is known of the packets by their numbers: times, or None where there is none, and sizes.
    _pts: list[Any]
    _dts: Sequence[Any]
    _sizes: Sequence[int]

    def __init__(self, source: Source, *, errors: str = "strict", limits: Limits | None = None, threads: int = 1):
        _check_errors(errors)
        self.errors, self.limits = errors, limits or Limits()
        self.notes: list[str] = []
        self._file, self.name = locate(source, self.limits)
        self._picture: av.VideoFrame | None = None  # one of the size of the first
        self._scaler = av.video.reformatter.VideoReformatter()  # one for all frames: its tables cost more than a frame
        self._threads, self._deadline = threads, Deadline(self.limits.decode_seconds, self.name)
        self._outline = outline(self._file, self._deadline.check)
        check_outline(self.name, self._outline, self.limits)
        self._container, self._stream = open_container(self._file, self.name, self.limits, threads)
        self._size = self._stream.codec_context.width, self._stream.codec_context.height
        try:
            self._scan()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "VideoReader":
        return self

    def __exit__(self, *error) -> None:
        self.close()

    def close(self) -> None:
        self._container.close()

    @property
    def num_frames(self) -> int:
        """Frames that can be read, from the packets alone."""
        return len(self._order)

    @property
    def fps(self) -> float:
        """Frames a second, from the packets alone."""
        return self._describe().fps

    def begins(self, index: int) -> float:
        """When a frame is shown, in seconds after the first one; of `num_frames`, when the last one ends."""
        if self._untimed or not self._timed or not self._stream.time_base:
            return index * self._frame_seconds
        if self._even:
            return float(index * (self._dts[1] - self._dts[0]) * self._stream.time_base)
        last = min(index, self.num_frames - 1)
        self._find((0, last))
        ticks = self._pts[self._order[last]] - self._pts[self._order[0]] + (index > last) * self._last_duration
        return float(ticks * self._stream.time_base)

    def frame_at(self, seconds: float) -> int:
        """The frame that begins nearest to so many seconds after the first one; `num_frames` for the end and beyond."""
        n = self.num_frames
        if self._by_dts:  # decoding times, near those of showing
            after = bisect_left(self._dts, self._dts[0] + seconds / float(self._stream.time_base))
        else:
            after = bisect_left(range(n), seconds, key=self.begins)
        after = min(after, n)
        while after < n and self.begins(after) < seconds:
            after += 1
        while after and self.begins(after - 1) >= seconds:
            after -= 1
        return after - 1 if after and seconds - self.begins(after - 1) < self.begins(after) - seconds else after

    @functools.cached_property
    def _frame_seconds(self) -> float:
        """How long a frame lasts by the rate of a file that keeps no times."""
        if not self.fps:
            raise VideoReadError(
                f"{self.name} has neither times nor a rate; seconds mean nothing in it: make an MP4 of it"
            )
        return 1 / self.fps

    @property
    def info(self) -> VideoInfo:
        """What `probe` says of the video."""
        self._look()
        return self._describe()

    def _look(self) -> None:
        """Decode the first picture: only that tells the size and the rotation for certain."""
        if self._picture is None:
            self._picture = next((frame for _, frame in self._run(0, len(self._pts) - 1, wanted=None)), None)

    def read(self, indices: Sequence[int], *, short_side: int | None = None, part: Part | None = None) -> torch.Tensor:
        """The frames at `indices` (any order, repeats allowed) as uint8 RGB (T, H, W, 3).

        `part(height, width)` says which (top, left, height, width) of the frames is kept, which saves copying the rest.
        """
        indices = [int(index) for index in indices]
        if not indices:
            raise VideoReadError(f"{self.name}: no frames asked for; indices is empty")
        self._deadline.restart()
        self._find(indices)
        n = self.num_frames
        outside = [index for index in indices if not 0 <= index < n]
        if outside:
            raise VideoReadError(
                f"{self.name} has {n} frames, 0 to {n - 1}; frame {outside[0]} does not exist"
                + (" (the file is cut off)" if self.truncated else "")
            )
        codec = self._stream.codec_context
        width, height = scaled_size(codec.width, codec.height, short_side)
        check_bytes(self.name, len(indices), width, height, self.limits)
        try:
            return self._gather(indices, short_side, part)
        except _OutOfOrder:
            self._note("its time stamps contradict the decoder, whose order is used")
            self._set_order(self._order_by_decoding(), self._keys)
            return self.read(indices, short_side=short_side, part=part)

    def one_by_one(self, indices: Sequence[int], *, short_side: int | None = None) -> Iterator[np.ndarray]:
        """The frames at rising `indices`, from one decode that holds one of them at a time."""
        self._deadline.restart()
        self._find(indices)
        size, place = None, 0
        with contextlib.suppress(_OutOfOrder), contextlib.closing(self._sized(list(indices))) as frames:
            for index, frame in frames:
                if index != indices[place]:
                    break
                size = size or scaled_size(*upright_size(self._picture or frame), short_side)
                yield _converted(self.name, frame, *size, self._scaler)
                place += 1
                self._deadline.restart()  # not the time of whoever uses the frames
        for index in indices[place:]:  # of a file whose frames do not come in their order
            yield self.read([index], short_side=short_side)[0].numpy()

    def _gather(self, indices: list[int], short_side: int | None, part: Part | None) -> torch.Tensor:
        rows: dict[int, list[int]] = {}
        for row, index in enumerate(indices):
            rows.setdefault(index, []).append(row)
        frames = self._sized(sorted(rows))
        first_read = next(frames)
        size = upright_size(self._picture or first_read[1])
        width, height = scaled_size(*size, short_side)
        check_bytes(self.name, len(indices), width, height, self.limits)
        top, left, kept_height, kept_width = part(height, width) if part else (0, 0, height, width)
        out = np.empty((len(indices), kept_height, kept_width, 3), dtype=np.uint8)
        for index, frame in itertools.chain([first_read], frames):
            if upright_size(frame) != size:
                self._note("frames of other sizes are scaled to {}x{}, that of the first".format(*size))
            first, *others = rows[index]
            picture = _converted(self.name, frame, width, height, self._scaler)
            out[first] = picture[top : top + kept_height, left : left + kept_width]
            if others:
                out[others] = out[first]
        return torch.from_numpy(out)

    def _sized(self, indices: list[int]) -> Generator[tuple[int, "av.VideoFrame"], None, None]:
        """As `_decode`, with `_picture` known, so that the size of the frames does not depend on which are read."""
        frames = self._decode(indices)
        index, frame = next(frames)
        if self._picture is None and (frame.width, frame.height) == self._size:
            self._picture = frame
        if self._picture is None:  # not the size in the header: where it changes, the first frame's counts
            frames.close()
            self._look()
            frames = self._decode(indices)
            index, frame = next(frames)
        yield index, frame
        yield from frames

    def count_by_decoding(self) -> VideoInfo:
        """Decode the whole file to learn what comes out of it; with errors="truncate", up to the first damage."""
        self._set_order(self._order_by_decoding(), self._keys)
        return self.info

    # Which packet holds which frame

    def _scan(self) -> None:
        """Number the packets in decode order: `_order[i]` is the one of frame i."""
        self._demux: Iterator[av.Packet] = iter(())
        self._position = _NOWHERE
        self._fields, self._timed = False, True  # whether the order is that of time stamps
        self._even = False  # whether the table says that all frames last equally long
        self._untimed = self._container.format.name in UNTIMED_DEMUXERS
        if not self._read_table():
            self._read_packets()

    def _read_table(self) -> bool:
        """Take the packets from the table of an MP4 file, without reading the file; False where it does not serve.

        The table tells decoding times, sizes and key frames. Which frame a packet shows is found out for one group of
        pictures at a time, when a frame of it is wanted: see `_find`.
        """
        stream, codec = self._stream, self._stream.codec_context
        n = stream.frames
        if self._outline.missing or "mp4" not in self._container.format.name or codec.name not in KEY_FRAME_CODECS:
            return False
        if not 0 < n <= self.limits.max_frames or len(stream.index_entries) != n:  # fragmented files have several
            return False
        end = self._container.size
        dts, sizes, keys = array("q"), array("q"), array("q")  # a small file can declare millions
        for number, entry in enumerate(stream.index_entries):
            if number % 4096 == 0:
                self._deadline.check()
            if entry.is_discard or entry.pos + entry.size > end or (dts and entry.timestamp <= dts[-1]):
                return False
            dts.append(entry.timestamp)
            sizes.append(entry.size)
            if entry.is_keyframe:
                keys.append(number)
        if keys[:1] != array("q", [0]) or (codec.name == "mpeg4" and min(sizes) <= FILLER_BYTES):
            return False
        if n > 1 and len(keys) == n and codec.has_b_frames:  # all are marked as key frames, and they cannot all be
            return False
        self.truncated, self._seekable, self._by_dts = False, True, True
        self._dts, self._pts, self._sizes = dts, [None] * n, sizes
        self._last_duration = dts[-1] - dts[-2] if n > 1 else 0
        self._set_order([None] * n, keys)
        steps = np.diff(np.frombuffer(dts, np.int64))
        shortest = int(steps.min()) if n > 1 else 0
        self._even = n > 1 and shortest == steps.max()
        return not (may_be_fields(stream, shortest) and self._is_interlaced())

    def _find(self, indices: Sequence[int]) -> None:
        """Make sure of `_order` at these indices, where they exist."""
        for index in sorted(set(indices)):
            if 0 <= index < len(self._order) and self._order[index] is None and not self._find_group(index):
                self._read_packets()  # the table is not what it seems; every frame is known after this
                return

    def _find_group(self, index: int) -> bool:
        """Put the group of pictures around a frame in order by the time stamps of its packets.

        A group's packets, from one key frame to the next, are shown after those of the group before and before those
        of the next, so frame numbers and packet numbers share their ranges. False where a look at the neighbours
        contradicts that.
        """
        at = bisect_right(self._keys, index) - 1
        first, end = self._keys[at], [*self._keys, len(self._pts)][at + 1]
        # Before a long group there is no look back: that would mean to read the one before as well.
        begin = max(first - REORDER_PACKETS, 0) if end - first <= NEAR_PACKETS else first
        stop = min(end + REORDER_PACKETS, len(self._pts))
        times: list[int] = []
        try:
            self._go_to(begin)
            for packet in itertools.islice(self._demux, stop - begin):
                if self._number(packet) != self._position or packet.pts is None:
                    return False
                self._position += 1
                times.append(packet.pts)
        except DECODER_ERRORS:
            return False
        before, own, after = times[: first - begin], times[first - begin : end - begin], times[end - begin :]
        if len(times) != stop - begin or len(set(own)) < len(own):
            return False
        if (before and max(before) >= min(own)) or (after and max(own) >= min(after)):
            return False
        self._pts[first:end] = own
        self._order[first:end] = sorted(range(first, end), key=self._pts.__getitem__)
        self._index_of.update((self._order[index], index) for index in range(first, end))
        return True

    def _read_packets(self) -> None:
        """Go through all packets, up to damage if there is any."""
        if self._position != _NOWHERE:
            self._reopen()
        self._by_dts, self._even, self._position = False, False, _NOWHERE
        stream, codec, entries = self._stream, self._stream.codec_context, len(self._stream.index_entries)
        found, damage = list_packets(self.name, self._container, stream, self.limits, self._deadline)
        damage = self._outline.missing or damage
        self._pts, self._dts, self._last_duration = found.pts, found.dts, found.last_duration
        sizes, keys, shown = found.sizes, found.keys, found.shown
        if not sizes:
            raise VideoReadError(f"{self.name} holds no frames" + (f": {damage}" if damage else ""))
        container = self._container.format.name
        promised = stream.frames if "mp4" in container else 0
        if self._outline.edited and entries < promised:
            promised = entries  # the edit list leaves the others out
        if damage is None and len(sizes) < promised:
            damage = f"{promised} frames are promised"
        self.truncated = damage is not None
        if self.truncated and self.errors == "strict":
            raise VideoReadError(
                f"{self.name} is cut off or damaged ({damage}; {len(sizes)} packets are there); " + TRUNCATE_HINT
            )
        # Time stamps give the order when they are whole, and nothing was cut away before the first key frame.
        times = [self._pts[number] for number in shown]
        ordered = None not in times and len(set(times)) == len(times)
        ordered &= not (self._untimed and codec.has_b_frames)
        fillers = (codec.name == "mpeg4" or container == "avi") and min(sizes) <= FILLER_BYTES
        if fillers:  # some are marked as key frames
            keys = [number for number in keys if sizes[number] > FILLER_BYTES]
        # An edit list hides the pictures before its start; they are decoded all the same, as others refer to them.
        whole = keys[:1] == [0] and (shown[:1] == [0] or (self._outline.edited and shown))
        whole = whole and not (ordered and min(times) < (times[0] if shown[0] == 0 else self._pts[0]))
        self._number_of = {stamp: number for number, stamp in enumerate(zip(self._pts, sizes))}
        unique = len(self._number_of) == len(sizes)
        self._seekable = codec.name in KEY_FRAME_CODECS and ordered and unique
        if ordered:
            shown.sort(key=self._pts.__getitem__)
        self._set_order(shown, keys)
        for joint in found.joints:
            self._note(f"another recording was appended at packet {joint}")
        fields = may_be_fields(stream, found.shortest) and self._is_interlaced()
        counted = ordered or container == "avi"  # B-frames in AVI have no times, but they are all there
        if self.truncated or not whole or fillers or fields or not counted:
            self._set_order(self._order_by_decoding(), keys)

    def _is_interlaced(self) -> bool:
        """Whether the first picture says so; if it does, two packets may hold one."""
        self._look()
        self._fields = self._picture is not None and self._picture.interlaced_frame
        self._last_duration *= 2 if self._fields else 1
        return self._fields

    def _set_order(self, order: list[Any], keys: Iterable[int]) -> None:
        """Frame by frame the number of its packet, None where that is not known yet.

        Where not even a decode tells the order, only its length means something (`_seekable` is False).
        """
        self._order, self._num_keys = order, len(list(keys))
        self._keys = sorted({0, *keys})  # the first packet is a place to start from, marked as a key frame or not
        self._index_of = {number: index for index, number in enumerate(order) if number is not None}

    def _number(self, packet: "av.Packet") -> int | None:
        """Which packet this is, told again after a seek by its time and size."""
        if not self._by_dts:
            return self._number_of.get((packet.pts, packet.size))
        number = bisect_left(self._dts, packet.dts) if packet.dts is not None else len(self._dts)
        same = number < len(self._dts) and (self._dts[number], self._sizes[number]) == (packet.dts, packet.size)
        return number if same else None

    def _order_by_decoding(self) -> list[int]:
        """The packets in the order in which a decode from the start shows their pictures, up to the first damage."""
        self._timed, order = False, []
        try:
            order.extend(number for number, _ in self._run(0, len(self._pts) - 1, wanted=None))
        except VideoReadError:
            if self.errors == "strict":
                raise
            self.truncated = True
        if not order:
            raise VideoReadError(f"{self.name} holds no frame that can be decoded")
        if len(set(order)) < len(order) or -1 in order:
            self._seekable = False
        if len(order) != len(self._pts) and not self.truncated:
            self._note(f"{len(self._pts)} packets give {len(order)} frames; these are counted")
        return order

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def _describe(self) -> VideoInfo:
        self._find((0, len(self._order) - 1))
        stream, codec, picture = self._stream, self._stream.codec_context, self._picture
        width, height = upright_size(picture) if picture else (codec.width, codec.height)
        turns, mirrored = orientation(picture) if picture else (0, False)
        n, rate = len(self._order), float(stream.average_rate or stream.guessed_rate or 0)
        times = [self._pts[number] for number in self._order if number is not None and number >= 0]
        times = [pts for pts in times if pts is not None]
        begin, duration = 0.0, n / rate if rate else 0.0
        if times and stream.time_base and not self._untimed:
            begin = float(min(times) * stream.time_base)
            duration = float((max(times) - min(times) + self._last_duration) * stream.time_base) or duration
        if duration > 0 and abs(n - rate * duration) > 1:  # the header's rate is believed while it fits
            rate = n / duration
        return VideoInfo(
            num_frames=n,
            fps=rate,
            duration_seconds=duration,
            width=width,
            height=height,
            codec=codec.name,
            pix_fmt=picture.format.name if picture else str(codec.pix_fmt),
            rotation=turns * 90,
            key_frames=self._num_keys,
            start_seconds=begin,
            truncated=self.truncated,
            mirrored=mirrored,
            notes=tuple(self.notes),
        )

    # Decoding

    def _decode(self, indices: list[int]) -> Generator[tuple[int, "av.VideoFrame"], None, None]:
        """(index, picture) for each of the sorted `indices`, in any order."""
        missing = set(indices)
        # A key frame after which the picture only heals (intra refresh) shows nothing at first: then come from before
        # it, and at last from the start and without passing over anything.
        for earlier_keys in (0, 1, 2) if self._seekable else ():
            for first, last, wanted in self._plan(sorted(missing), earlier_keys):
                latest = -1
                for number, frame in self._run(first, last, wanted):
                    index = self._index_of.get(number)
                    if index is not None:  # pictures come out as they are shown
                        if index < latest and self._timed:
                            raise _OutOfOrder
                        latest = index
                    # A picture with flaws may lack one before the key frame.
                    if index in missing and not self._damage.reaches:
                        missing.remove(index)
                        yield index, frame
            if not missing:
                return
        for place, (number, frame) in enumerate(self._run(0, len(self._pts) - 1, wanted=None)):
            index = self._index_of.get(number) if self._seekable else place
            if index in missing:
                missing.remove(index)
                self._judge(index)
                yield index, frame
            if not missing:
                return
        raise VideoReadError(
            f"{self.name}: frame {min(missing)} of {self.num_frames} does not come out of the decoder; "
            "the file is damaged; " + TRUNCATE_HINT
        )

    def _judge(self, index: int) -> None:
        """An error or a note where the decoder knows of damage that reaches the frame that has just come out."""
        if self._damage.reaches:
            text = f"frame {index} of {self.num_frames} is damaged or follows one that is, by the decoder's own mark"
            if self.errors == "strict":
                raise VideoReadError(f"{self.name}: {text}; " + CORRUPT_HINT)
            self._note(text)

    def _plan(self, indices: list[int], earlier_keys: int) -> list[tuple[int, int, set[int]]]:
        """Runs (first packet, last packet, wanted packets) that together hold the frames at `indices`.

        A run begins at the last key frame that is shown no later than its first frame, and continues while decoding on
        is less work than a fresh start: until a key frame lies between one wanted frame and the next.
        """
        starts, behind = [], 1 if self._fields else 0  # the second field of the last frame
        for index in indices:
            number = self._order[index]
            at = bisect_right(self._keys, number) - 1
            if self._index_of.get(self._keys[at], -1) > index:  # it follows the key frame but is shown before it
                at -= 1
            starts.append((number, self._keys[max(at - earlier_keys, 0)]))
        runs: list[tuple[int, int, set[int]]] = []
        for number, key in sorted(starts):
            if runs and key <= runs[-1][1]:
                first, _, wanted = runs.pop()
                runs.append((first, number + behind, wanted | {number}))
            else:
                runs.append((key, number + behind, {number}))
        return runs

    def _run(self, first: int, last: int, wanted: set[int] | None) -> Iterator[tuple[int, "av.VideoFrame"]]:
        """Decode packets `first` to `last`; (number of its packet, picture) for each that comes out."""
        number = first
        try:
            self._go_to(first)
            codec = self._stream.codec_context
            codec.flush_buffers()
            self._damage = Damage()
            needed = wanted if codec.name in SKIPPING_CODECS and not self._fields else None
            skip = None
            for packet in self._demux:
                self._position += 1
                self._deadline.check()
                if needed is not None and skip != (number not in needed):
                    skip = number not in needed
                    codec.skip_frame = "NONREF" if skip else "DEFAULT"
                packet.pts = number
                for frame in codec.decode(packet):
                    check_pixels(self.name, frame.width, frame.height, self.limits)
                    self._damage.see(frame)
                    yield (-1 if frame.pts is None else frame.pts), frame
                if number == last:
                    break
                number += 1
            for frame in codec.decode(None):
                self._damage.see(frame)
                yield (-1 if frame.pts is None else frame.pts), frame
        except DECODER_ERRORS as error:
            raise VideoReadError(
                f"{self.name} cannot be decoded at packet {number} of {len(self._pts)}: {reason(error)}"
            ) from None
        finally:
            self._stream.codec_context.skip_frame = "DEFAULT"

    def _go_to(self, first: int) -> None:
        """Make packet `first` the next one of `_demux`."""
        if not 0 <= first - self._position <= NEAR_PACKETS and not (self._seekable and self._seek(first)):
            self._reopen()
        while self._position < first:
            if next(self._demux, None) is None:
                raise VideoReadError(f"{self.name} has changed: packet {self._position} is no longer there")
            self._position += 1

    def _reopen(self) -> None:
        self._container.close()
        if not isinstance(self._file, str):
            self._file.seek(0)
        self._container, self._stream = open_container(self._file, self.name, self.limits, self._threads)
        self._demux, self._position = pictures(self._container.demux(self._stream)), 0

    def _seek(self, first: int) -> bool:
        """Make packet `first` or one before it the next from `_demux`; False if the container cannot."""
        # MP4 is sought by decoding time, others by presentation time; at last to the start.
        times = (self._dts,) if self._by_dts else (self._pts, self._dts)
        for target in dict.fromkeys(series[number] for number in (first, 0) for series in times):
            if target is None:
                continue
            try:
                self._container.seek(target, stream=self._stream)
                self._demux = pictures(self._container.demux(self._stream))
                packet = next(self._demux, None)
            except DECODER_ERRORS:
                continue
            landed = self._number(packet) if packet else None
            if packet and landed is not None and landed <= first:
                self._demux, self._position = itertools.chain([packet], self._demux), landed
                return True
        return False


# Small things


class _OutOfOrder(Exception):
    """Pictures come out of the decoder in another order than that of their time stamps."""


def _converted(
    name: str, frame: "av.VideoFrame", width: int, height: int, scaler: "av.video.reformatter.VideoReformatter"
) -> np.ndarray:
    try:
        return upright_rgb(frame, width, height, scaler)
    except (*DECODER_ERRORS, ValueError) as error:
        raise VideoReadError(
            f"{name}: a picture of format {frame.format.name} cannot be made RGB: {reason(error)}"
        ) from None


def _check_errors(errors: str) -> None:
    if errors not in ("strict", "truncate"):
        raise ValueError(f"errors must be strict or truncate, not {errors!r}")


def iter_frames(
    source: Source,
    needed: Callable[[int], bool],
    short_side: int | None,
    errors: str,
    limits: Limits,
    threads: int,
    at_once: int = 1,
) -> Iterator[tuple[int, float, float, np.ndarray | None]]:
    """Every frame from the start: index, start and end in seconds from the first frame, and its pixels if needed.

    All have the size of the first. `at_once` is how many the caller keeps, of which `max_bytes` decides;
    `decode_seconds` is the time to the next frame here, and `max_frames` holds where the source can seek.
    """
    _check_errors(errors)
    file, name = locate(source, limits, stream=True)
    deadline = Deadline(limits.decode_seconds, name)
    found = outline(file, deadline.check)
    check_outline(name, found, limits)
    if errors == "strict" and found.missing:
        raise VideoReadError(f"{name} is cut off ({found.missing}); " + TRUNCATE_HINT)
    container, stream = open_container(file, name, limits, threads)
    rate = float(stream.average_rate or stream.guessed_rate or 25)
    most = limits.max_frames if found.size else None  # a source that cannot seek may be endless
    index, origin, end, size, damage = -1, None, 0.0, None, Damage()
    scaler = av.video.reformatter.VideoReformatter()
    with container:
        try:
            for index, frame in enumerate(to_the_end(container.decode(stream))):
                deadline.check()
                check_pixels(name, frame.width, frame.height, limits)
                damage.see(frame)
                if size is None:
                    size = scaled_size(*upright_size(frame), short_side)
                    check_bytes(name, at_once, size[0], size[1], limits)
                if index == most:
                    raise VideoReadError(f"{name} has more than max_frames={most} frames; raise the limit")
                if frame.time is not None and origin is None:  # raw streams have no times
                    origin = frame.time - end
                begin = end if frame.time is None else frame.time - origin
                length = float(frame.duration * frame.time_base) if frame.duration and frame.time_base else 0.0
                end = begin + (length or 1 / rate)
                picture = None
                if needed(index):
                    if damage.reaches and errors == "strict":
                        raise VideoReadError(
                            f"{name}: frame {index} is damaged or follows one that is, by the decoder's own mark; "
                            + CORRUPT_HINT
                        )
                    picture = _converted(name, frame, *size, scaler)
                yield index, begin, end, picture
                deadline.restart()  # the reader's time is meant, not that of whoever uses the frames
        except DECODER_ERRORS as error:
            if errors == "strict":
                raise VideoReadError(
                    f"{name} cannot be decoded after {end:.2f} seconds ({reason(error)}); " + TRUNCATE_HINT
                ) from None
    if index < 0:
        raise VideoReadError(f"{name} holds no frames")
