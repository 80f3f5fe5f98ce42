"""A student learns from a teacher's scores: of the very clips it sees, or of each video once, from a cache.

The loss is the usual one: label_weight * cross-entropy + teacher_weight * T^2 * KL(teacher at T || student at T).
"""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from torch.nn import functional as F

from videomae.data.collators import ClassificationCollator
from videomae.data.lists.label_names import class_columns, names_of
from videomae.data.lists.manifests import Manifest
from videomae.data.randomness import MIXING, seed_for
from videomae.modeling_videomae import VideoMAEForVideoClassification
from videomae.models import open_config

# B clips  K classes


def distillation_loss(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """T^2 * KL(softmax(teacher / T) || softmax(student / T)), mean over the batch; both are (B, K) logits.

    T^2 keeps the gradient's size when T changes. Log-probabilities serve as logits.
    """
    target = F.log_softmax(teacher.float() / temperature, dim=-1)
    answer = F.log_softmax(student.float() / temperature, dim=-1)
    return temperature**2 * F.kl_div(answer, target, log_target=True, reduction="batchmean")


class Teacher:
    """A frozen classifier that scores the student's own clips, without gradients and in bf16 where there is a GPU."""

    def __init__(
        self, folder: str, *, class_names: Sequence[str] | None, num_labels: int, device: torch.device, shape: tuple
    ):
        open_config(folder, "--teacher", kind="ForVideoClassification")
        self.model = VideoMAEForVideoClassification.from_pretrained(folder, dtype=torch.float32).to(device).eval()
        self.model.requires_grad_(False)
        config = self.model.config
        self.columns = class_columns(class_names, names_of(config.id2label), config.num_labels, "check")
        size = len(self.columns) if self.columns is not None else config.num_labels
        if size != num_labels:
            raise ValueError(f"teacher {folder} has {config.num_labels} classes and the data {num_labels}")
        frames, image_size = shape
        own = (config.num_frames, config.image_size)
        if own != shape:
            raise ValueError(
                f"teacher {folder} takes {own[0]} frames of {own[1]} pixels and the student {frames} of {image_size}; give "
                "the student the same clips, or score the videos once with `videomae evaluate` and pass --teacher_scores"
            )

    @torch.no_grad()
    def __call__(self, pixel_values: torch.Tensor) -> torch.Tensor:
        device = pixel_values.device.type
        mixed = torch.autocast(device, torch.bfloat16) if device != "cpu" else contextlib.nullcontext()
        with mixed:
            logits = self.model(pixel_values).logits.float()
        return logits if self.columns is None else logits[:, self.columns]


def read_teacher_scores(path: str, manifest: Manifest, num_labels: int) -> torch.Tensor:
    """(n, K) log-probabilities for the entries of a training list, from the predictions.parquet of a teacher's test.

    The test must have been of the same list; a video that the teacher could not read is an error.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no teacher scores {path}; make them with `videomae evaluate TEACHER TRAINING_LIST`")
    rows = {row["path"]: row for row in pq.read_table(path, columns=["path", "label", "scores"]).to_pylist()}
    scores = []
    for index in range(len(manifest)):
        row = rows.get(manifest.path(index))
        if row is None or row["scores"] is None:
            raise ValueError(
                f"{path} has no scores of {manifest.path(index)}; run `videomae evaluate` on this very training list"
            )
        if len(row["scores"]) != num_labels or row["label"] != manifest.label(index):
            raise ValueError(
                f"{path} scores {len(row['scores'])} classes and calls {manifest.path(index)} {row['label']}; the training "
                f"list has {num_labels} classes and label {manifest.label(index)}: the two lists of classes differ"
            )
        scores.append(row["scores"])
    return torch.tensor(scores).clamp_min(1e-8).log()


@dataclass(frozen=True)
class TeacherCollator:
    """Adds the cached scores of each clip's video to a batch, mixed as the clips are."""

    collate: ClassificationCollator
    scores: torch.Tensor

    def __call__(self, items: Sequence[dict[str, Any]]) -> dict[str, Any]:
        batch = self.collate(items)
        rows = [item["index"] for item in items for _ in item["keys"]]
        teacher = self.scores[rows]
        if self.collate.mixing is not None:
            height, width = batch["pixel_values"].shape[-2:]
            mix = self.collate.mixing.draw(height, width, seed_for(items[0]["keys"][0], MIXING))
            own = teacher.exp()
            teacher = (mix.share * own + (1 - mix.share) * own.flip(0)).log()
        return batch | {"teacher_logits": teacher}
