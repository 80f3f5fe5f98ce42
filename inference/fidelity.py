"""Whether a faster model still gives the same answers: clips to ask, how far the answers agree, and the gate.

Used for int8, for exported files and by the benchmarks of inference and token reduction.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedModel

from videomae.configuration_videomae import VideoMAEConfig
from videomae.data.synthetic import MOTIONS, SyntheticSet, render_clip
from videomae.models import open_processor

# B clips  T frames  C channels  H W pixels  K classes


@dataclass(frozen=True)
class Agreement:
    """How the answers of two models on the same clips compare."""

    clips: int
    same: int  # clips with the same class; for several labels, with the same set of them
    max_score_difference: float  # over all clips and classes, of probabilities (of plain outputs for a regression)

    @property
    def share(self) -> float:
        return self.same / self.clips

    def __str__(self) -> str:
        return f"the same answer on {self.same} of {self.clips} clips, scores differ by up to {self.max_score_difference:.2g}"

    def require(self, min_agreement: float, max_score_difference: float, name: str, way_out: str) -> None:
        """Raise unless the answers agree that well."""
        if self.share >= min_agreement and self.max_score_difference <= max_score_difference:
            return
        raise ValueError(
            f"{name} gives {self}; asked for min_agreement={min_agreement} and max_score_difference="
            f"{max_score_difference}: {way_out}"
        )


def agreement(reference: torch.Tensor, other: torch.Tensor, problem_type: str | None = None) -> Agreement:
    """Compare logits (B, K) of two models. Numbers that are not finite agree with nothing."""
    if reference.shape != other.shape or not len(reference):
        raise ValueError(f"logits of the same clips are needed, got {tuple(reference.shape)} and {tuple(other.shape)}")
    finite = torch.isfinite(other).all(dim=1)
    if problem_type == "regression":
        before, after = reference.float(), other.float()
        same = finite
    elif problem_type == "multi_label_classification":
        before, after = reference.float().sigmoid(), other.float().sigmoid()
        same = ((before > 0.5) == (after > 0.5)).all(dim=1) & finite
    else:
        before, after = reference.float().softmax(-1), other.float().softmax(-1)
        same = (before.argmax(-1) == after.argmax(-1)) & finite
    difference = (before - after).abs().max().item()
    return Agreement(len(reference), int(same.sum()), difference if finite.all() else float("inf"))


@torch.inference_mode()
def logits_of(model: PreTrainedModel, clips: torch.Tensor, batch_size: int = 4) -> torch.Tensor:
    """float32 logits (B, K) on the CPU; the clips go to the model's device batch by batch."""
    parts = [model(pixel_values=part.to(model.device, model.dtype)).logits for part in clips.split(batch_size)]
    return torch.cat(parts).float().cpu()


def example_clips(
    folder: str | os.PathLike, videos: Sequence[str | os.PathLike] | None = None, *, count: int = 16
) -> torch.Tensor:
    """Clips (B, T, C, H, W) as the model of that folder takes them: one of each video, or `count` drawn ones.

    Drawn clips (moving shapes) are the same everywhere and need no files, but scores on them mean little for a trained
    model: judge it with videos of your own.
    """
    config = VideoMAEConfig.from_pretrained(folder)
    processor = open_processor(folder, config)
    if videos is None:
        height, width = config.image_hw
        drawing = SyntheticSet(num_frames=config.num_frames, height=max(height, 16), width=max(width, 16))
        frames = [render_clip(MOTIONS[seed % len(MOTIONS)], drawing, seed) for seed in range(count)]
        return processor(list(map(_as_list, frames)), return_tensors="pt")["pixel_values"]
    if not videos:
        raise ValueError("no videos were given; give some, or None for drawn clips")
    sources = [os.fspath(video) for video in videos]
    return torch.cat(
        [processor(video, num_frames=config.num_frames, return_tensors="pt")["pixel_values"] for video in sources]
    )


def _as_list(frames: np.ndarray) -> list[np.ndarray]:
    return list(frames)


__all__ = ["Agreement", "agreement", "example_clips", "logits_of"]
