"""A rectangle of a frame in whole pixels, and cutting it out."""

from typing import NamedTuple

import torch


class Box(NamedTuple):
    top: int
    left: int
    height: int
    width: int

    def grown(self, pixels: int, frame: "Box") -> "Box":
        """Larger by some pixels on every side, within the frame."""
        top, left = max(self.top - pixels, frame.top), max(self.left - pixels, frame.left)
        bottom = min(self.top + self.height + pixels, frame.top + frame.height)
        right = min(self.left + self.width + pixels, frame.left + frame.width)
        return Box(top, left, bottom - top, right - left)

    def inside(self, other: "Box") -> "Box":
        """The same rectangle counted from the corner of another one."""
        return Box(self.top - other.top, self.left - other.left, self.height, self.width)


def frame_size(clip: torch.Tensor) -> tuple[int, int]:
    """Height and width of frames (..., H, W)."""
    return clip.shape[-2], clip.shape[-1]


def crop(clip: torch.Tensor, box: Box) -> torch.Tensor:
    """A view of the box in frames (..., H, W), without a copy."""
    return clip[..., box.top : box.top + box.height, box.left : box.left + box.width]
