"""Train an action detector on AVA, AVA-Kinetics, or data of one's own in the same format; or test one.

    videomae make-ava SET && videomae train-detection --recipe tiny --num_labels 5 \\
        --movies SET/movies --annotations SET/train.csv --val_annotations SET/val.csv --output runs/detect
    accelerate launch train_detection.py --recipe ad-base-k400-finetuned --model videomae-base-finetuned-kinetics \\
        --movies ava/movies --annotations ava_train_v2.2.csv --excluded ava_train_excluded_timestamps_v2.2.csv \\
        --actions ava_action_list_v2.2.pbtxt --output runs/ava --clips_per_device 4
    videomae train-detection --test runs/ava/checkpoint-49350 --movies ava/movies --val_annotations ava_val_v2.2.csv \\
        --val_excluded ... --val_proposals ... --val_classes ava_action_list_v2.2_for_activitynet_2019.pbtxt

A recipe (training/recipes.py) says what is trained; the options say where. `train` reads downwards: data, model,
optimizer, resume, steps, test, save. The files of a run, resuming and interruption are those of train_pretrain.py.
"""

import shlex
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from transformers.utils import logging as transformers_logging

from videomae.command_line import guarded, plain
from videomae.configuration_videomae import VideoMAEConfig
from videomae.data.ava.annotations import ActionList, read_action_list, read_annotations, read_key_frames
from videomae.data.ava.boxes import DetectionTestTransform, DetectionTrainTransform
from videomae.data.ava.dataset import AvaDataset, collate_detection
from videomae.data.ava.detections import write_detections
from videomae.data.ava.movies import MovieFolder
from videomae.data.ava.proposals import read_proposals
from videomae.data.video_dataset import BrokenVideosError
from videomae.files import sha256_of, write_json
from videomae.model_cards.run_cards import write_run_card
from videomae.modeling_videomae_detection import VideoMAEForActionDetection
from videomae.models import open_config
from videomae.sampling_videomae import ClipSampling
from videomae.train_pretrain import training_step
from videomae.training import engines
from videomae.training.batches import StepPlan, default_workers, seed_step, step_batches
from videomae.training.checkpoints import prune
from videomae.training.detectors import build_detector, detect_all, score_detections
from videomae.training.optimisation import Ema, Schedule, build_optimizer
from videomae.training.options import TRAIN_DETECTION, DetectionOptions, read_arguments
from videomae.training.progress import Log, Meter, peak_memory_gib, say
from videomae.training.recipes import DetectionRecipe
from videomae.training.runs import (
    EXIT_INTERRUPTED,
    check_same_data,
    interruptible,
    open_run,
    record_start,
    rewind_log,
)
from videomae.video_processing_videomae import VideoMAEVideoProcessor

# ----------------------------------------------------------------------------------------------------------- the run


