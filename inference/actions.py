"""Who does what in a whole video, as files: actions.json, actions.csv and overlay.mp4.

Finding actions is pipeline_videomae_detection.py's work, drawing them that of pictures/overlay.py. The video is read
twice from front to back, once to detect and once to draw; neither pass holds more than a few seconds of it.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from videomae.data.ava.annotations import seconds_text
from videomae.data.ava.proposals import read_proposals
from videomae.files import new_file, write_json
from videomae.pictures.overlay import draw_overlay
from videomae.pipeline_videomae_detection import VideoActionDetectionPipeline, read_boxes
from videomae.video_io import VideoInfo


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


def find_actions(
    pipe: VideoActionDetectionPipeline, video: Path, info: VideoInfo, **options: Any
) -> list[dict[str, Any]]:
    """The key frames of a video with persons and actions, in order; `options` are those of the pipeline's `stream`."""
    key_frames = []
    with tqdm(total=round(info.duration_seconds), unit="s", desc="detecting", file=sys.stderr) as bar:
        for key_frame in pipe.stream(str(video), **options):
            key_frames.append(key_frame)
            bar.update(int(key_frame["seconds"]) - bar.n)
        bar.update(bar.total - bar.n)
    return key_frames


def write_actions(
    folder: Path,
    video: Path,
    info: VideoInfo,
    key_frames: list[dict[str, Any]],
    *,
    facts: Mapping[str, Any],
    id2label: Mapping[int, str],
    overlay: bool = True,
    reach: float | None = None,
    threads: int = 2,
    errors: str = "strict",
) -> list[str]:
    """Write what was found into a folder; returns the names of the files.

    facts: what actions.json says beside the key frames. reach: seconds for which a key frame is drawn.
    """
    numbers = numbers_of(id2label)
    size = {"width": info.width, "height": info.height}
    write_json(folder / "actions.json", {"video": video.name, **facts, **size, "key_frames": key_frames})
    write_csv(folder / "actions.csv", video.stem, key_frames, numbers)
    if not overlay:
        return ["actions.json", "actions.csv"]
    draw_overlay(video, folder / "overlay.mp4", key_frames, info, reach=reach, threads=threads, errors=errors)
    return ["actions.json", "actions.csv", "overlay.mp4"]


def numbers_of(id2label: Mapping[int, str]) -> dict[str, int]:
    """The output of each action by its name, as actions.csv needs it; two of one name are an error."""
    numbers: dict[str, int] = {}
    for number, name in id2label.items():
        if name in numbers:
            raise ValueError(
                f"outputs {numbers[name]} and {number} of the model are both called {name!r}, and actions.csv could not "
                "tell them apart; --actions FILE gives them other names"
            )
        numbers[name] = number
    return numbers


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
