"""Whether a faster model still gives the same answers: example clips, how far the answers agree, and the gate.

Used for int8, for exported files and by the benchmarks of inference and token reduction.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedModel

from videomae.configuration_videomae import VideoMAEConfig
from videomae.data.synthetic import MOTIONS, SyntheticSet, render_clip
from videomae.image_processing_videomae import rescale_and_normalize
from videomae.models import open_processor
from videomae.pipeline_videomae_detection import key_frame_clips
from videomae.sampling_videomae import key_frame_offsets
from videomae.video_io import probe

# B clips  T frames  C channels  H W pixels  K classes  D width of a feature vector  n boxes of a clip

VECTORS = "vectors"  # in place of a problem_type: the outputs are feature vectors, not scores


@dataclass(frozen=True)
class Agreement:
    """How the answers of two models on the same inputs compare."""

    count: int
    same: int  # those with the same class (several labels: the same set of them; vectors: nearest to their own clip's)
    # Over all inputs and classes: of probabilities, of plain outputs for a regression, of vectors as a share of their length.
    max_score_difference: float
    of: str = "clips"  # what is counted: "clips", "boxes" or "vectors"

    @property
    def share(self) -> float:
        return self.same / self.count

    def __str__(self) -> str:
        if self.of == VECTORS:
            return (
                f"{self.same} of {self.count} vectors nearest to the model's vector of the same clip, a difference of up "
                f"to {self.max_score_difference:.2g} of a vector's length"
            )
        return f"the same answer on {self.same} of {self.count} {self.of}, scores differ by up to {self.max_score_difference:.2g}"

    def require(self, min_agreement: float, max_score_difference: float, name: str, way_out: str) -> None:
        """Raise unless the answers agree that well."""
        if self.share >= min_agreement and self.max_score_difference <= max_score_difference:
            return
        raise ValueError(
            f"{name} gives {self}; asked for min_agreement={min_agreement} and max_score_difference="
            f"{max_score_difference}: {way_out}"
        )


def agreement(
    reference: torch.Tensor, other: torch.Tensor, problem_type: str | None = None, *, of: str = "clips"
) -> Agreement:
    """Compare logits (B, K), or vectors (B, D) for `VECTORS`, of two models. Numbers that are not finite agree with nothing."""
    if reference.shape != other.shape or not len(reference):
        raise ValueError(f"logits of the same clips are needed, got {tuple(reference.shape)} and {tuple(other.shape)}")
    finite = torch.isfinite(other).all(dim=1)
    if problem_type == VECTORS:
        length = reference.float().norm(dim=1)
        before, after = reference.float() / length[:, None], other.float() / length[:, None]
        distances = torch.cdist(after, before, compute_mode="donot_use_mm_for_euclid_dist")  # (B, B)
        own = distances.diagonal()
        same = (own <= distances.amin(1) + 1e-6) & finite  # clips that repeat have vectors at the same distance
        return Agreement(len(reference), int(same.sum()), own.max().item() if finite.all() else float("inf"), VECTORS)
    if problem_type == "regression":
        before, after = reference.float(), other.float()
        same = finite
    elif problem_type == "multi_label_classification":
        before, after = reference.float().sigmoid(), other.float().sigmoid()
        same = ((before > 0.5) == (after > 0.5)).all(dim=1) & finite
    else:
        before, after = reference.float().softmax(-1), other.float().softmax(-1)
        same = (before.argmax(-1) == after.argmax(-1)) & finite
    difference = (before - after).abs().max().item()
    return Agreement(len(reference), int(same.sum()), difference if finite.all() else float("inf"), of)


@torch.inference_mode()
def logits_of(model: PreTrainedModel, clips: torch.Tensor, batch_size: int = 4) -> torch.Tensor:
    """float32 logits (B, K) on the CPU; the clips go to the model's device batch by batch."""
    parts = [model(pixel_values=part.to(model.device, model.dtype)).logits for part in clips.split(batch_size)]
    return torch.cat(parts).float().cpu()


