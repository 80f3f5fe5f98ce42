"""RandAugment for clips: the operations as PIL defines them, in torch, the same for all frames of a clip.

Definitions, ranges and the policy string (`rand-m7-n4-mstd0.5-inc1`) follow timm's RandAugment in the form that
SlowFast and the VideoMAE release use for video. Each operation gives PIL's bytes within one rounding step.
"""

# T frames  C channels  H W pixels

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from videomae.data.boxes import Box, crop
from videomae.data.randomness import randint, uniform

MAX_LEVEL = 10.0
FILL = 128  # the grey that moves in at the borders

# name -> how likely, relative to the others, under the policy's `w0`; otherwise all are equally likely
WEIGHTS = {
    "AutoContrast": 0.025,
    "Equalize": 0.005,
    "Invert": 0.0,
    "Rotate": 0.3,
    "Posterize": 0.0,
    "Solarize": 0.005,
    "SolarizeAdd": 0.005,
    "Color": 0.025,
    "Contrast": 0.005,
    "Brightness": 0.005,
    "Sharpness": 0.025,
    "ShearX": 0.2,
    "ShearY": 0.2,
    "TranslateXRel": 0.1,
    "TranslateYRel": 0.1,
}
SIGNED = {"Rotate": 30.0, "ShearX": 0.3, "ShearY": 0.3, "TranslateXRel": 0.45, "TranslateYRel": 0.45}
FRAME_STATISTICS = ("AutoContrast", "Equalize", "Contrast")  # what they do to a pixel depends on the whole frame
TAPS_REACH = 3  # pixels from a place to the farthest that has a part in its value, and one for rounding
ENHANCING = ("Color", "Contrast", "Brightness", "Sharpness")


