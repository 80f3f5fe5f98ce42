"""Look over a data set before training on it: counts, labels, broken and doubled videos, and how fast it can be read.

videomae check-data train.csv --test_data val.csv --model FOLDER
videomae check-data videos/ --videos_to_open all --output report.json
"""

import itertools
import math
import os
import random
import statistics
import time
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from tqdm import tqdm

from videomae.choices import MAX_LABELS
from videomae.data.collators import ClassificationCollator, PretrainCollator
from videomae.data.lists.label_names import class_columns, names_of
from videomae.data.lists.manifests import WHOLE, Manifest
from videomae.data.prepare import hash_of
from videomae.data.remote import is_url
from videomae.data.sources import Source, open_clip
from videomae.data.transforms import PretrainTransform, TrainTransform
from videomae.data.video_dataset import BrokenVideosError, VideoDataset
from videomae.sampling_videomae import ClipSampling
from videomae.video_io import Limits, VideoReadError

FEW_VIDEOS = 5  # a class with fewer is pointed out
SMALL_SET = 200  # videos that are all opened before a training: a few seconds


def refuse_broken(manifest: Manifest, *, max_broken: float, errors: str = "strict") -> None:
    """Open every video of a small set, its first, middle and last frame; too many that cannot be read are an error.

    A larger set is judged while it is read (`VideoDataset`), which may take hours to come to the same end.
    """
    if len(manifest) > SMALL_SET or is_url(manifest.root):
        return
    limits = Limits(decode_seconds=60.0)
    with ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as pool:
        found = list(pool.map(lambda index: probe_entry(manifest, index, limits, errors), range(len(manifest))))
    broken = [(manifest.path(index), result["error"]) for index, result in enumerate(found) if "error" in result]
    if len(broken) > max_broken * len(manifest):
        shown = "; ".join(f"{path} ({error})" for path, error in broken[:5])
        more = ", ".join(path for path, _ in broken[5:])
        raise BrokenVideosError(
            f"{len(broken)} of {len(manifest)} videos of {manifest.origin} cannot be read, above max_broken={max_broken:g}: "
            f"{shown}{f'; and {more}' if more else ''}. Remove them, raise --max_broken, or try --errors truncate"
        )


