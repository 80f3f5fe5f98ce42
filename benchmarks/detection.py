"""What detection adds to the encoder: RoIAlign of 500 boxes, and the frame mAP of four million scored boxes.

    python -m benchmarks detection                     # seconds; --threads N (default 2) for RoIAlign
    python -m benchmarks detection --only ava_map --file

roi_align   A map of 16 x 16 cells of 768 channels, 7 x 7 bins, adaptive sampling, side by side with torchvision's compiled
            operator where it is installed. Times are the least and the middle of repeats by the clock, and processor time
            on one thread, which a busy machine disturbs less. "pooled" is what the model uses: the maximum of each patch,
            which never holds all patches. The check compares results.
ava_map     Random boxes of 50,000 persons with scores for 80 actions each in 15,000 key frames, about as many as in AVA's
            validation, on one core. There is no peer to run beside it: the public evaluation needs its own research code; a
            slow restatement of it is the oracle of tests/test_ava_map.py.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from videomae.data.ava.annotations import KeyFrame
from videomae.data.ava.detections import Detections, read_detections, write_detections
from videomae.metrics.ava_map.average_precision import LabelledBoxes, ava_map
from videomae.roi_align_videomae import roi_align, roi_max

from .common.timing import header, record

try:
    from torchvision.ops import roi_align as torchvision_roi_align
except ImportError:
    torchvision_roi_align = None

GOAL_MS = 70  # RoIAlign
GOAL_SECONDS = 10  # mAP
OPTIONS = dict(output_size=7, spatial_scale=1 / 16, sampling_ratio=0, aligned=False)


def milliseconds(run: Callable[[], object], repeats: int, threads: int) -> tuple[float, float, float]:
    """(least, middle, least processor time on one thread) over the repeats, after one to warm up."""
    run()
    clock, processor = [], []
    for _ in range(repeats):
        torch.set_num_threads(threads)
        began = time.perf_counter()
        run()
        clock.append((time.perf_counter() - began) * 1000)
        torch.set_num_threads(1)
        began = time.process_time()
        run()
        processor.append((time.process_time() - began) * 1000)
    return min(clock), statistics.median(clock), min(processor)


def time_roi_align(args: argparse.Namespace) -> None:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(1, 16, 16, 768, generator=generator)  # as the encoder leaves them, channels last
    channels_last = tokens.permute(0, 3, 1, 2)
    channels_first = channels_last.contiguous()  # as torchvision wants them
    corners = (torch.rand(args.boxes, 2, 2, generator=generator) * 256).sort(1).values
    boxes = [corners.flatten(1)]

    with torch.no_grad():
        runs = {
            "ours": lambda: roi_align(channels_last, boxes, boxes_inside=True, **OPTIONS),
            "ours, pooled": lambda: roi_max(channels_last, boxes, boxes_inside=True, **OPTIONS),
        }
        if torchvision_roi_align is None:
            print("torchvision is not installed; no peer to compare with")
        else:
            runs["torchvision"] = lambda: torchvision_roi_align(channels_first, boxes, **OPTIONS)
            runs["torchvision, pooled"] = lambda: torchvision_roi_align(channels_first, boxes, **OPTIONS).amax((2, 3))
        times = {name: milliseconds(run, args.repeats, args.threads) for name, run in runs.items()}
        print(f"{args.boxes} boxes on 16 x 16 x 768      least     middle   one thread's processor time")
        for name, (least, middle, processor) in times.items():
            print(f"{name:<26}{least:8.1f} ms{middle:8.1f} ms{processor:8.1f} ms")
        if torchvision_roi_align is not None:
            difference = (runs["ours"]() - runs["torchvision"]()).abs().max().item()
            print(f"largest difference     {difference:.2g}")
            for kind in ("", ", pooled"):
                ratio = times[f"torchvision{kind}"][0] / times[f"ours{kind}"][0]
                print(f"torchvision / ours{kind:<10}{ratio:5.2f}")
    met = "met" if times["ours"][0] < GOAL_MS else "missed"
    print(f"goal: under {GOAL_MS} ms on 2 cores: {met}")
    for kind, limit in (("", GOAL_MS), (", pooled", None)):
        record(
            f"RoIAlign of {args.boxes} boxes, 16 x 16 x 768{kind}, least of {args.repeats}",
            ours=times[f"ours{kind}"][0],
            unit="ms",
            peer="torchvision" if torchvision_roi_align else "",
            theirs=times[f"torchvision{kind}"][0] if torchvision_roi_align else None,
            limit=limit,
        )


def time_ava_map(args: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    random = np.random.default_rng(0)
    frame = random.integers(0, args.key_frames, args.persons)
    corner = random.random((args.persons, 2)) * 0.6
    box = np.concatenate([corner, corner + 0.1 + random.random((args.persons, 2)) * 0.3], 1)
    annotated = random.integers(0, args.persons, int(2.4 * args.persons))  # about as many actions per person as AVA
    truth = LabelledBoxes.of(
        frame[annotated], box[annotated] + 0.02, random.integers(1, args.classes + 1, len(annotated))
    )
    label = np.tile(np.arange(1, args.classes + 1), args.persons)
    rows = len(label)
    found = LabelledBoxes.of(
        frame.repeat(args.classes), box.repeat(args.classes, 0), label, random.random(rows).round(4)
    )
    began = time.perf_counter()
    result = ava_map(truth, found, classes=range(1, args.classes + 1))
    seconds = time.perf_counter() - began
    print(f"{args.persons} persons x {args.classes} classes = {rows} rows: {seconds:.2f} s, mAP {result['mAP']:.4f}")
    print(f"goal: under {GOAL_SECONDS} s: {'met' if seconds < GOAL_SECONDS else 'missed'}")
    record(f"AVA mAP of {rows:,} scored boxes", ours=seconds, unit="s", limit=GOAL_SECONDS)
    if args.file:
        key_frames = [KeyFrame(f"movie{index // 900:03d}", 902 + index % 900) for index in range(args.key_frames)]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "detections.csv"
            began = time.perf_counter()
            write_detections(path, Detections(key_frames, found.frame, found.box, found.label, found.score), digits=4)
            middle = time.perf_counter()
            read_detections(path)
            print(f"writing the file {middle - began:.1f} s, reading it {time.perf_counter() - middle:.1f} s")


PARTS = {"roi_align": time_roi_align, "ava_map": time_ava_map}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=[*PARTS], default=[*PARTS])
    parser.add_argument("--boxes", type=int, default=500, help="RoIAlign: boxes")
    parser.add_argument("--threads", type=int, default=2, help="RoIAlign: CPU threads")
    parser.add_argument("--repeats", type=int, default=20, help="RoIAlign: repeats")
    parser.add_argument("--persons", type=int, default=50_000, help="mAP: persons")
    parser.add_argument("--classes", type=int, default=80, help="mAP: actions")
    parser.add_argument("--key_frames", type=int, default=15_000, help="mAP: key frames")
    parser.add_argument("--file", action="store_true", help="mAP: also write the detections as CSV and read them back")
    args = parser.parse_args(argv)
    print(header(threads=args.threads, also=["numpy"]))
    for name in args.only:
        PARTS[name](args)
    return 0
