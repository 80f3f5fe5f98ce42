"""Who does what, when and where in a video: `videomae detect VIDEO --model FOLDER --detector NAME`.

Writes a folder with actions.json (everything), actions.csv (the format of the AVA challenge) and overlay.mp4 (the video
with boxes and actions drawn in). The video is read twice from front to back, once to detect and once to draw; neither
pass holds more than a few seconds of it. Finding actions is pipeline_videomae_detection.py's work.
"""

import argparse
import itertools
import json
import re
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from tqdm.auto import tqdm
from transformers.utils import logging as transformers_logging

from videomae.data.ava import AVA_ACTIONS, read_action_list, read_proposals, seconds_text
from videomae.files import check_output, new_file, write_json
from videomae.model_source import check_name, open_config, open_device
from videomae.modeling_videomae_detection import VideoMAEForActionDetection
from videomae.pipeline_videomae_detection import WHOLE_FRAME, VideoActionDetectionPipeline, read_boxes
from videomae.video_io import VideoInfo, iter_windows, probe

# One colour per person of a key frame, told apart also in grey.
COLOURS = ((255, 196, 0), (0, 190, 255), (255, 96, 120), (120, 220, 90), (200, 140, 255), (255, 150, 60))
CLOCK = 90000  # ticks a second of the overlay: frames keep the times that they have in the video


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="videomae detect",
        description=__doc__.partition("\n\n")[0],
        epilog="Boxes of persons: a .json of seconds and boxes, an AVA .csv, a COCO .json or a .pkl of proposals; "
        "docs/detection.md shows them.",
    )
    made.add_argument("video", help="the video file")
    made.add_argument("--model", required=True, help="an action detector: a folder or a name on the Hub")
    who = made.add_mutually_exclusive_group(required=True)
    who.add_argument("--detector", help="a transformers object-detection model that finds the persons: folder or name")
    who.add_argument("--boxes", help="a file with the persons")
    who.add_argument("--whole_frame", action="store_true", help="take the whole frame for one person")
    made.add_argument("--output", help="folder for the results [VIDEO-actions in this folder]")
    made.add_argument("--every_seconds", type=float, default=1.0, help="distance of key frames, without --boxes [1]")
    made.add_argument("--person_score", type=float, help="smallest score of a person [that of the model's release]")
    made.add_argument(
        "--action_score", type=float, default=0.3, help="smallest score of an action that is listed [0.3]"
    )
    made.add_argument("--top_k", type=int, default=5, help="most actions of a person [5]")
    made.add_argument("--actions", help="a list of action names, where the model has none (pbtxt or NUMBER: NAME)")
    made.add_argument("--no_overlay", action="store_true", help="leave the drawn video out")
    made.add_argument(
        "--clips_per_batch", type=int, default=1, help="key frames that go through the model together [1]"
    )
    made.add_argument("--device", help="such as cpu or cuda [what there is]")
    made.add_argument("--threads", type=int, default=2, help="threads that decode [2]")
    return made


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    video = Path(args.video)
    info = probe(video)
    folder = Path(args.output or f"{video.stem}-actions")
    check_output(folder)
    device = open_device(args.device)
    if args.every_seconds <= 0:
        raise ValueError(f"--every_seconds must be positive, not {args.every_seconds:g}")
    if args.detector:
        check_name(args.detector, "--detector")
    boxes = WHOLE_FRAME if args.whole_frame else persons_of(args.boxes, video.stem) if args.boxes else None
    open_config(args.model, kind="ForActionDetection")
    transformers_logging.disable_progress_bar()
    model = VideoMAEForActionDetection.from_pretrained(args.model).eval()
    note = name_outputs(model, args.actions)
    if note:
        print(note, file=sys.stderr)
    pipe = VideoActionDetectionPipeline(model=model, detector=args.detector, device=device)

    results = []
    found = pipe.stream(
        str(video),
        boxes=boxes,
        every_seconds=args.every_seconds,
        person_score=args.person_score,
        action_score=args.action_score,
        top_k=args.top_k,
        clips_per_batch=args.clips_per_batch,
        threads=args.threads,
    )
    with tqdm(total=round(info.duration_seconds), unit="s", desc="detecting", file=sys.stderr) as bar:
        for key_frame in found:
            results.append(key_frame)
            bar.update(int(key_frame["seconds"]) - bar.n)
        bar.update(bar.total - bar.n)

    record = {
        "video": video.name,
        "model": args.model,
        "persons": args.detector or args.boxes or "the whole frame",
        "width": info.width,
        "height": info.height,
        "key_frames": results,
    }
    write_json(folder / "actions.json", record)
    write_csv(folder / "actions.csv", video.stem, results, model.config.label2id)
    written = ["actions.json", "actions.csv"]
    if not args.no_overlay:
        reach = args.every_seconds if boxes is None or boxes == WHOLE_FRAME else None
        draw_overlay(video, folder / "overlay.mp4", results, info, reach=reach, threads=args.threads)
        written.append("overlay.mp4")
    persons = sum(len(key_frame["persons"]) for key_frame in results)
    actions = sum(len(person["actions"]) for key_frame in results for person in key_frame["persons"])
    print(f"{len(results)} key frames, {persons} persons, {actions} actions: {folder}/ has {', '.join(written)}")
    return 0


