"""One way to read an entry of a data set, whatever it is: a file or a stretch of it, a folder of images, a member of a tar file,
bytes.

`open_clip` gives an object with `num_frames` and `read(indices)`; video files themselves are video_io.py's.
"""

# T frames  H W pixels

import contextlib
import os
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from videomae.data import remote
from videomae.data.prepared_video import NotAsPrepared, PreparedReader
from videomae.data.stretches import Stretch, open_stretch
from videomae.video_decoder import DecoderReader, is_decoder
from videomae.video_io import Limits, VideoReader, VideoReadError
from videomae.video_pictures import Part

VIDEO_SUFFIXES = frozenset(
    (".mp4", ".webm", ".mkv", ".avi", ".mov", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".ts", ".m2ts", ".mts", ".3gp")
    + (".ogv", ".gif", ".mjpg", ".mjpeg", ".vob", ".asf")
)
IMAGE_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".tif", ".tiff"))


class FrameFolder(NamedTuple):
    """Frames stored as images: `pattern.format(first)` is the first of `count`. first -1: all images, by number."""

    folder: str
    first: int
    count: int  # pyright: ignore[reportIncompatibleMethodOverride]  # not the method of tuples
    pattern: str


class TarMember(NamedTuple):
    """A video inside an uncompressed tar file."""

    shard: str  # a path or a URL
    offset: int
    size: int
    name: str


Source = str | FrameFolder | TarMember | Stretch | dict[str, Any] | bytes  # or an open decoder of another library


class Clip(Protocol):
    num_frames: int

    @property
    def truncated(self) -> bool: ...

    def read(self, indices: Sequence[int], *, short_side: int | None = None, part: Part | None = None) -> torch.Tensor:
        """uint8 (T, H, W, 3); `part(height, width)` says which (top, left, height, width) of the frames is kept."""
        ...


class _ClosableClip(Clip, Protocol):
    def close(self) -> None: ...


@contextlib.contextmanager
def open_clip(source: Source, limits: Limits | None = None, *, errors: str = "strict") -> Iterator[Clip]:
    """Open an entry of a data set; every failure is a VideoReadError that names it. `errors` is that of `read_frames`."""
    if isinstance(source, FrameFolder):
        yield _FrameReader(source)
        return
    if isinstance(source, Stretch):
        with _named(None), open_stretch(source, limits or Limits(), errors) as clip:
            yield clip
        return
    if is_decoder(source):
        yield DecoderReader(source, limits)
        return
    if not isinstance(source, TarMember):
        with _named(None), contextlib.closing(_FileReader(VideoReader(source, errors=errors, limits=limits))) as clip:
            yield clip
        return
    with (
        contextlib.closing(Member(source)) as member,  # behind a URL it is read here: that failing is no broken video
        _named(f"{source.name} in {source.shard}"),
        contextlib.closing(_open_member(member, limits or Limits(), errors)) as clip,
    ):
        yield clip


@contextlib.contextmanager
def _named(name: str | None) -> Iterator[None]:
    """Failures inside become VideoReadErrors that begin with `name`; without one they name the video already."""
    try:
        yield
    except VideoReadError as error:
        raise error if name is None else VideoReadError(f"{name}: {error}") from None
    except OSError as error:
        raise VideoReadError(str(error)) from None


def _open_member(member: "Member", limits: Limits, errors: str) -> _ClosableClip:
    def reopen() -> VideoReader:
        return VideoReader(member.read(0, member.size), errors=errors, limits=limits)

    if errors == "strict":  # what of a damaged video can be used is for the other reader to say
        with contextlib.suppress(NotAsPrepared):
            return PreparedReader(member.read, member.size, reopen, limits)
    return _FileReader(reopen())


def read_member(member: TarMember) -> bytes:
    """The bytes of a video in a shard."""
    with contextlib.closing(Member(member)) as opened:
        return opened.read(0, member.size)


