"""Which frames of a video make a clip: index arithmetic only, no files and no pixels.

video_io.py reads the frames named here; the video processor saves a `ClipSampling` with the model, and the data sets
use the same functions. Every function takes the number of frames of a video and returns plain lists of ints.
"""

# n frames in the video  T frames in a clip  K test clips

import dataclasses
import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

STRATEGIES = ("dense", "uniform", "spread", "all")
SHORT_POLICIES = ("repeat_last", "loop", "error")
RULES = ("reference", "reference_v2", "exact", "mmaction2")

# Sources of the V2 UnlabeledHybrid set whose frames are stored at half the rate (12 fps): `HybridVideoMAE` in
# pretrain_datasets.py of the V2 release recognises them by this part of the path.
HALF_RATE_SOURCES = ("SomethingV2",)


@dataclass(frozen=True)
class ClipSampling:
    """The sampling policy of a model; it is saved with the video processor and honoured wherever a file is read.

    strategy: "dense" takes every `stride_frames`-th frame of one window (Kinetics); "uniform" one frame of each of
        `num_frames` equal segments (Something-Something, TSN), their middles outside training; "spread" the same
        segments' starts; "all" every frame of the file.
    clips, crops: the views of the published test, in time and along the long side.
    short: what happens when the file has fewer frames than the clip spans. "repeat_last" holds the last frame (the
        segments of "uniform" and "spread" repeat frames in place); "loop" starts again; "error" raises.
    rule: "reference" gives the frames of VideoMAE's own code, oddities included; "reference_v2" those of VideoMAE V2's,
        which differ for a "uniform" video of fewer than `num_frames` frames; "exact" gives even strides; "mmaction2" the
        windows of MMAction2's SampleFrames, which are "dense" and, in its configs, "loop" over a short video.
    segments: a clip is so many dense windows, one from each equal part of the video, one after the other: what an
        attentive probe sees (`segmented_clip`). `num_frames` counts the frames of one window.
    """

    strategy: str = "dense"
    num_frames: int = 16
    stride_frames: int = 4
    clips: int = 5
    crops: int = 3
    short: str = "repeat_last"
    rule: str = "reference"
    segments: int = 1

    def __post_init__(self):
        for name, allowed in (("strategy", STRATEGIES), ("short", SHORT_POLICIES), ("rule", RULES)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, not {getattr(self, name)!r}")
        for name in ("num_frames", "stride_frames", "clips", "crops", "segments"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"{name} must be an integer, not {value!r}")
            if value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        if self.rule == "mmaction2" and (self.strategy != "dense" or self.short == "repeat_last"):
            raise ValueError(
                "rule='mmaction2' is MMAction2's dense sampling, which loops over short videos: it needs "
                f"strategy='dense' and short='loop' (or 'error'), not strategy={self.strategy!r} and short={self.short!r}"
            )
        if self.segments > 1 and (self.strategy, self.short, self.rule, self.clips) != (
            "dense", "repeat_last", "reference", 1,
        ):  # fmt: skip
            raise ValueError(
                f"segments={self.segments} are dense windows of one clip by the reference rule: they need "
                f"strategy='dense', short='repeat_last', rule='reference' and clips=1, not strategy={self.strategy!r}, "
                f"short={self.short!r}, rule={self.rule!r} and clips={self.clips}"
            )

    @property
    def is_reference(self) -> bool:
        """Whether the rule is that of an official release, whose oddities V1 and V2 share."""
        return self.rule in ("reference", "reference_v2")

    @property
    def span_frames(self) -> int:
        """Frames from the first to the last of a dense clip, both included."""
        return (self.num_frames - 1) * self.stride_frames + 1

    def to_dict(self) -> dict[str, Any]:
        """All fields; `segments` only where there are several, so that other policies stay as they were saved before."""
        fields = dataclasses.asdict(self)
        return fields if self.segments > 1 else {name: fields[name] for name in fields if name != "segments"}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "ClipSampling":
        """A policy from saved fields; those that are missing have their defaults, unknown ones are an error."""
        known = [field.name for field in dataclasses.fields(cls)]
        unknown = sorted(set(fields) - set(known))
        if unknown:
            raise ValueError(f"a sampling policy has no field {unknown[0]!r}; its fields are {', '.join(known)}")
        return cls(**fields)


def train_clip(video_frames: int, sampling: ClipSampling, generator: torch.Generator) -> list[int]:
    """One random clip, as in fine-tuning."""
    n, T = _checked(video_frames, sampling), sampling.num_frames
    if sampling.segments > 1:
        return segmented_clip(n, sampling, generator)
    if sampling.strategy == "all":
        return list(range(n))
    if sampling.rule == "mmaction2":
        return _looped(_draw(max(n - T * sampling.stride_frames + 1, 1), generator), n, sampling)
    if sampling.strategy == "dense":
        window = _window_frames(sampling)
        if n < window or (sampling.is_reference and n == window):
            return _short_dense(n, sampling)
        # kinetics.py draws the exclusive end of the window in [64, n), so the window that ends the video never comes.
        starts = n - window if sampling.is_reference else n - window + 1
        return _dense(_draw(starts, generator), sampling)
    if n < T and sampling.short == "loop":
        return [i % n for i in range(T)]
    if sampling.strategy == "uniform" and sampling.rule == "reference_v2" and n < T:
        return _short_uniform_v2(n, sampling)
    if sampling.strategy == "uniform" and sampling.is_reference:
        length = n // T  # of zero for a short video, which leaves only the first frame (ssv2.py)
        return [i * length + _draw(max(length, 1), generator) for i in range(T)]
    bounds = [i * n // T for i in range(T + 1)]
    return [low + _draw(max(high - low, 1), generator) for low, high in itertools.pairwise(bounds)]


def pretrain_clip(video_frames: int, sampling: ClipSampling, generator: torch.Generator) -> list[int]:
    """One random clip at the exact stride, as in pre-training; the strategy does not matter.

    Under "reference" the window counts as num_frames * stride_frames long, and a short video continues by the stride
    while one more frame would be left after it, then repeats the frame that it reached (`VideoMAE` in kinetics.py).
    """
    n, T, stride = _checked(video_frames, sampling, dense=True), sampling.num_frames, sampling.stride_frames
    if sampling.segments > 1:
        raise ValueError(f"pre-training takes one window of a video, not segments={sampling.segments}; choose 1")
    reference = sampling.is_reference
    window = T * stride if reference else sampling.span_frames
    if n >= window:
        start = _draw(n - window + 1, generator)
        return [start + i * stride for i in range(T)]
    if n >= sampling.span_frames and sampling.short != "repeat_last":
        return [i * stride for i in range(T)]
    if sampling.short == "loop":
        return _looped(0, n, sampling)
    if not reference:
        return [min(i * stride, n - 1) for i in range(T)]
    last = max(n - 2, 0) // stride * stride
    return [min(i * stride, last) for i in range(T)]


def validation_clip(video_frames: int, sampling: ClipSampling) -> list[int]:
    """The clip that V2 validates on while it trains: the centre window, or the middles of the segments.

    V1 validates on a random clip; that is `train_clip`.
    """
    n, T = _checked(video_frames, sampling), sampling.num_frames
    if sampling.segments > 1:
        return segmented_clip(n, sampling)
    if sampling.strategy == "all":
        return list(range(n))
    if sampling.rule == "mmaction2":
        return _looped(max(n - sampling.span_frames, 0) // 2, n, sampling)
    if sampling.strategy == "dense":
        window = _window_frames(sampling)
        if n < window or (sampling.is_reference and n == window):
            return _short_dense(n, sampling)
        return _dense((n - window) // 2, sampling)
    if n < T and sampling.short == "loop":
        return [i % n for i in range(T)]
    if sampling.strategy == "spread":
        return [i * n // T for i in range(T)]
    if sampling.rule == "reference_v2" and n < T:
        return _short_uniform_v2(n, sampling)
    if sampling.is_reference:
        length = n // T
        return [i * length + length // 2 for i in range(T)]
    return [(2 * i + 1) * n // (2 * T) for i in range(T)]


def inference_clip(video_frames: int, sampling: ClipSampling) -> list[int]:
    """The single clip that stands for a file when one view must do: what `processor(path)` reads.

    The centre clip of validation, but for a short video under "uniform", where V1's validation rule sees only the
    first frame, and V2's that one more often than the others: here the middles of the (fractional) segments are taken.
    """
    if sampling.strategy == "uniform" and sampling.short == "repeat_last" and 0 < video_frames < sampling.num_frames:
        sampling = dataclasses.replace(sampling, rule="exact")
    return validation_clip(video_frames, sampling)


def test_clips(video_frames: int, sampling: ClipSampling) -> list[list[int]]:
    """The clips of the published multi-view test, in the official order.

    dense: every `stride_frames`-th frame of the whole file, then `clips` windows over those, the first at the start
    and the last at the end. uniform and spread: clip k takes the point k / clips of the way through each segment, so
    that two clips are the segments' starts and middles. One clip alone is the centre clip (the official code
    divides by zero there). "mmaction2" spreads the windows over the frames themselves, at rounded starts.
    """
    n, T, K = _checked(video_frames, sampling), sampling.num_frames, sampling.clips
    if sampling.segments > 1:
        return [segmented_clip(n, sampling)]
    if sampling.strategy == "all":
        return [list(range(n))]
    if sampling.rule == "mmaction2":
        spare = max(n - sampling.span_frames, 0)
        starts = [round(k * (spare / (K - 1))) for k in range(K)] if K > 1 else [spare // 2]
        return [_looped(start, n, sampling) for start in starts]
    if K == 1 and sampling.strategy != "dense":
        return [inference_clip(n, sampling)]
    if sampling.strategy == "dense":
        if n < sampling.span_frames and sampling.short == "loop":
            kept = _looped(0, n, sampling)
        else:
            kept = list(range(0, n, sampling.stride_frames))
            kept += kept[-1:] * (T - len(kept))
        spare = len(kept) - T
        if K == 1:
            return [kept[spare // 2 :][:T]]
        step = spare / (K - 1)
        return [kept[int(k * step) :][:T] for k in range(K)]
    if n < T and sampling.short == "loop":
        return [[i % n for i in range(T)]] * K
    tick = n / T
    return [[int(k * tick / K + tick * i) for i in range(T)] for k in range(K)]


def segmented_clip(video_frames: int, sampling: ClipSampling, generator: torch.Generator | None = None) -> list[int]:
    """The frames of all segments, one window after the other: V-JEPA 2's frozen evaluation (its video_dataset.py).

    Each window lies at random inside its part of the video, or without `generator` in the middle. Where the parts are
    no longer than a window, windows overlap, evenly spaced from the start of the video.
    """
    n, S = _checked(video_frames, sampling), sampling.segments
    window, part = _window_frames(sampling), n // S
    spare = part - window
    if spare > 0:
        starts = [i * part + (spare // 2 if generator is None else _draw(spare, generator)) for i in range(S)]
        return [frame for start in starts for frame in _dense(start, sampling)]
    step = max(n - window, 0) // max(S - 1, 1)
    # The official window of a short part ends one frame early: the last frame of the video is never taken.
    reached = _short_dense(max(min(window, n) - 1, 1), sampling)
    return [i * step + frame for i in range(S) for frame in reached]


vars(test_clips)["__test__"] = False  # a name that pytest would otherwise collect where it is imported


def hybrid_stride(
    path: str,
    stride_frames: int = 4,
    *,
    is_frame_folder: bool = True,
    half_rate_sources: tuple[str, ...] = HALF_RATE_SOURCES,
) -> int:
    """The stride of one entry of a mixed pre-training list: halved for frames that are stored at half the rate.

    V2's stride 2 for Something-Something holds for its frames at 12 fps, so for rows of frames alone; video files have
    their own rate.
    """
    half_rate = is_frame_folder and any(source in path for source in half_rate_sources)
    return max(stride_frames // 2, 1) if half_rate else stride_frames


def key_frame_offsets(num_frames: int, stride_frames: int, *, family: str) -> list[int]:
    """The clip around a key frame of action detection, as frames from it: by family, an even stride half to each side.

    "videomae" takes the middle of every stride (TemporalCrop of VideoMAE-Action-Detection: -31, -27, ..., 29),
    "mmaction2" its start (SampleAVAFrames: -32, -28, ..., 28).
    """
    first = -(num_frames * stride_frames // 2) + ((stride_frames - 1) // 2 if family == "videomae" else 0)
    return [first + i * stride_frames for i in range(num_frames)]


def _checked(video_frames: int, sampling: ClipSampling, *, dense: bool = False) -> int:
    if video_frames < 1:
        raise ValueError(f"a clip needs a video of at least 1 frame, not {video_frames}")
    if sampling.short == "error" and sampling.strategy != "all":
        dense = dense or sampling.strategy == "dense"
        need = sampling.span_frames if dense else sampling.num_frames
        if video_frames < need:
            what = f"{sampling.num_frames} frames"
            what += f" at stride {sampling.stride_frames} span {need} frames" if dense else ""
            raise ValueError(
                f"{what}, but the video has {video_frames}; lower num_frames or stride_frames, "
                "or choose short='repeat_last' or short='loop'"
            )
    return video_frames


def _window_frames(sampling: ClipSampling) -> int:
    """Frames that a dense clip claims: the official rules count a full stride after the last frame too."""
    return sampling.num_frames * sampling.stride_frames if sampling.is_reference else sampling.span_frames


def _dense(start: int, sampling: ClipSampling) -> list[int]:
    """The clip of a window that fits. The official one is `linspace` with the end included, then clipped and floored.

    That gives strides of 4, 4, 4, 5, ... instead of 4 (16 frames over 64), which the released weights have learnt.
    """
    if sampling.rule == "exact":
        return [start + i * sampling.stride_frames for i in range(sampling.num_frames)]
    end = start + _window_frames(sampling)
    return np.clip(np.linspace(start, end, sampling.num_frames), start, end - 1).astype(np.int64).tolist()


def _short_dense(n: int, sampling: ClipSampling) -> list[int]:
    """A dense clip of a video no longer than its window."""
    T, stride = sampling.num_frames, sampling.stride_frames
    if sampling.short != "repeat_last" and n >= sampling.span_frames:
        return [i * stride for i in range(T)]
    if sampling.short == "loop":
        return _looped(0, n, sampling)
    if sampling.rule == "exact":
        return [min(i * stride, n - 1) for i in range(T)]
    reached = np.linspace(0, n, n // stride)
    return np.clip(np.r_[reached, [n] * (T - len(reached))], 0, n - 1).astype(np.int64).tolist()


def _short_uniform_v2(n: int, sampling: ClipSampling) -> list[int]:
    """V2's clip of fewer frames than segments: the first one fills up in front (`load_frame` in its datasets.py)."""
    return [0] * (sampling.num_frames - n) + list(range(n))


def _looped(start: int, n: int, sampling: ClipSampling) -> list[int]:
    """A dense clip at the exact stride that begins again where the video ends."""
    return [(start + i * sampling.stride_frames) % n for i in range(sampling.num_frames)]


def _draw(bound: int, generator: torch.Generator) -> int:
    """An integer in [0, bound)."""
    return int(torch.randint(bound, (1,), generator=generator))
