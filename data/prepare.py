"""Re-encode a data set once, so that training reads it several times faster: smaller frames, short distances to seek.

    videomae prepare train.csv prepared/train                 # tar shards with an index
    videomae prepare train.csv prepared/train --format folder # one file a video, and a list
    videomae prepare train.csv prepared/train --num_workers 16    # run again after a crash: it resumes

Frames keep their number and order, so samples are those of the originals up to the loss of the second compression. The
default was chosen by measurement (`python -m benchmarks data_loading --codecs`): H.264 made to be decoded, with a key
frame every 48 frames and, between two frames that others refer to, seven that none does. Broken videos are left out and reported.
"""

import contextlib
import dataclasses
import hashlib
import json
import multiprocessing
import os
import threading
from concurrent.futures import ProcessPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from videomae.choices import PREPARED_FORMATS
from videomae.data.encoding import Recoding
from videomae.data.lists.manifests import Manifest
from videomae.data.lists.shards import FORMAT_VERSION, INDEX, write_shard
from videomae.data.sources import FrameFolder, Source, TarMember, open_clip, read_member
from videomae.data.stretches import Stretch, times_in_a_file_name
from videomae.files import check_output, remove_leftovers, sha256_of, write_atomic, write_json
from videomae.video_io import Limits, VideoReadError, iter_windows, probe

FRAME_FOLDER_FPS = 30.0  # images carry no rate; training does not look at it


def recode(source: Source, recoding: Recoding, errors: str = "strict") -> tuple[bytes, dict[str, Any]]:
    """One video as new bytes, and what is known of it. A bad source is a VideoReadError.

    With errors="truncate", one that is cut off or damaged becomes a whole video of the frames before.
    """
    if isinstance(source, TarMember):
        source = read_member(source)
    if isinstance(source, FrameFolder):
        with open_clip(source) as clip:
            count, fps = clip.num_frames, FRAME_FOLDER_FPS
            frames = (clip.read([i], short_side=recoding.short_side)[0].numpy() for i in range(count))
            video = recoding.encode(frames, fps)
    elif isinstance(source, Stretch):
        with open_clip(source, errors=errors) as clip:
            count, fps = clip.num_frames, clip.fps if 0 < clip.fps <= 1000 else FRAME_FOLDER_FPS
            video = recoding.encode(clip.one_by_one(range(count), short_side=recoding.short_side), fps)
    else:
        info = probe(source, errors=errors)
        count, fps = info.num_frames, info.fps if 0 < info.fps <= 1000 else FRAME_FOLDER_FPS
        windows = iter_windows(
            source,
            num_frames=1,
            stride_frames=1,
            hop_frames=1,
            short_side=recoding.short_side,
            errors=errors,
            limits=Limits(),
        )
        video = recoding.encode((window.frames[0] for window in windows), fps)
    recoded = probe(video)
    if errors == "truncate" and 0 < recoded.num_frames < count:
        count = recoded.num_frames
    if recoded.num_frames != count:
        raise VideoReadError(f"{count} frames became {recoded.num_frames}; the source cannot be re-encoded faithfully")
    facts = {"frames": count, "fps": float(Fraction(fps).limit_denominator(60060)), "width": recoded.width}
    return video, {**facts, "height": recoded.height, "source_sha256": hash_of(source)}


def hash_of(source: Source) -> str:
    """SHA-256 of what an entry holds, whatever it is called."""
    if isinstance(source, FrameFolder):
        digest = hashlib.sha256()
        for name in sorted(os.listdir(source.folder)):
            digest.update(name.encode("utf-8", "surrogateescape") + Path(source.folder, name).read_bytes())
        return digest.hexdigest()
    if isinstance(source, Stretch):
        whole = _hash_once(source.source) if isinstance(source.source, str) else hash_of(source.source)
        return hashlib.sha256(f"{whole} {source.start_seconds} {source.end_seconds}".encode()).hexdigest()
    held = read_member(source) if isinstance(source, TarMember) else source
    if isinstance(held, dict):
        held = held.get("bytes") or held["path"]
    return hashlib.sha256(held).hexdigest() if isinstance(held, bytes) else sha256_of(held)


def _hash_once(path: str) -> str:
    """`sha256_of` a long file, once for all its stretches."""
    with _hashing:
        status = os.stat(path)
        key = (path, status.st_size, status.st_mtime_ns)
        if key not in _hashes:
            _hashes[key] = sha256_of(path)
        return _hashes[key]


_hashing, _hashes = threading.Lock(), {}


