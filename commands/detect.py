"""Who does what, when and where in a video: `videomae detect VIDEO --model FOLDER --person_detector NAME`.

Writes a folder with actions.json (everything), actions.csv (the format of the AVA challenge) and overlay.mp4 (the video
with boxes and actions drawn in). Persons are found by --person_detector, stand in a file of --boxes (a .json of seconds
and boxes, an AVA .csv, a COCO .json or a .pkl of proposals; docs/detection.md shows them), or are the --whole_frame.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

from videomae.command_line import REQUIRED, UsageError, argument, errors_option, option, read_options


@dataclass(frozen=True, kw_only=True)
class Options:
    video: str = argument("the video file", kind="file")
    errors: str = errors_option("machine")
    model: str = option(REQUIRED, "models", "an action detector: a folder or a name on the Hub", kind="model")
    actions: str | None = option(
        None, "models", "a list of action names, where the model has none (pbtxt or NUMBER: NAME)", kind="file"
    )
    person_detector: str | None = option(
        None, "persons", "a transformers object-detection model that finds the persons", kind="model"
    )
    boxes: str | None = option(None, "persons", "a file with the persons", kind="file")
    whole_frame: bool = option(False, "persons", "take the whole frame for one person")
    person_score: float | None = option(None, "persons", "smallest score of a person [that of the model's release]")
    every_seconds: float = option(1.0, "persons", "distance of key frames, without --boxes", above=0)

    action_score: float = option(0.3, "results", "smallest score of an action that is listed")
    top_k: int = option(5, "results", "most actions of a person", least=1)
    output: str | None = option(
        None, "results", "folder for the results [VIDEO-actions in this folder]", metavar="FOLDER"
    )
    no_overlay: bool = option(False, "results", "leave the drawn video out")

    batch_size: int = option(1, "machine", "clips (key frames) in one forward pass", least=1)
    device: str | None = option(None, "machine", "such as cpu or cuda [what there is]", metavar="DEVICE")
    threads: int = option(2, "machine", "threads that decode", least=1)

    def __post_init__(self):
        if bool(self.person_detector) + bool(self.boxes) + self.whole_frame != 1:
            raise UsageError("give one of --person_detector, --boxes and --whole_frame: where the persons come from")


def main(argv: list[str] | None = None) -> int:
    options = read_options(Options, argv, command="detect", about=__doc__)
    from transformers.utils import logging as transformers_logging

    from videomae.files import check_output
    from videomae.inference.actions import find_actions, numbers_of, persons_of, write_actions
    from videomae.modeling_videomae_detection import VideoMAEForActionDetection
    from videomae.models import open_config, open_device
    from videomae.pictures.overlay import check_encoder
    from videomae.pipeline_videomae_detection import WHOLE_FRAME, VideoActionDetectionPipeline
    from videomae.training.detectors import name_outputs
    from videomae.video_io import probe

    video = Path(options.video)
    info = probe(video, errors=options.errors)
    folder = Path(options.output or f"{video.stem}-actions")
    check_output(folder)
    if not options.no_overlay:
        check_encoder()
    device = open_device(options.device)
    boxes = WHOLE_FRAME if options.whole_frame else persons_of(options.boxes, video.stem) if options.boxes else None
    open_config(options.model, kind="ForActionDetection")
    transformers_logging.disable_progress_bar()
    model = VideoMAEForActionDetection.from_pretrained(options.model).eval()
    if note := name_outputs(model, options.actions):
        print(note, file=sys.stderr)
    numbers_of(model.config.id2label)
    key_frames = find_actions(
        VideoActionDetectionPipeline(model=model, detector=options.person_detector, device=device),
        video,
        info,
        boxes=boxes,
        every_seconds=options.every_seconds,
        person_score=options.person_score,
        action_score=options.action_score,
        top_k=options.top_k,
        clips_per_batch=options.batch_size,
        threads=options.threads,
        errors=options.errors,
    )
    written = write_actions(
        folder,
        video,
        info,
        key_frames,
        facts={"model": options.model, "persons": options.person_detector or options.boxes or "the whole frame"},
        id2label=model.config.id2label,
        overlay=not options.no_overlay,
        reach=None if options.boxes else options.every_seconds,
        threads=options.threads,
        errors=options.errors,
    )
    persons = sum(len(key_frame["persons"]) for key_frame in key_frames)
    actions = sum(len(person["actions"]) for key_frame in key_frames for person in key_frame["persons"])
    print(f"{len(key_frames)} key frames, {persons} persons, {actions} actions: {folder}/ has {', '.join(written)}")
    return 0
