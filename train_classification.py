"""Fine-tune a classifier on labelled videos, from a pre-trained model, another classifier, or nothing.

    videomae finetune --recipe small-data --model PRETRAINED --data VIDEOS --val_share 0.2 --output runs/mine
    videomae finetune --output runs/mine --resume auto                    # resumes after any interruption
    videomae finetune --eval_only --model runs/mine/best --test_data test.csv            # the papers' multi-view test
    accelerate launch train_classification.py --recipe v1-base-k400 --model videomae-base --data train.csv \\
        --val_data val.csv --test_data test.csv --output runs/k400 --clips_per_device 6

VIDEOS is a folder with a sub-folder per class, or any list of docs/data.md. A recipe (training/recipes.py, and the fields
below for data of one's own) says what is trained; the options say where. `train` reads downwards: data, model, loop, and
the validations between steps; `Objective` is the loss. The step, the files of a run, resuming and interruption are those
of train_pretrain.py.
"""

import dataclasses
import functools
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from videomae.command_line import guarded, plain
from videomae.configuration_videomae import PRESETS, VideoMAEConfig
from videomae.data.check import refuse_broken
from videomae.data.collators import ClassificationCollator
from videomae.data.lists.groups import groups_of, parse_fold, split_fold, split_share
from videomae.data.lists.label_files import read_names
from videomae.data.lists.layouts import open_manifest
from videomae.data.lists.manifests import Manifest
from videomae.data.mixing import Mixing
from videomae.data.randaugment import RandAugment
from videomae.data.randomness import generator_for, sample_key
from videomae.data.remote import use_cache
from videomae.data.transforms import EvalTransform, RandomErasing, TrainTransform
from videomae.data.video_dataset import VideoDataset
from videomae.evaluation import multi_view as evaluation
from videomae.evaluation.final_test import BEST, chosen_on_the_test, weights_to_test
from videomae.evaluation.validation import (
    DECISIVE,
    SHOWN_CLASSES,
    Watch,
    chance,
    chance_warning,
    measured,
    outputs_and_labels,
    shown_confusion,
)
from videomae.model_cards.run_cards import folder_sha256, write_run_card
from videomae.modeling_videomae import VideoMAEForVideoClassification
from videomae.models import open_config
from videomae.sampling_videomae import ClipSampling
from videomae.training import lora
from videomae.training.batches import StepPlan
from videomae.training.classifiers import build_classifier, class_weights, freeze
from videomae.training.distillation import Teacher, TeacherCollator, read_teacher_scores
from videomae.training.forecast import dry_run
from videomae.training.loop import Loop, Parts, overfit
from videomae.training.objective import Objective
from videomae.training.optimisation import averaged
from videomae.training.options import FINETUNE, FinetuneOptions, read_arguments
from videomae.training.progress import say
from videomae.training.recipes import PROBLEMS, FinetuneRecipe
from videomae.training.session import Session, explained_broken_videos, named_data
from videomae.video_processing_videomae import VideoMAEVideoProcessor

EARLY_VALIDATIONS = 3  # a head that is at chance after as many looks is worth a warning

# ----------------------------------------------------------------------------------------------------------- the run


