"""One way to read an entry of a data set, whatever it is: a file, a folder of images, a member of a tar file, bytes.

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
from videomae.video_io import Limits, VideoReader, VideoReadError

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


Source = str | FrameFolder | TarMember | dict[str, Any] | bytes


class Clip(Protocol):
    num_frames: int

    @property
    def truncated(self) -> bool: ...

    def read(self, indices: Sequence[int], *, short_side: int | None = None) -> torch.Tensor:
        """uint8 (T, H, W, 3)."""
        ...


@contextlib.contextmanager
def open_clip(source: Source, limits: Limits | None = None, *, errors: str = "strict") -> Iterator[Clip]:
    """Open an entry of a data set; every failure is a VideoReadError that names it. `errors` is that of `read_frames`."""
    if isinstance(source, FrameFolder):
        yield _FrameReader(source)
        return
    if isinstance(source, TarMember):
        name, source = f"{source.name} in {source.shard}", read_member(source)
    else:
        name = None
    try:
        with VideoReader(source, errors=errors, limits=limits) as reader:
            yield _FileReader(reader)
    except VideoReadError as error:
        raise error if name is None else VideoReadError(f"{name}: {error}") from None
    except OSError as error:
        raise VideoReadError(str(error)) from None


def read_member(member: TarMember) -> bytes:
    """The bytes of a video in a shard. One read brings them; Linux gives at most 2 GiB at a time."""
    if remote.is_url(member.shard):
        return remote.read_member(member.shard, member.offset, member.size, member.name)
    pieces, at, end = [], member.offset, member.offset + member.size
    try:
        handle = os.open(member.shard, os.O_RDONLY)
        try:
            # A read takes memory for all that it is asked for, be it there or not.
            while at < end <= os.fstat(handle).st_size and (piece := os.pread(handle, end - at, at)):
                pieces.append(piece)
                at += len(piece)
        finally:
            os.close(handle)
    except OSError as error:
        raise VideoReadError(f"{member.name} in {member.shard}: {error.strerror or error}") from None
    data = b"".join(pieces)
    if len(data) != member.size:
        raise VideoReadError(f"{member.name}: {member.shard} ends inside it; the shard is cut off, write it again")
    return data


class _FileReader:
    """`truncated` says, after a read too, whether the video is cut off or damaged and ends there."""

    def __init__(self, reader: VideoReader):
        self._reader, self.num_frames = reader, reader.num_frames

    @property
    def fps(self) -> float:
        return self._reader.fps

    @property
    def truncated(self) -> bool:
        return self._reader.truncated

    def read(self, indices: Sequence[int], *, short_side: int | None = None) -> torch.Tensor:
        return self._reader.read(indices, short_side=short_side)


class _FrameReader:
    truncated = False

    def __init__(self, source: FrameFolder):
        self._source, self.num_frames = source, source.count
        self._names = None
        if source.first < 0:
            self._names = sorted(_images(source.folder), key=_by_number)
            self.num_frames = len(self._names)

    def read(self, indices: Sequence[int], *, short_side: int | None = None) -> torch.Tensor:
        frames: dict[int, np.ndarray] = {}
        for index in sorted(set(indices)):
            frame = self._frame(index, short_side)
            if frames and frame.shape != next(iter(frames.values())).shape:
                raise VideoReadError(f"{self._source.folder}: frame {index} has another size than those before")
            frames[index] = frame
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
