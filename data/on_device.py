"""The last part of the data path, wherever the bytes of a batch are by then: normalise, erase, mix, in this order.

Workers draw everything that is random and hand over uint8 clips with a `Finishing` that says what is left to do; the
training loop calls `finish` on each micro-batch that it moved to the device. Collators call it too, where floats are asked
of them, so that both ways give the same pixels. Nothing is drawn here, and nothing waits for a device.
"""

# B samples of a batch  T frames  C channels  H W pixels

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from videomae.data.boxes import Box
from videomae.data.mixing import Mix
from videomae.data.transforms import Erased, normalise

FINISHING, NOISE = "finishing", "noise"  # the keys of a batch that `finish` takes out


@dataclass(frozen=True)
class Finishing:
    """What is left to do for the pixels of a batch.

    mean, std: of the normalisation. erased: for each sample the box that is filled with noise, or None; all the noise
    stands in one flat float32 tensor beside the pixels, box after box. mix: what is mixed last. copies: how often each
    sample stands in the finished batch, one after the other, for as many masks.
    """

    mean: Sequence[float]
    std: Sequence[float]
    erased: Sequence[Box | None] = ()
    mix: Mix | None = None
    copies: int = 1


def flat_noise(erased: Sequence[Erased | None]) -> torch.Tensor:
    """The noise of all boxes, one after the other: a single tensor, which is pinned and moved like any other."""
    return torch.cat([each.noise.flatten() for each in erased if each is not None])


def finish(batch: Mapping[str, Any]) -> Mapping[str, Any]:
    """Make normalised float32 `pixel_values` of a batch of bytes; any other batch comes back as it is.

    The given batch is left alone: it may be used for another step.
    """
    todo = batch.get(FINISHING)
    if todo is None:
        return batch
    pixels = normalise(batch["pixel_values"], todo.mean, todo.std)
    if NOISE in batch:
        fill(pixels, todo.erased, batch[NOISE])
    if todo.mix is not None:
        todo.mix.apply(pixels)
    if todo.copies > 1:
        pixels = pixels.repeat_interleave(todo.copies, dim=0)
    return {name: value for name, value in batch.items() if name not in (FINISHING, NOISE)} | {"pixel_values": pixels}


def fill(pixels: torch.Tensor, erased: Sequence[Box | None], noise: torch.Tensor) -> None:
    """Put the noise of each box in its place, in (B, T, C, H, W) floats."""
    frames, channels = pixels.shape[1:3]
    boxes = [(clip, box) for clip, box in zip(pixels, erased) if box is not None]
    sizes = [frames * channels * box.height * box.width for _, box in boxes]
    for (clip, box), part in zip(boxes, noise.split(sizes)):
        Erased(box, part.view(frames, channels, box.height, box.width)).fill(clip)
