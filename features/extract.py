"""Features of videos from a frozen model: `videomae features MODEL DATA OUTPUT`.

Every video becomes one array: a vector per window, a vector per video, or all tokens. Each frame is decoded once. Videos
are divided among the processes of a launch. Videos whose features OUTPUT holds are skipped, so the same command resumes;
batches do not depend on processes, so it writes the same files however often it was interrupted.

Exit codes: 0 every video has its features; 1 some videos could not be read (they are listed, the others are there);
2 nothing was done, because the model, the data or an option is wrong.
"""

import json
import math
import os
import queue
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from tqdm.auto import tqdm

from videomae.choices import REFERENCE_STRIDES
from videomae.data.lists.manifests import Manifest
from videomae.data.sources import VIDEO_SUFFIXES, FrameFolder, Source, TarMember
from videomae.data.stretches import Stretch, named, parsed, times_in_a_file_name
from videomae.features.clips import (
    Clip,
    FeatureEncoder,
    Length,
    Pixels,
    PolicyClips,
    ReferencePixels,
    SlidingWindows,
    VideoFacts,
    model_pixels,
    stacked,
)
from videomae.features.files import RowFile
from videomae.files import is_leftover, remove_leftovers, sha256_of, today, write_atomic, write_json
from videomae.training.engines import share
from videomae.training.runs import versions
from videomae.video_io import VideoReadError

FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that decides about the content of a feature file, but the weights and the video."""

    level: str
    clips: SlidingWindows | PolicyClips
    pixels: Pixels | ReferencePixels
    batch_size: int = 8
    save_as: str = "npy"
    save_dtype: str = "float32"
    fps: float | None = None  # of folders of images
    reference: str | None = None
    errors: str = "strict"

    def identity(self, encoder: FeatureEncoder) -> dict[str, Any]:
        """What must be the same for files to lie in one folder."""
        identity = {
            "format": FORMAT,
            "level": self.level,
            "reference": self.reference,
            "clips": self.clips.describe(),
            "batch_size": self.batch_size,
            "save_as": self.save_as,
            "save_dtype": self.save_dtype,
            "fps_of_frame_folders": self.fps,
            **encoder.describe(self.pixels),
        }
        if self.errors != "strict":  # of the same files, more may be read
            identity["errors"] = self.errors
        return json.loads(json.dumps(identity))


def plan_of(
    encoder: FeatureEncoder,
    *,
    level: str | None = None,
    window: str | None = None,
    stride: str | None = None,
    partial: str | None = None,
    clips: int | None = None,
    squash: bool = False,
    reference: str | None = None,
    **files: Any,
) -> tuple[Plan, list[str]]:
    """The plan that options of `videomae features` ask for, and notes on it; options that contradict are errors.

    files: batch_size, save_as, save_dtype and fps, as `Plan` has them.
    """
    if reference:
        given = dict(level=level, window=window, stride=stride, partial=partial, clips=clips, squash=squash)
        return _reference_plan(encoder, reference, [f"--{name}" for name, value in given.items() if value], files), []
    pixels, sampling, notes = model_pixels(encoder.name, encoder.config, squash=squash)
    level = level or "window"
    sliding = window or stride or partial
    if clips and sliding:
        raise ValueError("--clips takes the clips of the model's test, --window and --stride slide; choose one")
    if clips or (level != "window" and not sliding):
        return Plan(level=level, clips=PolicyClips(sampling=sampling, clips=clips), pixels=pixels, **files), notes
    length = Length.parse(window) if window else Length(sampling.num_frames * sampling.stride_frames)
    half = max(length.amount // 2, 1) if length.unit == "frames" else length.amount / 2
    step = Length.parse(stride) if stride else Length(half, length.unit)
    if length.unit == "frames" and length.amount < sampling.num_frames:
        raise ValueError(f"--window {length} is shorter than the {sampling.num_frames} frames that the model sees")
    windows = SlidingWindows(window=length, stride=step, partial=partial or "repeat_last")
    return Plan(level=level, clips=windows, pixels=pixels, **files), notes


def _reference_plan(encoder: FeatureEncoder, reference: str, given: list[str], files: dict[str, Any]) -> Plan:
    if encoder.dtype != "float32":
        given = [*given, "--dtype"]
    if given:
        raise ValueError(f"--reference {reference} fixes how features are made; leave out {', '.join(given)}")
    if encoder.norm is None:
        raise ValueError(
            f"--reference takes fc_norm of the mean token, and {encoder.name} has no fc_norm; give a fine-tuned "
            "classifier or a V2 feature model"
        )
    frames = Length(encoder.config.num_frames)
    windows = SlidingWindows(window=frames, stride=Length(REFERENCE_STRIDES[reference]), partial="drop")
    pixels = ReferencePixels(*encoder.config.image_hw)
    return Plan(level="window", clips=windows, pixels=pixels, reference=reference, **files)


# -------------------------------------------------------------------------------------------------- what to read


@dataclass(frozen=True)
class Entry:
    """One video: what to open, what the data calls it, and what its files are called."""

    source: Source
    path: str
    name: str


def entries_of(manifest: Manifest) -> list[Entry]:
    """Every video of the data once, in its order; a video that a list names twice is one video.

    A file is called after its video, without the suffix; where that would name two alike, with it, and for stretches
    of one folder of frames, with their frames, of one file with their times.
    """
    videos: dict[tuple, tuple[Source, str]] = {}
    for index in range(len(manifest)):
        source, path = manifest.source(index), _writable(manifest.path(index))
        stretch = (source.first, source.count) if isinstance(source, FrameFolder) else ()
        videos.setdefault((path, *stretch), (source, path))
    files = {path: parsed(path)[0] if isinstance(source, Stretch) else path for source, path in videos.values()}
    counts: Counter[str] = Counter(_without_suffix(file) for file in set(files.values()))
    paths = Counter(path for _, path in videos.values())
    entries = []
    for source, path in videos.values():
        name = _without_suffix(files[path]) if counts[_without_suffix(files[path])] == 1 else files[path]
        if isinstance(source, Stretch):
            name += times_in_a_file_name(source.start_seconds, source.end_seconds)
        if paths[path] > 1 and isinstance(source, FrameFolder):
            name = f"{path}.{source.first}-{source.first + source.count - 1}"
        entries.append(Entry(source, path, name))
    if len({entry.name for entry in entries}) < len(entries):
        raise ValueError(f"{manifest.origin} names videos so alike that their features would overwrite each other")
    return entries


def _writable(path: str) -> str:
    """The path as text that any file system and JSON can hold."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _without_suffix(path: str) -> str:
    """Relative, without the suffix of a video; an absolute path loses its root."""
    plain = Path(os.path.normpath(path))
    plain = plain.relative_to(plain.anchor)
    return (plain.with_suffix("") if plain.suffix.lower() in VIDEO_SUFFIXES else plain).as_posix()


