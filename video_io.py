"""Open a video, know it, and read just the frames that are asked for. PyAV alone; its wheel carries FFmpeg.

A frame's index is its place in a decode of the whole file from the start, whatever the container says of times and
counts. Which indices to read is decided in sampling_videomae.py; making model input of the pixels in
image_processing_videomae.py.

How a read works: one pass over the packets (no decoding) gives the number of frames and where the key frames are.
The wanted frames are then grouped into runs; a run starts at a key frame and ends with the last packet that its
frames need. Packets are numbered on the way into the decoder, so that each picture coming out says which packet it
was, independent of time stamps. Where the packets alone do not tell the order, the file is decoded from the start.
"""

# n frames in the file | T frames asked for | H W pixels of the upright frame

import contextlib
import http.client
import io
import itertools
import os
import stat
import time
import urllib.error
import urllib.parse
import urllib.request
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import torch

try:
    import av
except ImportError:  # decoded frames can be processed without it
    av = None

Source = str | os.PathLike | bytes | bytearray | memoryview | BinaryIO | dict

# Demuxers that hold one file's own pictures. Play lists (hls, dash, concat, image sequences) would let a file name
# other files and hosts, so FFmpeg is not given them.
DEMUXERS = (
    "mov,mp4,m4a,3gp,3g2,mj2",
    "matroska,webm",
    "avi,flv,live_flv,mpegts,mpeg,mpegvideo,asf,ogg,gif,apng,nut,mxf,ivf,obu,h264,hevc,m4v,mjpeg,yuv4mpegpipe,dv,rm,vc1",
    "wav,mp3,aac,flac",  # to say "no picture in it" of an audio file
)
# Decoders that give the same pictures when they start at a key frame as when they come from before it.
KEY_FRAME_CODECS = frozenset(
    [
        "h264",
        "hevc",
        "vp8",
        "vp9",
        "av1",
        "libdav1d",
        "mpeg1video",
        "mpeg2video",
        "mpeg4",
        "mjpeg",
        "prores",
        "dnxhd",
        "ffv1",
        "theora",
        "png",
        "rawvideo",
    ]
)
# Decoders for which a packet can be passed over when no other picture refers to it, with the same pictures elsewhere.
SKIPPING_CODECS = frozenset(("h264", "mpeg2video", "mpeg4"))
# Containers that store no presentation times. FFmpeg then makes some up, wrongly where pictures are reordered.
UNTIMED_DEMUXERS = frozenset(("avi", "h264", "hevc", "m4v", "mpegvideo", "mjpeg", "obu", "vc1"))
# Up to this many packets ahead, reading on through the file costs less than a seek.
NEAR_PACKETS = 64
_NOWHERE = -(1 << 62)  # a position in the file from which nothing is near


class VideoReadError(ValueError):
    """A video that cannot be read as asked; the message names it."""


@dataclass(frozen=True)
class Limits:
    """What a source may ask of this machine; each is checked before memory is taken."""

    max_pixels: int = 8192 * 8192  # of one frame
    max_frames: int = 5_000_000  # in the file
    max_bytes: int = 4 << 30  # of decoded frames asked for at once
    max_download_bytes: int = 1 << 30
    download_seconds: float = 60.0
    decode_seconds: float | None = None  # for one probe or read


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
    rotation: int  # degrees counter-clockwise that make the stored picture upright
    key_frames: int
    start_seconds: float  # of the first frame on the file's own clock
    truncated: bool  # cut off or damaged; num_frames counts what can be decoded


def probe(source: Source, *, errors: str = "strict", limits: Limits | None = None) -> VideoInfo:
    """Know a video without decoding it. The count is exact: packets are counted, headers are not believed."""
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


