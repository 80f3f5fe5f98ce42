"""Linear, attentive and k-NN probes on frozen features: `videomae probe MODEL TRAIN TEST`.

`--protocol vjepa2` is V-JEPA 2's frozen evaluation, the field's common table (docs/frozen.md); without it the probes are
small and quick.
"""

import dataclasses
import functools
import json
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from videomae.choices import PROBE_PROTOCOLS, PROBE_RECIPES, PROBES
from videomae.command_line import (
    UsageError,
    argument,
    background_option,
    check_path,
    errors_option,
    option,
    plain,
    read_options,
)
from videomae.commands.evaluation import parse_views

RANDOM = "random"


@dataclass(frozen=True, kw_only=True)
class Options:
    model: str = argument("model folder or Hub name, pre-trained or fine-tuned", kind="model")
    train: str = argument("labelled videos whose features the probes learn from", kind="path")
    test: str = argument("labelled videos to test on", kind="path")
    data_root: str | None = option(None, "data", "folder that relative paths of the lists start from", kind="folder")
    train_split: str | None = option(None, "data", "which part of TRAIN, where it has several")
    test_split: str | None = option(None, "data", "which part of TEST, where it has several")
    background: str | None = background_option("data")
    errors: str = errors_option("data")

    probes: tuple[str, ...] = option(PROBES, "probes", "which probes", choices=PROBES, metavar="PROBE")
    baseline: str | None = option(
        None, "probes", "also probe this folder, or `random`: fresh weights, same architecture", metavar="MODEL"
    )
    neighbours: int = option(20, "probes", "of k-NN", least=1)
    temperature: float = option(0.07, "probes", "of k-NN: a neighbour weighs exp(similarity / temperature)", above=0)
    few_shot: tuple[int, ...] = option((), "probes", "also linear probes of so many videos a class", least=1)
    draws: int = option(5, "probes", "random choices of these videos, for a mean and a deviation", least=1)
    seed: int = option(0, "probes", "of the probes' weights, batches and draws")

    protocol: str | None = option(
        None, "protocol", "vjepa2: a grid of attentive heads on augmented clips", choices=PROBE_PROTOCOLS
    )
    recipe: str = option("ssv2", "protocol", "whose public configuration", choices=PROBE_RECIPES)
    views: str | None = option(
        None, "protocol", "segments x crops, such as 2x3 [of the recipe]", convert=parse_views, metavar="CLIPSxCROPS"
    )
    num_frames: int | None = option(None, "protocol", "frames of a segment [of the recipe]", least=1)
    stride_frames: int | None = option(None, "protocol", "frames between two of them [of the recipe]", least=1)
    levels: int | None = option(None, "protocol", "encoder blocks that give tokens [of the recipe]", least=1)
    epochs: int | None = option(None, "protocol", "passes over the videos [of the recipe]", least=1)
    clips_per_step: int | None = option(None, "protocol", "videos in an optimizer step [of the recipe]", least=1)
    learning_rates: tuple[float, ...] = option((), "protocol", "one head for each [of the recipe]", above=0)
    weight_decays: tuple[float, ...] = option((), "protocol", "and each of these [of the recipe]", least=0)
    val_share: float = option(
        0.1, "protocol", "share of the training videos held out to choose the saved head (0: none)", least=0, most=0.9
    )
    groups: str | None = option(
        None, "protocol", "a table with the paths and their groups (patients, speakers), kept whole", kind="file"
    )
    group_column: str | None = option(None, "protocol", "its column of groups [group, patient, subject, ...]")
    resume: str = option("never", "protocol", "auto: resume the run in OUTPUT", choices=("auto", "never"))
    tokens_gib: float = option(
        0.0,
        "protocol",
        "keep tokens of training videos on the disk, up to this size; their views are then the same in all epochs",
        least=0,
    )
    clips_per_device: int | None = option(None, "protocol", "videos on a device at a time [all of a step]", least=1)
    mixed_precision: str = option(
        "auto", "protocol", "auto: bf16 on accelerators that have it", choices=("auto", "bf16", "no")
    )
    gradient_checkpointing: bool = option(False, "protocol", "recompute the heads' activations: less memory, more time")
    save_minutes: float = option(10.0, "protocol", "minutes between checkpoints", above=0)
    max_broken: float = option(0.01, "protocol", "largest share of unreadable videos", least=0, most=1)

    output: str | None = option(
        None,
        "results",
        "folder for features and probe.json; with --protocol, of the run [nothing is kept]",
        metavar="FOLDER",
    )
    json: bool = option(False, "results", "print what probe.json holds instead of the table")

    batch_size: int = option(16, "machine", "clips in one forward pass of the small probes", least=1)
    num_workers: int | None = option(None, "machine", "decoding processes [0; with --protocol by CPU cores]", least=0)
    max_cache_gib: float = option(8.0, "machine", "memory for the small attentive probe's tokens")
    device: str | None = option(
        None, "machine", "such as cpu or cuda, of the small probes [what there is]", metavar="DEVICE"
    )


