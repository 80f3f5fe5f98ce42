"""Frames to `pixel_values`: resize, crop, rescale, normalise, on torch tensors, all equal frames in one pass.

The functions are the spatial half of every input path: this processor, the video processor (which also opens files),
the data sets' transforms and the multi-view test. Random crops and colours live with the data sets. torchvision is
not needed; on the CPU the uint8 results equal those of its processors bit for bit.
"""

# T frames  C channels  H W pixels | a clip is (T, C, H, W); functions that say (..., C, H, W) take any leading sizes

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import PIL.Image
import torch
import torch.nn.functional as F
from transformers.image_processing_base import BatchFeature
from transformers.image_processing_utils import BaseImageProcessor, get_size_dict
from transformers.image_transforms import get_size_with_aspect_ratio
from transformers.image_utils import PILImageResampling, get_image_size_for_max_height_width
from transformers.processing_utils import ImagesKwargs
from transformers.utils import logging
from transformers.utils.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

logger = logging.get_logger(__name__)

INTERPOLATIONS = {
    PILImageResampling.NEAREST: "nearest-exact",
    PILImageResampling.BILINEAR: "bilinear",
    PILImageResampling.BICUBIC: "bicubic",
}


def resize(
    frames: torch.Tensor, height: int, width: int, *, antialias: bool = True, interpolation: str = "bilinear"
) -> torch.Tensor:
    """(..., C, H, W) -> (..., C, height, width), same dtype.

    Without `antialias` a bilinear result is that of OpenCV's linear resize (within rounding), as in the official test.
    """
    if frames.shape[-2:] == (height, width):
        return frames
    lead = frames.shape[:-2]
    frames = frames if frames.ndim == 4 else frames.reshape(-1, *frames.shape[-3:])
    settings: dict[str, Any] = {"mode": interpolation}
    if interpolation != "nearest-exact":
        settings |= {"antialias": antialias, "align_corners": False}
    if frames.dtype == torch.uint8 and frames.device.type != "cpu":  # the uint8 kernel exists on the CPU only
        resized = F.interpolate(frames.float(), (height, width), **settings).round_().clamp_(0, 255).to(torch.uint8)
    else:
        resized = F.interpolate(frames, (height, width), **settings)
    return resized if resized.shape[:-2] == lead else resized.reshape(*lead, height, width)


def short_side_size(height: int, width: int, short_side: int) -> tuple[int, int]:
    """(height, width) once the shorter side is `short_side`; the longer one rounds down."""
    if height <= width:
        return short_side, int(short_side * width / height)
    return int(short_side * height / width), short_side


def resize_short_side(
    frames: torch.Tensor, short_side: int, *, antialias: bool = True, interpolation: str = "bilinear"
) -> torch.Tensor:
    """(..., C, H, W) -> the same with the shorter side `short_side` and the aspect kept."""
    height, width = short_side_size(frames.shape[-2], frames.shape[-1], short_side)
    return resize(frames, height, width, antialias=antialias, interpolation=interpolation)


