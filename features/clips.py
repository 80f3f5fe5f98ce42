"""What a feature is: which frames make a clip, what becomes of their pixels, and what of the model's output is kept.

Walking over videos, processes and files is extract.py's part. Reading frames is video_io.py's.
"""

# B clips  T frames  C channels  H W pixels  N tokens  D width

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from videomae.configuration_videomae import VideoMAEConfig
from videomae.data.sources import FrameFolder, Source, TarMember, open_clip, read_member
from videomae.data.stretches import Stretch
from videomae.image_processing_videomae import frame_at_size, normalized
from videomae.modeling_videomae import VideoMAEForVideoClassification, VideoMAEModel
from videomae.models import DTYPES, open_config, open_model, open_processor, weights_sha256
from videomae.sampling_videomae import ClipSampling, inference_clip, test_clips
from videomae.video_io import Limits, VideoReader, VideoReadError, iter_frames
from videomae.video_windows import walk_windows

LIMITS = Limits()
# What of a processor's settings decides about pixels, and so belongs into a manifest.
PIXEL_SETTINGS = (
    ("do_resize", "size", "resample", "antialias", "do_center_crop", "crop_size")
    + ("do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std")
)  # fmt: skip


class Clip(NamedTuple):
    """The frames of one clip (T, C, H, W), as `pixels.frame` made them, and where they lie in the video."""

    frames: torch.Tensor
    first_frame: int
    last_frame: int
    start_seconds: float | None
    end_seconds: float | None


class VideoFacts(NamedTuple):
    num_frames: int
    fps: float | None  # None for folders of images, which carry no rate
    truncated: bool = False  # cut off or damaged; num_frames counts what is there


# --------------------------------------------------------------------------------------------------- which frames


@dataclass(frozen=True)
class Length:
    """A stretch of video in frames or in seconds."""

    amount: float
    unit: str = "frames"

    @classmethod
    def parse(cls, text: str) -> "Length":
        """ "64" -> 64 frames; "2.5s" -> 2.5 seconds."""
        number, seconds = (text[:-1], True) if text.endswith("s") else (text, False)
        try:
            amount = float(number)
        except ValueError:
            amount = -1.0
        if not 0 < amount < float("inf") or (not seconds and not amount.is_integer()):
            raise ValueError(f"a length is a number of frames such as 64, or of seconds such as 2.5s, not {text!r}")
        return cls(amount if seconds else int(amount), "seconds" if seconds else "frames")

    def in_frames(self, fps: float | None, option: str) -> float:
        """At least 1; fractions of a frame are kept, so that windows by seconds do not drift away from the clock."""
        if self.unit == "frames":
            return self.amount
        if not fps:
            raise VideoReadError(f"{option} {self} needs a frame rate and the video has none; give frames, or --fps")
        if self.amount * fps < 1:
            raise VideoReadError(f"{option} {self} is less than a frame at {fps:g} frames a second")
        return self.amount * fps

    def __str__(self) -> str:
        return f"{self.amount:g} {self.unit}"


@dataclass(frozen=True, kw_only=True)
class SlidingWindows:
    """Windows of `window`, one every `stride`; the model's frames lie evenly inside each.

    partial: an end that fills no window is filled with its last frame ("repeat_last") or left out ("drop").
    """

    window: Length
    stride: Length
    partial: str = "repeat_last"

    def describe(self) -> dict[str, Any]:
        return {"window": str(self.window), "stride": str(self.stride), "partial": self.partial}

    def offsets(self, num_frames: int, fps: float | None) -> list[int]:
        """The frames of a window, from its first."""
        length = self.window.in_frames(fps, "--window")
        if length < num_frames:
            raise VideoReadError(
                f"--window {self.window} is {length:g} frames, fewer than the {num_frames} that the model sees"
            )
        return [int(i * length / num_frames) for i in range(num_frames)]

    def read(
        self,
        source: Source,
        num_frames: int,
        pixels: "Pixels | ReferencePixels",
        fps: float | None,
        threads: int,
        errors: str,
    ):
        """(what is known of the video, an iterator over its clips); every frame is decoded and transformed once."""
        facts, read = _frames_of(source, fps, threads, errors)
        offsets, stride = self.offsets(num_frames, facts.fps), self.stride.in_frames(facts.fps, "--stride")
        windows = walk_windows(
            read,
            offsets=offsets,
            start_of=lambda number: round(number * stride),
            transform=pixels.frame,
            partial=self.partial,
        )
        return facts, self._clips(windows, facts, offsets)

    def _clips(self, windows, facts: VideoFacts, offsets: list[int]) -> Iterator[Clip]:
        empty = True
        for window in windows:
            empty = False
            times = (None, None) if facts.fps is None else (window.start_seconds, window.end_seconds)
            yield Clip(torch.stack(window.frames), window.first_frame, window.last_frame, *times)
        if empty:
            raise VideoReadError(
                f"it has {facts.num_frames} frames, fewer than the {offsets[-1] + 1} of a window, and short ends are left "
                "out (--partial drop, or --reference)"
            )


