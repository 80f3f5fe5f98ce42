"""Fine-tuning small matrices beside frozen weights, with peft where it is installed.

Checkpoints stay ordinary model folders: what is saved is the model with the small matrices merged in. The matrices
themselves lie in training/lora.safetensors, to resume from.
"""

import copy
from pathlib import Path
from typing import cast

import torch
from safetensors.torch import load_file
from torch import nn

from videomae.modeling_videomae import VideoMAEForVideoClassification
from videomae.training.checkpoints import save_tensors

STATE = "training/lora.safetensors"
TARGETS = ("query", "value")  # as in the LoRA paper (arXiv 2106.09685)


def add_lora(model: VideoMAEForVideoClassification, rank: int) -> int:
    """Put rank-`rank` matrices beside the query and value of every block; only they, `fc_norm` and the head are trained.

    Returns how many parameters that is. Afterwards `save_pretrained` and `state_dict` give the merged model, and
    `load_state_dict` does nothing: a checkpoint's folder holds merged weights, and `restore` reads what was trained.
    """
    try:
        from peft import LoraConfig, LoraModel
    except ImportError:
        raise ValueError("--lora_rank needs the package peft: pip install 'videomae[lora]'") from None
    adapted = LoraModel(model, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=list(TARGETS)), "default")
    for module in filter(None, (model.fc_norm, model.classifier)):
        module.requires_grad_(True)

    def merged() -> VideoMAEForVideoClassification:
        twin = cast(VideoMAEForVideoClassification, copy.deepcopy(adapted).merge_and_unload())
        for name in replaced:
            delattr(twin, name)  # the copy is a plain model with the methods of its class
        return twin

    replaced = {
        "save_pretrained": lambda folder, state_dict=None, **options: merged().save_pretrained(folder, **options),
        "state_dict": lambda **options: merged().state_dict(),
        "load_state_dict": lambda state_dict, **options: None,
    }
    vars(model).update(replaced)
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


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
