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

import av
import av.error
import numpy as np
import torch
from PIL import Image

from videomae.video_io import UNTIMED_DEMUXERS, VideoReader, VideoReadError, probe, read_frames
from videomae.video_source import Limits, open_container

VIDEO_SUFFIXES = (".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v", ".mpg", ".mpeg", ".ts")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
CUT_STARTS_AT = 900.0  # AVA annotates minutes 15 to 30; cuts of just these begin here
FRAME_FOLDER_RATE = 30.0  # the rate at which SlowFast and mmaction2 extract frames
_KINETICS_NAME = re.compile(r"(.+)_(\d{6})_(\d{6})")


@dataclass(frozen=True)
class Movie:
    """One video file; `starts_at` is the annotated second of its first frame."""

    path: Path
    starts_at: float = 0.0

    def read(self, seconds: float, offsets: Sequence[int], rate: float | None = None) -> torch.Tensor:
        """Frames at `offsets` from the key frame at `seconds`: uint8 (T, H, W, 3).

        `rate` is frames a second of the offsets: the nearest frame of the movie is taken for each. None counts the
        movie's own frames. Offsets beyond its ends repeat the first or last frame; a key frame beyond them is an error.
        """
        with _open(self.path) as (container, stream):
            own_rate = float(stream.average_rate or stream.guessed_rate or 25)
            at = seconds - self.starts_at
            length = _length(container, stream)
            if at < -0.5 / own_rate or (length is not None and at > length + 0.5 / own_rate):
                ends = "" if length is None else f" to {self.starts_at + length:g}"
                raise VideoReadError(
                    f"{self.path}: the key frame at {seconds:g} s lies outside the video, which holds seconds "
                    f"{self.starts_at:g}{ends}; does the file start at another second (starts_at)?"
                )
            wanted = [max(at + offset / (rate or own_rate), 0.0) for offset in offsets]
            untimed = container.format.name in UNTIMED_DEMUXERS
            order = sorted(range(len(wanted)), key=wanted.__getitem__)
            frames = [] if untimed else _nearest(self.path, container, stream, [wanted[place] for place in order])
        if untimed:  # AVI: the order in which frames are shown is only known once all packets are
            with VideoReader(self.path) as reader:
                last = reader.info.num_frames - 1
                return reader.read([min(int(time * own_rate + 0.5), last) for time in wanted])
        clip = [frames[0]] * len(wanted)
        for place, frame in zip(order, frames):
            clip[place] = frame
        return torch.from_numpy(np.stack(clip))


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


def _nearest(path: Path, container, stream, wanted: list[float]) -> list[np.ndarray]:
    """RGB arrays of the frames nearest to the sorted times, seconds from the first frame."""
    origin = float((stream.start_time or 0) * stream.time_base)
    margin = 0.0
    while True:  # some containers land behind the place that was asked for: come from further back then
        target = wanted[0] + origin - margin
        try:
            container.seek(max(int(target / stream.time_base), stream.start_time or 0), stream=stream)
            frames = _walk(container, stream, origin, wanted, from_start=target <= origin)
        except (av.error.FFmpegError, OSError) as error:
            raise VideoReadError(f"{path} cannot be decoded around {wanted[0]:.2f} s: {error}") from None
        if frames is not None:
            return frames
        if target <= origin:
            raise VideoReadError(f"{path} has no frame around {wanted[0]:.2f} s")
        margin = margin * 4 + 2.0


def _walk(container, stream, origin: float, wanted: list[float], *, from_start: bool) -> list[np.ndarray] | None:
    """Decode on from here and take the nearest frame for each time; None if decoding began too late for the first."""
    taken: list[np.ndarray] = []
    before = None  # (time, frame) of the picture before
    for frame in container.decode(stream):
        if frame.time is None:
            continue
        time = frame.time - origin
        if before is None and time > wanted[0] and not from_start:
            return None
        while len(taken) < len(wanted) and time >= wanted[len(taken)]:
            nearer = before if before and wanted[len(taken)] - before[0] < time - wanted[len(taken)] else (time, frame)
            taken.append(_rgb(nearer[1]))
        if len(taken) == len(wanted):
            return taken
        before = (time, frame)
    if before is None:
        return None
    return taken + [_rgb(before[1])] * (len(wanted) - len(taken))


def _rgb(frame: "av.VideoFrame") -> np.ndarray:
    picture = frame.to_ndarray(format="rgb24")
    turns = frame.rotation // 90 % 4  # phones store sideways
    return np.ascontiguousarray(np.rot90(picture, turns)) if turns else picture


@dataclass(frozen=True)
class SecondFiles:
    """A folder with one short file per second; the key frame of a second is the first frame of its file."""

    folder: Path
    files: dict[int, Path]

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
                frame += _count(self.files[at])
            while frame >= _count(self.files[at]) and at + 1 in self.files:
                frame -= _count(self.files[at])
                at += 1
            places.append((at, min(max(frame, 0), _count(self.files[at]) - 1)))
        clip: dict[int, torch.Tensor] = {}
        for at in dict.fromkeys(place[0] for place in places):
            rows = [row for row, place in enumerate(places) if place[0] == at]
            for row, frame in zip(rows, read_frames(self.files[at], [places[row][1] for row in rows])):
                clip[row] = frame
        return torch.stack([clip[row] for row in range(len(places))])


@lru_cache(maxsize=4096)
def _count(path: Path) -> int:
    return probe(path).num_frames


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

    `starts_at`: the annotated second at which movies begin. None decides per movie: a Kinetics name says it; a file
    that ends before `last_seconds` is taken for a cut that starts at 900 s; others start at 0. Folders of frames
    start at 900 s with `frame_rate` pictures a second.
    """

    def __init__(
        self, folder: str | os.PathLike, *, starts_at: float | None = None, frame_rate: float = FRAME_FOLDER_RATE
    ):
        self.folder, self.starts_at, self.frame_rate = Path(folder), starts_at, frame_rate
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
            return Movie(path, self.starts_at)
        if match := _KINETICS_NAME.fullmatch(path.stem):
            return Movie(path, float(match[2]))
        with _open(path) as (container, stream):
            length = _length(container, stream)
        is_cut = length is not None and length < last_seconds and 0 <= last_seconds - CUT_STARTS_AT <= length
        return Movie(path, CUT_STARTS_AT if is_cut else 0.0)

    def _from_folder(self, path: Path) -> SecondFiles | FrameFolder | None:
        entries = sorted(path.iterdir())
        seconds = {
            int(entry.stem): entry
            for entry in entries
            if entry.suffix.lower() in VIDEO_SUFFIXES and entry.stem.isdigit()
        }
        if seconds:
            return SecondFiles(path, seconds)
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
