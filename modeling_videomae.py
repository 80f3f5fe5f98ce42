"""VideoMAE and VideoMAE V2 in paper order: embed, encode, decode, loss; then the classification head.

Parameters bear the names and shapes of transformers' own VideoMAE, so checkpoints go both ways. What differs is the work
done: only the patches that are needed are projected, only the positions that count get a target, masks become gather
indices once, and nothing waits for the device when the caller gives the counts. Masks come from masking_videomae.py.
"""

import math
from dataclasses import dataclass
from functools import lru_cache, wraps

import torch
import torch.nn.functional as F
from torch import nn
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import WeightRenaming
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPooling, ImageClassifierOutput
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel
from transformers.utils import ModelOutput, logging
from transformers.utils.generic import can_return_tuple

from .configuration_videomae import VideoMAEConfig

logger = logging.get_logger(__name__)

# B clips  T frames  C channels  H W pixels | t h w patch grid, N = t*h*w tokens | p pixels along a patch, u frames in a
# tubelet | V visible, R decoded ("rebuilt") tokens | D width, E decoder width, A heads | P = u*p*p*C values of a target

# glibc maps every allocation above 32 MiB anew and gives it back when freed, and each page of it faults at first touch;
# pieces well below stay in the allocator's hands (docs/decisions.md).
CPU_PIECE_BYTES = 2**23


def cpu_pieces(rows: tuple[int, ...], width: int, like: torch.Tensor) -> int:
    """Into how many pieces work on (rows, width) should be cut so that each stays below CPU_PIECE_BYTES.

    One on other devices, and in a compiled graph: it has its own buffers, and pieces would tie it to one batch size.
    """
    if like.device.type != "cpu" or torch.compiler.is_compiling():
        return 1
    return max(1, math.ceil(math.prod(rows) * width * like.element_size() / CPU_PIECE_BYTES))


# Released files store one q_bias and one v_bias; transformers renames them on the way in and out, but only for classes
# inside transformers unless the mapping is registered. Without it the biases of every published file would start afresh.
register_checkpoint_conversion_mapping(
    "videomae",
    [
        WeightRenaming(r"attention\.attention\.q_bias", "attention.attention.query.bias"),
        WeightRenaming(r"attention\.attention\.v_bias", "attention.attention.value.bias"),
    ],
    overwrite=True,
)


# ---------------------------------------------------------------------------------------------------------------------
# Embed
# ---------------------------------------------------------------------------------------------------------------------


