"""Classification with fewer tokens, training-free and off by default: token merging (ToMe) and run-length tokenisation (RLT).

A plain classifier's folder loads here as it is, with the same parameters; two fields of the configuration switch the
reductions on, and without them every number is the plain classifier's. The encoder of modeling_videomae.py knows
nothing of this.

ToMe (Bolya et al., "Token Merging: Your ViT But Faster", 2023): in every block, between attention and MLP, the most similar
tokens are averaged pairwise. RLT (Choudhury et al., "Don't Look Twice", 2024): a patch that does not differ from the one
before it in time is left out before the first block.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from huggingface_hub.dataclasses import strict
from transformers.modeling_outputs import ImageClassifierOutput
from transformers.utils.generic import can_return_tuple
from transformers.utils.output_capturing import resolve_hidden_states_indices, selected_hidden_states

from .configuration_videomae import VideoMAEConfig
from .inputs_videomae import Grid, select_kept, select_tokens, token_grid
from .modeling_videomae import (
    Selected,
    VideoMAEForVideoClassification,
    VideoMAELayer,
    classification_loss,
    device_constant,
    patchify,
)

# B clips  N tokens  D width  d width of a head | t h w patch grid, N <= t*h*w | p pixels along a patch, u frames in a
# tubelet | E, O tokens at even and odd places, E + O = N | M merged of the even ones
#
# `sizes` (B, N) goes beside the tokens: how many patches a token stands for. Zero is padding, so one tensor says what
# counts in attention, in a mean and in a merge.

RUN_LENGTHS = ("ignore", "weigh", "encode")
LENGTH_BASE = 1000.0  # of the sin-cos table of run lengths; the RLT release's, where positions have 10000


@strict
class ReducedVideoMAEConfig(VideoMAEConfig):
    """A VideoMAE configuration with the two reductions; transformers and the plain classes ignore these fields.

    merge_per_layer (`int` or `list[int]`, defaults to 0): how many tokens each block merges away (ToMe's r), or one
        number per block. 0: none.
    proportional_attention (`bool`, defaults to `True`): a merged token counts in the attention as often as the patches
        it stands for.
    still_threshold (`float`, *optional*): RLT. A patch is left out where the mean absolute difference between its last
        frame and the first frame of the patch before it, in normalised pixels, is no larger than this. 0.0 drops exact
        repetitions only, the paper uses 0.1; `None`: nothing is left out.
    run_lengths (`str`, defaults to `"ignore"`): what becomes of the number of slots that a kept patch stands for.
        "ignore": nothing; what the RLT release does unless asked. "weigh": it counts that often in the mean and, with
        proportional_attention, in the attention. "encode": its sin-cos encoding is added to the token, for models that were fine-tuned that way.
    """

    merge_per_layer: int | list[int] | tuple[int, ...] = 0
    proportional_attention: bool = True
    still_threshold: float | int | None = None
    run_lengths: str = "ignore"

    @property
    def merges(self) -> list[int]:
        """How many tokens each block merges away."""
        if isinstance(self.merge_per_layer, int):
            return [self.merge_per_layer] * self.num_hidden_layers
        return list(self.merge_per_layer)

    @property
    def reduces(self) -> bool:
        """Whether any token is left out or merged."""
        return self.still_threshold is not None or any(self.merges)

    @property
    def reduction(self) -> dict[str, Any]:
        """What changes the answers, for records of tests; empty when switched off."""
        names = ("merge_per_layer", "proportional_attention", "still_threshold", "run_lengths")
        return {name: getattr(self, name) for name in names} if self.reduces else {}

    def check_buildable(self) -> None:
        super().check_buildable()
        if len(self.merges) != self.num_hidden_layers:
            raise ValueError(
                f"merge_per_layer has {len(self.merges)} numbers for num_hidden_layers={self.num_hidden_layers}; give one "
                "each, or one number for all"
            )
        if min(self.merges) < 0:
            raise ValueError(f"merge_per_layer must not be negative, got {self.merge_per_layer}; 0 merges nothing")
        if self.still_threshold is not None and not self.still_threshold >= 0:
            raise ValueError(
                f"still_threshold must be at least 0, got {self.still_threshold}; None leaves no patch out, 0.1 is published"
            )
        if self.run_lengths not in RUN_LENGTHS:
            raise ValueError(f"run_lengths must be one of {', '.join(RUN_LENGTHS)}, got {self.run_lengths!r}")
        if self.reduces and not self.use_mean_pooling:
            raise ValueError(
                "use_mean_pooling=False reads the first token alone, which token reduction may merge or shift; use a "
                "classifier with use_mean_pooling=True, or merge_per_layer=0 and still_threshold=None"
            )


# ---------------------------------------------------------------------------------------------------------------------
# Run-length tokenisation
# ---------------------------------------------------------------------------------------------------------------------


def changed_patches(
    pixel_values: torch.Tensor, tubelet: int, patch_hw: tuple[int, int], threshold: float
) -> torch.Tensor:
    """(B, T, C, H, W) -> bool (B, t, h, w): True where a patch differs from the one before it; the first slot always.

    The last frame of a patch is compared with the first of the one before, the two that lie furthest apart, so slow
    movement inside a tubelet counts.
    """
    last = pixel_values[:, 2 * tubelet - 1 :: tubelet].float()
    first = pixel_values[:, :-tubelet:tubelet].float()
    difference = patchify((last - first).abs(), 1, patch_hw).flatten(4).mean(-1)  # (B, t - 1, h, w)
    return F.pad(difference > threshold, (0, 0, 0, 0, 1, 0), value=True)


def run_lengths(changed: torch.Tensor) -> torch.Tensor:
    """bool (B, t, h, w) -> int64 of that shape: slots from each patch to the next one that changes, itself included."""
    lengths = torch.ones_like(changed, dtype=torch.int64)
    for slot in reversed(range(changed.shape[1] - 1)):
        lengths[:, slot] += lengths[:, slot + 1] * ~changed[:, slot + 1]
    return lengths


@device_constant
def length_table(longest: int, width: int, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """The fixed encoding of run lengths 1 ... longest, (longest, D): sine on even columns."""
    column = torch.arange(width, dtype=torch.float64)
    angle = torch.arange(longest, dtype=torch.float64)[:, None] / LENGTH_BASE ** ((column - column % 2) / width)
    return torch.where(column % 2 == 0, angle.sin(), angle.cos()).to(device, dtype)


# ---------------------------------------------------------------------------------------------------------------------
# Token merging
# ---------------------------------------------------------------------------------------------------------------------


def soft_matching(
    keys: torch.Tensor, count: int, real: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Bipartite soft matching: which `count` tokens at even places go into which tokens at odd places.

    keys (B, N, d): tokens are as similar as the cosine of these. real (B, N): False for padding, which comes last.
    Returns places among the even tokens (B, E - M) that stay and (B, M) that go, and places among the odd ones (B, M)
    that receive these. Each even token knows only its most similar odd one; the most similar pairs are merged.
    """
    keys = F.normalize(keys.float(), dim=-1)
    similarity = keys[:, ::2] @ keys[:, 1::2].transpose(1, 2)  # (B, E, O)
    if real is not None:
        pair = real[:, ::2, None] & real[:, None, 1::2]
        similarity = similarity.masked_fill(~pair, -math.inf)
    best, partner = similarity.max(-1)
    order = best.argsort(dim=-1, descending=True)
    going = order[:, :count]
    return order[:, count:], going, partner.gather(1, going)


def merge_tokens(
    tokens: torch.Tensor, sizes: torch.Tensor, matching: tuple[torch.Tensor, torch.Tensor, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Average merged tokens by their sizes: (B, N, D) and (B, N) -> (B, N - M, D) and (B, N - M).

    First the even tokens that stay, the most similar first, then the odd ones. Padding has size 0 and changes nothing.
    """
    staying, going, receiving = matching
    even_sizes, odd_sizes = sizes[:, ::2], sizes[:, 1::2]
    weighted = tokens.float() * sizes[..., None]
    even, odd = weighted[:, ::2], weighted[:, 1::2]
    odd = odd.scatter_add(1, receiving[..., None].expand(-1, -1, odd.shape[-1]), select_tokens(even, going))
    odd_sizes = odd_sizes.scatter_add(1, receiving, even_sizes.gather(1, going))
    sizes = torch.cat([even_sizes.gather(1, staying), odd_sizes], dim=1)
    tokens = torch.cat([select_tokens(even, staying), odd], dim=1) / sizes.clamp(min=1)[..., None]
    return tokens, sizes


def padding_last(tokens: torch.Tensor, sizes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The same tokens with those of size 0 at the end, so that a clip's places do not depend on how much padding it has."""
    order = (sizes == 0).to(torch.uint8).argsort(dim=1, stable=True)
    return select_tokens(tokens, order), sizes.gather(1, order)


class TokenMergingLayer(VideoMAELayer):
    """A block that weighs tokens by their sizes in attention and merges some before its MLP."""

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        num_queries: int | None = None,
        output_attentions: bool = False,
        sizes: torch.Tensor | None = None,
        merge: int = 0,
        padded: bool = False,
    ) -> tuple[Any, ...]:
        """Without `sizes` a plain block. With them returns tokens, weights and sizes; `padded`: some sizes are 0."""
        if sizes is None:
            return super().forward(hidden_states, attention_mask, num_queries, output_attentions)
        attention = self.attention.attention
        query, key, value = attention.project(self.layernorm_before(hidden_states))
        context, weights = attention.attend(query, key, value, attention_mask, output_attentions)
        branch, keys = self.attention.output(context), key.mean(1)  # what is compared: the heads' mean
        hidden_states = hidden_states + self.drop_path(branch)
        # An odd token is left even where every even one goes, and with padding a clip merges as many as it would alone.
        merge = min(merge, (hidden_states.shape[1] + 1) // 2) if hidden_states.shape[1] > 1 else 0
        if merge:
            matching = soft_matching(keys, merge, sizes > 0 if padded else None)
            dtype = hidden_states.dtype
            hidden_states, sizes = merge_tokens(hidden_states, sizes, matching)
            if padded:
                hidden_states, sizes = padding_last(hidden_states, sizes)
            hidden_states = hidden_states.to(dtype)
        branch = self.output(self.intermediate(self.layernorm_after(hidden_states)))
        return hidden_states + self.drop_path(branch), weights, sizes


# ---------------------------------------------------------------------------------------------------------------------
# Classify
# ---------------------------------------------------------------------------------------------------------------------


class ReducedVideoMAEForVideoClassification(VideoMAEForVideoClassification):
    """A classifier that leaves out still patches and merges similar tokens, where its configuration says so.

    ReducedVideoMAEForVideoClassification.from_pretrained(FOLDER, merge_per_layer=65)        # ToMe
    ReducedVideoMAEForVideoClassification.from_pretrained(FOLDER, still_threshold=0.1)       # RLT
    """

    config_class = ReducedVideoMAEConfig
    config: ReducedVideoMAEConfig  # pyright: ignore[reportIncompatibleVariableOverride]  # as transformers narrows it
    layer_class = TokenMergingLayer
    _no_split_modules = ["VideoMAEEmbeddings", "VideoMAELayer", "TokenMergingLayer"]

    def __init__(self, config: VideoMAEConfig):
        if not isinstance(config, ReducedVideoMAEConfig):
            config = ReducedVideoMAEConfig.from_dict(config.to_dict())
        super().__init__(config)

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        *,
        interpolate_pos_encoding: bool = False,
        output_attentions: bool | None = None,
        output_hidden_states: Selected = None,
    ) -> ImageClassifierOutput:
        """As VideoMAEForVideoClassification. Hidden states and attentions have as many tokens as each block was given.

        A clip's logits do not depend on the other clips of its batch; clips that keep different numbers of patches are
        padded, so batches of similar clips save most.
        """
        if pixel_values is None or not self.config.reduces:
            return super().forward(
                pixel_values,
                labels,
                interpolate_pos_encoding=interpolate_pos_encoding,
                output_attentions=output_attentions,
                output_hidden_states=output_hidden_states,
                return_dict=True,  # pyright: ignore[reportCallIssue]  # taken by the decorator can_return_tuple
            )
        asked = self._recorded(output_attentions, output_hidden_states)
        selected, shown = selected_hidden_states(asked["output_hidden_states"]), asked["output_attentions"]
        if selected is None:
            selected = range(len(self.config.merges) + 1) if asked["output_hidden_states"] else []
        kept = resolve_hidden_states_indices(self, list(selected))
        grid = token_grid(pixel_values, self.config, interpolate_pos_encoding)
        tokens, sizes, padded = self._embed(pixel_values, grid)
        weighed = padded or self.config.run_lengths == "weigh"  # else all sizes are still 1
        states: list[Any] = [
            tokens if 0 in kept else None
        ]  # None for layers that were not asked for, as in transformers
        attentions = []
        for number, (layer, merge) in enumerate(zip(self.videomae.encoder.layer, self.config.merges), start=1):
            mask = self._attention_mask(sizes, padded, tokens.dtype) if weighed else None
            tokens, weights, sizes = layer(
                tokens, attention_mask=mask, output_attentions=shown, sizes=sizes, merge=merge, padded=padded
            )
            weighed = weighed or merge > 0
            states.append(tokens if number in kept else None)
            attentions.append(weights)
        mean = (tokens * sizes[..., None]).sum(1) / sizes.sum(1, keepdim=True)
        assert self.fc_norm is not None  # check_buildable: what reduces tokens pools their mean
        logits = self.classifier(self.dropout(self.fc_norm(mean.to(tokens.dtype))))
        loss = None if labels is None else classification_loss(logits, labels, self.config)
        return ImageClassifierOutput(
            loss=loss,
            logits=logits,
            hidden_states=tuple(states) if kept else None,
            attentions=tuple(attentions) if shown else None,
        )

    def count_patches(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """How many patches of each clip (B,) are kept for the first block; all without `still_threshold`."""
        return self._changed(pixel_values, token_grid(pixel_values, self.config, True)).flatten(1).sum(1)

    def _changed(self, pixel_values: torch.Tensor, grid: Grid) -> torch.Tensor:
        config = self.config
        if config.still_threshold is None:
            return torch.ones(pixel_values.shape[0], *grid, dtype=torch.bool, device=pixel_values.device)
        return changed_patches(pixel_values, config.tubelet_size, config.patch_hw, config.still_threshold)

    def _embed(self, pixel_values: torch.Tensor, grid: Grid) -> tuple[torch.Tensor, torch.Tensor, bool]:
        """Tokens of the patches that are kept, their sizes, and whether some of them are padding."""
        embeddings, mode = self.videomae.embeddings, self.config.run_lengths
        if self.config.still_threshold is None:
            tokens = embeddings(pixel_values, grid)
            return tokens, tokens.new_ones(tokens.shape[:2], dtype=torch.float32), False
        changed = self._changed(pixel_values, grid)
        kept = select_kept(changed.flatten(1), grid, None, "clip {clip} keeps no patch")  # the first slot always stays
        tokens = embeddings(pixel_values, grid, kept.positions)
        sizes = tokens.new_ones(tokens.shape[:2], dtype=torch.float32)
        if mode != "ignore":
            lengths = run_lengths(changed).flatten(1).gather(1, kept.positions)
            if mode == "weigh":
                sizes = lengths.float()
            else:
                tokens = tokens + length_table(grid[0], tokens.shape[-1], tokens.device, tokens.dtype)[lengths - 1]
        if kept.valid is None:
            return tokens, sizes, False
        return tokens, sizes * kept.valid, True

    def _attention_mask(self, sizes: torch.Tensor, padded: bool, dtype: torch.dtype) -> torch.Tensor | None:
        """(B, 1, 1, N) for tokens as keys: log of the sizes, or padding alone; None where neither counts."""
        proportional = self.config.proportional_attention
        if not (padded or proportional):
            return None
        kind = self.config._attn_implementation
        if kind not in ("eager", "sdpa"):
            raise ValueError(
                f"attn_implementation={kind!r} takes no weights for tokens, which token reduction needs here; load with "
                "attn_implementation='sdpa', or merge with proportional_attention=False and no still_threshold"
            )
        mask = sizes.log().to(dtype) if proportional else sizes > 0
        return mask[:, None, None]


__all__ = ["ReducedVideoMAEConfig", "ReducedVideoMAEForVideoClassification"]
