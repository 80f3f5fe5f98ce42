"""Labels of whole videos and of their windows, for one file or thousands: `videomae label VIDEOS --model FOLDER`.

OUTPUT/scores/NAME.safetensors holds the scores of every window and label, as the model gave them. Everything else (tables, subtitles,
pictures, stretches) is made from those, so that other thresholds need no model. Videos whose scores are there are not run
again, so the same command continues.
"""

import contextlib
import csv
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from tqdm.auto import tqdm

from videomae.data.lists.layouts import open_videos
from videomae.data.sources import FrameFolder, TarMember, read_member
from videomae.evaluation.multi_view import load_classifier
from videomae.evaluation.stretch_scores import stretch_scores
from videomae.features.clips import PIXEL_SETTINGS
from videomae.features.extract import Entry, differing, entries_of, stamp_of
from videomae.files import is_leftover, new_file, remove_leftovers, today, write_atomic, write_json
from videomae.inference.stretches import StretchRules, best_labels, cues, find_stretches, slots
from videomae.inference.subtitles import srt_text, vtt_text
from videomae.metrics.temporal_detection import LabelledStretch
from videomae.models import open_device, open_processor, weights_sha256
from videomae.pictures.drawing import png_bytes
from videomae.pictures.timeline import timeline_picture
from videomae.pipeline_videomae import VideoClassificationPipeline
from videomae.training.progress import say
from videomae.training.runs import versions
from videomae.video_io import VideoReadError, probe
from videomae.video_source import download

# W windows  L labels

FORMAT = 1
WEB = ("http://", "https://")
TABLES = ("labels.csv", "windows.csv", "stretches.csv")


class VideoScores(NamedTuple):
    """What the model says of a video; without windows `times`, `frames` and `windows` have no rows."""

    whole: np.ndarray  # (L,) of the whole file
    windows: np.ndarray  # (W, L)
    times: np.ndarray  # (W, 2) start and end in seconds
    frames: np.ndarray  # (W, 2) first and last
    seconds: float
    fps: float
    truncated: bool


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that decides about the scores of a video, but the weights. stride: "32" frames or "0.5s"; None is half a window."""

    windows: bool = True
    all_views: bool = False
    stride: str | None = None
    stride_frames: int | None = None
    errors: str = "strict"

    def identity(self, pipe: VideoClassificationPipeline) -> dict[str, Any]:
        """What must be the same for scores to lie in one folder."""
        settings = pipe.video_processor.call_settings({})
        identity = {
            "format": FORMAT,
            "weights_sha256": weights_sha256(pipe.model),
            "labels": label_names(pipe.model.config),
            "sampling": pipe.video_processor.sampling.to_dict(),
            "pixels": {name: settings[name] for name in PIXEL_SETTINGS},
            "temperature": getattr(pipe.model.config, "temperature", 1.0),
            **{name: getattr(self, name) for name in ("windows", "all_views", "stride", "stride_frames", "errors")},
        }
        return json.loads(json.dumps(identity))


@dataclass(frozen=True, kw_only=True)
class Results:
    """What is made of the scores. rules: how stretches are found; None finds none."""

    formats: tuple[str, ...] = ("csv", "srt", "vtt", "png")
    top_k: int = 5
    rules: StretchRules | None = None
    truth: Mapping[str, list[LabelledStretch]] = field(
        default_factory=dict
    )  # the labelled ones, by the name of the video


def open_pipeline(model: str, *, device: str | None = None) -> VideoClassificationPipeline:
    """The pipeline of a classifier, by its folder or its name on the Hub."""
    classifier = load_classifier(model)
    processor = open_processor(model, classifier.config, say=say)
    return VideoClassificationPipeline(model=classifier.eval(), video_processor=processor, device=open_device(device))


def label_names(config: Any) -> list[str]:
    """The labels in the order of the outputs; two of one name, or values in place of labels, are an error."""
    if config.problem_type == "regression":
        raise ValueError("the model gives values, not labels; `videomae evaluate` tests such a model")
    names = [config.id2label[number] for number in range(config.num_labels)]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(
            f"two outputs of the model are called {twice!r}; give them names of their own in its config.json"
        )
    return names


# ------------------------------------------------------------------------------------------------- what to read


def videos_of(data: str, **options: Any) -> list[Entry]:
    """The videos of a file, a folder, a list, or one behind an http(s) address."""
    if data.startswith(WEB):
        stem = PurePosixPath(data.split("?")[0].split("#")[0]).stem or "video"
        return [Entry(data, data, "".join(letter if letter.isalnum() or letter in "._- " else "_" for letter in stem))]
    # A list of labelled stretches names files to label: whole, and each once.
    return entries_of(replace(open_videos(data, **options), stretches=None))


def opened(source: Any) -> Any:
    """What the pipeline takes; an address is fetched once for the several passes over it."""
    if isinstance(source, FrameFolder):
        raise VideoReadError(
            f"{source.folder} is a folder of images, which say nothing of time; make a video of them, or use "
            "`videomae evaluate` or `videomae features`, which read such folders"
        )
    if isinstance(source, TarMember):
        return {"bytes": read_member(source), "path": source.name}
    if isinstance(source, str) and source.startswith(WEB):
        return {"bytes": download(source), "path": source}
    return source


def hop_of(stride: str | None, fps: float) -> int | None:
    """Frames from one window to the next: "32", or "0.5s" at the rate of the video; None is the pipeline's half window."""
    if stride is None:
        return None
    amount = float(stride.removesuffix("s"))
    return max(round(amount * fps), 1) if stride.endswith("s") else int(amount)


