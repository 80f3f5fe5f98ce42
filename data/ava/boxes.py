"""What happens to a clip and its boxes together: scale, crop, flip, jitter, and boxes that the crop leaves out.

A clip is uint8 (T, C, H, W); boxes are (n, 4) x1, y1, x2, y2 in its pixels. Everything random is drawn from the generator
that is passed in. The two released families count differently: for VideoMAE-Action-Detection, which grew from
maskrcnn-benchmark, a box that ends at x2 contains that pixel (`inclusive`), so flips and widths have an extra one.
"""

# T frames  C channels  H W pixels | n boxes

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from videomae.data.boxes import frame_size
from videomae.data.randomness import randint, uniform
from videomae.data.transforms import Box, crop, normalise, resize
from videomae.roi_align_videomae import scale_boxes, scaled_size, widen_boxes


def shift_boxes(boxes: torch.Tensor, top: int, left: int) -> torch.Tensor:
    """Boxes of a frame -> of a crop that begins at (top, left); not clipped to it."""
    return boxes - boxes.new_tensor([left, top, left, top])


def flip_boxes(boxes: torch.Tensor, width: int, *, inclusive: bool) -> torch.Tensor:
    """Boxes of a frame -> of its mirror image."""
    x1, y1, x2, y2 = boxes.unbind(1)
    last = width - 1 if inclusive else width
    return torch.stack([last - x2, y1, last - x1, y2], 1)


def squeeze_boxes(boxes: torch.Tensor, height: int, width: int, *, inclusive: bool) -> torch.Tensor:
    """Boxes of a frame -> of a crop of it, with those outside squeezed to its border, as both releases leave them.

    The last coordinate is the crop's size in VideoMAE-Action-Detection (`crop` of its BoxList; the jitter that follows
    makes such boxes a pixel wide) and one less in mmaction2 (`_box_crop` in processing.py), whichever counts inclusively.
    """
    last = torch.tensor([width, height, width, height], dtype=boxes.dtype) - (0 if inclusive else 1)
    return boxes.clamp(min=0).minimum(last)