def train(recipe: DetectionRecipe, options: DetectionOptions) -> int:
    """Run a training to its end; returns the exit code."""
    transformers_logging.disable_progress_bar()
    accelerator = engines.start_accelerator(options)
    engines.check_recipe(accelerator, recipe)
    tell = say if accelerator.is_main_process else lambda text: None

    actions = read_action_list(options.actions) if options.actions else None
    model = build_detector(recipe, actions, tell)
    config = model.config
    data = train_data(recipe, options, config, actions)
    val = test_data(options, config, recipe.box_score, actions) if options.val_annotations else None
    facts = {
        "name": Path(options.annotations).name,
        "clips": len(data),
        "manifest_sha256": sha256_of(options.annotations),
        "without_movie": len(data.skipped),
    }
    plan = StepPlan.of(
        recipe,
        num_clips=len(data),
        processes=accelerator.num_processes,
        clips_per_device=options.clips_per_device,
    )
    schedule = Schedule.of(recipe, plan.steps_per_epoch)
    workers = default_workers() if options.num_workers is None else options.num_workers
    effective = summary(recipe, model, plan, schedule, data) | engines.describe(accelerator) | {"workers": workers}
    tell("\n".join(f"{name:>28}  {value}" for name, value in effective.items()))

    run = None  # a dry run writes nothing
    if not options.dry_run:
        run = engines.share(accelerator, lambda: open_run(options.output, recipe, resume=options.resume, say=tell))
    if options.compile:
        model.compile()
    if recipe.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    model.train()
    model, optimizer = engines.prepare(accelerator, model, build_optimizer(model, recipe), plan)
    plain_model = accelerator.unwrap_model(model)
    ema = Ema(plain_model, recipe.ema_decay) if recipe.ema_decay else None
    meter = Meter(accelerator, max_bad_steps=options.max_bad_steps)

    first_step = 0
    if run and run.resume_from:
        state = engines.load(accelerator, run.resume_from, model=model, optimizer=optimizer, ema=ema)
        check_same_data(state["data"], facts)
        first_step = state["step"]
        meter.restore(state["meter"])
        tell(f"going on from {run.resume_from}")
    last_step = min(plan.total_steps, options.max_steps or plan.total_steps)
    if options.dry_run:
        last_step = 1
    if run and accelerator.is_main_process:
        rewind_log(run.log, first_step)
        record_start(run.folder, options=options, effective=effective, data=facts, step=first_step)
    if run:
        engines.start_trackers(accelerator, effective)
    log = Log(accelerator, run.log if run else None, total_steps=last_step, first_step=first_step)
    results: list[dict[str, Any]] = []  # of the last test, for the card

    def save(done: int) -> None:
        engines.save(
            accelerator,
            run.folder,
            state={"step": done, "meter": meter.state(), "data": facts},
            model=model,
            optimizer=optimizer,
            ema=ema,
            write_more=lambda folder: write_model_files(folder, recipe, config, plan, done, facts, run.log, results),
        )
        if accelerator.is_main_process:
            prune(run.folder, keep_last=options.keep_last, keep_every=options.keep_every)

    steps = step_batches(
        data,
        collate_detection,
        plan,
        seed=recipe.seed,
        first_step=first_step,
        last_step=last_step,
        rank=accelerator.process_index,
        num_workers=workers,
        pin_memory=accelerator.device.type == "cuda",
    )
    with interruptible() as interruption, engines.explained_out_of_memory(recipe, plan), log:
        for step, batches in steps:
            seed_step(recipe.seed, step, accelerator.process_index)
            lr = schedule.lr_at(step)
            loss, norm, bad = training_step(
                accelerator,
                model,
                optimizer,
                batches,
                lr=lr,
                weight_decay=schedule.weight_decay_at(step),
                clip_grad_norm=recipe.clip_grad_norm,
            )
            if ema:
                ema.update(plain_model)
            meter.add(step, loss=loss, norm=norm, bad=bad, batches=batches, clips=plan.clips_per_step)
            done = step + 1
            log.advance()

            at_a_line = done % options.log_every == 0 or done == last_step
            if at_a_line:
                line = {"epoch": round(done / plan.steps_per_epoch, 4), "lr": lr, **meter.take()}
                log.line(done, line | {"broken_videos": len(data.broken)})
                engines.cap_loss_scale(accelerator, options.max_loss_scale)
            stop = engines.asked_to_stop(accelerator, bool(interruption), at_a_line)
            due = options.eval_every and done % (options.eval_every * plan.steps_per_epoch) == 0
            if run and val and (due or done == last_step):
                tested = test_now(accelerator, model, val, options, workers, run.folder / f"test-{done}")
                if tested:  # in the main process
                    log.line(done, {"val_map": tested["mAP"]})
                    results[:] = [card_result(tested, options)]
            if run and (done % options.save_every == 0 or done == last_step or stop):
                save(done)
            if stop and done < last_step:
                tell(f"{interruption.signal}: checkpoint-{done} written; go on with --resume auto")
                return EXIT_INTERRUPTED
    if options.dry_run:
        tell(
            f"dry run: one step done, at most {peak_memory_gib(accelerator.device):.2f} GiB in use; nothing was written"
        )
    accelerator.end_training()
    return 0


def test(options: DetectionOptions, box_score: float | None) -> int:
    """Test a model folder: mAP to the terminal, and with --output the result CSV and a JSON of every number."""
    transformers_logging.disable_progress_bar()
    if not options.val_annotations:
        raise ValueError("--test needs --val_annotations, the AVA CSV to compare with")
    accelerator = engines.start_accelerator(options)
    open_config(options.test, "--test", kind="ForActionDetection")
    model = VideoMAEForActionDetection.from_pretrained(options.test, dtype=torch.float32).eval()
    actions = read_action_list(options.actions) if options.actions else None
    if box_score is None:
        box_score = DetectionRecipe.box_score if model.config.detection_family == "videomae" else 0.9
    val = test_data(options, model.config, box_score, actions)
    model = accelerator.prepare(model)
    workers = default_workers() if options.num_workers is None else options.num_workers
    tested = test_now(accelerator, model, val, options, workers, Path(options.output) if options.output else None)
    if tested:
        print(
            f"mAP@0.5 {100 * tested['mAP']:.2f} with {tested['boxes']} persons, {tested['num_key_frames']} key frames"
        )
        for name, value in tested["per_category"].items():
            print(f"  {name}: {'no annotations' if value is None else f'{100 * value:.2f}'}")
    return 0