@dataclass(frozen=True)
class RandAugment:
    """Apply `layers` operations drawn with replacement, each with `probability`, at a (noisy) magnitude of 0 to 10.

    increasing: a greater magnitude always means a stronger change; without it some operations run the other way.
    weighted: draw by `WEIGHTS` without replacement (the policy's `w0`).
    """

    magnitude: float = MAX_LEVEL
    layers: int = 2
    magnitude_std: float = 0.0
    increasing: bool = False
    weighted: bool = False
    probability: float = 0.5
    interpolation: str = "bicubic"

    def __post_init__(self):
        if not 0 <= self.magnitude <= MAX_LEVEL:
            raise ValueError(f"RandAugment's magnitude must be in [0, {MAX_LEVEL:g}], not {self.magnitude}")
        if self.layers < 0 or self.magnitude_std < 0:
            raise ValueError(f"RandAugment needs n >= 0 and mstd >= 0, not n{self.layers}-mstd{self.magnitude_std}")
        if self.weighted and self.layers > sum(weight > 0 for weight in WEIGHTS.values()):
            raise ValueError(f"RandAugment with w0 draws without replacement, so n{self.layers} is too many")
        if self.interpolation not in _TAPS:
            raise ValueError(f"interpolation must be one of {', '.join(_TAPS)}, not {self.interpolation!r}")

    @classmethod
    def parse(cls, policy: str, **fields) -> "RandAugment":
        """Read a policy such as `rand-m7-n4-mstd0.5-inc1`: magnitude, layers, its noise, increasing; `w0` for weights."""
        head, *sections = policy.split("-")
        if head != "rand":
            raise ValueError(
                f"a RandAugment policy starts with 'rand', as in 'rand-m7-n4-mstd0.5-inc1', not {policy!r}"
            )
        for section in sections:
            match = re.fullmatch(r"(mstd|inc|m|n|w)(\d+(?:\.\d+)?)", section)
            if match is None or (match[1] in ("n", "inc", "w") and "." in match[2]):
                raise ValueError(f"cannot read {section!r} in {policy!r}; sections are m7, n4, mstd0.5, inc1 and w0")
            key, value = match[1], float(match[2])
            if key == "w":
                if value:
                    raise ValueError(f"RandAugment has one set of weights, w0; {policy!r} asks for another")
                fields["weighted"] = True
            elif key == "n":
                fields["layers"] = int(value)
            elif key == "inc":
                fields["increasing"] = bool(value)
            else:
                fields["magnitude" if key == "m" else "magnitude_std"] = value
        return cls(**fields)

    def draw(self, generator: torch.Generator) -> list[tuple[str, float]]:
        """The operations of one clip, in order, with their arguments in the units of `OPERATIONS`."""
        names = list(WEIGHTS)
        if self.weighted:
            weights = torch.tensor([WEIGHTS[name] for name in names])
            chosen = torch.multinomial(weights, self.layers, generator=generator).tolist()
        else:
            chosen = torch.randint(len(names), (self.layers,), generator=generator).tolist()
        drawn = []
        for name in (names[i] for i in chosen):
            if uniform(generator, 0, 1) >= self.probability:
                continue
            level = self.magnitude + self.magnitude_std * torch.randn((), generator=generator).item()
            level = min(max(level, 0.0), MAX_LEVEL) / MAX_LEVEL
            drawn.append((name, self._argument(name, level, generator)))
        return drawn

    def _argument(self, name: str, level: float, generator: torch.Generator) -> float:
        if name in SIGNED:
            return level * SIGNED[name] * _sign(generator)
        if name in ENHANCING:
            return 1.0 + level * 0.9 * _sign(generator) if self.increasing else level * 1.8 + 0.1
        if name == "Posterize":
            bits = int(level * 4)
            return 4 - bits if self.increasing else bits
        if name == "Solarize":
            threshold = int(level * 256)
            return 256 - threshold if self.increasing else threshold
        if name == "SolarizeAdd":
            return int(level * 110)
        return 0.0

    def __call__(self, clip: torch.Tensor, generator: torch.Generator, box: Box | None = None) -> torch.Tensor:
        return self.apply(clip, self.draw(generator), box)

    def apply(self, clip: torch.Tensor, drawn: list[tuple[str, float]], box: Box | None = None) -> torch.Tensor:
        """Run drawn operations on a uint8 clip (T, C, H, W) of 1 or 3 channels.

        With `box`, only that part of the result, and the work is mostly that of the part.
        """
        whole = Box(0, 0, *clip.shape[-2:])
        box = box or whole
        if not drawn:
            return crop(clip, box)
        if clip.dtype != torch.uint8 or clip.dim() != 4 or clip.shape[1] not in (1, 3):
            raise ValueError(
                f"RandAugment takes uint8 clips (T, C, H, W) of 1 or 3 channels, got {clip.dtype} {tuple(clip.shape)}"
            )
        # From the last operation back to the first: which part of its input each one needs.
        needed = [box]
        for name, argument in reversed(drawn):
            if name in MATRICES:
                needed.append(_source(MATRICES[name](argument, whole.height, whole.width), needed[-1], whole))
            elif name in FRAME_STATISTICS:
                needed.append(whole)
            else:
                needed.append(needed[-1].grown(1, whole) if name == "Sharpness" else needed[-1])
        needed.reverse()
        clip = _planes(crop(clip, needed[0]))  # the operations run along them
        for (name, argument), given, wanted in zip(drawn, needed, needed[1:]):
            if name in MATRICES:
                clip = OPERATIONS[name](clip, argument, self.interpolation, Cut(whole, given, wanted))
            elif name in FRAME_STATISTICS:
                clip = OPERATIONS[name](clip, argument, wanted.inside(given))
            else:
                clip = crop(OPERATIONS[name](clip, argument), wanted.inside(given)).contiguous()
        return clip


def _planes(clip: torch.Tensor) -> torch.Tensor:
    """The clip in planes of their own; channel by channel is faster than `contiguous` for three interleaved ones."""
    out = torch.empty(clip.shape, dtype=torch.uint8)
    for channel in range(clip.shape[1]):
        out[:, channel].copy_(clip[:, channel])
    return out


def _sign(generator: torch.Generator) -> int:
    return 1 if randint(generator, 2) else -1


# -- points: each output byte depends on one input byte, and at most on statistics of its frame ---------------------


def invert(clip: torch.Tensor, _: float = 0) -> torch.Tensor:
    return 255 - clip