def train(recipe: FinetuneRecipe, options: FinetuneOptions) -> int:
    """Run a fine-tuning to its end; returns the exit code."""
    session = Session(recipe, options)
    data = build_data(recipe, options, session.say)
    for dataset in filter(None, (data.train, data.validation)):
        refuse_broken(dataset.manifest, max_broken=options.max_broken, errors=options.errors)
    model = build_model(recipe, data, session.say)
    plan, watch = session.plan(len(data.train)), Watch(DECISIVE[data.problem])
    probe_steps = recipe.probe_epochs * plan.steps_per_epoch  # while only the head moves
    parts = Parts(
        model=model,
        dataset=data.train,
        collate=build_collator(recipe, data, plan),
        facts=data.facts,
        summary=summary(data),
        write_files=lambda folder, steps: write_model_files(
            folder, session, data, plan, steps, validation_results(watch, recipe, data)
        ),
        loss=build_objective(recipe, data, model.config, session.device),
        still=lambda step: model.videomae.parameters() if step < probe_steps else (),
        notes=watch,
        write_state=functools.partial(lora.write, model) if recipe.lora_rank else None,
        read_state=functools.partial(lora.restore, model) if recipe.lora_rank else None,
        smallest=2 if mixes(recipe) and recipe.num_samples % 2 else 1,
    )
    if options.dry_run:
        return dry_run(session, plan, parts)
    with Loop(session, plan, parts) as loop:
        for done in loop:
            if data.validation and (loop.every_epochs(options.validate_every) or done == plan.total_steps):
                look(loop, data, data.validation, watch)
                if 0 < options.early_stopping <= watch.worse_in_row:
                    looks = f"no better validation for {watch.worse_in_row} looks"
                    loop.stop(f"{looks}: stopped, the best was step {watch.best_step}")
    if loop.ended and (options.test_data or options.test_split):
        test_at_the_end(loop, recipe, options, data, watch)
    return session.end(loop.exit_code)


def look(loop: Loop, data: "ClassificationData", validation: VideoDataset, watch: Watch) -> None:
    """Validate, keep the best, and note what a user should know."""
    session = loop.session
    with averaged(loop.plain_model, loop.ema):
        outputs, labels = outputs_and_labels(
            session.accelerator,
            loop.model,
            validation,
            ClassificationCollator(mean=data.mean, std=data.std, as_bytes=True),
            clips_per_device=max(loop.plan.clips_per_device, 1),
            num_workers=session.workers,
        )
        metrics = measured(outputs, labels, data.problem)
        given = validation.manifest.given_labels.tolist()
        beside = {"val_top1": f"chance {chance(given):.3g}"} if "top1" in metrics else {}
        values = {f"val_{name}": value for name, value in metrics.items()}
        loop.log.line(loop.done, values, what="validation", beside=beside)
        if watch.note(loop.done, metrics):
            if "top1" in metrics:
                watch.confusion_matrix = shown_confusion(outputs.argmax(-1), labels, data.num_labels)
            loop.write_model(BEST)
            watch.weights_sha256 = (
                folder_sha256(loop.run.folder / BEST) if session.accelerator.is_main_process else None
            )
    loop.ask_to_save()
    if watch.looks == EARLY_VALIDATIONS and data.problem == "single_label_classification":
        epochs = round(loop.done / loop.plan.steps_per_epoch)
        if warning := chance_warning(metrics, given, epochs=epochs, base_lr=session.recipe.base_lr):
            session.say(warning)


def test_at_the_end(
    loop: Loop, recipe: FinetuneRecipe, options: FinetuneOptions, data: "ClassificationData", watch: Watch
) -> None:
    """The multi-view test of the weights that evaluation/final_test.py decides on; their card gets the result."""
    session, run = loop.session, loop.run.folder
    name = weights_to_test(
        recipe.test_weights, early_stopping=options.early_stopping > 0, has_best=(run / BEST).is_dir()
    )
    validation = data.validation.manifest if data.validation else None
    tested = test(run / name, recipe, options, data.class_names, output=run / "test", validation=validation)
    if tested:
        results = [*validation_results(watch, recipe, data), card_result(tested)]
        write_model_files(run / name, session, data, loop.plan, watch.best_step if name == BEST else loop.done, results)


def validation_results(watch: Watch, recipe: FinetuneRecipe, data: "ClassificationData") -> list[dict[str, Any]]:
    """The best validation so far, for the card."""
    if data.validation is None:
        return []
    by_guess = None
    if data.problem == "single_label_classification":
        by_guess = chance(data.validation.manifest.given_labels.tolist())
    found = watch.results(
        dataset=data.facts["validation"], videos=len(data.validation), num_frames=recipe.num_frames, chance=by_guess
    )
    known = {name: data.facts[name] for name in ("dataset_id",) if name in data.facts}
    return [{**result, **known} for result in found]


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


