"""Multi-view test of a classifier, as the papers do it: `videomae evaluate FOLDER DATA --views 5x3`.

Every video is decoded once; its clips x crops are scored, probabilities (not logits) averaged, and each video counts
exactly once whatever the number of processes. Videos are scored in fixed groups, so that one process or eight, killed
and resumed or not, make the same batches and so the same scores. What is done lies in OUTPUT/partial and is taken up
again by the same command.

The accuracy arithmetic is metrics/video_accuracy/scores.py, class names are data/lists/label_names.py, and which frames make a
clip is sampling_videomae.py.
"""

import contextlib
import hashlib
import io
import json
import math
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from accelerate import PartialState
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers.utils import logging as transformers_logging

from videomae.attentive_probe_videomae import VideoMAEForAttentiveProbe
from videomae.configuration_videomae import IMAGENET_MEAN, IMAGENET_STD
from videomae.data.lists.label_names import class_columns, find_names, names_of
from videomae.data.lists.manifests import WHOLE, Manifest
from videomae.data.transforms import EvalTransform, normalise
from videomae.data.video_dataset import VideoDataset
from videomae.evaluation.validation import chance, shown_confusion
from videomae.files import remove_leftovers, sha256_of, today, write_atomic, write_json
from videomae.metrics.video_accuracy.scores import (
    confusion_pairs,
    label_ranks,
    mean_average_precision,
    per_class_table,
    video_accuracy,
)
from videomae.modeling_videomae import VideoMAEForVideoClassification, VideoMAEPreTrainedModel
from videomae.models import DTYPES, open_classifier, open_config, open_processor, weights_sha256
from videomae.sampling_videomae import ClipSampling
from videomae.training import engines
from videomae.training.progress import say
from videomae.training.runs import versions

FORMAT = 1


# -------------------------------------------------------------------------------------------------------- reading


@dataclass(frozen=True, kw_only=True)
class Views:
    """How a video becomes test views: which frames, and the pixels of each crop."""

    sampling: ClipSampling
    size: int = 224
    mean: tuple[float, ...] = tuple(IMAGENET_MEAN)
    std: tuple[float, ...] = tuple(IMAGENET_STD)
    antialias: bool = False  # as the published tests resize

    def __post_init__(self):
        if self.sampling.strategy == "all":
            raise ValueError("a test needs clips of one length; choose dense, uniform or spread sampling, not all")

    @property
    def count(self) -> int:
        return self.sampling.clips * self.sampling.crops

    @property
    def protocol(self) -> str:
        """Frames x clips x crops, as papers write it; segments count as clips."""
        clips = self.sampling.clips * self.sampling.segments
        return f"{self.sampling.num_frames}x{clips}x{self.sampling.crops}"

    def changed(
        self,
        *,
        views: tuple[int, int] | None = None,
        strategy: str | None = None,
        stride_frames: int | None = None,
        antialias: bool = False,
    ) -> "Views":
        """These views with other (clips, crops), sampling and resizing; None leaves what the model was saved with."""
        clips, crops = views or (self.sampling.clips, self.sampling.crops)
        sampling = replace(
            self.sampling,
            clips=clips,
            crops=crops,
            strategy=strategy or self.sampling.strategy,
            stride_frames=stride_frames or self.sampling.stride_frames,
        )
        return replace(self, sampling=sampling, antialias=antialias)


def views_dataset(manifest: Manifest, views: Views, errors: str = "strict") -> VideoDataset:
    """All views of a video from one decode; a video that cannot be read comes back as its error, never replaced."""
    return VideoDataset(
        manifest,
        mode="test",
        sampling=views.sampling,
        transform=EvalTransform(views.size, views.antialias),
        broken="exclude",
        max_broken=1.0,  # the share is judged over all processes, at the end
        errors=errors,
    )


