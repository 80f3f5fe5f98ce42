"""One clip per video while a classifier trains: accuracy and loss over all processes, and what a bad value suggests.

The published numbers come from many views; that test is evaluation/multi_view.py.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch.utils.data import DataLoader

from videomae.data.sampler import EpochSampler
from videomae.data.video_dataset import VideoDataset
from videomae.metrics.video_accuracy.scores import confusion_matrix, label_ranks, mean_average_precision
from videomae.training import engines
from videomae.training.batches import leave_ctrl_c_to_the_loop

SHOWN_CLASSES = 50  # of more, no table of the classes and no confusion matrix is kept for the card

# The number that decides which checkpoint is the best, by kind of problem; every one is better when larger.
DECISIVE = {
    "single_label_classification": "top1",
    "multi_label_classification": "mAP",
    "regression": "minus_mse",
}


def validate(
    accelerator: Accelerator,
    model: torch.nn.Module,
    dataset: VideoDataset,
    collate: Callable[[list], Mapping[str, Any]],
    *,
    problem: str,
    clips_per_device: int,
    num_workers: int = 0,
) -> dict[str, float]:
    """Metrics of one clip of each readable video, each counted once whatever the number of processes.

    Leaves the model in training mode, as it found it.
    """
    outputs = outputs_and_labels(
        accelerator, model, dataset, collate, clips_per_device=clips_per_device, num_workers=num_workers
    )
    return measured(*outputs, problem)


@torch.no_grad()
def outputs_and_labels(
    accelerator: Accelerator,
    model: torch.nn.Module,
    dataset: VideoDataset,
    collate: Callable[[list], Mapping[str, Any]],
    *,
    clips_per_device: int,
    num_workers: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """What `validate` measures: the model's outputs (N, C) and the labels of the readable videos."""
    order = EpochSampler(
        len(dataset), shuffle=False, even=False, rank=accelerator.process_index, world=accelerator.num_processes
    )

    def readable(items: list) -> Mapping[str, Any] | None:
        items = [item for item in items if item["pixel_values"] is not None]
        return collate(items) if items else None

    loader = DataLoader(
        dataset,
        clips_per_device,
        sampler=order,
        collate_fn=readable,
        num_workers=num_workers,
        worker_init_fn=leave_ctrl_c_to_the_loop,
    )
    sharded = engines.is_sharded(accelerator)
    calls = math.ceil(math.ceil(len(dataset) / accelerator.num_processes) / clips_per_device)
    batches = iter(loader)
    outputs, targets = [], []
    model.eval()
    for _ in range(calls):
        batch = next(batches, None)
        if batch is None and not sharded:
            continue
        if batch is None:
            clips = engines.idle_clip(accelerator, model)
        else:
            targets.append(batch["labels"])
            clips = engines.on_device(batch, accelerator.device)["pixel_values"]
        with accelerator.autocast():
            logits = model(clips).logits
        if batch is not None:
            outputs.append(logits.float().cpu())
    model.train()
    share = [(torch.cat(outputs).numpy(), torch.cat(targets).numpy())] if outputs else []
    if accelerator.num_processes > 1:
        share = gather_object(share)
    if not share:
        raise ValueError("no video of the validation set could be read")
    logits, labels = (np.concatenate(column) for column in zip(*share))
    return logits, labels


def measured(logits: np.ndarray, labels: np.ndarray, problem: str) -> dict[str, float]:
    """The metrics of one kind of problem, from outputs and labels."""
    outputs = torch.from_numpy(logits).double()
    if problem == "single_label_classification":
        ranks = label_ranks(logits, labels)
        loss = torch.nn.functional.cross_entropy(outputs, torch.from_numpy(labels)).item()
        metrics = {"loss": loss, "top1": float((ranks < 1).mean())}
        return metrics | ({"top5": float((ranks < 5).mean())} if logits.shape[1] > 5 else {})
    target = torch.from_numpy(labels).double().reshape(outputs.shape)
    if problem == "multi_label_classification":
        loss = torch.nn.functional.binary_cross_entropy_with_logits(outputs, target).item()
        return {"loss": loss, "mAP": mean_average_precision(logits, labels)[0]}
    mse = (outputs - target).square().mean().item()
    return {"loss": mse, "mae": (outputs - target).abs().mean().item(), "minus_mse": -mse}


def shown_confusion(predictions: np.ndarray, labels: np.ndarray, num_classes: int) -> list[list[int]] | None:
    """Counts for the card, true class by row; None where there are too many classes to show."""
    return None if num_classes > SHOWN_CLASSES else confusion_matrix(predictions, labels, num_classes).tolist()


def chance(labels: Sequence[int]) -> float:
    """The accuracy of always answering the commonest class, which is what a classifier must beat."""
    counts = np.bincount(np.asarray(labels))
    return float(counts.max() / counts.sum())


def chance_warning(metrics: Mapping[str, float], labels: Sequence[int], *, epochs: int, base_lr: float) -> str | None:
    """A sentence with the usual causes where a classifier is no better than always answering the commonest class."""
    commonest = chance(labels)
    # Two standard deviations of a guesser: less is not evidence of anything learnt.
    noise = 2 * math.sqrt(commonest * (1 - commonest) / len(labels))
    if metrics["top1"] > commonest + noise:
        return None
    return (
        f"after {epochs} epochs the validation accuracy is {metrics['top1']:.3f}, no better than always answering the "
        f"commonest class ({commonest:.3f}). Usual causes: a learning rate that does not suit the batch (base_lr {base_lr:g} "
        "is for 256 clips a step; try a third and three times of it); labels in another order than in the list of the "
        "other split; a model that did not start from pre-trained weights; flips where left and right are classes; clips "
        "too short to show the action (stride_frames). `--overfit 8` tells a broken set-up from a hard task"
    )


@dataclass
class Watch:
    """What validation has shown so far; part of every checkpoint."""

    decisive: str
    looks: int = 0
    best: float | None = None
    best_step: int = 0
    best_metrics: dict[str, float] = dataclasses.field(default_factory=dict)
    worse_in_row: int = 0
    weights_sha256: str | None = None  # of the best, once they are written
    confusion_matrix: list[list[int]] | None = None  # of the best, where there are few classes

    def note(self, step: int, metrics: Mapping[str, float]) -> bool:
        """Whether these metrics are the best so far."""
        self.looks += 1
        value = metrics[self.decisive]
        if math.isnan(value) or (self.best is not None and value <= self.best):
            self.worse_in_row += 1
            return False
        self.best, self.best_step, self.best_metrics, self.worse_in_row = value, step, dict(metrics), 0
        self.weights_sha256 = self.confusion_matrix = None
        return True

    def results(
        self, *, dataset: str, videos: int, num_frames: int, chance: float | None = None
    ) -> list[dict[str, Any]]:
        """For the card: the best validation so far, beside the accuracy of always answering the commonest class."""
        if self.best is None:
            return []
        metrics = {name: value for name, value in self.best_metrics.items() if name in ("top1", "top5", "mAP", "mae")}
        return [
            {
                "dataset": dataset,
                "split": "validation, while training",
                "protocol": f"{num_frames}x1x1",
                "metrics": metrics,
                "videos": videos,
                "weights_sha256": self.weights_sha256,
                **({} if chance is None else {"chance": chance}),
                **({} if self.confusion_matrix is None else {"confusion_matrix": self.confusion_matrix}),
            }
        ]