def prepare(
    manifest: Manifest,
    output: str | os.PathLike,
    *,
    recoding: Recoding | None = None,
    format: str = "shards",
    videos_per_shard: int = 256,
    workers: int = 1,
    seed: int = 0,
    errors: str = "strict",
    progress: bool = True,
) -> dict[str, Any]:
    """Write the prepared set and return its report; an interrupted run is continued shard by shard.

    Videos are put into shards in an order shuffled by `seed`, so that a shard is a fair sample of the set. With
    format="folder" the videos lie in `videos/` under the names they had, listed in manifest.csv in their old order.
    """
    output, recoding = Path(output), recoding or Recoding()
    if format not in PREPARED_FORMATS:
        raise ValueError(f"format must be one of {', '.join(PREPARED_FORMATS)}, not {format!r}")
    if videos_per_shard < 1 or workers < 1:
        raise ValueError(f"videos_per_shard and workers must be at least 1, not {videos_per_shard} and {workers}")
    settings = {**dataclasses.asdict(recoding), "format": format, "videos_per_shard": videos_per_shard, "seed": seed}
    settings |= {"videos": len(manifest), "list_sha256": manifest.sha256(labels=True), "errors": errors}
    _claim(output, settings)
    names = _file_names(manifest) if format == "folder" else []
    order = np.random.default_rng(seed).permutation(len(manifest)) if format == "shards" else np.arange(len(manifest))
    groups = [order[first : first + videos_per_shard].tolist() for first in range(0, len(order), videos_per_shard)]
    parts = [f"shard-{number:05d}" for number in range(len(groups))]
    left = [(part, group) for part, group in zip(parts, groups) if not (output / f"{part}.json").exists()]
    done = len(manifest) - sum(len(group) for _, group in left)
    bar = tqdm(total=len(manifest), initial=done, unit="video", disable=None if progress else True)
    with bar, _pool(workers) as pool:
        for part, group in left:
            jobs = [(index, manifest.source(index), recoding, errors) for index in group]
            placed, broken = [], []
            results = pool.map(_recode_job, jobs) if pool else map(_recode_job, jobs)
            videos = []
            for index, video, facts in results:
                bar.update()
                record = {"index": index, "path": manifest.path(index), "label": _plain(manifest.label(index))}
                if video is None:
                    broken.append({**record, "error": facts})
                elif format == "shards":
                    videos.append(({**record, **facts}, video))
                else:
                    write_atomic(output / names[index], video)
                    placed.append({**record, **facts, "file": names[index], "size": len(video)})
            if videos:
                placed = write_shard(output / f"{part}.tar", videos)
            write_json(output / f"{part}.json", {"videos": placed, "broken": broken})
    return _finish(output, manifest, settings, parts)


def _pool(workers: int):
    if workers == 1:
        return contextlib.nullcontext()
    # Not by fork: the parent may hold threads of torch or a data set library.
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(workers, mp_context=context, initializer=_end_with_parent)


def _end_with_parent() -> None:
    """Let this worker end when the process that started it has been killed: it would wait for work forever."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _recode_job(job: tuple[int, Source, Recoding, str]) -> tuple[int, bytes | None, Any]:
    """(index, new bytes, facts), or (index, None, error)."""
    index, source, recoding, errors = job
    try:
        video, facts = recode(source, recoding, errors)
    except (VideoReadError, OSError) as error:
        return index, None, str(error)
    return index, video, facts


def _claim(output: Path, settings: dict[str, Any]) -> None:
    """Make the folder ours, or see that an earlier run with these very settings made it."""
    check_output(output, "output")
    path = output / "prepare.json"
    remove_leftovers(output)
    if path.exists():
        try:
            earlier = {"errors": "strict", **json.loads(path.read_text(encoding="utf-8"))}  # once there was no choice
        except (ValueError, TypeError, RecursionError):
            raise ValueError(f"{path} is damaged; choose another folder, or remove this one") from None
        differing = [name for name in settings if earlier.get(name) != settings[name]]
        if differing:
            name = differing[0]
            raise ValueError(
                f"{output} was prepared with {name}={earlier.get(name)!r}, not {settings[name]!r}; choose another folder"
            )
    elif output.exists() and any(output.iterdir()):
        raise FileExistsError(f"{output} is not empty and was not made by this command; choose another folder")
    write_json(path, settings)


def _file_names(manifest: Manifest) -> list[str]:
    """Where each video goes: its old path below videos/, as .mp4, with its number where two would collide."""
    names: list[str] = []
    seen: set[str] = set()
    for index in range(len(manifest)):
        parts = [part for part in Path(manifest.file(index)).parts if part not in ("..", ".", "/", os.sep)]
        stem = os.path.splitext("/".join(["videos", *parts[parts[:1] == ["videos"] :]]))[0]
        if stretch := manifest.stretch(index):
            stem += times_in_a_file_name(*stretch)
        name = f"{stem}.mp4" if f"{stem}.mp4" not in seen else f"{stem}_{index:08d}.mp4"
        seen.add(name)
        names.append(name)
    return names


def _plain(label: Any) -> Any:
    return label.tolist() if hasattr(label, "tolist") else label


def _finish(output: Path, manifest: Manifest, settings: dict[str, Any], parts: list[str]) -> dict[str, Any]:
    """Complete the set: the index or the list, and the report."""
    videos, broken, filled = [], [], []
    for part in parts:
        record = json.loads((output / f"{part}.json").read_text(encoding="utf-8"))
        videos += record["videos"]
        broken += record["broken"]
        filled += [part] if record["videos"] else []
    names = list(manifest.class_names) if manifest.class_names else None
    if names:
        write_atomic(output / "labels.txt", "".join(f"{name}\n" for name in names))
    report = {
        "videos": len(videos),
        "broken": broken,
        "frames": sum(video["frames"] for video in videos),
        "bytes": sum(video["size"] for video in videos),
    }
    write_json(output / "report.json", report)
    if settings["format"] == "shards":
        index = {"format": FORMAT_VERSION, "class_names": names, "settings": settings, "shards": filled}
        write_json(output / INDEX, index)
    else:
        rows = [
            {**{"path": video["file"], "label": names[video["label"]] if names and isinstance(video["label"], int) else video["label"]},
             **{name: video[name] for name in ("frames", "fps", "width", "height", "source_sha256")}, "source": video["path"]}
            for video in videos
        ]  # fmt: skip
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        write_atomic(output / "manifest.jsonl", lines)
    return report