def name_outputs(model: VideoMAEForActionDetection, path: str | None) -> str | None:
    """Give the model's outputs names where it has none; a sentence to say if the names are an assumption."""
    config, note = model.config, None
    if path:
        names = read_action_list(path).names
        if max(names) > config.num_labels:
            raise ValueError(f"{path} goes up to action {max(names)}, but the model has {config.num_labels} outputs")
        named = {column: names.get(column + 1, f"action {column + 1}") for column in range(config.num_labels)}
    elif all(re.fullmatch(r"LABEL_\d+", name) for name in config.id2label.values()):
        if config.num_labels != len(AVA_ACTIONS):
            return "the model has no action names; --actions FILE gives them"
        named = dict(enumerate(AVA_ACTIONS))
        note = "the model has no action names and 80 outputs: they are taken for the actions of AVA"
    else:
        return None
    config.id2label, config.label2id = named, {name: column for column, name in named.items()}
    return note


def persons_of(path: str, video_id: str) -> dict[float, list]:
    """Persons of one video from any file: the pipeline's own formats, or proposals of a whole data set."""
    suffix = Path(path).suffix.lower()
    if not Path(path).is_file():
        raise FileNotFoundError(f"--boxes {path}: no such file; docs/detection.md shows the formats")
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8")) if suffix == ".json" else None
    except ValueError as error:
        raise ValueError(f"--boxes {path} is not JSON ({error})") from None
    coco = isinstance(content, dict) and "images" in content
    if suffix not in (".pkl", ".pickle") and not coco:
        return read_boxes(path)
    proposals = read_proposals(path)
    videos = sorted({key.video_id for key in proposals})
    chosen = video_id if video_id in videos else videos[0] if len(videos) == 1 else None
    if chosen is None:
        raise ValueError(
            f"{path} has no boxes of {video_id!r}; it has {len(videos)} videos ({', '.join(videos[:3])}, ...)"
        )
    return {key.seconds: boxes.tolist() for key, boxes in proposals.items() if key.video_id == chosen}


def write_csv(path: Path, video_id: str, results: list[dict[str, Any]], numbers: dict[str, int]) -> None:
    """The rows of the AVA challenge: video_id,timestamp,x1,y1,x2,y2,action_id,score, boxes as shares of the frame."""
    with new_file(path) as beside, open(beside, "w", encoding="utf-8") as file:
        for key_frame in results:
            width, height = key_frame["width"], key_frame["height"]
            for person in key_frame["persons"]:
                box = person["box"]
                shares = (box["xmin"] / width, box["ymin"] / height, box["xmax"] / width, box["ymax"] / height)
                place = ",".join(f"{share:.4f}" for share in shares)
                for action in person["actions"]:
                    number = numbers[action["label"]] + 1
                    seconds = seconds_text(key_frame["seconds"])
                    file.write(f"{video_id},{seconds},{place},{number},{action['score']:.4f}\n")


# ------------------------------------------------------------------------------------------------------------ overlay


def draw_overlay(
    video: Path,
    path: Path,
    results: list[dict[str, Any]],
    info: VideoInfo,
    *,
    reach: float | None = None,
    threads: int = 2,
) -> None:
    """Write the video with each key frame's persons drawn into the frames nearest to it.

    `reach` is the distance of key frames: no frame shows persons from further away than half of it. Without it, where
    key frames come from a file, it is the usual distance between them.
    """
    if reach is None:
        gaps = [later["seconds"] - earlier["seconds"] for earlier, later in itertools.pairwise(results)]
        reach = float(np.median(gaps)) if gaps else 1.0
    windows = iter_windows(video, num_frames=1, stride_frames=1, hop_frames=1, threads=threads)
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


def _nearest_result(results: list[dict[str, Any]], reach: float) -> Iterator[dict[str, Any] | None]:
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


if __name__ == "__main__":
    sys.exit(main())
