"""VideoMAE and VideoMAE V2 in paper order: embed, encode, decode, loss; then the classification head.

Parameters bear the names and shapes of transformers' own VideoMAE, so checkpoints go both ways. What differs is the work
done: only the patches that are needed are projected, only the positions that count get a target, masks become gather
indices once, and nothing waits for the device when the caller gives the counts. Masks come from masking_videomae.py,
checks of pixels and masks from inputs_videomae.py.
"""

import math
from functools import lru_cache, wraps
from typing import TYPE_CHECKING, Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import WeightRenaming
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPooling, ImageClassifierOutput
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel
from transformers.models.videomae.modeling_videomae import VideoMAEForPreTrainingOutput
from transformers.utils import logging
from transformers.utils.generic import can_return_tuple
from transformers.utils.output_capturing import capture_outputs

from .configuration_videomae import VideoMAEConfig
from .inputs_videomae import (
    Grid,
    TokenSelection,
    checked_mask,
    hide_tokens,
    select_patches,
    token_grid,
    visible_tokens,
)

logger = logging.get_logger(__name__)

# B clips  T frames  C channels  H W pixels | t h w patch grid, N = t*h*w tokens | p pixels along a patch, u frames in a
# tubelet | V visible, R decoded ("rebuilt") tokens | D width, E decoder width, A heads | P = u*p*p*C values of a target
Selected = bool | int | list[int] | None  # of the hidden states: all, none, or these layers


# Released files store one q_bias and one v_bias; transformers renames them on the way in and out, but only for classes
# inside transformers unless the mapping is registered. Without it the biases of every published file would start from new weights.
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


def sincos_table(length: int, width: int, device: torch.device | str = "cpu") -> Tensor:
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
def position_table(base: Grid, grid: Grid, width: int, device: torch.device, dtype: torch.dtype) -> Tensor:
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
def channel_column(values: tuple[float, ...], device: torch.device) -> Tensor:
    """One float per channel, (C, 1); a fresh tensor from Python numbers would wait for the device at every step."""
    return torch.tensor(values, device=device)[:, None]


def patchify(video: Tensor, tubelet: int, patch_hw: tuple[int, int]) -> Tensor:
    """(B, T, C, H, W) -> (B, t, h, w, C, u, p, p), a view: the patches in token order, unflattened."""
    patches = video.unflatten(4, (-1, patch_hw[1])).unflatten(3, (-1, patch_hw[0])).unflatten(1, (-1, tubelet))
    return patches.permute(0, 1, 4, 6, 3, 2, 5, 7)


class VideoMAEPatchProjection(nn.Conv3d):
    """A convolution's weights used as what it is here: one matrix product per patch."""

    def forward(self, input: Tensor) -> Tensor:
        """Patches (..., C, u, p, p) -> (..., D)"""
        return F.linear(input.flatten(-4), self.weight.flatten(1), self.bias)


class VideoMAEPatchEmbeddings(nn.Module):
    def __init__(self, config: VideoMAEConfig):
        super().__init__()
        self.tubelet_size, self.patch_hw = config.tubelet_size, config.patch_hw
        kernel = (config.tubelet_size, *config.patch_hw)
        self.projection = VideoMAEPatchProjection(config.num_channels, config.hidden_size, kernel, stride=kernel)

    def forward(self, pixel_values: Tensor, positions: Tensor | None = None) -> Tensor:
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

    def forward(self, pixel_values: Tensor, grid: Grid, positions: Tensor | None = None) -> Tensor:
        tokens = self.patch_embeddings(pixel_values, positions)
        table = position_table(self.base_grid, grid, tokens.shape[-1], tokens.device, tokens.dtype)
        return tokens + (table if positions is None else table[positions])


# ---------------------------------------------------------------------------------------------------------------------
# Encode
# ---------------------------------------------------------------------------------------------------------------------