def stamp_of(source: Source) -> dict[str, Any] | None:
    """What shows whether a source has changed; None where it cannot be found."""
    if isinstance(source, Stretch):
        whole = stamp_of(source.source)
        return whole and {**whole, "stretch": named("", source.start_seconds, source.end_seconds)}
    if isinstance(source, (dict, bytes)):  # of a table
        return None
    path = (
        source.shard if isinstance(source, TarMember) else source.folder if isinstance(source, FrameFolder) else source
    )
    try:
        status = os.stat(path)
    except OSError:
        return None
    stamp = {"bytes": status.st_size, "modified_ns": status.st_mtime_ns}
    if isinstance(source, TarMember):
        return {**stamp, "bytes": source.size, "offset": source.offset}
    if isinstance(source, FrameFolder):
        return {"modified_ns": status.st_mtime_ns, "first": source.first, "count": source.count}
    return stamp


def _times(source: Source) -> dict[str, float | None]:
    """Where a stretch lies in its file, for the record of its features; they count from its start."""
    if not isinstance(source, Stretch):
        return {}
    return {
        "start_seconds": source.start_seconds,
        "end_seconds": None if math.isinf(source.end_seconds) else source.end_seconds,
    }


# ------------------------------------------------------------------------------------------------------- reading


class Batch(NamedTuple):
    """Clips that go through the model together; entries[i] is the video of clips[i]."""

    entries: list[Entry]
    clips: list[Clip]
    frames: torch.Tensor  # (B, T, C, H, W)


class Finished(NamedTuple):
    entry: Entry
    facts: VideoFacts


class Broken(NamedTuple):
    entry: Entry
    error: str


