"""RoIAlign without compiled extensions: one fixed-size feature patch per box, as matrix products.

The mean of bilinear samples over a bin is a product of a weight per row and a weight per column, so a box needs no
gathering at all: its patch is `rows @ map @ columns^T`, where two small matrices hold the bilinear weights, the number
of samples and the rules at the border. Same results as torchvision's operator; modeling_videomae_detection.py uses it.

Below it stands how frames and boxes come to the size that the model reads, which the data set and the pipeline share.
"""

import math
from collections.abc import Callable, Iterator, Sequence

import torch

# B clips | n boxes of a clip, N of all | h w cells of the map | P bins along a side | s samples along a bin | C channels
BOXES_AT_A_TIME = 8  # a base model's (w, 8 * P, C) products stay in cache, and below what the allocator gives back


def axis_weights(
    start: torch.Tensor,
    end: torch.Tensor,
    *,
    cells: int,
    bins: int,
    sampling_ratio: int,
    aligned: bool,
    max_samples: int | None = None,
) -> torch.Tensor:
    """(n,) intervals in units of cells -> (n, bins, cells): the weight of each cell in each bin's mean.

    With `sampling_ratio=0` a bin takes as many samples as it is cells long, rounded up. `max_samples` bounds that
    number where the caller knows it: without it the boxes are looked at, which waits for the device.
    """
    if aligned:
        start, end = start - 0.5, end - 0.5
    length = end - start
    if not aligned:
        length = length.clamp(min=1.0)  # the legacy operator stretches a box to a cell
    bin_length = length / bins
    if sampling_ratio > 0:
        count = torch.full_like(length, sampling_ratio)
        max_samples = sampling_ratio
    else:
        count = bin_length.ceil()
        if max_samples is None:
            max_samples = int(count.max().clamp(min=1)) if count.numel() else 1

    bin_start = start[:, None] + torch.arange(bins, device=start.device) * bin_length[:, None]  # (n, P)
    sample = torch.arange(max_samples, device=start.device)
    offset = (sample + 0.5) * (bin_length / count.clamp(min=1))[:, None]  # (n, s)
    position = bin_start[:, :, None] + offset[:, None, :]  # (n, P, s)

    # Past one cell outside the map a sample is zero; nearer, it takes the value at the border.
    counted = (position >= -1) & (position <= cells) & (sample < count[:, None])[:, None, :]
    nearest = position.clamp(0, cells - 1)
    cell = torch.arange(cells, device=start.device)
    weight = (1 - (nearest[..., None] - cell).abs()).clamp(min=0) * counted[..., None]  # (n, P, s, cells)
    return weight.sum(2) / count.clamp(min=1)[:, None, None]


def roi_patches(
    feature_map: torch.Tensor,
    boxes: list[torch.Tensor],
    *,
    output_size: int | tuple[int, int],
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
    boxes_inside: bool,
) -> Iterator[torch.Tensor]:
    """What `roi_align` returns, in pieces of (some n, P along x, P along y, C), float32."""
    if feature_map.ndim != 4:
        raise ValueError(f"feature_map must be (batch, channels, height, width), got shape {tuple(feature_map.shape)}")
    if len(boxes) != len(feature_map):
        raise ValueError(
            f"{len(boxes)} lists of boxes for a batch of {len(feature_map)}; give one per clip, empty ones too"
        )
    bins = (output_size, output_size) if isinstance(output_size, int) else tuple(output_size)  # y, x
    exporting = torch.compiler.is_exporting()  # one graph for any number of boxes: no step may depend on that number
    for clip, clip_boxes in zip(feature_map.permute(0, 3, 2, 1).float(), boxes):  # (w, h, C)
        if not exporting and not len(clip_boxes):
            continue
        x1, y1, x2, y2 = (clip_boxes.detach().float() * spatial_scale).unbind(1)
        rows, columns = (
            axis_weights(
                start,
                end,
                cells=cells,
                bins=side_bins,
                sampling_ratio=sampling_ratio,
                aligned=aligned,
                max_samples=math.ceil((cells + 1) / side_bins) if boxes_inside else None,
            )
            for start, end, cells, side_bins in zip((y1, x1), (y2, x2), feature_map.shape[2:], bins)
        )
        pieces = [(rows, columns)] if exporting else zip(rows.split(BOXES_AT_A_TIME), columns.split(BOXES_AT_A_TIME))
        for some_rows, some_columns in pieces:
            strips = some_rows.flatten(0, 1) @ clip  # (w, n * P, C)
            strips = strips.unflatten(1, (-1, bins[0])).transpose(0, 1).flatten(2)  # (n, w, P * C)
            yield (some_columns @ strips).unflatten(2, (bins[0], -1))


