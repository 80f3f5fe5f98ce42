"""Features of whole videos with labelled stretches, as the training codes of temporal action localisation read them.

OpenTAD and ActionFormer take a folder with one array (windows, width) a video, which OUTPUT/features is already, and one
annotation file of ActivityNet's kind with more fields. Both place row t at (t * stride + window / 2) frames.
"""

import os
from pathlib import Path
from typing import Any

from videomae.evaluation.stretch_scores import Truth, ending, match_truth
from videomae.features.clips import Length
from videomae.files import write_atomic, write_json

UNITS = 100  # a stride in seconds is counted in such parts, as if they were frames


def write_localisation(output: str | os.PathLike, result: dict[str, Any], truth: Truth) -> list[str]:
    """Write OUTPUT/annotations.json and OUTPUT/classes.txt beside the features that `extract` has described in `result`.

    Returns lines that say what a configuration of either code must hold. Videos that the truth does not name are left out;
    and of the subset "training", in which ActionFormer stops at them, videos without stretches.
    """
    window, stride = _grid(result["identity"])
    names = {_name(record): record for record in result["videos"]}
    matched, unknown = match_truth(truth, [(record["path"], name) for name, record in names.items()])
    labels = sorted({stretch.label for stretches in matched.stretches.values() for stretch in stretches})
    if not labels:
        raise ValueError(f"{truth.origin} has no stretches in the videos of {result['data']}; a localiser needs some")
    database, silent = {}, []
    for name, stretches in matched.stretches.items():
        subset = matched.subsets.get(name, "training").lower()
        if subset == "training" and not stretches:
            silent.append(name)
            continue
        database[name] = {"subset": subset, **_clock(names[name], stride)}
        stretches = ending(stretches, database[name]["duration"])
        database[name]["annotations"] = [
            {
                "label": stretch.label,
                "label_id": labels.index(stretch.label),
                "segment": [stretch.start_seconds, stretch.end_seconds],
            }
            for stretch in stretches
        ]
    write_json(Path(output) / "annotations.json", {"version": "1", "database": database})
    write_atomic(Path(output) / "classes.txt", "".join(f"{label}\n" for label in labels))
    width = result["videos"][0]["shape"][-1]
    step, length = (
        amount if stride.unit == "frames" else UNITS * amount / stride.amount
        for amount in (stride.amount, window.amount)
    )
    lines = [
        f"{output}/annotations.json: {len(database)} videos, {len(labels)} labels (classes.txt)",
        f"  ActionFormer: feat_stride {step:g}, num_frames {length:g}, input_dim {width}, num_classes {len(labels)}, file_ext .npy",
        f"  OpenTAD: feature_stride {step:g}, offset_frames {length / 2:g}, class_map classes.txt",
    ]
    if silent:
        lines.append(f"  left out, without stretches in training: {len(silent)}, the first is {silent[0]}")
    if unknown:
        lines.append(f"  of the labelled videos not here: {len(unknown)}, the first is {unknown[0]}")
    return lines


def check_plan(level: str, clips: dict[str, Any], save_as: str) -> None:
    """Refuse features that these codes cannot place in time."""
    if level != "window" or "window" not in clips or save_as != "npy":
        raise ValueError(
            "--truth needs a row for each sliding window in .npy files; leave out --level, --clips and --save_as"
        )
    if len({clips[name].split()[1] for name in ("window", "stride")}) > 1:
        raise ValueError(
            f"--truth needs --window and --stride in one unit, not {clips['window']} and {clips['stride']}; give both in frames, "
            "or both in seconds"
        )


def _grid(identity: dict[str, Any]) -> tuple[Length, Length]:
    """Window and stride of a folder of features."""
    clips = identity["clips"]
    check_plan(identity["level"], clips, identity["save_as"])
    (window, unit), (stride, _) = (clips[name].split() for name in ("window", "stride"))
    return Length(float(window), unit), Length(float(stride), unit)


def _name(record: dict[str, Any]) -> str:
    return record["file"].removeprefix("features/").removesuffix(".npy")


def _clock(record: dict[str, Any], stride: Length) -> dict[str, Any]:
    """duration, fps and frame, by which both codes turn seconds into rows."""
    if not record["fps"]:
        raise ValueError(
            f"{record['path']} is a folder of images without a rate, so seconds say nothing of it; give --fps"
        )
    duration = record["frames"] / record["fps"]
    rate = record["fps"] if stride.unit == "frames" else UNITS / stride.amount
    return {"duration": duration, "fps": rate, "frame": round(duration * rate)}
