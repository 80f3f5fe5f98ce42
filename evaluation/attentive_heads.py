"""Many attentive heads on one frozen encoder: the grid of learning rates and weight decays of V-JEPA 2's frozen protocol.

All heads see the same tokens, each has its own loss, and one AdamW holds them as groups, which is as many optimizers.
"""

# B videos  N tokens of a video  D width  K labels  G heads

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedConfig, PreTrainedModel

from videomae.attentive_probe_videomae import AttentiveHead, init_head


class HeadsConfig(PreTrainedConfig):
    """The shape of a grid of heads, and the rates of each."""

    model_type = "videomae_attentive_heads"

    def __init__(
        self,
        width: int = 768,
        num_classes: int = 2,
        probe_blocks: int = 4,
        probe_heads: int = 16,
        learning_rates: Sequence[float] = (1e-3,),
        weight_decays: Sequence[float] = (0.01,),
        **more: Any,
    ):
        self.width, self.num_classes, self.probe_blocks, self.probe_heads = (
            width,
            num_classes,
            probe_blocks,
            probe_heads,
        )
        self.learning_rates, self.weight_decays = list(learning_rates), list(weight_decays)
        super().__init__(**more)

    @property
    def rates(self) -> list[tuple[float, float]]:
        """(learning rate, weight decay) of each head."""
        return [(lr, decay) for decay, lr in itertools.product(self.weight_decays, self.learning_rates)]


class AttentiveHeads(PreTrainedModel):
    """A head for every pair of rates; its checkpoints are folders like those of any training here."""

    config_class = HeadsConfig
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    main_input_name = "tokens"

    def __init__(self, config: HeadsConfig):
        super().__init__(config)
        shape = {"blocks": config.probe_blocks, "heads": config.probe_heads}
        self.heads = nn.ModuleList(
            AttentiveHead(config.width, config.num_classes, **shape, attention=config._attn_implementation)
            for _ in config.rates
        )
        self.post_init()
        for parameter in self.parameters():
            # One head with a rate too high for it must not end the run of the others.
            parameter.register_hook(_without_infinities)

    def _init_weights(self, module: nn.Module) -> None:
        init_head(module)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens of videos (B, N, D) to the logits of each head (G, B, K)."""
        return torch.stack([head(tokens) for head in self.heads])

    def optimizer_groups(self) -> list[dict[str, Any]]:
        """One AdamW group a head, which `build_optimizer` takes; all parameters are decayed, norms and biases too."""
        most_lr, most_decay = (max(column) for column in zip(*self.config.rates))
        return [
            {
                "name": f"lr {lr:g}, weight decay {decay:g}",
                "params": list(head.parameters()),
                "lr_scale": lr / most_lr,
                "weight_decay": decay,
                "weight_decay_scale": decay / most_decay if most_decay else 1.0,
            }
            for head, (lr, decay) in zip(self.heads, self.config.rates)
        ]


def _without_infinities(gradient: torch.Tensor) -> torch.Tensor:
    return gradient.nan_to_num(0.0, 0.0, 0.0)


def heads_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The sum over heads (G, B, K) of each one's cross-entropy; a head whose loss is not finite is left out."""
    exact = logits.to(torch.promote_types(logits.dtype, torch.float32))
    losses = torch.stack([F.cross_entropy(each, labels) for each in exact])
    return losses.where(losses.isfinite(), 0.0).sum()