@dataclass(frozen=True, kw_only=True)
class PolicyClips:
    """The clips of the model's own sampling policy: that of `processor(path)`, or `clips` of them spaced as in the test."""

    sampling: ClipSampling
    clips: int | None = None

    def describe(self) -> dict[str, Any]:
        return {"clips": self.clips or 1, "sampling": self.sampling.to_dict()}

    @property
    def count(self) -> int:
        return self.clips or 1

    def read(
        self,
        source: Source,
        num_frames: int,
        pixels: "Pixels | ReferencePixels",
        fps: float | None,
        threads: int,
        errors: str,
    ):
        """(what is known of the video, an iterator over its clips); every wanted frame is transformed once."""
        with open_clip(source, LIMITS, errors=errors) as video:
            rate = getattr(video, "fps", None) or fps
            try:
                clips = (
                    test_clips(video.num_frames, dataclasses.replace(self.sampling, clips=self.clips))
                    if self.clips
                    else [inference_clip(video.num_frames, self.sampling)]
                )
            except ValueError as error:
                raise VideoReadError(str(error)) from None
            union = sorted({index for clip in clips for index in clip})
            frames = {index: pixels.frame(frame) for index, frame in zip(union, video.read(union).numpy())}
            facts = VideoFacts(video.num_frames, rate, video.truncated)  # some damage shows only where it is decoded
        return facts, (self._clip(clip, frames, facts.fps) for clip in clips)

    def _clip(self, indices: list[int], frames: dict[int, torch.Tensor], fps: float | None) -> Clip:
        first, last = min(indices), max(indices)
        times = (None, None) if fps is None else (first / fps, (last + 1) / fps)
        return Clip(torch.stack([frames[index] for index in indices]), first, last, *times)


def _frames_of(source: Source, fps: float | None, threads: int, errors: str):
    """What is known of a video without decoding it, and how `walk_windows` reads its frames."""
    if isinstance(source, FrameFolder):
        with open_clip(source) as clip:
            return VideoFacts(clip.num_frames, fps), lambda needed: _stored_frames(clip, needed, fps)
    if isinstance(source, Stretch):
        with open_clip(source, LIMITS, errors=errors) as clip:
            facts = VideoFacts(clip.num_frames, clip.fps or fps, clip.truncated)
        return facts, lambda needed: _frames_of_stretch(source, needed, errors)
    if isinstance(source, TarMember):
        source = read_member(source)
    with VideoReader(source, errors=errors, limits=LIMITS) as reader:
        facts = VideoFacts(reader.num_frames, reader.fps or fps, reader.truncated)
    return facts, lambda needed: iter_frames(source, needed, None, errors, LIMITS, threads)


def _stored_frames(clip, needed, fps: float | None) -> Iterator[tuple[int, float, float, np.ndarray | None]]:
    """The frames of a folder of images, as `iter_frames` gives those of a file."""
    rate = fps or 1.0
    for index in range(clip.num_frames):
        picture = clip.read([index])[0].numpy() if needed(index) else None
        yield index, index / rate, (index + 1) / rate, picture


def _frames_of_stretch(source, needed, errors: str) -> Iterator[tuple[int, float, float, np.ndarray | None]]:
    """The frames of a stretch, numbered and timed from its first, as `iter_frames` gives those of a file."""
    with open_clip(source, LIMITS, errors=errors) as clip:
        pictures = clip.one_by_one(range(clip.num_frames))
        for index, picture in enumerate(pictures):
            yield index, clip.begins(index), clip.begins(index + 1), picture if needed(index) else None


# -------------------------------------------------------------------------------------------------------- pixels