def main(argv: list[str] | None = None) -> int:
    options = read_options(Options, argv, command="probe", about=__doc__)
    check_group(options)
    if options.baseline not in (None, RANDOM):
        check_path("--baseline", options.baseline, "model")
    from transformers.utils import logging as transformers_logging

    from videomae.data.lists.layouts import open_manifest
    from videomae.files import write_json

    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()  # that a decoder or a head is left out is the point here
    reading = {"root": options.data_root, "background": options.background}
    train = open_manifest(options.train, split=options.train_split, **reading)
    test = open_manifest(options.test, split=options.test_split, class_names=train.class_names, **reading)
    results, lines, exit_code = frozen(options, train, test) if options.protocol else small(options, train, test)
    if exit_code or not results:
        return exit_code
    if options.json:
        print(json.dumps(results, indent=2, sort_keys=True, ensure_ascii=False))
    else:
        print("\n".join(lines(results, train.num_labels)))
    if options.output:
        write_json(Path(options.output, "probe.json"), results)
    return 0


def check_group(options: Options) -> None:
    """Options of the protocol without it, or of the small probes with it, are mistakes."""
    of_protocol = {field.name for field in dataclasses.fields(Options) if field.metadata["group"] == "protocol"}
    small_only = {"batch_size", "max_cache_gib", "device"}
    ignored = small_only if options.protocol else of_protocol
    for field in dataclasses.fields(Options):
        if field.name in ignored and getattr(options, field.name) != field.default:
            why = "is for the small probes; leave it out with" if options.protocol else "needs"
            raise UsageError(f"--{field.name} {why} --protocol {PROBE_PROTOCOLS[0]}")
    if options.protocol and not options.output:
        raise UsageError("--protocol needs --output, the folder of the run")
    if options.protocol and options.probes != PROBES and "attentive" not in options.probes:
        raise UsageError(f"--protocol {options.protocol} trains attentive heads; add attentive to --probes")


def vector_options(options: Options) -> dict[str, Any]:
    return {
        "neighbours": options.neighbours,
        "temperature": options.temperature,
        "shots": options.few_shot,
        "draws": options.draws,
    }


def small(options: Options, train: Any, test: Any) -> tuple[dict[str, Any], Any, int]:
    """The quick probes: of each model what they reach, how it is printed, and the exit code."""
    from videomae.evaluation.probes import probe_models, report_lines
    from videomae.files import check_output
    from videomae.models import open_device

    device = open_device(options.device)
    if options.output:
        check_output(options.output)
    results = probe_models(
        options.model,
        train,
        test,
        options.probes,
        baseline=options.baseline,
        folder=options.output,
        device=device,
        max_cache_gib=options.max_cache_gib,
        seed=options.seed,
        errors=options.errors,
        batch=options.batch_size,
        num_workers=options.num_workers or 0,
        vectors=vector_options(options),
    )
    return results, report_lines, 0


def frozen(options: Options, train: Any, test: Any) -> tuple[dict[str, Any], Any, int]:
    """The protocol, for the model and then for the baseline in OUTPUT/baseline."""
    from videomae.data.lists.groups import groups_of
    from videomae.evaluation.frozen_probe import FrozenOptions, report_lines, run_protocol
    from videomae.training.probe_recipes import PROBE_RECIPES, consistent

    assert options.output  # check_group asks for it
    segments, crops = options.views or (None, None)
    changes = {
        "segments": segments,
        "test_crops": crops,
        "seed": options.seed,
        "gradient_checkpointing": options.gradient_checkpointing,
        **{
            name: getattr(options, name)
            for name in ("num_frames", "stride_frames", "levels", "epochs", "clips_per_step")
        },
        **{name: getattr(options, name) or None for name in ("learning_rates", "weight_decays")},
    }
    given = {name: value for name, value in changes.items() if value is not None}
    recipe = consistent(dataclasses.replace(PROBE_RECIPES[options.recipe], **given))
    groups = groups_of(train, options.groups, options.group_column) if options.groups else None
    reports, shared = {}, ("errors", "tokens_gib", "resume", "clips_per_device", "mixed_precision", "num_workers")
    shared += ("save_minutes", "max_broken")
    for start in filter(None, (options.model, options.baseline)):
        folder = options.output if start == options.model else str(Path(options.output, "baseline"))
        run = FrozenOptions(output=folder, quiet=options.json, **{name: getattr(options, name) for name in shared})
        report, exit_code = run_protocol(
            start,
            train,
            test,
            recipe,
            run,
            like=options.model,
            val_share=options.val_share,
            groups=groups,
            probes=options.probes,
            write_card=functools.partial(write_card, start=start, data_name=Path(options.train).name),
            **vector_options(options),
        )
        if exit_code:
            return {}, None, exit_code
        if report is not None:
            reports[start] = report
    return reports, report_lines, 0


def write_card(folder: Path, trained: Any, chosen: dict[str, Any], test: Any, *, start: str, data_name: str) -> None:
    """The card of a saved probe, from the run's record."""
    from videomae.evaluation.multi_view import manifest_sha256
    from videomae.files import today
    from videomae.model_cards.run_cards import folder_sha256, write_run_card

    recipe, loop = trained.session.recipe, trained.loop
    result = {
        "dataset": Path(str(test.origin)).stem,
        "split": "test",
        "protocol": trained.views.protocol,
        "metrics": {name: chosen[name] for name in ("top1", "top5") if name in chosen},
        "videos": len(test),
        "date": today(),
        "data_sha256": manifest_sha256(test),
        "weights_sha256": folder_sha256(folder),
    }
    write_run_card(
        folder,
        task="probe",
        recipe=plain(recipe),
        clips_per_step=recipe.clips_per_step,
        steps=loop.done,
        data={"name": data_name, **loop.parts.facts},
        log=loop.run.log,
        results=[result],
        base_model=start if start != RANDOM else None,
        command=shlex.join(sys.argv),
    )
