"""What the models check before they compute, and which tokens of a clip are kept: pixels, masks, gather indices.

Masks are drawn in masking_videomae.py; modeling_videomae.py computes with what comes out of here.
"""

import math
from dataclasses import dataclass

import torch

from .configuration_videomae import VideoMAEConfig

# B clips  T frames  C channels  H W pixels | t h w patch grid, N = t*h*w tokens | K kept tokens  D width
Grid = tuple[int, int, int]


def token_grid(pixel_values: torch.Tensor, config: VideoMAEConfig, interpolate_pos_encoding: bool = False) -> Grid:
    """The token grid of a batch of clips (B, T, C, H, W), or an error that says what is wrong with them."""
    if not isinstance(pixel_values, torch.Tensor):
        raise TypeError(f"pixel_values must be a tensor, got {type(pixel_values).__name__}; a processor makes one")
    shape = tuple(pixel_values.shape)
    if len(shape) == 4:
        raise ValueError(
            f"pixel_values must be (batch, frames, channels, height, width), got 4 dimensions {shape}; "
            "a single clip needs a batch dimension: pixel_values[None]"
        )
    if len(shape) != 5:
        raise ValueError(f"pixel_values must be (batch, frames, channels, height, width), got shape {shape}")
    if not pixel_values.is_floating_point():
        raise TypeError(
            f"pixel_values must be normalised floats, got {pixel_values.dtype}; pass the frames through a "
            "VideoMAEImageProcessor or VideoMAEVideoProcessor first"
        )
    _, frames, channels, height, width = shape
    if channels != config.num_channels:
        hint = ""
        if width == config.num_channels:
            hint = "; the channels seem to come last: pixel_values.permute(0, 1, 4, 2, 3)"
        elif frames == config.num_channels:
            hint = "; channels and frames seem swapped: pixel_values.transpose(1, 2)"
        raise ValueError(
            f"pixel_values of shape {shape} have {channels} channels where the model has {config.num_channels}{hint}"
        )
    if frames % config.tubelet_size or frames == 0:
        raise ValueError(
            f"pixel_values have {frames} frames, which tubelets of {config.tubelet_size} do not fill; give a "
            f"multiple of {config.tubelet_size}, as {config.num_frames}"
        )
    (patch_height, patch_width), (want_height, want_width) = config.patch_hw, config.image_hw
    if height % patch_height or width % patch_width or 0 in (height, width):
        raise ValueError(
            f"pixel_values have frames of {height}x{width}, which patches of {patch_height}x{patch_width} do not "
            f"tile; resize them to {want_height}x{want_width}"
        )
    if not interpolate_pos_encoding and (frames, height, width) != (config.num_frames, want_height, want_width):
        raise ValueError(
            f"pixel_values have {frames} frames of {height}x{width} where the model expects {config.num_frames} "
            f"of {want_height}x{want_width}; resize the clip, or pass interpolate_pos_encoding=True"
        )
    return frames // config.tubelet_size, height // patch_height, width // patch_width


def checked_mask(name: str, mask: torch.Tensor, pixel_values: torch.Tensor, grid: Grid) -> torch.Tensor:
    """A boolean (B, N) mask on the pixels' device, or an error that says what came."""
    how = "videomae.masking_videomae makes them (tube_mask, random_mask, ...)"
    if not isinstance(mask, torch.Tensor) or mask.dtype != torch.bool:
        kind = mask.dtype if isinstance(mask, torch.Tensor) else type(mask).__name__
        raise TypeError(f"{name} must be a bool tensor, got {kind}; convert it with .bool(), or {how}")
    expected = (pixel_values.shape[0], math.prod(grid))
    if tuple(mask.shape) != expected:
        raise ValueError(
            f"{name} must have shape {expected}, one entry per clip and token, got {tuple(mask.shape)}; {how}"
        )
    return mask.to(pixel_values.device, non_blocking=True)


@dataclass
class TokenSelection:
    """Which tokens of each clip are kept, in token order: gather indices, and which of them are real.

    grid: (t, h, w) of all tokens. positions: (B, K) token indices.
    valid: (B, K) bool, False where a clip has fewer than K; None when all are real.
    """

    grid: Grid
    positions: torch.Tensor
    valid: torch.Tensor | None = None

    @property
    def real(self) -> torch.Tensor:
        """`valid`, written out where all are real."""
        return torch.ones_like(self.positions, dtype=torch.bool) if self.valid is None else self.valid


