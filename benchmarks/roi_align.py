"""RoIAlign of 500 boxes on a base model's map, side by side with torchvision's compiled operator where it is installed.

    python benchmarks/roi_align.py            # seconds; --threads N (default 2)

The map is 16 x 16 cells of 768 channels, 7 x 7 bins, adaptive sampling. Times are the least and the middle of repeats by
the clock, and processor time on one thread, which a busy machine disturbs less.
"pooled" is what the model uses: the maximum of each patch, which never holds all patches. The check compares results.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from _side_by_side import header, record

from videomae.roi_align_videomae import roi_align, roi_max

try:
    from torchvision.ops import roi_align as torchvision_roi_align
except ImportError:
    torchvision_roi_align = None

GOAL_MS = 70
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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--boxes", type=int, default=500)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=20)
    args = parser.parse_args()
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(1, 16, 16, 768, generator=generator)  # as the encoder leaves them, channels last
    channels_last = tokens.permute(0, 3, 1, 2)
    channels_first = channels_last.contiguous()  # as torchvision wants them
    corners = (torch.rand(args.boxes, 2, 2, generator=generator) * 256).sort(1).values
    boxes = [corners.flatten(1)]

    print(header(threads=args.threads))
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
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
