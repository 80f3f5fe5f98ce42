"""From items of a VideoDataset to the batch that a model takes: pixels stacked, masks drawn, samples mixed.

Pixels are normalised floats, or with `as_bytes` the bytes of the clips and what is left to do: on_device.finish, which is
called here otherwise, then makes the same floats of them on the device.

Each batch carries `sources`, the names of its clips; a trainer pops it before `model(**batch)`. Masks and mixing are
seeded from the keys that the items carry, so a batch is the same wherever it is put together.
"""

# B items  S samples of each  T frames  C channels  H W pixels  N tokens

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from videomae.configuration_videomae import IMAGENET_MEAN, IMAGENET_STD
from videomae.data.boxes import frame_size
from videomae.data.mixing import Mix, Mixing
from videomae.data.on_device import FINISHING, NOISE, Finishing, finish, flat_noise
from videomae.data.randomness import DECODER_MASK, MASK, MIXING, generator_for, seed_for
from videomae.data.samples import stack
from videomae.masking_videomae import MASKS, SEVERAL_MASKS, make_mask, masks_of, stack_masks

Item = dict[str, Any]
Batch = dict[str, Any]


@dataclass(frozen=True)
class PretrainCollator:
    """Items to the arguments of `VideoMAEForPreTraining`, samples flattened into the batch.

    grid: the model's `config.grid`, (t, h, w) tokens. decoder_mask: "running_cell" for VideoMAE V2. as_bytes: the batch
        is for `on_device.finish`.

    Gives pixel_values (B*S, T, C, H, W) float32 normalised, bool_masked_pos (B*S, N) bool True = hidden, num_visible
    int, with a decoder mask also bool_decoded_pos (B*S, N) bool True = rebuilt and num_decoded int, and sources
    (B*S names). A count is None where the clips differ in it, which only odd grids do under running cells. With the
    mask "blocks" each sample has two rows of pixels and masks, one after the other: its short and its long blocks.
    """

    grid: tuple[int, int, int]
    mask: str = "tube"
    mask_ratio: float = 0.9
    decoder_mask: str | None = None
    decoder_mask_ratio: float = 0.5
    mean: Sequence[float] = tuple(IMAGENET_MEAN)
    std: Sequence[float] = tuple(IMAGENET_STD)
    as_bytes: bool = False

    def __post_init__(self):
        for name in ("mask", "decoder_mask"):
            kind = getattr(self, name)
            known = (*MASKS, *SEVERAL_MASKS) if name == "mask" else MASKS
            if kind is not None and kind not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, not {kind!r}")
        # Drawn once here: a ratio or grid that cannot work fails before the first epoch.
        for kind in masks_of(self.mask):
            hidden = make_mask(kind, self.grid, self.mask_ratio, torch.Generator().manual_seed(0))
            if hidden.all() or not hidden.any():
                what = "hides every token" if hidden.all() else "hides nothing"
                raise ValueError(f"mask_ratio={self.mask_ratio} {what} on a grid of {tuple(self.grid)}")
        if self.decoder_mask is not None:
            make_mask(self.decoder_mask, self.grid, self.decoder_mask_ratio, torch.Generator().manual_seed(0))

    def __call__(self, items: Sequence[Item]) -> Batch:
        items = _readable(items)
        keys = [key for item in items for key in item["keys"]]
        kinds = masks_of(self.mask)
        hidden, num_visible = stack_masks(self._masks(keys, MASK, kinds, self.mask_ratio))
        batch = pixels_of(items, self.mean, self.std, as_bytes=self.as_bytes, copies=len(kinds))
        batch |= {"bool_masked_pos": hidden, "num_visible": num_visible}
        if self.decoder_mask is not None:
            kinds = (self.decoder_mask,) * len(kinds)
            left_out, num_decoded = stack_masks(self._masks(keys, DECODER_MASK, kinds, self.decoder_mask_ratio))
            batch |= {"bool_decoded_pos": ~left_out, "num_decoded": num_decoded}
        return batch | {"sources": _sources(items)}

    def _masks(self, keys: Sequence[int], stream: str, kinds: Sequence[str], ratio: float) -> Iterator[torch.Tensor]:
        """One mask of each kind for each sample, drawn one after the other from the sample's own key."""
        for key in keys:
            generator = generator_for(key, stream)
            for kind in kinds:
                yield make_mask(kind, self.grid, ratio, generator)


@dataclass(frozen=True)
class ClassificationCollator:
    """Items to pixel_values (B*S, T, C, H, W) float32, labels and sources, samples flattened into the batch.

    labels are (B*S,) int64 class numbers, or (B*S, K) floats: for data sets with vectors, and always with `mixing`,
    which makes them soft (and needs an even B*S). Items without a label give a batch without labels. as_bytes: the batch
    is for `on_device.finish`.
    """

    mixing: Mixing | None = None
    mean: Sequence[float] = tuple(IMAGENET_MEAN)
    std: Sequence[float] = tuple(IMAGENET_STD)
    as_bytes: bool = False

    def __call__(self, items: Sequence[Item]) -> Batch:
        items = _readable(items)
        labels, mix = _labels(items), None
        if labels is not None:
            copies = torch.tensor([len(item["keys"]) for item in items])
            labels = labels.repeat_interleave(copies, dim=0)
        if self.mixing is not None:
            if labels is None:
                raise ValueError("mixing needs labels, and these items have none")
            mix = self.mixing.draw(*frame_size(items[0]["pixel_values"]), seed_for(items[0]["keys"][0], MIXING))
            labels = self.mixing.targets(labels, mix)
        batch = pixels_of(items, self.mean, self.std, mix, as_bytes=self.as_bytes)
        if labels is not None:
            batch["labels"] = labels
        return batch | {"sources": _sources(items)}


def pixels_of(
    items: Sequence[Item],
    mean: Sequence[float],
    std: Sequence[float],
    mix: Mix | None = None,
    *,
    as_bytes: bool,
    copies: int = 1,
) -> Batch:
    """`pixel_values` (B*S*copies, T, C, H, W): normalised and mixed, or with `as_bytes` B*S clips and a Finishing.

    Items that hold floats already are mixed here in both cases. `copies` of a sample follow each other.
    """
    shapes = {tuple(item["pixel_values"].shape[1:]) for item in items}
    if len(shapes) > 1:
        raise ValueError(f"the clips of a batch differ in shape: {sorted(shapes)}; give the transform one size")
    pixels = [item["pixel_values"] for item in items]
    if pixels[0].dtype != torch.uint8:
        pixels = torch.cat(pixels) if len(pixels) > 1 else pixels[0]
        pixels = pixels if mix is None else mix.apply(pixels)
        return {"pixel_values": pixels.repeat_interleave(copies, dim=0) if copies > 1 else pixels}
    pixels = stack([clip for clips in pixels for clip in clips]) if len(pixels) > 1 else pixels[0]
    mean, std = items[0].get("pixel_statistics", (mean, std))
    erased = [each for item in items for each in item.get("erased", [None] * len(item["keys"]))]
    boxes = tuple(None if each is None else each.box for each in erased)
    batch = {"pixel_values": pixels, FINISHING: Finishing(mean, std, boxes, mix, copies)}
    if any(box is not None for box in boxes):
        batch[NOISE] = flat_noise(erased)
    return batch if as_bytes else dict(finish(batch))


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