def posterize(clip: torch.Tensor, bits: float) -> torch.Tensor:
    """Keep the upper `bits` of each byte."""
    return clip & (0xFF & ~((1 << (8 - int(bits))) - 1))


def solarize(clip: torch.Tensor, threshold: float) -> torch.Tensor:
    """Invert bytes at or above the threshold."""
    if threshold > 255:
        return clip
    out = torch.empty_like(clip)
    for frame, target in zip(clip, out):
        # 255 - x is x ^ 255; the sign of x - threshold spread over all bits is the mask (comparisons are slower)
        below = (frame.short() - int(threshold)) >> 15
        torch.bitwise_xor(frame, below.bitwise_not_().to(torch.uint8), out=target)
    return out


def solarize_add(clip: torch.Tensor, amount: float) -> torch.Tensor:
    """Brighten bytes below 128; `amount` is at most 110, so nothing overflows."""
    out = torch.empty_like(clip)
    for frame, target in zip(clip, out):
        torch.add(frame, (1 - (frame >> 7)).mul_(int(amount)), out=target)
    return out


def auto_contrast(clip: torch.Tensor, _: float = 0, wanted: Box | None = None) -> torch.Tensor:
    """Stretch each channel of each frame to 0 ... 255; of the result the wanted part."""
    low = clip.amin((2, 3), keepdim=True).float()
    high = clip.amax((2, 3), keepdim=True).float()
    flat = high <= low  # one value only: left as it is
    scale = torch.where(flat, 1.0, 255.0 / (high - low).clamp_(min=1))
    low[flat] = 0.0
    clip = clip if wanted is None else crop(clip, wanted)
    out, truncate = torch.empty_like(clip), Truncate(clip)
    for plane, target, offset, factor in zip(*(values.flatten(0, 1) for values in (clip, out, low, scale))):
        # slightly above the exact product, which truncation would otherwise push one below PIL's double precision
        truncate(truncate.floats(plane).sub_(offset).mul_(factor).add_(1e-4), target)
    return out


