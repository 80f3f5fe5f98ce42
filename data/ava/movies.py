"""The movies behind AVA's annotations, as people have them: clips around a second, read without cutting anything first.

Three layouts of a folder are recognised, video by video:

    FOLDER/VIDEO.mp4               whole movies, 15-minute cuts, or Kinetics clips VIDEO_000012_000022.mp4
    FOLDER/VIDEO/0902.mp4          one file per second (AlphAction)
    FOLDER/VIDEO/VIDEO_000001.jpg  a folder of frames (SlowFast, mmaction2: img_00001.jpg)

A movie is read by seeking to the key frame before the clip; video_io.py, which numbers every frame of a file exactly,
would first go through two hours of packets.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import av
import av.video.reformatter
import numpy as np
import torch
from PIL import Image

from videomae.video_io import UNTIMED_DEMUXERS, VideoReader, VideoReadError, probe, read_frames
from videomae.video_packets import to_the_end
from videomae.video_pictures import upright_rgb, upright_size
from videomae.video_source import DECODER_ERRORS, Limits, open_container

VIDEO_SUFFIXES = (".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v", ".mpg", ".mpeg", ".ts")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
CUT_STARTS_AT = 900.0  # AVA annotates minutes 15 to 30; cuts of just these begin here
FRAME_FOLDER_RATE = 30.0  # the rate at which SlowFast and mmaction2 extract frames
# Read by frame numbers, since seeking by times goes wrong: those without times, and program streams, whose length and
# times are guesses from a few packets.
BY_NUMBER = UNTIMED_DEMUXERS | {"mpeg"}
CUT_OFF_SECONDS = 1.0  # a file whose pictures end so much before the length that it declares was cut off
_KINETICS_NAME = re.compile(r"(.+)_(\d{6})_(\d{6})")


@dataclass(frozen=True)
class Movie:
    """One video file; `starts_at` is the annotated second of its first frame.

    `errors` is that of `read_frames`: with "truncate" a file that is cut off or damaged serves for the key frames before
    the damage, and a clip that reaches into it repeats the last frame before.
    """

    path: Path
    starts_at: float = 0.0
    errors: str = "strict"

    def read(self, seconds: float, offsets: Sequence[int], rate: float | None = None) -> torch.Tensor:
        """Frames at `offsets` from the key frame at `seconds`: uint8 (T, H, W, 3).

        `rate` is frames a second of the offsets: the nearest frame of the movie is taken for each. None counts the
        movie's own frames. Offsets beyond its ends repeat the first or last frame; a key frame beyond them is an error.
        """
        with _open(self.path) as (container, stream):
            if container.format.name in BY_NUMBER:
                return self._by_number(seconds, offsets, rate)
            own_rate = float(stream.average_rate or stream.guessed_rate or 25)
            length = _length(container, stream)
            at = self._place(seconds, own_rate, length)
            wanted = [max(at + offset / (rate or own_rate), 0.0) for offset in offsets]
            order = sorted(range(len(wanted)), key=wanted.__getitem__)
            times = [wanted[place] for place in order]
            # Of the container's word on the length, which may be that of the sound, nothing follows for the pictures.
            ends = {"least": at - 1.5 / own_rate, "length": length if stream.duration else None}
            frames = _nearest(self.path, container, stream, times, **ends, errors=self.errors)
        clip = [frames[0]] * len(wanted)
        for place, frame in zip(order, frames):
            clip[place] = frame
        return torch.from_numpy(np.stack(clip))

    def _by_number(self, seconds: float, offsets: Sequence[int], rate: float | None) -> torch.Tensor:
        """As `read`, where the order of the frames is only known once all packets are."""
        with VideoReader(self.path, errors=self.errors) as reader:
            own_rate, count = reader.fps or 25.0, reader.num_frames
            at = self._place(seconds, own_rate, count / own_rate)
            wanted = [max(at + offset / (rate or own_rate), 0.0) for offset in offsets]
            return reader.read([min(int(time * own_rate + 0.5), count - 1) for time in wanted])

    def _place(self, seconds: float, rate: float, length: float | None) -> float:
        """The key frame's time from the first frame; one beyond the ends of the movie is an error."""
        at = seconds - self.starts_at
        if at < -0.5 / rate or (length is not None and at > length + 0.5 / rate):
            ends = "" if length is None else f" to {self.starts_at + length:g}"
            raise VideoReadError(
                f"{self.path}: the key frame at {seconds:g} s lies outside the video, which holds seconds "
                f"{self.starts_at:g}{ends}; does the file start at another second (starts_at)?"
            )
        return at


class _open:
    """`with _open(path) as (container, stream)`, with errors that name the file, and never a list of other files."""

    def __init__(self, path: Path):
        self.path = path

    def __enter__(self):
        # One thread: loaders run many processes.
        self.container, stream = open_container(str(self.path), str(self.path), Limits(), threads=1)
        return self.container, stream

    def __exit__(self, *error):
        self.container.close()


