"""Encoders whose weights never move, from the folders that the frozen protocol compares: VideoMAE's and V-JEPA 2's.

A folder of ours, of transformers or converted is opened by our class; a V-JEPA 2 folder by transformers' AutoModel.
"""

# B clips  T frames  C channels  H W pixels | N tokens of a clip, L levels, D width

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModel, PreTrainedConfig

from videomae.attentive_probe_videomae import level_tokens
from videomae.configuration_videomae import IMAGENET_MEAN, IMAGENET_STD
from videomae.evaluation.multi_view import saved_views
from videomae.evaluation.probes import load_encoder
from videomae.models import check_content, check_name, open_config, open_model, weights_sha256

# Blocks between two levels by depth: the public Diving48 files take 17, 19, 21, 23 of ViT-L and 24, 29, 34, 39 of ViT-g.
LEVEL_STEPS = {24: 2, 40: 5}


@dataclass(frozen=True)
class FrozenEncoder:
    """What the probe needs of an encoder: tokens of clips, and how pixels must look.

    blocks: the encoder blocks whose tokens are given, one after the other; none: the encoder's output. notes: what is
    not as the encoder was trained, for the report.
    """

    name: str
    model: Any  # a VideoMAEModel, or a VJEPA2Model of transformers
    width: int
    num_frames: int
    size: int
    mean: Sequence[float]
    std: Sequence[float]
    blocks: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def is_videomae(self) -> bool:
        return self.model.config.model_type == "videomae"

    @property
    def sha256(self) -> str:
        return weights_sha256(self.model)

    def to(self, device: torch.device) -> "FrozenEncoder":
        self.model.to(device).eval().requires_grad_(False)
        return self

    @torch.no_grad()
    def tokens(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Normalised clips (B, T, C, H, W) to tokens (B, L*N, D)."""
        if self.is_videomae:
            return level_tokens(self.model, pixel_values, self.blocks)
        asked = {"skip_predictor": True, "output_hidden_states": bool(self.blocks)}
        outputs = self.model(pixel_values_videos=pixel_values, **asked)
        if not self.blocks:
            return outputs.last_hidden_state
        norm = self.model.encoder.layernorm
        return torch.cat([norm(outputs.hidden_states[block + 1]) for block in self.blocks], dim=1)


def level_blocks(depth: int, levels: int) -> tuple[int, ...]:
    """The blocks of `levels` levels, the last one included; none for the output alone."""
    if levels == 1:
        return ()
    step = LEVEL_STEPS.get(depth, max(depth // 12, 1))
    first = depth - 1 - step * (levels - 1)
    if levels < 1 or first < 0:
        raise ValueError(f"levels={levels} do not fit an encoder of {depth} blocks, {step} apart; lower --levels")
    return tuple(range(first, depth, step))


def open_encoder(
    start: str, *, like: str | None = None, num_frames: int = 16, levels: int = 1, seed: int = 0
) -> FrozenEncoder:
    """The encoder of a folder or Hub name; "random": fresh weights of the architecture of `like`, a VideoMAE."""
    folder = like if start == "random" else start
    if folder is None:
        raise ValueError("random weights need an architecture; give the model folder that they are to be `like`")
    model_type = model_type_of(folder)
    if model_type == "vjepa2" and start != "random":
        return _open_vjepa2(start, num_frames, levels)
    config = open_config(folder, "MODEL")
    views = saved_views(folder, config)
    model = load_encoder(start, like=like, seed=seed, num_frames=num_frames)
    notes = ()
    if num_frames != config.num_frames:
        notes = (
            f"the encoder was trained on {config.num_frames} frames; its position table was recomputed for {num_frames}",
        )
    blocks = level_blocks(config.num_hidden_layers, levels)
    return FrozenEncoder(start, model, config.hidden_size, num_frames, views.size, views.mean, views.std, blocks, notes)


def model_type_of(model: str) -> str:
    """What the config.json of a folder or Hub name says it is; one of two kinds, or an error."""
    if Path(model).is_dir() and not Path(model, "config.json").is_file():
        raise FileNotFoundError(f"MODEL {model} has no config.json; give a folder that save_pretrained wrote")
    check_name(model, "MODEL")
    content = PreTrainedConfig.get_config_dict(model)[0]
    model_type = content.get("model_type", "videomae")
    if model_type not in ("videomae", "vjepa2"):
        raise ValueError(
            f"MODEL {model} is of model_type {model_type!r}; the frozen protocol supports 'videomae' and 'vjepa2'"
        )
    if model_type == "vjepa2":  # open_config looks at ours
        check_content(content, f"MODEL {model}")
    return model_type


def _open_vjepa2(start: str, num_frames: int, levels: int) -> FrozenEncoder:
    """transformers' V-JEPA 2: rotary positions, which take any number of frames; ImageNet's pixel scaling."""
    auto: Any = AutoModel  # chooses among classes of models, and is none itself
    model = open_model(auto, start)
    config = model.config
    blocks = level_blocks(config.num_hidden_layers, levels)
    pixels = (tuple(IMAGENET_MEAN), tuple(IMAGENET_STD))
    return FrozenEncoder(start, model, config.hidden_size, num_frames, config.crop_size, *pixels, blocks)