def score_video(
    pipe: VideoClassificationPipeline,
    source: Any,
    plan: Plan,
    *,
    batch_size: int = 4,
    threads: int = 1,
    progress: bool = False,
) -> VideoScores:
    """Run the model over one video: the whole file as `pipe(video)` does it, and window by window."""
    video = opened(source)
    info = probe(video, errors=plan.errors)
    names = label_names(pipe.model.config)
    column = {name: number for number, name in enumerate(names)}

    def row(guesses: list[dict[str, Any]]) -> np.ndarray:
        values = np.empty(len(names), np.float32)
        values[[column[guess["label"]] for guess in guesses]] = [guess["score"] for guess in guesses]
        return values

    options = {"views": "test"} if plan.all_views else {}
    whole = row(pipe(video, top_k=len(names), errors=plan.errors, frame_sampling_rate=plan.stride_frames, **options))
    rows, times, frames = [], [], []
    if plan.windows:
        for window in pipe.windows(
            video,
            hop_frames=hop_of(plan.stride, info.fps),
            sampling=None if plan.stride_frames is None else {"stride_frames": plan.stride_frames},
            top_k=len(names),
            batch_size=batch_size,
            errors=plan.errors,
            threads=threads,
            progress=progress,
        ):
            rows.append(row(window["scores"]))
            times.append((window["start_seconds"], window["end_seconds"]))
            frames.append((window["first_frame"], window["last_frame"]))
    if not np.isfinite([whole, *rows]).all():
        raise ValueError("the scores of the video are not finite; check the weights with `videomae doctor`")
    return VideoScores(
        whole,
        np.array(rows, np.float32).reshape(-1, len(names)),
        np.array(times, np.float64).reshape(-1, 2),
        np.array(frames, np.int64).reshape(-1, 2),
        times[-1][1] if times else info.duration_seconds,
        info.fps,
        info.truncated,
    )


# ------------------------------------------------------------------------------------------------- what is kept


class LabelFolder:
    """OUTPUT; of each video NAME `scores/NAME.safetensors`, and what was made of it in `videos/NAME.*`."""

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)

    def scores(self, entry: Entry) -> Path:
        return self.path / "scores" / f"{entry.name}.safetensors"

    def video(self, entry: Entry, suffix: str) -> Path:
        return self.path / "videos" / f"{entry.name}.{suffix}"

    def claim(self, identity: dict[str, Any], *, overwrite: bool) -> None:
        """Create the folder for this identity, or validate that it was created for the same one."""
        summary = self.path / "labels.json"
        if not summary.is_file() and self.path.is_dir() and not all(map(is_leftover, os.listdir(self.path))):
            raise ValueError(f"{self.path} is not empty and holds no labels (labels.json); give another --output")
        if overwrite:
            for name in ("scores", "videos"):
                shutil.rmtree(self.path / name, ignore_errors=True)
            summary.unlink(missing_ok=True)
        if not summary.is_file():
            write_json(summary, {"complete": False, "identity": identity})
        try:
            before = dict(json.loads(summary.read_text("utf-8"))["identity"])
        except (ValueError, TypeError, KeyError, RecursionError):
            raise ValueError(f"{summary} is damaged; give another --output, or --overwrite") from None
        if changes := differing(before, identity):
            raise ValueError(
                f"{self.path} holds other labels ({'; '.join(changes)}); give another --output, or --overwrite"
            )
        remove_leftovers(self.path)

    def read(self, entry: Entry) -> VideoScores | None:
        """What is stored of a video; None where it is not there, or where the video has changed since."""
        try:
            with safe_open(self.scores(entry), framework="np") as file:
                record = json.loads(file.metadata()["record"])
                arrays = {name: file.get_tensor(name) for name in ("whole", "windows", "times", "frames")}
        except (OSError, ValueError, KeyError, TypeError, SafetensorError):
            return None
        if record["source"] != stamp_of(entry.source):
            return None
        return VideoScores(**arrays, **{name: record[name] for name in ("seconds", "fps", "truncated")})

    def write(self, entry: Entry, scores: VideoScores) -> None:
        facts = {name: getattr(scores, name) for name in ("seconds", "fps", "truncated")}
        record = {"path": entry.path, "source": stamp_of(entry.source), **facts}
        arrays = {name: getattr(scores, name) for name in ("whole", "windows", "times", "frames")}
        with new_file(self.scores(entry)) as beside:
            save_file(arrays, beside, metadata={"record": json.dumps(record)})

    def forget(self, entry: Entry) -> None:
        """Delete what is stored of a video that can no longer be read."""
        self.scores(entry).unlink(missing_ok=True)
        for suffix in ("json", "srt", "vtt", "png"):
            self.video(entry, suffix).unlink(missing_ok=True)