def fixed_groups(videos: int, views_per_video: int, views_per_step: int) -> list[list[int]]:
    """Neighbouring videos that share forward passes; a function of the list and the options, never of processes."""
    size = max(views_per_step // views_per_video, 1)
    return [list(range(first, min(first + size, videos))) for first in range(0, videos, size)]


# -------------------------------------------------------------------------------------------------------- scoring


@torch.inference_mode()
def score_views(
    model: VideoMAEPreTrainedModel,
    pixels: torch.Tensor,
    *,
    views: Views,
    problem: str,
    columns: list[int] | None,
    views_per_step: int,
    dtype: torch.dtype,
) -> np.ndarray:
    """uint8 (V, T, C, H, W) views to (V, K) float32 scores: probabilities, or plain outputs for a regression.

    `columns` picks the outputs that stand for the data's classes before the softmax, as a head of just these would.
    """
    device = model.device
    mixed = torch.autocast(device.type, dtype) if dtype != torch.float32 else contextlib.nullcontext()
    scores = []
    for part in pixels.split(views_per_step):
        pixel_values = normalise(part.to(device, non_blocking=True), views.mean, views.std)
        with mixed:
            logits = model(pixel_values).logits
        logits = logits.float() if columns is None else logits.float()[:, columns]
        if problem == "single_label_classification":
            logits = logits.softmax(dim=-1)
        elif problem == "multi_label_classification":
            logits = logits.sigmoid()
        scores.append(logits.cpu())
    return torch.cat(scores).numpy()


def video_row(index: int, label: Any, problem: str, view_scores: np.ndarray, *, keep_views: bool) -> dict[str, Any]:
    """What is kept of one video: its mean score and, of each view, the answer and where the true class ranked."""
    mean = view_scores.astype(np.float64).mean(axis=0)
    row: dict[str, Any] = {"index": index, "error": None, "scores": mean.astype(np.float32).tolist()}
    if problem == "single_label_classification":
        row["prediction"] = int(mean.argmax())
        row["view_predictions"] = view_scores.argmax(axis=1).tolist()
        row["view_label_ranks"] = label_ranks(view_scores, np.full(len(view_scores), label)).tolist()
    if keep_views:
        row["view_scores"] = view_scores.tolist()
    return row


# --------------------------------------------------------------------------------------------------- what is done


class PartialResults:
    """Rows already scored, in small Parquet files that any number of processes add to."""

    def __init__(self, folder: Path, *, rank: int, save_seconds: float):
        self.folder, self.rank, self.save_seconds = folder, rank, save_seconds
        self.waiting: list[dict[str, Any]] = []
        self.saved_at = time.monotonic()

    def rows(self) -> dict[int, dict[str, Any]]:
        """Everything saved so far, by the index of the video."""
        rows = {}
        for path in sorted(self.folder.glob("rows-*.parquet")):
            try:
                rows |= {row["index"]: row for row in pq.read_table(path).to_pylist()}
            except (pa.ArrowException, KeyError, OSError) as error:
                reason = str(error).splitlines()[0]
                raise ValueError(f"{path} is damaged ({reason}); remove it, and its videos are scored again") from None
        return rows

    def add(self, rows: list[dict[str, Any]]) -> None:
        self.waiting += rows
        if time.monotonic() - self.saved_at >= self.save_seconds:
            self.save()

    def save(self) -> None:
        if self.waiting:
            name = f"rows-{self.waiting[0]['index']:09d}-{self.rank}.parquet"
            write_parquet(self.folder / name, self.waiting)
        self.waiting, self.saved_at = [], time.monotonic()


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    # Named from all rows: pyarrow takes the columns of the first, and that of a broken video has no scores.
    names = dict.fromkeys(name for row in rows for name in row)
    buffer = io.BytesIO()
    pq.write_table(pa.table({name: [row.get(name) for row in rows] for name in names}), buffer)
    write_atomic(path, buffer.getvalue())


def open_output(output: Path, identity: dict[str, Any], *, overwrite: bool) -> dict[str, Any] | None:
    """Prepare the folder, or return the finished results of this very test. Another test's folder is an error.

    So are results that are not as they were written: they would be called done.
    """
    remove_leftovers(output)
    if overwrite:
        for name in ("partial", "results.json", "predictions.parquet"):
            path = output / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    for path in (output / "results.json", output / "partial" / "identity.json"):
        if not path.is_file():
            continue
        try:
            found = json.loads(path.read_text("utf-8"))
            before = dict(found.get("identity", found))
        except (ValueError, TypeError, AttributeError, RecursionError):
            raise ValueError(f"{path} is damaged; give --overwrite to test again, or another --output") from None
        if before != identity:
            names = [name for name in {**before, **identity} if before.get(name) != identity.get(name)]
            raise ValueError(
                f"{output} holds another test ({'; '.join(f'{n}: {before.get(n)!r}, now {identity.get(n)!r}' for n in names)}); "
                "give another --output, or --overwrite"
            )
        if path.name == "results.json":
            _check_predictions(output / "predictions.parquet", found)
            return found
    write_json(output / "partial" / "identity.json", identity)
    return None


def _check_predictions(path: Path, results: dict[str, Any]) -> None:
    """The table beside results.json is the one that was written with it."""
    before = results.get("predictions_sha256")
    if not path.is_file():
        reason = "is missing"
    elif before is None:  # of an earlier version, which noted no hash
        try:
            rows = pq.read_metadata(path).num_rows
        except (pa.ArrowException, OSError):
            rows = "no readable"
        reason = "" if rows == results["identity"]["videos"] else f"has {rows} rows of {results['identity']['videos']}"
    else:
        reason = "" if sha256_of(path) == before else "has other content than was written with results.json"
    if reason:
        raise ValueError(f"{path} {reason}; give --overwrite to test again, or another --output")


# ------------------------------------------------------------------------------------------------------ the test


def evaluate(
    model: VideoMAEPreTrainedModel,
    manifest: Manifest,
    views: Views,
    *,
    output: str | os.PathLike,
    dataset: str,
    model_name: str = "",
    match: str = "check",
    columns: list[int] | None = None,
    dtype: str = "float32",
    views_per_step: int = 16,
    num_workers: int = 0,
    max_broken: float = 0.01,
    keep_view_scores: bool = False,
    save_seconds: float = 30.0,
    overwrite: bool = False,
    errors: str = "strict",
    quiet: bool = False,
) -> dict[str, Any] | None:
    """Test `model` on a labelled data set; all processes of a launch call this together.

    Returns the content of OUTPUT/results.json on the main process and None on the others. `columns` says which of the
    model's outputs stands for each class of the data; without it names decide, by the rule `match` (see
    data/lists/label_names.py).
    """
    state, output = PartialState(), Path(output)
    model_names = names_of(model.config.id2label)
    if columns is None:
        columns = class_columns(manifest.class_names, model_names, model.config.num_labels, match)
    num_classes = len(columns) if columns is not None else model.config.num_labels
    names = list(manifest.class_names or (model_names if columns is None else []) or map(str, range(num_classes)))
    problem = problem_of(model, manifest)
    manifest.check_labels(num_labels=num_classes, classes=False)

    identity = {
        "format": FORMAT,
        "protocol": views.protocol,
        "views": json.loads(json.dumps(asdict(views))),
        "weights_sha256": weights_sha256(model),
        "data_sha256": manifest_sha256(manifest),
        "videos": len(manifest),
        "columns": columns,
        "problem": problem,
        "dtype": dtype,
        "views_per_step": views_per_step,
        "view_scores": keep_view_scores,
    }
    if errors != "strict":  # of the same files, more may be read
        identity["errors"] = errors
    if reduction := getattr(model.config, "reduction", None):  # fewer tokens, of the same weights
        identity["token_reduction"] = reduction
    finished = engines.share(state, lambda: open_output(output, identity, overwrite=overwrite))
    if finished is not None:
        return finished if state.is_main_process else None

    started = time.monotonic()
    partial = PartialResults(output / "partial", rank=state.process_index, save_seconds=save_seconds)
    score_what_is_left(
        model,
        manifest,
        views,
        partial,
        problem=problem,
        columns=columns,
        dtype=DTYPES[dtype],
        views_per_step=views_per_step,
        num_workers=num_workers,
        keep_view_scores=keep_view_scores,
        errors=errors,
        quiet=quiet,
    )
    state.wait_for_everyone()
    if not state.is_main_process:
        state.wait_for_everyone()
        return None

    rows = partial.rows()
    if lost := [index for index in range(len(manifest)) if index not in rows]:
        raise OSError(
            f"{len(lost)} of {len(manifest)} videos have no scores, the first is {manifest.path(lost[0])}; "
            f"all processes must see the folder {output}"
        )
    rows = [{**rows[index], **entry(manifest, index)} for index in range(len(manifest))]
    results = {
        "identity": identity,
        "dataset": dataset,
        "date": today(),
        "model": model_name,
        "class_names": names,
        **summary(rows, names, problem, max_broken=max_broken, output=output),
        **{name: identity[name] for name in ("protocol", "views", "data_sha256", "weights_sha256", "dtype")},
        "seconds": round(time.monotonic() - started, 3),
        "versions": versions(),
        "device": str(model.device),
        "processes": state.num_processes,
    }
    write_parquet(output / "predictions.parquet", rows)
    results["predictions_sha256"] = sha256_of(output / "predictions.parquet")
    write_json(output / "results.json", results)
    shutil.rmtree(output / "partial")
    state.wait_for_everyone()
    return results


def score_what_is_left(
    model: VideoMAEPreTrainedModel,
    manifest: Manifest,
    views: Views,
    partial: PartialResults,
    *,
    views_per_step: int,
    num_workers: int,
    keep_view_scores: bool,
    errors: str,
    quiet: bool,
    problem: str,
    columns: list[int] | None,
    dtype: torch.dtype,
) -> None:
    """This process's share of the groups that are not done yet, into `partial`."""
    state = PartialState()
    done = partial.rows().keys()
    state.wait_for_everyone()  # nobody adds rows before all have seen the same ones
    groups = fixed_groups(len(manifest), views.count, views_per_step)
    left = [group for group in groups if not all(index in done for index in group)]
    mine = left[state.process_index :: state.num_processes]
    dataset = views_dataset(manifest, views, errors)
    loader = DataLoader(dataset, batch_sampler=mine, num_workers=num_workers, collate_fn=list)
    show = state.is_main_process and not quiet
    model.eval()
    hide = None if show else True  # None: a bar in a terminal alone
    with tqdm(total=len(manifest), initial=len(done), unit="video", disable=hide, desc=views.protocol) as bar:
        for items in loader:
            rows = [{"index": item["index"], "error": item["error"]} for item in items if "error" in item]
            items = [item for item in items if "error" not in item]
            if items:
                pixels = torch.cat([item["pixel_values"] for item in items])
                meaning = {"views": views, "problem": problem, "columns": columns}
                scores = score_views(model, pixels, **meaning, views_per_step=views_per_step, dtype=dtype)
                for item, own in zip(items, np.split(scores, len(items))):
                    label = manifest.label(item["index"])
                    row = video_row(item["index"], label, problem, own, keep_views=keep_view_scores)
                    rows.append(row | ({"truncated": True} if dataset.was_truncated(item["index"]) else {}))
            partial.add(rows)
            bar.update(min(len(rows) * state.num_processes, bar.total - bar.n))
    partial.save()


def summary(
    rows: list[dict[str, Any]], names: list[str], problem: str, *, max_broken: float, output: Path
) -> dict[str, Any]:
    """Metrics over the videos that could be read, and the list of those that could not."""
    broken = [{"path": row["path"], "error": row["error"]} for row in rows if row["error"] is not None]
    rows = [row for row in rows if row["error"] is None]
    if not rows or len(broken) > max_broken * (len(rows) + len(broken)):
        write_json(output / "broken.json", broken)
        raise ValueError(
            f"{len(broken)} of {len(rows) + len(broken)} videos could not be read, the first is {broken[0]['path']} "
            f"({broken[0]['error']}); all are listed in {output / 'broken.json'}. Repair them, or accept a larger share "
            f"with --max_broken (now {max_broken})"
        )
    scores = np.array([row["scores"] for row in rows])
    truncated = [row["path"] for row in rows if row.get("truncated")]
    result: dict[str, Any] = {"videos": len(rows), "broken": broken, "truncated": truncated}
    if problem == "multi_label_classification":
        value, by_class = mean_average_precision(scores, np.array([row["label"] for row in rows]))
        table = [
            {"index": i, "class": name, "average_precision": ap} for i, (name, ap) in enumerate(zip(names, by_class))
        ]
        return {**result, "metrics": {"mAP": value}, "per_class": table}
    if problem == "regression":
        targets = np.array([row["label"] for row in rows], dtype=np.float64).reshape(scores.shape)
        errors = scores - targets
        spread = ((targets - targets.mean(axis=0)) ** 2).sum()
        metrics = {"mae": float(np.abs(errors).mean()), "mse": float((errors**2).mean())}
        if spread > 0:
            metrics["r2"] = 1.0 - float((errors**2).sum() / spread)
        return {**result, "metrics": metrics}
    labels = np.array([row["label"] for row in rows])
    predictions = np.array([row["prediction"] for row in rows])
    videos = video_accuracy(scores, labels, list(range(len(rows))))
    ranks = np.concatenate([row["view_label_ranks"] for row in rows])
    metrics = {"top1": videos["video_top1"], "view_top1": float((ranks < 1).mean())}
    if len(names) > 5:
        metrics |= {"top5": videos["video_top5"], "view_top5": float((ranks < 5).mean())}
    table = per_class_table(predictions, labels, names)
    counts = shown_confusion(predictions, labels, len(names))
    accuracies = [row["accuracy"] for row in table if row["accuracy"] is not None]
    metrics["mean_class_accuracy"] = float(np.mean(accuracies))
    return {
        **result,
        "view_count": len(ranks),
        "metrics": metrics,
        "chance": chance(labels.tolist()),
        **({"confusion_matrix": counts} if counts else {}),
        "per_class": table,
        "confusion": confusion_pairs(predictions, labels, names),
    }


# ------------------------------------------------------------------------------------------------- small questions


def problem_of(model: VideoMAEPreTrainedModel, manifest: Manifest) -> str:
    """What the outputs mean: the config's `problem_type`, else single-label for numbers and multi-label for vectors."""
    if manifest.labels is None:
        raise ValueError(f"{manifest.origin} has no labels to test against")
    vectors = manifest.labels.dim() == 2
    problem = model.config.problem_type or ("multi_label_classification" if vectors else "single_label_classification")
    if (problem == "single_label_classification") == vectors:
        kind = "several numbers a video" if vectors else "one class a video"
        raise ValueError(
            f"the model is for {problem} and {manifest.origin} has {kind}; read it with another --label_kind"
        )
    return problem


def entry(manifest: Manifest, index: int) -> dict[str, Any]:
    label = manifest.label(index)
    row = {"path": manifest.path(index), "label": label.tolist() if isinstance(label, torch.Tensor) else label}
    if manifest.stretches is not None:
        start, end = manifest.stretch(index) or WHOLE
        row |= {"start_seconds": start, "end_seconds": end if end < math.inf else None}
    return row


def manifest_sha256(manifest: Manifest) -> str:
    """A hash of what is tested: names and labels, in order; sizes too where the entries are files."""
    digest = hashlib.sha256()
    for index in range(len(manifest)):
        row, source = entry(manifest, index), manifest.file_source(index)
        size = os.path.getsize(source) if isinstance(source, str) and os.path.isfile(source) else None
        digest.update(json.dumps([row["path"], row["label"], size]).encode())
    return digest.hexdigest()


def report_lines(results: dict[str, Any], *, classes: int) -> Iterator[str]:
    """The report for a terminal."""
    metrics = results["metrics"]
    yield f"{results['dataset']}: {results['videos']} videos, protocol {results['protocol']}, {results['dtype']}"
    for name, value in metrics.items():
        beside = f" (chance {100 * results['chance']:.2f} %)" if name == "top1" and "chance" in results else ""
        share = f"{100 * value:6.2f} %{beside}"
        yield f"  {name:<20} {share if name not in ('mae', 'mse', 'r2') else f'{value:.4g}'}"
    for row in results["broken"]:
        yield f"  not read: {row['path']}: {row['error']}"
    for path in results.get("truncated", []):
        yield f"  cut off or damaged, read as far as it goes: {path}"
    table = results.get("per_class", [])
    empty = [row["class"] for row in table if row.get("videos") == 0]
    if empty:
        yield f"  {len(empty)} classes have no videos: {', '.join(empty[:8])}{' ...' if len(empty) > 8 else ''}"
    scored = sorted((row for row in table if row.get("accuracy") is not None), key=lambda row: row["accuracy"])
    if scored and classes:
        yield f"  lowest of {len(scored)} classes:"
        for row in scored[:classes]:
            taken = f"  taken for {row['most_taken_for']}" if row["most_taken_for"] else ""
            yield f"    {100 * row['accuracy']:6.2f} %  {row['class']} ({row['videos']} videos){taken}"
    for pair in results.get("confusion", [])[:classes]:
        yield f"    {pair['videos']:5d} x  {pair['true']} called {pair['predicted']}"


# ---------------------------------------------------------------------------------------------------- command line


def load_classifier(folder: str) -> VideoMAEForVideoClassification | VideoMAEForAttentiveProbe:
    """The classifier or attentive probe of a folder or Hub name; a folder that is missing or holds another kind of model is an error."""
    config = open_config(folder, "model")
    kind = (config.architectures or ["VideoMAEForVideoClassification"])[0]
    transformers_logging.disable_progress_bar()
    if kind == VideoMAEForAttentiveProbe.__name__:
        return VideoMAEForAttentiveProbe.from_pretrained(folder, dtype=torch.float32)
    if not kind.endswith("ForVideoClassification"):
        raise ValueError(
            f"{folder} is {kind}, not a classifier; fine-tune it first (`videomae finetune --model {folder}`), or see "
            "what its features are worth with `videomae probe`"
        )
    return open_classifier(folder)


def saved_views(folder: str, config: Any) -> Views:
    """The views that a model was saved with: its sampling policy, pixel scaling and size.

    A folder without a processor gets the dense clips of Kinetics and the config's pixel scaling, and a line says so.
    """
    size = config.image_size if isinstance(config.image_size, int) else max(config.image_size)
    processor = open_processor(folder, config, say=say)
    sampling = replace(processor.sampling, num_frames=config.num_frames)
    return Views(sampling=sampling, size=size, mean=tuple(processor.image_mean), std=tuple(processor.image_std))


def read_label_map(path: str, data_names: tuple[str, ...] | None, model_names: list[str] | None) -> list[int]:
    """The model's output for each class of the data, from a JSON list of numbers or an object {data: model} of names."""
    mapping = json.loads(Path(path).read_text("utf-8"))
    if isinstance(mapping, list) and all(isinstance(value, int) for value in mapping):
        return mapping
    if isinstance(mapping, dict) and data_names and model_names:
        if missing := [name for name in data_names if name not in mapping]:
            raise ValueError(f"{path} has no entry for {len(missing)} classes of the data, the first is {missing[0]!r}")
        return find_names([str(mapping[name]) for name in data_names], model_names)
    raise ValueError(
        f"{path} must hold a list with the model's class number for each class of the data, or an object from the data's "
        "class names to the model's (both sides must then have names)"
    )