def _length(container, stream) -> float | None:
    """Seconds from the first to the last frame by the container's word, or None where it says nothing."""
    if stream.duration:
        return float(stream.duration * stream.time_base)
    return container.duration / av.time_base if container.duration else None


def _nearest(
    path: Path, container, stream, wanted: list[float], *, least: float, length: float | None, errors: str
) -> list[np.ndarray]:
    """RGB arrays of the frames nearest to the sorted times, seconds from the first frame.

    Pictures up to the time `least`, that of the key frame, must come out, also of a damaged file with errors="truncate".
    """
    origin = float((stream.start_time or 0) * stream.time_base)
    margin = 0.0
    while True:  # some containers land behind the place that was asked for: come from further back then
        target = wanted[0] + origin - margin
        walk = _Walk(wanted, from_start=target <= origin)
        damage = None
        try:
            container.seek(max(int(target / stream.time_base), stream.start_time or 0), stream=stream)
            walk.along(container, stream, origin)
        except DECODER_ERRORS as error:
            damage = f"cannot be decoded around {wanted[0]:.2f} s: {error}"
        ended = None if walk.last is None or walk.complete else walk.last
        if (
            damage is None
            and ended is not None
            and length is not None
            and ended < min(wanted[-1], length) - CUT_OFF_SECONDS
        ):
            damage = f"ends at {ended:.2f} s and declares {length:.2f} s; it is cut off, or made of several recordings"
        if damage and (errors == "strict" or walk.last is None):
            raise VideoReadError(f"{path} {damage}")
        if ended is not None and ended < least:
            raise VideoReadError(f"{path} ends at {ended:.2f} s, before the key frame")
        if walk.last is not None:
            return walk.frames()
        if target <= origin:
            raise VideoReadError(f"{path} has no frame around {wanted[0]:.2f} s")
        margin = margin * 4 + 2.0


class _Walk:
    """Decodes on from a place and takes the nearest frame for each of the sorted times.

    `last` is the time of the last frame that was seen; None if there was none, or if the first came too late.
    """

    def __init__(self, wanted: list[float], *, from_start: bool):
        self._wanted, self._from_start = wanted, from_start
        self._taken: list[np.ndarray] = []
        self._before: Any = None  # the frame of that time
        self._scaler = av.video.reformatter.VideoReformatter()
        self.last: float | None = None

    @property
    def complete(self) -> bool:
        return len(self._taken) == len(self._wanted)

    def along(self, container, stream, origin: float) -> None:
        for frame in to_the_end(container.decode(stream)):
            if frame.time is None:
                continue
            time = frame.time - origin
            if self.last is None and time > self._wanted[0] and not self._from_start:
                return
            while not self.complete and time >= (asked := self._wanted[len(self._taken)]):
                earlier = self.last is not None and asked - self.last < time - asked
                self._taken.append(self._rgb(self._before if earlier else frame))
            self._before, self.last = frame, time
            if self.complete:
                return

    def frames(self) -> list[np.ndarray]:
        """One for each time; the last frame again for those behind it."""
        missing = len(self._wanted) - len(self._taken)
        return self._taken + ([self._rgb(self._before)] * missing if missing else [])

    def _rgb(self, frame: "av.VideoFrame") -> np.ndarray:
        return np.ascontiguousarray(upright_rgb(frame, *upright_size(frame), self._scaler))


@dataclass(frozen=True)
class SecondFiles:
    """A folder with one short file per second; the key frame of a second is the first frame of its file."""

    folder: Path
    files: dict[int, Path]
    errors: str = "strict"

    def read(self, seconds: float, offsets: Sequence[int], rate: float | None = None) -> torch.Tensor:
        """As `Movie.read`; `rate` is ignored, since the files were cut at a rate of their own."""
        second = int(seconds)
        if second not in self.files:
            raise VideoReadError(f"{self.folder} has no file for second {second}; it holds {_range(self.files)}")
        places: list[tuple[int, int]] = []  # (second, frame of its file) of each offset
        for offset in offsets:
            at, frame = second, int(offset)
            while frame < 0 and at - 1 in self.files:
                at -= 1
                frame += _count(self.files[at], self.errors)
            while frame >= _count(self.files[at], self.errors) and at + 1 in self.files:
                frame -= _count(self.files[at], self.errors)
                at += 1
            places.append((at, min(max(frame, 0), _count(self.files[at], self.errors) - 1)))
        clip: dict[int, torch.Tensor] = {}
        for at in dict.fromkeys(place[0] for place in places):
            rows = [row for row, place in enumerate(places) if place[0] == at]
            indices = [places[row][1] for row in rows]
            for row, frame in zip(rows, read_frames(self.files[at], indices, errors=self.errors)):
                clip[row] = frame
        return torch.stack([clip[row] for row in range(len(places))])


