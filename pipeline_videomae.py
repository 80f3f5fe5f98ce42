"""Video classification with what transformers' own pipeline lacks: the model's clip, all test views, long videos.

Action detection has a pipeline of its own in pipeline_videomae_detection.py.
"""

# B videos  V views  W windows  T frames  C channels  H W pixels  L labels

import contextlib
import dataclasses
import datetime
import itertools
import os
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, cast

import torch
from transformers import VideoClassificationPipeline as StockVideoClassificationPipeline
from transformers.modeling_outputs import ImageClassifierOutput
from transformers.utils import logging

from .image_processing_videomae import SETTINGS, frame_at_size, is_frame, normalized
from .sampling_videomae import ClipSampling
from .video_decoder import decoder_windows, is_decoder
from .video_io import Limits, iter_windows, probe
from .video_live import LiveReader
from .video_processing_videomae import VideoMAEVideoProcessor
from .video_windows import Window

logger = logging.get_logger(__name__)


class VideoClassificationPipeline(StockVideoClassificationPipeline):
    """`pipeline("video-classification")` that samples each file by the policy saved with the model.

        pipe = VideoClassificationPipeline(model=model, video_processor=VideoMAEVideoProcessor.from_pretrained(FOLDER))
        pipe("video.mp4")                      # the model's clip
        pipe("video.mp4", views="test")        # all clips and crops of the published test, averaged
        pipe(["a.mp4", "b.mp4"], batch_size=2)
        pipe([picture, picture, ...])          # decoded frames of one video, as PIL images or arrays
        for window in pipe.windows("long.mp4"): ...
        for window in pipe.live("rtsp://..."): ...

    A video is whatever `VideoMAEVideoProcessor` opens. Models other than VideoMAE run as in transformers. Scores are
    calibrated by the config's `temperature`, which changes no answer; transformers' own pipeline ignores it.
    """

    model: Any
    video_processor: Any  # ours where the model is

    def __init__(self, model, *args, video_processor=None, image_processor=None, **kwargs):
        self._is_videomae = getattr(model.config, "model_type", None) == "videomae"
        if self._is_videomae:
            _refuse_another_head(model)
            older = kwargs.pop("feature_extractor", None)  # what image processors were called, as old notebooks have it
            video_processor = _with_policy(video_processor, image_processor or older, model)
            # transformers batches only where one of its older kinds of processor is set, and saves only those.
            image_processor = video_processor
        super().__init__(model, *args, video_processor=video_processor, image_processor=image_processor, **kwargs)

    def check_model_type(self, supported_models):
        """transformers logs an error for classes that it does not know, such as an attentive probe."""
        if not self._is_videomae:
            super().check_model_type(supported_models)

    def __call__(self, inputs, **kwargs):
        """A video gives a list of labels with scores, best first; a list of videos gives a list of those."""
        answer = cast(Callable[..., Any], super().__call__)  # transformers' annotation knows strings alone
        if self._is_videomae and isinstance(inputs, (list, tuple)):
            if not inputs:
                return []
            if is_frame(inputs[0]):
                return answer([inputs], **kwargs)[0]
        return answer(inputs, **kwargs)

    def _sanitize_parameters(self, views=None, errors=None, limits=None, **kwargs):  # pyright: ignore[reportIncompatibleMethodOverride]  # all go by name
        preprocess, forward, postprocess = super()._sanitize_parameters(**kwargs)
        options = {"views": views, "errors": errors, "limits": limits}
        return preprocess | {k: v for k, v in options.items() if v is not None}, forward, postprocess

    def preprocess(self, video, num_frames=None, frame_sampling_rate=None, **options):
        if not self._is_videomae:
            rate = {} if frame_sampling_rate is None else {"frame_sampling_rate": frame_sampling_rate}
            return super().preprocess(video, num_frames=num_frames, **rate, **options)
        if frame_sampling_rate is not None:
            options["sampling"] = {"stride_frames": frame_sampling_rate}
        num_frames = num_frames or self.model.config.num_frames
        inputs = self.video_processor(
            video, num_frames=num_frames, do_sample_frames=True, return_tensors="pt", **options
        )
        return inputs.to(self.dtype)

    def _forward(self, model_inputs):
        if not self._is_videomae:
            return super()._forward(model_inputs)
        pixel_values = model_inputs["pixel_values"]
        if pixel_values.ndim == 5:
            return ImageClassifierOutput(logits=self.model(pixel_values=pixel_values).logits)
        # (B, V, T, C, H, W): the views of one video at a time, so that a batch needs no more memory than a video.
        return ImageClassifierOutput(
            logits=torch.stack([self.model(pixel_values=video).logits for video in pixel_values])
        )

    def postprocess(self, model_outputs, top_k=5, function_to_apply=None):
        """Scores per view, their mean over views, then the best."""
        if not self._is_videomae:
            return super().postprocess(model_outputs, top_k=top_k, function_to_apply=function_to_apply)
        scores = self._scores(model_outputs.logits[0].float(), function_to_apply)
        return self._best(self._calibrated(scores if scores.ndim == 1 else scores.mean(0), function_to_apply), top_k)

    def windows(
        self,
        video,
        *,
        hop_frames: int | None = None,
        sampling: ClipSampling | dict[str, Any] | None = None,
        top_k: int = 5,
        batch_size: int = 4,
        partial: str = "repeat_last",
        errors: str = "strict",
        function_to_apply: str | None = None,
        limits: Limits | None = None,
        threads: int = 1,
        progress: bool = True,
    ) -> Iterator[dict[str, Any]]:
        """Classify a long or endless video by overlapping windows, while it is being decoded.

        A window is a clip at the policy's stride (of 16 frames at stride 4: 61 frames); the next one starts
        `hop_frames` later, by default half a window. Yields a dict per window: start_seconds and end_seconds,
        first_frame and last_frame, and scores as the pipeline gives them. Every frame is decoded once and no more
        than `batch_size` windows are held. `partial` says what becomes of an end that fills no window: it is filled
        with its last frame ("repeat_last") or left out ("drop"). `errors="truncate"` takes a damaged file as far as it
        can be decoded. An open decoder, such as torchcodec's, is read as its file would be, at its average rate.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}")
        options = self._window_options(sampling, hop_frames) | {"partial": partial, "limits": limits}
        if is_decoder(video):
            windows = decoder_windows(video, **options)
        else:
            windows = iter_windows(video, errors=errors, threads=threads, **options)
        seen = 0.0  # kept here: where progress bars are switched off, transformers' stand-in has no count
        with logging.tqdm(total=_seconds(video) if progress else None, unit="s", disable=not progress) as bar:
            while batch := list(itertools.islice(windows, batch_size)):
                yield from self._labelled(batch, function_to_apply, top_k)
                bar.update(round(batch[-1].end_seconds, 1) - seen)
                seen = round(batch[-1].end_seconds, 1)

    def live(
        self,
        source,
        *,
        hop_frames: int | None = None,
        sampling: ClipSampling | dict[str, Any] | None = None,
        top_k: int = 5,
        function_to_apply: str | None = None,
        queue_windows: int = 1,
        stall_seconds: float = 10.0,
        reconnect_seconds: float | None = None,
        limits: Limits | None = None,
        threads: int = 1,
        on_event: Callable[[str], None] | None = None,
    ) -> Generator[dict[str, Any], None, None]:
        """Classify a live source by its newest windows: a stream, a camera or a pipe.

        `source` is rtsp://HOST/PATH, tcp://HOST:PORT, udp://@:PORT, /dev/video0, "-" for standard input, or an open pipe.
        Windows are those of `windows`; while the model works another thread reads on, and of the windows that come
        meanwhile the newest `queue_windows` are kept. What it yields has, beside the fields of `windows`, `time` (UTC, when
        the last frame was decoded), `latency_seconds` (from then to the answer), `connection`, and since the answer before
        `dropped_frames` (in no answered window, since the model was late), `dropped_windows` and `damaged`
        (pictures and packets). A source that stalls for `stall_seconds` or ends is opened again, at growing intervals,
        until there was no picture for `reconnect_seconds` (None: for ever); a pipe ends the iteration. `on_event` gets a
        sentence for each of this; by default it is logged. Close the iterator, or leave the loop by an error, to stop.
        """
        reader = LiveReader(
            source,
            **self._window_options(sampling, hop_frames),
            queue_windows=queue_windows,
            stall_seconds=stall_seconds,
            reconnect_seconds=reconnect_seconds,
            limits=limits,
            threads=threads,
            on_event=on_event or logger.warning,
        )
        with reader:
            for window in reader:
                (result,) = self._labelled([window], function_to_apply, top_k)
                latency = time.monotonic() - window.arrived
                arrived = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=latency)
                yield result | {
                    "time": arrived.isoformat(timespec="milliseconds"),
                    "latency_seconds": round(latency, 3),
                    "connection": window.connection,
                    "dropped_frames": window.dropped_frames,
                    "dropped_windows": window.dropped_windows,
                    "damaged": window.damaged,
                }

    def save_pretrained(self, save_directory, **kwargs):
        super().save_pretrained(save_directory, **kwargs)
        if self.video_processor is not None and self.video_processor is not self.image_processor:
            self.video_processor.save_pretrained(save_directory, **kwargs)

    def _window_options(self, sampling: ClipSampling | dict[str, Any] | None, hop_frames: int | None) -> dict[str, Any]:
        """Which frames a window has and what becomes of a picture, as `iter_windows` and `LiveReader` take it."""
        settings = self.video_processor.call_settings({})
        policy: ClipSampling = dataclasses.replace(
            self.video_processor.sampling, num_frames=self.model.config.num_frames
        )
        if sampling is not None:
            changed = sampling if isinstance(sampling, dict) else sampling.to_dict()
            policy = ClipSampling.from_dict(policy.to_dict() | changed)
        if hop_frames is None:
            hop_frames = max(policy.num_frames * policy.stride_frames // 2, 1)
        return {
            "num_frames": policy.num_frames,
            "stride_frames": policy.stride_frames,
            "hop_frames": hop_frames,
            "transform": lambda picture: frame_at_size(picture, settings),
        }

    def _labelled(self, batch: Sequence[Window], function_to_apply: str | None, top_k: int) -> Iterator[dict[str, Any]]:
        """A dict per window with its place and its scores."""
        clips = torch.stack([torch.stack(window.frames) for window in batch])  # (W, T, C, H, W)
        settings = self.video_processor.call_settings({})
        scores = self._scores(self._logits(normalized(clips.to(self.device), settings)), function_to_apply)
        for window, row in zip(batch, self._calibrated(scores, function_to_apply)):
            yield {
                "start_seconds": window.start_seconds,
                "end_seconds": window.end_seconds,
                "first_frame": window.first_frame,
                "last_frame": window.last_frame,
                "scores": self._best(row, top_k),
            }

    @torch.no_grad()
    def _logits(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.model(pixel_values=pixel_values.to(self.dtype)).logits.float().cpu()

    def _scores(self, logits: torch.Tensor, function_to_apply: str | None) -> torch.Tensor:
        """(..., L) -> (..., L), by the kind of problem that the model was trained for."""
        function = self._function(function_to_apply)
        return {"softmax": lambda x: x.softmax(-1), "sigmoid": torch.sigmoid, "none": lambda x: x}[function](logits)

    def _calibrated(self, scores: torch.Tensor, function_to_apply: str | None) -> torch.Tensor:
        """(..., L) -> (..., L): after the mean over views, as the temperature was fitted; no order changes."""
        temperature, function = getattr(self.model.config, "temperature", 1.0), self._function(function_to_apply)
        if temperature == 1.0 or function == "none":
            return scores
        if function == "sigmoid":
            return torch.sigmoid(torch.logit(scores.double(), eps=1e-12) / temperature).to(scores.dtype)
        return (scores.double().clamp_min(1e-12).log() / temperature).softmax(-1).to(scores.dtype)

    def _function(self, function_to_apply: str | None) -> str:
        by_problem = {"regression": "none", "multi_label_classification": "sigmoid"}
        function = function_to_apply or by_problem.get(self.model.config.problem_type, "softmax")
        if function not in ("softmax", "sigmoid", "none"):
            raise ValueError(f"function_to_apply must be softmax, sigmoid or none, not {function!r}")
        return function

    def _best(self, scores: torch.Tensor, top_k: int) -> list[dict[str, Any]]:
        values, ids = scores.topk(min(top_k, scores.shape[-1]))
        labels = self.model.config.id2label
        return [{"score": value, "label": labels[index]} for value, index in zip(values.tolist(), ids.tolist())]


def _seconds(video) -> float | None:
    """How long a local file lasts, for the progress bar; None where that cannot be known beforehand."""
    if not isinstance(video, (str, os.PathLike)) or "://" in str(video):
        return None
    with contextlib.suppress(ValueError, OSError):  # windows() itself says what is wrong
        return round(probe(video).duration_seconds, 1)


def _refuse_another_head(model) -> None:
    """A probe's folder opened as a plain classifier has a head of random weights; transformers only warns."""
    saved = getattr(model.config, "architectures", None) or []
    if "VideoMAEForAttentiveProbe" in saved and type(model).__name__ == "VideoMAEForVideoClassification":
        raise ValueError(
            f"{model.name_or_path} is an attentive probe, and was opened as a plain classifier with a random head; give the "
            "pipeline VideoMAEForAttentiveProbe.from_pretrained(FOLDER) as its model"
        )