def eager_attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs,
) -> tuple[Tensor, Tensor]:
    """Attention written out, for `output_attentions`; the softmax runs in float32. (B, A, K, d) -> (B, K, A, d)."""
    scores = query @ key.transpose(-1, -2) * scaling
    if attention_mask is not None and attention_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
    elif attention_mask is not None:
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

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        num_queries: int | None = None,
        output_attentions: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """(B, N, D) -> (B, K, D) for the last K = `num_queries` tokens (all if None), and the weights where asked."""
        query, key, value = self.project(hidden_states, num_queries)
        return self.attend(query, key, value, attention_mask, output_attentions)

    def project(self, hidden_states: Tensor, num_queries: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens (B, N, D) to queries (B, A, K, d), keys and values (B, A, N, d), where d = D / A."""
        asking = hidden_states if num_queries is None else hidden_states[:, -num_queries:]
        query, key, value = self.query(asking), self.key(hidden_states), self.value(hidden_states)
        query, key, value = (each.unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for each in (query, key, value))
        return query, key, value

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, output_attentions: bool
    ) -> tuple[Tensor, Tensor | None]:
        """What each query gathers, (B, K, D), and the weights, which only the written-out attention has to show."""
        kind = "eager" if output_attentions else self.config._attn_implementation or "eager"
        attention = ALL_ATTENTION_FUNCTIONS.get_interface(kind, eager_attention_forward)
        dropout = self.dropout_prob if self.training else 0.0
        context, weights = attention(
            self, query, key, value, attention_mask, is_causal=False, scaling=self.scaling, dropout=dropout
        )
        return context.flatten(2), weights


class VideoMAEOutput(nn.Module):
    """The last linear layer of a branch: of the attention, or of the MLP."""

    def __init__(self, config: VideoMAEConfig, in_width: int, out_width: int):
        super().__init__()
        self.dense = nn.Linear(in_width, out_width)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.dropout(self.dense(hidden_states))


class VideoMAEAttention(nn.Module):
    def __init__(self, config: VideoMAEConfig, width: int, heads: int):
        super().__init__()
        self.attention = VideoMAESelfAttention(config, width, heads)
        self.output = VideoMAEOutput(config, width, width)

    def forward(self, hidden_states: Tensor, **options) -> tuple[Tensor, Tensor | None]:
        context, weights = self.attention(hidden_states, **options)
        return self.output(context), weights


class VideoMAEIntermediate(nn.Module):
    def __init__(self, config: VideoMAEConfig, width: int, mlp_width: int):
        super().__init__()
        self.dense = nn.Linear(width, mlp_width)
        self.activation = ACT2FN[config.hidden_act]

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.activation(self.dense(hidden_states))


class VideoMAEDropPath(nn.Module):
    """Stochastic depth: leave a block's branch out for some clips, and scale the others up."""

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate

    def forward(self, branch: Tensor) -> Tensor:
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
        self.output = VideoMAEOutput(config, mlp_width, width)
        self.layernorm_before = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.layernorm_after = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.drop_path = VideoMAEDropPath(drop_path)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        num_queries: int | None = None,
        output_attentions: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
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
        branch = self.output(self.intermediate(self.layernorm_after(hidden_states)))
        return hidden_states + self.drop_path(branch), weights


class VideoMAEEncoder(nn.Module):
    def __init__(self, config: VideoMAEConfig, layer_class: type[VideoMAELayer] = VideoMAELayer):
        super().__init__()
        last = max(config.num_hidden_layers - 1, 1)  # rates as linspace has them, which the official fine-tuning uses
        rates = [config.drop_path_rate * index / last for index in range(config.num_hidden_layers)]
        shape = config.hidden_size, config.num_attention_heads, config.intermediate_size
        self.layer = nn.ModuleList(layer_class(config, *shape, drop_path=rate) for rate in rates)

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor | None = None, output_attentions: bool = False
    ) -> Tensor:
        for layer in self.layer:
            hidden_states, _ = layer(hidden_states, attention_mask=attention_mask, output_attentions=output_attentions)
        return hidden_states


