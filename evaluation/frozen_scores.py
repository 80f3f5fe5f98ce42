"""Scores of many heads on frozen tokens, video by video: written to the disk as they come, taken up again, then counted.

Every video counts once whatever the number of processes. Beside the heads' ranks a row keeps the mean token of the centre
crop, which k-NN, the linear probe and few-shot read.
"""

# V crops of a video, S segments | N tokens of a crop, D width, K labels, G heads

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from videomae.data.lists.manifests import Manifest
from videomae.data.transforms import normalise
from videomae.evaluation.frozen_encoder import FrozenEncoder
from videomae.evaluation.multi_view import PartialResults, Views, views_dataset
from videomae.metrics.video_accuracy.scores import label_ranks

SAVE_SECONDS = 30.0


class VideoScores(NamedTuple):
    """Of the readable videos, in the order of the list: labels (n,), ranks of the true class (n, G), mean tokens (n, D)."""

    labels: np.ndarray
    ranks: np.ndarray
    vectors: np.ndarray
    broken: list[dict[str, str]]

    def accuracy(self, head: int, num_classes: int) -> dict[str, float]:
        """top1, and top5 where there are more than five classes."""
        ranks = self.ranks[:, head]
        return {f"top{k}": float((ranks < k).mean()) for k in (1, 5) if k == 1 or num_classes > k}


@torch.no_grad()
def score_videos(
    accelerator: Accelerator,
    encoder: FrozenEncoder,
    heads: nn.Module | None,
    manifest: Manifest,
    views: Views,
    folder: Path,
    *,
    num_workers: int = 0,
    errors: str = "strict",
    quiet: bool = False,
    what: str = "",
) -> VideoScores | None:
    """Score every video that FOLDER has no row of yet; all processes call it, and the main one gets the scores.

    heads: tokens of a crop (V, S*N, D) to logits (G, V, K), averaged over crops as probabilities; None: mean tokens alone.
    """
    done = set(_read(folder, "index").get("index", ()))
    accelerator.wait_for_everyone()
    left = [[index] for index in range(len(manifest)) if index not in done]
    mine = left[accelerator.process_index :: accelerator.num_processes]
    partial = PartialResults(folder, rank=accelerator.process_index, save_seconds=SAVE_SECONDS)
    loader = DataLoader(
        views_dataset(manifest, views, errors), batch_sampler=mine, num_workers=num_workers, collate_fn=list
    )
    for (item,) in tqdm(loader, desc=what, unit="video", disable=quiet or not accelerator.is_main_process):
        row = {
            "index": item["index"],
            "label": item["label"],
            "error": item.get("error"),
            "ranks": None,
            "vector": None,
        }
        if item["pixel_values"] is not None:
            row |= _row(accelerator, encoder, heads, item["pixel_values"], views, item["label"])
        partial.add([row])
    partial.save()
    accelerator.wait_for_everyone()
    return collect(folder, manifest) if accelerator.is_main_process else None


def _row(
    accelerator: Accelerator, encoder: FrozenEncoder, heads: nn.Module | None, pixels: torch.Tensor, views: Views, label
) -> dict[str, Any]:
    """What is kept of one video, from its uint8 crops (V, S*T, C, H, W)."""
    segments = pixels.unflatten(1, (-1, encoder.num_frames)).to(accelerator.device, non_blocking=True)
    with accelerator.autocast():
        pixel_values = normalise(segments.flatten(0, 1), views.mean, views.std)
        tokens = encoder.tokens(pixel_values).unflatten(0, segments.shape[:2]).flatten(1, 2)  # (V, S*N, D)
        logits = None if heads is None else heads(tokens)
    row: dict[str, Any] = {"vector": tokens[len(tokens) // 2].float().mean(0).cpu().numpy(), "ranks": []}
    if logits is not None:
        scores = logits.float().softmax(-1).mean(1).cpu().numpy()  # (G, K)
        row["ranks"] = label_ranks(np.nan_to_num(scores, nan=-1.0), np.full(len(scores), label)).tolist()
    return row


def collect(folder: Path, manifest: Manifest) -> VideoScores:
    """All rows of a folder as arrays; a video without one is an error."""
    columns = _read(folder, "index", "label", "error", "ranks", "vector")
    rows: dict[int, int] = {index: place for place, index in enumerate(columns.get("index", []))}
    if lost := [index for index in range(len(manifest)) if index not in rows]:
        raise OSError(
            f"{len(lost)} of {len(manifest)} videos have no scores, the first is {manifest.path(lost[0])}; all processes "
            f"must see the folder {folder}"
        )
    order = [rows[index] for index in range(len(manifest))]
    good = [place for place in order if columns["error"][place] is None]
    broken = [
        {"path": manifest.path(index), "error": columns["error"][place]}
        for index, place in enumerate(order)
        if columns["error"][place] is not None
    ]
    if not good:
        raise ValueError(f"none of {len(broken)} videos could be read; the first: {broken[0]['error']}")
    ranks, vectors = (np.stack([columns[name][place] for place in good]) for name in ("ranks", "vector"))
    return VideoScores(np.array([columns["label"][place] for place in good]), ranks, vectors, broken)


def _read(folder: Path, *names: str) -> dict[str, list]:
    """Columns of the files that `PartialResults` wrote, as lists of numbers and arrays."""
    found: dict[str, list] = {}
    for path in sorted(folder.glob("rows-*.parquet")):
        table = pq.read_table(path, columns=list(names))
        for name in names:
            found.setdefault(name, []).extend(_values(table[name]))
    return found


def _values(column: Any) -> Iterator[Any]:
    return (
        value.values.to_numpy(zero_copy_only=False) if hasattr(value, "values") and value.is_valid else value.as_py()
        for value in column
    )
