"""Recipes and run options on the command line and in files: both are dataclasses whose fields say what they are.

`read_arguments` turns the words of a training command into its recipe and options; `write_recipe` and `read_recipe`
keep a recipe as YAML. What a training *is* stands in `recipes.py`; `RunOptions` below is where and on what it runs, and
never changes the result. Needs neither torch nor transformers: mistakes are answered before these are imported.
"""

import argparse
import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import Any, NamedTuple, TypeVar

import yaml

from videomae.choices import AVA_PROTOCOLS, CONFIG_BOUNDS, PRESETS
from videomae.command_line import (
    Parser,
    UsageError,
    add_fields,
    background_option,
    check_path,
    check_paths,
    checked_values,
    errors_option,
    given_fields,
    option,
    options_from,
    plain,
)
from videomae.files import write_atomic
from videomae.training.recipes import DETECTION, FINETUNING, PRETRAINING, Recipe, find_recipe

R = TypeVar("R", bound=Recipe)
RECIPE, RECORD = "recipe.yaml", "run.json"  # in the folder of a run

# Whatever a recipe counts, wherever it comes from: below these nothing can be trained, above them memory or time ends.
RECIPE_BOUNDS = {
    **CONFIG_BOUNDS,
    **dict.fromkeys(("num_samples", "test_clips", "test_crops"), (1, 1024)),
    **dict.fromkeys(("stride_frames", "short_side"), (1, 100_000)),
    **dict.fromkeys(("clips_per_step", "lr_batch"), (1, 10_000_000)),
    **dict.fromkeys(("epochs", "warmup_epochs"), (0, 1_000_000)),
}


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Where a training runs, what it writes and how often; the same recipe gives the same weights under all of them."""

    output: str = option(
        "", "run", "folder of the run: recipe, log, checkpoints, best and final model", metavar="FOLDER", once=True
    )
    resume: str = option(
        "never",
        "run",
        "auto: resume from the newest whole checkpoint in the folder, with that run's recipe and options where none are "
        "given; never: start from the beginning",
        once=True,
    )
    max_broken: float = option(
        0.01, "run", "stop when more than this share of the videos cannot be read", least=0, most=1
    )

    clips_per_device: int | None = option(
        None, "devices", "videos on one device at a time; the rest of a step is accumulated [all at once]", least=1
    )
    mixed_precision: str = option(
        "auto", "devices", "auto: bf16 on accelerators that have it", choices=("auto", "bf16", "fp16", "no")
    )
    num_workers: int | None = option(
        None, "devices", "processes that decode videos, per device [by CPU cores]", least=0
    )
    compile: bool = option(False, "devices", "torch.compile the model; needs a C++ compiler")
    max_loss_scale: float = option(2.0**16, "devices", "fp16: the loss scale never grows above this")

    save_every: int = option(1000, "checkpoints", "steps between checkpoints; one is also written after a validation")
    save_minutes: float = option(
        10.0, "checkpoints", "minutes between checkpoints, whatever the steps (0: by steps only)"
    )
    keep_last: int = option(2, "checkpoints", "newest checkpoints to keep")
    keep_every: int | None = option(None, "checkpoints", "also keep every checkpoint whose step this divides")

    dataset_name: str | None = option(
        None,
        "run",
        "what the card calls the data, such as its name on the Hub, owner/name [the name of its file or folder]",
    )

    log_every: int = option(10, "logging", "steps between lines of the log")
    trackers: tuple[str, ...] = option((), "logging", "also log to these (tensorboard, wandb, trackio, ...)")

    max_steps: int | None = option(
        None, "checks", "stop after this many steps; the schedule stays the full one", once=True
    )
    max_bad_steps: int = option(20, "checks", "stop after this many steps in a row with a non-finite gradient")
    dry_run: bool = option(
        False,
        "checks",
        "build everything, make a few steps, forecast time and memory; with --output write the run's card there, and nothing else",
        once=True,
    )


def cache_dir_option() -> Any:
    """With `cache_gib_option`, what VIDEOMAE_CACHE and VIDEOMAE_CACHE_GIB say otherwise (data/remote.py)."""
    return option(
        None,
        "run",
        "keep videos of shards behind a URL in this local folder [VIDEOMAE_CACHE, or ~/.cache/videomae/shards]",
        metavar="FOLDER",
    )


def cache_gib_option() -> Any:
    return option(
        None, "run", "the most that it may hold, in GiB (0: no cache) [VIDEOMAE_CACHE_GIB, or 16]", least=0, most=10**6
    )


@dataclass(frozen=True, kw_only=True)
class PretrainOptions(RunOptions):
    """Where the videos are, and the looks at what is learnt."""

    data: str = option("", "run", "videos: a folder, or a list in any of the layouts of docs/data.md", kind="path")
    data_root: str | None = option(None, "run", "folder that relative paths of the list start from", kind="folder")
    errors: str = errors_option("run")
    cache_dir: str | None = cache_dir_option()
    cache_gib: float | None = cache_gib_option()
    picture_every: int = option(0, "logging", "epochs between pictures of a reconstruction (0: none)")
    overfit: int = option(
        0, "checks", "overfit this many fixed samples, a test of the whole path; writes nothing", once=True
    )


@dataclass(frozen=True, kw_only=True)
class FinetuneOptions(RunOptions):
    """Where the videos are, and when the classifier is looked at."""

    data: str = option(
        "", "run", "labelled videos to train on: a folder per class, or a list (docs/data.md)", kind="path"
    )
    val_data: str | None = option(None, "run", "labelled videos to validate on while training", kind="path")
    val_share: float = option(0.0, "run", "without --val_data: share of each class held out from --data")
    fold: str | None = option(
        None, "run", "without --val_data: of so many equal parts of --data, this one is held out, such as 2/5"
    )
    groups: str | None = option(
        None,
        "run",
        "a table with the paths and their groups (patients, cameras), which --val_share and --fold keep whole",
        kind="file",
    )
    group_column: str | None = option(None, "run", "its column of groups [group, patient, subject, camera, ...]")
    test_data: str | None = option(None, "run", "labelled videos for the multi-view test after training", kind="path")
    train_split: str | None = option(None, "run", "which part of --data, where it has several")
    val_split: str | None = option(None, "run", "which part of --val_data (of --data, where only that is given)")
    test_split: str | None = option(None, "run", "which part of --test_data (of --data, where only that is given)")
    data_root: str | None = option(None, "run", "folder that relative paths of the lists start from", kind="folder")
    errors: str = errors_option("run")
    cache_dir: str | None = cache_dir_option()
    cache_gib: float | None = cache_gib_option()
    class_names: str | None = option(None, "run", "file with the class names, for lists that have numbers", kind="file")
    background: str | None = background_option("run")

    validate_every: int = option(1, "validation", "epochs between validations, one clip a video (0: only at the end)")
    early_stopping: int = option(0, "validation", "stop after this many validations without a better one (0: never)")
    eval_only: bool = option(
        False, "validation", "no training: multi-view test of --model (or of OUTPUT/best)", once=True
    )
    overfit: int = option(0, "checks", "overfit this many videos, a test of the whole path; writes nothing", once=True)


@dataclass(frozen=True, kw_only=True)
class DetectionOptions(RunOptions):
    """Where movies, annotations and persons are, and how often the detector is tested."""

    movies: str = option(
        "", "data", "folder of movies, of folders with a file per second, or of folders of frames", kind="folder"
    )
    annotations: str = option("", "data", "training annotations, an AVA CSV", kind="file")
    excluded: str | None = option(None, "data", "CSV of training key frames to leave out", kind="file")
    proposals: str | None = option(None, "data", "detected persons for training (.pkl, .csv, .json)", kind="file")
    proposal_images: str | None = option(
        None, "data", "the COCO file that describes the images of a .json of results", kind="file"
    )
    actions: str | None = option(None, "data", "action list (pbtxt) that names the outputs", kind="file")
    starts_at: float | None = option(
        None, "data", "second at which the movies begin [0, or 900 where they are too short]"
    )
    frames_per_second: float = option(30.0, "data", "of folders of frames")
    errors: str = errors_option("data")
    missing_movies: str = option("error", "data", "key frames without a movie", choices=("error", "skip"))

    val_annotations: str | None = option(None, "test", "annotations to test on", kind="file")
    val_movies: str | None = option(None, "test", "folder of their movies [--movies]", kind="folder")
    val_excluded: str | None = option(None, "test", "CSV of key frames that do not count", kind="file")
    val_key_frames: str | None = option(
        None, "test", "CSV of the key frames to test [the annotated ones and those with detected persons]", kind="file"
    )
    val_proposals: str | None = option(None, "test", "detected persons [the annotated ones]", kind="file")
    val_proposal_images: str | None = option(None, "test", "the COCO file that describes their images", kind="file")
    val_classes: str | None = option(None, "test", "action list of the classes that count [all]", kind="file")
    protocol: str = option(
        "ava", "test", "whose evaluation: AVA's or mmaction2's (docs/detection.md)", choices=AVA_PROTOCOLS
    )
    val_clips_per_device: int = option(1, "test", "clips on one device at a time")
    eval_every: int = option(0, "test", "epochs between tests while training; one is made at the end (0: only there)")
    test: str | None = option(
        None, "test", "test this model folder and train nothing; --output gets the results", kind="model", once=True
    )


# ------------------------------------------------------------------------------------------------ the command line


@dataclass(frozen=True)
class Trainer:
    """What the command line of a training consists of."""

    command: str
    about: str
    usage: str
    options: type[RunOptions]
    recipes: Mapping[str, Recipe]
    shown: tuple[str, ...]  # what `--help` shows; `--help_all` shows everything


PRETRAIN = Trainer(
    "pretrain",
    "Pre-train VideoMAE (tube mask) or VideoMAE V2 (dual masking); docs/pretraining.md walks through a run.",
    "--recipe NAME --data VIDEOS --output FOLDER",
    PretrainOptions,
    PRETRAINING,
    ("data", "data_root", "output", "resume", "model", "epochs", "clips_per_step", "base_lr")
    + ("clips_per_device", "mixed_precision", "num_workers", "save_every", "overfit", "dry_run"),
)
FINETUNE = Trainer(
    "finetune",
    "Fine-tune a classifier on labelled videos, from a pre-trained model, another classifier, or nothing; "
    "docs/finetuning.md walks through a run.",
    "--recipe NAME --model MODEL --data VIDEOS --output FOLDER",
    FinetuneOptions,
    FINETUNING,
    ("data", "val_data", "val_share", "test_data", "class_names", "data_root", "output", "resume", "model", "epochs")
    + ("clips_per_step", "base_lr", "clips_per_device", "num_workers", "eval_only", "overfit", "dry_run"),
)
TRAIN_DETECTION = Trainer(
    "train-detection",
    "Train an action detector on AVA, AVA-Kinetics, or data of one's own in the same format, or test one; "
    "docs/detection.md walks through a run.",
    "--recipe NAME --model MODEL --movies FOLDER --annotations CSV --output FOLDER",
    DetectionOptions,
    DETECTION,
    ("movies", "annotations", "actions", "val_annotations", "val_movies", "num_labels", "output", "resume", "model")
    + ("epochs", "clips_per_step", "base_lr", "clips_per_device", "num_workers", "test", "dry_run"),
)


class Arguments(NamedTuple):
    """What a training command is told."""

    recipe: Any  # one of the recipe classes; None where `--test` needs none
    options: Any  # the options class of the trainer
    given: Mapping[str, Any]  # the fields of the recipe that the command line names
    named: bool  # the recipe is one of ours, not a file


def parser_of(trainer: Trainer, *, everything: bool = False) -> Parser:
    """The parser of a training command; `everything` is for `--help_all`."""
    parser = Parser(
        prog=f"videomae {trainer.command}",
        usage=f"videomae {trainer.command} {trainer.usage} [--OPTION VALUE ...]",
        description=fill(f"{trainer.about} Values in brackets are defaults; a recipe brings its own.", 108),
        epilog=fill(f"Recipes: {', '.join(trainer.recipes)}.", 108, break_on_hyphens=False),
    )
    parser.add_argument(
        "--recipe",
        help=f"a name below, or the path of a {RECIPE}; left out with --resume: the run's own",
        metavar="NAME",
    )
    parser.add_argument("--help_all", action=_HelpAll, nargs=0, trainer=trainer, help="show every option and exit")
    shown = None if everything else trainer.shown
    add_fields(parser, trainer.options, shown=shown)
    add_fields(parser, type(next(iter(trainer.recipes.values()))), shown=shown)
    return parser


class _HelpAll(argparse.Action):
    def __init__(self, *words: Any, trainer: Trainer, **settings: Any):
        super().__init__(*words, **settings)
        self.trainer = trainer

    def __call__(self, parser, namespace, values, option_string=None):
        parser_of(self.trainer, everything=True).print_help()
        parser.exit()


def read_arguments(trainer: Trainer, argv: Sequence[str] | None) -> Arguments:
    """Recipe and options of a training command; what they name is there."""
    arguments = parser_of(trainer).parse_args(argv)
    given = given_fields(arguments, type(next(iter(trainer.recipes.values()))))
    if given.get("model", PRESETS[0]) not in PRESETS:
        check_path("--model", given["model"], "model")
    if hasattr(arguments, "test"):  # of detectors: a test needs no recipe
        recipe, options = None, options_from(arguments, trainer.options)
    else:
        # A test of classifiers needs one for nothing but its batch: the views come with the model.
        otherwise = "small-data" if hasattr(arguments, "eval_only") else None
        recipe, options = asked_for(arguments, trainer.options, trainer.recipes, otherwise=otherwise)
    check_paths(options)
    return Arguments(recipe, options, given, arguments.recipe in trainer.recipes)


def asked_for(
    arguments: argparse.Namespace,
    options_class: type[RunOptions],
    recipes: Mapping[str, Recipe],
    *,
    otherwise: str | None = None,
) -> tuple[Recipe, RunOptions]:
    """The recipe and the options of a command line. With --resume, what was not given is what the run has on record.

    `otherwise` is the recipe where neither the command line nor the folder of the run names one.
    """
    options = options_from(arguments, options_class)
    if options.resume != "never" and options.output:
        options = dataclasses.replace(options, **_recorded(options, arguments))
    if arguments.recipe is None:
        own = Path(options.output, RECIPE)
        if options.output and own.exists() and (options.resume != "never" or otherwise):
            arguments.recipe = str(own)
        elif otherwise:
            arguments.recipe = otherwise
        else:
            found = f"{options.output} holds no run to resume and " if options.resume != "never" else ""
            raise UsageError(
                f"{found}--recipe is missing; choose one of {', '.join(recipes)} or the path of a recipe.yaml"
                + "; small-data is the one for a set of your own" * ("small-data" in recipes)
            )
    try:
        return recipe_from(arguments, recipes), options
    except (ValueError, OSError) as error:
        raise UsageError(str(error)) from None


def _recorded(options: RunOptions, arguments: argparse.Namespace) -> dict[str, Any]:
    """The options of the run's last start that are still asked for: not those given now, nor those meant for one start."""
    try:
        starts = json.loads(Path(options.output, RECORD).read_text("utf-8"))["starts"]
        last = dict(starts[-1]["options"]) if starts else {}
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (ValueError, KeyError, TypeError, IndexError, RecursionError):
        raise ValueError(
            f"{Path(options.output, RECORD)} is not readable; give all options again, and remove it"
        ) from None
    lasting = {field.name for field in dataclasses.fields(options) if not field.metadata.get("once")}
    kept = {name: value for name, value in last.items() if name in lasting and not hasattr(arguments, name)}
    return checked_values(type(options), kept, where=f"{RECORD}: ")


