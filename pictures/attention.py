"""Where an encoder looks: attention weights of any layer and head as maps over (t, h, w), and drawn over the frames.

VideoMAE has no class token. Classifiers average all tokens, so the map of a layer is the attention that each place
receives from all tokens, averaged; or what one chosen token looks at. Values are multiples of even attention: 1 is what
every token would get if the layer did not care.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from videomae.choices import MEAN
from videomae.inputs_videomae import token_grid
from videomae.modeling_videomae import VideoMAEModel

# Black, violet, red, orange, pale yellow: rising in brightness, so that the order survives in grey.
HEAT = ((0.0, 0.0, 0.02), (0.30, 0.06, 0.43), (0.72, 0.21, 0.33), (0.98, 0.55, 0.04), (0.99, 1.0, 0.64))
OPACITY = 0.65  # of the brightest colour: the frame shows through


# T frames  C channels  H W pixels | t h w patch grid, N = t*h*w tokens | A heads
@torch.no_grad()
def attention_maps(
    encoder: VideoMAEModel,
    pixel_values: Tensor,
    *,
    layers: Sequence[int] = (-1,),
    heads: Sequence[int | str] = (MEAN,),
    query: tuple[int, int, int] | None = None,
) -> dict[tuple[int, int | str], Tensor]:
    """(layer, head) -> (t, h, w) for one clip (T, C, H, W) of any size; layers count from 0, or from the end if negative.

    `query` is the (slot, row, column) of the token whose attention is asked for. Only the layers that are needed run, and
    of their weights no more than one layer's is held: all of a giant model would take 10 GB.
    """
    config, grid = encoder.config, token_grid(pixel_values[None], encoder.config, True)
    depth, width = config.num_hidden_layers, config.num_attention_heads
    layer_numbers = [_place(layer, depth, "layer") for layer in layers]
    head_numbers = [head if head == MEAN else _place(int(head), width, "head") for head in heads]
    if query is not None and (
        len(query) != 3 or not all(0 <= place < size for place, size in zip(query, grid, strict=True))
    ):
        raise ValueError(
            f"query must be a slot, row and column below {', '.join(map(str, grid))}, not {', '.join(map(str, query))}"
        )
    maps, training = {}, encoder.training
    encoder.eval()
    try:
        tokens = encoder.embeddings(pixel_values[None], grid)
        for layer, block in enumerate(encoder.encoder.layer[: max(layer_numbers) + 1]):
            tokens, weights = block(tokens, output_attentions=layer in layer_numbers)
            if weights is None:
                continue
            weights = weights[0]  # (A, N, N): a row for each token that asks
            number = None if query is None else (query[0] * grid[1] + query[1]) * grid[2] + query[2]
            received = (weights.mean(1) if number is None else weights[:, number]) * weights.shape[-1]  # (A, N)
            for head in head_numbers:
                view = received.mean(0) if head == MEAN else received[head]
                maps[layer, head] = view.float().view(grid).cpu()
    finally:
        encoder.train(training)
    return {(layer, head): maps[layer, head] for layer in layer_numbers for head in head_numbers}


def overlay(video: Tensor, attention: Tensor, query: tuple[int, int, int] | None = None) -> Tensor:
    """A heat map (t, h, w) over the grey frames (T, H, W, C), from its least to its greatest value: (T, H, W, 3).

    The cell of `query` is framed in its slot.
    """
    T, H, W = video.shape[:3]
    t, h, w = attention.shape
    low, high = attention.min(), attention.max()
    heat = (attention - low) / (high - low).clamp_min(1e-12)
    heat = F.interpolate(heat[:, None], size=(H, W), mode="bilinear", align_corners=False)[:, 0]
    heat = heat.repeat_interleave(T // t, 0)[..., None]  # (T, H, W, 1)
    grey = video.mean(-1, keepdim=True)
    strength = OPACITY * heat.sqrt()  # the root: middling values stay visible
    mixed = (1 - strength) * grey + strength * _colours(heat[..., 0])
    if query is not None:
        slot, row, column = query
        frames = slice(slot * T // t, (slot + 1) * T // t)
        top, left, bottom, right = row * H // h, column * W // w, (row + 1) * H // h - 1, (column + 1) * W // w - 1
        edge = torch.tensor([0.2, 1.0, 1.0])
        for rows, columns in (
            (slice(top, top + 1), slice(left, right + 1)),
            (slice(bottom, bottom + 1), slice(left, right + 1)),
            (slice(top, bottom + 1), slice(left, left + 1)),
            (slice(top, bottom + 1), slice(right, right + 1)),
        ):
            mixed[frames, rows, columns] = edge
    return mixed.clamp(0, 1)


def legend(attention: Tensor) -> str:
    """What the darkest and the brightest colour of an overlay stand for."""
    return f"dark {float(attention.min()):.3g} to bright {float(attention.max()):.3g} times even attention"


def _place(number: int, count: int, what: str) -> int:
    if not -count <= number < count:
        raise ValueError(f"{what} must be in 0 to {count - 1} (or -{count} to -1, from the end), not {number}")
    return number % count


def _colours(heat: Tensor) -> Tensor:
    """(...) of [0, 1] -> (..., 3), linear between the colours of HEAT."""
    table = torch.tensor(HEAT)
    place = heat * (len(table) - 1)
    low = place.floor().long().clamp(max=len(table) - 2)
    share = (place - low)[..., None]
    return table[low] * (1 - share) + table[low + 1] * share
