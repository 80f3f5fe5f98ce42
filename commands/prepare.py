"""Re-encode a data set once into shards or a folder: `videomae prepare DATA OUTPUT`."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from videomae.choices import PREPARED_FORMATS
from videomae.command_line import DONE, FAILED, argument, background_option, errors_option, option, read_options
from videomae.data.encoding import QUALITY, Recoding


@dataclass(frozen=True, kw_only=True)
class Options:
    data: str = argument("a list, table or folder of videos", kind="path")
    output: str = argument("the folder to write; an interrupted run of the same command is continued")
    data_root: str | None = option(None, "data", "where relative paths start [the folder of the list]", kind="folder")
    split: str | None = option(None, "data", "which part of the data set")
    layout: str | None = option(None, "data", "the layout, where it is not recognised")
    background: str | None = background_option("data")
    errors: str = errors_option("data")
    max_broken: float = option(
        0.01, "data", "largest share of videos that cannot be read; above it the exit code is 1", least=0, most=1
    )

    short_side: int = option(Recoding.short_side, "videos", "pixels of the short side")
    codec: str = option(Recoding.codec, "videos", "of the new videos", choices=tuple(QUALITY))
    quality: int | None = option(
        None,
        "videos",
        f"lower is better; crf of h264 [{QUALITY['h264']}], or 2 to 31 of mjpeg [{QUALITY['mjpeg']}]",
    )
    gop: int = option(Recoding.gop, "videos", "frames from key frame to key frame")
    preset: str = option(Recoding.preset, "videos", "x264's effort")

    format: str = option("shards", "files", "what OUTPUT is", choices=PREPARED_FORMATS)
    videos_per_shard: int = option(256, "files", "videos in one shard", least=1)
    seed: int = option(0, "files", "of the order of videos in shards")
    num_workers: int = option(os.cpu_count() or 1, "files", "processes that encode", least=1)


def main(argv: list[str] | None = None) -> int:
    options = read_options(Options, argv, command="prepare", about=__doc__)
    from videomae.data.lists.layouts import open_manifest
    from videomae.data.prepare import prepare

    reading = {"root": options.data_root, "split": options.split, "layout": options.layout}
    manifest = open_manifest(options.data, background=options.background, **reading)
    report = prepare(
        manifest,
        options.output,
        recoding=Recoding(
            options.short_side,
            options.codec,
            QUALITY[options.codec] if options.quality is None else options.quality,
            options.gop,
            options.preset,
        ),
        format=options.format,
        videos_per_shard=options.videos_per_shard,
        workers=options.num_workers,
        seed=options.seed,
        errors=options.errors,
    )
    per_video = report["bytes"] / max(report["videos"], 1) / 1e3
    print(
        f"{report['videos']} videos, {report['frames']} frames, {report['bytes'] / 1e6:.1f} MB ({per_video:.0f} kB each)"
    )
    for record in report["broken"][:20]:
        print(f"broken, left out: {record['path']}: {record['error']}", file=sys.stderr)
    if report["broken"]:
        print(f"{len(report['broken'])} broken videos, all in {Path(options.output) / 'report.json'}", file=sys.stderr)
    name = "" if options.format == "shards" else "/manifest.jsonl"
    print(f"train on {Path(options.output)}{name}")
    videos = report["videos"] + len(report["broken"])
    if len(report["broken"]) > options.max_broken * videos:
        share = f"{len(report['broken'])} of {videos}"
        print(f"FAILED: {share} videos cannot be read, above --max_broken {options.max_broken:g}", file=sys.stderr)
        return FAILED
    return DONE if report["videos"] else FAILED