def test_now(
    accelerator: Accelerator,
    model: torch.nn.Module,
    val: AvaDataset,
    options: DetectionOptions,
    workers: int,
    folder: Path | None,
) -> dict[str, Any] | None:
    """Detect, score, and write FOLDER/detections.csv (the challenge's format) and FOLDER/ava_map.json."""
    began, seen = time.monotonic(), 0

    def progress(count: int) -> None:
        nonlocal seen
        before, seen = seen, seen + count
        if accelerator.is_main_process and seen // 500 > before // 500:
            share = len(val) / accelerator.num_processes
            say(f"tested {seen} of about {share:.0f} key frames, {(time.monotonic() - began) / seen:.2f} s each")

    detections = detect_all(
        accelerator,
        model,
        val,
        clips_per_device=options.val_clips_per_device,
        num_workers=workers,
        progress=progress,
    )
    if detections is None:
        return None
    classes = read_action_list(options.val_classes) if options.val_classes else None
    tested = score_detections(val, detections, classes)
    tested["key_frames_without_movie"] = len(val.skipped)
    if folder is not None:
        write_detections(folder / "detections.csv", detections)
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
        MovieFolder(options.movies, starts_at=options.starts_at, frame_rate=options.frames_per_second),
        config,
        mode="train",
        transform=DetectionTrainTransform(
            short_side=tuple(recipe.short_side),
            size=recipe.crop_size,
            flip=recipe.flip,
            colour=tuple(recipe.color_jitter),
            box_jitter=tuple(config.box_train_jitter),
            inclusive=config.detection_family == "videomae",
            mean=tuple(mean),
            std=tuple(std),
        ),
        proposals=read_proposals(options.proposals, images=options.proposal_images) if options.proposals else None,
        proposals_path=str(options.proposals),
        box_score=recipe.box_score,
        proposal_iou=recipe.proposal_iou,
        max_boxes=recipe.max_boxes,
        frame_jitter=tuple(recipe.frame_jitter),
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
    annotations = read_annotations(options.val_annotations, actions=actions.names if actions else None)
    excluded = set(read_key_frames(options.val_excluded)) if options.val_excluded else set()
    annotations = annotations.without(excluded)
    proposals = None
    if options.val_proposals:
        proposals = read_proposals(options.val_proposals, images=options.val_proposal_images)
    if options.val_key_frames:
        key_frames = read_key_frames(options.val_key_frames)
    else:  # also where persons were found and none is annotated: false alarms there must cost precision
        videos = set(annotations.video_ids)
        key_frames = [*annotations.key_frames, *(key for key in proposals or () if key.video_id in videos)]
    mean, std = config.pixel_statistics
    return AvaDataset(
        annotations,
        MovieFolder(folder, starts_at=options.starts_at, frame_rate=options.frames_per_second),
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
        missing=options.missing_movies,
    )


# -------------------------------------------------------------------------------------------------- records


def summary(
    recipe: DetectionRecipe, model: VideoMAEForActionDetection, plan: StepPlan, schedule: Schedule, data: AvaDataset
) -> dict[str, Any]:
    """What the recipe comes to on this data and these devices; printed before the first step and kept in run.json."""
    persons = [len(data.annotations.key_frames[key].boxes) for key in data.key_frames]
    return {
        "recipe": recipe.name,
        "model": recipe.model,
        "family": recipe.family,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "actions": recipe.num_labels,
        "key frames": f"{len(data)} in {len(data.movies)} movies, {sum(persons)} annotated persons",
        "key frames without a movie": len(data.skipped),
        "clips a step": f"{plan.clips_per_step} ({plan.clips_per_device} a device x {plan.processes} processes x "
        f"{plan.accumulation} micro-batches)",
        "steps": f"{plan.total_steps} ({plan.steps_per_epoch} an epoch, {schedule.warmup_steps} of warm-up)",
        "learning rate": f"{schedule.peak_lr:g} to {schedule.final_lr:g} "
        f"({recipe.base_lr:g} and {recipe.min_lr:g} for {recipe.lr_batch} clips)",
    }


def card_result(tested: Mapping[str, Any], options: DetectionOptions) -> dict[str, Any]:
    return {
        "dataset": Path(options.val_annotations).name,
        "protocol": f"{tested['boxes']} persons, {tested['num_key_frames']} key frames, one clip each",
        "metrics": {"map": tested["mAP"]},
        "data_sha256": sha256_of(options.val_annotations),
    }


def write_model_files(
    folder: Path,
    recipe: DetectionRecipe,
    config: VideoMAEConfig,
    plan: StepPlan,
    steps: int,
    data: Mapping[str, Any],
    log: Path,
    results: list[dict[str, Any]],
) -> None:
    """What makes a checkpoint a model that others can use: its processor and its card."""
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
        recipe=plain(recipe),
        clips_per_step=plan.clips_per_step,
        steps=steps,
        data=data,
        log=log if log.exists() else None,  # a checkpoint may come before the first line
        results=results,
        base_model=recipe.model,
        command=shlex.join(sys.argv),
    )


# ------------------------------------------------------------------------------------------------------ command line


def main(argv: list[str] | None = None) -> int:
    recipe, options, given, _ = read_arguments(TRAIN_DETECTION, argv)
    try:
        return test(options, given.get("box_score")) if options.test else train(recipe, options)
    except BrokenVideosError as error:
        raise ValueError(str(error).strip().splitlines()[-1]) from error


if __name__ == "__main__":
    sys.exit(guarded("videomae train-detection", main, sys.argv[1:]))
