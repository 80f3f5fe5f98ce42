"""Features of videos from a frozen model: `videomae features MODEL DATA OUTPUT`."""

import argparse
import datetime
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from accelerate import PartialState

from videomae.data.lists.layouts import open_videos
from videomae.features.clips import (
    FeatureEncoder,
    Length,
    PolicyClips,
    ReferencePixels,
    SlidingWindows,
    model_pixels,
)
from videomae.features.extract import LEVELS, REFERENCE_STRIDES, Plan, extract
from videomae.features.files import FORMATS, SAVE_DTYPES
from videomae.files import check_output
from videomae.models import DTYPES, open_device
from videomae.training.progress import say

DONE, SOME_BROKEN, FAILED = 0, 1, 2


def parser() -> argparse.ArgumentParser:
    parse = argparse.ArgumentParser(
        prog="videomae features", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parse.add_argument("model", help="model folder or Hub name: pre-trained, classifier, detector or V2 feature model")
    parse.add_argument("data", help="a folder of videos, a list or another layout of docs/data.md, or one video")
    parse.add_argument("output", help="folder for the features; the same command goes on with what is there")
    parse.add_argument("--root", help="folder that relative paths of a list start from")
    parse.add_argument("--split", help="which part of the data, where it has several")
    parse.add_argument("--layout", help="the layout, where it is not recognised")
    parse.add_argument("--overwrite", action="store_true", help="start anew in an OUTPUT that holds features")
    what = parse.add_argument_group("what is kept")
    what.add_argument("--level", choices=LEVELS, help="a vector a window, one a video, or all tokens [window]")
    what.add_argument("--window", help="length of a window: frames (64) or seconds (2.5s) [the model's clip]")
    what.add_argument("--stride", help="from one window to the next: frames or seconds [half a window]")
    what.add_argument("--partial", choices=("repeat_last", "drop"), help="an end that fills no window [repeat_last]")
    what.add_argument("--clips", type=int, help="instead of windows, so many clips as the model's test spaces them")
    what.add_argument("--squash", action="store_true", help="the whole picture, aspect not kept [centre crop]")
    what.add_argument("--reference", choices=tuple(REFERENCE_STRIDES), help="as the published features were made")
    what.add_argument("--fps", type=float, help="frames a second of folders of images")
    files = parse.add_argument_group("files")
    files.add_argument("--save_as", choices=FORMATS, default="npy", help="npy or safetensors [npy]")
    files.add_argument("--save_dtype", choices=tuple(SAVE_DTYPES), default="float32", help="of the files [float32]")
    machine = parse.add_argument_group("machine")
    machine.add_argument("--batch_size", type=int, default=8, help="clips in one forward pass [8]")
    machine.add_argument("--dtype", choices=tuple(DTYPES), default="float32", help="autocast of the model [float32]")
    machine.add_argument("--device", help="such as cpu or cuda [what there is]")
    machine.add_argument("--num_workers", type=int, help="threads that read ahead [none on a CPU, 4 on a GPU]")
    machine.add_argument("--threads", type=int, default=1, help="of FFmpeg, for each of those [1]")
    return parse


def plan_of(arguments: argparse.Namespace, encoder: FeatureEncoder) -> Plan:
    """The plan that a command line asks for; options that contradict each other are errors."""
    for name in ("batch_size", "threads", "clips"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name} must be at least 1, not {value}")
    if arguments.fps is not None and not arguments.fps > 0:
        raise ValueError(f"--fps must be above 0, not {arguments.fps:g}")
    common = {name: getattr(arguments, name) for name in ("batch_size", "save_as", "save_dtype", "fps")}
    if arguments.reference:
        return _reference_plan(arguments, encoder, common)
    pixels, sampling, notes = model_pixels(encoder.name, encoder.config, squash=arguments.squash)
    if PartialState().is_main_process:
        for note in notes:
            say(note)
    level = arguments.level or "window"
    sliding = arguments.window or arguments.stride or arguments.partial
    if arguments.clips and sliding:
        raise ValueError("--clips takes the clips of the model's test, --window and --stride slide; choose one")
    if arguments.clips or (level != "window" and not sliding):
        clips: SlidingWindows | PolicyClips = PolicyClips(sampling=sampling, clips=arguments.clips)
    else:
        window = Length(sampling.num_frames * sampling.stride_frames)
        window = Length.parse(arguments.window) if arguments.window else window
        half = max(window.amount // 2, 1) if window.unit == "frames" else window.amount / 2
        stride = Length.parse(arguments.stride) if arguments.stride else Length(half, window.unit)
        if window.unit == "frames" and window.amount < sampling.num_frames:
            raise ValueError(f"--window {window} is shorter than the {sampling.num_frames} frames that the model sees")
        clips = SlidingWindows(window=window, stride=stride, partial=arguments.partial or "repeat_last")
    return Plan(level=level, clips=clips, pixels=pixels, **common)


def _reference_plan(arguments: argparse.Namespace, encoder: FeatureEncoder, common: dict[str, Any]) -> Plan:
    fixed = ("level", "window", "stride", "partial", "clips", "squash")
    given = [f"--{name}" for name in fixed if getattr(arguments, name)]
    if arguments.dtype != "float32":
        given.append("--dtype")
    if given:
        raise ValueError(f"--reference {arguments.reference} fixes how features are made; leave out {', '.join(given)}")
    if encoder.norm is None:
        raise ValueError(
            f"--reference takes fc_norm of the mean token, and {encoder.name} has no fc_norm; give a fine-tuned "
            "classifier or a V2 feature model"
        )
    frames = Length(encoder.config.num_frames)
    windows = SlidingWindows(window=frames, stride=Length(REFERENCE_STRIDES[arguments.reference]), partial="drop")
    pixels = ReferencePixels(*encoder.config.image_hw)
    return Plan(level="window", clips=windows, pixels=pixels, reference=arguments.reference, **common)


def main(argv: list[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    try:
        return run(arguments)
    except (ValueError, TypeError, OSError) as error:
        print(f"videomae features: {error}", file=sys.stderr)
        return FAILED


def run(arguments: argparse.Namespace) -> int:
    on_cpu = arguments.device == "cpu" or not torch.accelerator.is_available()
    # A process that is done waits for the others, and a long video takes hours.
    state = PartialState(cpu=on_cpu, timeout=datetime.timedelta(days=7))
    check_output(arguments.output, "OUTPUT")
    device = open_device(arguments.device) if arguments.device else state.device
    manifest = open_videos(arguments.data, root=arguments.root, split=arguments.split, layout=arguments.layout)
    encoder = FeatureEncoder(arguments.model, device=device, dtype=arguments.dtype)
    plan = plan_of(arguments, encoder)
    workers = arguments.num_workers if arguments.num_workers is not None else (0 if device.type == "cpu" else 4)
    result = extract(
        encoder,
        manifest,
        plan,
        arguments.output,
        num_workers=workers,
        threads=arguments.threads,
        overwrite=arguments.overwrite,
    )
    if state.is_main_process:
        print("\n".join(report(result, arguments.output)))
    return SOME_BROKEN if result["broken"] else DONE


def report(result: dict[str, Any], output: str) -> Iterator[str]:
    """The summary for a terminal."""
    videos, identity = result["videos"], result["identity"]
    shapes = Counter(
        tuple(record["shape"][1:] if identity["level"] != "video" else record["shape"]) for record in videos
    )
    rows = sum(record["shape"][0] for record in videos) if identity["level"] != "video" else len(videos)
    shown = ", ".join(" x ".join(map(str, shape)) for shape in shapes)
    yield f"{output}: {len(videos)} videos, {rows} rows of {shown or 'nothing'} ({identity['pooling']})"
    for video in result["broken"]:
        yield f"  not read: {video['path']}: {video['error']}"