def recipe_from(arguments: argparse.Namespace, recipes: Mapping[str, R]) -> R:
    """The recipe that `--recipe` names or points to, with the fields that were given on the command line."""
    recipe_class = type(next(iter(recipes.values())))
    name = arguments.recipe
    recipe = read_recipe(name, recipe_class) if name.endswith((".yaml", ".yml")) else find_recipe(name, recipes)
    recipe = dataclasses.replace(recipe, **given_fields(arguments, recipe_class))
    check_counts(recipe)
    return recipe


def check_counts(recipe: Recipe, where: str = "") -> None:
    """Refuse a recipe with a count that no training can have, by its field."""
    counts = {**plain(recipe), **{f"config.{name}": value for name, value in recipe.config.items()}}
    for field, value in counts.items():
        least, most = RECIPE_BOUNDS.get(field.removeprefix("config."), (None, None))
        for number in value if isinstance(value, (list, tuple)) else [value]:
            if least is not None and isinstance(number, (int, float)) and not least <= number <= most:
                raise ValueError(f"{where}{field} must be in {least} ... {most}, not {number}")


# ---------------------------------------------------------------------------------------------------------- files


def write_recipe(path: str | os.PathLike, recipe: Recipe) -> Path:
    """The whole recipe as YAML, every field written out, so that a later version's defaults change nothing."""
    content = yaml.safe_dump({"kind": recipe.kind, **plain(recipe)}, sort_keys=False, allow_unicode=True, width=120)
    return write_atomic(
        path, f"# A {recipe.kind} recipe, complete; `--recipe {Path(path).name}` repeats the run.\n{content}"
    )


def read_recipe(path: str | os.PathLike, recipe_class: type[R]) -> R:
    try:
        content = yaml.safe_load(Path(path).read_text("utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(
            f"--recipe {path}: no such file; give the path of a recipe.yaml, or a recipe's name"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not readable YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise ValueError(f"{path} is nested too deep for a recipe; it must hold `field: value` a line") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold one recipe, `field: value` a line")
    kind = content.pop("kind", recipe_class.kind)
    if kind != recipe_class.kind:
        kind = kind if isinstance(kind, str) else type(kind).__name__
        raise ValueError(f"{path} is a {kind} recipe; this script needs one for {recipe_class.kind}")
    recipe = recipe_class(**checked_values(recipe_class, content, where=f"{path}: "))
    check_counts(recipe, f"{path}: ")
    return recipe