@lru_cache(maxsize=4096)
def _count(path: Path, errors: str) -> int:
    return probe(path, errors=errors).num_frames


@dataclass(frozen=True)
class FrameFolder:
    """A folder of numbered pictures at `rate` frames a second; `starts_at` is the second of the first one."""

    folder: Path
    files: list[Path]
    starts_at: float = CUT_STARTS_AT
    rate: float = FRAME_FOLDER_RATE

    def read(self, seconds: float, offsets: Sequence[int], rate: float | None = None) -> torch.Tensor:
        """As `Movie.read`."""
        key = round((seconds - self.starts_at) * self.rate)
        if not 0 <= key < len(self.files):
            raise VideoReadError(
                f"{self.folder}: the key frame at {seconds:g} s would be picture {key + 1} of {len(self.files)}; are they "
                f"{self.rate:g} a second from {self.starts_at:g} s on?"
            )
        scale = self.rate / rate if rate else 1.0
        wanted = [min(max(key + round(offset * scale), 0), len(self.files) - 1) for offset in offsets]
        pictures = {}
        for index in set(wanted):
            try:
                with Image.open(self.files[index]) as picture:
                    pictures[index] = np.asarray(picture.convert("RGB"))
            except OSError as error:
                raise VideoReadError(f"{self.files[index]} cannot be read: {error}") from None
        return torch.from_numpy(np.stack([pictures[index] for index in wanted]))


class MovieFolder:
    """Finds the movie of a video id below a folder.

    `errors` is that of `Movie`. `starts_at`: the annotated second at which movies begin. None decides per movie: a Kinetics name says it; a file
    that ends before `last_seconds` is taken for a cut that starts at 900 s; others start at 0. Folders of frames
    start at 900 s with `frame_rate` pictures a second.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        *,
        starts_at: float | None = None,
        frame_rate: float = FRAME_FOLDER_RATE,
        errors: str = "strict",
    ):
        self.folder, self.starts_at, self.frame_rate, self.errors = Path(folder), starts_at, frame_rate, errors
        if not self.folder.is_dir():
            raise FileNotFoundError(f"{self.folder} is not a folder; name the one with the movies")
        self._by_id: dict[str, Path] = {}
        for path in sorted(self.folder.iterdir()):
            if path.is_dir():
                self._by_id.setdefault(path.name, path)
            elif path.suffix.lower() in VIDEO_SUFFIXES:
                self._by_id[path.stem] = path
                if match := _KINETICS_NAME.fullmatch(path.stem):
                    self._by_id.setdefault(match[1], path)

    def find(self, video_id: str, *, last_seconds: float = 0.0) -> Movie | SecondFiles | FrameFolder | None:
        """The movie, or None where the folder has none. An id may be a path of its own, as in mmaction2's lists."""
        path = self._by_id.get(video_id) or (Path(video_id) if os.sep in video_id and Path(video_id).exists() else None)
        if path is None:
            return None
        if path.is_dir():
            return self._from_folder(path)
        if self.starts_at is not None:
            return Movie(path, self.starts_at, self.errors)
        if match := _KINETICS_NAME.fullmatch(path.stem):
            return Movie(path, float(match[2]), self.errors)
        with _open(path) as (container, stream):
            length = _length(container, stream)
            if container.format.name == "mpeg":
                length = probe(path, errors=self.errors).duration_seconds
        is_cut = length is not None and length < last_seconds and 0 <= last_seconds - CUT_STARTS_AT <= length
        return Movie(path, CUT_STARTS_AT if is_cut else 0.0, self.errors)

    def _from_folder(self, path: Path) -> SecondFiles | FrameFolder | None:
        entries = sorted(path.iterdir())
        seconds = {
            int(entry.stem): entry
            for entry in entries
            if entry.suffix.lower() in VIDEO_SUFFIXES and entry.stem.isdigit()
        }
        if seconds:
            return SecondFiles(path, seconds, self.errors)
        pictures = [entry for entry in entries if entry.suffix.lower() in IMAGE_SUFFIXES]
        if not pictures:
            return None
        pictures.sort(key=_number_in)
        starts_at = CUT_STARTS_AT if self.starts_at is None else self.starts_at
        return FrameFolder(path, pictures, starts_at=starts_at, rate=self.frame_rate)


def _number_in(path: Path) -> tuple[int, str]:
    """The last number in a file name, as frames are numbered with and without leading zeros."""
    numbers = re.findall(r"\d+", path.stem)
    return (int(numbers[-1]) if numbers else -1, path.name)


def _range(files: dict[int, Path]) -> str:
    return f"{min(files)} to {max(files)}"
