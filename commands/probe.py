"""Linear, attentive and k-NN probes on frozen features: `videomae probe MODEL TRAIN TEST`."""

import json
from dataclasses import dataclass
from pathlib import Path

from videomae.choices import PROBES
from videomae.command_line import argument, check_path, errors_option, option, read_options

RANDOM = "random"


@dataclass(frozen=True, kw_only=True)
class Options:
    model: str = argument("model folder or Hub name, pre-trained or fine-tuned", kind="model")
    train: str = argument("labelled videos whose features the probes learn from", kind="path")
    test: str = argument("labelled videos to test on", kind="path")
    data_root: str | None = option(None, "data", "folder that relative paths of the lists start from", kind="folder")
    train_split: str | None = option(None, "data", "which part of TRAIN, where it has several")
    test_split: str | None = option(None, "data", "which part of TEST, where it has several")
    errors: str = errors_option("data")

    probes: tuple[str, ...] = option(PROBES, "probes", "which probes", choices=PROBES, metavar="PROBE")
    baseline: str | None = option(
        None, "probes", "also probe this folder, or `random`: fresh weights, same architecture", metavar="MODEL"
    )
    seed: int = option(0, "probes", "of the probes' weights and batches")

    output: str | None = option(
        None, "results", "folder for features and probe.json [nothing is kept]", metavar="FOLDER"
    )
    json: bool = option(False, "results", "print what probe.json holds instead of the table")

    batch_size: int = option(16, "machine", "clips in one forward pass", least=1)
    num_workers: int = option(0, "machine", "decoding processes", least=0)
    max_cache_gib: float = option(8.0, "machine", "memory for the attentive probe's tokens")
    device: str | None = option(None, "machine", "such as cpu or cuda [what there is]", metavar="DEVICE")


def main(argv: list[str] | None = None) -> int:
    options = read_options(Options, argv, command="probe", about=__doc__)
    if options.baseline not in (None, RANDOM):
        check_path("--baseline", options.baseline, "model")
    from transformers.utils import logging as transformers_logging

    from videomae.data.lists.layouts import open_manifest
    from videomae.evaluation.probes import probe_models, report_lines
    from videomae.files import check_output, write_json
    from videomae.models import open_device

    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()  # that a decoder or a head is left out is the point here
    device = open_device(options.device)
    if options.output:
        check_output(options.output)
    train = open_manifest(options.train, root=options.data_root, split=options.train_split)
    test = open_manifest(options.test, root=options.data_root, split=options.test_split, class_names=train.class_names)
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
        num_workers=options.num_workers,
    )
    if options.json:
        print(json.dumps(results, indent=2, sort_keys=True, ensure_ascii=False))
    else:
        print("\n".join(report_lines(results, train.num_labels or 0)))
    if options.output:
        write_json(Path(options.output, "probe.json"), results)
    return 0
