"""Mixup, cutmix and label smoothing on a batch of clips, on any device.

A mix is drawn first (`Mixing.draw`) and then applied, labels and pixels apart: the collator makes the labels, and the
pixels are mixed where they are normalised, which may be another process or a device.
"""

# B clips  T frames  C channels  H W pixels  K classes

import math
from dataclasses import dataclass

import numpy as np
import torch

from videomae.data.boxes import Box, crop, frame_size


@dataclass(frozen=True)
class Mix:
    """Share of a batch that stays itself; the rest comes from the reversed batch, blended or, with `box`, pasted."""

    share: float
    box: Box | None = None

    def apply(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B, T, C, H, W) floats, changed in place."""
        if self.box is not None:
            region = crop(pixels, self.box)
            region.copy_(region.flip(0))
        elif self.share != 1.0:
            mirrored = pixels.flip(0)
            pixels.mul_(self.share).add_(mirrored, alpha=1 - self.share)
        return pixels


@dataclass(frozen=True)
class Mixing:
    """Blend (mixup) or paste (cutmix) each clip with its mirror in the batch; labels become soft.

    Defaults are those of the published fine-tunings: one mix for the whole batch, always, cutmix in half of the cases.
    The share of a cutmix is that of the pixels, after the box was cut at the borders.
    """

    num_labels: int
    mixup_alpha: float = 0.8
    cutmix_alpha: float = 1.0
    probability: float = 1.0
    cutmix_share: float = 0.5
    label_smoothing: float = 0.1

    def __post_init__(self):
        if self.num_labels < 2:
            raise ValueError(f"mixing needs at least 2 classes, got num_labels={self.num_labels}")
        for name in ("probability", "cutmix_share", "label_smoothing"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} must be in [0, 1], not {getattr(self, name)}")
        for name in ("mixup_alpha", "cutmix_alpha"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0 (0 switches it off), not {getattr(self, name)}")

    def draw(self, height: int, width: int, seed: int) -> Mix:
        rng = np.random.default_rng(seed)
        mixup, cutmix = self.mixup_alpha > 0, self.cutmix_alpha > 0
        if not (mixup or cutmix) or rng.random() >= self.probability:
            return Mix(1.0)
        if not cutmix or (mixup and rng.random() >= self.cutmix_share):
            return Mix(float(rng.beta(self.mixup_alpha, self.mixup_alpha)))
        side = math.sqrt(1 - rng.beta(self.cutmix_alpha, self.cutmix_alpha))
        y, x = int(rng.integers(height)), int(rng.integers(width))
        half_height, half_width = int(height * side) // 2, int(width * side) // 2
        top, bottom = max(y - half_height, 0), min(y + half_height, height)
        left, right = max(x - half_width, 0), min(x + half_width, width)
        box = Box(top, left, bottom - top, right - left)
        return Mix(1 - box.height * box.width / (height * width), box)

    def targets(self, labels: torch.Tensor, mix: Mix) -> torch.Tensor:
        """Labels (B,) or (B, K) -> the soft labels (B, K) of the mixed batch."""
        if len(labels) % 2:
            # The middle clip of an odd batch would be mixed with itself.
            raise ValueError(
                f"mixing pairs each clip with its mirror in the batch and needs an even batch, got {len(labels)}"
            )
        targets = soft_labels(labels, self.num_labels, self.label_smoothing)
        if mix.share == 1.0:
            return targets
        return targets * mix.share + targets.flip(0) * (1 - mix.share)

    def apply(self, pixels: torch.Tensor, labels: torch.Tensor, mix: Mix) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, T, C, H, W) floats, changed in place, and labels (B,) or (B, K) -> the same pixels, soft labels (B, K)."""
        targets = self.targets(labels, mix)
        return mix.apply(pixels), targets

    def __call__(self, pixels: torch.Tensor, labels: torch.Tensor, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.apply(pixels, labels, self.draw(*frame_size(pixels), seed))


def soft_labels(labels: torch.Tensor, num_labels: int, smoothing: float = 0.0) -> torch.Tensor:
    """(B,) class numbers -> (B, K) with 1 - s + s / K at the class and s / K elsewhere; (B, K) labels pass through."""
    if labels.dim() == 2:
        return labels.float()
    targets = torch.full((len(labels), num_labels), smoothing / num_labels, device=labels.device)
    return targets.scatter_(1, labels.view(-1, 1), 1 - smoothing + smoothing / num_labels)
