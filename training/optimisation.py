"""The optimizer side of a training step: parameter groups, the schedule, gradient norm, the step, the average.

Everything here is the official arithmetic (optim_factory.py and utils.py of the VideoMAE releases) as small pure
functions; which numbers go in is the recipe's business, and the order of calls is visible in the train scripts.
"""

import contextlib
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn

from videomae.training.recipes import Recipe

# Devices on which torch has one kernel for the whole AdamW step. Its kernel can also be told, on the device, to
# skip a step, so that a non-finite gradient costs no wait; elsewhere `step_unless` waits.
FUSED_DEVICES = ("cuda", "cpu", "xpu", "mps")


# ------------------------------------------------------------------------------------------------------- groups


def layer_of(name: str, num_layers: int) -> int:
    """The layer number that layer decay uses: patch embedding 0, block k (from 0) k + 1, all else num_layers + 1."""
    if block := re.search(r"\bencoder\.layer\.(\d+)\.", name):
        return int(block.group(1)) + 1
    return 0 if re.search(r"\bembeddings\.", name) else num_layers + 1


def layer_scale(name: str, num_layers: int, layer_decay: float | None) -> float:
    """Learning-rate factor of a parameter: decay ** (num_layers + 1 - layer)."""
    return 1.0 if layer_decay is None else layer_decay ** (num_layers + 1 - layer_of(name, num_layers))


def has_weight_decay(name: str, parameter: torch.Tensor) -> bool:
    """Biases, norms (all 1-D) and the mask token are not decayed."""
    return parameter.ndim > 1 and not name.endswith((".bias", "mask_token"))


