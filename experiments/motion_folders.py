"""What experiments share: synthetic motion clips as folders of frames, and a line that names the machine.

The frames are for models so small that opening a video file would take longer than a step.
"""

import datetime
import os
import platform
import shutil
from pathlib import Path

import torch
from PIL import Image

from videomae.data.synthetic import SyntheticSet, render_clip


def machine() -> str:
    """Date, machine and versions, for the first line of a report."""
    cores = f"{os.cpu_count()} CPU cores ({platform.machine()})"
    return f"{datetime.date.today().isoformat()}, {cores}, torch {torch.__version__}"


def write_frame_folders(folder: Path, spec: SyntheticSet) -> Path:
    """Write SPLIT/00000/img_00001.jpg ..., SPLIT.txt with V2's lines (folder, first frame, frames, label), labels.txt.

    A folder that is there already is taken as it is: these are made in seconds and named by the run that asks for them.
    """
    if folder.exists():
        return folder
    # Not files.new_folder: it flushes every file to the disk, and these are tens of thousands that cost nothing to lose.
    beside = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(beside, ignore_errors=True)
    for number, (split, count) in enumerate(spec.splits.items()):
        lines = []
        for index in range(count):
            label = index % len(spec.motions)
            path = Path(split, f"{index:05d}")
            (beside / path).mkdir(parents=True)
            frames = render_clip(spec.motions[label], spec, seed=(spec.seed, number, index))
            for place, frame in enumerate(frames, start=1):
                Image.fromarray(frame).save(beside / path / f"img_{place:05d}.jpg", quality=95)
            lines.append(f"{path} 1 {spec.num_frames} {label}\n")
        (beside / f"{split}.txt").write_text("".join(lines))
    (beside / "labels.txt").write_text("".join(f"{motion}\n" for motion in spec.motions))
    beside.rename(folder)
    return folder