@dataclass(frozen=True)
class Pixels:
    """The pixels that the model was trained on: the settings saved with its processor."""

    settings: dict[str, Any]

    def frame(self, picture: np.ndarray) -> torch.Tensor:
        """One RGB frame (H, W, C) to uint8 (C, h, w) as the model sees it."""
        return frame_at_size(picture, self.settings)

    def values(self, clips: torch.Tensor) -> torch.Tensor:
        """(B, T, C, h, w) frames to `pixel_values`."""
        return normalized(clips, self.settings)

    def describe(self) -> dict[str, Any]:
        return {name: self.settings[name] for name in PIXEL_SETTINGS}


@dataclass(frozen=True)
class ReferencePixels:
    """The pixels of extract_tad_feature.py of VideoMAE V2: squeezed to the model's size, without antialiasing, on
    floats of 0 to 1, and not normalised, although the weights were trained on normalised ones."""

    height: int
    width: int

    def frame(self, picture: np.ndarray) -> torch.Tensor:
        values = torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)[None].to(torch.float32) / 255
        return F.interpolate(values, size=(self.height, self.width), mode="bilinear", align_corners=False)[0]

    def values(self, clips: torch.Tensor) -> torch.Tensor:
        return clips

    def describe(self) -> dict[str, Any]:
        size = {"height": self.height, "width": self.width}
        return {"as": "extract_tad_feature.py", "size": size, "antialias": False, "do_normalize": False}


def model_pixels(model: str, config: VideoMAEConfig, *, squash: bool = False) -> tuple[Pixels, ClipSampling, list[str]]:
    """The pixel settings and the sampling policy saved with a model, at the size that it takes; and notes on what was changed."""
    notes: list[str] = []
    processor = open_processor(model, config, say=notes.append)
    settings = processor.call_settings({})
    height, width = config.image_hw
    if squash or height != width:
        settings |= {"do_resize": True, "size": {"height": height, "width": width}, "do_center_crop": False}
    elif not settings["do_center_crop"] or settings["crop_size"] != {"height": height, "width": width}:
        notes.append(f"the processor's size is not the model's; cropping {height}x{width} from the centre")
        crop = {"height": height, "width": width}
        settings |= {"do_resize": True, "size": {"shortest_edge": height}, "do_center_crop": True, "crop_size": crop}
    sampling = dataclasses.replace(processor.sampling, num_frames=config.num_frames)
    return Pixels(settings), sampling, notes


# --------------------------------------------------------------------------------------------------------- model


class FeatureEncoder:
    """A model folder as an encoder: tokens, and one vector of each clip.

    The vector is what the model's own head sees: `fc_norm` of the mean token for classifiers and the V2 feature
    models, the mean token (after the encoder's final norm) for pre-trained encoders and detectors.
    """

    def __init__(self, model: str, *, device: torch.device | str = "cpu", dtype: str = "float32"):
        self.config = open_config(model, "MODEL")
        if self.config.num_channels != 3:
            raise ValueError(f"{model} takes {self.config.num_channels} channels; features are read from RGB video")
        architecture = (self.config.architectures or [""])[0]
        if architecture.endswith("ForVideoClassification"):
            loaded = open_model(VideoMAEForVideoClassification, model)
            self.model = loaded.videomae
        else:
            loaded = self.model = open_model(VideoMAEModel, model)
        self.name, self.device, self.dtype = model, torch.device(device), dtype
        self.weights_sha256 = weights_sha256(loaded)
        loaded.to(self.device)
        self.norm = loaded.fc_norm
        self.pooling = "mean of tokens" if self.norm is None else "fc_norm(mean of tokens)"

    @torch.inference_mode()
    def __call__(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, T, C, H, W) -> float32 vectors (B, D) and tokens (B, N, D)."""
        mixed = contextlib.nullcontext()
        if self.dtype != "float32":
            mixed = torch.autocast(self.device.type, DTYPES[self.dtype])
        with mixed:
            tokens = self.model(pixel_values).last_hidden_state
            vectors = tokens.mean(1)
            if self.norm is not None:
                vectors = self.norm(vectors)
        return vectors.float(), tokens

    def describe(self, pixels: Pixels | ReferencePixels) -> dict[str, Any]:
        """What makes two sets of features comparable, for their manifests."""
        return {
            "weights_sha256": self.weights_sha256,
            "pooling": self.pooling,
            "num_frames": self.config.num_frames,
            "token_grid": list(self.config.grid),
            "pixels": pixels.describe(),
            "dtype": self.dtype,
        }


def stacked(clips: Sequence[Clip]) -> torch.Tensor:
    """(B, T, C, H, W)."""
    return torch.stack([clip.frames for clip in clips])
