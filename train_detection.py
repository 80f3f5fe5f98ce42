"""Train an action detector on AVA, AVA-Kinetics, or data of one's own in the same format; or test one.

    videomae make-ava SET && videomae train-detection --recipe tiny --num_labels 5 \\
        --movies SET/movies --annotations SET/train.csv --val_annotations SET/val.csv --output runs/detect
    accelerate launch train_detection.py --recipe ad-base-k400-finetuned --model videomae-base-finetuned-kinetics \\
        --movies ava/movies --annotations ava_train_v2.2.csv --excluded ava_train_excluded_timestamps_v2.2.csv \\
        --actions ava_action_list_v2.2.pbtxt --output runs/ava --clips_per_device 4
    videomae train-detection --test runs/ava/final --movies ava/movies --val_annotations ava_val_v2.2.csv \\
        --val_excluded ... --val_proposals ... --val_classes ava_action_list_v2.2_for_activitynet_2019.pbtxt

A recipe (training/recipes.py) says what is trained; the options say where. `train` reads downwards: data, model, loop,
and the tests between steps. The step, the files of a run, resuming and interruption are those of train_pretrain.py.
"""

import dataclasses
import shlex
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from videomae.command_line import guarded, plain
from videomae.configuration_videomae import VideoMAEConfig
from videomae.data.ava.annotations import ActionList, read_action_list, read_annotations, read_key_frames
from videomae.data.ava.boxes import DetectionTestTransform, DetectionTrainTransform
from videomae.data.ava.dataset import AvaDataset, collate_detection
from videomae.data.ava.movies import MovieFolder
from videomae.data.ava.proposals import read_proposals
from videomae.files import sha256_of, write_json
from videomae.model_cards.run_cards import write_run_card
from videomae.modeling_videomae_detection import VideoMAEForActionDetection
from videomae.models import open_config, state_sha256
from videomae.sampling_videomae import ClipSampling
from videomae.training.batches import StepPlan
from videomae.training.detectors import build_detector, detect_all, score_detections, write_results
from videomae.training.forecast import dry_run
from videomae.training.loop import Loop, Parts
from videomae.training.options import TRAIN_DETECTION, DetectionOptions, read_arguments
from videomae.training.recipes import DETECTION, DetectionRecipe
from videomae.training.session import Session, explained_broken_videos, named_data
from videomae.video_processing_videomae import VideoMAEVideoProcessor

# ----------------------------------------------------------------------------------------------------------- the run


@dataclass
class Tested:
    """What the last test of a run came to, for its card."""

    results: list[dict[str, Any]] = dataclasses.field(default_factory=list)


def train(recipe: DetectionRecipe, options: DetectionOptions) -> int:
    """Run a training to its end; returns the exit code."""
    session = Session(recipe, options)
    actions = read_action_list(options.actions) if options.actions else None
    model = build_detector(recipe, actions, session.say)
    data = train_data(recipe, options, model.config, actions)
    val = test_data(options, model.config, recipe.box_score, actions) if options.val_annotations else None
    plan, facts, tested = session.plan(len(data)), facts_of(data, options), Tested()
    parts = Parts(
        model=model,
        dataset=data,
        collate=collate_detection,
        facts=facts,
        summary=summary(recipe, data),
        write_files=lambda folder, steps: write_model_files(
            folder, session, model.config, plan, steps, facts, tested.results
        ),
        notes=tested,
    )
    if options.dry_run:
        return dry_run(session, plan, parts)
    with Loop(session, plan, parts) as loop:
        for done in loop:
            if val and (loop.every_epochs(options.eval_every) or done == loop.last_step):
                result = test_now(session, options, loop.model, val, loop.run.folder / f"test-{done}")
                if result:  # in the main process
                    loop.log.line(done, {"val_map": result["mAP"]}, what="test")
                    tested.results = [card_result(result, options)]
                loop.ask_to_save()
    return session.end(loop.exit_code)