def build_data(recipe: FinetuneRecipe, options: FinetuneOptions, say=say) -> ClassificationData:
    if not options.data:
        raise ValueError("--data is missing: a folder with a sub-folder per class, or a list of videos with labels")
    names = read_names(options.class_names) if options.class_names else None
    read = {"root": options.data_root, "label_kind": recipe.label_kind, "num_labels": recipe.num_labels}
    read["background"] = options.background
    use_cache(options.cache_dir, options.cache_gib)
    train = open_manifest(options.data, split=options.train_split, class_names=names, **read)
    train.check_labels(num_labels=recipe.num_labels, classes=recipe.label_kind == "class")
    names, num_labels = train.class_names, recipe.num_labels or train.num_labels
    assert num_labels is not None  # there are labels
    if names is not None and len(names) != num_labels:
        raise ValueError(
            f"num_labels is {num_labels}, by --num_labels or the recipe, but {train.origin} has {len(names)} class names; "
            "--num_labels none takes the number from the data"
        )
    validation = None
    if options.val_data or options.val_split:
        source = options.val_data or options.data
        validation = open_manifest(source, split=options.val_split, class_names=names, **read)
    elif options.val_share or options.fold:
        train, validation = split_off(train, options, recipe.seed)
    if validation is not None:
        validation.check_labels(num_labels=num_labels, classes=False)
    elif options.early_stopping:
        raise ValueError("--early_stopping needs validation videos: --val_data, --val_split, --val_share or --fold")
    if recipe.label_kind == "class":
        name_empty_classes(train, names, num_labels, say)

    sampling = ClipSampling(
        strategy=recipe.sampling,
        num_frames=recipe.num_frames,
        stride_frames=recipe.stride_frames,
        clips=recipe.test_clips,
        crops=recipe.test_crops,
        rule="reference_v2" if recipe.version == 2 else "reference",
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
    common = {"sampling": sampling, "seed": recipe.seed, "max_broken": options.max_broken, "errors": options.errors}
    facts: dict[str, Any] = {
        **named_data(options, options.data),
        "clips": len(train),
        "classes": num_labels,
        "manifest_sha256": train.sha256(labels=True),
    }
    if options.fold:
        facts["fold_held_out"] = options.fold
    if recipe.label_kind == "class" and num_labels <= SHOWN_CLASSES:
        facts["clips_per_class"] = train.given_labels.bincount(minlength=num_labels).tolist()
    if validation is not None:
        name = options.dataset_name or Path(options.val_data or options.data).name
        facts |= {"validation": name, "validation_clips": len(validation)}
    return ClassificationData(
        train=VideoDataset(
            train, mode="train", transform=transform, num_samples=recipe.num_samples, as_bytes=True, **common
        ),
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
        facts=facts,
    )


def split_off(manifest: Manifest, options: FinetuneOptions, seed: int) -> tuple[Manifest, Manifest]:
    """Training and validation videos by --val_share or --fold, with the groups of --groups in one piece."""
    if options.val_share and options.fold:
        raise ValueError("--val_share and --fold both say what is held out; choose one")
    if options.group_column and not options.groups:
        raise ValueError("--group_column names a column of --groups, which is missing")
    groups = groups_of(manifest, options.groups, options.group_column) if options.groups else None
    if options.fold:
        return split_fold(manifest, parse_fold(options.fold), groups)
    if groups is None and manifest.stretches is None:
        return held_out(manifest, options.val_share, seed)
    if not 0 < options.val_share < 1:
        raise ValueError(f"--val_share must be between 0 and 1, not {options.val_share}")
    return split_share(manifest, options.val_share, groups, seed=seed)


def held_out(manifest: Manifest, share: float, seed: int) -> tuple[Manifest, Manifest]:
    """Split off a seeded share of each class for validation; every class keeps at least one video to train on."""
    if not 0 < share < 1:
        raise ValueError(f"--val_share must be between 0 and 1, not {share}")
    order = torch.randperm(len(manifest), generator=generator_for(sample_key(seed, 0, 0, 0), "held out")).tolist()
    groups: dict[Any, list[int]] = {}
    for index in order:
        label = manifest.label(index)
        groups.setdefault(label if isinstance(label, int) else None, []).append(index)
    validation = sorted(index for members in groups.values() for index in members[: int(share * len(members))])
    if not validation:
        raise ValueError(
            f"--val_share {share} selects no validation video from classes this small; raise it, or give --val_data"
        )
    chosen = set(validation)
    return manifest.subset([index for index in range(len(manifest)) if index not in chosen]), manifest.subset(
        validation
    )


def name_empty_classes(manifest: Manifest, names: Sequence[str] | None, num_labels: int, say) -> None:
    empty = sorted(set(range(num_labels)) - set(manifest.given_labels.tolist()))
    if empty:
        shown = ", ".join(names[label] if names else str(label) for label in empty[:8])
        say(
            f"{len(empty)} of {num_labels} classes have no training video ({shown}{' ...' if len(empty) > 8 else ''}); "
            "the classifier will not learn them"
        )


def build_model(recipe: FinetuneRecipe, data: ClassificationData, say=say) -> VideoMAEForVideoClassification:
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
                say(f"{recipe.model} was trained with {name} {value}; it is fine-tuned with {fields[name]} (--{name})")
    model = build_classifier(
        recipe.model,
        num_labels=data.num_labels,
        class_names=data.class_names,
        problem_type=data.problem,
        init_head_from=recipe.init_head_from,
        version=recipe.version,
        config_fields=fields,
        say=say,
    )
    if recipe.lora_rank:
        if recipe.freeze != "none" or recipe.ema_decay or recipe.probe_epochs:
            raise ValueError("--lora_rank freezes the model itself; leave --freeze, --probe_epochs and --ema_decay out")
        say(f"LoRA of rank {recipe.lora_rank}: {lora.add_lora(model, recipe.lora_rank):,} parameters are trained")
    elif recipe.freeze != "none":
        say(f"frozen: {recipe.freeze}; {freeze(model, recipe.freeze):,} parameters are trained")
    return model


def build_objective(
    recipe: FinetuneRecipe, data: ClassificationData, config: VideoMAEConfig, device: torch.device
) -> Objective:
    weights = None
    if data.problem == "single_label_classification":
        weights = class_weights(data.train.manifest.given_labels.tolist(), data.num_labels, recipe.class_weights)
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


def mixes(recipe: FinetuneRecipe) -> bool:
    return recipe.mixup > 0 or recipe.cutmix > 0


def build_collator(recipe: FinetuneRecipe, data: ClassificationData, plan: StepPlan) -> Any:
    mixing = None
    if mixes(recipe):
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
    collate = ClassificationCollator(mixing, data.mean, data.std, as_bytes=True)
    if recipe.teacher_scores:
        return TeacherCollator(
            collate, read_teacher_scores(recipe.teacher_scores, data.train.manifest, data.num_labels)
        )
    return collate


# -------------------------------------------------------------------------------------------------- records and tests


def summary(data: ClassificationData) -> dict[str, Any]:
    """What a user should know of the data before the first step; also kept in run.json."""
    return {
        "classes": f"{data.num_labels} ({data.problem})",
        "videos": f"{len(data.train)} to train on, {len(data.validation) if data.validation else 0} to validate",
    }


def write_model_files(
    folder: Path,
    session: Session,
    data: ClassificationData,
    plan: StepPlan,
    steps: int,
    results: list[dict[str, Any]],
) -> None:
    """What makes weights a model that others can use: its processor, with the test's views, and its card."""
    recipe = session.recipe
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
        log=session.log,
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
    validation: Manifest | None = None,
) -> dict[str, Any] | None:
    """The multi-view test of a model folder, by `videomae evaluate`'s own code; prints its report."""
    state = evaluation.PartialState()
    model = evaluation.load_classifier(str(folder)).to(state.device)
    use_cache(options.cache_dir, options.cache_gib)
    manifest = open_manifest(
        options.test_data or options.data,
        split=options.test_split,
        root=options.data_root,
        class_names=class_names,
        label_kind=recipe.label_kind,
        background=options.background,
    )
    if warning := chosen_on_the_test(Path(folder).name, validation, manifest):
        say(warning)
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
        errors=options.errors,
    )
    if results is not None:
        print("\n".join(evaluation.report_lines(results, classes=5)))
        print(f"written: {output}/results.json, predictions.parquet")
    return results


