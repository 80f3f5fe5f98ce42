"""From the frames of a clip to the pixels of a sample: boxes, crops, flips, colour jitter, erasing, normalising.

A clip is a uint8 tensor (T, C, H, W); parameters are drawn once per clip from the generator that is passed in and hold
for all its frames. Everything works on uint8 until the final crop is normalised, here or on the device (on_device.py).
RandAugment is in randaugment.py, what mixes several samples in mixing.py.
"""

# B clips  T frames  C channels  H W pixels

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F

from videomae.configuration_videomae import IMAGENET_MEAN, IMAGENET_STD
from videomae.data.boxes import Box, crop, frame_size
from videomae.data.randaugment import RandAugment, luma
from videomae.data.randomness import log_uniform, randint, uniform

# Pre-training (transforms.py of the VideoMAE release, after TSN): sides of the crop relative to the short side, how
# many steps of that list the two sides may lie apart, and how near to the target a side is taken to be the target.
MULTI_SCALES = (1.0, 0.875, 0.75, 0.66)
MAX_DISTORT = 1
SNAP_PIXELS = 3
# Fine-tuning (kinetics.py): the ranges of area and aspect ratio of the random resized crop.
SMALL_CLIP = 2**18  # values; as float32 they stay in the cache
CROP_AREA = (0.08, 1.0)
CROP_ASPECT = (3 / 4, 4 / 3)
PUBLISHED_POLICY = RandAugment.parse("rand-m7-n4-mstd0.5-inc1")


