"""Boxes and actions drawn into a video."""

import itertools
import sys
from collections.abc import Generator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from tqdm.auto import tqdm

from videomae.files import new_file
from videomae.video_io import VideoInfo, iter_windows

# One colour per person of a key frame, told apart also in grey.
COLOURS = ((255, 196, 0), (0, 190, 255), (255, 96, 120), (120, 220, 90), (200, 140, 255), (255, 150, 60))


CLOCK = 90000  # ticks a second of the overlay: frames keep the times that they have in the video


def check_encoder() -> None:
    """Refuse a PyAV that cannot write the overlay, before the work."""
    if "libx264" not in av.codecs_available:
        raise ValueError(
            "this PyAV cannot write H.264 (it has no libx264): pip install -U av, or leave the overlay out"
        )


def draw_overlay(
    video: Path,
    path: Path,
    results: list[dict[str, Any]],
    info: VideoInfo,
    *,
    reach: float | None = None,
    threads: int = 2,
    errors: str = "strict",
) -> None:
    """Write the video with each key frame's persons drawn into the frames nearest to it.

    `reach` is the distance of key frames: no frame shows persons from further away than half of it. Without it, where
    key frames come from a file, it is the usual distance between them.
    """
    if reach is None:
        gaps = [later["seconds"] - earlier["seconds"] for earlier, later in itertools.pairwise(results)]
        reach = float(np.median(gaps)) if gaps else 1.0
    windows = iter_windows(video, num_frames=1, stride_frames=1, hop_frames=1, threads=threads, errors=errors)
    # H.264 wants even sides: an odd row or column at the end is left out.
    width, height = info.width // 2 * 2, info.height // 2 * 2
    font = ImageFont.load_default(size=max(10, round(height / 30)))
    nearest = _nearest_result(results, reach / 2 + 0.5 / info.fps)
    next(nearest)
    bar = tqdm(total=round(info.duration_seconds), unit="s", desc="drawing", file=sys.stderr)
    with bar, new_file(path) as beside, av.open(str(beside), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(info.fps).limit_denominator(1001))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"preset": "veryfast", "crf": "20"}
        stream.codec_context.thread_count = threads
        stream.codec_context.time_base = Fraction(1, CLOCK)
        for window in windows:
            picture = np.ascontiguousarray(window.frames[0][:height, :width])
            key_frame = nearest.send(window.start_seconds)
            if key_frame is not None and key_frame["persons"]:
                picture = np.asarray(draw_persons(Image.fromarray(picture), key_frame["persons"], font))
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = round(window.start_seconds * CLOCK), Fraction(1, CLOCK)
            container.mux(stream.encode(frame))
            bar.update(int(window.start_seconds) - bar.n)
        container.mux(stream.encode(None))
        bar.update(bar.total - bar.n)


def _nearest_result(results: list[dict[str, Any]], reach: float) -> Generator[dict[str, Any] | None, float, None]:
    """Send rising times, get the key frame nearest to each, or None where all are further than `reach`."""
    place, answer = 0, None
    while True:
        seconds = yield answer
        while place + 1 < len(results) and abs(results[place + 1]["seconds"] - seconds) < abs(
            results[place]["seconds"] - seconds
        ):
            place += 1
        near = bool(results) and abs(results[place]["seconds"] - seconds) <= reach
        answer = results[place] if near else None


def draw_persons(picture: Image.Image, persons: list[dict[str, Any]], font) -> Image.Image:
    """Boxes, and beside each its actions on a plate of the same colour, inside the picture and off other plates."""
    draw = ImageDraw.Draw(picture)
    line = max(2, round(picture.height / 240))
    pad = max(2, line)
    for number, person in enumerate(persons):
        box, colour = person["box"], COLOURS[number % len(COLOURS)]
        draw.rectangle((box["xmin"], box["ymin"], box["xmax"], box["ymax"]), outline=colour, width=line)
    plates: list[tuple[float, float, float, float]] = []
    for number, person in enumerate(persons):
        if not person["actions"]:
            continue
        text = "\n".join(f"{action['label']} {action['score']:.2f}" for action in person["actions"])
        left, top, right, bottom = draw.multiline_textbbox((0, 0), text, font=font, spacing=pad)
        width, height = right - left + 2 * pad, bottom - top + 2 * pad
        x, y = _place_plate(person["box"], width, height, picture.size, plates)
        plates.append((x, y, x + width, y + height))
        colour = COLOURS[number % len(COLOURS)]
        draw.rectangle((x, y, x + width, y + height), fill=colour)
        draw.multiline_text((x + pad - left, y + pad - top), text, font=font, fill=(0, 0, 0), spacing=pad)
    return picture


def _place_plate(
    box: dict[str, float],
    width: float,
    height: float,
    size: tuple[int, int],
    plates: list[tuple[float, float, float, float]],
) -> tuple[float, float]:
    """Where a plate goes: above its box, below it or inside, the first of these that fits and hides no other plate."""
    x = min(max(box["xmin"], 0), max(size[0] - width, 0))
    inside = [(x, box["ymin"] - height), (x, box["ymax"]), (x, box["ymin"]), (x, box["ymax"] - height)]
    inside = [(x, min(max(y, 0), max(size[1] - height, 0))) for x, y in inside]

    def hidden(place: tuple[float, float]) -> float:
        return sum(
            max(0.0, min(place[0] + width, x2) - max(place[0], x1))
            * max(0.0, min(place[1] + height, y2) - max(place[1], y1))
            for x1, y1, x2, y2 in plates
        )

    return min(inside, key=hidden)