def card_result(tested: Mapping[str, Any]) -> dict[str, Any]:
    """A multi-view test as the card of a run wants it."""
    names = ("dataset", "protocol", "metrics", "videos", "date", "data_sha256", "weights_sha256")
    single = ("chance", "confusion_matrix")  # of one class a video, the matrix where there are few classes
    return {"split": "test", **{name: tested[name] for name in (*names, *single) if name in names or name in tested}}


vars(test)["__test__"] = False  # a name that pytest would otherwise collect where it is imported

# ----------------------------------------------------------------------------------------------------------- overfit

OVERFIT_STEPS, OVERFIT_GOAL = 300, 0.05


def overfit_videos(recipe: FinetuneRecipe, options: FinetuneOptions) -> int:
    """A test of the whole path from files to weights on a few videos, without augmentation; writes nothing."""
    gentle = dataclasses.replace(
        recipe, mixup=0.0, cutmix=0.0, label_smoothing=0.0, drop_path_rate=0.0, head_dropout_prob=0.0, layer_decay=None,
        teacher=None, teacher_scores=None,
    )  # fmt: skip
    session = Session(gentle, options)
    data = build_data(gentle, options)
    by_class = sorted(range(len(data.train)), key=lambda index: index % max(len(data.train) // options.overfit, 1))
    clips = VideoDataset(
        data.train.manifest.subset(by_class[: options.overfit]),
        mode="validation",
        sampling=data.train.sampling,
        transform=EvalTransform(recipe.image_size),
    )
    collate = ClassificationCollator(mean=data.mean, std=data.std)
    model = build_model(gentle, data)
    return overfit(
        session,
        model,
        collate([clips[index] for index in range(len(clips))]),
        build_objective(gentle, data, model.config, session.device),
        what=f"{len(clips)} videos",
        steps=OVERFIT_STEPS,
        goal=OVERFIT_GOAL,
        advice="the labels of these videos, the clips themselves, and --freeze",
    )


# ------------------------------------------------------------------------------------------------------ command line


def main(argv: list[str] | None = None) -> int:
    recipe, options, given, named = read_arguments(FINETUNE, argv)
    if recipe.model not in PRESETS and named:  # a recorded recipe has been fitted
        open_config(recipe.model)
        recipe = fitted_to_start(recipe, given=given)
    with explained_broken_videos():
        if options.eval_only:
            return eval_only(recipe, options, model=given.get("model"))
        return overfit_videos(recipe, options) if options.overfit else train(recipe, options)


def fitted_to_start(recipe: FinetuneRecipe, *, given: Mapping[str, Any]) -> FinetuneRecipe:
    """A folder brings its own architecture, and small-data keeps the clips that it was trained on."""
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
    Session(recipe, options)
    output = Path(options.output, "test") if options.output else Path("evaluations", Path(folder).name)
    names = read_names(options.class_names) if options.class_names else None
    test(folder, recipe, options, names, output=output)
    return 0


if __name__ == "__main__":
    sys.exit(guarded("videomae finetune", main, sys.argv[1:]))