def parameter_groups(
    model: nn.Module, *, weight_decay: float, layer_decay: float | None = None, num_layers: int | None = None
) -> list[dict[str, Any]]:
    """AdamW groups, one for each (layer, decayed or not); frozen parameters are left out.

    Each group carries `lr_scale` and its own `weight_decay`, which `set_rates` reads, and a `name` for logs.
    `num_layers` is that of the encoder and comes from `model.config` where it has one.
    """
    if num_layers is None:
        num_layers = int(cast(Any, model).config.num_hidden_layers) if layer_decay is not None else 0
    groups: dict[str, dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        decayed = has_weight_decay(name, parameter)
        layer = f"layer_{layer_of(name, num_layers)}_" if layer_decay is not None else ""
        group = groups.setdefault(
            f"{layer}{'decay' if decayed else 'no_decay'}",
            {
                "params": [],
                "lr_scale": layer_scale(name, num_layers, layer_decay),
                "weight_decay": weight_decay if decayed else 0.0,
            },
        )
        group["params"].append(parameter)
    if not groups:
        raise ValueError("the model has no trainable parameter; unfreeze something")
    return [{"name": name, **group} for name, group in groups.items()]


def build_optimizer(
    model: nn.Module, recipe: Recipe, *, groups: list[dict[str, Any]] | None = None
) -> torch.optim.AdamW:
    """AdamW, fused where torch has it, over the given groups, the model's own, or `parameter_groups`.

    Rates come from `set_rates`.
    """
    own_groups = getattr(model, "optimizer_groups", None)
    if groups is None and own_groups is not None:
        groups = cast(Any, own_groups)()
    groups = groups or parameter_groups(
        model, weight_decay=recipe.weight_decay, layer_decay=getattr(recipe, "layer_decay", None)
    )
    devices = {parameter.device.type for group in groups for parameter in group["params"]}
    fused = devices <= set(FUSED_DEVICES)
    beta1, beta2 = recipe.betas
    return torch.optim.AdamW(groups, lr=0.0, betas=(beta1, beta2), eps=recipe.adam_eps, fused=fused)


# ----------------------------------------------------------------------------------------------------- schedule


def cosine(step: int, steps: int, start: float, end: float) -> float:
    """From `start` at step 0 towards `end`, which would come at step `steps`."""
    return end + (start - end) * (1 + math.cos(math.pi * step / steps)) / 2


def warmup(step: int, steps: int, start: float, end: float) -> float:
    """Linear from `start` to `end`, both reached: numpy's linspace(start, end, steps)[step]."""
    return start + (end - start) * step / (steps - 1) if steps > 1 else start


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Learning rate and weight decay of every step (counted from 0), before the per-layer factors."""

    peak_lr: float
    final_lr: float
    warmup_steps: int
    total_steps: int
    warmup_start_lr: float = 0.0
    weight_decay: float = 0.05
    weight_decay_end: float | None = None
    first_step: int = 0  # where on its curve the first optimizer step is

    @classmethod
    def of(cls, recipe: Recipe, steps_per_epoch: int) -> "Schedule":
        """The recipe's schedule, for a data set of `steps_per_epoch` optimizer steps an epoch."""
        if recipe.warmup_epochs >= recipe.epochs:
            raise ValueError(
                f"warmup_epochs {recipe.warmup_epochs} does not leave room in epochs {recipe.epochs}; lower warmup_epochs"
            )
        return cls(
            peak_lr=recipe.peak_lr,
            final_lr=recipe.final_lr,
            warmup_steps=round(recipe.warmup_epochs * steps_per_epoch),
            total_steps=recipe.epochs * steps_per_epoch,
            warmup_start_lr=recipe.peak_lr * getattr(recipe, "warmup_start", 0.0),
            weight_decay=recipe.weight_decay,
            weight_decay_end=recipe.weight_decay_end,
            first_step=getattr(recipe, "first_step", 0),
        )

    def lr_at(self, step: int) -> float:
        step += self.first_step
        if step < self.warmup_steps:
            return warmup(step, self.warmup_steps, self.warmup_start_lr, self.peak_lr)
        return cosine(step - self.warmup_steps, self.total_steps - self.warmup_steps, self.peak_lr, self.final_lr)

    def weight_decay_at(self, step: int) -> float:
        if self.weight_decay_end is None:
            return self.weight_decay
        return cosine(step, self.total_steps, self.weight_decay, self.weight_decay_end)


def set_rates(optimizer: torch.optim.Optimizer, *, lr: float, weight_decay: float) -> None:
    """Give every group its rates: lr times the group's `lr_scale`, weight decay times its `weight_decay_scale`, where
    it has any decay."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)
        if group["weight_decay"] > 0:
            group["weight_decay"] = weight_decay * group.get("weight_decay_scale", 1.0)


# --------------------------------------------------------------------------------------------------------- step


def gradient_norm(parameters: Iterable[torch.Tensor], max_norm: float | None = None) -> torch.Tensor:
    """Norm of the whole gradient, as a scalar still on the device; with `max_norm` the gradient is scaled down to it.

    Sharded gradients (FSDP2) give the norm of the full gradient on every process.
    """
    parameters = [parameter for parameter in parameters if parameter.grad is not None]
    norm = torch.nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
    if max_norm is not None:
        torch.nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
    full_tensor = getattr(norm, "full_tensor", None)
    return norm if full_tensor is None else full_tensor()


def step_unless(bad: torch.Tensor, optimizer: torch.optim.Optimizer) -> None:
    """One optimizer step, or none where the scalar `bad` is true; a fused optimizer decides on the device.

    `optimizer` may be accelerate's wrapper. Under a gradient scaler (fp16) the scaler decides, by the same gradients.
    """
    inner = getattr(optimizer, "optimizer", optimizer)
    if getattr(optimizer, "scaler", None) is not None:
        optimizer.step()
    elif inner.defaults.get("fused"):
        vars(inner)["found_inf"] = bad.to(torch.float32)  # where the kernel looks for it
        try:
            optimizer.step()
        finally:
            del vars(inner)["found_inf"]
    elif not bool(bad):
        optimizer.step()


# ------------------------------------------------------------------------------------------------------ average


class Ema:
    """Exponential moving average of a model's parameters and buffers, in float32, by name.

    `decay` near 1 averages over about 1 / (1 - decay) steps. `state` holds the tensors that checkpoints store.
    """

    def __init__(self, model: nn.Module, decay: float):
        if not 0.0 < decay < 1.0:
            raise ValueError(f"ema_decay must be strictly between 0 and 1, got {decay}; 0.9999 is usual")
        self.decay = decay
        self.state = {name: value.detach().clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        current = model.state_dict()
        floats = [name for name, value in self.state.items() if value.is_floating_point()]
        torch._foreach_lerp_(  # pyright: ignore[reportPrivateImportUsage]  # it has no public name
            [self.state[name] for name in floats],
            [current[name].to(self.state[name].dtype) for name in floats],
            1.0 - self.decay,
        )

    def load(self, state: Mapping[str, torch.Tensor]) -> None:
        if differing := sorted(set(self.state) ^ set(state)):
            raise ValueError(f"the saved average has other tensors than the model: {', '.join(differing[:5])}")
        for name, value in self.state.items():
            value.copy_(state[name])


@contextlib.contextmanager
def averaged(model: torch.nn.Module, ema: Ema | None) -> Iterator[None]:
    """Inside the block the model has the averaged weights, where there are some; after it its own, bit for bit."""
    if ema is None:
        yield
        return
    own = {name: value.clone() for name, value in model.state_dict().items()}
    model.load_state_dict(ema.state)
    try:
        yield
    finally:
        model.load_state_dict(own)
