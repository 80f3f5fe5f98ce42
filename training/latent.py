"""Latent targets: the student's decoder predicts what a frozen encoder makes of the hidden tokens (SALT, as V-JEPA).

The teacher sees whole clips, the student what the mask leaves. The targets are the teacher's tokens, each normalised over
its width without weight or bias, and the loss is their mean absolute difference. Source: SALT, arXiv 2509.24317; normalisation
and loss as in app/vjepa of facebookresearch/vjepa2.
"""

# B clips, k masks of each  T frames  C channels  H W pixels | N tokens, R decoded  D width of the student, L of the teacher

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.models.videomae.modeling_videomae import VideoMAEForPreTrainingOutput

from videomae.configuration_videomae import VideoMAEConfig
from videomae.inputs_videomae import hide_tokens, token_grid
from videomae.modeling_videomae import VideoMAEForPreTraining, VideoMAEModel
from videomae.models import open_config, open_model
from videomae.training.engines import precision

ENCODER = "videomae."  # the prefix of the student's own encoder


class LatentTeacher:
    """A frozen encoder: clips to the normalised tokens that a student predicts.

    `clip` says what the student sees: the size of clips and patches, and how pixels are scaled.
    """

    def __init__(self, folder: str, *, clip: VideoMAEConfig, device: torch.device):
        config = open_config(folder, "--teacher")
        theirs, ours = clip_of(config), clip_of(clip)
        if theirs != ours:
            raise ValueError(
                f"--teacher {folder} sees {described(theirs)}, and the student {described(ours)}; latent targets need the same "
                "clips and tokens: choose another teacher, or another --image_size, --num_frames or patch_size"
            )
        if config.pixel_statistics != clip.pixel_statistics:
            raise ValueError(
                f"--teacher {folder} takes pixels scaled by {config.pixel_statistics}, and the student by "
                f"{clip.pixel_statistics}; give the student the teacher's pixel_mean and pixel_std with --config"
            )
        self.model = open_model(VideoMAEModel, folder, may_lack=r"fc_norm\..*").to(device).requires_grad_(False)

    @torch.no_grad()
    def __call__(self, pixel_values: Tensor) -> Tensor:
        """(B, T, C, H, W) -> (B, N, L) float32; in bf16 where the device has it, as the student."""
        kind = pixel_values.device.type
        with torch.autocast(kind, torch.bfloat16, enabled=kind != "cpu" and precision("auto") == "bf16"):
            tokens = self.model(pixel_values).last_hidden_state
        return F.layer_norm(tokens.float(), tokens.shape[-1:])


@strict
class LatentConfig(VideoMAEConfig):
    """A VideoMAE configuration with the teacher's width, `latent_size`."""

    latent_size: int = 0


class LatentStudent(VideoMAEForPreTraining):
    """VideoMAE's encoder and decoder, whose last layer has the teacher's width; only checkpoints hold it whole."""

    config_class = LatentConfig
    config: LatentConfig

    def __init__(self, config: LatentConfig):
        super().__init__(config)
        self.decoder.head = nn.Linear(config.decoder_hidden_size, config.latent_size)
        self._init_weights(self.decoder.head)

    def forward(
        self,
        pixel_values: Tensor,
        bool_masked_pos: Tensor | None = None,
        bool_decoded_pos: Tensor | None = None,
        *,
        latents: Tensor,
        num_visible: int | None = None,
        num_decoded: int | None = None,
        interpolate_pos_encoding: bool = False,
    ) -> VideoMAEForPreTrainingOutput:
        """As VideoMAEForPreTraining, against `latents` (B, N, L); the k masks of a clip are k rows, one after the other."""
        grid = token_grid(pixel_values, self.config, interpolate_pos_encoding)
        visible, rebuilt, counted = hide_tokens(
            pixel_values, grid, bool_masked_pos, bool_decoded_pos, num_visible, num_decoded
        )
        encoded = self.videomae(pixel_values, visible=visible)
        predicted = self.decode(encoded.last_hidden_state, visible, rebuilt)  # (B*k, R, L)
        clip = torch.arange(len(predicted), device=latents.device) // (len(predicted) // len(latents))
        errors = (predicted.float() - latents[clip[:, None], rebuilt.positions]).abs().mean(-1)
        loss = errors.mean() if counted is None else (errors * counted).sum() / counted.sum()
        return VideoMAEForPreTrainingOutput(loss=loss, logits=predicted)


def latent_loss(
    model: nn.Module, batch: Mapping[str, Any], *, teacher: LatentTeacher, masks: int, **forward: Any
) -> Tensor:
    """The student's loss on a batch with so many masks of each clip; the teacher sees each clip once."""
    return model(**batch, latents=teacher(batch["pixel_values"][::masks]), **forward).loss


def save_encoder(model: LatentStudent, folder: Path, weights: Mapping[str, Tensor]) -> None:
    """Write the encoder of a student alone: an ordinary VideoMAEModel folder, without the decoder."""
    fields = {name: value for name, value in model.config.to_dict().items() if name != "latent_size"}
    with torch.device("meta"):
        encoder = VideoMAEModel(VideoMAEConfig.from_dict(fields))
    own = {name.removeprefix(ENCODER): value for name, value in weights.items() if name.startswith(ENCODER)}
    encoder.save_pretrained(folder, state_dict=own)


def clip_of(config: VideoMAEConfig) -> tuple[int, int, tuple[int, int], tuple[int, int, int]]:
    """What an encoder sees: frames, channels, (height, width) and the grid of tokens."""
    return config.num_frames, config.num_channels, config.image_hw, config.grid


def described(clip: tuple[int, int, tuple[int, int], tuple[int, int, int]]) -> str:
    frames, channels, (height, width), grid = clip
    return f"{frames} frames of {channels} x {height} x {width} as {' x '.join(map(str, grid))} tokens"