class Member:
    """The bytes of a video in a shard: from a local one those that are asked for, from a URL all with one request."""

    def __init__(self, member: TarMember):
        self.size, self._of, self._handle, self._data = member.size, member, None, b""
        if remote.is_url(member.shard):
            self._data = remote.read_member(member.shard, member.offset, member.size, member.name)
            return
        try:
            self._handle = os.open(member.shard, os.O_RDONLY)
        except OSError as error:
            raise self._error(error) from None

    def close(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def read(self, start: int, end: int) -> bytes:
        """The bytes [start, end) of the video. Linux gives at most 2 GiB at a time."""
        if self._handle is None:
            return self._data[start:end]
        pieces, at, stop = [], self._of.offset + start, self._of.offset + end
        try:
            # A read takes memory for all that it is asked for, be it there or not.
            while at < stop <= os.fstat(self._handle).st_size and (piece := os.pread(self._handle, stop - at, at)):
                pieces.append(piece)
                at += len(piece)
        except OSError as error:
            raise self._error(error) from None
        if at < stop:
            name, shard = self._of.name, self._of.shard
            raise VideoReadError(f"{name}: {shard} ends inside it; the shard is cut off, write it again")
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _error(self, error: OSError) -> VideoReadError:
        return VideoReadError(f"{self._of.name} in {self._of.shard}: {error.strerror or error}")


class _FileReader:
    """`truncated` says, after a read too, whether the video is cut off or damaged and ends there."""

    def __init__(self, reader: VideoReader):
        self._reader, self.num_frames = reader, reader.num_frames

    def close(self) -> None:
        self._reader.close()

    @property
    def fps(self) -> float:
        return self._reader.fps

    @property
    def truncated(self) -> bool:
        return self._reader.truncated

    def read(self, indices: Sequence[int], *, short_side: int | None = None, part: Part | None = None) -> torch.Tensor:
        return self._reader.read(indices, short_side=short_side, part=part)


class _FrameReader:
    truncated = False

    def __init__(self, source: FrameFolder):
        self._source, self.num_frames = source, source.count
        self._names = None
        if source.first < 0:
            self._names = sorted(_images(source.folder), key=_by_number)
            self.num_frames = len(self._names)

    def read(self, indices: Sequence[int], *, short_side: int | None = None, part: Part | None = None) -> torch.Tensor:
        frames: dict[int, np.ndarray] = {}
        for index in sorted(set(indices)):
            frame = self._frame(index, short_side)
            if frames and frame.shape != next(iter(frames.values())).shape:
                raise VideoReadError(f"{self._source.folder}: frame {index} has another size than those before")
            frames[index] = frame
        if part is not None:
            top, left, height, width = part(*next(iter(frames.values())).shape[:2])
            frames = {index: frame[top : top + height, left : left + width] for index, frame in frames.items()}
        return torch.from_numpy(np.stack([frames[index] for index in indices]))

    def _frame(self, index: int, short_side: int | None) -> np.ndarray:
        source = self._source
        name = self._names[index] if self._names else source.pattern.format(source.first + index)
        path = os.path.join(source.folder, name)
        try:
            with Image.open(path) as image:
                image = image.convert("RGB")
                if short_side is not None and min(image.size) > short_side:
                    width, height = image.size
                    scale = short_side / min(width, height)
                    image = image.resize((max(int(width * scale), short_side), max(int(height * scale), short_side)))
                return np.asarray(image)
        except FileNotFoundError:
            raise VideoReadError(f"frame {index} of {source.folder} is missing: {path}") from None
        except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
            raise VideoReadError(f"{path} cannot be read: {error}") from None


def _images(folder: str) -> list[str]:
    try:
        names = [name for name in os.listdir(folder) if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES]
    except OSError as error:
        raise VideoReadError(f"{folder}: {error.strerror or error}") from None
    if not names:
        raise VideoReadError(f"{folder} holds no frames")
    return names


def _by_number(name: str) -> list[int | str]:
    """img_2 before img_10."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]
