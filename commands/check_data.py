"""Check a data set before training on it: `videomae check-data DATA`."""

import argparse
import os
import sys

from videomae.data.check import check, render
from videomae.data.lists.layouts import open_manifest
from videomae.data.lists.manifests import LABEL_KINDS
from videomae.files import write_json
from videomae.models import open_config
from videomae.sampling_videomae import ClipSampling


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="videomae check-data", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", help="a list, table, folder or prepared set")
    parser.add_argument("--test", help="another set whose videos must not be among these, compared by content")
    parser.add_argument("--model", help="a model folder whose class names the data should have")
    parser.add_argument("--root", help="where relative paths start; default: the folder of the list")
    parser.add_argument("--split", help="which part of the data set")
    parser.add_argument("--test_split", help="which part of the test set")
    parser.add_argument("--layout", help="the layout, where it is not recognised")
    parser.add_argument("--label_kind", choices=LABEL_KINDS, default="class", help="default %(default)s")
    parser.add_argument("--num_labels", type=int, help="the number of classes that labels must stay below")
    parser.add_argument("--probe", default="200", help="how many videos to open, or all; default %(default)s")
    parser.add_argument("--stride_frames", type=int, default=4, help="of the clips that you will train on")
    parser.add_argument("--num_frames", type=int, default=16, help="of a clip")
    parser.add_argument("--clips_per_second", type=float, default=50.0, help="what your trainer can take; default 50")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="threads; default: one per core")
    parser.add_argument("--json", help="also write the whole report here")
    args = parser.parse_args(argv)
    if args.probe != "all" and not args.probe.isdigit():
        parser.error(f"--probe takes a number or all, not {args.probe!r}")
    id2label = num_labels = None
    try:
        if args.model:
            id2label = open_config(args.model, kind="ForVideoClassification", weights=False).id2label
            num_labels = len(id2label) or None
        options = {"root": args.root, "label_kind": args.label_kind}
        manifest = open_manifest(args.data, split=args.split, layout=args.layout, **options)
        test = None
        if args.test or args.test_split:
            names = manifest.class_names
            test = open_manifest(args.test or args.data, split=args.test_split, class_names=names, **options)
    except (ValueError, OSError) as error:
        print(f"videomae check-data: {error}", file=sys.stderr)
        return 2
    report = check(
        manifest,
        test=test,
        id2label=id2label,
        num_labels=args.num_labels or num_labels,
        probe=None if args.probe == "all" else int(args.probe),
        sampling=ClipSampling(num_frames=args.num_frames, stride_frames=args.stride_frames),
        workers=args.workers,
    )
    print(render(report, args.clips_per_second))
    if args.json:
        write_json(args.json, report)
    return 1 if report["problems"] else 0
