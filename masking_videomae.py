"""Which tokens are hidden: tube, random, frame, running-cell and block masks, as flat booleans in (t h w) token order.

A mask belongs to one clip and is drawn from a generator; `stack_masks` makes the batch and the counts that let the
model skip looking at it. modeling_videomae.py only consumes masks.
"""

import functools
import math
from collections.abc import Callable, Iterable

import torch

# B clips  T frames  C channels  H W pixels | t h w patch grid, N = t*h*w tokens
Grid = tuple[int, int, int]


def tube_mask(grid: Grid, ratio: float, generator: torch.Generator | None = None) -> torch.Tensor:
    """Hide the same cells in every tubelet slot of a clip (VideoMAE).

    Returns (N,) bool, True = hidden from the encoder. The hidden count rounds down per slot: 0.9 of 14x14 hides 176.
    """
    t, h, w = _checked(grid, ratio)
    return _hide(h * w, int(ratio * h * w), generator).repeat(t)


def random_mask(grid: Grid, ratio: float, generator: torch.Generator | None = None) -> torch.Tensor:
    """Hide `int(ratio * N)` tokens anywhere in the clip. Returns (N,) bool, True = hidden."""
    t, h, w = _checked(grid, ratio)
    return _hide(t * h * w, int(ratio * t * h * w), generator)


def frame_mask(grid: Grid, ratio: float, generator: torch.Generator | None = None) -> torch.Tensor:
    """Hide `int(ratio * t)` whole tubelet slots. Returns (N,) bool, True = hidden."""
    t, h, w = _checked(grid, ratio)
    return _hide(t, int(ratio * t), generator).repeat_interleave(h * w)


# The two upper positions of a 2x2 cell leave the decoder first; the pattern then turns by one position per slot.
_CELL = (True, True, False, False)


