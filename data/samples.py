"""From one video to the samples of an item: which frames, one decode, the transforms, all seeded by the sample's key."""

# S samples of one clip  V views of one video  T frames  C channels  H W pixels

import dataclasses
import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from videomae.data.randomness import FRAMES, PIXELS, generator_for, sample_key
from videomae.data.sources import Clip, FrameFolder, Source, open_clip
from videomae.data.transforms import EvalTransform, PretrainTransform, TrainTransform
from videomae.sampling_videomae import (
    ClipSampling,
    hybrid_stride,
    pretrain_clip,
    test_clips,
    train_clip,
    validation_clip,
)
from videomae.video_io import Limits, VideoReadError

MODES = ("pretrain", "train", "validation", "test")
DEFAULT_TRANSFORMS = {"pretrain": PretrainTransform, "train": TrainTransform}


@dataclass(frozen=True)
class SampleMaker:
    """How a data set turns a video into pixels; the fields are those of VideoDataset."""

    mode: str = "train"
    sampling: ClipSampling = dataclasses.field(default_factory=ClipSampling)
    transform: Any = None  # (clip, generator) -> pixels, with the further methods of those in transforms.py or not
    num_samples: int = 1
    seed: int = 0
    half_rate_sources: tuple[str, ...] = ()
    decode_seconds: float | None = 60.0
    decode_short_side: int | None = None
    as_bytes: bool = False
    errors: str = "strict"

    def __post_init__(self):
        if self.mode not in MODES:
            raise ValueError(f"mode must be one of {', '.join(MODES)}, not {self.mode!r}")
        if self.num_samples < 1:
            raise ValueError(f"num_samples must be at least 1, not {self.num_samples}")
        if self.num_samples > 1 and self.mode in ("validation", "test"):
            raise ValueError(f"{self.mode} has no augmented copies; num_samples must be 1, not {self.num_samples}")
        if self.transform is None:
            object.__setattr__(self, "transform", DEFAULT_TRANSFORMS.get(self.mode, EvalTransform)())

    def samples(
        self, source: Source, path: str, *, epoch: int, index: int, on_truncated: Callable[[], object] = bool
    ) -> dict[str, Any]:
        """What an item says of its samples: `pixel_values` (S, T, C, H, W) or the views of a test, `keys`, and with
        `as_bytes` what is left to do (VideoDataset). A bad video is a VideoReadError.

        With errors="truncate" one that is cut off ends early, and `on_truncated` is called.
        """
        # The segments of a training clip are augmented each by itself, and so are samples too.
        segments = self.sampling.segments if self.mode == "train" else 1
        keys = [sample_key(self.seed, epoch, index, sample) for sample in range(self.num_samples * segments)]
        with open_clip(source, Limits(decode_seconds=self.decode_seconds), errors=self.errors) as clip:
            try:
                if self.mode == "test":
                    views = self._views(clip)
                    if clip.truncated:
                        on_truncated()
                    keys = [sample_key(self.seed, epoch, index, view) for view in range(len(views))]
                    return {"pixel_values": views, "keys": keys}
                generator = generator_for(keys[0], FRAMES)
                indices = self._indices(clip.num_frames, path, generator, isinstance(source, FrameFolder))
            except VideoReadError:
                raise
            except ValueError as error:  # too short for a policy that does not fill up
                raise VideoReadError(f"{path}: {error}") from None
            generators = [generator_for(key, PIXELS) for key in keys]
            part = None
            if len(keys) == 1 and hasattr(self.transform, "box"):  # only what the one sample keeps is copied
                part = functools.cache(functools.partial(self.transform.box, generator=generators[0]))
            frames = clip.read(indices, short_side=self.decode_short_side, part=part)
            if clip.truncated:  # now known: some damage shows only where it is decoded
                on_truncated()
        frames = frames.permute(0, 3, 1, 2)  # (T, C, H, W), interleaved in memory
        if part is not None:
            return {"pixel_values": stack([self.transform.of_box(frames, generators[0])]), "keys": keys}
        parts = frames.split(len(frames) // segments) * self.num_samples
        if self.as_bytes and hasattr(self.transform, "as_bytes"):
            clips, erased = zip(*map(self.transform.as_bytes, parts, generators))
            statistics = self.transform.mean, self.transform.std
            return {"pixel_values": stack(clips), "keys": keys, "erased": erased, "pixel_statistics": statistics}
        return {"pixel_values": stack(list(map(self.transform, parts, generators))), "keys": keys}

    def _indices(self, video_frames: int, path: str, generator: torch.Generator, is_frame_folder: bool) -> list[int]:
        if self.mode == "train":
            return train_clip(video_frames, self.sampling, generator)
        if self.mode == "validation":
            return validation_clip(video_frames, self.sampling)
        sampling = self.sampling
        if self.half_rate_sources:
            stride = hybrid_stride(
                path,
                sampling.stride_frames,
                is_frame_folder=is_frame_folder,
                half_rate_sources=self.half_rate_sources,
            )
            sampling = dataclasses.replace(sampling, stride_frames=stride)
        return pretrain_clip(video_frames, sampling, generator)

    def _views(self, clip: Clip) -> torch.Tensor:
        """All views of the test, (V, T, C, H, W) uint8, from one decode: frames are read and resized once."""
        clips = test_clips(clip.num_frames, self.sampling)
        needed = sorted(set(itertools.chain.from_iterable(clips)))
        frames = clip.read(needed, short_side=self.decode_short_side).permute(0, 3, 1, 2)
        place = {frame: i for i, frame in enumerate(needed)}
        crops = self.transform.views(frames, self.sampling.crops)
        out = torch.empty(len(clips), len(crops), len(clips[0]), *crops[0].shape[1:], dtype=torch.uint8)
        for indices, views in zip(clips, out):
            for crop, view in zip(crops, views):
                for frame, target in zip(indices, view):
                    target.copy_(crop[place[frame]])
        return out.flatten(0, 1)


def stack(clips: Sequence[torch.Tensor]) -> torch.Tensor:
    """(S, T, C, H, W), in memory as the clips are: interleaved bytes stay so, which torch.cat would not do."""
    return torch.stack(list(clips)) if len(clips) > 1 else clips[0].unsqueeze(0)
