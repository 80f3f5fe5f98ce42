"""What the official pre-training and fine-tuning loops share, restated in plain lines: weights, schedule, AdamW."""

import math

import numpy as np
import torch


def official_weights(state: dict, renamed: dict, stacks: list[tuple[str, str, int]]) -> dict:
    """Our weights as leaves under the official names, with the fused qkv matrix.

    `renamed` holds the parts outside of blocks; `stacks` are (our prefix, the official one, depth) of the blocks.
    """
    renamed = dict(renamed)
    for prefix, official, depth in stacks:
        for i in range(depth):
            ours, theirs = f"{prefix}.{i}", f"{official}.{i}"
            attention = f"{ours}.attention.attention"
            renamed[f"{theirs}.attn.qkv.weight"] = torch.cat(
                [state[f"{attention}.{name}.weight"] for name in ("query", "key", "value")]
            )
            renamed[f"{theirs}.attn.q_bias"] = state[f"{attention}.query.bias"]
            renamed[f"{theirs}.attn.v_bias"] = state[f"{attention}.value.bias"]
            for kind in ("weight", "bias"):
                renamed[f"{theirs}.attn.proj.{kind}"] = state[f"{ours}.attention.output.dense.{kind}"]
                renamed[f"{theirs}.norm1.{kind}"] = state[f"{ours}.layernorm_before.{kind}"]
                renamed[f"{theirs}.norm2.{kind}"] = state[f"{ours}.layernorm_after.{kind}"]
                renamed[f"{theirs}.mlp.fc1.{kind}"] = state[f"{ours}.intermediate.dense.{kind}"]
                renamed[f"{theirs}.mlp.fc2.{kind}"] = state[f"{ours}.output.dense.{kind}"]
    assert sum(value.numel() for value in renamed.values()) == sum(value.numel() for value in state.values())
    return {name: value.clone().requires_grad_() for name, value in renamed.items()}


def official_rates(recipe, steps_per_epoch: int) -> np.ndarray:
    """`cosine_scheduler` of utils.py, after the scaling in the two run_*.py scripts."""
    peak = recipe.base_lr * recipe.clips_per_step / 256
    final = recipe.min_lr * recipe.clips_per_step / 256
    warmup = int(recipe.warmup_epochs * steps_per_epoch)
    rest = recipe.epochs * steps_per_epoch - warmup
    cosine = [final + 0.5 * (peak - final) * (1 + math.cos(math.pi * i / rest)) for i in range(rest)]
    return np.concatenate([np.linspace(0, peak, warmup), cosine])


class OfficialAdamW:
    """AdamW written out; the rate and the decay of each step are the caller's."""

    def __init__(self, weights: dict, recipe):
        self.betas, self.eps = recipe.betas, recipe.adam_eps
        self.moments = {name: (torch.zeros_like(value), torch.zeros_like(value)) for name, value in weights.items()}

    @torch.no_grad()
    def update(self, name: str, value: torch.Tensor, gradient: torch.Tensor, *, step: int, rate: float, decay: float):
        (first, second), (mean, square) = self.betas, self.moments[name]
        mean.mul_(first).add_(gradient, alpha=1 - first)
        square.mul_(second).addcmul_(gradient, gradient, value=1 - second)
        value.mul_(1 - rate * decay)
        step_size = (mean / (1 - first**step)) / ((square / (1 - second**step)).sqrt() + self.eps)
        value.sub_(rate * step_size)
