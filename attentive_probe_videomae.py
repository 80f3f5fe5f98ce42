"""An attentive probe on a VideoMAE encoder: V-JEPA 2's frozen protocol as a model that is saved, loaded and run.

`AttentiveHead` is the protocol's classifier: self-attention blocks over the tokens of a video, one cross-attention to a
single learnt query, one linear layer. `VideoMAEForAttentiveProbe` is an encoder with one such head. How heads are trained
and chosen is evaluation/frozen_probe.py, in the package; this file travels with a saved probe.
"""

# B videos  S segments of a video  T frames of a segment  C channels  H W pixels | N tokens of a segment, L levels, D width
# K labels

import math
from typing import Any, cast

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import VJEPA2Config
from transformers import initialization as init
from transformers.modeling_outputs import ImageClassifierOutput
from transformers.models.vjepa2.modeling_vjepa2 import VJEPA2AttentivePooler
from transformers.utils.generic import can_return_tuple

from .configuration_videomae import VideoMAEConfig
from .modeling_videomae import VideoMAEModel, VideoMAEPreTrainedModel, classification_loss

INIT_STD = 0.02
HEAD_NORM_EPS = 1e-5  # nn.LayerNorm's, whatever epsilon the encoder has


class HeadLinear(nn.Linear):
    """The last layer of a head; a class of its own, so that its initial weights are (`init_head`)."""


class AttentiveHead(nn.Module):
    """`blocks` - 1 blocks of self-attention and one of cross-attention to a learnt query, then a linear layer.

    The blocks are those of transformers' V-JEPA 2; the initial weights are those of its frozen evaluation
    (attentive_pooler.py of facebookresearch/vjepa2), which differ from transformers'.
    """

    def __init__(self, width: int, num_labels: int, *, blocks: int = 4, heads: int = 16, attention: str | None = None):
        super().__init__()
        if width % heads:
            raise ValueError(
                f"probe_heads={heads} does not divide the encoder's width {width}; choose a number that does"
            )
        if blocks < 1:
            raise ValueError(f"probe_blocks counts the cross-attention and must be at least 1, not {blocks}")
        config = VJEPA2Config(
            hidden_size=width,
            num_attention_heads=heads,
            num_pooler_layers=blocks - 1,
            layer_norm_eps=HEAD_NORM_EPS,
            attn_implementation=attention or "sdpa",  # pyright: ignore[reportCallIssue]  # every configuration takes it
        )
        self.pooler = VJEPA2AttentivePooler(config)
        self.linear = HeadLinear(width, num_labels)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens of whole videos (B, S*L*N, D), in any order, to logits (B, K)."""
        return self.linear(self.pooler(tokens))


def init_head(module: nn.Module) -> bool:
    """Fresh weights for a part of a head; False for any other module.

    Truncated normals, where the last matrices of a block get smaller by its number; the linear layer is torch's own.
    transformers asks module by module, and only those with parameters of their own.
    """
    if isinstance(module, HeadLinear):
        init.kaiming_uniform_(module.weight, a=math.sqrt(5))
        bound = module.in_features**-0.5
        init.uniform_(module.bias, -bound, bound)
        return True
    if not isinstance(module, VJEPA2AttentivePooler):
        return False
    for part in module.modules():
        if isinstance(part, nn.Linear):
            _truncated(part.weight, 1.0)
            init.zeros_(part.bias)
        elif isinstance(part, nn.LayerNorm):
            init.ones_(part.weight)
            init.zeros_(part.bias)
    _truncated(module.query_tokens, 1.0)
    for number, layer in enumerate(cast(Any, module.self_attention_layers), start=1):
        for last in (layer.self_attn.out_proj, layer.mlp.fc2):
            _truncated(last.weight, math.sqrt(2.0 * number))
    # The official code takes the number of the last self-attention block here, not the next one.
    _truncated(module.cross_attention_layer.mlp.fc2.weight, math.sqrt(2.0 * max(len(module.self_attention_layers), 1)))
    return True


def _truncated(weight: torch.Tensor, divisor: float) -> None:
    """A normal of deviation INIT_STD, cut off at 2 (not at two deviations), all divided by `divisor`."""
    init.trunc_normal_(weight, std=INIT_STD / divisor, a=-2.0 / divisor, b=2.0 / divisor)


@strict
class AttentiveProbeConfig(VideoMAEConfig):
    """A VideoMAE configuration with the shape of an attentive head; transformers and the plain classes ignore it.

    probe_blocks (`int`, defaults to 4): blocks of the head, its cross-attention included.
    probe_heads (`int`, defaults to 16): attention heads of each block.
    probe_levels (`list[int]`, defaults to empty): encoder blocks, from 0, whose tokens the head sees, each after the
        encoder's final norm; empty: those that leave the encoder.
    """

    probe_blocks: int = 4
    probe_heads: int = 16
    probe_levels: list[int] | tuple[int, ...] = ()


class VideoMAEForAttentiveProbe(VideoMAEPreTrainedModel):
    """A frozen encoder with an attentive head over all tokens of all segments of a video."""

    config_class = AttentiveProbeConfig
    config: AttentiveProbeConfig

    def __init__(self, config: AttentiveProbeConfig):
        super().__init__(config)
        config = self.config
        self.num_labels = config.num_labels
        self.videomae = VideoMAEModel(config, pooled=False)
        self.head = AttentiveHead(
            config.hidden_size,
            config.num_labels,
            blocks=config.probe_blocks,
            heads=config.probe_heads,
            attention=config._attn_implementation,
        )
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if not init_head(module):
            super()._init_weights(module)

    @can_return_tuple
    def forward(self, pixel_values: torch.Tensor, labels: torch.Tensor | None = None) -> ImageClassifierOutput:
        """Classify videos (B, S*T, C, H, W): S segments of `num_frames` frames each, one after the other; any S."""
        num_frames = self.config.num_frames
        if pixel_values.ndim != 5 or pixel_values.shape[1] % num_frames or not pixel_values.shape[1]:
            raise ValueError(
                f"pixel_values must be (videos, segments x {num_frames} frames, channels, height, width), got "
                f"{tuple(pixel_values.shape)}; the processor saved with the model makes them"
            )
        segments = pixel_values.unflatten(1, (-1, num_frames))
        tokens = level_tokens(self.videomae, segments.flatten(0, 1), self.config.probe_levels)
        logits = self.head(tokens.unflatten(0, segments.shape[:2]).flatten(1, 2))
        loss = None if labels is None else classification_loss(logits, labels, self.config)
        return ImageClassifierOutput(loss=loss, logits=logits)


def level_tokens(
    encoder: VideoMAEModel, pixel_values: torch.Tensor, levels: list[int] | tuple[int, ...]
) -> torch.Tensor:
    """(B, T, C, H, W) -> (B, L*N, D): the tokens after each of these encoder blocks, level after level."""
    if not levels:
        return encoder(pixel_values).last_hidden_state
    wanted = [level + 1 for level in levels]  # 0 of the hidden states is before the first block
    states = encoder(pixel_values, output_hidden_states=wanted).hidden_states
    norm = encoder.layernorm or nn.Identity()
    return torch.cat([norm(states[level]) for level in wanted], dim=1)


__all__ = ["AttentiveHead", "AttentiveProbeConfig", "VideoMAEForAttentiveProbe"]