def _with_policy(video_processor, image_processor, model) -> VideoMAEVideoProcessor:
    """The given video processor if it has a sampling policy; else ours, of the model's folder or the given settings.

    A policy that nobody chose is named in a warning.
    """
    folder = getattr(model, "name_or_path", None)
    processor = _processor_of(video_processor, image_processor, folder)
    # Not VideoMAEVideoProcessor's own attribute alone: remote code has a class of its own.
    if getattr(processor, "sampling_assumed", False):
        policy = processor.sampling
        logger.warning_once(
            f"No sampling policy is saved with {folder or 'the model'}; {policy.strategy}, stride {policy.stride_frames}, is assumed, as "
            "for Kinetics-400. Pass a VideoMAEVideoProcessor with another `sampling`, or save one with the model."
        )
    return processor


def _processor_of(video_processor, image_processor, folder: str | None) -> VideoMAEVideoProcessor:
    if isinstance(video_processor, str):
        return VideoMAEVideoProcessor.from_pretrained(video_processor)
    if hasattr(video_processor, "sampling"):
        return video_processor
    if isinstance(image_processor, VideoMAEVideoProcessor):
        return image_processor
    if folder:
        with contextlib.suppress(OSError):
            return VideoMAEVideoProcessor.from_pretrained(folder)
    given = video_processor or image_processor
    if given is None:
        raise ValueError("no video processor was given and the model's folder has none; pass video_processor")
    settings = {name: value for name, value in given.to_dict().items() if name in SETTINGS or name == "sampling"}
    return cast(VideoMAEVideoProcessor, VideoMAEVideoProcessor.from_dict(settings))
