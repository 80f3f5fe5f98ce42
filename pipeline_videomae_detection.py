"""Who does what, when and where in a video: persons from a file or a detector, actions from the model.

The video is read once from front to back; around every key frame the frames of the model's clip are kept, scaled down,
and nothing else, so an hour needs no more memory than a minute. Files, pictures and the command line are
commands/detect.py's work.
"""

# T frames of a clip  C channels  H W pixels | n persons of a key frame  L actions

import csv
import inspect
import itertools
import json
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from transformers import pipeline as transformers_pipeline
from transformers.pipelines.base import ChunkPipeline

from .image_processing_videomae import rescale_and_normalize, resize
from .modeling_videomae_detection import action_scores, check_boxes
from .roi_align_videomae import scale_boxes, scaled_size
from .sampling_videomae import key_frame_offsets
from .video_io import Limits, iter_windows, probe

# The score from which each release took a detected person seriously.
PERSON_SCORE = {"videomae": 0.8, "mmaction2": 0.9}
WHOLE_FRAME = "whole_frame"


@dataclass
class KeyFrameClip:
    """A key frame whose clip is being read: the frames so far, and the picture in which persons are detected."""

    seconds: float
    targets: list[float]  # times of the clip's frames, in order
    frames: list[torch.Tensor] = field(default_factory=list)  # (C, h, w) uint8, scaled; one per target so far
    picture: np.ndarray | None = None  # (H, W, 3), the frame nearest to the key frame
    index: int = -1  # and its number in the file

    @property
    def key_picture(self) -> np.ndarray:
        """`picture`, of a clip that is complete."""
        assert self.picture is not None
        return self.picture