def multi_scale_box(
    height: int,
    width: int,
    size: int,
    generator: torch.Generator,
    *,
    scales: Sequence[float] = MULTI_SCALES,
    max_distort: int = MAX_DISTORT,
) -> Box:
    """A crop for pre-training: sides from a list of scales of the short side, at one of 13 fixed places."""
    sides = [int(min(height, width) * scale) for scale in scales]
    sides = [size if abs(side - size) < SNAP_PIXELS and size <= min(height, width) else side for side in sides]
    pairs = [(h, w) for i, h in enumerate(sides) for j, w in enumerate(sides) if abs(i - j) <= max_distort]
    h, w = pairs[randint(generator, len(pairs))]
    h, w = max(h, 1), max(w, 1)
    row, column = _THIRTEEN_PLACES[randint(generator, len(_THIRTEEN_PLACES))]
    return Box(row * ((height - h) // 4), column * ((width - w) // 4), h, w)


# Quarters of the free space from the top and from the left: corners, centre, middles of the edges, and the middles
# between the centre and the corners.
_THIRTEEN_PLACES = (
    *((0, 0), (0, 4), (4, 0), (4, 4), (2, 2)),
    *((2, 0), (2, 4), (4, 2), (0, 2)),
    *((1, 1), (1, 3), (3, 1), (3, 3)),
)


def random_resized_box(
    height: int,
    width: int,
    generator: torch.Generator,
    *,
    area: tuple[float, float] = CROP_AREA,
    aspect: tuple[float, float] = CROP_ASPECT,
) -> Box:
    """A crop for fine-tuning: uniform area, log-uniform aspect ratio; after ten misses the largest central one."""
    for _ in range(10):
        target = uniform(generator, *area) * height * width
        ratio = log_uniform(generator, *aspect)
        w, h = round(math.sqrt(target * ratio)), round(math.sqrt(target / ratio))
        if 0 < w <= width and 0 < h <= height:
            return Box(randint(generator, height - h + 1), randint(generator, width - w + 1), h, w)
    ratio = min(max(width / height, aspect[0]), aspect[1])
    h, w = min(height, round(width / ratio)), min(width, round(height * ratio))
    return Box((height - h) // 2, (width - w) // 2, h, w)


def resize(clip: torch.Tensor, size: tuple[int, int], *, antialias: bool) -> torch.Tensor:
    """Bilinear to (height, width), uint8 in and out. With `antialias` it is PIL's bilinear, without it is OpenCV's."""
    if tuple(clip.shape[-2:]) == size:
        return clip
    # torch resizes three interleaved bytes several times faster than three planes
    return F.interpolate(interleaved(clip), size=size, mode="bilinear", antialias=antialias)


def interleaved(clip: torch.Tensor) -> torch.Tensor:
    """The clip with its channels beside one another in memory."""
    if not clip.is_contiguous():  # a part of interleaved frames
        return clip.contiguous(memory_format=torch.channels_last)
    out = torch.empty_like(clip, memory_format=torch.channels_last)
    for channel in range(clip.shape[1]):  # of planes: faster than `contiguous`
        out[:, channel].copy_(clip[:, channel])
    return out


def resize_short_side(clip: torch.Tensor, size: int, *, antialias: bool = False) -> torch.Tensor:
    """The short side becomes `size`, the long one int(size * long / short)."""
    height, width = clip.shape[-2:]
    if height <= width:
        return resize(clip, (size, int(size * width / height)), antialias=antialias)
    return resize(clip, (int(size * height / width), size), antialias=antialias)


def spatial_boxes(height: int, width: int, size: int, crops: int) -> list[Box]:
    """The square crops of a test along the long side of a clip whose short side is `size`; one crop is the centre."""
    spare = max(height, width) - size
    # round, half to even, as CenterCrop of the releases' video_transforms.py
    starts = [round(spare / 2)] if crops == 1 else [int(i * spare / (crops - 1)) for i in range(crops)]
    if height >= width:
        return [Box(start, 0, size, size) for start in starts]
    return [Box(0, start, size, size) for start in starts]


def normalise(
    pixels: torch.Tensor,
    mean: Sequence[float] = tuple(IMAGENET_MEAN),
    std: Sequence[float] = tuple(IMAGENET_STD),
    *,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """uint8 (..., C, H, W) of any layout -> float32, contiguous: (pixels / 255 - mean) / std."""
    offset, factor = _offset_and_factor(tuple(mean), tuple(std), pixels.device)
    out = torch.empty(pixels.shape, dtype=torch.float32, device=pixels.device) if out is None else out
    if pixels.device.type != "cpu" or pixels.dim() == 3 or pixels.numel() <= SMALL_CLIP:
        return torch.sub(pixels, offset, out=out).mul_(factor)
    # frame by frame the passes stay in the cache, three times faster than over the batch at once
    for frame, target in zip(pixels.flatten(0, -4), out.view(-1, *out.shape[-3:])):
        target.copy_(frame).sub_(offset).mul_(factor)
    return out


@functools.lru_cache(maxsize=32)
def _offset_and_factor(
    mean: tuple[float, ...], std: tuple[float, ...], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """(C, 1, 1) each, kept: copying fresh numbers to a device would wait for it in every step."""
    with torch.inference_mode(False):
        offset = torch.tensor(mean, device=device).view(-1, 1, 1) * 255
        return offset, 1 / (torch.tensor(std, device=device).view(-1, 1, 1) * 255)


@dataclass(frozen=True)
class ColourJitter:
    """Brightness, contrast and saturation by factors in [1 - x, 1 + x], in random order."""

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0

    def __post_init__(self):
        for name in ("brightness", "contrast", "saturation"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"colour jitter's {name} must be in [0, 1], not {getattr(self, name)}")

    def __call__(self, clip: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        for i in torch.randperm(3, generator=generator).tolist():
            name, spread = (
                ("brightness", self.brightness),
                ("contrast", self.contrast),
                ("saturation", self.saturation),
            )[i]
            if not spread:
                continue
            factor = uniform(generator, 1 - spread, 1 + spread)
            out = torch.empty(clip.shape, dtype=torch.uint8)
            for frame, target in zip(clip, out):
                pixels = frame.float()
                if name == "contrast":
                    grey = luma(frame).mean()
                elif name == "saturation":
                    grey = luma(frame)
                else:
                    grey = 0.0
                target.copy_(pixels.sub_(grey).mul_(factor).add_(grey).round_().clamp_(0, 255))
            clip = out
        return clip


class Erased(NamedTuple):
    """A box of a clip and what fills it after normalising, (T, C, h, w) float32."""

    box: Box
    noise: torch.Tensor

    def fill(self, pixels: torch.Tensor) -> torch.Tensor:
        """The normalised clip, changed in place."""
        crop(pixels, self.box).copy_(self.noise)
        return pixels


@dataclass(frozen=True)
class RandomErasing:
    """One box for all frames of a normalised clip, filled with fresh normal noise in each frame."""

    probability: float = 0.25
    area: tuple[float, float] = (0.02, 1 / 3)
    aspect: tuple[float, float] = (0.3, 1 / 0.3)

    def __post_init__(self):
        if not 0.0 <= self.probability <= 1.0:
            raise ValueError(f"the probability of random erasing must be in [0, 1], not {self.probability}")

    def box(self, height: int, width: int, generator: torch.Generator) -> Box | None:
        """Where to erase, or None: by chance, or when a hundred draws gave no box smaller than the frame."""
        if uniform(generator, 0, 1) >= self.probability:
            return None
        for _ in range(100):
            target = uniform(generator, *self.area) * height * width
            ratio = log_uniform(generator, *self.aspect)
            h, w = round(math.sqrt(target * ratio)), round(math.sqrt(target / ratio))
            if 0 < h < height and 0 < w < width:
                return Box(randint(generator, height - h + 1), randint(generator, width - w + 1), h, w)
        return None

    def draw(self, shape: Sequence[int], generator: torch.Generator) -> Erased | None:
        """The box and its noise for a clip of this shape (T, C, H, W), or None where nothing is erased."""
        box = self.box(shape[-2], shape[-1], generator)
        if box is None:
            return None
        return Erased(box, torch.randn(*shape[:-2], box.height, box.width, generator=generator))


@dataclass(frozen=True)
class PretrainTransform:
    """Multi-scale crop to `size` x `size`, as V1 and V2 pre-train; uint8 out, the collator normalises."""

    size: int = 224
    scales: tuple[float, ...] = MULTI_SCALES
    flip: float = 0.0

    def __call__(self, clip: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        return self.of_box(crop(clip, self.box(*frame_size(clip), generator)), generator)

    def box(self, height: int, width: int, generator: torch.Generator) -> Box:
        """The part of the frames that is kept; the first draw of the two that make a sample."""
        return multi_scale_box(height, width, self.size, generator, scales=self.scales)

    def of_box(self, clip: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """The sample of a clip that was cut to its box."""
        out = resize(clip, (self.size, self.size), antialias=True)
        return out.flip(-1) if self.flip and uniform(generator, 0, 1) < self.flip else out


@dataclass(frozen=True)
class TrainTransform:
    """Colour jitter and RandAugment of the full frame, random resized crop, flip, normalise, random erasing: as both releases fine-tune.

    Turn `flip` to 0 where left and right belong to the class, as in Something-Something. float32 out; `as_bytes` stops
    before normalising and draws the same.
    """

    size: int = 224
    auto_augment: RandAugment | None = PUBLISHED_POLICY
    colour_jitter: ColourJitter | None = None
    area: tuple[float, float] = CROP_AREA
    aspect: tuple[float, float] = CROP_ASPECT
    flip: float = 0.5
    erasing: RandomErasing | None = RandomErasing()
    mean: tuple[float, ...] = tuple(IMAGENET_MEAN)
    std: tuple[float, ...] = tuple(IMAGENET_STD)

    def __call__(self, clip: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        clip, erased = self.as_bytes(clip, generator)
        pixels = normalise(clip, self.mean, self.std)
        return pixels if erased is None else erased.fill(pixels)

    def as_bytes(self, clip: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, Erased | None]:
        """The uint8 clip before it is normalised, and what is to be erased afterwards."""
        # The box is drawn first, so that RandAugment works out no more of the frame than is kept.
        box = random_resized_box(*frame_size(clip), generator, area=self.area, aspect=self.aspect)
        if self.colour_jitter is not None:
            clip = self.colour_jitter(clip, generator)
        clip = crop(clip, box) if self.auto_augment is None else self.auto_augment(clip, generator, box)
        # kinetics.py interpolates without antialiasing
        clip = resize(clip, (self.size, self.size), antialias=False)
        if self.flip and uniform(generator, 0, 1) < self.flip:
            clip = clip.flip(-1)
        return clip, None if self.erasing is None else self.erasing.draw(clip.shape, generator)


@dataclass(frozen=True)
class EvalTransform:
    """Short side to `size` (no antialiasing, as the official test), then the centre crop; uint8 out."""

    size: int = 224
    antialias: bool = False

    def __call__(self, clip: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        return self.views(clip, 1)[0]

    def views(self, clip: torch.Tensor, crops: int) -> list[torch.Tensor]:
        """The `crops` square crops of a test, along the long side."""
        clip = resize_short_side(clip, self.size, antialias=self.antialias)
        return [crop(clip, box) for box in spatial_boxes(*frame_size(clip), self.size, crops)]
