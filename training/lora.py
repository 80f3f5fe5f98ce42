"""Fine-tuning small matrices beside frozen weights, with peft where it is installed.

Checkpoints stay ordinary model folders: what is saved is the model with the small matrices merged in. The matrices
themselves lie in training/lora.safetensors, for going on.
"""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from videomae.training.checkpoints import save_tensors

STATE = "training/lora.safetensors"
TARGETS = ("query", "value")  # as in the LoRA paper (arXiv 2106.09685)


def add_lora(model: nn.Module, rank: int) -> int:
    """Put rank-`rank` matrices beside the query and value of every block; only they, `fc_norm` and the head are trained.

    Returns how many parameters that is. Afterwards `save_pretrained` writes the merged model.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise ValueError("--lora_rank needs the package peft: pip install 'videomae[lora]'") from None
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=list(TARGETS)), model)
    for module in (model.fc_norm, model.classifier):
        module.requires_grad_(True)

    def save_merged(folder: Any, state_dict: Any = None, **options: Any) -> None:
        merged(model).save_pretrained(folder, **options)

    def merged_state(**options: Any) -> dict[str, torch.Tensor]:
        return merged(model).state_dict()

    def leave_as_is(state_dict: Mapping[str, torch.Tensor], **options: Any) -> None:
        """A checkpoint's folder holds the merged weights; `restore` puts back what was trained."""

    model.save_pretrained, model.state_dict, model.load_state_dict = save_merged, merged_state, leave_as_is
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def merged(model: nn.Module) -> nn.Module:
    """A plain model that computes the same."""
    from peft.tuners.lora import LoraLayer

    twin = copy.deepcopy(model)
    for module in twin.modules():
        if isinstance(module, LoraLayer):
            module.merge()
    state = {
        name.replace(".base_layer.", "."): tensor
        for name, tensor in nn.Module.state_dict(twin).items()  # the class's own: the instance's is the merged one
        if ".lora_" not in name
    }
    plain = type(model)(model.config)
    plain.load_state_dict(state)
    return plain


def write(model: nn.Module, folder: Path) -> None:
    """Keep everything that is trained, for `restore`."""
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    save_tensors(trained, folder / STATE)


def restore(model: nn.Module, folder: Path) -> None:
    saved = load_file(folder / STATE)
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if saved.keys() != trained.keys():
        raise ValueError(f"{folder} was written with another --lora_rank or --freeze")
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(saved[name])