def sincos_table(length: int, width: int, device: torch.device | str = "cpu") -> torch.Tensor:
    """The fixed 1-D sin-cos position table over all tokens, (length, width) float32: sine on even columns.

    The angles are float64, as in the official code: float32 angles of late positions are off by 1e-4.
    """
    exact = "cpu" if torch.device(device).type == "mps" else device  # MPS has no float64
    position = torch.arange(length, dtype=torch.float64, device=exact)[:, None]
    column = torch.arange(width, device=exact)
    angle = position / torch.pow(10000.0, (2 * (column // 2)).double() / width)
    return torch.where(column % 2 == 0, angle.sin(), angle.cos()).float().to(device)


def device_constant(build):
    """Cache what `build` makes for its (hashable) arguments, so that a step neither rebuilds it nor copies it over.

    A compiled or exported graph holds the value as a constant of its own, where a cache would be a side effect.
    """

    @lru_cache(maxsize=32)
    def cached(*args):
        with torch.inference_mode(False), torch.no_grad():  # an inference tensor could not be used in training later
            return build(*args)

    @wraps(build)
    def constant(*args):
        return build(*args) if torch.compiler.is_compiling() else cached(*args)

    return constant


@device_constant
def position_table(
    base: tuple[int, int, int],
    grid: tuple[int, int, int],
    width: int,
    device: torch.device,
    dtype: torch.dtype,
) -> torch.Tensor:
    """Positions for the tokens of `grid`, (N, width), from the table of the configured grid `base`.

    Height and width are interpolated bicubically within each tubelet slot, as the released detectors do, and time
    linearly. The table is no parameter and no buffer: nothing to load, and right after construction on any device.
    """
    table = sincos_table(math.prod(base), width, device)
    if grid[1:] != base[1:]:
        maps = table.view(*base, width).permute(0, 3, 1, 2)  # (t, D, h, w)
        maps = F.interpolate(maps, size=grid[1:], mode="bicubic", align_corners=False)
        table = maps.permute(0, 2, 3, 1).reshape(-1, width)
    if grid[0] != base[0]:
        lines = table.view(1, base[0], -1).transpose(1, 2)  # (1, h*w*D, t)
        lines = F.interpolate(lines, size=grid[0], mode="linear", align_corners=False)
        table = lines.transpose(1, 2).reshape(-1, width)
    return table.to(dtype)


@device_constant
def channel_column(values: tuple[float, ...], device: torch.device) -> torch.Tensor:
    """One float per channel, (C, 1); a fresh tensor from Python numbers would wait for the device at every step."""
    return torch.tensor(values, device=device)[:, None]


def patchify(video: torch.Tensor, tubelet: int, patch_hw: tuple[int, int]) -> torch.Tensor:
    """(B, T, C, H, W) -> (B, t, h, w, C, u, p, p), a view: the patches in token order, unflattened."""
    patches = video.unflatten(4, (-1, patch_hw[1])).unflatten(3, (-1, patch_hw[0])).unflatten(1, (-1, tubelet))
    return patches.permute(0, 1, 4, 6, 3, 2, 5, 7)


def select_patches(patches: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Patches (B, t, h, w, ...) at token positions (B, K) -> (B, K, ...), copying nothing else."""
    _, _, h, w = patches.shape[:4]
    clip = torch.arange(patches.shape[0], device=positions.device)[:, None]
    return patches[clip, positions // (h * w), positions // w % h, positions % w]


def select_tokens(tokens: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Tokens (B, N, D) at positions (B, K) -> (B, K, D)."""
    return tokens.gather(1, positions[..., None].expand(-1, -1, tokens.shape[-1]))


class VideoMAEPatchProjection(nn.Conv3d):
    """A convolution's weights used as what it is here: one matrix product per patch."""

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """(..., C, u, p, p) -> (..., D)"""
        return F.linear(patches.flatten(-4), self.weight.flatten(1), self.bias)


class VideoMAEPatchEmbeddings(nn.Module):
    def __init__(self, config: VideoMAEConfig):
        super().__init__()
        self.tubelet_size, self.patch_hw = config.tubelet_size, config.patch_hw
        kernel = (config.tubelet_size, *config.patch_hw)
        self.projection = VideoMAEPatchProjection(config.num_channels, config.hidden_size, kernel, stride=kernel)

    def forward(self, pixel_values: torch.Tensor, positions: torch.Tensor | None = None) -> torch.Tensor:
        """Project the patches at `positions` (B, K), or all of them."""
        patches = patchify(pixel_values, self.tubelet_size, self.patch_hw)
        if positions is not None:
            return self.projection(select_patches(patches, positions))
        return self.projection(patches).flatten(1, 3)


class VideoMAEEmbeddings(nn.Module):
    """Patches plus fixed positions; with a mask only those of visible tokens."""

    def __init__(self, config: VideoMAEConfig):
        super().__init__()
        self.patch_embeddings = VideoMAEPatchEmbeddings(config)
        self.base_grid = config.grid

    def forward(
        self, pixel_values: torch.Tensor, grid: tuple[int, int, int], positions: torch.Tensor | None = None
    ) -> torch.Tensor:
        tokens = self.patch_embeddings(pixel_values, positions)
        table = position_table(self.base_grid, grid, tokens.shape[-1], tokens.device, tokens.dtype)
        return tokens + (table if positions is None else table[positions])


# ---------------------------------------------------------------------------------------------------------------------
# Encode
# ---------------------------------------------------------------------------------------------------------------------


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention written out, for `output_attentions`; the softmax runs in float32. (B, A, K, d) -> (B, K, A, d)."""
    scores = query @ key.transpose(-1, -2) * scaling
    if attention_mask is not None:
        if attention_mask.dtype == torch.bool:
            scores = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
        else:
            scores = scores + attention_mask
    weights = scores.softmax(-1, dtype=torch.float32).to(query.dtype)
    weights = F.dropout(weights, dropout, module.training)
    return (weights @ value).transpose(1, 2), weights


class VideoMAESelfAttention(nn.Module):
    """Queries, keys and values; the key has no bias, since a softmax over keys would cancel it."""

    is_causal = False  # read by transformers' attention functions

    def __init__(self, config: VideoMAEConfig, width: int, heads: int):
        super().__init__()
        self.config = config
        self.head_dim = width // heads
        self.scaling = self.head_dim**-0.5
        self.dropout_prob = config.attention_probs_dropout_prob
        self.query = nn.Linear(width, width, bias=config.qv_bias)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=config.qv_bias)
        for projection in (self.query, self.key, self.value):
            # The release draws one (3D, D) matrix, so with the bound of that: sqrt(6 / (D + 3D)), not sqrt(6 / 2D).
            projection.xavier_gain = 0.5**0.5

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        num_queries: int | None = None,
        output_attentions: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(B, N, D) -> (B, K, D) for the last K = `num_queries` tokens (all if None), and the weights where asked."""
        asking = hidden_states if num_queries is None else hidden_states[:, -num_queries:]
        query, key, value = (
            projection(tokens).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for projection, tokens in ((self.query, asking), (self.key, hidden_states), (self.value, hidden_states))
        )
        # Only the written-out attention has weights to show.
        kind = "eager" if output_attentions else self.config._attn_implementation
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(kind, eager_attention_forward)
        context, weights = attend(
            self,
            query,
            key,
            value,
            attention_mask,
            is_causal=False,
            scaling=self.scaling,
            dropout=self.dropout_prob if self.training else 0.0,
        )
        return context.flatten(2), weights


class VideoMAESelfOutput(nn.Module):
    def __init__(self, config: VideoMAEConfig, width: int):
        super().__init__()
        self.dense = nn.Linear(width, width)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.dropout(self.dense(hidden_states))


class VideoMAEAttention(nn.Module):
    def __init__(self, config: VideoMAEConfig, width: int, heads: int):
        super().__init__()
        self.attention = VideoMAESelfAttention(config, width, heads)
        self.output = VideoMAESelfOutput(config, width)

    def forward(self, hidden_states: torch.Tensor, **options) -> tuple[torch.Tensor, torch.Tensor | None]:
        context, weights = self.attention(hidden_states, **options)
        return self.output(context), weights


class VideoMAEIntermediate(nn.Module):
    def __init__(self, config: VideoMAEConfig, width: int, mlp_width: int):
        super().__init__()
        self.dense = nn.Linear(width, mlp_width)
        self.activation = ACT2FN[config.hidden_act]

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.activation(self.dense(hidden_states))


class VideoMAEOutput(nn.Module):
    def __init__(self, config: VideoMAEConfig, width: int, mlp_width: int):
        super().__init__()
        self.dense = nn.Linear(mlp_width, width)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.dropout(self.dense(hidden_states))


class VideoMAEDropPath(nn.Module):
    """Stochastic depth: leave a block's branch out for some clips, and scale the others up."""

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate

    def forward(self, branch: torch.Tensor) -> torch.Tensor:
        if self.rate == 0.0 or not self.training:
            return branch
        kept = branch.new_empty(branch.shape[0], 1, 1).bernoulli_(1.0 - self.rate)
        return branch * (kept / (1.0 - self.rate))

    def extra_repr(self) -> str:
        return f"rate={self.rate}"


class VideoMAELayer(GradientCheckpointingLayer):
    """A pre-norm transformer block, of the encoder or of the decoder."""

    def __init__(self, config: VideoMAEConfig, width: int, heads: int, mlp_width: int, drop_path: float = 0.0):
        super().__init__()
        self.attention = VideoMAEAttention(config, width, heads)
        self.intermediate = VideoMAEIntermediate(config, width, mlp_width)
        self.output = VideoMAEOutput(config, width, mlp_width)
        self.layernorm_before = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.layernorm_after = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.drop_path = VideoMAEDropPath(drop_path)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        num_queries: int | None = None,
        output_attentions: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """With `num_queries`, only the last tokens are carried on; the others serve as keys and values."""
        branch, weights = self.attention(
            self.layernorm_before(hidden_states),
            attention_mask=attention_mask,
            num_queries=num_queries,
            output_attentions=output_attentions,
        )
        if num_queries is not None:
            hidden_states = hidden_states[:, -num_queries:]
        hidden_states = hidden_states + self.drop_path(branch)
        branch = self.feed_forward(self.layernorm_after(hidden_states))
        return hidden_states + self.drop_path(branch), weights

    def feed_forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """The MLP; on a CPU in pieces whose inner activations the allocator keeps and the caches hold."""
        pieces = cpu_pieces(hidden_states.shape[:-1], self.intermediate.dense.out_features, hidden_states)
        if pieces == 1:
            return self.output(self.intermediate(hidden_states))
        parts = hidden_states.flatten(0, 1).chunk(pieces)
        return torch.cat([self.output(self.intermediate(part)) for part in parts]).view_as(hidden_states)


class VideoMAEEncoder(nn.Module):
    def __init__(self, config: VideoMAEConfig):
        super().__init__()
        count = config.num_hidden_layers
        # linspace(0, rate, count), as the official fine-tuning does.
        rates = [config.drop_path_rate * index / max(count - 1, 1) for index in range(count)]
        self.layer = nn.ModuleList(
            VideoMAELayer(
                config, config.hidden_size, config.num_attention_heads, config.intermediate_size, drop_path=rate
            )
            for rate in rates
        )

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
    ) -> tuple[torch.Tensor, tuple | None, tuple | None]:
        """Returns the last hidden states, all of them (the embeddings first), and the attention weights."""
        states = (hidden_states,) if output_hidden_states else None
        attentions = () if output_attentions else None
        for layer in self.layer:
            hidden_states, weights = layer(
                hidden_states, attention_mask=attention_mask, output_attentions=output_attentions
            )
            if output_hidden_states:  # else each is freed as soon as the next one is there
                states += (hidden_states,)
            if output_attentions:
                attentions += (weights,)
        return hidden_states, states, attentions


class VideoMAEPreTrainedModel(PreTrainedModel):
    """Initialisation, checks at the door, and what transformers wants to know of these models."""

    config_class = VideoMAEConfig
    config: VideoMAEConfig
    base_model_prefix = "videomae"
    main_input_name = "pixel_values"
    input_modalities = "video"
    accepts_loss_kwargs = False  # losses are batch means: Trainer must divide them by the accumulation steps
    supports_gradient_checkpointing = True
    _no_split_modules = ["VideoMAEEmbeddings", "VideoMAELayer"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def __init__(self, config: VideoMAEConfig, *args, **kwargs):
        if not isinstance(config, VideoMAEConfig):  # transformers' own class lacks our fields
            config = VideoMAEConfig.from_dict(config.to_dict())
        config.check_buildable()
        super().__init__(config, *args, **kwargs)

    def _init_weights(self, module: nn.Module) -> None:
        """Fresh weights as the released training code makes them.

        Pre-training: Xavier-uniform linears, with the bound of the fused (3D, D) matrix for q, k and v; a mask token
        truncated at one deviation. Everything else: truncated normal linears, the classifier scaled by `init_scale`.
        Biases start at zero, but the patch projection keeps torch's default for convolutions in both.
        """
        std = self.config.initializer_range
        if isinstance(module, nn.Conv3d):
            init.kaiming_uniform_(module.weight, a=math.sqrt(5))
            bound = module.weight[0].numel() ** -0.5
            init.uniform_(module.bias, -bound, bound)
        elif isinstance(module, nn.Linear):
            if getattr(self, "for_pretraining", False):
                init.xavier_uniform_(module.weight, gain=getattr(module, "xavier_gain", 1.0))
            else:
                scale = self.config.init_scale if module is getattr(self, "classifier", None) else 1.0
                init.trunc_normal_(module.weight, std=std * scale, a=-2 * scale, b=2 * scale)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, VideoMAEForPreTraining):
            init.trunc_normal_(module.mask_token, std=std, a=-std, b=std)

    def _grid_of(self, pixel_values: torch.Tensor, interpolate_pos_encoding: bool) -> tuple[int, int, int]:
        """Check the shape and type of a batch of clips and return its token grid."""
        config = self.config
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

    def _wanted(self, output_attentions: bool | None, output_hidden_states: bool | None) -> tuple[bool, bool]:
        attentions = self.config.output_attentions if output_attentions is None else output_attentions
        hidden = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        return bool(attentions), bool(hidden)


def check_token_mask(name: str, mask: torch.Tensor, pixel_values: torch.Tensor, num_tokens: int) -> torch.Tensor:
    """A boolean (B, N) mask on the pixels' device, or an error that says what came."""
    how = "videomae.masking_videomae makes them (tube_mask, random_mask, ...)"
    if not isinstance(mask, torch.Tensor) or mask.dtype != torch.bool:
        kind = mask.dtype if isinstance(mask, torch.Tensor) else type(mask).__name__
        raise TypeError(f"{name} must be a bool tensor, got {kind}; convert it with .bool(), or {how}")
    expected = (pixel_values.shape[0], num_tokens)
    if tuple(mask.shape) != expected:
        raise ValueError(
            f"{name} must have shape {expected}, one entry per clip and token, got {tuple(mask.shape)}; {how}"
        )
    return mask.to(pixel_values.device, non_blocking=True)


@dataclass
class TokenSelection:
    """Which tokens of each clip are kept, in token order: gather indices, and which of them are real.

    positions: (B, K) token indices. valid: (B, K) bool, False where a clip has fewer than K; None when all are real.
    """

    positions: torch.Tensor
    valid: torch.Tensor | None


def select_kept(keep: torch.Tensor, count: int | None, empty: str) -> TokenSelection:
    """The True positions of (B, N) `keep`, in order. With `count` nothing is inspected, so nothing waits.

    Without it the mask is read once; clips with none left raise the message `empty`, and unequal counts are padded.
    """
    # A stable sort puts the kept ones first and leaves their order alone; no shape depends on the data.
    order = (~keep).to(torch.uint8).argsort(dim=1, stable=True)
    if count is not None:
        return TokenSelection(order[:, :count], None)
    counts = keep.sum(dim=1)
    fewest, most = torch.stack([counts.min(), counts.max()]).tolist()
    if fewest == 0:
        clip = int(counts.argmin())
        raise ValueError(empty.format(clip=clip))
    valid = None
    if fewest != most:
        valid = torch.arange(most, device=keep.device) < counts[:, None]
    return TokenSelection(order[:, :most], valid)


class VideoMAEModel(VideoMAEPreTrainedModel):
    """The encoder: patches of the visible tokens, positions, blocks, and the final norm where the weights have one."""

    def __init__(self, config: VideoMAEConfig, *, for_pretraining: bool = False, pooled: bool | None = None):
        super().__init__(config)
        config = self.config
        self.for_pretraining = for_pretraining
        self.embeddings = VideoMAEEmbeddings(config)
        self.encoder = VideoMAEEncoder(config)
        # transformers' switch: mean-pooled classifiers have no norm here but `fc_norm` on the mean.
        self.layernorm = (
            None if config.use_mean_pooling else nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        )
        pooled = config.pooled_features if pooled is None else pooled
        self.fc_norm = nn.LayerNorm(config.hidden_size, eps=config.norm_eps) if pooled else None
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.embeddings.patch_embeddings

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor,
        bool_masked_pos: torch.Tensor | None = None,
        *,
        num_visible: int | None = None,
        interpolate_pos_encoding: bool = False,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> BaseModelOutputWithPooling:
        """Encode clips (B, T, C, H, W), normalised as the processor does.

        `bool_masked_pos` (B, N): True = hidden; only the others are encoded, and `last_hidden_state` holds them in
        token order, (B, V, D). `num_visible` is V when it is the same for every clip and known: then the mask is not
        inspected. With unequal counts each clip gets what it gets alone, followed by rows of zeros.
        `interpolate_pos_encoding` allows other frame counts and sizes. `pooler_output` is the normalised mean of the
        tokens where the configuration has `pooled_features`.
        """
        output_attentions, output_hidden_states = self._wanted(output_attentions, output_hidden_states)
        grid = self._grid_of(pixel_values, interpolate_pos_encoding)
        positions = valid = None
        if bool_masked_pos is not None:
            mask = check_token_mask("bool_masked_pos", bool_masked_pos, pixel_values, math.prod(grid))
            kept = select_kept(
                ~mask, num_visible, "bool_masked_pos hides every token of clip {clip}; leave some visible"
            )
            positions, valid = kept.positions, kept.valid

        tokens = self.embeddings(pixel_values, grid, positions)
        attention_mask = None
        if valid is not None:
            attention_mask = create_bidirectional_mask(self.config, inputs_embeds=tokens, attention_mask=valid)
        tokens, states, attentions = self.encoder(tokens, attention_mask, output_attentions, output_hidden_states)
        if self.layernorm is not None:
            tokens = self.layernorm(tokens)
        if valid is not None:
            tokens = tokens * valid[..., None]

        pooled = None
        if self.fc_norm is not None:
            count = tokens.shape[1] if valid is None else valid.sum(1, keepdim=True)
            pooled = self.fc_norm(tokens.sum(1) / count if valid is not None else tokens.mean(1))
        return BaseModelOutputWithPooling(
            last_hidden_state=tokens, pooler_output=pooled, hidden_states=states, attentions=attentions
        )


# ---------------------------------------------------------------------------------------------------------------------
# Decode, and the loss
# ---------------------------------------------------------------------------------------------------------------------


class VideoMAEDecoder(nn.Module):
    """The narrow decoder of pre-training: visible tokens and mask tokens in, pixels of the latter out."""

    def __init__(self, config: VideoMAEConfig):
        super().__init__()
        width = config.decoder_hidden_size
        self.decoder_layers = nn.ModuleList(
            VideoMAELayer(config, width, config.decoder_num_attention_heads, config.decoder_intermediate_size)
            for _ in range(config.decoder_num_hidden_layers)
        )
        self.norm = nn.LayerNorm(width, eps=config.norm_eps)
        self.head = nn.Linear(width, config.num_channels * config.tubelet_size * math.prod(config.patch_hw))

    def forward(
        self, hidden_states: torch.Tensor, num_decoded: int, attention_mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """(B, V + R, E) -> (B, R, P): what the head says of the last R = `num_decoded` tokens."""
        last = len(self.decoder_layers) - 1
        for index, layer in enumerate(self.decoder_layers):
            # Nothing reads the visible tokens after the last block, so it computes none.
            # With padding it does all: a mask for fewer queries than keys is not portable across attention backends.
            carried = num_decoded if index == last and attention_mask is None else None
            hidden_states, _ = layer(hidden_states, attention_mask=attention_mask, num_queries=carried)
        return self.head(self.norm(hidden_states[:, -num_decoded:]))


@dataclass
class VideoMAEForPreTrainingOutput(ModelOutput):
    """
    loss: mean squared error over the rebuilt positions that the encoder did not see.
    logits: (B, R, P), one row per decoded position in token order; zeros after a clip's rows when counts differ.
    hidden_states, attentions: the encoder's, where asked for.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


class VideoMAEForPreTraining(VideoMAEPreTrainedModel):
    """The masked autoencoder of VideoMAE (tube masks) and VideoMAE V2 (plus a decoder mask)."""

    for_pretraining = True

    def __init__(self, config: VideoMAEConfig):
        super().__init__(config)
        config = self.config
        self.videomae = VideoMAEModel(config, for_pretraining=True, pooled=False)
        self.encoder_to_decoder = nn.Linear(config.hidden_size, config.decoder_hidden_size, bias=False)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, config.decoder_hidden_size))
        self.decoder = VideoMAEDecoder(config)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor,
        bool_masked_pos: torch.Tensor | None = None,
        bool_decoded_pos: torch.Tensor | None = None,
        *,
        num_visible: int | None = None,
        num_decoded: int | None = None,
        interpolate_pos_encoding: bool = False,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> VideoMAEForPreTrainingOutput:
        """Hide, encode, decode, compare.

        `bool_masked_pos` (B, N): True = hidden from the encoder. `bool_decoded_pos` (B, N): True = rebuilt by the
        decoder, by default the hidden ones; V2 passes `~running_cell_mask(...)`. The loss counts positions that are
        both. `num_visible` and `num_decoded` are the counts of visible and decoded tokens when they are the same for
        every clip and known (the collator knows): forward then never looks at a mask. Without them the masks are
        inspected once, impossible ones raise, and unequal counts are padded.
        """
        if bool_masked_pos is None:
            raise ValueError(
                "bool_masked_pos is missing: pre-training needs a (batch, tokens) bool mask, True = hidden; "
                f"for one clip of this model: tube_mask({self.config.grid}, 0.9)[None] of videomae.masking_videomae"
            )
        grid = self._grid_of(pixel_values, interpolate_pos_encoding)
        masked = check_token_mask("bool_masked_pos", bool_masked_pos, pixel_values, math.prod(grid))
        decoded = masked
        if bool_decoded_pos is not None:
            decoded = check_token_mask("bool_decoded_pos", bool_decoded_pos, pixel_values, math.prod(grid))
        elif num_visible is not None:
            num_decoded = math.prod(grid) - num_visible

        visible = select_kept(
            ~masked, num_visible, "bool_masked_pos hides every token of clip {clip}; leave some visible"
        )
        if bool_decoded_pos is not None and num_decoded is None:
            # Only the overlap can count in the loss; a batch without any has none.
            select_kept(
                decoded & masked,
                None,
                "bool_decoded_pos and bool_masked_pos share no position in clip {clip}, so nothing would be learnt from "
                "it; decode some of the hidden tokens (V2: ~running_cell_mask(...))",
            )
        rebuilt = select_kept(
            decoded, num_decoded, "bool_masked_pos hides no token of clip {clip}, so there is nothing to rebuild"
        )
        if num_visible is None and visible.valid is None:
            num_visible = visible.positions.shape[1]

        encoded = self.videomae(
            pixel_values,
            bool_masked_pos=masked,
            num_visible=num_visible,
            interpolate_pos_encoding=interpolate_pos_encoding,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        logits = self._decode(encoded.last_hidden_state, visible, rebuilt, grid)

        counted = rebuilt.valid
        if bool_decoded_pos is not None:
            hidden = masked.gather(1, rebuilt.positions)
            counted = hidden if counted is None else hidden & counted
        loss = self.reconstruction_loss(pixel_values, logits, rebuilt.positions, counted)
        if rebuilt.valid is not None:
            logits = logits * rebuilt.valid[..., None]
        return VideoMAEForPreTrainingOutput(
            loss=loss, logits=logits, hidden_states=encoded.hidden_states, attentions=encoded.attentions
        )

    def _decode(
        self, encoded: torch.Tensor, visible: TokenSelection, rebuilt: TokenSelection, grid: tuple[int, int, int]
    ) -> torch.Tensor:
        tokens = self.encoder_to_decoder(encoded)
        table = position_table(self.config.grid, grid, tokens.shape[-1], tokens.device, tokens.dtype)
        seen = tokens + table[visible.positions]
        unseen = self.mask_token + table[rebuilt.positions]
        hidden_states = torch.cat([seen, unseen.to(seen.dtype)], dim=1)  # (B, V + R, E)
        attention_mask = None
        if visible.valid is not None or rebuilt.valid is not None:
            valid = [
                torch.ones_like(part.positions, dtype=torch.bool) if part.valid is None else part.valid
                for part in (visible, rebuilt)
            ]
            attention_mask = create_bidirectional_mask(
                self.config, inputs_embeds=hidden_states, attention_mask=torch.cat(valid, dim=1)
            )
        return self.decoder(hidden_states, rebuilt.positions.shape[1], attention_mask)

    @torch.no_grad()
    def targets(self, pixel_values: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """What the decoder should say at token positions (B, R): (B, R, P) float32, pixels of [0, 1].

        Inside a target the order is frame of the tubelet, row, column, channel. With `norm_pix_loss` each patch is
        normalised per channel; the deviation is the unbiased one, as in engine_for_pretraining.py of the release.
        """
        config = self.config
        pixels = select_patches(patchify(pixel_values, config.tubelet_size, config.patch_hw), positions).float()
        mean, std = (channel_column(tuple(values), pixels.device) for values in config.pixel_statistics)
        mean, std = mean[..., None, None], std[..., None, None]
        # pixels are (B, R, C, u, p, p), a copy of our own since the selection. In memory they lie as in the video, frames
        # before channels, and they stay so: the only rearrangement is that of the last line.
        if config.norm_pix_loss:
            # Undoing the channel's mean and scale would cancel here, but for the 1e-6 that is added to the deviation.
            patch = (-3, -2, -1)
            pixels.sub_(pixels.mean(dim=patch, keepdim=True))
            deviation = torch.linalg.vector_norm(pixels, dim=patch, keepdim=True)
            pixels.div_(deviation / math.sqrt(math.prod(pixels.shape[-3:]) - 1) + 1e-6 / std)
        else:
            pixels.mul_(std).add_(mean)
        return pixels.permute(0, 1, 3, 4, 5, 2).flatten(2)

    def reconstruction_loss(
        self, pixel_values: torch.Tensor, logits: torch.Tensor, positions: torch.Tensor, counted: torch.Tensor | None
    ) -> torch.Tensor:
        """Mean squared error in float32 over the positions (B, R) that count, or over all."""
        pieces = cpu_pieces(logits.shape[:-1], logits.shape[-1], logits)
        clips = math.ceil(logits.shape[0] / pieces)
        total = 0.0
        for number, part in enumerate(logits.split(clips)):
            piece = slice(number * clips, (number + 1) * clips)
            targets = self.targets(pixel_values[piece], positions[piece])
            if counted is None:
                total = total + F.mse_loss(part.float(), targets, reduction="sum")
            else:
                total = total + ((part.float() - targets).square().sum(-1) * counted[piece]).sum()
        return total / (logits.numel() if counted is None else counted.sum() * logits.shape[-1])


# ---------------------------------------------------------------------------------------------------------------------
# Classify
# ---------------------------------------------------------------------------------------------------------------------


class VideoMAEForVideoClassification(VideoMAEPreTrainedModel):
    """The encoder with a linear head on the normalised mean of all tokens."""

    def __init__(self, config: VideoMAEConfig):
        super().__init__(config)
        config = self.config
        self.num_labels = config.num_labels
        if not config.use_mean_pooling:
            logger.warning_once(
                "use_mean_pooling=False in a classifier: the head reads the first patch alone, since VideoMAE has no CLS "
                "token. V1 and V2 fine-tune on the mean of all tokens; set use_mean_pooling=True unless these weights "
                "were trained this way."
            )
        self.videomae = VideoMAEModel(config, pooled=False)
        self.fc_norm = nn.LayerNorm(config.hidden_size, eps=config.norm_eps) if config.use_mean_pooling else None
        self.dropout = nn.Dropout(config.head_dropout_prob)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels) if config.num_labels > 0 else nn.Identity()
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        *,
        interpolate_pos_encoding: bool = False,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> ImageClassifierOutput:
        """Classify clips (B, T, C, H, W). `labels`: class indices (B,), or one score per class (B, num_labels).

        Float labels mean multi-label, unless the configuration's problem_type is "single_label_classification": then
        they are soft targets, as mixup and distillation make them. One label means regression.
        """
        if pixel_values is None:
            raise ValueError("pixel_values is missing; a VideoMAEVideoProcessor makes them from a file or frames")
        encoded = self.videomae(
            pixel_values,
            interpolate_pos_encoding=interpolate_pos_encoding,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        tokens = encoded.last_hidden_state
        features = self.fc_norm(tokens.mean(1)) if self.fc_norm is not None else tokens[:, 0]
        logits = self.classifier(self.dropout(features))
        loss = None if labels is None else classification_loss(logits, labels, self.config)
        return ImageClassifierOutput(
            loss=loss, logits=logits, hidden_states=encoded.hidden_states, attentions=encoded.attentions
        )


def classification_loss(logits: torch.Tensor, labels: torch.Tensor, config: VideoMAEConfig) -> torch.Tensor:
    """Cross-entropy, multi-label or regression, in float32; chosen by `problem_type`, else by the labels' type."""
    num_labels = logits.shape[-1]
    labels = labels.to(logits.device)
    logits = logits.float()
    problem = config.problem_type
    if problem is None:
        if num_labels == 1:
            problem = "regression"
        else:
            problem = "multi_label_classification" if labels.is_floating_point() else "single_label_classification"
    per_class = labels.is_floating_point() and tuple(labels.shape) == tuple(logits.shape)
    if problem == "regression":
        return F.mse_loss(logits.reshape(-1), labels.reshape(-1).float())
    if problem == "multi_label_classification":
        if tuple(labels.shape) != tuple(logits.shape):
            raise ValueError(
                f"multi-label targets must have shape {tuple(logits.shape)}, one 0/1 per class, got {tuple(labels.shape)}"
            )
        return F.binary_cross_entropy_with_logits(logits, labels.float())
    if not per_class and (labels.is_floating_point() or labels.numel() != logits.shape[0]):
        raise ValueError(
            f"labels must be {logits.shape[0]} class indices (int64) or float scores of shape {tuple(logits.shape)}, "
            f"got {labels.dtype} of shape {tuple(labels.shape)}"
        )
    return F.cross_entropy(logits, labels if per_class else labels.reshape(-1))


__all__ = [
    "VideoMAEForPreTraining",
    "VideoMAEForVideoClassification",
    "VideoMAEModel",
    "VideoMAEPreTrainedModel",
]