class VideoMAEPreTrainedModel(PreTrainedModel):
    """Initialisation, and what transformers wants to know of these models."""

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
    _can_record_outputs = {"hidden_states": VideoMAELayer, "attentions": VideoMAESelfAttention}

    if TYPE_CHECKING:  # a decorator in transformers hides from type checkers that this is a method

        def to(self, *args: Any, **kwargs: Any) -> Self: ...  # pyright: ignore[reportIncompatibleVariableOverride]  # see above

    def __init__(self, config: VideoMAEConfig, *args, **kwargs):
        if not isinstance(config, VideoMAEConfig):  # transformers' own class lacks our fields
            config = VideoMAEConfig.from_dict(config.to_dict())
        config.check_buildable()
        super().__init__(config, *args, **kwargs)

    def _init_weights(self, module: nn.Module) -> None:
        """Fresh weights as the released training code makes them; linears by `_init_linear`, their biases zero.

        The patch projection keeps torch's default for convolutions, bias included.
        """
        if isinstance(module, nn.Conv3d):
            init.kaiming_uniform_(module.weight, a=math.sqrt(5))
            if module.bias is not None:
                bound = module.weight[0].numel() ** -0.5
                init.uniform_(module.bias, -bound, bound)
        elif isinstance(module, nn.Linear):
            self._init_linear(module)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)

    def _init_linear(self, linear: nn.Linear) -> None:
        """As fine-tuning starts: truncated normal, the classifier scaled by `init_scale`."""
        scale = self.config.init_scale if linear is getattr(self, "classifier", None) else 1.0
        std = self.config.initializer_range * scale
        init.trunc_normal_(linear.weight, std=std, a=-2 * scale, b=2 * scale)

    def _recorded(self, output_attentions: bool | None, output_hidden_states: Selected) -> dict[str, Selected]:
        """What the encoder should keep; the configuration decides where the caller does not."""
        asked = {"output_attentions": output_attentions, "output_hidden_states": output_hidden_states}
        return {name: getattr(self.config, name) if value is None else value for name, value in asked.items()}


def init_xavier(model: nn.Module, linear: nn.Linear) -> None:
    """As pre-training starts: Xavier-uniform.

    The release has one (3D, D) matrix for q, k and v, so these three have the bound of that: sqrt(6 / (D + 3D)), not
    sqrt(6 / 2D).
    """
    attentions = (module for module in model.modules() if isinstance(module, VideoMAESelfAttention))
    fused = any(linear in (each.query, each.key, each.value) for each in attentions)
    init.xavier_uniform_(linear.weight, gain=0.5**0.5 if fused else 1.0)


class VideoMAEModel(VideoMAEPreTrainedModel):
    """The encoder: patches of the visible tokens, positions, blocks, and the final norm where the weights have one."""

    def __init__(
        self,
        config: VideoMAEConfig,
        *,
        for_pretraining: bool = False,
        pooled: bool | None = None,
        layer_class: type[VideoMAELayer] = VideoMAELayer,
    ):
        super().__init__(config)
        config = self.config
        self.for_pretraining = for_pretraining  # says how fresh weights are drawn, no more
        self.embeddings = VideoMAEEmbeddings(config)
        self.encoder = VideoMAEEncoder(config, layer_class)
        # transformers' switch: mean-pooled classifiers have no norm here but `fc_norm` on the mean.
        final_norm = not config.use_mean_pooling
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps) if final_norm else None
        pooled = config.pooled_features if pooled is None else pooled
        self.fc_norm = nn.LayerNorm(config.hidden_size, eps=config.norm_eps) if pooled else None
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.embeddings.patch_embeddings

    def _init_linear(self, linear: nn.Linear) -> None:
        if self.for_pretraining:
            init_xavier(self, linear)
        else:
            super()._init_linear(linear)

    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self,
        pixel_values: Tensor,
        bool_masked_pos: Tensor | None = None,
        *,
        num_visible: int | None = None,
        visible: TokenSelection | None = None,
        interpolate_pos_encoding: bool = False,
        output_attentions: bool | None = None,
        output_hidden_states: Selected = None,
    ) -> BaseModelOutputWithPooling:
        """Encode clips (B, T, C, H, W), normalised as the processor does.

        `bool_masked_pos` (B, N): True = hidden; only the others are encoded, and `last_hidden_state` holds them in
        token order, (B, V, D). `num_visible` is V when it is the same for every clip and known: then the mask is not
        inspected. With unequal counts each clip gets what it gets alone, followed by rows of zeros. `visible`, in place
        of a mask, holds tokens that the caller has selected already.
        `interpolate_pos_encoding` allows other frame counts and sizes. `pooler_output` is the normalised mean of the
        tokens where the configuration has `pooled_features`. `output_hidden_states` may be a list of layers, 0 being
        the embeddings: the others are then None.
        """
        if visible is None:
            grid = token_grid(pixel_values, self.config, interpolate_pos_encoding)
            if bool_masked_pos is not None:
                masked = checked_mask("bool_masked_pos", bool_masked_pos, pixel_values, grid)
                visible = visible_tokens(masked, grid, num_visible)
        else:
            grid = visible.grid
        positions, valid = (None, None) if visible is None else (visible.positions, visible.valid)
        if output_attentions is None:
            output_attentions = self.config.output_attentions

        tokens = self.embeddings(pixel_values, grid, positions)
        attention_mask = None
        if valid is not None:
            attention_mask = create_bidirectional_mask(self.config, inputs_embeds=tokens, attention_mask=valid)
        tokens = self.encoder(tokens, attention_mask, output_attentions)
        if self.layernorm is not None:
            tokens = self.layernorm(tokens)
        if valid is not None:
            tokens = tokens * valid[..., None]

        pooled = None
        if self.fc_norm is not None:
            mean = tokens.mean(1) if valid is None else tokens.sum(1) / valid.sum(1, keepdim=True)
            pooled = self.fc_norm(mean)
        return BaseModelOutputWithPooling(last_hidden_state=tokens, pooler_output=pooled)


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

    def forward(self, hidden_states: Tensor, num_decoded: int, attention_mask: Tensor | None = None) -> Tensor:
        """(B, V + R, E) -> (B, R, P): what the head says of the last R = `num_decoded` tokens."""
        last = len(self.decoder_layers) - 1
        for index, layer in enumerate(self.decoder_layers):
            # Nothing reads the visible tokens after the last block, so it computes none.
            # With padding it does all: a mask for fewer queries than keys is not portable across attention backends.
            carried = num_decoded if index == last and attention_mask is None else None
            hidden_states, _ = layer(hidden_states, attention_mask=attention_mask, num_queries=carried)
        return self.head(self.norm(hidden_states[:, -num_decoded:]))


