"""The clip that a picture is about: which frames of a file, and the pixels that the model gets of them.

By default the clip is the one that the model's saved policy takes for a file; it can also start at a given second.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from videomae.configuration_videomae import VideoMAEConfig
from videomae.video_io import VideoReader
from videomae.video_processing_videomae import VideoMAEVideoProcessor


@dataclass(frozen=True)
class Clip:
    """What a model gets of a file: (T, C, H, W), when each frame is shown, and for how long a frame stands.

    mean, std: how the processor normalised the pixels, for showing the frames themselves.
    """

    pixel_values: Tensor
    seconds: tuple[float, ...]
    frame_seconds: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def frames(self) -> Tensor:
        """(T, H, W, C) of [0, 1]."""
        mean, std = (torch.tensor(values)[:, None, None] for values in (self.mean, self.std))
        return (self.pixel_values.float() * std + mean).permute(0, 2, 3, 1).clamp(0, 1)


def read_clip(
    video: str | Path,
    processor: VideoMAEVideoProcessor,
    config: VideoMAEConfig,
    *,
    start_seconds: float | None = None,
    stride_frames: int | None = None,
    errors: str = "strict",
) -> Clip:
    """One clip of a file, trimmed to whole patches: the policy's own, or every `stride_frames`-th frame from a second.

    In a file that ends inside a clip with a given start, the last frame is repeated.
    """
    policy = replace(processor.sampling, num_frames=config.num_frames)
    if stride_frames is not None:
        policy = replace(policy, stride_frames=stride_frames)
    if start_seconds is None:
        batch = processor(str(video), sampling=policy, errors=errors, return_metadata=True, return_tensors="pt")
        metadata = batch["video_metadata"][0]
        indices, fps = metadata.frames_indices, metadata.fps
    else:
        with VideoReader(video, errors=errors) as reader:
            info = reader.info
            if not 0 <= start_seconds < info.duration_seconds:
                raise ValueError(
                    f"start_seconds must be in the video, 0 to {info.duration_seconds:.2f}, not {start_seconds:g}"
                )
            last, fps = info.num_frames - 1, info.fps
            first = round(start_seconds * fps)
            indices = [min(first + i * policy.stride_frames, last) for i in range(policy.num_frames)]
            frames = reader.read(indices)
        batch = processor(frames.permute(0, 3, 1, 2), return_tensors="pt")
    (pixels,) = batch["pixel_values"]
    (patch_height, patch_width), (height, width) = config.patch_hw, pixels.shape[-2:]
    pixels = pixels[..., : height // patch_height * patch_height, : width // patch_width * patch_width]
    # A still or a file without a rate is shown at a frame a quarter of a second.
    step = (indices[-1] - indices[0]) / max(len(indices) - 1, 1)
    return Clip(
        pixels,
        seconds=tuple(index / (fps or 1) for index in indices),
        frame_seconds=step / fps if step and fps else 0.25,
        mean=tuple(processor.image_mean),
        std=tuple(processor.image_std),
    )
