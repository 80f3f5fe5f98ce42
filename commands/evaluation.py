"""Test a classifier as the papers do, several clips and crops a video: `videomae evaluate FOLDER DATA --views 5x3`."""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import PartialState

from videomae.data.lists.label_files import read_names
from videomae.data.lists.label_names import MATCHES, names_of
from videomae.data.lists.layouts import open_manifest
from videomae.data.lists.manifests import LABEL_KINDS
from videomae.evaluation.multi_view import Views, evaluate, load_classifier, read_label_map, report_lines, saved_views
from videomae.files import check_output
from videomae.models import DTYPES, open_device


def parse_views(text: str) -> tuple[int, int]:
    """ "5x3" -> (5 clips, 3 crops)."""
    clips, _, crops = text.lower().partition("x")
    if not (clips.isdigit() and crops.isdigit() and int(clips) and int(crops)):
        raise argparse.ArgumentTypeError(f"views are CLIPSxCROPS, both at least 1, such as 5x3, not {text!r}")
    return int(clips), int(crops)


def changed_views(views: Views, arguments: argparse.Namespace) -> Views:
    """What the command line changes of the saved views."""
    sampling = views.sampling
    if arguments.views:
        sampling = replace(sampling, clips=arguments.views[0], crops=arguments.views[1])
    for name, value in (("strategy", arguments.sampling), ("stride_frames", arguments.stride_frames)):
        if value is not None:
            sampling = replace(sampling, **{name: value})
    return replace(views, sampling=sampling, antialias=arguments.antialias)


def parser() -> argparse.ArgumentParser:
    parse = argparse.ArgumentParser(prog="videomae evaluate", description=__doc__.splitlines()[0])
    parse.add_argument("model", help="model folder or Hub name, stock transformers' included")
    parse.add_argument("data", help="labelled videos: a list, a folder per class, or another layout of docs/data.md")
    parse.add_argument("--root", help="folder that relative paths of the list start from")
    parse.add_argument("--split", help="which part of the data, where it has several")
    parse.add_argument("--output", help="folder for the results [evaluations/MODEL-DATA-PROTOCOL]")
    parse.add_argument("--overwrite", action="store_true", help="start anew in an output folder that holds results")
    views = parse.add_argument_group("views")
    views.add_argument("--views", type=parse_views, help="clips x crops, such as 5x3 [as saved with the model]")
    views.add_argument("--sampling", choices=("dense", "uniform", "spread"), help="how a clip is cut [as saved]")
    views.add_argument("--stride_frames", type=int, help="frames between two frames of a dense clip [as saved]")
    views.add_argument("--antialias", action="store_true", help="smooth when resizing; the published tests do not")
    labels = parse.add_argument_group("labels")
    labels.add_argument("--match", choices=MATCHES, default="check", help="how data and model classes meet [check]")
    labels.add_argument("--label_map", help="JSON: the model's class for each class of the data")
    labels.add_argument("--class_names", help="file with the data's class names, in order, for lists of numbers")
    labels.add_argument("--label_kind", choices=LABEL_KINDS, default="class", help="class, multi or value [class]")
    machine = parse.add_argument_group("machine")
    machine.add_argument("--dtype", choices=tuple(DTYPES), default="float32", help="autocast of the model [float32]")
    machine.add_argument("--views_per_step", type=int, default=16, help="views in one forward pass [16]")
    machine.add_argument("--num_workers", type=int, help="decoding processes [none on a CPU, 4 on a GPU]")
    machine.add_argument("--device", help="such as cpu or cuda [what there is]")
    machine.add_argument("--max_broken", type=float, default=0.01, help="largest share of unreadable videos [0.01]")
    machine.add_argument("--save_seconds", type=float, default=30.0, help="between two saves of what is done [30]")
    machine.add_argument("--view_scores", action="store_true", help="keep the scores of single views too")
    machine.add_argument("--json", action="store_true", help="print what results.json holds instead of the report")
    machine.add_argument("--classes", type=int, default=10, help="rows of the class and confusion tables printed [10]")
    return parse


def main(argv: list[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    if arguments.views_per_step < 1:
        raise ValueError(f"--views_per_step must be at least 1, not {arguments.views_per_step}")
    # Without an accelerator accelerate starts no process group unless it is told that the CPU is meant.
    state = PartialState(cpu=arguments.device == "cpu" or not torch.accelerator.is_available())
    device = open_device(arguments.device) if arguments.device else state.device
    if arguments.output:
        check_output(arguments.output)
    model = load_classifier(arguments.model).to(device)
    model_names = names_of(model.config.id2label)
    manifest = open_manifest(
        arguments.data,
        root=arguments.root,
        split=arguments.split,
        class_names=read_names(arguments.class_names) if arguments.class_names else None,
        label_kind=arguments.label_kind,
    )
    columns = None
    if arguments.label_map:
        columns = read_label_map(arguments.label_map, manifest.class_names, model_names)
    views = changed_views(saved_views(arguments.model, model.config), arguments)
    dataset = "-".join(filter(None, (Path(arguments.data).stem, arguments.split)))
    output = arguments.output or Path("evaluations", f"{Path(arguments.model).name}-{dataset}-{views.protocol}")
    workers = arguments.num_workers if arguments.num_workers is not None else (0 if device.type == "cpu" else 4)
    results = evaluate(
        model,
        manifest,
        views,
        output=output,
        dataset=dataset,
        model_name=arguments.model,
        match=arguments.match,
        columns=columns,
        dtype=arguments.dtype,
        views_per_step=arguments.views_per_step,
        num_workers=workers,
        max_broken=arguments.max_broken,
        keep_view_scores=arguments.view_scores,
        save_seconds=arguments.save_seconds,
        overwrite=arguments.overwrite,
    )
    if results is not None:
        if arguments.json:
            print(json.dumps(results, indent=2, sort_keys=True, ensure_ascii=False))
            return 0
        print("\n".join(report_lines(results, classes=arguments.classes)))
        print(f"written: {output}/results.json, predictions.parquet")
    return 0
