"""The official forward of every released VideoMAE, restated in plain tensor lines.

It is the converter's proof and the tests' oracle, so it shares no code with our models: it reads the names that the
releases use, knows nothing of a config, and spells out each step of the papers. It is not fast and does not train.

B clips  T frames  C channels  H W pixels | t h w patch grid, N = t*h*w tokens | D width
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

EPS = 1e-6  # every LayerNorm of the official code

# What MMAction2, the V2 Hub repositories and wrapped files call the parts of one and the same network.
OFFICIAL_NAMES = (
    (r"^((module|backbone|model)\.)+", ""),
    (r"patch_embed\.projection\.", "patch_embed.proj."),
    (r"\.mlp\.layers\.0\.0\.", ".mlp.fc1."),
    (r"\.mlp\.layers\.1\.", ".mlp.fc2."),
    (r"^(cls_head|roi_head\.bbox_head)\.fc_cls\.", "head."),
)


def official_weights(state: Mapping[str, Tensor], *, encoder_only: bool = False) -> dict[str, Tensor]:
    """The same tensors under the names of modeling_finetune.py, or of modeling_pretrain.py, which has two stacks."""
    weights = {}
    for name, tensor in state.items():
        for pattern, replacement in OFFICIAL_NAMES:
            name = re.sub(pattern, replacement, name)
        weights[name.removeprefix("encoder.") if encoder_only else name] = tensor
    return weights


# --- the pieces -------------------------------------------------------------------------------------------------------


def position_table(num_tokens: int, width: int) -> Tensor:
    """(N, D): sines in the even columns, cosines in the odd ones, wavelengths up to 10000 * 2 pi."""
    column = torch.arange(width, dtype=torch.float64)
    angle = torch.arange(num_tokens, dtype=torch.float64)[:, None] / 10000 ** (2 * (column // 2) / width)
    return torch.where(column % 2 == 0, angle.sin(), angle.cos()).float()


def resized_table(table: Tensor, frames: int, grid: tuple[int, int], target: tuple[int, int]) -> Tensor:
    """A (N, D) table for another (h, w), slot by slot of time, bicubic; unchanged where the grids agree."""
    if grid == target:
        return table
    maps = table.view(frames, *grid, -1).permute(0, 3, 1, 2)
    maps = F.interpolate(maps, size=target, mode="bicubic", align_corners=False)
    return maps.permute(0, 2, 3, 1).flatten(0, 2)


def linear(weights: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    bias = weights.get(f"{name}.bias")
    return F.linear(x, weights[f"{name}.weight"].float(), None if bias is None else bias.float())


def norm(weights: Mapping[str, Tensor], name: str, x: Tensor, eps: float) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], weights[f"{name}.weight"].float(), weights[f"{name}.bias"].float(), eps)


def attention(weights: Mapping[str, Tensor], name: str, x: Tensor, heads: int) -> Tensor:
    """Queries and values have a bias, keys have none (or no bias at all); heads go one by one to spare memory."""
    q, k, v = F.linear(x, weights[f"{name}.qkv.weight"].float()).chunk(3, dim=-1)
    if f"{name}.q_bias" in weights:
        q, v = q + weights[f"{name}.q_bias"].float(), v + weights[f"{name}.v_bias"].float()
    scale = (x.shape[-1] // heads) ** -0.5
    mixed = [
        ((q_head * scale) @ k_head.transpose(-2, -1)).softmax(-1) @ v_head
        for q_head, k_head, v_head in zip(q.chunk(heads, -1), k.chunk(heads, -1), v.chunk(heads, -1))
    ]
    return linear(weights, f"{name}.proj", torch.cat(mixed, -1))


def blocks(weights: Mapping[str, Tensor], prefix: str, x: Tensor, heads: int, eps: float) -> Tensor:
    """All pre-norm transformer blocks under `prefix`, in order."""
    depth = 1 + max(int(name[len(prefix) :].split(".")[1]) for name in weights if name.startswith(f"{prefix}blocks."))
    for name in (f"{prefix}blocks.{i}" for i in range(depth)):
        x = x + attention(weights, f"{name}.attn", norm(weights, f"{name}.norm1", x, eps), heads)
        hidden = F.gelu(linear(weights, f"{name}.mlp.fc1", norm(weights, f"{name}.norm2", x, eps)))
        x = x + linear(weights, f"{name}.mlp.fc2", hidden)
    return x


def patch_tokens(weights: Mapping[str, Tensor], prefix: str, pixel_values: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """(B, T, C, H, W) -> (B, N, D) without positions, and the spatial grid (h, w)."""
    kernel = weights[f"{prefix}patch_embed.proj.weight"].float()
    bias = weights[f"{prefix}patch_embed.proj.bias"].float()
    maps = F.conv3d(pixel_values.transpose(1, 2), kernel, bias, stride=kernel.shape[2:])  # (B, D, t, h, w)
    return maps.flatten(2).transpose(1, 2), (maps.shape[-2], maps.shape[-1])


# --- the three models -------------------------------------------------------------------------------------------------


@torch.no_grad()
def classify(state: Mapping[str, Tensor], pixel_values: Tensor, *, heads: int, eps: float = EPS) -> dict[str, Tensor]:
    """V1, V2 and MMAction2 classifiers: fc_norm over the mean token, then the head where there is one."""
    weights = official_weights(state, encoder_only=True)
    x, _ = patch_tokens(weights, "", pixel_values)
    x = blocks(weights, "", x + position_table(x.shape[1], x.shape[2]), heads, eps)
    pooled = norm(weights, "fc_norm", x.mean(1), eps)
    return {"pooled_features": pooled} | (
        {"logits": linear(weights, "head", pooled)} if "head.weight" in weights else {}
    )


@torch.no_grad()
def pretrain(
    state: Mapping[str, Tensor],
    pixel_values: Tensor,
    bool_masked_pos: Tensor,
    bool_decoded_pos: Tensor | None = None,
    *,
    heads: int,
    decoder_heads: int,
    eps: float = EPS,
    mean: Sequence[float] = (0.485, 0.456, 0.406),
    std: Sequence[float] = (0.229, 0.224, 0.225),
    normalized_targets: bool = True,
) -> dict[str, Tensor]:
    """V1 and V2 pre-training: logits and labels at the decoded positions, and the loss over the hidden ones among them.

    Every clip hides, and decodes, equally many tokens. V1 decodes what the encoder did not see.
    """
    weights = official_weights(state)
    batch = len(pixel_values)
    x, grid = patch_tokens(weights, "encoder.", pixel_values)
    num_tokens = x.shape[1]
    x = (x + position_table(num_tokens, x.shape[2]))[~bool_masked_pos].view(batch, -1, x.shape[2])
    x = norm(weights, "encoder.norm", blocks(weights, "encoder.", x, heads, eps), eps)
    x = linear(weights, "encoder_to_decoder", x)

    decoded = bool_masked_pos if bool_decoded_pos is None else bool_decoded_pos
    table = position_table(num_tokens, x.shape[2]).expand(batch, -1, -1)
    seen = x + table[~bool_masked_pos].view(batch, -1, x.shape[2])
    rebuilt = weights["mask_token"].float() + table[decoded].view(batch, -1, x.shape[2])
    x = blocks(weights, "decoder.", torch.cat([seen, rebuilt], 1), decoder_heads, eps)[:, -rebuilt.shape[1] :]
    logits = linear(weights, "decoder.head", norm(weights, "decoder.norm", x, eps))

    tubelet, patch = weights["encoder.patch_embed.proj.weight"].shape[2:4]
    video = pixel_values * torch.tensor(std).view(1, 1, -1, 1, 1) + torch.tensor(mean).view(1, 1, -1, 1, 1)
    video = video.view(batch, -1, tubelet, video.shape[2], grid[0], patch, grid[1], patch)
    targets = video.permute(0, 1, 4, 6, 2, 5, 7, 3).reshape(batch, num_tokens, -1, video.shape[3])  # (…, pixel, C)
    if normalized_targets:
        spread = targets.var(-2, unbiased=True, keepdim=True).sqrt() + 1e-6
        targets = (targets - targets.mean(-2, keepdim=True)) / spread
    labels = targets.flatten(2)[decoded].view_as(logits)
    counted = bool_masked_pos[decoded].view(batch, -1)
    loss = ((logits - labels) ** 2).mean(-1)[counted].mean()
    return {"logits": logits, "labels": labels, "loss": loss, "loss_positions": counted}


@torch.no_grad()
def detect(
    state: Mapping[str, Tensor],
    pixel_values: Tensor,
    boxes: Sequence[Tensor],
    *,
    heads: int,
    family: str,
    table_grid: tuple[int, int] = (14, 14),
    eps: float = EPS,
) -> dict[str, Any]:
    """Action detectors: scores for each box, features pooled from the last feature map averaged over time.

    `family` "videomae" is VideoMAE-Action-Detection, "mmaction2" is MMAction2, whose head keeps its background class.
    """
    weights = official_weights(state, encoder_only=True)
    patch = weights["patch_embed.proj.weight"].shape[-1]
    height, width = pixel_values.shape[-2:]
    if family == "videomae":  # padded with zeros to whole patches, boxes a little wider
        boxes = [widened(box, height, width) for box in boxes]
        pixel_values = F.pad(pixel_values, (0, -width % patch, 0, -height % patch))
    x, grid = patch_tokens(weights, "", pixel_values)  # a stride of whole patches drops the remainder by itself
    frames = x.shape[1] // math.prod(grid)
    table = position_table(frames * math.prod(table_grid), x.shape[2])
    x = blocks(weights, "", x + resized_table(table, frames, table_grid, grid), heads, eps)
    maps = norm(weights, "norm", x, eps).view(len(x), frames, *grid, -1).mean(1).permute(0, 3, 1, 2)  # (B, D, h, w)
    size, aligned = (8, True) if family == "mmaction2" else (7, False)
    pooled = [
        roi_align(one_map, box, size=size, scale=1 / patch, aligned=aligned).amax((1, 2))
        for one_map, clip_boxes in zip(maps, boxes)
        for box in clip_boxes
    ]
    features = torch.stack(pooled) if pooled else x.new_zeros(0, x.shape[2])
    return {"boxes": list(boxes), "roi_features": features, "logits": linear(weights, "head", features)}


def widened(boxes: Tensor, height: int, width: int) -> Tensor:
    """Test boxes of VideoMAE-Action-Detection: 10 % wider and 5 % taller in total, sizes counted with both ends."""
    margin = torch.stack([(boxes[:, 2] - boxes[:, 0] + 1) * 0.10, (boxes[:, 3] - boxes[:, 1] + 1) * 0.05], 1) / 2
    last = torch.tensor([width - 1, height - 1], dtype=boxes.dtype)
    return torch.cat([(boxes[:, :2] - margin).clamp(min=0), torch.minimum(boxes[:, 2:] + margin, last)], 1)


def roi_align(feature_map: Tensor, box: Tensor, *, size: int, scale: float, aligned: bool) -> Tensor:
    """(D, h, w) and one xyxy box in pixels -> (D, size, size), as many samples a bin as it spans cells."""
    start_x, start_y, end_x, end_y = box * scale - (0.5 if aligned else 0.0)
    rows = axis_samples(start_y, end_y, size=size, cells=feature_map.shape[1], aligned=aligned)  # (size * ny, h)
    columns = axis_samples(start_x, end_x, size=size, cells=feature_map.shape[2], aligned=aligned)
    samples = torch.einsum("yh,dhw,xw->dyx", rows, feature_map, columns)
    return samples.unflatten(2, (size, -1)).mean(3).unflatten(1, (size, -1)).mean(2)


def axis_samples(start: Tensor, end: Tensor, *, size: int, cells: int, aligned: bool) -> Tensor:
    """One row of linear-interpolation weights over the cells for each sample point along one axis."""
    span = end - start if aligned else (end - start).clamp(min=1.0)
    per_bin = max(math.ceil(float(span / size)), 1)
    offsets = torch.arange(size)[:, None] + (torch.arange(per_bin) + 0.5) / per_bin
    rows = []
    for point in (start + offsets.flatten() * span / size).tolist():
        row = torch.zeros(cells)
        if -1.0 <= point <= cells:  # further out counts as zero
            point = min(max(point, 0.0), cells - 1.0)
            low = min(int(point), cells - 1)
            row[low] += 1 - (point - low)
            row[min(low + 1, cells - 1)] += point - low
        rows.append(row)
    return torch.stack(rows)


# --- inputs that are the same on every machine ------------------------------------------------------------------------


def fixed_clip(num_frames: int, num_channels: int, height: int, width: int) -> Tensor:
    """(1, T, C, H, W): a clip that is the same on every machine, with the spread of normalised pixels."""
    count = num_frames * num_channels * height * width
    wave = torch.sin(torch.arange(count, dtype=torch.float64) * 12.9898) * 1.5
    return wave.float().view(1, num_frames, num_channels, height, width)


def fixed_mask(grid: tuple[int, int, int], ratio: float = 0.9) -> Tensor:
    """(1, N) bool: a tube mask without randomness, True where hidden from the encoder."""
    t, h, w = grid
    order = torch.sin(torch.arange(h * w, dtype=torch.float64) * 78.233).argsort()
    hidden = torch.zeros(h * w, dtype=torch.bool)
    hidden[order[: int(ratio * h * w)]] = True
    return hidden.repeat(t)[None]


def fixed_boxes(height: int, width: int) -> Tensor:
    """(2, 4): a person-shaped box inside the frame and one that reaches its border."""
    return torch.tensor([[0.15, 0.1, 0.45, 0.9], [0.4, 0.25, 1.0, 1.0]]) * torch.tensor([width, height, width, height])


def fixed_frames(num_frames: int, height: int, width: int) -> Tensor:
    """(T, H, W, 3) uint8 for processors: slopes in whole numbers, which every way of resizing renders nearly the same."""
    sizes = (num_frames, height, width, 3)
    t, y, x, channel = (
        torch.arange(size).view([-1 if a == axis else 1 for a in range(4)]) for axis, size in enumerate(sizes)
    )
    return (255 - ((2 * x + y + 8 * t + 85 * channel) % 510 - 255).abs()).to(torch.uint8)


def random_weights(
    kind: str,
    *,
    width: int,
    depth: int,
    mlp: int,
    patch: int,
    num_labels: int = 0,
    decoder: tuple[int, int, int] | None = None,
    seed: int = 0,
) -> dict[str, Tensor]:
    """A random network of one kind ("pretrain", "classify", "features", "detect") under its official names.

    `decoder` is (width, depth, mlp width). Norms and biases are random too, so that a mixed-up pair shows.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int, around: float = 0.0) -> Tensor:
        # Variance 1 / fan-in keeps the activations, and so the logits, of order one at any size.
        return around + torch.randn(shape, generator=generator) * (
            0.1 if len(shape) == 1 else math.prod(shape[1:]) ** -0.5
        )

    def pair(name: str, *shape: int, around: float = 0.0) -> dict[str, Tensor]:
        return {f"{name}.weight": draw(*shape, around=around), f"{name}.bias": draw(shape[0])}

    def one_block(name: str, d: int, hidden: int) -> dict[str, Tensor]:
        return (
            pair(f"{name}.norm1", d, around=1.0)
            | {f"{name}.attn.{part}_bias": draw(d) for part in "qv"}
            | {f"{name}.attn.qkv.weight": draw(3 * d, d)}
            | pair(f"{name}.attn.proj", d, d)
            | pair(f"{name}.norm2", d, around=1.0)
            | pair(f"{name}.mlp.fc1", hidden, d)
            | pair(f"{name}.mlp.fc2", d, hidden)
        )

    prefix = "encoder." if kind == "pretrain" else ""
    weights = pair(f"{prefix}patch_embed.proj", width, 3, 2, patch, patch)
    for i in range(depth):
        weights |= one_block(f"{prefix}blocks.{i}", width, mlp)
    if kind == "pretrain":
        assert decoder is not None
        decoder_width, decoder_depth, decoder_mlp = decoder
        weights |= pair("encoder.norm", width, around=1.0)
        weights |= {"encoder_to_decoder.weight": draw(decoder_width, width), "mask_token": draw(1, 1, decoder_width)}
        for i in range(decoder_depth):
            weights |= one_block(f"decoder.blocks.{i}", decoder_width, decoder_mlp)
        weights |= pair("decoder.norm", decoder_width, around=1.0)
        return weights | pair("decoder.head", 3 * 2 * patch * patch, decoder_width)
    weights |= pair("norm" if kind == "detect" else "fc_norm", width, around=1.0)
    return weights | (pair("head", num_labels, width) if num_labels else {})
