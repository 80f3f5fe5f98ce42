"""Check a data set before training on it: `videomae check-data DATA`.

    videomae check-data train.csv --test_data val.csv --model FOLDER
    videomae check-data videos/ --videos_to_open all --output report.json

Ends with 0 if nothing is wrong and with 1 if something is.
"""

import json
import os
from dataclasses import dataclass

from videomae.choices import LABEL_KINDS
from videomae.command_line import DONE, FAILED, argument, background_option, errors_option, option, read_options


@dataclass(frozen=True, kw_only=True)
class Options:
    data: str = argument("a list, table, folder or prepared set", kind="path")
    data_root: str | None = option(None, "data", "where relative paths start [the folder of the list]", kind="folder")
    split: str | None = option(None, "data", "which part of the data set")
    layout: str | None = option(None, "data", "the layout, where it is not recognised")
    label_kind: str = option("class", "data", "what a label is: one class, several, or a number", choices=LABEL_KINDS)
    background: str | None = background_option("data")
    num_labels: int | None = option(None, "data", "the number of classes that labels must stay below")
    test_data: str | None = option(
        None, "data", "another set whose videos must not be among these, compared by content", kind="path"
    )
    test_split: str | None = option(None, "data", "which part of the test set (of DATA, where only that is given)")
    errors: str = errors_option("data")
    model: str | None = option(None, "data", "a model folder whose class names the data should have", kind="model")

    videos_to_open: int | None = option(200, "work", "how many videos to open in part, or all", none="all", least=0)
    num_frames: int = option(16, "work", "of a clip that you will train on", least=1)
    stride_frames: int = option(4, "work", "frames between two of its frames", least=1)
    clips_per_second: float = option(50.0, "work", "what your trainer can take", above=0)
    num_workers: int = option(os.cpu_count() or 1, "work", "threads that read", least=1)

    output: str | None = option(None, "report", "also write the whole report there, as JSON", metavar="FILE")
    json: bool = option(False, "report", "print the whole report as JSON instead of the table")


def main(argv: list[str] | None = None) -> int:
    options = read_options(Options, argv, command="check-data", about=__doc__)
    from videomae.data.check import check, render
    from videomae.data.lists.layouts import open_manifest
    from videomae.files import write_json
    from videomae.models import open_config
    from videomae.sampling_videomae import ClipSampling

    id2label = None
    if options.model:
        id2label = open_config(options.model, kind="ForVideoClassification", weights=False).id2label
    reading = {"root": options.data_root, "label_kind": options.label_kind, "background": options.background}
    manifest = open_manifest(options.data, split=options.split, layout=options.layout, **reading)
    test = None
    if options.test_data or options.test_split:
        names = manifest.class_names
        test = open_manifest(options.test_data or options.data, split=options.test_split, class_names=names, **reading)
    report = check(
        manifest,
        test=test,
        id2label=id2label,
        num_labels=options.num_labels or len(id2label or ()) or None,
        probe=options.videos_to_open,
        sampling=ClipSampling(num_frames=options.num_frames, stride_frames=options.stride_frames),
        workers=options.num_workers,
        errors=options.errors,
    )
    print(json.dumps(report, ensure_ascii=False) if options.json else render(report, options.clips_per_second))
    if options.output:
        write_json(options.output, report)
    return FAILED if report["problems"] else DONE
