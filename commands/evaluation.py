"""Test a classifier as the papers do, several clips and crops a video: `videomae evaluate FOLDER DATA --views 5x3`."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from videomae.choices import DTYPES, LABEL_KINDS, MATCHES
from videomae.command_line import argument, background_option, errors_option, option, read_options


def parse_views(text: str) -> tuple[int, int]:
    """ "5x3" -> (5 clips, 3 crops)."""
    clips, _, crops = text.lower().partition("x")
    if not (clips.isdigit() and crops.isdigit() and int(clips) and int(crops)):
        raise ValueError(f"views are CLIPSxCROPS, both at least 1, such as 5x3, not {text!r}")
    return int(clips), int(crops)


@dataclass(frozen=True, kw_only=True)
class Options:
    model: str = argument("model folder or Hub name, stock transformers' included", kind="model")
    data: str = argument("labelled videos: a list, a folder per class, or another layout of docs/data.md", kind="path")
    data_root: str | None = option(None, "data", "folder that relative paths of the list start from", kind="folder")
    split: str | None = option(None, "data", "which part of the data, where it has several")
    fold: str | None = option(
        None, "data", "test only this part of the data, such as 2/5: the one that `finetune --fold` holds out"
    )
    groups: str | None = option(None, "data", "with --fold: the table of groups that `finetune` had", kind="file")
    group_column: str | None = option(None, "data", "its column of groups [group, patient, subject, camera, ...]")
    max_broken: float = option(0.01, "data", "largest share of unreadable videos", least=0, most=1)
    errors: str = errors_option("data")

    views: str | None = option(
        None,
        "views",
        "clips x crops, such as 5x3 [as saved with the model]",
        convert=parse_views,
        metavar="CLIPSxCROPS",
    )
    sampling: str | None = option(None, "views", "how a clip is cut [as saved]", choices=("dense", "uniform", "spread"))
    stride_frames: int | None = option(None, "views", "frames between two frames of a dense clip [as saved]", least=1)
    antialias: bool = option(False, "views", "smooth when resizing; the published tests do not")

    match: str = option("check", "labels", "how data and model classes meet", choices=MATCHES)
    label_map: str | None = option(None, "labels", "JSON: the model's class for each class of the data", kind="file")
    class_names: str | None = option(
        None, "labels", "file with the data's class names, in order, for lists of numbers", kind="file"
    )
    label_kind: str = option("class", "labels", "what a label is: one class, several, or a number", choices=LABEL_KINDS)
    background: str | None = background_option("labels")

    output: str | None = option(None, "results", "folder [evaluations/MODEL-DATA-PROTOCOL]", metavar="FOLDER")
    overwrite: bool = option(False, "results", "start over in an output folder that holds results")
    view_scores: bool = option(False, "results", "keep the scores of single views too")
    json: bool = option(False, "results", "print what results.json holds instead of the report")
    table_rows: int = option(10, "results", "rows of the class and confusion tables printed", least=0)
    save_seconds: float = option(30.0, "results", "between two saves of what is done")

    batch_size: int = option(16, "machine", "clips (views) in one forward pass", least=1)
    num_workers: int | None = option(None, "machine", "decoding processes [none on a CPU, 4 on a GPU]", least=0)
    dtype: str = option("float32", "machine", "autocast of the model", choices=DTYPES)
    device: str | None = option(None, "machine", "such as cpu or cuda [what there is]", metavar="DEVICE")


def main(argv: list[str] | None = None) -> int:
    options = read_options(Options, argv, command="evaluate", about=__doc__)
    import torch
    from accelerate import PartialState

    from videomae.data.lists.groups import groups_of, parse_fold, split_fold
    from videomae.data.lists.label_files import read_names
    from videomae.data.lists.label_names import names_of
    from videomae.data.lists.layouts import open_manifest
    from videomae.evaluation import multi_view
    from videomae.files import check_output
    from videomae.models import open_device

    # Without an accelerator accelerate starts no process group unless it is told that the CPU is meant.
    state = PartialState(cpu=options.device == "cpu" or not torch.accelerator.is_available())
    device = open_device(options.device or str(state.device))
    if options.output:
        check_output(options.output)
    model = multi_view.load_classifier(options.model).to(device)
    manifest = open_manifest(
        options.data,
        root=options.data_root,
        split=options.split,
        class_names=read_names(options.class_names) if options.class_names else None,
        label_kind=options.label_kind,
        background=options.background,
    )
    if options.fold:
        groups = groups_of(manifest, options.groups, options.group_column) if options.groups else None
        _, manifest = split_fold(manifest, parse_fold(options.fold), groups)
    columns = None
    if options.label_map:
        columns = multi_view.read_label_map(options.label_map, manifest.class_names, names_of(model.config.id2label))
    views = multi_view.saved_views(options.model, model.config).changed(
        views=cast(tuple[int, int] | None, options.views),  # what parse_views made of it
        strategy=options.sampling,
        stride_frames=options.stride_frames,
        antialias=options.antialias,
    )
    fold = options.fold and f"fold-{options.fold.replace('/', '-of-')}"
    dataset = "-".join(filter(None, (Path(options.data).stem, options.split, fold)))
    output = options.output or Path("evaluations", f"{Path(options.model).name}-{dataset}-{views.protocol}")
    before = Path(output, "results.json").is_file() and not options.overwrite
    results = multi_view.evaluate(
        model,
        manifest,
        views,
        output=output,
        dataset=dataset,
        model_name=options.model,
        match=options.match,
        columns=columns,
        dtype=options.dtype,
        views_per_step=options.batch_size,
        num_workers=options.num_workers if options.num_workers is not None else 0 if device.type == "cpu" else 4,
        max_broken=options.max_broken,
        keep_view_scores=options.view_scores,
        save_seconds=options.save_seconds,
        overwrite=options.overwrite,
        errors=options.errors,
    )
    if results is None:  # of another process
        return 0
    if options.json:
        print(json.dumps(results, indent=2, sort_keys=True, ensure_ascii=False))
        return 0
    print("\n".join(multi_view.report_lines(results, classes=options.table_rows)))
    print(f"{'done before' if before else 'written'}: {output}/results.json, predictions.parquet")
    return 0