def running_cell_mask(grid: Grid, ratio: float = 0.5, generator: torch.Generator | None = None) -> torch.Tensor:
    """Leave half of the tokens out of the decoder, so that every place is decoded in some slot (VideoMAE V2).

    2x2 cells tile the grid (an odd edge cuts them). In slot s of phase p the cell, read row by row, is
    `[1, 1, 0, 0]` turned left by p + s + 1; the phase is drawn once per clip. Returns (N,) bool, True = left out of
    the decoder, so `bool_decoded_pos = ~running_cell_mask(...)`. The ratio of a 2x2 cell is 0.5 and nothing else.
    """
    t, h, w = _checked(grid, ratio)
    if ratio != 0.5:
        raise ValueError(
            f"running_cell_mask has ratio 0.5 (half of each 2x2 cell), not {ratio}; use random_mask for others"
        )
    phase = int(torch.randint(len(_CELL), (1,), generator=generator))
    cell = torch.tensor(_CELL)
    slots = [cell.roll(-(phase + slot + 1)).view(2, 2).repeat((h + 1) // 2, (w + 1) // 2)[:h, :w] for slot in range(t)]
    return torch.stack(slots).flatten()


# The two kinds of blocks of V-JEPA, as shares of a frame's area, and the range of height / width of both. The public
# configurations (configs/train of facebookresearch/vjepa2) take 8 short-range or 2 long-range blocks.
SHORT_BLOCK, LONG_BLOCK = 0.15, 0.7
BLOCK_ASPECT = (0.75, 1.5)


def block_mask(grid: Grid, ratio: float, generator: torch.Generator | None = None, *, area: float) -> torch.Tensor:
    """Hide blocks of cells in all slots of a clip, as many as it takes to hide `int(ratio * h * w)` cells (V-JEPA).

    All blocks of a clip have one size: `area` of a frame, with a height / width drawn from BLOCK_ASPECT. Of the last
    block only as many cells are hidden as the count needs, in random order. Returns (N,) bool, True = hidden.

    V-JEPA fixes the number of blocks, and cuts the clips of a batch down to their smallest count. Here the recipe fixes
    the count, so that a mask depends on its clip alone.
    """
    t, h, w = _checked(grid, ratio)
    count = int(ratio * h * w)
    height, width = _block_size(h, w, area, generator)
    hidden = torch.zeros(h, w, dtype=torch.bool)
    before, covered = hidden, 0
    while covered < count:
        top = int(torch.randint(h - height + 1, (1,), generator=generator))
        left = int(torch.randint(w - width + 1, (1,), generator=generator))
        before = hidden.clone()
        hidden[top : top + height, left : left + width] = True
        covered = int(hidden.sum())
    last = (hidden & ~before).flatten().nonzero().flatten()
    hidden = hidden.flatten()
    hidden[last[torch.randperm(len(last), generator=generator)[: covered - count]]] = False
    return hidden.repeat(t)


def _block_size(h: int, w: int, area: float, generator: torch.Generator | None) -> tuple[int, int]:
    low, high = BLOCK_ASPECT
    aspect = low + (high - low) * float(torch.rand((), generator=generator, dtype=torch.float64))
    cells = int(area * h * w)
    height, width = round(math.sqrt(cells * aspect)), round(math.sqrt(cells / aspect))
    return min(max(height, 1), h), min(max(width, 1), w)


MASKS: dict[str, Callable[..., torch.Tensor]] = {
    "tube": tube_mask,
    "random": random_mask,
    "frame": frame_mask,
    "running_cell": running_cell_mask,
    "short_blocks": functools.partial(block_mask, area=SHORT_BLOCK),
    "long_blocks": functools.partial(block_mask, area=LONG_BLOCK),
}
# What several masks of one clip are called together: the clip is trained on once with each.
SEVERAL_MASKS = {"blocks": ("short_blocks", "long_blocks")}


def masks_of(kind: str) -> tuple[str, ...]:
    """The masks that one clip gets under the name in a recipe: two for "blocks", one for any other."""
    return SEVERAL_MASKS.get(kind, (kind,))


def make_mask(kind: str, grid: Grid, ratio: float, generator: torch.Generator | None = None) -> torch.Tensor:
    """Draw a mask by the name that recipes and command lines use, one of MASKS."""
    if kind not in MASKS:
        raise ValueError(f"unknown mask {kind!r}; choose one of {', '.join(MASKS)}")
    return MASKS[kind](grid, ratio, generator)


def stack_masks(masks: Iterable[torch.Tensor]) -> tuple[torch.Tensor, int | None]:
    """Masks of several clips as one (B, N) tensor, with the number of False positions per clip.

    The count is None when the clips differ. For a mask of hidden tokens it is the model's `num_visible`; for the
    inverse of a decoder mask pass the mask itself and it is `num_decoded`.
    """
    batch = torch.stack(list(masks))
    counts = (~batch).sum(dim=1)
    return batch, int(counts[0]) if bool((counts == counts[0]).all()) else None


def batch_masks(
    kind: str, grid: Grid, ratio: float, batch_size: int, generator: torch.Generator | None = None
) -> tuple[torch.Tensor, int | None]:
    """Draw one mask per clip from one generator; returns what `stack_masks` returns."""
    return stack_masks(make_mask(kind, grid, ratio, generator) for _ in range(batch_size))


def _hide(length: int, num_hidden: int, generator: torch.Generator | None) -> torch.Tensor:
    hidden = torch.zeros(length, dtype=torch.bool)
    hidden[torch.randperm(length, generator=generator)[:num_hidden]] = True
    return hidden


def _checked(grid: Grid, ratio: float) -> Grid:
    if len(grid) != 3 or any(int(size) != size or size < 1 for size in grid):
        raise ValueError(f"grid must be three positive ints (t, h, w), got {tuple(grid)}; a model's is `config.grid`")
    if not 0.0 <= ratio <= 1.0:
        raise ValueError(f"mask ratio must be in [0, 1], got {ratio}; 0.9 hides nine tokens of ten")
    t, h, w = grid
    return int(t), int(h), int(w)
