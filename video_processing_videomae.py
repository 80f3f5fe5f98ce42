"""Files, URLs, bytes or decoded frames to `pixel_values`, by a sampling policy that is saved with the model.

Which frames: sampling_videomae.py. Reading them: video_io.py. Pixels: image_processing_videomae.py.
"""

# B videos  V views of one video  T frames  C channels  H W pixels

import dataclasses
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

import torch
from transformers.image_processing_base import BatchFeature
from transformers.processing_utils import VideosKwargs
from transformers.utils import IMAGE_PROCESSOR_NAME, VIDEO_PROCESSOR_NAME
from transformers.video_processing_utils import VideoProcessorMixin
from transformers.video_utils import VideoMetadata

from .image_processing_videomae import (
    SETTINGS,
    VideoMAEImageProcessor,
    _batch,
    center_crop,
    checked_values,
    clip_tensors,
    list_videos,
    long_side_crops,
    normalized,
    resized_to,
    wants_rgb,
)
from .sampling_videomae import ClipSampling, inference_clip, test_clips
from .video_decoder import DecoderReader, is_decoder
from .video_io import Limits, VideoReader, VideoReadError


class VideoMAEVideoKwargs(VideosKwargs, total=False):
    antialias: bool | None
    sampling: dict | None


class VideoMAEVideoProcessor(VideoProcessorMixin, VideoMAEImageProcessor):
    """Videos to `pixel_values`: of each the clip that the model expects, or all views of the published test.

    A video is a path, an http(s) URL, bytes, a binary file object, a dict with "bytes" or "path", a `VideoDecoder` of
    torchcodec, or decoded frames as `VideoMAEImageProcessor` takes them; a batch is a list of those. Files are sampled by `sampling`. Decoded
    frames are taken as they are, unless `do_sample_frames` is True, here or in the call, and their number is not that
    of a clip.

    `num_frames` in a call changes how many frames a clip has, never which strategy chooses them: transformers'
    pipeline always passes the model's own number.
    """

    valid_kwargs = VideoMAEVideoKwargs
    model_input_names = ["pixel_values"]
    default_to_square = False
    sampling_assumed = False  # True once loaded from files that say nothing of sampling

    if TYPE_CHECKING:  # in transformers it also counts as giving a pair, which is what from_dict can give

        @classmethod
        def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs: Any) -> Self: ...  # pyright: ignore[reportIncompatibleMethodOverride]  # see above

    def __init__(
        self,
        sampling: ClipSampling | dict[str, Any] | None = None,
        do_sample_frames: bool | None = None,
        **kwargs,
    ):
        # What transformers' class saves beside; only the number of frames means something here.
        num_frames = kwargs.pop("num_frames", None)
        for name in ("fps", "return_metadata", "video_metadata", "device"):
            kwargs.pop(name, None)
        super().__init__(**kwargs)
        self.do_sample_frames = do_sample_frames
        self.sampling = _policy(sampling, ClipSampling(num_frames=num_frames or ClipSampling().num_frames))

    def __call__(self, videos=None, *, images=None, **kwargs) -> BatchFeature:
        return self.preprocess(images if videos is None else videos, **kwargs)

    def preprocess(  # pyright: ignore[reportIncompatibleMethodOverride]  # transformers names the options in a TypedDict
        self,
        videos,
        *,
        views: str = "clip",
        sampling: ClipSampling | dict[str, Any] | None = None,
        num_frames: int | None = None,
        do_sample_frames: bool | None = None,
        errors: str = "strict",
        limits: Limits | None = None,
        threads: int = 1,
        return_metadata: bool = False,
        return_tensors: str | None = None,
        device=None,
        fps=None,
        video_metadata=None,
        **kwargs,
    ) -> BatchFeature:
        """`pixel_values` is (B, T, C, H, W); with views="test" (B, V, T, C, H, W), clip by clip, each with its crops.

        Every option of the constructor can be given for this call alone. `errors="truncate"` reads what is there of a
        file that is cut off; `limits` and `threads` go to the reader. `return_metadata` adds `video_metadata`,
        with the indices of the frames that were taken.
        """
        if views not in ("clip", "test"):
            raise ValueError(f"views must be clip or test, not {views!r}")
        if fps is not None:
            raise ValueError("fps is not how this model samples; pass sampling={'stride_frames': …} or another policy")
        settings = self.call_settings(kwargs)
        sample_frames = self.do_sample_frames if do_sample_frames is None else do_sample_frames
        policy = _policy(sampling, self.sampling)
        if num_frames is not None:
            policy = dataclasses.replace(policy, num_frames=num_frames)
        clips, metadata = [], []
        for video in _list_sources(videos):
            if _is_source(video):
                groups, chosen, known = _read(video, policy, views, errors, limits, threads)
                places = {index: place for place, index in enumerate(_union(chosen))}
                wanted = [[places[index] for index in clip] for clip in chosen]
            else:
                groups = clip_tensors(video, settings["input_data_format"], convert_rgb=wants_rgb(settings))
                n = sum(len(group) for group in groups)
                sampled = views == "test" or (sample_frames and n != policy.num_frames)
                wanted = chosen = _choose(n, policy, views) if sampled else [list(range(n))]
                known = VideoMetadata(total_num_frames=n)
            known.frames_indices = cast(Any, chosen) if views == "test" else chosen[0]
            metadata.append(known)
            clips.append(_views(groups, wanted, views, policy.crops, settings, device))
        batch = _batch(clips, return_tensors)
        if return_metadata:
            batch["video_metadata"] = metadata
        return batch

    @classmethod
    def from_dict(cls, video_processor_dict: dict[str, Any], **kwargs):  # pyright: ignore[reportIncompatibleMethodOverride]  # of two bases with two names
        """As in transformers; `sampling` may be a dict of the fields of the saved policy that change."""
        if kwargs.get("sampling") is not None:  # a dict changes only the fields that it names
            stored = _policy(video_processor_dict.get("sampling"), ClipSampling())
            kwargs["sampling"] = _policy(kwargs["sampling"], stored)
        given = kwargs.get("sampling") is not None or video_processor_dict.get("sampling") is not None
        loaded = super().from_dict(video_processor_dict, **kwargs)
        processor = loaded[0] if isinstance(loaded, tuple) else loaded  # with return_unused_kwargs it is a pair
        processor.sampling_assumed = not given
        return loaded

    def to_dict(self) -> dict[str, Any]:
        fields = super().to_dict() | {"sampling": self.sampling.to_dict()}
        fields.pop("sampling_assumed", None)
        return {name: value for name, value in fields.items() if name != "do_sample_frames" or value is not None}

    def to_json_file(self, json_file_path: str | os.PathLike) -> None:
        """Beside the video processor's file write that of the image processor, which older pipelines look for."""
        super().to_json_file(json_file_path)
        if Path(json_file_path).name != VIDEO_PROCESSOR_NAME:
            return
        fields = {name: value for name, value in self.to_dict().items() if name in SETTINGS}
        fields["image_processor_type"] = VideoMAEImageProcessor.__name__
        # Image processors keep what they do not know: so the policy outlives a training that is given one of those.
        fields["sampling"] = self.sampling.to_dict()
        if getattr(self, "auto_map", None):
            fields["auto_map"] = {"AutoImageProcessor": "image_processing_videomae.VideoMAEImageProcessor"}
        with open(Path(json_file_path).with_name(IMAGE_PROCESSOR_NAME), "w", encoding="utf-8") as file:
            file.write(json.dumps(fields, indent=2, sort_keys=True) + "\n")


