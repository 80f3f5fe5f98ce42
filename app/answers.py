"""What page.py shows of a video: labels over time, reconstructions, attention, actions; without gradio.

Each answer is a class that loads its model once and is called with the path of a file and the settings of the page.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from videomae.choices import MEAN
from videomae.data.encoding import encode_video
from videomae.data.synthetic import MOTIONS, SyntheticSet, render_clip
from videomae.modeling_videomae import VideoMAEModel
from videomae.modeling_videomae_detection import VideoMAEForActionDetection
from videomae.models import check_name, open_classifier, open_config, open_processor
from videomae.pictures.clip import read_clip
from videomae.pictures.drawing import Row, film, grid_picture, mp4_bytes
from videomae.pictures.overlay import draw_overlay
from videomae.pictures.views import attention_views, open_pretrained, rebuilt_clip, reconstruction_views
from videomae.pipeline_videomae import VideoClassificationPipeline
from videomae.pipeline_videomae_detection import WHOLE_FRAME, VideoActionDetectionPipeline
from videomae.training.detectors import name_outputs
from videomae.video_io import probe
from videomae.video_processing_videomae import VideoMAEVideoProcessor

HEIGHT = 192  # of a frame in the films


@dataclass(frozen=True)
class Drawn:
    """A film (MP4 bytes), the same frames side by side as an image, and the notes on both."""

    film: bytes
    picture: Any
    notes: list[str]

    @classmethod
    def of(cls, rows: Sequence[Row], notes: Sequence[str], seconds: Sequence[float], frame_seconds: float) -> "Drawn":
        return cls(
            mp4_bytes(film(rows, height=HEIGHT), frame_seconds),
            grid_picture(rows, notes=notes, seconds=seconds, columns=8, height=96),
            list(notes),
        )


class Labels:
    """Labels of a classifier: for the whole file by the model's saved policy, and window by window."""

    def __init__(self, model: str, device: torch.device, *, errors: str = "strict"):
        self.errors = errors
        config = open_config(model, "model", kind="ForVideoClassification")
        self.model = open_classifier(model)
        self.processor = open_processor(model, config)
        self.pipe = VideoClassificationPipeline(model=self.model, video_processor=self.processor, device=device)

    def whole(self, video: str, *, all_views: bool = False, top_k: int = 5) -> dict[str, float]:
        """Label -> score of the model's clip, or of all views of the published test."""
        guesses = self.pipe(video, top_k=top_k, errors=self.errors, **({"views": "test"} if all_views else {}))
        return {guess["label"]: guess["score"] for guess in guesses}

    def over_time(
        self, video: str, *, top_k: int = 5, progress: Callable[[float], None] = lambda share: None
    ) -> list[dict[str, Any]]:
        """Rows of seconds (the middle of a window), label and score: the labels that are highest anywhere, everywhere.

        A file of a single window gives its score at the start and at the end.
        """
        length = probe(video, errors=self.errors).duration_seconds
        windows, top_all = [], self.model.config.num_labels
        for window in self.pipe.windows(video, top_k=top_all, progress=False, errors=self.errors):
            scores = {guess["label"]: guess["score"] for guess in window["scores"]}
            windows.append((window["start_seconds"], window["end_seconds"], scores))
            progress(min(window["end_seconds"] / length, 1.0) if length else 1.0)
        best: dict[str, float] = {}
        for _, _, scores in windows:
            for label, score in scores.items():
                best[label] = max(score, best[label]) if label in best else score
        labels = sorted(best, key=best.__getitem__, reverse=True)[:top_k]
        if len(windows) == 1:
            start, end, scores = windows[0]
            points = [(start, scores), (end, scores)]
        else:
            points = [((start + end) / 2, scores) for start, end, scores in windows]
        return [
            {"seconds": round(at, 3), "label": label, "score": scores[label]}
            for at, scores in points
            for label in labels
        ]


