"""What transformers' own Trainer lacks for videos: layer decay, mixing while training only, soft labels, video metrics.

Plain functions to pass to `transformers.Trainer`; examples/finetune_with_trainer.py shows all of them at work.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import Dataset
from transformers import EvalPrediction, TrainerCallback

from videomae.data.collators import ClassificationCollator
from videomae.data.mixing import Mixing, soft_labels
from videomae.data.video_dataset import VideoDataset
from videomae.evaluation.validation import measured
from videomae.training.optimisation import parameter_groups


def layer_decay_optimizer(
    model: nn.Module, *, lr: float, weight_decay: float = 0.05, layer_decay: float = 0.75
) -> torch.optim.AdamW:
    """AdamW whose rate shrinks from the head down; Trainer's schedulers scale every group alike.

    Pass it as `Trainer(optimizers=(optimizer, None))`. Works with our classes and with transformers' own.
    """
    groups = parameter_groups(model, weight_decay=weight_decay, layer_decay=layer_decay)
    for group in groups:
        group["lr"] = lr * group["lr_scale"]
    return torch.optim.AdamW(groups, lr=lr)


class TrainerDataset(Dataset):
    """A VideoDataset for Trainer, which has one collator for training and evaluation: items say which they are for."""

    def __init__(self, dataset: VideoDataset):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.dataset[index] | {"training": self.dataset.mode == "train"}

    def set_epoch(self, epoch: int) -> None:
        self.dataset.set_epoch(epoch)


class EpochOfClips(TrainerCallback):
    """Tells the data set which epoch it is, so that every epoch draws other clips and crops."""

    def __init__(self, dataset: TrainerDataset):
        self.dataset = dataset

    def on_epoch_begin(self, args, state, control, **kwargs) -> None:
        self.dataset.set_epoch(int(state.epoch or 0))


def trainer_collator(
    mixing: Mixing | None, mean: Sequence[float], std: Sequence[float]
) -> Callable[[list[dict[str, Any]]], dict[str, torch.Tensor]]:
    """Mixes training batches that can be paired (a last odd one stays as it is) and leaves evaluation alone."""
    mixed, straight = ClassificationCollator(mixing, mean, std), ClassificationCollator(None, mean, std)

    def collate(items: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        even = sum(len(item["keys"]) for item in items) % 2 == 0
        batch = (mixed if items[0]["training"] and even else straight)(items)
        return {name: batch[name] for name in ("pixel_values", "labels")}

    return collate


def soft_label_loss(label_smoothing: float = 0.0) -> Callable[..., torch.Tensor]:
    """`compute_loss_func`: cross-entropy with class numbers or with the soft labels of mixing, for any model class.

    transformers' own classifiers would take soft labels for several labels a video.
    """

    def compute_loss(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
        logits = outputs["logits"] if isinstance(outputs, dict) else outputs.logits
        return F.cross_entropy(logits.float(), soft_labels(labels, logits.shape[-1], label_smoothing))

    return compute_loss


def video_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """`compute_metrics`: top-1 and, with more than five classes, top-5."""
    logits = prediction.predictions[0] if isinstance(prediction.predictions, tuple) else prediction.predictions
    metrics = measured(np.asarray(logits), np.asarray(prediction.label_ids), "single_label_classification")
    metrics.pop("loss")  # Trainer reports its own
    return metrics
