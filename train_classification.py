"""Fine-tune a classifier on labelled videos, from a pre-trained model, another classifier, or nothing.

    videomae finetune --recipe small-data --model PRETRAINED --data VIDEOS --val_share 0.2 --output runs/mine
    videomae finetune --data VIDEOS --val_share 0.2 --output runs/mine --resume auto     # goes on after any end
    videomae finetune --eval_only --model runs/mine/best --test_data test.csv            # the papers' multi-view test
    accelerate launch train_classification.py --recipe v1-base-k400 --model videomae-base --data train.csv \\
        --val_data val.csv --test_data test.csv --output runs/k400 --clips_per_device 6

VIDEOS is a folder with a sub-folder per class, or any list of docs/data.md. A recipe (training/recipes.py, and the fields
below for data of one's own) says what is trained; the options say where. `train` reads downwards: data, model, optimizer,
resume, steps, validation, save; `training_step` is the step and `Objective` its loss. The files of a run, resuming and
interruption are those of train_pretrain.py.
"""

import contextlib
import dataclasses
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from transformers.utils import logging as transformers_logging

from videomae.command_line import guarded, plain
from videomae.configuration_videomae import PRESETS, VideoMAEConfig
from videomae.data.collators import ClassificationCollator
from videomae.data.lists.label_files import read_names
from videomae.data.lists.layouts import open_manifest
from videomae.data.lists.manifests import Manifest
from videomae.data.mixing import Mixing
from videomae.data.randaugment import RandAugment
from videomae.data.randomness import generator_for, sample_key
from videomae.data.transforms import EvalTransform, RandomErasing, TrainTransform
from videomae.data.video_dataset import BrokenVideosError, VideoDataset
from videomae.evaluation import multi_view as evaluation
from videomae.evaluation.validation import DECISIVE, Watch, averaged, chance_warning, validate
from videomae.files import new_folder
from videomae.model_cards.run_cards import write_run_card
from videomae.modeling_videomae import VideoMAEForVideoClassification
from videomae.models import open_config
from videomae.sampling_videomae import ClipSampling
from videomae.training import engines, lora
from videomae.training.batches import MicroBatches, StepPlan, default_workers, seed_step, step_batches
from videomae.training.checkpoints import prune
from videomae.training.classifiers import build_classifier, class_weights, freeze
from videomae.training.distillation import Teacher, TeacherCollator, read_teacher_scores
from videomae.training.engines import on_device
from videomae.training.objective import Objective
from videomae.training.optimisation import Ema, Schedule, build_optimizer, set_rates, step_unless, warmup
from videomae.training.options import FINETUNE, FinetuneOptions, read_arguments
from videomae.training.progress import Log, Meter, peak_memory_gib, say
from videomae.training.recipes import PROBLEMS, FinetuneRecipe
from videomae.training.runs import (
    EXIT_INTERRUPTED,
    check_same_data,
    interruptible,
    open_run,
    record_start,
    rewind_log,
)
from videomae.video_processing_videomae import VideoMAEVideoProcessor

EARLY_VALIDATIONS = 3  # a head that is at chance after as many looks is worth a warning


# ---------------------------------------------------------------------------------------------------------- the step