@dataclass(frozen=True)
class Window:
    """A stretch of a long video: frames `first_frame` … `last_frame` (both included) and their times."""

    first_frame: int
    last_frame: int
    start_seconds: float
    end_seconds: float
    frames: list[Any]  # one entry per frame of the clip: RGB arrays (H, W, 3), or what `transform` made of them


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
    for name, value in (("num_frames", num_frames), ("stride_frames", stride_frames), ("hop_frames", hop_frames)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, not {value}")
    if partial not in ("repeat_last", "drop"):
        raise ValueError(f"partial must be repeat_last or drop, not {partial!r}")
    span = (num_frames - 1) * stride_frames + 1

    def needed(index: int) -> bool:
        first = max(-(-(index - span + 1) // hop_frames), 0)
        return any((index - k * hop_frames) % stride_frames == 0 for k in range(first, index // hop_frames + 1))

    kept: dict[int, Any] = {}
    times: dict[int, tuple[float, float]] = {}
    start, seen = 0, 0

    def window(last: int) -> Window:
        wanted = [start + i * stride_frames for i in range(num_frames)]
        reached = max(index for index in wanted if index <= last)
        frames = [kept[min(index, reached)] for index in wanted]
        return Window(
            start, min(start + span, last + 1) - 1, times[start][0], times[min(start + span - 1, last)][1], frames
        )

    for index, begin, end, picture in _iter_frames(source, needed, short_side, errors, limits or Limits(), threads):
        seen, times[index] = index + 1, (begin, end)
        if picture is not None:
            kept[index] = transform(picture) if transform else picture
        if index == start + span - 1:
            yield window(index)
            start += hop_frames
            for old in [old for old in times if old < start]:
                del times[old]
                kept.pop(old, None)
    covered = start - hop_frames + span if start else 0
    if seen > max(covered, start) and partial == "repeat_last":
        yield window(seen - 1)


class VideoReader:
    """An open video: `info` and any number of reads from one look at the packets."""

    def __init__(self, source: Source, *, errors: str = "strict", limits: Limits | None = None, threads: int = 1):
        _check_errors(errors)
        self.errors, self.limits = errors, limits or Limits()
        self._file, self.name = _opened(source, self.limits)
        self._picture: av.VideoFrame | None = None  # any one of the file
        self._scaler = av.video.reformatter.VideoReformatter()  # one for all frames: its tables cost more than a frame
        self._threads, self._deadline = threads, _Deadline(self.limits.decode_seconds, self.name)
        self._missing = _missing_part(self._file)
        self._container, self._stream = _open_container(self._file, self.name, self.limits, threads)
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
        if self._container is not None:
            self._container.close()
            self._container = None

    @property
    def num_frames(self) -> int:
        return len(self._order)

    @property
    def info(self) -> VideoInfo:
        if self._picture is None:  # only a decoded picture tells the size and the rotation for certain
            self._picture = next((frame for _, frame in self._run(0, len(self._packets) - 1, wanted=None)), None)
        return self._describe()

    def read(self, indices: Sequence[int], *, short_side: int | None = None) -> torch.Tensor:
        """The frames at `indices` (any order, repeats allowed) as uint8 RGB (T, H, W, 3)."""
        indices = [int(index) for index in indices]
        n = self.num_frames
        if not indices:
            raise VideoReadError(f"{self.name}: no frames asked for; indices is empty")
        outside = [index for index in indices if not 0 <= index < n]
        if outside:
            raise VideoReadError(
                f"{self.name} has {n} frames, 0 to {n - 1}; frame {outside[0]} does not exist"
                + (" (the file is cut off)" if self.truncated else "")
            )
        codec = self._stream.codec_context
        self._check_bytes(len(indices), *_scaled_size(codec.width, codec.height, short_side))
        rows: dict[int, list[int]] = {}
        for row, index in enumerate(indices):
            rows.setdefault(index, []).append(row)
        self._deadline.restart()
        out = None
        for index, frame in self._decode(sorted(rows)):
            _check_pixels(self.name, frame.width, frame.height, self.limits)
            if out is None:
                turns = _quarter_turns(frame)
                width, height = _scaled_size(*_upright_size(frame), short_side)
                self._check_bytes(len(indices), width, height)
                out = np.empty((len(indices), height, width, 3), dtype=np.uint8)
                self._picture = self._picture or frame
            first, *others = rows[index]
            out[first] = _upright_rgb(frame, width, height, turns, self._scaler)
            out[others] = out[first]
        return torch.from_numpy(out)

    def _check_bytes(self, num_frames: int, width: int, height: int) -> None:
        size = num_frames * width * height * 3
        if size > self.limits.max_bytes:
            raise VideoReadError(
                f"{self.name}: {num_frames} frames of {width}x{height} take {size} bytes, above "
                f"max_bytes={self.limits.max_bytes}; ask for fewer, pass short_side, or raise the limit"
            )

    def count_by_decoding(self) -> VideoInfo:
        """Decode the whole file to learn what comes out of it; with errors="truncate", up to the first damage."""
        self._set_order(self._order_by_decoding(), self._keys)
        return self.info

    # What the packets tell

    def _scan(self) -> None:
        """Number the packets in decode order and find the order in which their pictures are shown."""
        codec = self._stream.codec_context
        self._packets: list[tuple] = []  # (pts, dts, size), which tells packet k again after a seek
        self._last_duration = 0
        keys: list[int] = []
        shown: list[int] = []
        damage, codec_name = self._missing, codec.name
        self._demux, self._position = iter(()), _NOWHERE
        try:
            for packet in _pictures(self._container.demux(self._stream)):
                number = len(self._packets)
                if number % 256 == 0:
                    self._deadline.check()
                if number >= self.limits.max_frames:
                    raise VideoReadError(f"{self.name} has more than max_frames={number} frames; raise the limit")
                if packet.is_corrupt:
                    damage = damage or f"packet {number} is incomplete"
                    break
                self._packets.append((packet.pts, packet.dts, packet.size))
                if packet.is_keyframe:
                    keys.append(number)
                if not packet.is_discard and (codec_name != "vp8" or _vp8_is_shown(packet)):
                    shown.append(number)
                    self._last_duration = packet.duration or self._last_duration
        except (av.FFmpegError, OSError) as error:
            damage = damage or _reason(error)
        if not self._packets:
            raise VideoReadError(f"{self.name} holds no frames" + (f": {damage}" if damage else ""))
        promised = self._stream.frames if "mp4" in self._container.format.name else 0
        if damage is None and len(self._packets) < promised:
            damage = f"{promised} frames are promised"
        self.truncated = damage is not None
        if self.truncated and self.errors == "strict":
            raise VideoReadError(
                f"{self.name} is cut off or damaged ({damage}; {len(self._packets)} packets are there); "
                + _TRUNCATE_HINT
            )
        # Time stamps give the order when they are whole, and nothing was cut away before the first key frame.
        times = [self._packets[number][0] for number in shown]
        ordered = None not in times and len(set(times)) == len(times)
        ordered &= not (self._container.format.name in UNTIMED_DEMUXERS and codec.has_b_frames)
        whole = shown[:1] == [0] and keys[:1] == [0] and (not ordered or min(times) == times[0])
        self._number_of = {key: number for number, key in enumerate(self._packets)}
        unique = len(self._number_of) == len(self._packets)
        self._seekable = codec.name in KEY_FRAME_CODECS and ordered and unique
        if ordered:
            shown.sort(key=lambda number: self._packets[number][0])
        self._set_order(shown, keys)
        if self.truncated or not whole:
            self._set_order(self._order_by_decoding(), keys)

    def _set_order(self, order: list[int], keys: list[int]) -> None:
        """`order[i]` is the packet of frame i. Where not even a decode tells, only its length means something."""
        self._order, self._keys = order, keys
        self._index_of = {number: index for index, number in enumerate(order)}
        known = sorted((self._index_of[number], number) for number in keys if number in self._index_of)
        self._key_indices, self._key_numbers = [index for index, _ in known], [number for _, number in known]

    def _order_by_decoding(self) -> list[int]:
        """The packets in the order in which a decode from the start shows their pictures, up to the first damage."""
        order: list[int] = []
        try:
            order.extend(number for number, _ in self._run(0, len(self._packets) - 1, wanted=None))
        except VideoReadError:
            if self.errors == "strict":
                raise
            self.truncated = True
        if not order:
            raise VideoReadError(f"{self.name} holds no frame that can be decoded")
        if len(set(order)) < len(order) or -1 in order:
            self._seekable = False
        return order

    def _describe(self) -> VideoInfo:
        stream, codec, picture = self._stream, self._stream.codec_context, self._picture
        width, height = _upright_size(picture) if picture else (codec.width, codec.height)
        n, rate = len(self._order), float(stream.average_rate or stream.guessed_rate or 0)
        times = [self._packets[number][0] for number in self._order if number >= 0]
        begin, duration = 0.0, n / rate if rate else 0.0
        if times and None not in times and stream.time_base:
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
            rotation=_quarter_turns(picture) * 90 if picture else 0,
            key_frames=len(self._keys),
            start_seconds=begin,
            truncated=self.truncated,
        )

    # Decoding

    def _decode(self, indices: list[int]) -> Iterator[tuple[int, "av.VideoFrame"]]:
        """(index, picture) for each of the sorted `indices`, in any order."""
        missing = set(indices)
        for earlier_keys in range(len(self._key_numbers) if self._seekable else 0):
            for first, last, wanted in self._plan(sorted(missing), earlier_keys):
                for number, frame in self._run(first, last, wanted):
                    index = self._index_of.get(number)
                    if index in missing:
                        missing.remove(index)
                        yield index, frame
            if not missing:
                return
            # A key frame after which the picture only heals (intra refresh) shows nothing at first: come from before it.
        for index, (_, frame) in enumerate(self._run(0, len(self._packets) - 1, wanted=None)):
            if index in missing:
                missing.remove(index)
                yield index, frame
                if not missing:
                    return
        raise VideoReadError(
            f"{self.name}: frame {min(missing)} of {self.num_frames} does not come out of the decoder; "
            "the file is damaged; " + _TRUNCATE_HINT
        )

    def _plan(self, indices: list[int], earlier_keys: int) -> list[tuple[int, int, set[int]]]:
        """Runs (first packet, last packet, wanted packets) that together hold the frames at `indices`.

        A run begins at the last key frame that is shown no later than its first frame, and goes on while decoding on
        is less work than a fresh start: until a key frame lies between one wanted frame and the next.
        """
        starts = []
        for index in indices:
            number = self._order[index]
            at = max(bisect_right(self._key_indices, index) - 1 - earlier_keys, 0)
            while at and self._key_numbers[at] > number:
                at -= 1
            starts.append((number, self._key_numbers[at]))
        runs: list[tuple[int, int, set[int]]] = []
        for number, key in sorted(starts):
            if runs and key <= runs[-1][1]:
                first, _, wanted = runs.pop()
                runs.append((first, number, wanted | {number}))
            else:
                runs.append((key, number, {number}))
        return runs

    def _run(self, first: int, last: int, wanted: set[int] | None) -> Iterator[tuple[int, "av.VideoFrame"]]:
        """Decode packets `first` to `last`; (number of its packet, picture) for each that comes out."""
        number = first
        try:
            self._go_to(first)
            codec = self._stream.codec_context
            codec.flush_buffers()
            skipping, skip = wanted is not None and codec.name in SKIPPING_CODECS, None
            for packet in self._demux:
                self._position += 1
                self._deadline.check()
                if skipping and skip != (number not in wanted):
                    skip = number not in wanted
                    codec.skip_frame = "NONREF" if skip else "DEFAULT"
                packet.pts = number
                for frame in codec.decode(packet):
                    yield (-1 if frame.pts is None else frame.pts), frame
                if number == last:
                    break
                number += 1
            for frame in codec.decode(None):
                yield (-1 if frame.pts is None else frame.pts), frame
        except (av.FFmpegError, OSError) as error:
            raise VideoReadError(
                f"{self.name} cannot be decoded at packet {number} of {len(self._packets)}: {_reason(error)}"
            ) from None
        finally:
            self._stream.codec_context.skip_frame = "DEFAULT"

    def _go_to(self, first: int) -> None:
        """Make packet `first` the next one of `_demux`."""
        if not 0 <= first - self._position <= NEAR_PACKETS and not (self._seekable and self._seek(first)):
            self._container.close()
            if not isinstance(self._file, str):
                self._file.seek(0)
            self._container, self._stream = _open_container(self._file, self.name, self.limits, self._threads)
            self._demux, self._position = _pictures(self._container.demux(self._stream)), 0
        while self._position < first:
            next(self._demux)
            self._position += 1

    def _seek(self, first: int) -> bool:
        """Make packet `first` or one before it the next from `_demux`; False if the container cannot."""
        # By presentation time, then by decoding time, which the index of MP4 is ordered by, then to the start.
        for target in dict.fromkeys((*self._packets[first][:2], *self._packets[0][:2])):
            if target is None:
                continue
            try:
                self._container.seek(target, stream=self._stream)
                self._demux = _pictures(self._container.demux(self._stream))
                packet = next(self._demux, None)
            except (av.FFmpegError, OSError):
                continue
            landed = self._number_of.get((packet.pts, packet.dts, packet.size), first + 1) if packet else first + 1
            if landed <= first:
                self._demux, self._position = itertools.chain([packet], self._demux), landed
                return True
        return False


# Opening


def _opened(source: Source, limits: Limits, *, stream: bool = False) -> tuple[str | BinaryIO, str]:
    """What FFmpeg may read (a local path or a seekable file object) and what to call it in messages.

    With `stream`, a file object that cannot seek is handed through; else it is read whole, up to the cap.
    """
    if av is None:
        raise ImportError("reading videos needs PyAV: pip install av; or pass decoded frames")
    if isinstance(source, dict):  # a video of `datasets`, cast with decode=False
        if source.get("bytes") is not None:
            return io.BytesIO(source["bytes"]), str(source.get("path") or "the video in memory")
        if source.get("path") is None:
            raise VideoReadError('a video given as a dict needs "bytes" or "path"')
        source = source["path"]
    if isinstance(source, (bytes, bytearray, memoryview)):
        if len(source) == 0:
            raise VideoReadError("the video in memory is empty")
        return io.BytesIO(source), "the video in memory"
    if hasattr(source, "read"):
        name = str(getattr(source, "name", None) or "the open file")
        if not source.seekable():
            if stream:
                return source, name
            content = source.read(limits.max_download_bytes + 1)
            if len(content) > limits.max_download_bytes:
                raise VideoReadError(f"{name} is longer than max_download_bytes={limits.max_download_bytes}")
            return io.BytesIO(content), name
        source.seek(0)
        return source, name
    if not isinstance(source, (str, os.PathLike)):
        raise TypeError(
            f"a video is a path, an http(s) URL, bytes or a binary file object, not {type(source).__name__}"
        )
    if isinstance(source, str) and "://" in source:
        scheme = source.split("://", 1)[0].lower()
        if scheme in ("http", "https"):
            return io.BytesIO(download(source, limits)), source
        if scheme != "file":
            raise VideoReadError(f"{source}: only http and https URLs and local files are read, not {scheme}://")
        source = urllib.request.url2pathname(urllib.parse.urlsplit(source).path)
    path = os.path.abspath(os.fspath(source))
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:
        raise FileNotFoundError(f"no video at {source}: {_reason(error)}") from None
    if not stat.S_ISREG(status.st_mode):
        what = "a folder" if stat.S_ISDIR(status.st_mode) else "not a regular file"
        raise VideoReadError(f"{source} is {what}, not a video file")
    if status.st_size == 0:
        raise VideoReadError(f"{source} is empty")
    return path, str(source)


def download(url: str, limits: Limits | None = None) -> bytes:
    """The content of an http(s) URL, up to the size and time of `limits`."""
    limits = limits or Limits()
    # An opener of our own: the default one would also follow ftp, file and data URLs.
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.UnknownHandler(),
    ):
        opener.add_handler(handler)
    deadline = time.monotonic() + limits.download_seconds
    content = bytearray()
    try:
        with opener.open(url, timeout=limits.download_seconds) as response:
            declared = int(response.headers.get("Content-Length") or 0)
            while declared <= limits.max_download_bytes and (block := response.read1(1 << 16)):
                content += block
                if len(content) > limits.max_download_bytes:
                    declared = len(content)
                if time.monotonic() > deadline:
                    raise TimeoutError(f"not done after download_seconds={limits.download_seconds:g}")
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise VideoReadError(f"{url} cannot be fetched: {_reason(error)}") from None
    if declared > limits.max_download_bytes:
        raise VideoReadError(f"{url} is longer than max_download_bytes={limits.max_download_bytes}; raise the limit")
    if len(content) < declared:
        raise VideoReadError(f"{url} ended after {len(content)} of {declared} bytes")
    if not content:
        raise VideoReadError(f"{url} is empty")
    return bytes(content)


def _open_container(file: str | BinaryIO, name: str, limits: Limits, threads: int):
    """The open container and its video stream, ready to decode."""
    options = {"format_whitelist": ",".join(DEMUXERS), "protocol_whitelist": "file"}
    try:
        if isinstance(file, str):
            container = av.open(f"file:{file}", options=options, metadata_errors="replace")
        else:
            container = av.open(file, options=options, metadata_errors="replace", buffer_size=1 << 18)
    except (av.FFmpegError, OSError, ValueError) as error:
        raise VideoReadError(f"{name} is not a video that can be read: {_reason(error)}") from None
    try:
        cover = av.stream.Disposition.attached_pic
        streams = [stream for stream in container.streams.video if not stream.disposition & cover]
        if not streams:
            kinds = sorted({stream.type for stream in container.streams}) or ["nothing"]
            raise VideoReadError(f"{name} holds no video, only {' and '.join(kinds)}")
        stream = streams[0]
        codec = stream.codec_context
        if codec is None or codec.codec is None:
            raise VideoReadError(f"{name}: there is no decoder for its video")
        _check_pixels(name, codec.width, codec.height, limits)
        codec.thread_count = threads
        codec.thread_type = "AUTO" if threads != 1 else "SLICE"
        codec.options = {**codec.options, "max_pixels": str(limits.max_pixels)}
    except BaseException:
        container.close()
        raise
    return container, stream


def _missing_part(file: str | BinaryIO) -> str | None:
    """Whether the outermost boxes of an MP4, AVI or Matroska file end where the file does; None if so.

    A cut-off file often still demuxes without complaint. Headers that lie of frames or durations do not matter here.
    """
    opened = open(file, "rb") if isinstance(file, str) else contextlib.nullcontext(file)  # noqa: SIM115
    with opened as data:
        if not data.seekable():
            return None
        size = data.seek(0, os.SEEK_END)
        end = _declared_end(data, size)
        data.seek(0)
    return f"it should be {end} bytes long and is {size}" if end > size else None


def _declared_end(data: BinaryIO, size: int) -> int:
    """Where the file should end by its own outermost structure; at most `size` where that says nothing."""

    def at(offset: int, length: int) -> bytes:
        data.seek(offset)
        return data.read(length)

    head = at(0, 12)
    position = 0
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"styp"):
        while position + 8 <= size:
            length = int.from_bytes(at(position, 4), "big")
            if length == 1:
                length = int.from_bytes(at(position + 8, 8), "big")
            if length < 8:  # 0: to the end of the file
                return size
            position += length
        return position
    if head[:4] == b"RIFF":
        while position + 8 <= size and at(position, 4) == b"RIFF":
            length = int.from_bytes(at(position + 4, 4), "little")
            if length in (0, 0xFFFFFFFF):  # written by a program that could not come back to fill it in
                return size
            position += 8 + length
        return position
    if head[:4] == b"\x1a\x45\xdf\xa3":
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
    return size


# Small things

_TRUNCATE_HINT = 'fetch it again, or pass errors="truncate" to use the frames before the damage'


class _Deadline:
    """Raises once `seconds` have gone since the last restart."""

    def __init__(self, seconds: float | None, name: str):
        self.seconds, self.name = seconds, name
        self.restart()

    def restart(self) -> None:
        self._end = time.monotonic() + self.seconds if self.seconds is not None else None

    def check(self) -> None:
        if self._end is not None and time.monotonic() > self._end:
            raise VideoReadError(f"{self.name} is not decoded after decode_seconds={self.seconds:g}")


def _pictures(packets: Iterator["av.Packet"]) -> Iterator["av.Packet"]:
    """Without the empty packets, which hold no picture; one ends every file."""
    return (packet for packet in packets if packet.size)


def _vp8_is_shown(packet: "av.Packet") -> bool:
    """VP8 keeps pictures that are only referred to in packets of their own, with this bit unset."""
    return bool(memoryview(packet)[0] & 0x10)


def _quarter_turns(frame: "av.VideoFrame") -> int:
    """Quarter turns counter-clockwise that make a picture upright; other angles are left alone."""
    return frame.rotation // 90 % 4 if frame.rotation % 90 == 0 else 0


def _upright_size(frame: "av.VideoFrame") -> tuple[int, int]:
    """Width and height."""
    return (frame.height, frame.width) if _quarter_turns(frame) % 2 else (frame.width, frame.height)


def _check_errors(errors: str) -> None:
    if errors not in ("strict", "truncate"):
        raise ValueError(f"errors must be strict or truncate, not {errors!r}")


def _check_pixels(name: str, width: int, height: int, limits: Limits) -> None:
    if width * height > limits.max_pixels:
        raise VideoReadError(
            f"{name} has frames of {width}x{height}, above max_pixels={limits.max_pixels}; raise the limit to read it"
        )


def _scaled_size(width: int, height: int, short_side: int | None) -> tuple[int, int]:
    """Width and height after scaling the shorter side down to `short_side`; never up."""
    if short_side is not None and short_side < 1:
        raise ValueError(f"short_side must be at least 1, not {short_side}")
    if short_side is None or min(width, height) <= short_side:
        return width, height
    if width <= height:
        return short_side, int(short_side * height / width)
    return int(short_side * width / height), short_side


def _upright_rgb(
    frame: "av.VideoFrame", width: int, height: int, turns: int, scaler: "av.video.reformatter.VideoReformatter"
) -> np.ndarray:
    """RGB (height, width, 3) of a picture stored `turns` quarter turns away; scaled if its size is another."""
    if turns % 2:
        width, height = height, width
    rgb = scaler.reformat(frame, width=width, height=height, format="rgb24", interpolation="BILINEAR")
    plane = rgb.planes[0]
    lines = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[:height]  # lines are longer than the picture
    picture = lines[:, : 3 * width].reshape(height, width, 3)
    return np.rot90(picture, turns) if turns else picture


def _reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(getattr(error, "reason", "") or error) or type(error).__name__


def _iter_frames(
    source: Source, needed: Callable[[int], bool], short_side: int | None, errors: str, limits: Limits, threads: int
) -> Iterator[tuple[int, float, float, np.ndarray | None]]:
    """Every frame from the start: index, start and end in seconds from the first frame, and its pixels if needed."""
    _check_errors(errors)
    file, name = _opened(source, limits, stream=True)
    if errors == "strict" and (missing := _missing_part(file)):
        raise VideoReadError(f"{name} is cut off ({missing}); " + _TRUNCATE_HINT)
    container, stream = _open_container(file, name, limits, threads)
    rate = float(stream.average_rate or stream.guessed_rate or 25)
    origin, end = None, 0.0
    scaler = av.video.reformatter.VideoReformatter()
    with container:
        try:
            for index, frame in enumerate(container.decode(stream)):
                _check_pixels(name, frame.width, frame.height, limits)
                if origin is None:
                    origin = frame.time
                    turns = _quarter_turns(frame)
                    width, height = _scaled_size(*_upright_size(frame), short_side)
                begin = end if frame.time is None or origin is None else frame.time - origin
                length = float(frame.duration * frame.time_base) if frame.duration and frame.time_base else 0.0
                end = begin + (length or 1 / rate)
                picture = _upright_rgb(frame, width, height, turns, scaler) if needed(index) else None
                yield index, begin, end, picture
        except (av.FFmpegError, OSError) as error:
            if errors == "strict":
                raise VideoReadError(
                    f"{name} cannot be decoded after {end:.2f} seconds ({_reason(error)}); " + _TRUNCATE_HINT
                ) from None
    if origin is None:
        raise VideoReadError(f"{name} holds no frames")