def test(folder: str, options: DetectionOptions, box_score: float | None) -> int:
    """Test a model folder: mAP to the terminal, and with --output the result CSV and a JSON of every number."""
    if not options.val_annotations:
        raise ValueError("--test needs --val_annotations, the AVA CSV to compare with")
    session = Session(DETECTION["tiny"], options)  # the recipe has no part in a test
    open_config(folder, "--test", kind="ForActionDetection")
    model = VideoMAEForActionDetection.from_pretrained(folder, dtype=torch.float32).eval()
    actions = read_action_list(options.actions) if options.actions else None
    if box_score is None:
        box_score = DetectionRecipe.box_score if model.config.detection_family == "videomae" else 0.9
    val = test_data(options, model.config, box_score, actions)
    model = session.accelerator.prepare(model)
    tested = test_now(session, options, model, val, Path(options.output) if options.output else None)
    if tested:
        print(
            f"mAP@0.5 {100 * tested['mAP']:.2f} with {tested['boxes']} persons, {tested['num_key_frames']} key frames"
        )
        for name, value in tested["per_category"].items():
            print(f"  {name}: {'no annotations' if value is None else f'{100 * value:.2f}'}")
    return 0


def test_now(
    session: Session, options: DetectionOptions, model: torch.nn.Module, val: AvaDataset, folder: Path | None
) -> dict[str, Any] | None:
    """Detect, score, and write FOLDER/detections.csv (the challenge's format) and FOLDER/ava_map.json."""
    accelerator = session.accelerator
    began, seen = time.monotonic(), 0

    def progress(count: int) -> None:
        nonlocal seen
        before, seen = seen, seen + count
        if seen // 500 > before // 500:
            share = len(val) / accelerator.num_processes
            session.say(
                f"tested {seen} of about {share:.0f} key frames, {(time.monotonic() - began) / seen:.2f} s each"
            )

    detections = detect_all(
        accelerator,
        model,
        val,
        clips_per_device=options.val_clips_per_device,
        num_workers=session.workers,
        progress=progress,
    )
    state: Any = accelerator.get_state_dict(model)  # every process joins in
    if detections is None:
        return None
    classes = read_action_list(options.val_classes) if options.val_classes else None
    tested = score_detections(val, detections, classes, protocol=options.protocol)
    tested |= {"key_frames_without_movie": len(val.skipped), "weights_sha256": state_sha256(state)}
    if folder is not None:
        write_results(folder / "detections.csv", detections, options.protocol)
        write_json(folder / "ava_map.json", tested)
    return tested


# ------------------------------------------------------------------------------------------------------------- data


def train_data(
    recipe: DetectionRecipe, options: DetectionOptions, config: VideoMAEConfig, actions: ActionList | None
) -> AvaDataset:
    for name in ("movies", "annotations"):
        if not getattr(options, name):
            raise ValueError(f"--{name} is missing; `videomae make-ava FOLDER` makes a small set")
    annotations = read_annotations(options.annotations, actions=actions.names if actions else None)
    if options.excluded:
        annotations = annotations.without(read_key_frames(options.excluded))
    if recipe.proposal_iou is not None and not options.proposals:
        raise ValueError(
            f"recipe {recipe.name} also trains on detected persons; give them with --proposals, or train on the annotated "
            "ones alone with --proposal_iou none"
        )
    mean, std = config.pixel_statistics
    return AvaDataset(
        annotations,
        movies_in(options.movies, options),
        config,
        mode="train",
        transform=DetectionTrainTransform(
            short_side=recipe.short_side,
            size=recipe.crop_size,
            flip=recipe.flip,
            colour=recipe.color_jitter,
            box_jitter=tuple(config.box_train_jitter),
            outside=recipe.boxes_outside,
            inclusive=config.detection_family == "videomae",
            mean=tuple(mean),
            std=tuple(std),
        ),
        proposals=read_proposals(options.proposals, images=options.proposal_images) if options.proposals else None,
        proposals_path=str(options.proposals),
        box_score=recipe.box_score,
        proposal_iou=recipe.proposal_iou,
        max_boxes=recipe.max_boxes,
        frame_jitter=recipe.frame_jitter,
        seed=recipe.seed,
        missing=options.missing_movies,
        max_broken=options.max_broken,
    )


