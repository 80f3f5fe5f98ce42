"""From items of a VideoDataset to the batch that a model takes: pixels normalised, masks drawn, samples mixed.

Each batch carries `sources`, the names of its clips; a trainer pops it before `model(**batch)`. Masks and mixing are
seeded from the keys that the items carry, so a batch is the same wherever it is put together.
"""

# B items  S samples of each  T frames  C channels  H W pixels  N tokens

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from videomae.configuration_videomae import IMAGENET_MEAN, IMAGENET_STD
from videomae.data.mixing import Mixing
from videomae.data.randomness import DECODER_MASK, MASK, MIXING, generator_for, seed_for
from videomae.data.transforms import normalise
from videomae.masking_videomae import MASKS, make_mask, stack_masks

Item = dict[str, Any]
Batch = dict[str, Any]


@dataclass(frozen=True)
class PretrainCollator:
    """Items to the arguments of `VideoMAEForPreTraining`, samples flattened into the batch.

    grid: the model's `config.grid`, (t, h, w) tokens. decoder_mask: "running_cell" for VideoMAE V2.

    Gives pixel_values (B*S, T, C, H, W) float32 normalised, bool_masked_pos (B*S, N) bool True = hidden, num_visible
    int, with a decoder mask also bool_decoded_pos (B*S, N) bool True = rebuilt and num_decoded int, and sources
    (B*S names). A count is None where the clips differ in it, which only odd grids do under running cells.
    """

    grid: tuple[int, int, int]
    mask: str = "tube"
    mask_ratio: float = 0.9
    decoder_mask: str | None = None
    decoder_mask_ratio: float = 0.5
    mean: Sequence[float] = tuple(IMAGENET_MEAN)
    std: Sequence[float] = tuple(IMAGENET_STD)

    def __post_init__(self):
        for name in ("mask", "decoder_mask"):
            kind = getattr(self, name)
            if kind is not None and kind not in MASKS:
                raise ValueError(f"{name} must be one of {', '.join(MASKS)}, not {kind!r}")
        # Drawn once here: a ratio or grid that cannot work fails before the first epoch.
        hidden = make_mask(self.mask, self.grid, self.mask_ratio, torch.Generator().manual_seed(0))
        if hidden.all() or not hidden.any():
            what = "hides every token" if hidden.all() else "hides nothing"
            raise ValueError(f"mask_ratio={self.mask_ratio} {what} on a grid of {tuple(self.grid)}")
        if self.decoder_mask is not None:
            make_mask(self.decoder_mask, self.grid, self.decoder_mask_ratio, torch.Generator().manual_seed(0))

    def __call__(self, items: Sequence[Item]) -> Batch:
        items = _readable(items)
        keys = [key for item in items for key in item["keys"]]
        masks = [make_mask(self.mask, self.grid, self.mask_ratio, generator_for(key, MASK)) for key in keys]
        hidden, num_visible = stack_masks(masks)
        batch = {
            "pixel_values": stack_pixels(items, self.mean, self.std),
            "bool_masked_pos": hidden,
            "num_visible": num_visible,
        }
        if self.decoder_mask is not None:
            kind, ratio = self.decoder_mask, self.decoder_mask_ratio
            masks = [make_mask(kind, self.grid, ratio, generator_for(key, DECODER_MASK)) for key in keys]
            left_out, num_decoded = stack_masks(masks)
            batch |= {"bool_decoded_pos": ~left_out, "num_decoded": num_decoded}
        return batch | {"sources": _sources(items)}


@dataclass(frozen=True)
class ClassificationCollator:
    """Items to pixel_values (B*S, T, C, H, W) float32, labels and sources, samples flattened into the batch.

    labels are (B*S,) int64 class numbers, or (B*S, K) floats: for data sets with vectors, and always with `mixing`,
    which makes them soft (and needs an even B*S). Items without a label give a batch without labels.
    """

    mixing: Mixing | None = None
    mean: Sequence[float] = tuple(IMAGENET_MEAN)
    std: Sequence[float] = tuple(IMAGENET_STD)

    def __call__(self, items: Sequence[Item]) -> Batch:
        items = _readable(items)
        batch = {"pixel_values": stack_pixels(items, self.mean, self.std)}
        labels = _labels(items)
        if labels is not None:
            copies = torch.tensor([len(item["keys"]) for item in items])
            batch["labels"] = labels.repeat_interleave(copies, dim=0)
        if self.mixing is not None:
            if labels is None:
                raise ValueError("mixing needs labels, and these items have none")
            seed = seed_for(items[0]["keys"][0], MIXING)
            batch["pixel_values"], batch["labels"] = self.mixing(batch["pixel_values"], batch["labels"], seed)
        return batch | {"sources": _sources(items)}


def stack_pixels(items: Sequence[Item], mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """(B*S, T, C, H, W) float32: bytes are normalised here, floats already are."""
    shapes = {tuple(item["pixel_values"].shape[1:]) for item in items}
    if len(shapes) > 1:
        raise ValueError(f"the clips of a batch differ in shape: {sorted(shapes)}; give the transform one size")
    pixels = [item["pixel_values"] for item in items]
    if pixels[0].dtype != torch.uint8:
        return torch.cat(pixels) if len(pixels) > 1 else pixels[0]
    out = torch.empty(sum(map(len, pixels)), *pixels[0].shape[1:])
    for clip, target in zip(pixels, out.split([len(clip) for clip in pixels])):
        normalise(clip, mean, std, out=target)
    return out


def _labels(items: Sequence[Item]) -> torch.Tensor | None:
    labels = [item["label"] for item in items]
    if any(label is None for label in labels):
        return None
    return torch.stack(labels) if isinstance(labels[0], torch.Tensor) else torch.tensor(labels)


def _sources(items: Sequence[Item]) -> list[str]:
    return [item["path"] for item in items for _ in item["keys"]]


def _readable(items: Sequence[Item]) -> list[Item]:
    readable = [item for item in items if item["pixel_values"] is not None]
    if not readable:
        raise ValueError(
            f"none of the {len(items)} videos of a batch could be read: {[item['path'] for item in items]}"
        )
    return readable