class VideoMAEForPreTraining(VideoMAEPreTrainedModel):
    """The masked autoencoder of VideoMAE (tube masks) and VideoMAE V2 (plus a decoder mask)."""

    def __init__(self, config: VideoMAEConfig):
        super().__init__(config)
        config = self.config
        self.videomae = VideoMAEModel(config, for_pretraining=True, pooled=False)
        self.encoder_to_decoder = nn.Linear(config.hidden_size, config.decoder_hidden_size, bias=False)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, config.decoder_hidden_size))
        self.decoder = VideoMAEDecoder(config)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if module is self:
            std = self.config.initializer_range
            init.trunc_normal_(self.mask_token, std=std, a=-std, b=std)  # cut off at one deviation

    def _init_linear(self, linear: nn.Linear) -> None:
        if linear is self.encoder_to_decoder:  # the release leaves this one as nn.Linear makes it
            init.kaiming_uniform_(linear.weight, a=math.sqrt(5))
        else:
            init_xavier(self, linear)

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor,
        bool_masked_pos: Tensor | None = None,
        bool_decoded_pos: Tensor | None = None,
        *,
        num_visible: int | None = None,
        num_decoded: int | None = None,
        interpolate_pos_encoding: bool = False,
        output_attentions: bool | None = None,
        output_hidden_states: Selected = None,
    ) -> VideoMAEForPreTrainingOutput:
        """Hide, encode, decode, compare.

        `bool_masked_pos` (B, N): True = hidden from the encoder. `bool_decoded_pos` (B, N): True = rebuilt by the
        decoder, by default the hidden ones; V2 passes `~running_cell_mask(...)`. The loss counts positions that are
        both. `num_visible` and `num_decoded` are the counts of visible and decoded tokens when they are the same for
        every clip and known (the collator knows): forward then never looks at a mask. Without them the masks are
        inspected once, impossible ones raise, and unequal counts are padded.

        `logits` (B, R, P) has one row per decoded position in token order, zeros after a clip's rows when counts differ.
        """
        grid = token_grid(pixel_values, self.config, interpolate_pos_encoding)
        visible, rebuilt, counted = hide_tokens(
            pixel_values, grid, bool_masked_pos, bool_decoded_pos, num_visible, num_decoded
        )
        encoded = self.videomae(
            pixel_values,
            visible=visible,
            return_dict=True,
            **self._recorded(output_attentions, output_hidden_states),
        )
        logits = self.decode(encoded.last_hidden_state, visible, rebuilt)
        loss = self.reconstruction_loss(pixel_values, logits, rebuilt.positions, counted)
        if rebuilt.valid is not None:
            logits = logits * rebuilt.valid[..., None]
        return VideoMAEForPreTrainingOutput(
            loss=loss, logits=logits, hidden_states=encoded.hidden_states, attentions=encoded.attentions
        )

    def decode(self, encoded: Tensor, visible: TokenSelection, rebuilt: TokenSelection) -> Tensor:
        """Encoded visible tokens (B, V, D) -> pixels of the rebuilt ones, (B, R, P)."""
        tokens = self.encoder_to_decoder(encoded)
        table = position_table(self.config.grid, visible.grid, tokens.shape[-1], tokens.device, tokens.dtype)
        seen = tokens + table[visible.positions]
        unseen = self.mask_token + table[rebuilt.positions]
        hidden_states = torch.cat([seen, unseen.to(seen.dtype)], dim=1)  # (B, V + R, E)
        attention_mask = None
        if visible.valid is not None or rebuilt.valid is not None:
            real = torch.cat([visible.real, rebuilt.real], dim=1)
            attention_mask = create_bidirectional_mask(self.config, inputs_embeds=hidden_states, attention_mask=real)
        return self.decoder(hidden_states, rebuilt.positions.shape[1], attention_mask)

    @torch.no_grad()
    def targets(self, pixel_values: Tensor, positions: Tensor) -> Tensor:
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
        self, pixel_values: Tensor, logits: Tensor, positions: Tensor, counted: Tensor | None
    ) -> Tensor:
        """Mean squared error in float32 over the positions (B, R) that count, or over all."""
        targets = self.targets(pixel_values, positions)
        if counted is None:
            return F.mse_loss(logits.float(), targets, reduction="sum") / logits.numel()
        errors = (logits.float() - targets).square().sum(-1)
        return (errors * counted).sum() / (counted.sum() * logits.shape[-1])