class Rebuilding:
    """What a pre-training model rebuilds of a clip that is hidden for the most part."""

    def __init__(self, model: str, device: torch.device, *, errors: str = "strict"):
        self.errors = errors
        self.config = open_config(model, "--pretrained", kind="ForPreTraining")
        self.model = open_pretrained(model).to(device)
        self.processor = open_processor(model, self.config)

    def __call__(self, video: str, *, mask: str, mask_ratio: float, statistics: str, seed: int = 0) -> Drawn:
        clip = read_clip(video, self.processor, self.config, errors=self.errors)
        reconstruction = rebuilt_clip(self.model, clip, mask=mask, mask_ratio=mask_ratio, seed=seed)
        rows, notes = reconstruction_views(reconstruction, [statistics])
        hidden = f"{int(reconstruction.hidden.sum())} of {len(reconstruction.hidden)} tokens are hidden."
        return Drawn.of(rows, [hidden, *notes], clip.seconds, clip.frame_seconds)


class Attention:
    """Where an encoder looks, layer by layer; it shares the weights of the model that it belongs to."""

    def __init__(self, encoder: VideoMAEModel, processor: VideoMAEVideoProcessor, *, errors: str = "strict"):
        self.encoder, self.processor, self.config, self.errors = encoder, processor, encoder.config, errors

    def __call__(self, video: str, *, layer: int, head: int | str = MEAN) -> Drawn:
        clip = read_clip(video, self.processor, self.config, errors=self.errors)
        rows, notes, _ = attention_views(self.encoder, clip, layers=[layer], heads=[head])
        return Drawn.of(rows, notes, clip.seconds, clip.frame_seconds)


class Actions:
    """Who does what, when and where; persons from a detector, or the whole frame as one."""

    def __init__(
        self,
        model: str,
        device: torch.device,
        person_detector: str | None = None,
        *,
        names: str | None = None,
        errors: str = "strict",
    ):
        self.errors = errors
        config = open_config(model, "--action_detector", kind="ForActionDetection")
        if person_detector:
            check_name(person_detector, "--person_detector")
        self.model = VideoMAEForActionDetection.from_pretrained(model)
        self.processor = open_processor(model, config)
        self.note = name_outputs(self.model, names)
        self.persons = person_detector
        self.pipe = VideoActionDetectionPipeline(model=self.model, detector=person_detector, device=device)

    def __call__(
        self,
        video: str,
        overlay: Path,
        *,
        action_score: float = 0.3,
        top_k: int = 3,
        every_seconds: float = 1.0,
        progress: Callable[[float], None] = lambda share: None,
    ) -> list[list[Any]]:
        """Write the video with boxes to `overlay`; rows of second, person, action and score."""
        info = probe(video, errors=self.errors)
        key_frames = []
        for key_frame in self.pipe.stream(
            video,
            boxes=None if self.persons else WHOLE_FRAME,
            every_seconds=every_seconds,
            action_score=action_score,
            top_k=top_k,
            errors=self.errors,
        ):
            key_frames.append(key_frame)
            progress(min(key_frame["seconds"] / info.duration_seconds, 1.0) if info.duration_seconds else 1.0)
        draw_overlay(Path(video), overlay, key_frames, info, reach=every_seconds, errors=self.errors)
        return [
            [round(key_frame["seconds"], 2), number + 1, action["label"], round(action["score"], 3)]
            for key_frame in key_frames
            for number, person in enumerate(key_frame["persons"])
            for action in person["actions"]
        ]


def make_examples(folder: Path) -> list[str]:
    """Three drawn clips, each of several motions one after the other, so that labels change over time."""
    spec = SyntheticSet(num_frames=48, height=144, width=192)
    paths = []
    for number, order in enumerate(((0, 4, 3), (6, 1, 5), (2, 7, 0))):
        frames = [
            frame
            for place, motion in enumerate(order)
            for frame in render_clip(MOTIONS[motion], spec, seed=(number, place))
        ]
        path = folder / f"{', '.join(MOTIONS[motion] for motion in order)}.mp4"
        path.write_bytes(encode_video(frames, spec.fps, options={"preset": "veryfast", "crf": "20"}))
        paths.append(str(path))
    return paths