def probe_entry(manifest: Manifest, index: int, limits: Limits, errors: str = "strict") -> dict[str, Any]:
    """Decode the first, the middle and the last frame of an entry; what was found, or the error."""
    try:
        with open_clip(manifest.source(index), limits, errors=errors) as clip:
            last = clip.num_frames - 1
            frames = clip.read(sorted({0, last // 2, last}))
            found = {"frames": clip.num_frames, "height": frames.shape[1], "width": frames.shape[2]}
            return {**found, "truncated": True} if clip.truncated else found
    except (VideoReadError, OSError) as error:
        return {"error": str(error)}


def check(
    manifest: Manifest,
    *,
    test: Manifest | None = None,
    id2label: dict[int, str] | None = None,
    num_labels: int | None = None,
    probe: int | None = 200,
    sampling: ClipSampling | None = None,
    workers: int = 1,
    speed_samples: int = 20,
    errors: str = "strict",
    progress: bool = True,
) -> dict[str, Any]:
    """Everything found, as a dict that JSON can hold; `problems` and `notes` are sentences.

    probe: how many videos to open and decode in part, chosen at random by a fixed seed; None for all.
    """
    sampling = sampling or ClipSampling()
    report: dict[str, Any] = {"origin": manifest.origin, "videos": len(manifest), "problems": [], "notes": []}
    _check_labels(manifest, id2label, num_labels, report)
    if manifest.stretches is not None:
        report["stretches"] = _stretch_facts(manifest)
    _check_probes(manifest, probe, sampling, workers, report, progress, errors)
    if test is not None:
        _check_leaks(manifest, test, workers, report, progress)
    readable = [index for index in report.pop("probed") if index not in {b["index"] for b in report["broken"]}]
    if readable and speed_samples:
        report["speed"] = measure_speed(manifest, readable, sampling, speed_samples, errors)
    return report


def _check_labels(manifest: Manifest, id2label: Any, num_labels: int | None, report: dict[str, Any]) -> None:
    names = manifest.class_names
    if manifest.labels is None:
        report["notes"].append("no labels: fit for pre-training, not for a classifier")
        return
    try:
        manifest.check_labels(num_labels=num_labels)
    except ValueError as error:
        report["problems"].append(str(error))
        if names is None and int(manifest.labels.max()) >= MAX_LABELS:
            return  # nothing is counted by class
    if manifest.labels.dim() == 2:
        report["label_means"] = manifest.labels.mean(0).tolist()
        return
    counts = Counter(manifest.labels.tolist())
    known = range(manifest.num_labels or 0)
    report["classes"] = {(names[label] if names else str(label)): counts.get(label, 0) for label in known}
    empty = [name for name, count in report["classes"].items() if not count]
    few = [name for name, count in report["classes"].items() if 0 < count < FEW_VIDEOS]
    if empty:
        report["problems"].append(f"{len(empty)} classes have no videos: {', '.join(empty[:8])}")
    if few:
        report["notes"].append(f"{len(few)} classes have fewer than {FEW_VIDEOS} videos: {', '.join(few[:8])}")
    most, least = max(counts.values()), min(counts.values())
    if most > 20 * least:
        report["notes"].append(f"the classes are uneven, from {least} to {most} videos; consider class weights")
    sided = manifest.sided_classes()
    if sided:
        report["notes"].append(f"classes such as {sided[0]!r} depend on the side: train without flips")
    if id2label:
        try:
            columns = class_columns(names, names_of(id2label), len(id2label))
            report["notes"].append("class names and their order are those of the checkpoint" if columns is None else
                                   "the classes are the first of the checkpoint's")  # fmt: skip
        except ValueError as error:
            report["problems"].append(str(error))


def _stretch_facts(manifest: Manifest) -> dict[str, Any]:
    """How many files there are, and how long their stretches, as far as their ends are given."""
    times = [stretch for index in range(len(manifest)) if (stretch := manifest.stretch(index))]
    lengths = [end - start for start, end in times if not math.isinf(end)]
    facts: dict[str, Any] = {"stretches": len(times), "files": len({manifest.file(i) for i in range(len(manifest))})}
    if lengths:
        facts |= {"shortest_seconds": min(lengths), "longest_seconds": max(lengths), "total_seconds": sum(lengths)}
    return facts


def _check_probes(
    manifest: Manifest,
    probe: int | None,
    sampling: ClipSampling,
    workers: int,
    report: dict[str, Any],
    progress: bool,
    errors: str,
) -> None:
    chosen = list(range(len(manifest)))
    if probe is not None and probe < len(chosen):
        chosen = sorted(random.Random(0).sample(chosen, probe))
    limits = Limits(decode_seconds=60.0)
    with ThreadPoolExecutor(workers) as pool:  # FFmpeg decodes without holding the interpreter
        results = pool.map(lambda index: probe_entry(manifest, index, limits, errors), chosen)
        found = list(tqdm(results, "probing", len(chosen), unit="video", disable=None if progress else True))
    broken = [
        {"index": index, "path": manifest.path(index), "error": result["error"]}
        for index, result in zip(chosen, found)
        if "error" in result
    ]
    good = [(result, index) for index, result in zip(chosen, found) if "error" not in result]
    report |= {"probed": chosen, "videos_probed": len(chosen), "broken": broken}
    if broken:
        share = len(broken) / len(chosen)
        report["problems"].append(f"{len(broken)} of {len(chosen)} videos looked at cannot be read ({share:.1%})")
    if cut := [manifest.path(index) for result, index in good if result.get("truncated")]:
        report["truncated"] = cut
        report["notes"].append(
            f"{len(cut)} videos are cut off or damaged and are read as far as they go, the first is {cut[0]}"
        )
    if not good:
        report["problems"].append("no video can be read")
        return
    frames = sorted((result["frames"], index) for result, index in good)
    sizes = Counter(f"{result['width']}x{result['height']}" for result, _ in good)
    report["frames"] = {
        "shortest": frames[0][0],
        "shortest_path": manifest.path(frames[0][1]),
        "median": int(statistics.median(count for count, _ in frames)),
        "longest": frames[-1][0],
        "longest_path": manifest.path(frames[-1][1]),
    }
    report["sizes"] = dict(sizes.most_common(5))
    span = sampling.span_frames
    short = sum(count < span for count, _ in frames)
    if sampling.strategy == "dense" and short:
        report["notes"].append(
            f"{short} of {len(good)} are shorter than a clip of {sampling.num_frames} frames at stride "
            f"{sampling.stride_frames} ({span} frames) and will repeat frames"
        )


def _check_leaks(train: Manifest, test: Manifest, workers: int, report: dict[str, Any], progress: bool) -> None:
    """Videos of equal content in both sets, or several times in the training set; of stretches those that overlap."""

    def key(source: Source) -> str | None:
        try:
            return hash_of(source)
        except OSError:
            return None  # missing files are reported as broken

    jobs = [(train, i) for i in range(len(train))] + [(test, i) for i in range(len(test))]
    files = [manifest.file_source(index) for manifest, index in jobs]
    once = {file: file for file in files if isinstance(file, str)}  # a long file is hashed once, not for each stretch
    to_hash = [*once, *(file for file in files if not isinstance(file, str))]
    with ThreadPoolExecutor(workers) as pool:
        hashes = list(
            tqdm(pool.map(key, to_hash), "hashing", len(to_hash), unit="video", disable=None if progress else True)
        )
    of_files, others = dict(zip(once, hashes)), iter(hashes[len(once) :])
    keys = [of_files[file] if isinstance(file, str) else next(others) for file in files]
    places: dict[str, list[tuple[tuple[float, float], str]]] = defaultdict(list)
    same: dict[tuple, list[str]] = defaultdict(list)
    for digest, (manifest, index) in zip(keys[: len(train)], jobs):
        if digest is not None:
            times = manifest.stretch(index) or WHOLE
            places[digest].append((times, manifest.path(index)))
            same[digest, times].append(manifest.path(index))
    leaks, beside = [], 0
    for digest, (_, index) in zip(keys[len(train) :], jobs[len(train) :]):
        start, end = test.stretch(index) or WHOLE
        seen = next((path for times, path in places.get(digest, ()) if times[0] < end and start < times[1]), None)
        if seen is not None:
            leaks.append([seen, test.path(index)])
        elif digest in places:
            beside += 1
    duplicates = [paths for paths in same.values() if len(paths) > 1]
    report |= {"leaks": leaks, "duplicates": duplicates}
    if leaks:
        report["problems"].append(
            f"{len(leaks)} of {len(test)} test videos are in the training set too: {leaks[0][0]} is {leaks[0][1]}"
            + (", at least in part" if train.stretches is not None or test.stretches is not None else "")
        )
    if beside:
        report["notes"].append(
            f"{beside} of {len(test)} test stretches are of files of which the training set has other stretches; the same "
            "scene makes a test easier: divide by file where the model shall meet new ones"
        )
    if duplicates:
        report["notes"].append(f"{len(duplicates)} training videos are duplicates: {', '.join(duplicates[0][:2])}")


def measure_speed(
    manifest: Manifest, indices: list[int], sampling: ClipSampling, samples: int, errors: str = "strict"
) -> dict[str, float]:
    """Clips a second that one worker makes, for pre-training and, with labels, for fine-tuning."""
    chosen = manifest.subset(list(itertools.islice(itertools.cycle(indices), samples)))
    speeds, threads = {}, torch.get_num_threads()
    torch.set_num_threads(1)  # as in a worker
    try:
        for mode in ("pretrain", "train"):
            if mode == "train":
                try:
                    chosen.check_labels()
                except ValueError:  # it cannot be trained on; the problems say why
                    continue
            transform = TrainTransform(flip=0.0) if mode == "train" else PretrainTransform()
            reading = {"sampling": sampling, "transform": transform, "broken": "fail", "errors": errors}
            dataset = VideoDataset(chosen, mode=mode, **reading)
            collate = PretrainCollator((8, 14, 14)) if mode == "pretrain" else ClassificationCollator()
            collate([dataset[0]])
            start = time.perf_counter()
            for index in range(samples):
                collate([dataset[index]])
            speeds[f"{mode}_clips_per_second"] = round(samples / (time.perf_counter() - start), 1)
    finally:
        torch.set_num_threads(threads)
    return speeds


def _stretches_line(facts: dict[str, Any]) -> str:
    line = f"{facts['stretches']} stretches of {facts['files']} files"
    if "total_seconds" not in facts:
        return line
    return (
        f"{line}: {facts['shortest_seconds']:.1f} to {facts['longest_seconds']:.1f} s, "
        f"{facts['total_seconds'] / 3600:.2f} h in all"
    )


def render(report: dict[str, Any], clips_per_second: float) -> str:
    """The report for people."""
    lines = [
        f"{report['origin']}: {report['videos']} videos, {report['videos_probed']} of them opened and decoded in part"
    ]
    if "stretches" in report:
        lines.append(_stretches_line(report["stretches"]))
    if "classes" in report:
        ranked = sorted(report["classes"].items(), key=lambda pair: -pair[1])
        lines.append(f"{len(ranked)} classes, {ranked[0][1]} to {ranked[-1][1]} videos each:")
        shown = ranked if len(ranked) <= 20 else [*ranked[:10], ("...", ""), *ranked[-10:]]
        width = max(len(name) for name, _ in shown)
        lines += [f"  {name:<{width}}  {count:>7}" for name, count in shown]
    if "frames" in report:
        frames = report["frames"]
        lines.append(
            f"frames: {frames['shortest']} ({frames['shortest_path']}) to {frames['longest']} "
            f"({frames['longest_path']}), median {frames['median']}"
        )
        lines.append("sizes: " + ", ".join(f"{size} ({count})" for size, count in report["sizes"].items()))
    for video in report["broken"][:20]:
        lines.append(f"broken: {video['path']}: {video['error']}")
    if len(report["broken"]) > 20:
        lines.append(f"... and {len(report['broken']) - 20} more; --output FILE lists all")
    for kind, speed in report.get("speed", {}).items():
        mode = {"pretrain": "pre-training", "train": "fine-tuning"}[kind.split("_")[0]]
        needed = clips_per_second / speed
        lines.append(
            f"{mode}: one worker makes {speed:g} clips/s; a trainer of {clips_per_second:g} clips/s needs "
            f"{-int(-needed // 1)} workers"
        )
    lines += [f"note: {note}" for note in report["notes"]]
    lines += [f"PROBLEM: {problem}" for problem in report["problems"]]
    count = len(report["problems"])
    lines.append("nothing is wrong" if not count else "1 problem" if count == 1 else f"{count} problems")
    return "\n".join(lines)