# ------------------------------------------------------------------------------------------- what is made of it


def ranked(row: np.ndarray, names: list[str], top_k: int) -> list[dict[str, Any]]:
    """The best labels with their scores."""
    order = np.argsort(-row, kind="stable")[:top_k]
    return [{"label": names[column], "score": round(float(row[column]), 6)} for column in order]


def stretches_of(scores: VideoScores, names: list[str], rules: StretchRules | None) -> list[LabelledStretch]:
    return find_stretches(scores.windows, scores.times, names, rules) if rules and len(scores.windows) else []


def write_results(folder: LabelFolder, entry: Entry, scores: VideoScores, names: list[str], results: Results) -> dict:
    """The files of one video; returns what videos/NAME.json holds."""
    found = stretches_of(scores, names, results.rules)
    times, frames = scores.times.round(6).tolist(), scores.frames.tolist()
    record = {
        "path": entry.path,
        "seconds": round(scores.seconds, 6),
        "fps": scores.fps,
        **({"truncated": True} if scores.truncated else {}),
        "labels": ranked(scores.whole, names, results.top_k),
        "windows": [
            {
                **dict(zip(("start_seconds", "end_seconds"), time)),
                **dict(zip(("first_frame", "last_frame"), frame)),
                "scores": ranked(row, names, results.top_k),
            }
            for time, frame, row in zip(times, frames, scores.windows)
        ],
        **({"stretches": [plain(stretch) for stretch in found]} if results.rules else {}),
    }
    write_json(folder.video(entry, "json"), record)
    made: dict[str, Callable[[], str | bytes]] = {}
    if len(scores.windows):
        shown = found if results.rules else best_labels(scores.windows, scores.times, names)
        made = {
            "srt": lambda: srt_text(cues(shown)),
            "vtt": lambda: vtt_text(cues(shown)),
            "png": lambda: png_bytes(
                timeline_picture(
                    scores.windows, slots(scores.times), names, found=found, truth=results.truth.get(entry.name)
                )
            ),
        }
    for suffix in ("srt", "vtt", "png"):
        if suffix in made and suffix in results.formats:
            write_atomic(folder.video(entry, suffix), made[suffix]())
        else:
            folder.video(entry, suffix).unlink(missing_ok=True)  # of an earlier run with other options
    return record


def plain(stretch: LabelledStretch) -> dict[str, Any]:
    times = {name: round(getattr(stretch, name), 3) for name in ("start_seconds", "end_seconds")}
    return {"label": stretch.label, **times, "score": round(stretch.score, 6)}


def table_rows(record: dict[str, Any]) -> Iterator[tuple[str, list[Any]]]:
    """(table, row) of one video for the tables of all."""
    path = record["path"]
    best = record["labels"][0]
    yield "labels.csv", [path, best["label"], best["score"]]
    for window in record["windows"]:
        for rank, guess in enumerate(window["scores"], 1):
            times = [f"{window[name]:.3f}" for name in ("start_seconds", "end_seconds")]
            yield "windows.csv", [path, *times, rank, guess["label"], guess["score"]]
    for stretch in record.get("stretches", []):
        times = [f"{stretch[name]:.3f}" for name in ("start_seconds", "end_seconds")]
        yield "stretches.csv", [path, stretch["label"], *times, stretch["score"]]


HEADERS = {
    "labels.csv": ("path", "label", "score"),
    "windows.csv": ("path", "start_seconds", "end_seconds", "rank", "label", "score"),
    "stretches.csv": ("path", "label", "start_seconds", "end_seconds", "score"),
}