def select_patches(patches: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Patches (B, t, h, w, ...) at token positions (B, K) -> (B, K, ...), copying nothing else."""
    _, _, h, w = patches.shape[:4]
    clip = torch.arange(patches.shape[0], device=positions.device)[:, None]
    return patches[clip, positions // (h * w), positions // w % h, positions % w]


def select_tokens(tokens: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Tokens (B, N, D) at positions (B, K) -> (B, K, D)."""
    return tokens.gather(1, positions[..., None].expand(-1, -1, tokens.shape[-1]))


def refuse_empty(keep: torch.Tensor, message: str) -> list[int]:
    """How many positions of (B, N) `keep` are True in each clip; raises `message` for the first {clip} without any.

    Reads the mask, so it waits for the device.
    """
    counts = keep.sum(dim=1).tolist()
    if 0 in counts:
        raise ValueError(message.format(clip=counts.index(0)))
    return counts


def select_kept(keep: torch.Tensor, grid: Grid, count: int | None, if_empty: str) -> TokenSelection:
    """The True positions of (B, N) `keep`, in order. With `count` nothing is inspected, so nothing waits.

    Without it the mask is read once; a clip with none left raises `if_empty`, and unequal counts are padded.
    """
    # A stable sort puts the kept ones first and leaves their order alone; no shape depends on the data.
    order = (~keep).to(torch.uint8).argsort(dim=1, stable=True)
    if count is not None:
        return TokenSelection(grid, order[:, :count])
    counts = refuse_empty(keep, if_empty)
    most = max(counts)
    valid = None
    if min(counts) != most:
        valid = torch.arange(most, device=keep.device) < keep.sum(dim=1, keepdim=True)
    return TokenSelection(grid, order[:, :most], valid)


def visible_tokens(masked: torch.Tensor, grid: Grid, num_visible: int | None) -> TokenSelection:
    """What a checked mask leaves to the encoder."""
    message = "bool_masked_pos hides every token of clip {clip}; leave some visible"
    return select_kept(~masked, grid, num_visible, message)


def hide_tokens(
    pixel_values: torch.Tensor,
    grid: Grid,
    bool_masked_pos: torch.Tensor | None,
    bool_decoded_pos: torch.Tensor | None,
    num_visible: int | None,
    num_decoded: int | None,
) -> tuple[TokenSelection, TokenSelection, torch.Tensor | None]:
    """The masks of pre-training as what the encoder sees, what the decoder rebuilds, and what of it the loss counts.

    The last is a bool (B, R) over the rebuilt tokens, None when all count.
    """
    if bool_masked_pos is None:
        raise ValueError(
            "bool_masked_pos is missing: pre-training needs a (batch, tokens) bool mask, True = hidden; "
            f"for one of these clips: tube_mask({grid}, 0.9)[None] of videomae.masking_videomae"
        )
    masked = decoded = checked_mask("bool_masked_pos", bool_masked_pos, pixel_values, grid)
    if bool_decoded_pos is not None:
        decoded = checked_mask("bool_decoded_pos", bool_decoded_pos, pixel_values, grid)
    elif num_visible is not None:
        num_decoded = math.prod(grid) - num_visible
    visible = visible_tokens(masked, grid, num_visible)
    if bool_decoded_pos is not None and num_decoded is None:
        # Only the overlap can count in the loss; a batch without any has none.
        refuse_empty(
            decoded & masked,
            "bool_decoded_pos and bool_masked_pos share no position in clip {clip}, so nothing would be learnt from it; "
            "decode some of the hidden tokens (V2: ~running_cell_mask(...))",
        )
    message = "bool_masked_pos hides no token of clip {clip}, so there is nothing to rebuild"
    rebuilt = select_kept(decoded, grid, num_decoded, message)
    counted = rebuilt.valid
    if bool_decoded_pos is not None:
        hidden = masked.gather(1, rebuilt.positions)
        counted = hidden if counted is None else hidden & counted
    return visible, rebuilt, counted