class VideoActionDetectionPipeline(ChunkPipeline):
    """Actions of every person in a video.

        pipe = VideoActionDetectionPipeline(model=model, detector="PekingU/rtdetr_r18vd")
        pipe("video.mp4", every_seconds=1.0)
        pipe("video.mp4", boxes={2.0: [[10, 20, 110, 220]], 3.0: [[12, 20, 112, 220]]})
        for key_frame in pipe.stream("long.mp4"): ...

    A result has one dict per key frame: `seconds`, `frame` (its number in the file), `width`, `height`, and `persons`,
    each with `box` (xmin, ymin, xmax, ymax in pixels of the video), `score` of the person, and `actions`, a list of
    `label` and `score`, best first. Models of the family "videomae" have the person's score multiplied into those of
    the actions, as their release has it; boxes without a score count as certain.

    detector: finds the persons: the name or folder of a transformers object-detection model, an object-detection
        pipeline, or any function from a PIL image to the list that such a pipeline returns.
    boxes: the persons instead: a mapping from seconds to rows of x1, y1, x2, y2[, score] in pixels (or all as shares
        of the frame), the path of a .json or .csv file (`read_boxes`), or "whole_frame" for one person that fills it.
    every_seconds: distance of key frames where `boxes` does not say them.
    person_score: smallest score of a detected person (by default that of the model's family).
    action_score, top_k: which actions are listed.
    clips_per_batch: key frames that go through the model together.
    """

    model: Any

    _load_processor = False
    _load_image_processor = False
    _load_video_processor = False
    _load_feature_extractor = False
    _load_tokenizer = False

    def __init__(self, *args, detector: Any = None, **kwargs):
        self.detector = detector
        kwargs.setdefault("task", "video-action-detection")
        super().__init__(*args, **kwargs)
        if "boxes" not in inspect.signature(self.model.forward).parameters:
            raise ValueError(
                f"{type(self.model).__name__} is not an action detector; load a VideoMAEForActionDetection, or use "
                "pipeline('video-classification') for a classifier"
            )
        self.model.eval()  # a model in training neither widens boxes nor keeps every path

    def _sanitize_parameters(self, **kwargs):
        def chosen(*names):
            return {name: kwargs[name] for name in names if kwargs.get(name) is not None}

        preprocess = chosen(
            "boxes", "detector", "every_seconds", "person_score", "clips_per_batch", "errors", "limits", "threads"
        )
        return preprocess, {}, chosen("action_score", "top_k")

    def stream(self, video, **options) -> Iterator[dict[str, Any]]:
        """The results of a video one by one, each as soon as its clip has been read; takes the options of a call."""
        preprocess, forward, postprocess = self._sanitize_parameters(**options)
        preprocess = {**self._preprocess_params, **preprocess}
        postprocess = {**self._postprocess_params, **postprocess}
        for inputs in self.preprocess(video, **preprocess):
            yield from self.postprocess([self.forward(inputs, **forward)], **postprocess)

    # As in transformers' own pipelines, the parameters of these say what they are.
    def preprocess(  # pyright: ignore[reportIncompatibleMethodOverride]  # see above
        self,
        video,
        boxes: Mapping[float, Any] | str | os.PathLike | None = None,
        detector: Any = None,
        every_seconds: float = 1.0,
        person_score: float | None = None,
        clips_per_batch: int = 1,
        errors: str = "strict",
        limits: Limits | None = None,
        threads: int = 1,
    ) -> Iterator[dict[str, Any]]:
        config = self.model.config
        for name, value in (("every_seconds", every_seconds), ("clips_per_batch", clips_per_batch)):
            if not value > 0:
                raise ValueError(f"{name} must be positive, not {value!r}")
        key_times, find = self._persons(
            video, boxes, detector or self.detector, every_seconds, person_score, errors=errors, limits=limits
        )
        clips = key_frame_clips(
            video,
            key_times,
            offsets=key_frame_offsets(
                config.num_frames, config.detection_stride_frames, family=config.detection_family
            ),
            rate=config.detection_frame_rate,
            short_side=config.detection_short_side,
            rounded=config.detection_family == "mmaction2",
            errors=errors,
            limits=limits,
            threads=threads,
        )
        batch: list[tuple[KeyFrameClip, torch.Tensor]] = []
        ready = None  # held back by one, since the last chunk must say that it is the last
        for clip in clips:
            batch.append((clip, find(clip)))
            if len(batch) == clips_per_batch:
                if ready is not None:
                    yield {"is_last": False, **ready}
                ready, batch = self._inputs(batch), []
        if batch or ready is None:
            if ready is not None:
                yield {"is_last": False, **ready}
            ready = self._inputs(batch)
        yield {"is_last": True, **ready}

    def _persons(
        self, video, boxes, detector, every_seconds: float, person_score: float | None, **reading
    ) -> tuple[Iterator[float], Callable[[KeyFrameClip], torch.Tensor]]:
        """The times of the key frames, and what gives the persons (n, 5) of one."""
        regular = (number * every_seconds for number in itertools.count())
        if isinstance(boxes, str) and boxes == WHOLE_FRAME:
            return regular, whole_frame
        if boxes is not None:
            known = boxes if isinstance(boxes, Mapping) else read_boxes(boxes)
            known = {float(seconds): rows for seconds, rows in known.items()}
            info = probe(video, **reading)
            for seconds, rows in known.items():  # all of them before the first frame is decoded
                if not 0 <= seconds <= info.duration_seconds:
                    raise ValueError(
                        f"boxes has a key frame at {seconds:g} s, outside the video, which lasts {info.duration_seconds:g} s"
                    )
                persons = known_boxes(rows, seconds, info.height, info.width)
                check_boxes(persons[:, :4], info.height, info.width, f"persons at {seconds:g} s")
            return iter(sorted(known)), lambda clip: known_boxes(
                known[clip.seconds], clip.seconds, *clip.key_picture.shape[:2]
            )
        if detector is None:
            raise ValueError(
                "there are no persons to look at: pass boxes (a mapping or a file), a detector (a transformers "
                f"object-detection model), or boxes={WHOLE_FRAME!r}"
            )
        look = person_finder(detector, self.device)
        least = PERSON_SCORE[self.model.config.detection_family] if person_score is None else person_score
        return regular, lambda clip: look(clip.key_picture, least)

    def _inputs(self, batch: list[tuple[KeyFrameClip, torch.Tensor]]) -> dict[str, Any]:
        """Model input of some key frames; only those with persons have pixels."""
        mean, std = self.model.config.pixel_statistics
        key_frames, clips, boxes = [], [], []
        for clip, persons in batch:
            height, width = clip.key_picture.shape[:2]
            check_boxes(persons[:, :4], height, width, f"persons at {clip.seconds:g} s")
            key_frames.append(
                {
                    "seconds": clip.seconds,
                    "frame": clip.index,
                    "width": width,
                    "height": height,
                    "persons": persons.tolist(),
                }
            )
            if len(persons):
                frames = torch.stack(clip.frames)
                shares = persons[:, :4] / persons.new_tensor([width, height, width, height])
                inclusive = self.model.config.detection_family == "videomae"
                clips.append(frames)
                boxes.append(
                    scale_boxes(shares, (height, width), (frames.shape[-2], frames.shape[-1]), inclusive=inclusive)
                )
        pixels = rescale_and_normalize(torch.stack(clips), mean, std).to(self.dtype) if clips else None
        return {"pixel_values": pixels, "boxes": boxes, "key_frames": key_frames}

    def _forward(self, inputs):  # pyright: ignore[reportIncompatibleMethodOverride]  # see preprocess
        scores = None
        if inputs["pixel_values"] is not None:
            logits = self.model(inputs["pixel_values"], inputs["boxes"]).logits
            persons = [row[4] for key_frame in inputs["key_frames"] for row in key_frame["persons"]]
            scores = action_scores(logits, torch.tensor(persons), self.model.config.detection_family)
        return {"is_last": inputs["is_last"], "scores": scores, "key_frames": inputs["key_frames"]}

    def postprocess(  # pyright: ignore[reportIncompatibleMethodOverride]  # see preprocess
        self, outputs, action_score: float = 0.0, top_k: int = 5
    ) -> list[dict[str, Any]]:
        names = self.model.config.id2label
        results = []
        for output in outputs:
            rows = iter([] if output["scores"] is None else output["scores"].tolist())
            for key_frame in output["key_frames"]:
                persons = []
                for x1, y1, x2, y2, score in key_frame["persons"]:
                    scores = next(rows)
                    best = sorted(range(len(scores)), key=scores.__getitem__, reverse=True)[:top_k]
                    persons.append(
                        {
                            "box": {"xmin": x1, "ymin": y1, "xmax": x2, "ymax": y2},
                            "score": score,
                            "actions": [
                                {"label": names[action], "score": scores[action]}
                                for action in best
                                if scores[action] >= action_score
                            ],
                        }
                    )
                results.append({**key_frame, "persons": persons})
        return results


