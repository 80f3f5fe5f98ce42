"""Linear, attentive and k-NN probes on frozen features: `videomae probe MODEL TRAIN TEST`."""

import argparse
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers.utils import logging as transformers_logging

from videomae.data.lists.layouts import open_manifest
from videomae.data.transforms import EvalTransform
from videomae.data.video_dataset import VideoDataset
from videomae.evaluation.multi_view import manifest_sha256, saved_views
from videomae.evaluation.probes import PROBES, load_encoder, probe
from videomae.files import check_output, write_json
from videomae.models import open_config, open_device, weights_sha256


def parser() -> argparse.ArgumentParser:
    parse = argparse.ArgumentParser(prog="videomae probe", description=__doc__.splitlines()[0])
    parse.add_argument("model", help="model folder or Hub name, pre-trained or fine-tuned")
    parse.add_argument("train", help="labelled videos whose features the probes learn from")
    parse.add_argument("test", help="labelled videos to test on")
    parse.add_argument("--probes", nargs="+", choices=PROBES, default=list(PROBES), help="which probes [all]")
    parse.add_argument("--baseline", help="also probe this folder, or `random`: fresh weights, same architecture")
    parse.add_argument("--root", help="folder that relative paths of the lists start from")
    parse.add_argument("--train_split", help="which part of TRAIN, where it has several")
    parse.add_argument("--test_split", help="which part of TEST, where it has several")
    parse.add_argument("--output", help="folder for features and probe.json [nothing is kept]")
    parse.add_argument("--batch_size", type=int, default=16, help="clips in one forward pass [16]")
    parse.add_argument("--num_workers", type=int, default=0, help="decoding processes [0]")
    parse.add_argument("--max_cache_gib", type=float, default=8.0, help="memory for the attentive probe's tokens [8]")
    parse.add_argument("--device", help="such as cpu or cuda [what there is]")
    parse.add_argument("--seed", type=int, default=0)
    return parse


def main(argv: list[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()  # that a decoder or a head is left out is the point here
    device = open_device(arguments.device)
    if arguments.output:
        check_output(arguments.output)
    config = open_config(arguments.model, "model")
    configs = {arguments.model: config, "random": config}
    if arguments.baseline and arguments.baseline not in configs:
        configs[arguments.baseline] = open_config(arguments.baseline, "--baseline")
    train = open_manifest(arguments.train, root=arguments.root, split=arguments.train_split)
    test = open_manifest(arguments.test, root=arguments.root, split=arguments.test_split, class_names=train.class_names)
    train.check_labels()
    num_classes = train.num_labels
    test.check_labels(num_labels=num_classes, classes=False)

    results = {}
    for start in filter(None, (arguments.model, arguments.baseline)):
        views = saved_views(arguments.model if start == "random" else start, configs[start])
        encoder = load_encoder(start, like=arguments.model, seed=arguments.seed).to(device)
        clips = [
            VideoDataset(
                manifest,
                mode="validation",
                sampling=views.sampling,
                transform=EvalTransform(views.size),
                broken="exclude",
                max_broken=1.0,
            )
            for manifest in (train, test)
        ]
        cache = None
        if arguments.output:
            identity = [weights_sha256(encoder), *map(manifest_sha256, (train, test)), repr(views)]
            tokens = "tokens" if "attentive" in arguments.probes else "means"
            key = hashlib.sha256("|".join(identity).encode()).hexdigest()[:16]
            cache = Path(arguments.output, f"features-{tokens}-{key}.safetensors")
        results[start] = probe(
            encoder,
            *clips,
            arguments.probes,
            mean=views.mean,
            std=views.std,
            num_classes=num_classes,
            cache=cache,
            max_cache_gib=arguments.max_cache_gib,
            seed=arguments.seed,
            batch=arguments.batch_size,
            num_workers=arguments.num_workers,
        )
    print("\n".join(report(results, num_classes)))
    if arguments.output:
        write_json(Path(arguments.output, "probe.json"), results)
    return 0


def report(results: dict[str, Any], num_classes: int) -> Iterator[str]:
    """The table for a terminal: one line a probe, one column a model."""
    first = next(iter(results.values()))
    yield f"{first['train_clips']} training clips, {first['test_clips']} test clips, {num_classes} classes; top-1 in percent"
    width = max(len(Path(name).name) for name in results)
    yield f"{'':<12}" + "".join(f"  {Path(name).name:>{width}}" for name in results)
    for kind in first["probes"]:
        values = "".join(f"  {100 * result['probes'][kind]['top1']:{width}.2f}" for result in results.values())
        yield f"{kind:<12}{values}"
    for entry in first["broken"]:
        yield f"not read: {entry['path']}: {entry['error']}"