def example_clips(
    folder: str | os.PathLike, videos: Sequence[str | os.PathLike] | None = None, *, count: int = 16
) -> torch.Tensor:
    """Clips (B, T, C, H, W) as the model of that folder takes them: one of each video, or `count` drawn ones.

    Drawn clips (moving shapes) are the same everywhere and need no files, but scores on them mean little for a trained
    model: judge it with videos of your own.
    """
    config = VideoMAEConfig.from_pretrained(folder)
    processor = open_processor(folder, config)
    if videos is None:
        frames = [list(drawn) for drawn in _drawn(config.num_frames, config.image_hw, count)]
        return processor(frames, return_tensors="pt")["pixel_values"]
    if not videos:
        raise ValueError("no videos were given; give some, or None for drawn clips")
    sources = [os.fspath(video) for video in videos]
    return torch.cat(
        [processor(video, num_frames=config.num_frames, return_tensors="pt")["pixel_values"] for video in sources]
    )


def _drawn(num_frames: int, size: tuple[int, int], count: int) -> list[np.ndarray]:
    """`count` clips of moving shapes, (T, H, W, 3) uint8, at least 16 pixels high and wide."""
    height, width = size
    drawing = SyntheticSet(num_frames=num_frames, height=max(height, 16), width=max(width, 16))
    return [render_clip(MOTIONS[seed % len(MOTIONS)], drawing, seed) for seed in range(count)]


def example_detections(
    config: VideoMAEConfig,
    size: tuple[int, int],
    videos: Sequence[str | os.PathLike] | None = None,
    *,
    count: int = 4,
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Clips (1, T, C, H, W) as a detector takes them, each with boxes (n, 4): around the middle of each video, or drawn.

    `size` is the height and width of the frames; a video that the detector's short side scales to another size is an
    error. The boxes are the whole frame and 1, 2, 3, ... others drawn at random, the same ones everywhere.
    """
    mean, std = config.pixel_statistics
    height, width = size
    if videos is None:
        frames = [
            torch.from_numpy(drawn[:, :height, :width].copy()).permute(0, 3, 1, 2)
            for drawn in _drawn(config.num_frames, size, count)
        ]
    else:
        frames = [_key_frames(config, size, os.fspath(video)) for video in videos]
    generator = torch.Generator().manual_seed(0)
    examples = []
    for index, clip in enumerate(frames):
        corners = torch.rand(index + 1, 2, 2, generator=generator).sort(1).values.flatten(1)  # x1, y1, x2, y2 as shares
        shares = torch.cat([torch.tensor([[0.0, 0.0, 1.0, 1.0]]), corners])
        boxes = shares * torch.tensor([width, height, width, height], dtype=torch.float32)
        examples.append((rescale_and_normalize(clip[None], mean, std), boxes))
    return examples


def _key_frames(config: VideoMAEConfig, size: tuple[int, int], video: str) -> torch.Tensor:
    """The clip (T, C, H, W) uint8 around the middle of a video, as the detection pipeline reads it."""
    family = config.detection_family
    (clip,) = key_frame_clips(
        video,
        iter([probe(video).duration_seconds / 2]),
        offsets=key_frame_offsets(config.num_frames, config.detection_stride_frames, family=family),
        rate=config.detection_frame_rate,
        short_side=config.detection_short_side,
        rounded=family == "mmaction2",
    )
    frames = torch.stack(clip.frames)
    if tuple(frames.shape[-2:]) != size:
        height, width = frames.shape[-2:]
        raise ValueError(
            f"{video} has frames of {height} x {width} (height x width) after scaling, and the graph takes {size[0]} x "
            f"{size[1]}; give videos of one shape, or frame_size=({height}, {width})"
        )
    return frames


__all__ = ["VECTORS", "Agreement", "agreement", "example_clips", "example_detections", "logits_of"]