# ---------------------------------------------------------------------------------------------------------------------
# Classify
# ---------------------------------------------------------------------------------------------------------------------


class VideoMAEForVideoClassification(VideoMAEPreTrainedModel):
    """The encoder with a linear head on the normalised mean of all tokens."""

    layer_class = VideoMAELayer  # of the encoder; token_reduction_videomae.py has another

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
        self.videomae = VideoMAEModel(config, pooled=False, layer_class=self.layer_class)
        self.fc_norm = nn.LayerNorm(config.hidden_size, eps=config.norm_eps) if config.use_mean_pooling else None
        self.dropout = nn.Dropout(config.head_dropout_prob)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels) if config.num_labels > 0 else nn.Identity()
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor | None = None,
        labels: Tensor | None = None,
        *,
        interpolate_pos_encoding: bool = False,
        output_attentions: bool | None = None,
        output_hidden_states: Selected = None,
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
            return_dict=True,
            **self._recorded(output_attentions, output_hidden_states),
        )
        tokens = encoded.last_hidden_state
        features = self.fc_norm(tokens.mean(1)) if self.fc_norm is not None else tokens[:, 0]
        logits = self.classifier(self.dropout(features))
        loss = None if labels is None else classification_loss(logits, labels, self.config)
        return ImageClassifierOutput(
            loss=loss, logits=logits, hidden_states=encoded.hidden_states, attentions=encoded.attentions
        )


def classification_loss(logits: Tensor, labels: Tensor, config: VideoMAEConfig) -> Tensor:
    """Cross-entropy, multi-label or regression, in float32; chosen by `problem_type`, else by the labels' type."""
    logits, labels, problem = logits.float(), labels.to(logits.device), config.problem_type
    if problem is None and logits.shape[-1] == 1:
        problem = "regression"
    elif problem is None:
        problem = "multi_label_classification" if labels.is_floating_point() else "single_label_classification"
    same_shape = tuple(labels.shape) == tuple(logits.shape)
    per_class = labels.is_floating_point() and same_shape
    if problem == "regression":
        return F.mse_loss(logits.reshape(-1), labels.reshape(-1).float())
    if problem == "multi_label_classification":
        if not same_shape:
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


__all__ = ["VideoMAEForPreTraining", "VideoMAEForVideoClassification", "VideoMAEModel", "VideoMAEPreTrainedModel"]