# ---------------------------------------------------------------------------------------------------------- reading


def key_frame_clips(
    video,
    key_times: Iterator[float],
    *,
    offsets: Sequence[int],
    rate: float | None,
    short_side: int,
    rounded: bool = False,
    errors: str = "strict",
    limits: Limits | None = None,
    threads: int = 1,
) -> Iterator[KeyFrameClip]:
    """The clips around rising key times, from one decode, each as soon as its last frame has been read.

    Offsets count frames at `rate` a second (None: the video's own, taken as even); of the video the nearest frame in
    time is taken, and the first or last one beyond its ends. Key times after the last frame end the iteration. `rounded`
    is the rule of `scaled_size` for the longer side.
    """
    if rate is None:
        rate = probe(video, errors=errors, limits=limits).fps
    shifts = [offset / rate for offset in offsets]
    reach = max(-min(shifts), 0.0)
    waiting: list[KeyFrameClip] = []
    next_key = next(key_times, None)
    before: _Frame | None = None
    windows = iter_windows(
        video, num_frames=1, stride_frames=1, hop_frames=1, errors=errors, limits=limits, threads=threads
    )
    for window in windows:
        frame = _Frame(window.frames[0], window.start_seconds, window.first_frame, short_side, rounded)
        while next_key is not None and next_key - reach <= frame.seconds:
            waiting.append(KeyFrameClip(next_key, [max(next_key + shift, 0.0) for shift in shifts]))
            next_key = next(key_times, None)
        for clip in waiting:
            _take(clip, before, frame)
        while waiting and len(waiting[0].frames) == len(shifts) and waiting[0].picture is not None:
            yield waiting.pop(0)
        before = frame
    if before is None:
        return
    last = before.seconds + 1e-3
    for clip in waiting:
        if clip.seconds <= last or clip.picture is not None:
            if clip.picture is None:
                clip.picture, clip.index = before.picture, before.index
            clip.frames += [before.scaled] * (len(shifts) - len(clip.frames))
            yield clip