def test_data(
    options: DetectionOptions, config: VideoMAEConfig, box_score: float, actions: ActionList | None
) -> AvaDataset:
    folder = options.val_movies or options.movies
    if not folder:
        raise ValueError("--val_movies (or --movies) is missing: the folder of the movies to test on")
    assert options.val_annotations  # nobody tests without
    annotations = read_annotations(options.val_annotations, actions=actions.names if actions else None)
    excluded = set(read_key_frames(options.val_excluded)) if options.val_excluded else set()
    proposals = None
    if options.val_proposals:
        proposals = read_proposals(options.val_proposals, images=options.val_proposal_images)
    if options.val_key_frames:
        key_frames = read_key_frames(options.val_key_frames)
    elif options.protocol == "mmaction2":
        key_frames = list(annotations.key_frames)
    else:  # also where persons were found and none is annotated: false alarms there must cost precision
        videos = set(annotations.video_ids)
        key_frames = [*annotations.key_frames, *(key for key in proposals or () if key.video_id in videos)]
    mean, std = config.pixel_statistics
    return AvaDataset(
        annotations,
        movies_in(folder, options),
        config,
        mode="test",
        transform=DetectionTestTransform(
            short_side=config.detection_short_side,
            inclusive=config.detection_family == "videomae",
            mean=tuple(mean),
            std=tuple(std),
        ),
        key_frames=[key for key in key_frames if key not in excluded],
        proposals=proposals,
        proposals_path=str(options.val_proposals),
        box_score=box_score,
        whole_frame=options.protocol == "mmaction2",
        missing=options.missing_movies,
    )


def movies_in(folder: str, options: DetectionOptions) -> MovieFolder:
    return MovieFolder(folder, starts_at=options.starts_at, frame_rate=options.frames_per_second, errors=options.errors)


def facts_of(data: AvaDataset, options: DetectionOptions) -> dict[str, Any]:
    """Of the training data, for the records; a resumed run must have the same."""
    return {
        **named_data(options, options.annotations),
        "clips": len(data),
        "manifest_sha256": sha256_of(options.annotations),
        "without_movie": len(data.skipped),
    }


# -------------------------------------------------------------------------------------------------- records


def summary(recipe: DetectionRecipe, data: AvaDataset) -> dict[str, Any]:
    """What a user should know of the data before the first step; also kept in run.json."""
    persons = [len(data.annotations.key_frames[key].boxes) for key in data.key_frames]
    return {
        "family": recipe.family,
        "actions": recipe.num_labels,
        "key frames": f"{len(data)} in {len(data.movies)} movies, {sum(persons)} annotated persons",
        "key frames without a movie": len(data.skipped),
    }


def card_result(tested: Mapping[str, Any], options: DetectionOptions) -> dict[str, Any]:
    assert options.val_annotations  # nobody tests without
    return {
        "dataset": Path(options.val_annotations).name,
        "protocol": f"{tested['boxes']} persons, {tested['num_key_frames']} key frames, one clip each"
        + (", evaluated as mmaction2 does" if tested["protocol"] == "mmaction2" else ""),
        "metrics": {"map": tested["mAP"]},
        "data_sha256": sha256_of(options.val_annotations),
        "weights_sha256": tested["weights_sha256"],
    }


def write_model_files(
    folder: Path,
    session: Session,
    config: VideoMAEConfig,
    plan: StepPlan,
    steps: int,
    facts: Mapping[str, Any],
    results: list[dict[str, Any]],
) -> None:
    """What makes weights a model that others can use: its processor and its card."""
    mean, std = config.pixel_statistics
    processor = VideoMAEVideoProcessor(
        size={"shortest_edge": config.detection_short_side},
        do_center_crop=False,
        image_mean=mean,
        image_std=std,
        sampling=ClipSampling(num_frames=config.num_frames, stride_frames=config.detection_stride_frames),
    )
    processor.save_pretrained(folder)
    write_run_card(
        folder,
        task="detect",
        recipe=plain(session.recipe),
        clips_per_step=plan.clips_per_step,
        steps=steps,
        data=facts,
        log=session.log,
        results=results,
        base_model=session.recipe.model,
        command=shlex.join(sys.argv),
    )


# ------------------------------------------------------------------------------------------------------ command line


def main(argv: list[str] | None = None) -> int:
    recipe, options, given, _ = read_arguments(TRAIN_DETECTION, argv)
    with explained_broken_videos():
        return test(options.test, options, given.get("box_score")) if options.test else train(recipe, options)


if __name__ == "__main__":
    sys.exit(guarded("videomae train-detection", main, sys.argv[1:]))
