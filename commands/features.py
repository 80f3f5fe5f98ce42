"""Features of videos from a frozen model: `videomae features MODEL DATA OUTPUT`."""

import datetime
from dataclasses import dataclass, replace

from videomae.choices import DTYPES, LEVELS, REFERENCE_STRIDES
from videomae.command_line import DONE, FAILED, argument, errors_option, option, read_options
from videomae.features.files import FORMATS, SAVE_DTYPES


@dataclass(frozen=True, kw_only=True)
class Options:
    model: str = argument(
        "model folder or Hub name: pre-trained, classifier, detector or V2 feature model", kind="model"
    )
    data: str = argument("a folder of videos, a list or another layout of docs/data.md, or one video", kind="path")
    output: str = argument("folder for the features; the same command continues with what is there")

    data_root: str | None = option(None, "data", "folder that relative paths of a list start from", kind="folder")
    split: str | None = option(None, "data", "which part of the data, where it has several")
    layout: str | None = option(None, "data", "the layout, where it is not recognised")
    fps: float | None = option(None, "data", "frames a second of folders of images", above=0)
    errors: str = errors_option("data")

    level: str | None = option(
        None, "what is kept", "a vector a window, one a video, or all tokens [window]", choices=LEVELS
    )
    window: str | None = option(
        None, "what is kept", "length of a window: frames (64) or seconds (2.5s) [the model's clip]"
    )
    stride: str | None = option(None, "what is kept", "from one window to the next: frames or seconds [half a window]")
    partial: str | None = option(
        None, "what is kept", "an end that fills no window [repeat_last]", choices=("repeat_last", "drop")
    )
    clips: int | None = option(
        None, "what is kept", "instead of windows, so many clips as the model's test spaces them", least=1
    )
    squash: bool = option(False, "what is kept", "the whole picture, aspect not kept [centre crop]")
    reference: str | None = option(
        None, "what is kept", "as the published features were made", choices=tuple(REFERENCE_STRIDES)
    )

    truth: str | None = option(
        None,
        "files",
        "labelled stretches, for OpenTAD and ActionFormer: a table with path, label, start_seconds, end_seconds and maybe split, or "
        "ActivityNet's JSON",
        kind="file",
    )
    overwrite: bool = option(False, "files", "start over in an OUTPUT that holds features")
    save_as: str = option("npy", "files", "format of the files", choices=FORMATS)
    save_dtype: str = option("float32", "files", "numbers in the files", choices=tuple(SAVE_DTYPES))

    batch_size: int = option(8, "machine", "clips in one forward pass", least=1)
    dtype: str = option("float32", "machine", "autocast of the model", choices=DTYPES)
    device: str | None = option(None, "machine", "such as cpu or cuda [what there is]", metavar="DEVICE")
    num_workers: int | None = option(None, "machine", "threads that read ahead [none on a CPU, 4 on a GPU]", least=0)
    threads: int = option(1, "machine", "of FFmpeg, for each of those", least=1)


def main(argv: list[str] | None = None) -> int:
    options = read_options(Options, argv, command="features", about=__doc__)
    import torch
    from accelerate import PartialState

    from videomae.data.lists.layouts import open_videos
    from videomae.evaluation.stretch_scores import read_truth
    from videomae.features.clips import FeatureEncoder
    from videomae.features.extract import extract, plan_of, report_lines
    from videomae.features.localisation import check_plan, write_localisation
    from videomae.files import check_output
    from videomae.models import open_device
    from videomae.training.progress import say

    on_cpu = options.device == "cpu" or not torch.accelerator.is_available()
    # A process that is done waits for the others, and a long video takes hours.
    state = PartialState(cpu=on_cpu, timeout=datetime.timedelta(days=7))
    check_output(options.output, "OUTPUT")
    truth = read_truth(options.truth) if options.truth else None
    device = open_device(options.device or str(state.device))
    manifest = open_videos(options.data, root=options.data_root, split=options.split, layout=options.layout)
    encoder = FeatureEncoder(options.model, device=device, dtype=options.dtype)
    kept = ("level", "window", "stride", "partial", "clips", "squash", "reference")
    files = ("batch_size", "save_as", "save_dtype", "fps")
    plan, notes = plan_of(encoder, **{name: getattr(options, name) for name in (*kept, *files)})
    plan = replace(plan, errors=options.errors)
    if truth:
        check_plan(plan.level, plan.clips.describe(), plan.save_as)
    if state.is_main_process:
        for note in notes:
            say(note)
    result = extract(
        encoder,
        manifest,
        plan,
        options.output,
        num_workers=options.num_workers if options.num_workers is not None else 0 if device.type == "cpu" else 4,
        threads=options.threads,
        overwrite=options.overwrite,
    )
    if state.is_main_process:
        lines = write_localisation(options.output, result, truth) if truth else []
        print("\n".join([*report_lines(result, options.output), *lines]))
    return FAILED if result["broken"] else DONE
