"""Who does what, when and where in a video: `videomae detect VIDEO --model FOLDER --detector NAME`.

Writes a folder with actions.json (everything), actions.csv (the format of the AVA challenge) and overlay.mp4 (the video
with boxes and actions drawn in). The video is read twice from front to back, once to detect and once to draw; neither
pass holds more than a few seconds of it. Finding actions is pipeline_videomae_detection.py's work.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm
from transformers.utils import logging as transformers_logging

from videomae.data.ava.annotations import seconds_text
from videomae.data.ava.proposals import read_proposals
from videomae.files import check_output, new_file, write_json
from videomae.modeling_videomae_detection import VideoMAEForActionDetection
from videomae.models import check_name, open_config, open_device
from videomae.pictures.overlay import draw_overlay
from videomae.pipeline_videomae_detection import WHOLE_FRAME, VideoActionDetectionPipeline, read_boxes
from videomae.training.detectors import name_outputs
from videomae.video_io import probe


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