class _Frame:
    """A decoded frame, scaled only when a clip wants it."""

    def __init__(self, picture: np.ndarray, seconds: float, index: int, short_side: int, rounded: bool):
        self.picture, self.seconds, self.index = picture, seconds, index
        self._size = scaled_size(picture.shape[0], picture.shape[1], short_side, rounded=rounded)
        self._scaled: torch.Tensor | None = None

    @property
    def scaled(self) -> torch.Tensor:
        if self._scaled is None:
            frame = torch.from_numpy(np.ascontiguousarray(self.picture)).permute(2, 0, 1)[None]
            self._scaled = resize(frame, *self._size, antialias=False)[0].clone()
        return self._scaled


def _take(clip: KeyFrameClip, before: _Frame | None, frame: _Frame) -> None:
    """Give a clip what the times between two frames in a row decide."""

    def nearer(seconds: float) -> _Frame:
        if before is not None and seconds - before.seconds < frame.seconds - seconds:
            return before
        return frame

    while len(clip.frames) < len(clip.targets) and clip.targets[len(clip.frames)] <= frame.seconds:
        clip.frames.append(nearer(clip.targets[len(clip.frames)]).scaled)
    if clip.picture is None and clip.seconds <= frame.seconds:
        chosen = nearer(clip.seconds)
        clip.picture, clip.index = chosen.picture, chosen.index


# ---------------------------------------------------------------------------------------------------------- persons


def person_finder(detector: Any, device: torch.device) -> Callable[[np.ndarray, float], torch.Tensor]:
    """A function from a picture (H, W, 3) and a score to (n, 5) persons, best first."""
    if isinstance(detector, (str, os.PathLike)):
        detector = transformers_pipeline("object-detection", model=str(detector), device=device)
    if not callable(detector):
        raise TypeError(
            f"detector must be the name of an object-detection model, a pipeline or a function, not {type(detector).__name__}"
        )
    names = getattr(getattr(getattr(detector, "model", None), "config", None), "id2label", None)
    if names and not any(name.lower() in ("person", "human", "people") for name in names.values()):
        some = ", ".join(list(names.values())[:5])
        raise ValueError(
            f"the detector has no class 'person' (it has {some}, ...); use a model trained on COCO or the like"
        )

    def find(picture: np.ndarray, score: float) -> torch.Tensor:
        height, width = picture.shape[:2]
        found = []
        for item in cast(Any, detector)(Image.fromarray(picture)):
            if str(item["label"]).lower() not in ("person", "human", "people") or item["score"] < score:
                continue
            box = item["box"]
            x1, x2 = (min(max(float(box[side]), 0.0), float(width)) for side in ("xmin", "xmax"))
            y1, y2 = (min(max(float(box[side]), 0.0), float(height)) for side in ("ymin", "ymax"))
            if x2 > x1 and y2 > y1:
                found.append((x1, y1, x2, y2, float(item["score"])))
        found.sort(key=lambda row: -row[4])
        return torch.tensor(found).reshape(-1, 5)

    return find


def whole_frame(clip: KeyFrameClip) -> torch.Tensor:
    height, width = clip.key_picture.shape[:2]
    return torch.tensor([[0.0, 0.0, float(width), float(height), 1.0]])


def known_boxes(rows: Any, seconds: float, height: int, width: int) -> torch.Tensor:
    """Given boxes as (n, 5) pixels; shares of the frame are recognised when all of them are at most 1.

    Rows without a score may stand beside rows with one, and count as certain.
    """
    try:
        parts = [torch.as_tensor(row, dtype=torch.float32).reshape(-1) for row in rows]
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"boxes at {seconds:g} s are not rows of x1, y1, x2, y2[, score]: {rows!r}") from None
    for part in parts:
        if len(part) not in (4, 5):
            raise ValueError(f"boxes at {seconds:g} s have {len(part)} values a row; give x1, y1, x2, y2[, score]")
    whole = [torch.cat([part, part.new_ones(5 - len(part))]) for part in parts]
    boxes = torch.stack(whole) if whole else torch.zeros(0, 5)
    wrong = ~((boxes[:, 4] >= 0) & (boxes[:, 4] <= 1.001))
    if wrong.any():
        score = float(boxes[wrong][0, 4])
        raise ValueError(f"boxes at {seconds:g} s: a person has score {score:g}; scores are between 0 and 1")
    if len(boxes) and boxes[:, :4].max() <= 1.0:
        boxes[:, :4] *= torch.tensor([width, height, width, height], dtype=torch.float32)
    return boxes