def equalize(clip: torch.Tensor, _: float = 0, wanted: Box | None = None) -> torch.Tensor:
    """Flatten the histogram of each channel of each frame; of the result the wanted part."""
    planes = clip.flatten(0, 1).flatten(1)
    counts = torch.stack([torch.bincount(plane, minlength=256) for plane in planes])
    # PIL: the pixels that do not have the largest value, over 255, make one step of the output
    largest = 255 - (counts.flip(1) > 0).int().argmax(1, keepdim=True)
    steps = (planes.shape[1] - counts.gather(1, largest)) // 255
    before = counts.cumsum(1) - counts
    tables = torch.where(steps > 0, (before + steps // 2) // steps.clamp(min=1), torch.arange(256))
    tables = tables.clamp_(max=255).to(torch.uint8)
    clip = clip if wanted is None else crop(clip, wanted).contiguous()
    out = torch.empty_like(clip)
    for table, plane, target in zip(tables, *(values.flatten(0, 1).flatten(1) for values in (clip, out))):
        torch.index_select(table, 0, plane.int(), out=target)
    return out


def luma(frame: torch.Tensor) -> torch.Tensor:
    """(C, H, W) uint8 -> (H, W) float grey values by PIL's integer formula, which float32 holds exactly."""
    if frame.shape[0] == 1:
        return frame[0].float()
    grey = frame[0].float().mul_(19595).add_(frame[1], alpha=38470).add_(frame[2], alpha=7471)
    return grey.add_(32768).mul_(1 / 65536).floor_()


def brightness(clip: torch.Tensor, factor: float) -> torch.Tensor:
    return _blend(clip, factor, lambda frame: (0.0,) * len(frame))


def contrast(clip: torch.Tensor, factor: float, wanted: Box | None = None) -> torch.Tensor:
    greys = iter([math.floor(luma(frame).double().mean().item() + 0.5) for frame in clip])
    clip = clip if wanted is None else crop(clip, wanted)
    return _blend(clip, factor, lambda frame: (next(greys),) * len(frame))


def color(clip: torch.Tensor, factor: float) -> torch.Tensor:
    return _blend(clip, factor, lambda frame: (luma(frame),) * len(frame))


def sharpness(clip: torch.Tensor, factor: float) -> torch.Tensor:
    return _blend(clip, factor, _smooth)


def _blend(clip: torch.Tensor, factor: float, degenerate: Callable) -> torch.Tensor:
    """degenerate + factor * (frame - degenerate), clipped and truncated. `degenerate(frame)`: a number or plane a channel."""
    out, truncate = torch.empty_like(clip), Truncate(clip)
    for frame, targets in zip(clip, out):
        for plane, target, base in zip(frame, targets, degenerate(frame)):
            truncate(truncate.floats(plane).sub_(base).mul_(factor).add_(base).add_(1e-4), target)
    return out


class Truncate:
    """float -> uint8, clipped and cut off, plane by plane in the same memory: fresh memory costs more than the arithmetic."""

    def __init__(self, planes: torch.Tensor):
        self._floats = torch.empty(planes.shape[-2:])
        self._shorts = torch.empty(planes.shape[-2:], dtype=torch.int16)

    def floats(self, plane: torch.Tensor) -> torch.Tensor:
        """A plane as floats, until the next one."""
        return self._floats.copy_(plane)

    def __call__(self, pixels: torch.Tensor, target: torch.Tensor) -> None:
        """By way of int16, since torch is slow from float to uint8."""
        target.copy_(self._shorts.copy_(pixels.clamp_(0, 255)))


def _smooth(frame: torch.Tensor) -> torch.Tensor:
    """PIL's SMOOTH: 3x3 ones with a 5 in the middle, over 13, rounded; the border stays."""
    out = frame.float()
    if min(frame.shape[1:]) < 3:
        return out
    small = frame.short()  # sums reach 13 * 255
    rows = small[:, :-2] + small[:, 1:-1]
    rows += small[:, 2:]
    total = rows[:, :, :-2] + rows[:, :, 1:-1]
    total += rows[:, :, 2:]
    total.add_(small[:, 1:-1, 1:-1], alpha=4)
    out[:, 1:-1, 1:-1] = total.float().mul_(1 / 13).add_(0.5).floor_()
    return out


# -- geometry: one affine map with PIL's sampling ---------------------------------------------------------------------


class Cut(NamedTuple):
    """Where a clip lies in its frames, and which part of the result is wanted."""

    whole: Box
    given: Box
    wanted: Box

    @classmethod
    def none(cls, clip: torch.Tensor) -> "Cut":
        whole = Box(0, 0, *clip.shape[-2:])
        return cls(whole, whole, whole)


Matrix = tuple[float, float, float, float, float, float]  # (x, y) comes from (a x + b y + c, d x + e y + f)


def _rotation(degrees: float, height: int, width: int) -> Matrix:
    angle = -math.radians(degrees)
    cos, sin = math.cos(angle), math.sin(angle)
    x, y = width / 2, height / 2
    return (cos, sin, x - cos * x - sin * y, -sin, cos, y + sin * x - cos * y)


# name -> function of (argument, height and width of the frame)
MATRICES: dict[str, Callable[[float, int, int], Matrix]] = {
    "Rotate": _rotation,
    "ShearX": lambda factor, height, width: (1, factor, 0, 0, 1, 0),
    "ShearY": lambda factor, height, width: (1, 0, 0, factor, 1, 0),
    "TranslateXRel": lambda share, height, width: (1, 0, share * width, 0, 1, 0),
    "TranslateYRel": lambda share, height, width: (1, 0, 0, 0, 1, share * height),
}


def _source(matrix: Matrix, wanted: Box, whole: Box) -> Box:
    """The part of the frame from which the wanted part of an affine map comes, taps included; at least one pixel."""
    a, b, c, d, e, f = matrix
    corners = [(wanted.left + x * wanted.width, wanted.top + y * wanted.height) for x in (0, 1) for y in (0, 1)]
    columns, rows = [a * x + b * y + c for x, y in corners], [d * x + e * y + f for x, y in corners]
    left, right = _span(columns, whole.width)
    top, bottom = _span(rows, whole.height)
    return Box(top, left, bottom - top, right - left)


def _span(places: list[float], size: int) -> tuple[int, int]:
    first = min(max(math.floor(min(places)) - TAPS_REACH, 0), size - 1)
    return first, max(min(math.ceil(max(places)) + TAPS_REACH, size), first + 1)


def rotate(clip: torch.Tensor, degrees: float, interpolation: str = "bicubic", cut: Cut | None = None) -> torch.Tensor:
    """Counter-clockwise about the centre, the size kept."""
    return _move("Rotate", clip, degrees, interpolation, cut)


def shear_x(clip: torch.Tensor, factor: float, interpolation: str = "bicubic", cut: Cut | None = None) -> torch.Tensor:
    return _move("ShearX", clip, factor, interpolation, cut)


def shear_y(clip: torch.Tensor, factor: float, interpolation: str = "bicubic", cut: Cut | None = None) -> torch.Tensor:
    return _move("ShearY", clip, factor, interpolation, cut)


def _move(name: str, clip: torch.Tensor, argument: float, interpolation: str, cut: Cut | None) -> torch.Tensor:
    cut = cut or Cut.none(clip)
    return affine(clip, MATRICES[name](argument, cut.whole.height, cut.whole.width), interpolation, cut)


def translate_x(
    clip: torch.Tensor, share: float, interpolation: str = "bicubic", cut: Cut | None = None
) -> torch.Tensor:
    """To the left by a share of the width."""
    cut = cut or Cut.none(clip)
    return _shift(clip, share * cut.whole.width, -1, interpolation, cut)


def translate_y(
    clip: torch.Tensor, share: float, interpolation: str = "bicubic", cut: Cut | None = None
) -> torch.Tensor:
    """Upwards by a share of the height."""
    cut = cut or Cut.none(clip)
    return _shift(clip, share * cut.whole.height, -2, interpolation, cut)


def _shift(clip: torch.Tensor, pixels: float, dim: int, interpolation: str, cut: Cut) -> torch.Tensor:
    """`affine` for a translation: the weights are the same everywhere, so shifted frames are summed as a whole."""
    whole_box, given, box = cut
    if dim == -2:
        size, origin, start, length = whole_box.height, given.top, box.top, box.height
        across = Box(0, box.left - given.left, given.height, box.width)
    else:
        size, origin, start, length = whole_box.width, given.left, box.left, box.width
        across = Box(box.top - given.top, 0, box.height, given.width)
    # Where the source, at i + 0.5 + pixels, lies in the frame.
    first = max(start, math.ceil(-pixels - 0.5))
    count = min(start + length, math.ceil(size - 0.5 - pixels)) - first
    out = clip.new_full((*clip.shape[:2], box.height, box.width), FILL)
    if count <= 0:
        return out
    if interpolation == "nearest":
        whole, taps = math.floor(pixels + 0.5), ((0, 1.0),)
    else:
        whole = math.floor(pixels)
        taps = tuple(zip(*_kernel(pixels - whole, interpolation)))
    planes, targets = crop(clip, across).flatten(0, 1), out.narrow(dim, first - start, count).flatten(0, 1)
    length, truncate = planes.shape[dim], Truncate(targets)
    # The edges twice more, for taps beyond the frame; inside of it none gets there.
    padded = planes.new_empty([n + 4 * (i == dim % 2) for i, n in enumerate(planes.shape[1:])], dtype=torch.float32)
    total = torch.empty(targets.shape[1:])
    for plane, target in zip(planes, targets):
        padded.narrow(dim, 2, length).copy_(plane)
        padded.narrow(dim, 0, 2).copy_(plane.narrow(dim, 0, 1))
        padded.narrow(dim, length + 2, 2).copy_(plane.narrow(dim, length - 1, 1))
        total.fill_(1e-3)
        for reach, weight in taps:
            total.add_(padded.narrow(dim, first - origin + whole + reach + 2, count), alpha=weight)
        truncate(total, target)
    return out


def affine(clip: torch.Tensor, matrix: Matrix, interpolation: str = "bicubic", cut: Cut | None = None) -> torch.Tensor:
    """Output pixel (x, y) comes from (a x + b y + c, d x + e y + f) of the input; grey comes in from outside.

    All channels of all frames move alike, so a pixel is a row of T*C values and an output pixel a weighted sum of a
    few such rows, which is what embedding_bag computes, at the speed of memory. Of the output the wanted part of `cut` is made.
    """
    a, b, c, d, e, f = matrix
    frames, channels = clip.shape[:2]
    whole, given, box = cut or Cut.none(clip)
    height, width = whole.height, whole.width
    # NumPy turns bytes faster than torch.
    turned = np.ascontiguousarray(clip.reshape(frames * channels, -1).numpy().T)
    table = torch.from_numpy(turned).float().sub_(FILL)
    out = torch.empty(frames * channels, box.height * box.width, dtype=torch.uint8)
    columns = torch.arange(box.left, box.left + box.width, dtype=torch.float32) + 0.5
    for top, bottom in _bands(box.height):
        rows = torch.arange(box.top + top, box.top + bottom, dtype=torch.float32).view(-1, 1) + 0.5
        x, y = a * columns + b * rows + c, d * columns + e * rows + f
        inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        # A map that leaves an axis as it is needs one tap along it.
        column, column_weight = _taps(x, width, "nearest" if (a, b, c) == (1, 0, 0) else interpolation)
        row, row_weight = _taps(y, height, "nearest" if (d, e, f) == (0, 1, 0) else interpolation)
        # What lies outside of the given part has no weight; it only needs a place.
        row.sub_(given.top).clamp_(0, given.height - 1).mul_(given.width)
        column.sub_(given.left).clamp_(0, given.width - 1)
        index = (row.unsqueeze(-1) + column.unsqueeze(-2)).view(x.numel(), -1)
        weight = row_weight.mul_(inside.unsqueeze(-1)).unsqueeze(-1) * column_weight.unsqueeze(-2)
        pixels = F.embedding_bag(index, table, per_sample_weights=weight.view(x.numel(), -1), mode="sum")
        # Truncated like PIL's bytes; the small excess keeps float32 from falling below what is exact in double.
        band = pixels.add_(FILL + 1e-3).clamp_(0, 255).short().byte()
        out[:, top * box.width : bottom * box.width] = band.t()
    return out.view(frames, channels, box.height, box.width)


def _bands(height: int, rows: int = 32) -> Iterator[tuple[int, int]]:
    """Bands of rows, so that what one pass writes the next still finds in the cache."""
    for top in range(0, height, rows):
        yield top, min(top + rows, height)


def _taps(position: torch.Tensor, size: int, interpolation: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Which pixels along one axis make the value at a position (pixel centres at .5), and their weights: (..., k)."""
    if interpolation == "nearest":
        return position.floor().int().clamp_(0, size - 1).unsqueeze(-1), torch.ones(*position.shape, 1)
    position = position - 0.5
    first = position.floor()
    reach, weights = _kernel(position - first, interpolation)
    index = first.int().unsqueeze(-1) + torch.tensor(reach, dtype=torch.int32)
    return index.clamp_(0, size - 1), torch.stack(weights, -1)


def _kernel(d, interpolation: str) -> tuple[tuple[int, ...], tuple]:
    """Neighbours, counted from the pixel at or before a place that lies `d` in [0, 1) behind it, and their weights."""
    if interpolation == "bilinear":
        return (0, 1), (1 - d, d)
    # the cubic of PIL's affine transform, whose slope parameter is -1
    d2, d3 = d * d, d * d * d
    return (-1, 0, 1, 2), (-d + 2 * d2 - d3, 1 - 2 * d2 + d3, d + d2 - d3, d3 - d2)


_TAPS = ("nearest", "bilinear", "bicubic")

# name -> function of (clip, argument) or, for those of MATRICES, (clip, argument, interpolation, cut)
OPERATIONS: dict[str, Callable] = {
    "AutoContrast": auto_contrast,
    "Equalize": equalize,
    "Invert": invert,
    "Rotate": rotate,
    "Posterize": posterize,
    "Solarize": solarize,
    "SolarizeAdd": solarize_add,
    "Color": color,
    "Contrast": contrast,
    "Brightness": brightness,
    "Sharpness": sharpness,
    "ShearX": shear_x,
    "ShearY": shear_y,
    "TranslateXRel": translate_x,
    "TranslateYRel": translate_y,
}