def _policy(sampling: ClipSampling | dict[str, Any] | None, default: ClipSampling) -> ClipSampling:
    """A dict changes only the fields that it names."""
    if sampling is None:
        return default
    if isinstance(sampling, dict):
        return ClipSampling.from_dict(default.to_dict() | sampling)
    # Not isinstance: loaded from the Hub as remote code, this module has a ClipSampling of its own.
    if hasattr(sampling, "to_dict"):
        return ClipSampling.from_dict(sampling.to_dict())
    raise TypeError(f"sampling must be a ClipSampling or a dict of its fields, not {type(sampling).__name__}")


def _is_source(video) -> bool:
    """Whether a video has to be opened, rather than being frames already."""
    opened = (str, os.PathLike, bytes, bytearray, memoryview, dict)
    return isinstance(video, opened) or hasattr(video, "read") or is_decoder(video)


def _list_sources(videos) -> list:
    if _is_source(videos):
        return [videos]
    if isinstance(videos, (list, tuple)) and any(_is_source(video) for video in videos):
        return list(videos)
    return list_videos(videos)


def _choose(video_frames: int, policy: ClipSampling, views: str) -> list[list[int]]:
    return test_clips(video_frames, policy) if views == "test" else [inference_clip(video_frames, policy)]


def _union(clips: list[list[int]]) -> list[int]:
    """Every index that some clip needs, once, in order."""
    return sorted({index for clip in clips for index in clip})