def read_boxes(path: str | os.PathLike) -> dict[float, list[list[float]]]:
    """Persons of one video from a file: seconds -> rows of x1, y1, x2, y2, score.

    .json   {"2.0": [[x1, y1, x2, y2], ...], ...}, a list of {"seconds", "boxes"}, or what this pipeline returns
    .csv    AVA's `video_id,timestamp,x1,y1,x2,y2[,label][,score]`, of a single video
    """
    suffix = Path(path).suffix.lower()
    if suffix == ".json":
        return _boxes_from_json(path)
    if suffix == ".csv":
        return _boxes_from_csv(path)
    raise ValueError(f"cannot tell the format of boxes from {path}; give a .json or .csv file")


def _boxes_from_json(path: str | os.PathLike) -> dict[float, list[list[float]]]:
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error})") from None
    if isinstance(content, dict):
        content = content.get("key_frames", content)
    entries = content.items() if isinstance(content, dict) else enumerate(content if isinstance(content, list) else [])
    boxes: dict[float, list[list[float]]] = {}
    key: Any = None
    try:
        for key, entry in entries:
            if isinstance(content, dict):
                boxes[float(key)] = [[float(value) for value in row] for row in entry]
            elif "persons" in entry:
                rows = [
                    [person["box"][side] for side in ("xmin", "ymin", "xmax", "ymax")] for person in entry["persons"]
                ]
                scores = [person.get("score", 1.0) for person in entry["persons"]]
                boxes[float(entry["seconds"])] = [[*map(float, row), score] for row, score in zip(rows, scores)]
            else:
                boxes[float(entry["seconds"])] = [[float(value) for value in row] for row in entry["boxes"]]
    except (KeyError, TypeError, ValueError, AttributeError):
        raise ValueError(
            f"{path}: entry {key!r} is not understood; expected seconds with rows of x1, y1, x2, y2[, score]"
        ) from None
    if not boxes:
        raise ValueError(f"{path} holds no key frame")
    return boxes


def _boxes_from_csv(path: str | os.PathLike) -> dict[float, list[list[float]]]:
    found: dict[float, dict[tuple[float, ...], float]] = {}
    videos = set()
    with open(path, newline="", encoding="utf-8-sig") as file:
        rows = [(number, row) for number, row in enumerate(csv.reader(file), start=1) if any(map(str.strip, row))]
    if rows and len(rows[0][1]) > 1 and rows[0][1][0].strip().lower() in ("video_id", "video"):
        del rows[0]
    # Whole numbers alone at the end are the persons or the actions of annotations, not scores.
    scored = not all(re.fullmatch(r"-?\d*", row[-1].strip()) for _, row in rows if len(row) > 6)
    for number, row in rows:
        try:
            if len(row) not in (6, 7, 8):
                raise ValueError
            seconds, *box = (float(cell) for cell in row[1:6])
            score = float(row[-1]) if scored and len(row) > 6 else 1.0
            if not all(map(math.isfinite, (seconds, *box, score))):
                raise ValueError
        except ValueError:
            raise ValueError(
                f"{path} line {number} is not video_id,timestamp,x1,y1,x2,y2[,label][,score]: {','.join(row)}"
            ) from None
        videos.add(row[0])
        scores = found.setdefault(seconds, {})  # files repeat a box for each of its actions
        scores[tuple(box)] = max(score, scores.get(tuple(box), score))
    if len(videos) > 1:
        raise ValueError(f"{path} holds boxes of {len(videos)} videos ({', '.join(sorted(videos)[:3])}, ...); keep one")
    if not found:
        raise ValueError(f"{path} holds no box")
    return {seconds: [[*box, score] for box, score in scores.items()] for seconds, scores in found.items()}


__all__ = ["VideoActionDetectionPipeline"]