def training_step(
    accelerator: Accelerator,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: MicroBatches | Sequence[Mapping[str, Any]],
    objective: Objective,
    *,
    lr: float,
    weight_decay: float,
    clip_grad_norm: float | None = None,
    head_only: bool = False,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """One optimizer step over micro-batches: (loss of this process, gradient norm, whether the step was skipped).

    All three stay on the device; nothing here waits for it.
    """
    set_rates(optimizer, lr=lr, weight_decay=weight_decay)
    loss = torch.zeros((), device=accelerator.device)
    for number, batch in enumerate(batches, start=1):
        batch = on_device(batch, accelerator.device)
        accelerator.sync_gradients = number == len(batches)
        with contextlib.nullcontext() if accelerator.sync_gradients else accelerator.no_sync(model):
            part = objective(model(batch["pixel_values"]).logits, batch) / len(batches)
            accelerator.backward(part)
        loss += part.detach()
    if head_only:
        # AdamW passes over parameters without a gradient: neither weights nor moments of the encoder move.
        for parameter in accelerator.unwrap_model(model).videomae.parameters():
            parameter.grad = None
    norm = engines.gradient_norm(accelerator, model, clip_grad_norm)
    bad = ~norm.isfinite()  # the norm is the same in every process, so all skip the step or none
    step_unless(bad, optimizer)
    optimizer.zero_grad()
    return loss, norm, bad


# ----------------------------------------------------------------------------------------------------------- the run


def train(recipe: FinetuneRecipe, options: FinetuneOptions) -> int:
    """Run a fine-tuning to its end; returns the exit code."""
    transformers_logging.disable_progress_bar()
    accelerator = engines.start_accelerator(options)
    engines.check_recipe(accelerator, recipe)
    tell = say if accelerator.is_main_process else lambda text: None

    data = build_data(recipe, options, tell)
    model = build_model(recipe, data, tell)
    objective = build_objective(recipe, data, model.config, accelerator.device)
    plan = StepPlan.of(
        recipe,
        num_clips=len(data.train),
        processes=accelerator.num_processes,
        clips_per_device=options.clips_per_device,
    )
    collate = build_collator(recipe, data, plan)
    schedule = Schedule.of(recipe, plan.steps_per_epoch)
    workers = default_workers() if options.num_workers is None else options.num_workers
    effective = summary(recipe, model, data, plan, schedule) | engines.describe(accelerator) | {"workers": workers}
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
    watch = Watch(DECISIVE[data.problem])

    first_step = 0
    if run and run.resume_from:
        state = engines.load(accelerator, run.resume_from, model=model, optimizer=optimizer, ema=ema)
        if recipe.lora_rank:
            lora.restore(plain_model, run.resume_from)
        check_same_data(state["data"], data.facts)
        first_step = state["step"]
        meter.restore(state["meter"])
        watch = Watch(**state["watch"])
        tell(f"going on from {run.resume_from}")
    last_step = min(plan.total_steps, options.max_steps or plan.total_steps)
    if options.dry_run:
        last_step = 1
    if watch.stopped:
        last_step = first_step
    if run and accelerator.is_main_process:
        rewind_log(run.log, first_step)
        record_start(run.folder, options=options, effective=effective, data=data.facts, step=first_step)
    if run:
        engines.start_trackers(accelerator, effective)
    log = Log(accelerator, run.log if run else None, total_steps=last_step, first_step=first_step)

    def write_more(folder: Path, done: int) -> None:
        if recipe.lora_rank:
            lora.write(plain_model, folder)
        write_model_files(folder, recipe, data, plan, done, run.log, validation_results(watch, recipe, data))

    def save(done: int) -> None:
        engines.save(
            accelerator,
            run.folder,
            state={"step": done, "meter": meter.state(), "data": data.facts, "watch": dataclasses.asdict(watch)},
            model=model,
            optimizer=optimizer,
            ema=ema,
            write_more=lambda folder: write_more(folder, done),
        )
        if accelerator.is_main_process:
            prune(run.folder, keep_last=options.keep_last, keep_every=options.keep_every)

    def look(done: int) -> None:
        """Validate, keep the best, and note what a user should know."""
        with averaged(plain_model, ema):
            metrics = validate(
                accelerator,
                model,
                data.validation,
                ClassificationCollator(mean=data.mean, std=data.std),
                problem=data.problem,
                clips_per_device=max(plan.clips_per_device, 1),
                num_workers=workers,
            )
            log.line(done, {f"val_{name}": value for name, value in metrics.items()})
            if watch.note(done, metrics):
                weights = accelerator.get_state_dict(model)
                if accelerator.is_main_process:
                    with new_folder(run.folder / "best", replace=True) as folder:
                        plain_model.save_pretrained(folder, state_dict=weights)
                        write_more(folder, done)
        if watch.looks == EARLY_VALIDATIONS and data.problem == "single_label_classification":
            epochs = round(done / plan.steps_per_epoch)
            labels = data.validation.labels.tolist()
            if warning := chance_warning(metrics, labels, epochs=epochs, base_lr=recipe.base_lr):
                tell(warning)

    steps = step_batches(
        data.train,
        collate,
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
                objective,
                lr=lr,
                weight_decay=schedule.weight_decay_at(step),
                clip_grad_norm=recipe.clip_grad_norm,
                head_only=step < recipe.probe_epochs * plan.steps_per_epoch,
            )
            if ema:
                ema.update(plain_model)
            meter.add(step, loss=loss, norm=norm, bad=bad, batches=batches, clips=plan.clips_per_step)
            done = step + 1
            log.advance()

            at_a_line = done % options.log_every == 0 or done == last_step
            if at_a_line:
                line = {"epoch": round(done / plan.steps_per_epoch, 4), "lr": lr, **meter.take()}
                log.line(done, line | {"broken_videos": len(data.train.broken)})
                engines.cap_loss_scale(accelerator, options.max_loss_scale)
            due = done % (options.validate_every * plan.steps_per_epoch) == 0 or done == plan.total_steps
            if run and data.validation is not None and due:
                look(done)
                watch.stopped = bool(options.early_stopping) and watch.worse_in_row >= options.early_stopping
            interrupted = engines.asked_to_stop(accelerator, bool(interruption), at_a_line)
            if run and (done % options.save_every == 0 or done == last_step or interrupted or watch.stopped):
                save(done)
            if watch.stopped:
                tell(
                    f"no better validation for {watch.worse_in_row} looks: stopped, the best was step {watch.best_step}"
                )
                break
            if interrupted and done < last_step:
                tell(f"{interruption.signal}: checkpoint-{done} written; go on with --resume auto")
                return EXIT_INTERRUPTED
    if options.dry_run:
        tell(
            f"dry run: one step done, at most {peak_memory_gib(accelerator.device):.2f} GiB in use; nothing was written"
        )
    elif run and (options.test_data or options.test_split):
        best = run.folder / "best" if (run.folder / "best").is_dir() else run.folder / f"checkpoint-{last_step}"
        accelerator.wait_for_everyone()
        tested = test(best, recipe, options, data.class_names, output=run.folder / "test")
        if tested and best.name == "best":  # a checkpoint's files are hashed and stay as they are
            results = [*validation_results(watch, recipe, data), card_result(tested)]
            write_model_files(best, recipe, data, plan, watch.best_step, run.log, results)
    accelerator.end_training()
    return 0


def validation_results(watch: Watch, recipe: FinetuneRecipe, data: "ClassificationData") -> list[dict[str, Any]]:
    """The best validation so far, for the card."""
    if data.validation is None:
        return []
    return watch.results(dataset=data.facts["validation"], videos=len(data.validation), num_frames=recipe.num_frames)


# ------------------------------------------------------------------------------------------------------ data and model


@dataclass(frozen=True)
class ClassificationData:
    """Training and validation clips, what their labels mean, and facts for the records."""

    train: VideoDataset
    validation: VideoDataset | None
    class_names: tuple[str, ...] | None
    num_labels: int
    problem: str
    mean: Sequence[float]  # of the pixels, as the start was trained with
    std: Sequence[float]
    facts: dict[str, Any]


def build_data(recipe: FinetuneRecipe, options: FinetuneOptions, tell=say) -> ClassificationData:
    if not options.data:
        raise ValueError("--data is missing: a folder with a sub-folder per class, or a list of videos with labels")
    names = read_names(options.class_names) if options.class_names else None
    read = {"root": options.data_root, "label_kind": recipe.label_kind, "num_labels": recipe.num_labels}
    train = open_manifest(options.data, split=options.train_split, class_names=names, **read)
    train.check_labels(num_labels=recipe.num_labels, classes=recipe.label_kind == "class")
    names, num_labels = train.class_names, recipe.num_labels or train.num_labels
    if names is not None and len(names) != num_labels:
        raise ValueError(
            f"num_labels is {num_labels}, by --num_labels or the recipe, but {train.origin} has {len(names)} class names; "
            "--num_labels none takes the number from the data"
        )
    validation = None
    if options.val_data or options.val_split:
        source = options.val_data or options.data
        validation = open_manifest(source, split=options.val_split, class_names=names, **read)
    elif options.val_share:
        train, validation = held_out(train, options.val_share, recipe.seed)
    if validation is not None:
        validation.check_labels(num_labels=num_labels, classes=False)
    elif options.early_stopping:
        raise ValueError("--early_stopping needs validation videos: --val_data, --val_split or --val_share")
    if recipe.label_kind == "class":
        tell_empty_classes(train, names, num_labels, tell)

    sampling = ClipSampling(
        strategy=recipe.sampling,
        num_frames=recipe.num_frames,
        stride_frames=recipe.stride_frames,
        clips=recipe.test_clips,
        crops=recipe.test_crops,
    )
    start = VideoMAEConfig() if recipe.model in PRESETS else VideoMAEConfig.from_pretrained(recipe.model)
    mean, std = start.pixel_statistics
    transform = TrainTransform(
        size=recipe.image_size,
        auto_augment=RandAugment.parse(recipe.rand_augment) if recipe.rand_augment else None,
        area=recipe.crop_area,
        aspect=recipe.crop_aspect,
        flip=recipe.flip,
        erasing=RandomErasing(recipe.erase, recipe.erase_area) if recipe.erase else None,
        mean=tuple(mean),
        std=tuple(std),
    )
    common = {"sampling": sampling, "seed": recipe.seed, "max_broken": options.max_broken}
    facts = {
        "name": Path(options.data).name,
        "clips": len(train),
        "classes": num_labels,
        "manifest_sha256": train.sha256(labels=True),
    }
    val_name = Path(options.val_data or options.data).name if validation is not None else None
    return ClassificationData(
        train=VideoDataset(train, mode="train", transform=transform, num_samples=recipe.num_samples, **common),
        validation=None
        if validation is None
        else VideoDataset(
            validation, mode="validation", transform=EvalTransform(recipe.image_size), broken="exclude", **common
        ),
        class_names=names,
        num_labels=num_labels,
        problem=PROBLEMS[recipe.label_kind],
        mean=mean,
        std=std,
        facts=facts | ({"validation": val_name, "validation_clips": len(validation)} if val_name else {}),
    )


def held_out(manifest: Manifest, share: float, seed: int) -> tuple[Manifest, Manifest]:
    """Split off a seeded share of each class for validation; every class keeps at least one video to train on."""
    if not 0 < share < 1:
        raise ValueError(f"--val_share must lie between 0 and 1, not {share}")
    order = torch.randperm(len(manifest), generator=generator_for(sample_key(seed, 0, 0, 0), "held out")).tolist()
    groups: dict[Any, list[int]] = {}
    for index in order:
        label = manifest.label(index)
        groups.setdefault(label if isinstance(label, int) else None, []).append(index)
    validation = sorted(index for members in groups.values() for index in members[: int(share * len(members))])
    if not validation:
        raise ValueError(f"--val_share {share} of so few videos a class holds none out; raise it, or give --val_data")
    chosen = set(validation)
    return manifest.subset([index for index in range(len(manifest)) if index not in chosen]), manifest.subset(
        validation
    )


def tell_empty_classes(manifest: Manifest, names: Sequence[str] | None, num_labels: int, tell) -> None:
    empty = sorted(set(range(num_labels)) - set(manifest.labels.tolist()))
    if empty:
        shown = ", ".join(names[label] if names else str(label) for label in empty[:8])
        tell(
            f"{len(empty)} of {num_labels} classes have no training video ({shown}{' ...' if len(empty) > 8 else ''}); "
            "the classifier will not learn them"
        )


def build_model(recipe: FinetuneRecipe, data: ClassificationData, tell=say) -> VideoMAEForVideoClassification:
    torch.manual_seed(recipe.seed)
    fields = {
        "image_size": recipe.image_size,
        "num_frames": recipe.num_frames,
        "drop_path_rate": recipe.drop_path_rate,
        "head_dropout_prob": recipe.head_dropout_prob,
        "init_scale": recipe.init_scale,
        **recipe.config,
    }
    if recipe.model not in PRESETS:
        before = VideoMAEConfig.from_pretrained(recipe.model)
        own = {"image_size": before.image_size, "num_frames": before.num_frames}
        for name, value in own.items():
            if value != fields[name]:
                tell(f"{recipe.model} was trained with {name} {value}; it is fine-tuned with {fields[name]} (--{name})")
    model = build_classifier(
        recipe.model,
        num_labels=data.num_labels,
        class_names=data.class_names,
        problem_type=data.problem,
        init_head_from=recipe.init_head_from,
        version=recipe.version,
        config_fields=fields,
        say=tell,
    )
    if recipe.lora_rank:
        if recipe.freeze != "none" or recipe.ema_decay or recipe.probe_epochs:
            raise ValueError("--lora_rank freezes the model itself; leave --freeze, --probe_epochs and --ema_decay out")
        tell(f"LoRA of rank {recipe.lora_rank}: {lora.add_lora(model, recipe.lora_rank):,} parameters are trained")
    elif recipe.freeze != "none":
        tell(f"frozen: {recipe.freeze}; {freeze(model, recipe.freeze):,} parameters are trained")
    return model


def build_objective(
    recipe: FinetuneRecipe, data: ClassificationData, config: VideoMAEConfig, device: torch.device
) -> Objective:
    weights = None
    if data.problem == "single_label_classification":
        weights = class_weights(data.train.labels.tolist(), data.num_labels, recipe.class_weights)
    elif recipe.class_weights != "none":
        raise ValueError(f"class_weights {recipe.class_weights!r} is for one class a video, not for {data.problem}")
    common = {
        "problem": data.problem,
        "num_labels": data.num_labels,
        "label_smoothing": recipe.label_smoothing,
        "class_weights": weights.to(device) if weights is not None else None,
    }
    if recipe.teacher is None and recipe.teacher_scores is None:
        return Objective(**common)
    if recipe.teacher and recipe.teacher_scores:
        raise ValueError("give either teacher (it scores every clip) or teacher_scores (cached), not both")
    if data.problem != "single_label_classification":
        raise ValueError(f"distillation is for one class a video, not for {data.problem}")
    if recipe.temperature <= 0 or recipe.teacher_weight <= 0:
        raise ValueError("temperature and teacher_weight must be above 0")
    teacher = None
    if recipe.teacher:
        shape = (config.num_frames, config.image_size)
        teacher = Teacher(
            recipe.teacher, class_names=data.class_names, num_labels=data.num_labels, device=device, shape=shape
        )
    return Objective(
        **common,
        teacher=teacher,
        temperature=recipe.temperature,
        teacher_weight=recipe.teacher_weight,
        label_weight=recipe.label_weight,
    )


def build_collator(recipe: FinetuneRecipe, data: ClassificationData, plan: StepPlan) -> Any:
    mixing = None
    if recipe.mixup > 0 or recipe.cutmix > 0:
        if data.problem == "regression":
            raise ValueError("mixup and cutmix are for classes; with --label_kind value set --mixup 0 --cutmix 0")
        batch = plan.clips_per_device * recipe.num_samples
        if batch % 2:
            raise ValueError(
                f"mixup pairs the clips of a batch, and clips_per_device {plan.clips_per_device} x num_samples "
                f"{recipe.num_samples} = {batch} is odd; make it even, or set --mixup 0 --cutmix 0"
            )
        mixing = Mixing(
            data.num_labels,
            mixup_alpha=recipe.mixup,
            cutmix_alpha=recipe.cutmix,
            probability=recipe.mix_prob,
            cutmix_share=recipe.mix_switch,
            label_smoothing=recipe.label_smoothing,
        )
    collate = ClassificationCollator(mixing, data.mean, data.std)
    if recipe.teacher_scores:
        return TeacherCollator(
            collate, read_teacher_scores(recipe.teacher_scores, data.train.manifest, data.num_labels)
        )
    return collate


# -------------------------------------------------------------------------------------------------- records and tests


def summary(
    recipe: FinetuneRecipe, model: torch.nn.Module, data: ClassificationData, plan: StepPlan, schedule: Schedule
) -> dict[str, Any]:
    """What the recipe comes to on this data and these devices; printed before the first step and kept in run.json."""
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return {
        "recipe": recipe.name,
        "model": recipe.model,
        "parameters": f"{sum(parameter.numel() for parameter in model.parameters())} ({trained} trained)",
        "classes": f"{data.num_labels} ({data.problem})",
        "videos": f"{plan.num_clips} to train on, {len(data.validation) if data.validation else 0} to validate",
        "clips a step": f"{plan.clips_per_step} ({plan.clips_per_device} a device x {plan.processes} processes x "
        f"{plan.accumulation} micro-batches)",
        "samples of a clip": recipe.num_samples,
        "steps": f"{plan.total_steps} ({plan.steps_per_epoch} an epoch, {schedule.warmup_steps} of warm-up)",
        "learning rate": f"{schedule.peak_lr:g} to {schedule.final_lr:g} "
        f"({recipe.base_lr:g} and {recipe.min_lr:g} for {recipe.lr_batch} clips), layer decay {recipe.layer_decay}",
    }


def write_model_files(
    folder: Path,
    recipe: FinetuneRecipe,
    data: ClassificationData,
    plan: StepPlan,
    steps: int,
    log: Path,
    results: list[dict[str, Any]],
) -> None:
    """What makes a checkpoint a model that others can use: its processor, with the test's views, and its card."""
    processor = VideoMAEVideoProcessor(
        size={"shortest_edge": recipe.image_size},
        crop_size={"height": recipe.image_size, "width": recipe.image_size},
        image_mean=list(data.mean),
        image_std=list(data.std),
        sampling=data.train.sampling,
    )
    processor.save_pretrained(folder)
    write_run_card(
        folder,
        task="classify",
        recipe=plain(recipe),
        clips_per_step=plan.clips_per_step,
        steps=steps,
        data=data.facts,
        log=log,
        results=results,
        base_model=recipe.model,
        command=shlex.join(sys.argv),
    )


def test(
    folder: Path | str,
    recipe: FinetuneRecipe,
    options: FinetuneOptions,
    class_names: Sequence[str] | None,
    *,
    output: Path,
) -> dict[str, Any] | None:
    """The multi-view test of a model folder, by `videomae evaluate`'s own code; prints its report."""
    state = evaluation.PartialState()
    model = evaluation.load_classifier(str(folder)).to(state.device)
    manifest = open_manifest(
        options.test_data or options.data,
        split=options.test_split,
        root=options.data_root,
        class_names=class_names,
        label_kind=recipe.label_kind,
    )
    views = evaluation.saved_views(str(folder), model.config)
    results = evaluation.evaluate(
        model,
        manifest,
        views,
        output=output,
        dataset=Path(options.test_data or options.data).stem,
        model_name=str(folder),
        num_workers=options.num_workers or 0,
        max_broken=options.max_broken,
    )
    if results is not None:
        print("\n".join(evaluation.report_lines(results, classes=5)))
        print(f"written: {output}/results.json, predictions.parquet")
    return results


def card_result(tested: Mapping[str, Any]) -> dict[str, Any]:
    """A multi-view test as the card of a run wants it."""
    names = ("dataset", "protocol", "metrics", "videos", "date", "data_sha256")
    return {"split": "test", **{name: tested[name] for name in names}}


test.__test__ = False  # a name that pytest would otherwise collect where it is imported

# ----------------------------------------------------------------------------------------------------------- overfit

OVERFIT_STEPS, OVERFIT_WARMUP, OVERFIT_LR = 300, 20, 1e-3


def overfit(recipe: FinetuneRecipe, options: FinetuneOptions) -> int:
    """Learn a few videos by heart, without augmentation. A path that is whole gets there; a broken link stays at chance."""
    transformers_logging.disable_progress_bar()
    accelerator = engines.start_accelerator(options)
    gentle = dataclasses.replace(
        recipe, mixup=0.0, cutmix=0.0, label_smoothing=0.0, drop_path_rate=0.0, head_dropout_prob=0.0, layer_decay=None
    )
    data = build_data(gentle, options)
    by_class = sorted(range(len(data.train)), key=lambda index: index % max(len(data.train) // options.overfit, 1))
    plain_clips = VideoDataset(
        data.train.manifest.subset(by_class[: options.overfit]),
        mode="validation",
        sampling=data.train.sampling,
        transform=EvalTransform(recipe.image_size),
    )
    model = build_model(gentle, data)
    batch = ClassificationCollator(mean=data.mean, std=data.std)(
        [plain_clips[index] for index in range(len(plain_clips))]
    )
    objective = build_objective(
        dataclasses.replace(gentle, teacher=None, teacher_scores=None), data, model.config, accelerator.device
    )
    model, optimizer = accelerator.prepare(model, build_optimizer(model.train(), gentle))
    for step in range(OVERFIT_STEPS):
        lr = warmup(min(step, OVERFIT_WARMUP - 1), OVERFIT_WARMUP, 0.0, OVERFIT_LR)
        loss, _, _ = training_step(accelerator, model, optimizer, [batch], objective, lr=lr, weight_decay=0.0)
        if step % 20 == 0 or step == OVERFIT_STEPS - 1:
            say(f"step {step}: loss {loss.item():.4f}")
            if loss.item() < 0.05:
                say(f"{len(plain_clips)} videos learnt by heart in {step} steps: the path from file to weights works")
                return 0
    raise ValueError(
        f"after {OVERFIT_STEPS} steps on the same {len(plain_clips)} videos the loss is {loss.item():.3f}, above 0.05; "
        "look at the labels of these videos, at the clips themselves, and at --freeze"
    )


# ------------------------------------------------------------------------------------------------------ command line


def main(argv: list[str] | None = None) -> int:
    recipe, options, given, named = read_arguments(FINETUNE, argv)
    if recipe.model not in PRESETS and named:  # a recorded recipe has been fitted
        open_config(recipe.model)
        recipe = fitted_to_start(recipe, given=given)
    try:
        if options.eval_only:
            return eval_only(recipe, options, model=given.get("model"))
        return overfit(recipe, options) if options.overfit else train(recipe, options)
    except BrokenVideosError as error:
        raise ValueError(str(error).strip().splitlines()[-1]) from error


def fitted_to_start(recipe: FinetuneRecipe, *, given: Mapping[str, Any]) -> FinetuneRecipe:
    """A folder brings its own architecture, and small-data goes on with the clips that it was trained on."""
    own: dict[str, Any] = {"config": {}}
    if recipe.name == "small-data":
        config = VideoMAEConfig.from_pretrained(recipe.model)
        own |= {"image_size": config.image_size, "num_frames": config.num_frames}
    return dataclasses.replace(recipe, **{name: value for name, value in own.items() if name not in given})


def eval_only(recipe: FinetuneRecipe, options: FinetuneOptions, *, model: str | None) -> int:
    """The multi-view test of --model, or of the best checkpoint of a run."""
    if not (options.test_data or options.test_split):
        raise ValueError("--eval_only needs --test_data, labelled videos to test on")
    folder = model or (str(Path(options.output) / "best") if options.output else None)
    if folder is None:
        raise ValueError("--eval_only needs --model FOLDER, or --output RUN of a finished run")
    engines.start_accelerator(options)
    transformers_logging.disable_progress_bar()
    output = Path(options.output, "test") if options.output else Path("evaluations", Path(folder).name)
    names = read_names(options.class_names) if options.class_names else None
    test(folder, recipe, options, names, output=output)
    return 0


if __name__ == "__main__":
    sys.exit(guarded("videomae finetune", main, sys.argv[1:]))