def _read(source, policy: ClipSampling, views: str, errors: str, limits: Limits | None, threads: int):
    """The frames that the views need, each once and in order, as [(T, C, H, W)]; the indices; what is known of it."""
    if is_decoder(source):
        return _read_decoder(DecoderReader(source, limits), policy, views)
    with VideoReader(source, errors=errors, limits=limits, threads=threads) as reader:

        def chosen() -> tuple[list[list[int]], torch.Tensor]:
            try:
                indices = _choose(reader.num_frames, policy, views)
            except ValueError as error:
                raise ValueError(f"{reader.name}: {error}") from None
            return indices, reader.read(_union(indices))

        try:
            indices, frames = chosen()
        except VideoReadError:
            if errors == "strict":
                raise
            reader.count_by_decoding()  # the damage shows only now: choose again among what decodes
            indices, frames = chosen()
        info = reader.info
    known = VideoMetadata(
        total_num_frames=info.num_frames,
        fps=info.fps,
        width=info.width,
        height=info.height,
        duration=info.duration_seconds,
        video_backend="pyav",
    )
    return [frames.permute(0, 3, 1, 2)], indices, known


def _read_decoder(reader: DecoderReader, policy: ClipSampling, views: str):
    """As `_read`, of a decoder that is open already."""
    indices = _choose(reader.num_frames, policy, views)
    frames = reader.read(_union(indices))
    known = VideoMetadata(
        total_num_frames=reader.num_frames,
        fps=reader.fps or None,
        width=reader.width or None,
        height=reader.height or None,
        duration=reader.duration_seconds or None,
        video_backend="torchcodec",
    )
    return [frames.permute(0, 3, 1, 2)], indices, known


def _views(
    groups: list[torch.Tensor], clips: list[list[int]], views: str, crops: int, settings: dict[str, Any], device
) -> torch.Tensor:
    """(T, C, H, W) of one clip, or (V, T, C, H, W) of all test views; every frame is resized once."""
    cropped: list[list[torch.Tensor]] = []
    height, width = settings["crop_size"]["height"], settings["crop_size"]["width"]
    for frames in groups:
        frames = frames.to(device) if device else frames
        frames = resized_to(checked_values(frames, settings["do_rescale"]), settings)
        if not settings["do_center_crop"]:
            cropped.append([frames])
        elif views == "test":
            cropped.append(long_side_crops(frames, height, width, crops))
        else:
            cropped.append([center_crop(frames, height, width)])
    whole = [torch.cat(parts) if len(groups) > 1 else parts[0] for parts in zip(*cropped)]
    out = [normalized(_take(frames, clip), settings) for clip in clips for frames in whole]
    if settings["data_format"] == "channels_last":
        out = [view.permute(0, 2, 3, 1).contiguous() for view in out]
    return torch.stack(out) if views == "test" else out[0]


def _take(frames: torch.Tensor, indices: list[int]) -> torch.Tensor:
    return frames if indices == list(range(len(frames))) else frames[torch.tensor(indices, device=frames.device)]