def clip_boxes(boxes: torch.Tensor, height: int, width: int, *, inclusive: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """(boxes clipped to the frame, which of them are left). The lost ones are still among the boxes.

    Lost is what has no area, or lies within a single pixel: nobody can be seen there.
    """
    clipped = widen_boxes(boxes, (0.0, 0.0), height=height, width=width, inclusive=inclusive)
    sides = clipped[:, 2:] - clipped[:, :2]
    return clipped, (sides > 0).all(1) & (sides > 1).any(1)


def jitter_boxes(
    boxes: torch.Tensor,
    jitter: Sequence[float],
    generator: torch.Generator,
    *,
    height: int,
    width: int,
    inclusive: bool,
) -> torch.Tensor:
    """Move every edge by its own random share of the box's size, within the frame.

    `jitter` is the largest share outward and inward for left and right, then for top and bottom. Boxes stay at least a
    pixel wide and high (`random_aug` of VideoMAE-Action-Detection's BoxList).
    """
    out_x, in_x, out_y, in_y = jitter
    extra = 1 if inclusive else 0
    box_width, box_height = boxes[:, 2] - boxes[:, 0] + extra, boxes[:, 3] - boxes[:, 1] + extra
    draws = torch.rand(4, len(boxes), generator=generator)

    def outward(draw: torch.Tensor, out: float, inward: float) -> torch.Tensor:
        return draw * (out + inward) - inward

    right, bottom = width - extra, height - extra
    x1 = (boxes[:, 0] - outward(draws[0], out_x, in_x) * box_width).clamp(0, right - 1)
    y1 = (boxes[:, 1] - outward(draws[1], out_y, in_y) * box_height).clamp(0, bottom - 1)
    x2 = (boxes[:, 2] + outward(draws[2], out_x, in_x) * box_width).clamp(max=right).maximum(x1 + 1)
    y2 = (boxes[:, 3] + outward(draws[3], out_y, in_y) * box_height).clamp(max=bottom).maximum(y1 + 1)
    return torch.stack([x1, y1, x2, y2], 1)


def random_box(height: int, width: int, size: int, generator: torch.Generator) -> Box:
    """A crop of `size` x `size` at a random place; smaller where the frame is.

    The last place of a larger frame is never drawn, in either release (RandomClip, RandomCrop).
    """
    crop_height, crop_width = min(size, height), min(size, width)
    return Box(
        randint(generator, max(height - crop_height, 1)),
        randint(generator, max(width - crop_width, 1)),
        crop_height,
        crop_width,
    )


def hsv_jitter(clip: torch.Tensor, jitter: tuple[float, float, float], generator: torch.Generator) -> torch.Tensor:
    """Shift hue (up to so many degrees), saturation and value (shares of their range) of a whole clip by one draw each.

    Steps as in 8-bit HSV, where hue counts in pairs of degrees.
    """
    bounds = round(jitter[0] / 2), round(jitter[1] * 255), round(jitter[2] * 255)
    hue, saturation, value = (randint(generator, 2 * bound + 1) - bound for bound in bounds)
    if not (hue or saturation or value):
        return clip
    out = torch.empty(clip.shape, dtype=torch.uint8)
    for frame, target in zip(clip, out):
        target.copy_(_shift_hsv(frame, hue * 2 / 60, saturation / 255, value / 255))
    return out


def _shift_hsv(frame: torch.Tensor, hue: float, saturation: float, value: float) -> torch.Tensor:
    """(3, H, W) uint8 RGB with its hue turned (in sixths of the circle), saturation and value moved and clipped."""
    rgb = frame.float().div_(255)
    top, which = rgb.max(0)
    spread = top - rgb.amin(0)
    red, green, blue = rgb
    distance = torch.stack([green - blue, blue - red, red - green])
    # Where all channels are equal there is no hue; it counts as 0, red.
    sixth = distance.gather(0, which[None])[0] / spread.clamp(min=1e-6) + 2 * which
    sixth = torch.where(spread > 0, sixth, 0.0) + hue
    chroma = (spread / top.clamp(min=1e-6) + saturation).clamp_(0, 1)
    top = (top + value).clamp_(0, 1)
    channels = []
    for offset in (5, 3, 1):
        position = (sixth + offset) % 6
        channels.append(top - top * chroma * position.minimum(4 - position).clamp(0, 1))
    return torch.stack(channels).mul_(255).round_()


class BoxedClip(NamedTuple):
    """What a transform makes of a clip: pixels (T, C, H, W) float32, boxes of the kept persons, and who was kept."""

    pixel_values: torch.Tensor
    boxes: torch.Tensor  # (m, 4) pixels
    kept: torch.Tensor  # (n,) bool over the boxes that went in


# What becomes of persons whom a training crop leaves out.
OUTSIDE = ("squeeze", "drop")


@dataclass(frozen=True, kw_only=True)
class DetectionTrainTransform:
    """Random scale, square crop, colour, flip; boxes follow, and are jittered.

    `outside` says what becomes of persons outside of the crop: "squeeze" makes them thin boxes at its border, as both
    releases do, which then stand in the loss with actions that cannot be seen; "drop" leaves them out (ours).
    """

    short_side: tuple[int, int] = (256, 256)
    size: int = 224
    flip: float = 0.5
    colour: tuple[float, float, float] = (0.0, 0.0, 0.0)
    box_jitter: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0)
    outside: str = "squeeze"
    inclusive: bool = False
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self):
        if self.outside not in OUTSIDE:
            raise ValueError(f"outside must be one of {', '.join(OUTSIDE)}, not {self.outside!r}")

    def __call__(self, clip: torch.Tensor, boxes: torch.Tensor, generator: torch.Generator) -> BoxedClip:
        """`boxes` are shares of the frame."""
        low, high = self.short_side
        clip, boxes, kept = _scaled(clip, boxes, low + randint(generator, high - low + 1), inclusive=self.inclusive)
        place = random_box(*frame_size(clip), self.size, generator)
        frame = {"height": place.height, "width": place.width, "inclusive": self.inclusive}
        clip, boxes = crop(clip, place), shift_boxes(boxes, place.top, place.left)
        if self.outside == "squeeze":
            boxes = squeeze_boxes(boxes, **frame)
        if any(self.colour):
            clip = hsv_jitter(clip, self.colour, generator)
        if self.flip and uniform(generator, 0, 1) < self.flip:
            clip, boxes = clip.flip(-1), flip_boxes(boxes, place.width, inclusive=self.inclusive)
        if self.outside == "drop":
            boxes, seen = clip_boxes(boxes, **frame)
            kept = kept & seen
        if any(self.box_jitter):
            boxes = jitter_boxes(boxes, self.box_jitter, generator, **frame)
        else:
            boxes = widen_boxes(boxes, (0.0, 0.0), **frame)  # a mirror image of the border lies a pixel outside
        return BoxedClip(normalise(clip, self.mean, self.std), boxes[kept], kept)


@dataclass(frozen=True, kw_only=True)
class DetectionTestTransform:
    """The whole frame, its short side scaled to one length. The model widens the boxes and clips them."""

    short_side: int = 256
    inclusive: bool = False
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, clip: torch.Tensor, boxes: torch.Tensor, generator: torch.Generator | None = None) -> BoxedClip:
        """`boxes` are shares of the frame."""
        clip, boxes, kept = _scaled(clip, boxes, self.short_side, inclusive=self.inclusive)
        return BoxedClip(normalise(clip, self.mean, self.std), boxes[kept], kept)


def _scaled(
    clip: torch.Tensor, shares: torch.Tensor, short_side: int, *, inclusive: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(clip with that short side, boxes in its pixels, which boxes count).

    VideoMAE-Action-Detection (`inclusive`) leaves boxes out that have no area in the source; mmaction2 keeps them.
    """
    source = frame_size(clip)
    size = scaled_size(*source, short_side, rounded=not inclusive)
    boxes = scale_boxes(shares, source, size, inclusive=inclusive)
    kept = (boxes[:, 2:] > boxes[:, :2]).all(1) if inclusive else torch.ones(len(boxes), dtype=torch.bool)
    return resize(clip, size, antialias=False), boxes, kept


def iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes paired row by row; 0 where both are empty."""
    sides = np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])
    intersection = sides.clip(min=0).astype(np.float64).prod(1)  # of single-precision sides too, as the evaluations do
    union = (a[:, 2:] - a[:, :2]).prod(1) + (b[:, 2:] - b[:, :2]).prod(1) - intersection
    return np.divide(intersection, union, out=np.zeros_like(intersection), where=union > 0)