def roi_align(
    feature_map: torch.Tensor,
    boxes: list[torch.Tensor],
    *,
    output_size: int | tuple[int, int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = 0,
    aligned: bool = False,
    boxes_inside: bool = False,
) -> torch.Tensor:
    """(B, C, h, w) and B tensors of (n, 4) xyxy boxes -> (N, C, P, P), in the order of the boxes.

    `spatial_scale` takes box units to cells. A map that is channels-last in memory is not copied. `boxes_inside`
    promises that no box is more than one cell longer than the map, which bounds the number of adaptive samples by the
    map's size alone: nothing waits for the device. Differentiable with respect to the map; boxes carry no gradient.
    """
    with torch.autocast(feature_map.device.type, enabled=False):  # bfloat16 weights would move a sample by 1/256
        patches = roi_patches(
            feature_map,
            boxes,
            output_size=output_size,
            spatial_scale=spatial_scale,
            sampling_ratio=sampling_ratio,
            aligned=aligned,
            boxes_inside=boxes_inside,
        )
        bins_y, bins_x = (output_size, output_size) if isinstance(output_size, int) else output_size
        none = feature_map.new_zeros(0, bins_x, bins_y, feature_map.shape[1], dtype=torch.float32)
        return torch.cat([none, *patches]).permute(0, 3, 2, 1).to(feature_map.dtype)


def roi_max(
    feature_map: torch.Tensor,
    boxes: list[torch.Tensor],
    *,
    dropout: Callable[[torch.Tensor], torch.Tensor] | None = None,
    **options,
) -> torch.Tensor:
    """The maximum of every channel over each box's patch: (N, C), without ever holding all patches.

    `dropout` is applied to each patch before its maximum is taken. The other keyword arguments are those of `roi_align`,
    all of them required.
    """
    with torch.autocast(feature_map.device.type, enabled=False):
        patches = roi_patches(feature_map, boxes, **options)
        pooled = [(patch if dropout is None else dropout(patch)).amax((1, 2)) for patch in patches]
        if not pooled:  # no rows, but still a function of the map: data-parallel training waits for every gradient
            pooled = [feature_map.permute(0, 2, 3, 1).flatten(0, 2)[:0]]
        return torch.cat(pooled).to(feature_map.dtype)


def scaled_size(height: int, width: int, short_side: int, *, rounded: bool) -> tuple[int, int]:
    """(height, width) of a frame whose shorter side becomes `short_side`.

    The longer one is rounded by mmaction2 (rescale_size of mmcv) and cut by VideoMAE-Action-Detection (`get_size` in its
    video_transforms.py).
    """
    short, long = sorted((height, width))
    long = int(long * (short_side / short) + 0.5) if rounded else int(short_side * long / short)
    return (short_side, long) if height <= width else (long, short_side)


def scale_boxes(
    shares: torch.Tensor, source: tuple[int, int], size: tuple[int, int], *, inclusive: bool
) -> torch.Tensor:
    """Boxes as shares of a frame -> pixels of that frame, scaled from `source` to `size`, both (height, width).

    `inclusive`: x2 and y2 are the last pixels of the source inside the box, scaled as x1 and y1 are (`convert` and
    `resize` of VideoMAE-Action-Detection's BoxList).
    """
    (H, W), (h, w) = source, size
    x1, y1, x2, y2 = (shares * shares.new_tensor([W, H, W, H])).unbind(1)
    if inclusive:
        x2, y2 = (x2 - 1).maximum(x1), (y2 - 1).maximum(y1)
    return torch.stack([x1, y1, x2, y2], 1) * shares.new_tensor([w / W, h / H, w / W, h / H])


def widen_boxes(
    boxes: torch.Tensor, scale: Sequence[float], *, height: int, width: int, inclusive: bool
) -> torch.Tensor:
    """Grow boxes by shares of their width and height in total, half to each side, and clip them to the frame.

    `inclusive` is VideoMAE-Action-Detection's reckoning: a box that ends at pixel x2 contains that pixel, so its width
    is x2 - x1 + 1 and the last coordinate inside the frame is width - 1.
    """
    extra = 1 if inclusive else 0
    x1, y1, x2, y2 = boxes.unbind(1)
    grow_x, grow_y = (x2 - x1 + extra) * (scale[0] / 2), (y2 - y1 + extra) * (scale[1] / 2)
    right, bottom = width - extra, height - extra
    return torch.stack(
        [
            (x1 - grow_x).clamp(0, right),
            (y1 - grow_y).clamp(0, bottom),
            (x2 + grow_x).clamp(0, right),
            (y2 + grow_y).clamp(0, bottom),
        ],
        1,
    )