def center_crop(frames: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """(..., H, W) -> (..., height, width) from the middle; where the frames are smaller, zeros around them."""
    H, W = frames.shape[-2:]
    if height > H or width > W:
        tall, wide = max(height - H, 0), max(width - W, 0)
        frames = F.pad(frames, (wide // 2, wide - wide // 2, tall // 2, tall - tall // 2))
        H, W = frames.shape[-2:]
    top, left = (H - height) // 2, (W - width) // 2
    return frames[..., top : top + height, left : left + width]


def long_side_crops(frames: torch.Tensor, height: int, width: int, crops: int = 3) -> list[torch.Tensor]:
    """(..., H, W) -> `crops` views (..., height, width), evenly spaced from the start to the end of the longer side.

    The official test takes three; one alone is the centre crop. The frames must be at least as large as a crop.
    """
    H, W = frames.shape[-2:]
    if height > H or width > W:
        raise ValueError(f"a crop of {height}x{width} (height x width) does not fit into frames of {H}x{W}")
    if crops == 1:
        return [center_crop(frames, height, width)]
    top, left = (H - height) // 2, (W - width) // 2
    step = (H - height if H >= W else W - width) / (crops - 1)
    if H >= W:
        corners = [(int(i * step), left) for i in range(crops)]
    else:
        corners = [(top, int(i * step)) for i in range(crops)]
    return [frames[..., top : top + height, left : left + width] for top, left in corners]


def rescale_and_normalize(
    frames: torch.Tensor,
    mean: Sequence[float] | None = IMAGENET_DEFAULT_MEAN,
    std: Sequence[float] | None = IMAGENET_DEFAULT_STD,
    *,
    rescale_factor: float | None = 1 / 255,
) -> torch.Tensor:
    """(..., C, H, W) of any dtype -> float32, contiguous. None leaves a step away.

    Floats count as scaled already, 0 to 1 standing for the 0 to 255 of uint8.
    """
    out = frames.to(torch.float32, memory_format=torch.contiguous_format, copy=True)
    scale = 1.0 if rescale_factor is None else rescale_factor * (255 if frames.is_floating_point() else 1)
    if mean is None:
        return out if scale == 1.0 else out.mul_(scale)
    # Rescaling is folded into mean and std, in this order of operations: other orders differ in the last bit.
    shift = torch.tensor(mean, dtype=torch.float32, device=out.device).view(-1, 1, 1)
    spread = torch.tensor(std, dtype=torch.float32, device=out.device).view(-1, 1, 1)
    if scale != 1.0:
        shift, spread = shift * (1.0 / scale), spread * (1.0 / scale)
    return out.sub_(shift).div_(spread)


class VideoMAEImageKwargs(ImagesKwargs, total=False):
    antialias: bool | None


class VideoMAEImageProcessor(BaseImageProcessor):
    """Decoded frames to `pixel_values` (B, T, C, H, W).

    A video is a list of frames (PIL, numpy, torch) or one array (T, H, W, C) or (T, C, H, W); a batch is a list of
    videos or a 5-D array. Integers are 0 to 255. Floats are 0 to 1, and `do_rescale` leaves them so; beyond that
    they are taken as 0 to 255, with a warning. `do_rescale=False` takes any values as they are. Grey frames become RGB and alpha is dropped
    (`do_convert_rgb`), unless the mean has another number of values than three, for a model of so many channels.

    `antialias` is part of what is saved: True as in transformers, False as in the official test protocol. A `sampling`
    policy, of the folder or given as a dict, is kept and saved for `VideoMAEVideoProcessor`, which uses it.
    """

    valid_kwargs = VideoMAEImageKwargs
    model_input_names = ["pixel_values"]
    default_to_square = False

    # The constructor sets these by their names, from SETTINGS and what it is given.
    size: dict[str, int]
    crop_size: dict[str, int]
    image_mean: list[float]
    image_std: list[float]
    do_center_crop: bool

    def __init__(
        self,
        do_resize: bool | None = None,
        size: int | dict[str, int] | None = None,
        resample: int | None = None,
        antialias: bool | None = None,
        do_center_crop: bool | None = None,
        crop_size: int | dict[str, int] | None = None,
        do_rescale: bool | None = None,
        rescale_factor: float | None = None,
        do_normalize: bool | None = None,
        image_mean: float | list[float] | None = None,
        image_std: float | list[float] | None = None,
        do_convert_rgb: bool | None = None,
        data_format: str | None = None,
        input_data_format: str | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        given = {name: value for name, value in locals().items() if name in SETTINGS}
        settings = SETTINGS | {name: value for name, value in given.items() if value is not None}
        for name, value in _checked(settings).items():
            setattr(self, name, value)

    # What comes first is a video, and nothing else goes by place: transformers' own classes narrow these methods so.
    def __call__(self, images=None, *, videos=None, **kwargs) -> BatchFeature:  # pyright: ignore[reportIncompatibleMethodOverride]  # see above
        return self.preprocess(images if videos is None else videos, **kwargs)

    def preprocess(  # pyright: ignore[reportIncompatibleMethodOverride]  # see above
        self, videos, *, return_tensors: str | None = None, device=None, **kwargs
    ) -> BatchFeature:
        """Every option of the constructor can be given for this call alone; `return_tensors` is "pt" or "np"."""
        settings = self.call_settings(kwargs)
        clips = [self._process(video, settings, device) for video in list_videos(videos)]
        return _batch(clips, return_tensors)

    def call_settings(self, overrides: dict[str, Any]) -> dict[str, Any]:
        """All settings of one call: the processor's own with those that the call overrides."""
        unknown = [name for name in overrides if name not in SETTINGS and name not in IGNORED]
        if unknown:
            raise TypeError(
                f"{type(self).__name__} has no option {unknown[0]!r}; its options are {', '.join(SETTINGS)}"
            )
        settings = {name: getattr(self, name) for name in SETTINGS}
        return _checked(settings | {k: v for k, v in overrides.items() if k in SETTINGS and v is not None})

    def _process(self, video, settings: dict[str, Any], device=None) -> torch.Tensor:
        """One video to (T, C, H, W), or (T, H, W, C) if asked for."""
        groups = clip_tensors(video, settings["input_data_format"], convert_rgb=wants_rgb(settings))
        clip = torch.cat([pixel_values(frames.to(device) if device else frames, settings) for frames in groups])
        return clip.permute(0, 2, 3, 1).contiguous() if settings["data_format"] == "channels_last" else clip


class VideoMAEFeatureExtractor(VideoMAEImageProcessor):
    """The old name of `VideoMAEImageProcessor`."""


# What can be chosen, and the values where nothing is; the published weights were trained on ImageNet's mean and std.
SETTINGS: dict[str, Any] = {
    "do_resize": True,
    "size": {"shortest_edge": 224},
    "resample": PILImageResampling.BILINEAR,
    "antialias": True,
    "do_center_crop": True,
    "crop_size": {"height": 224, "width": 224},
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": list(IMAGENET_DEFAULT_MEAN),
    "image_std": list(IMAGENET_DEFAULT_STD),
    "do_convert_rgb": True,
    "data_format": "channels_first",
    "input_data_format": None,
}
SIZE_FORMS = (
    {"shortest_edge"},
    {"height", "width"},
    {"shortest_edge", "longest_edge"},
    {"max_height", "max_width"},
)
# Options of transformers' classes that mean nothing here: equal frames are always one pass, and nothing is padded.
IGNORED = ("disable_grouping", "do_pad", "pad_size")


def _checked(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings with sizes as dicts and means as lists, or an error that names the wrong one."""
    settings = dict(settings)
    for name, square in (("size", False), ("crop_size", True)):
        value = settings[name]
        if not isinstance(value, dict):
            value = get_size_dict(value, default_to_square=square, param_name=name)
        settings[name] = value = {key: side for key, side in dict(value).items() if side is not None}
        for key, side in value.items():
            if isinstance(side, bool) or int(side) != side or side < 1:
                raise ValueError(f"{name}[{key!r}] must be a positive number of pixels, not {side!r}")
    if set(settings["crop_size"]) != {"height", "width"}:
        raise ValueError(f"crop_size must have height and width, not {settings['crop_size']}")
    if set(settings["size"]) not in SIZE_FORMS:
        raise ValueError(f"size must have shortest_edge, or height and width, not {settings['size']}")
    for name in ("image_mean", "image_std"):
        value = settings[name]
        settings[name] = [float(v) for v in value] if isinstance(value, Iterable) else [float(value)] * 3
    if len(settings["image_mean"]) != len(settings["image_std"]):
        raise ValueError(f"image_mean {settings['image_mean']} and image_std {settings['image_std']} differ in length")
    if settings["do_normalize"] and 0.0 in settings["image_std"]:
        raise ValueError("image_std must not hold 0")
    if settings["resample"] not in INTERPOLATIONS:
        allowed = ", ".join(f"{int(key)} ({value})" for key, value in INTERPOLATIONS.items())
        raise ValueError(f"resample must be one of {allowed}, not {settings['resample']!r}")
    settings["resample"] = int(settings["resample"])
    for name in ("data_format", "input_data_format"):
        value = getattr(settings[name], "value", settings[name])
        if value not in ("channels_first", "channels_last", *([None] if name == "input_data_format" else [])):
            raise ValueError(f"{name} must be channels_first or channels_last, not {value!r}")
        settings[name] = value
    return settings


def resized_to(frames: torch.Tensor, settings: dict[str, Any]) -> torch.Tensor:
    """(T, C, H, W) at the size that the settings ask for."""
    if not settings["do_resize"]:
        return frames
    size, (height, width) = settings["size"], frames.shape[-2:]
    if set(size) == {"shortest_edge"}:
        new = short_side_size(height, width, size["shortest_edge"])
    elif set(size) == {"shortest_edge", "longest_edge"}:
        new = get_size_with_aspect_ratio((height, width), size["shortest_edge"], size["longest_edge"])
    elif set(size) == {"height", "width"}:
        new = size["height"], size["width"]
    else:
        new = get_image_size_for_max_height_width((height, width), size["max_height"], size["max_width"])
    return resize(frames, *new, antialias=settings["antialias"], interpolation=INTERPOLATIONS[settings["resample"]])


def frame_at_size(picture: np.ndarray, settings: dict[str, Any]) -> torch.Tensor:
    """One RGB frame (H, W, C) -> uint8 (C, h, w) as the settings crop it; windows normalise it once in a batch."""
    frame = resized_to(torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)[None], settings)
    if settings["do_center_crop"]:
        frame = center_crop(frame, settings["crop_size"]["height"], settings["crop_size"]["width"])
    return frame[0].clone()  # a view would keep the whole frame alive


def normalized(frames: torch.Tensor, settings: dict[str, Any]) -> torch.Tensor:
    """(..., C, H, W) rescaled and normalised as the settings ask."""
    mean, std = (settings["image_mean"], settings["image_std"]) if settings["do_normalize"] else (None, None)
    if mean is not None and len(mean) not in (1, frames.shape[-3]):
        raise ValueError(
            f"the frames have {frames.shape[-3]} channels and image_mean has {len(mean)} values; they must agree"
        )
    factor = settings["rescale_factor"] if settings["do_rescale"] else None
    return rescale_and_normalize(frames, mean, std, rescale_factor=factor)


def pixel_values(frames: torch.Tensor, settings: dict[str, Any]) -> torch.Tensor:
    """(T, C, H, W) of uint8 or float frames -> model input of one view."""
    frames = resized_to(checked_values(frames, settings["do_rescale"]), settings)
    if settings["do_center_crop"]:
        frames = center_crop(frames, settings["crop_size"]["height"], settings["crop_size"]["width"])
    return normalized(frames, settings)


def checked_values(frames: torch.Tensor, do_rescale: bool) -> torch.Tensor:
    """Frames whose floats stand for what floats stand for here: 0 to 1.

    Floats beyond are taken as on the scale of 0 to 255, as in transformers, with a warning. Those of -1 to 1 are
    refused: they have been normalised already, and no rescaling is right for them.
    """
    if not frames.is_floating_point():
        return frames
    low, high = frames.min().item(), frames.max().item()
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError("the frames hold NaN or infinite values")
    if not do_rescale or (low >= 0.0 and high <= 1.0):
        return frames
    if low >= -1.01 and high <= 1.01:
        raise ValueError(
            f"float frames are taken as 0 to 1, and these go from {low:g} to {high:g}; pass uint8 for 0 to 255, clamp "
            "them if they overshoot, or do_rescale=False to use the values as they are"
        )
    logger.warning_once(
        f"Float frames from {low:g} to {high:g} are taken as on the scale of 0 to 255; pass uint8, or floats of 0 to 1, to "
        "leave no doubt."
    )
    return frames / 255


# Reading what people pass


def list_videos(videos) -> list:
    """A video or a batch of them -> a list of videos, each a list of frames or a 4-D array."""
    if isinstance(videos, (np.ndarray, torch.Tensor)):
        if videos.ndim == 5:
            return list(videos)
        if videos.ndim in (2, 3, 4):
            return [videos if videos.ndim == 4 else [videos]]
        raise ValueError(f"a video array has 4 dimensions, a batch of them 5; got shape {tuple(videos.shape)}")
    if isinstance(videos, PIL.Image.Image):
        return [[videos]]
    if not isinstance(videos, (list, tuple)):
        raise TypeError(f"a video is a list of frames or an array, not {type(videos).__name__}")
    if len(videos) == 0:
        raise ValueError("there is no video: the list is empty")
    first = videos[0]
    if isinstance(first, (list, tuple)) or getattr(first, "ndim", 0) == 4:
        return list(videos)
    return [videos]


def is_frame(thing) -> bool:
    """Whether this is one picture, so that a list of such is one video."""
    return isinstance(thing, PIL.Image.Image) or getattr(thing, "ndim", 0) in (2, 3)


def clip_tensors(video, input_data_format: str | None = None, *, convert_rgb: bool = True) -> list[torch.Tensor]:
    """One video -> its frames as (T, C, H, W) tensors, one for every stretch of equal size (usually one)."""
    if isinstance(video, (list, tuple)):
        if len(video) == 0:
            raise ValueError("a video has no frames: the list is empty")
        frames = [_frame_array(frame, convert_rgb) for frame in video]
        stretches: list[list] = []
        for frame in frames:
            same = stretches and stretches[-1][0].shape == frame.shape and stretches[-1][0].dtype == frame.dtype
            stretches[-1].append(frame) if same else stretches.append([frame])
        clips = [_stacked(stretch) for stretch in stretches]
    else:
        clips = [torch.as_tensor(video)]
    return [_channels_first(clip, input_data_format, convert_rgb) for clip in clips]


def _stacked(frames: list) -> torch.Tensor:
    """One copy, and none where torch would first have to take each array in."""
    return torch.from_numpy(np.stack(frames)) if isinstance(frames[0], np.ndarray) else torch.stack(frames)


def _frame_array(frame, convert_rgb: bool) -> np.ndarray | torch.Tensor:
    if isinstance(frame, PIL.Image.Image):
        return np.asarray(frame.convert("RGB") if convert_rgb and frame.mode != "RGB" else frame)
    if not isinstance(frame, (np.ndarray, torch.Tensor)):
        raise TypeError(f"a frame is a PIL image, a numpy array or a torch tensor, not {type(frame).__name__}")
    if frame.ndim not in (2, 3):
        raise ValueError(f"a frame has 2 or 3 dimensions; got shape {tuple(frame.shape)}")
    return frame


def _channels_first(clip: torch.Tensor, input_data_format: str | None, convert_rgb: bool) -> torch.Tensor:
    """(T, H, W), (T, H, W, C) or (T, C, H, W) -> (T, C, H, W) of uint8 or float, as a view where possible."""
    if clip.ndim == 3:
        clip = clip[:, None]
    else:
        input_data_format = getattr(input_data_format, "value", input_data_format) or _layout(clip)
        clip = clip.permute(0, 3, 1, 2) if input_data_format == "channels_last" else clip
    if 0 in clip.shape:
        raise ValueError(f"the frames are empty: (T, C, H, W) is {tuple(clip.shape)}")
    if clip.dtype == torch.bool:
        raise TypeError("frames of booleans are not pictures; pass uint8 or float")
    if not clip.is_floating_point() and clip.dtype != torch.uint8:
        low, high = clip.min().item(), clip.max().item()
        if low < 0 or high > 255:
            raise ValueError(f"integer frames are 0 to 255, and these go from {low} to {high}")
        clip = clip.to(torch.uint8)
    if clip.dtype in (torch.float16, torch.bfloat16, torch.float64):
        clip = clip.float()
    if convert_rgb and clip.shape[1] in (2, 4):
        clip = clip[:, : clip.shape[1] - 1]
    if convert_rgb and clip.shape[1] == 1:
        clip = clip.expand(-1, 3, -1, -1)
    return clip


def _layout(clip: torch.Tensor) -> str:
    """Where the channels are, by their number; transformers' rule: the first place wins if both could be."""
    if clip.shape[1] in (1, 3, 4):
        return "channels_first"
    if clip.shape[3] in (1, 3, 4):
        return "channels_last"
    raise ValueError(
        f"frames of shape {tuple(clip.shape[1:])} have no axis of 1, 3 or 4 channels; "
        "pass input_data_format for another number of them"
    )


def wants_rgb(settings: dict[str, Any]) -> bool:
    """`do_convert_rgb`, unless the mean says that the model has another number of channels."""
    return bool(settings["do_convert_rgb"]) and not (settings["do_normalize"] and len(settings["image_mean"]) != 3)


def _batch(clips: list[torch.Tensor], return_tensors: str | None) -> BatchFeature:
    if return_tensors is None:
        return BatchFeature(data={"pixel_values": clips})
    kind = getattr(return_tensors, "value", return_tensors)
    if kind not in ("pt", "np"):
        raise ValueError(f"return_tensors must be 'pt', 'np' or None, not {return_tensors!r}")
    shapes = sorted({tuple(clip.shape) for clip in clips})
    if len(shapes) > 1:
        raise ValueError(
            f"the videos differ in shape ({shapes[0]} and {shapes[1]}) and make no batch; pass them one by one"
        )
    batch = clips[0][None] if len(clips) == 1 else torch.stack(clips)
    return BatchFeature(data={"pixel_values": batch if kind == "pt" else batch.cpu().numpy()})