@contextlib.contextmanager
def tables(folder: Path, names: list[str]) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Write the tables of all videos as their records come; they take their place together at the end."""
    with contextlib.ExitStack() as stack:
        writers = {}
        for name in names:
            beside = stack.enter_context(new_file(folder / name))
            writers[name] = csv.writer(stack.enter_context(open(beside, "w", newline="", encoding="utf-8")))
            writers[name].writerow(HEADERS[name])

        def add(record: dict[str, Any]) -> None:
            for table, row in table_rows(record):
                if table in writers:
                    writers[table].writerow(row)

        yield add
    for name in set(TABLES) - set(names):
        (folder / name).unlink(missing_ok=True)


# -------------------------------------------------------------------------------------------------- the main job


def label_videos(
    pipe: VideoClassificationPipeline,
    entries: list[Entry],
    plan: Plan,
    results: Results,
    output: str | os.PathLike,
    *,
    model: str = "",
    batch_size: int = 4,
    threads: int = 1,
    overwrite: bool = False,
    quiet: bool = False,
) -> dict[str, Any]:
    """Score every video that OUTPUT does not hold yet, and write the results of all; returns what OUTPUT/labels.json holds."""
    folder, names = LabelFolder(output), label_names(pipe.model.config)
    if results.rules:
        results.rules.check_labels(names)
    identity = plan.identity(pipe)
    folder.claim(identity, overwrite=overwrite)
    videos, broken = [], []
    written = [name for name in TABLES if "csv" in results.formats and _is_made(name, plan, results)]
    single = len(entries) == 1
    with tables(folder.path, written) as add:
        for entry in tqdm(entries, unit="video", desc="labels", disable=quiet or single):
            scores = folder.read(entry)
            if scores is None:
                options = {"batch_size": batch_size, "threads": threads, "progress": single and not quiet}
                try:
                    scores = score_video(pipe, entry.source, plan, **options)
                except (ValueError, OSError) as error:
                    broken.append({"path": entry.path, "error": str(error)})
                    folder.forget(entry)
                    continue
                folder.write(entry, scores)
            record = write_results(folder, entry, scores, names, results)
            add(record)
            videos.append({"name": entry.name, **{k: v for k, v in record.items() if k != "windows"}})
    summary = {
        "complete": True,
        "identity": identity,
        "model": model,
        "date": today(),
        "versions": versions(),
        "stretch_rules": vars(results.rules) if results.rules else None,
        "videos": videos,
        "broken": broken,
    }
    for name in ("scores.json", "stretches.json"):  # of an earlier run, perhaps with other thresholds
        (folder.path / name).unlink(missing_ok=True)
    if results.rules:
        write_json(folder.path / "stretches.json", activitynet_results(videos))
    write_json(folder.path / "labels.json", summary)
    return summary


def activitynet_results(videos: list[dict[str, Any]]) -> dict[str, Any]:
    """The stretches found, as ActivityNet's scorer and those made after it read them."""
    found = {
        video["name"]: [
            {
                "label": stretch["label"],
                "score": stretch["score"],
                "segment": [stretch["start_seconds"], stretch["end_seconds"]],
            }
            for stretch in video["stretches"]
        ]
        for video in videos
    }
    return {"version": "VERSION 1.3", "external_data": {"used": False, "details": ""}, "results": found}


def score_labels(
    summary: Mapping[str, Any], truth: Mapping[str, list[LabelledStretch]], output: str | os.PathLike
) -> dict[str, Any]:
    """What the stretches of a run are worth against labelled ones, by the names of the videos; also OUTPUT/scores.json."""
    found = {
        video["name"]: [LabelledStretch(**stretch) for stretch in video["stretches"]] for video in summary["videos"]
    }
    scores = stretch_scores(truth, found, {video["name"]: video["seconds"] for video in summary["videos"]})
    write_json(Path(output) / "scores.json", scores)
    return scores


def _is_made(table: str, plan: Plan, results: Results) -> bool:
    needs = {"labels.csv": True, "windows.csv": plan.windows, "stretches.csv": results.rules is not None}
    return needs[table]


def report_lines(summary: dict[str, Any], rows: int = 10) -> Iterator[str]:
    """The summary for a terminal: all of a single video, else a line for each of the first `rows`."""
    videos = summary["videos"]
    if len(videos) == 1 and not summary["broken"]:
        (video,) = videos
        yield f"{video['path']}, {video['seconds']:.1f} s"
        for guess in video["labels"]:
            yield f"  {guess['score']:.3f}  {guess['label']}"
        for stretch in video.get("stretches", [])[:rows]:
            times = f"{stretch['start_seconds']:.1f} to {stretch['end_seconds']:.1f} s"
            yield f"  {times}: {stretch['label']} {stretch['score']:.3f}"
    else:
        for video in videos[:rows]:
            best = video["labels"][0]
            yield f"  {best['score']:.3f}  {best['label']}  {video['path']}"
        if len(videos) > rows:
            yield f"  and {len(videos) - rows} more"
    yield f"{len(videos)} videos labelled, {len(summary['broken'])} not read"
    for video in summary["broken"]:
        yield f"  not read: {video['path']}: {video['error']}"
    for video in videos:
        if video.get("truncated"):
            yield f"  cut off or damaged, read as far as it goes: {video['path']}"