def read_unit(unit: list[Entry], plan: Plan, num_frames: int, threads: int = 1) -> Iterator[Batch | Finished | Broken]:
    """The clips of some videos in batches, each video in order, and then for each whether it could be read."""
    waiting: list[tuple[Entry, Clip]] = []
    ends: list[Finished | Broken] = []

    def batch() -> Batch:
        entries, clips = map(list, zip(*waiting))
        waiting.clear()
        return Batch(entries, clips, stacked(clips))

    for entry in unit:
        try:
            facts, clips = plan.clips.read(entry.source, num_frames, plan.pixels, plan.fps, threads, plan.errors)
            for clip in clips:
                waiting.append((entry, clip))
                if len(waiting) == plan.batch_size:
                    yield batch()
            ends.append(Finished(entry, facts))
        except (VideoReadError, OSError) as error:
            waiting[:] = [pair for pair in waiting if pair[0] is not entry]
            ends.append(Broken(entry, str(error)))
    if waiting:
        yield batch()
    yield from ends


def units_of(entries: list[Entry], plan: Plan) -> list[list[Entry]]:
    """Videos that share batches: each by itself with sliding windows, else neighbours; never by processes."""
    size = 1 if isinstance(plan.clips, SlidingWindows) else max(plan.batch_size // plan.clips.count, 1)
    return [entries[first : first + size] for first in range(0, len(entries), size)]


def read_ahead(units: Iterable[Any], read: Callable[[Any], Iterator[Any]], workers: int) -> Generator[Any, None, None]:
    """`read` every unit, in `workers` threads (FFmpeg works without the interpreter's lock), a little ahead."""
    if not workers:
        for unit in units:
            yield from read(unit)
        return
    source, lock, stop = iter(units), threading.Lock(), threading.Event()
    ready: queue.Queue = queue.Queue(maxsize=2 * workers)

    def put(item: tuple[str, Any]) -> None:
        while not stop.is_set():
            try:
                return ready.put(item, timeout=0.1)
            except queue.Full:
                continue

    def work() -> None:
        try:
            while not stop.is_set():
                with lock:
                    unit = next(source, None)
                if unit is None:
                    break
                for event in read(unit):
                    put(("event", event))
                    if stop.is_set():
                        return
            put(("end", None))
        except BaseException as error:
            put(("error", error))

    threads = [threading.Thread(target=work, daemon=True) for _ in range(workers)]
    for thread in threads:
        thread.start()
    try:
        ended = 0
        while ended < workers:
            kind, item = ready.get()
            if kind == "error":
                raise item
            if kind == "end":
                ended += 1
            else:
                yield item
    finally:
        stop.set()
        for thread in threads:
            thread.join()


# ------------------------------------------------------------------------------------------------- what is done


class FeatureFolder:
    """OUTPUT: `features/NAME.npy` and, of each, `index/NAME.json`; `manifest.json` holds the identity and lists the files."""

    def __init__(self, path: str | os.PathLike, save_as: str):
        self.path, self.save_as = Path(path), save_as
        self.manifest = self.path / "manifest.json"

    def features(self, entry: Entry) -> Path:
        return self.path / "features" / f"{entry.name}.{self.save_as}"

    def index(self, entry: Entry) -> Path:
        return self.path / "index" / f"{entry.name}.json"

    def is_done(self, entry: Entry) -> bool:
        """Whether its features are there and the source has not changed since."""
        try:
            record = json.loads(self.index(entry).read_text("utf-8"))
        except (OSError, ValueError):
            return False
        known = isinstance(record, dict) and "source" in record
        return known and record["source"] == stamp_of(entry.source) and self.features(entry).is_file()

    def forget(self, entry: Entry) -> None:
        """Delete what is stored under its name: the source has changed since."""
        self.index(entry).unlink(missing_ok=True)
        self.features(entry).unlink(missing_ok=True)

    def claim(self, identity: dict[str, Any], *, overwrite: bool) -> None:
        """Create the folder for this identity, or validate that it was created for the same one."""
        if overwrite:
            for name in ("features", "index"):
                shutil.rmtree(self.path / name, ignore_errors=True)
            self.manifest.unlink(missing_ok=True)
        if self.manifest.is_file():
            try:
                before = dict(json.loads(self.manifest.read_text("utf-8")).get("identity", {}))
            except (ValueError, TypeError, AttributeError, RecursionError):
                raise ValueError(f"{self.manifest} is damaged; give another OUTPUT, or --overwrite") from None
            if changes := differing(before, identity):
                raise ValueError(
                    f"{self.path} holds other features ({'; '.join(changes)}); give another OUTPUT, or --overwrite"
                )
        else:
            if self.path.is_dir() and not all(map(is_leftover, os.listdir(self.path))):
                raise ValueError(f"{self.path} is not empty and holds no features (manifest.json); give another OUTPUT")
            write_json(self.manifest, {"complete": False, "identity": identity, "videos": [], "broken": []})
        remove_leftovers(self.path)

    def records(self) -> list[dict[str, Any]]:
        """One record of each video whose features are stored here; the places of its windows stay in its index."""
        records = []
        for path in sorted((self.path / "index").rglob("*.json")):
            record = json.loads(path.read_text("utf-8"))
            record = {name: value for name, value in record.items() if name not in ("windows", "source")}
            records.append({**record, "index": path.relative_to(self.path).as_posix()})
        return records


def differing(before: dict[str, Any], now: dict[str, Any], prefix: str = "") -> list[str]:
    """`name: old, now new` for every field that is not the same, by its path."""
    changes = []
    for name in sorted({*before, *now}):
        old, new = before.get(name), now.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            changes += differing(old, new, f"{prefix}{name}.")
        elif old != new:
            changes.append(f"{prefix}{name}: {old!r}, now {new!r}")
    return changes


class VideoFeatures:
    """Collects what is kept of one video, and writes it with its index."""

    def __init__(self, folder: FeatureFolder, entry: Entry, plan: Plan, encoder: FeatureEncoder):
        self.folder, self.entry, self.plan = folder, entry, plan
        about = {"path": entry.path, "level": plan.level, "weights_sha256": encoder.weights_sha256}
        single = plan.level == "video"
        self.file = RowFile(folder.features(entry), plan.save_dtype, single=single, metadata=about)
        self.sum: np.ndarray | None = None
        self.windows: dict[str, list] = {name: [] for name in Clip._fields if name != "frames"}

    def add(self, clip: Clip, vector: np.ndarray, tokens: np.ndarray | None) -> None:
        for name, places in self.windows.items():
            value = getattr(clip, name)
            places.append(round(value, 6) if isinstance(value, float) else value)
        if self.plan.level == "video":
            self.sum = vector.astype(np.float64) + (0.0 if self.sum is None else self.sum)
        else:
            self.file.add(vector if tokens is None else tokens)

    def close(self, facts: VideoFacts) -> None:
        if self.sum is not None:
            self.file.add(self.sum / len(self.windows["first_frame"]))
        self.file.close()
        record = {
            "path": self.entry.path,
            **_times(self.entry.source),
            "file": self.file.path.relative_to(self.folder.path).as_posix(),
            "shape": self.file.shape,
            "sha256": sha256_of(self.file.path),
            "frames": facts.num_frames,
            "fps": facts.fps,
            **({"truncated": True} if facts.truncated else {}),
            "source": stamp_of(self.entry.source),
            "windows": self.windows,
        }
        write_atomic(self.folder.index(self.entry), json.dumps(record, ensure_ascii=False) + "\n")


# -------------------------------------------------------------------------------------------------- the main job


def extract(
    encoder: FeatureEncoder,
    manifest: Manifest,
    plan: Plan,
    output: str | os.PathLike,
    *,
    num_workers: int = 0,
    threads: int = 1,
    overwrite: bool = False,
    quiet: bool = False,
) -> dict[str, Any]:
    """Features of every video of `manifest` that OUTPUT does not hold yet; all processes of a launch call this together.

    Returns what OUTPUT/manifest.json holds: "videos" with their files, "broken" with the error of each that could
    not be read, and "truncated" with those that were read up to their damage. num_workers: threads that read ahead of the model; threads: of FFmpeg, for each of them.
    """
    state, folder = PartialState(), FeatureFolder(output, plan.save_as)
    identity, entries = plan.identity(encoder), entries_of(manifest)
    share(state, lambda: folder.claim(identity, overwrite=overwrite))
    done = {entry.name for entry in entries if folder.is_done(entry)}
    state.wait_for_everyone()  # nobody adds files before all have seen the same ones
    units = [unit for unit in units_of(entries, plan) if not all(entry.name in done for entry in unit)]
    # The largest first, so that no process is left with a long video at the end.
    units.sort(key=lambda unit: sum((stamp_of(entry.source) or {}).get("bytes", 0) for entry in unit), reverse=True)
    mine = units[state.process_index :: state.num_processes]

    def read(unit: list[Entry]) -> Iterator[Batch | Finished | Broken]:
        return read_unit(unit, plan, encoder.config.num_frames, threads)

    broken: list[dict[str, str]] = []
    under_way: dict[str, VideoFeatures] = {}
    show = state.is_main_process and not quiet
    total = sum(entry.name not in done for unit in mine for entry in unit)
    events = read_ahead(mine, read, num_workers)
    try:
        with tqdm(total=total, unit="video", disable=not show, desc="features") as bar:
            for event in events:
                if isinstance(event, Batch):
                    _encode(event, encoder, plan, folder, under_way, done)
                elif event.entry.name not in done:
                    if isinstance(event, Broken):
                        broken.append({"path": event.entry.path, "error": event.error})
                        if begun := under_way.pop(event.entry.name, None):
                            begun.file.abort()
                        folder.forget(event.entry)
                    else:
                        under_way.pop(event.entry.name).close(event.facts)
                    bar.update()
    finally:
        events.close()
        for begun in under_way.values():
            begun.file.abort()
    broken = gather_object(broken)
    state.wait_for_everyone()
    result = {
        "complete": True,
        "identity": identity,
        "model": encoder.name,
        "data": manifest.origin,
        "date": today(),
        "versions": versions(),
        "device": str(encoder.device),
        "processes": state.num_processes,
        "videos": folder.records(),
        "broken": sorted(broken, key=lambda video: video["path"]),
    }
    result["truncated"] = [video["path"] for video in result["videos"] if video.get("truncated")]
    if state.is_main_process:
        unread = {video["path"] for video in broken}
        if lost := [entry.path for entry in entries if entry.path not in unread and not folder.is_done(entry)]:
            raise RuntimeError(
                f"{len(lost)} of {len(entries)} videos have no features, the first is {lost[0]}; all processes must "
                f"see the folder {output}"
            )
        write_json(folder.manifest, result)
    state.wait_for_everyone()
    return result


def _encode(
    batch: Batch,
    encoder: FeatureEncoder,
    plan: Plan,
    folder: FeatureFolder,
    under_way: dict[str, VideoFeatures],
    done: set[str],
) -> None:
    """Run a batch through the model and hand every clip's part to its video."""
    pixel_values = plan.pixels.values(batch.frames.to(encoder.device, non_blocking=True))
    vectors, tokens = encoder(pixel_values)
    vectors = vectors.cpu().numpy()
    token_rows = None
    if plan.level == "token":
        token_rows = tokens.to(getattr(torch, plan.save_dtype)).cpu().numpy()
    for row, (entry, clip) in enumerate(zip(batch.entries, batch.clips)):
        if not np.isfinite(vectors[row]).all():
            raise ValueError(
                f"{entry.path}: the features of frames {clip.first_frame} to {clip.last_frame} are not finite in "
                f"{encoder.dtype}; use --dtype float32, or check the weights with `videomae doctor`"
            )
        if entry.name in done:
            continue
        if entry.name not in under_way:
            under_way[entry.name] = VideoFeatures(folder, entry, plan, encoder)
        under_way[entry.name].add(clip, vectors[row], None if token_rows is None else token_rows[row])


def report_lines(result: dict[str, Any], output: str) -> Iterator[str]:
    """The summary for a terminal."""
    videos, identity = result["videos"], result["identity"]
    shapes = Counter(
        tuple(record["shape"][1:] if identity["level"] != "video" else record["shape"]) for record in videos
    )
    rows = sum(record["shape"][0] for record in videos) if identity["level"] != "video" else len(videos)
    sizes = ", ".join(" x ".join(map(str, shape)) for shape in shapes)
    yield f"{output}: {len(videos)} videos, {rows} rows of {sizes or 'nothing'} ({identity['pooling']})"
    for video in result["broken"]:
        yield f"  not read: {video['path']}: {video['error']}"
    for path in result.get("truncated", []):
        yield f"  cut off or damaged, read as far as it goes: {path}"
