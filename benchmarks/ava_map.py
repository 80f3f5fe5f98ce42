"""AVA frame mAP of 50,000 detected persons with scores for 80 actions each: four million rows on one core.

    python benchmarks/ava_map.py              # --persons N, --file (also write and read the result file)

Random boxes in 15,000 key frames, about as many as in AVA's validation. There is no peer to run beside it: the public
evaluation needs its own research code; a slow restatement of it is the oracle of tests/test_ava_map.py.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from _side_by_side import header, record

from videomae.data.ava.annotations import KeyFrame
from videomae.data.ava.detections import Detections, read_detections, write_detections
from videomae.metrics.ava_map.average_precision import LabelledBoxes, ava_map

GOAL_SECONDS = 10


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--persons", type=int, default=50_000)
    parser.add_argument("--classes", type=int, default=80)
    parser.add_argument("--key_frames", type=int, default=15_000)
    parser.add_argument("--file", action="store_true", help="also write the detections as CSV and read them back")
    args = parser.parse_args()
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
    print(header(threads=1, also=["numpy"]))
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
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
