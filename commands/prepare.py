"""Re-encode a data set once into shards or a folder: `videomae prepare DATA OUTPUT`."""

import argparse
import os
import sys
from pathlib import Path

from videomae.data.lists.layouts import open_manifest
from videomae.data.prepare import FORMATS, Recoding, prepare


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="videomae prepare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    defaults = Recoding()
    parser.add_argument("data", help="a list, table or folder of videos")
    parser.add_argument("output", help="the folder to write; an interrupted run of the same command is continued")
    parser.add_argument("--root", help="where relative paths start; default: the folder of the list")
    parser.add_argument("--split", help="which part of the data set")
    parser.add_argument("--layout", help="the layout, where it is not recognised")
    parser.add_argument("--format", choices=FORMATS, default="shards", help="default %(default)s")
    parser.add_argument("--short_side", type=int, default=defaults.short_side, help="pixels; default %(default)s")
    parser.add_argument("--codec", choices=("h264", "mjpeg"), default=defaults.codec, help="default %(default)s")
    parser.add_argument(
        "--quality", type=int, help=f"h264: crf, default {defaults.quality}, lower is better; mjpeg: 2 to 31, default 5"
    )
    parser.add_argument("--gop", type=int, default=defaults.gop, help="frames from key frame to key frame")
    parser.add_argument("--preset", default=defaults.preset, help="x264's effort; default %(default)s")
    parser.add_argument("--videos_per_shard", type=int, default=256, help="default %(default)s")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes; default: one per core")
    parser.add_argument("--seed", type=int, default=0, help="of the order of videos in shards")
    args = parser.parse_args(argv)
    manifest = open_manifest(args.data, root=args.root, split=args.split, layout=args.layout)
    quality = args.quality if args.quality is not None else defaults.quality if args.codec == "h264" else 5
    recoding = Recoding(args.short_side, args.codec, quality, args.gop, args.preset)
    report = prepare(
        manifest,
        args.output,
        recoding=recoding,
        format=args.format,
        videos_per_shard=args.videos_per_shard,
        workers=args.workers,
        seed=args.seed,
    )
    per_video = report["bytes"] / max(report["videos"], 1) / 1e3
    print(
        f"{report['videos']} videos, {report['frames']} frames, {report['bytes'] / 1e6:.1f} MB ({per_video:.0f} kB each)"
    )
    for record in report["broken"][:20]:
        print(f"broken, left out: {record['path']}: {record['error']}", file=sys.stderr)
    if report["broken"]:
        print(f"{len(report['broken'])} broken videos, all in {Path(args.output) / 'report.json'}", file=sys.stderr)
    name = "" if args.format == "shards" else "/manifest.jsonl"
    print(f"train on {Path(args.output)}{name}")
    return 0 if report["videos"] else 1
