"""The loss of a fine-tuning batch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from videomae.data.mixing import soft_labels
from videomae.training.distillation import Teacher, distillation_loss


@dataclass(frozen=True)
class Objective:
    """The loss of a batch: labels hard, smoothed or mixed, classes weighted, a teacher beside them or not."""

    problem: str
    num_labels: int
    label_smoothing: float = 0.0
    class_weights: torch.Tensor | None = None
    teacher: Teacher | None = None
    temperature: float = 1.0
    teacher_weight: float = 0.0
    label_weight: float = 1.0

    def __call__(self, model: nn.Module, batch: Mapping[str, Any]) -> torch.Tensor:
        logits = model(batch["pixel_values"]).logits
        loss = torch.zeros((), device=logits.device)
        if self.label_weight:
            loss = self.label_weight * self.label_loss(logits.float(), batch["labels"])
        if self.teacher_weight:
            teacher = batch["teacher_logits"] if self.teacher is None else self.teacher(batch["pixel_values"])
            loss = loss + self.teacher_weight * distillation_loss(logits, teacher, self.temperature)
        return loss

    def label_loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        if self.problem == "regression":
            return F.mse_loss(logits, labels.float().reshape(logits.shape))
        if self.problem == "multi_label_classification":
            return F.binary_cross_entropy_with_logits(logits, labels.float(), weight=self.class_weights)
        # Mixing has smoothed its soft labels already; hard ones are smoothed here.
        targets = soft_labels(labels, self.num_labels, self.label_smoothing)
        return F.cross_entropy(logits, targets, weight=self.class_weights)
