"""Damaged videos by the thousand, read in processes of their own with bounds on time and memory; prints what they gave.

    python tests/fuzz/campaign.py --files 10000            # --first N: other trials; one process at a time

Each trial takes one of the files below, damages it (cut, flipped bits, changed headers, large numbers, parts removed,
swapped or inserted), reads it as users do, and compares strict reads with a decode from the start by PyAV alone.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from video_files import VIDEO_KINDS, write_field_coded, write_trimmed, write_video, write_xvid  # noqa: E402

KINDS = (
    ["h264_b_frames", "h264_sound", "h264_mkv", "h264_transport_stream", "h264_fragmented", "h264_flv"]
    + ["h264_elementary_stream", "hevc", "vp9", "vp8", "av1", "mpeg2_mxf", "mpeg4_mkv"]
    + ["mjpeg_avi", "wmv2_asf", "ffv1_grey", "prores", "gif"]
)
NUM_FRAMES = 24
BATCH = 250  # trials a process: what one leaves in memory may harm the next
MOST_MIB = 1024  # that a batch may add to the memory of its process


@dataclass
class Result:
    counts: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    mib: float = 0.0  # the most that a batch added

    @property
    def trials(self) -> int:
        return self.counts.total()

    def __str__(self) -> str:
        lines = [f"{count:7d}  {outcome}" for outcome, count in sorted(self.counts.items())]
        return "\n".join([*lines, f"{self.trials:7d}  files; the most memory that a batch added: {self.mib:.0f} MiB"])


def make_sources(folder: Path) -> None:
    folder.mkdir()
    for kind in KINDS:
        name, arguments = VIDEO_KINDS[kind]
        write_video(folder / f"{kind}{Path(name).suffix}", **{"gop": 8, **arguments, "num_frames": NUM_FRAMES})
    write_video(folder / "mpeg2_program_stream.mpg", NUM_FRAMES, gop=8, codec="mpeg2video", options={"bf": "2"})
    write_xvid(folder / "xvid_packed.avi", NUM_FRAMES, packed=True)
    write_field_coded(folder / "fields.ts", 4)
    write_trimmed(folder / "h264_b_frames.mp4", folder / "trimmed.mp4", 0.4)


def run(folder: Path, first: int, count: int, report=lambda result: None) -> Result:
    """Trials `first` to `first + count`; a crash or a hang is noted and the trial after it is the next."""
    make_sources(folder / "whole")
    result, at, end = Result(), first, first + count
    while at < end:
        size = min(BATCH, end - at)
        command = [sys.executable, str(HERE / "trial.py"), str(folder / "whole"), str(at), str(size)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=120 + 4 * size)
            out, err, how = done.stdout, done.stderr, f"ended with {done.returncode}"
        except subprocess.TimeoutExpired as late:
            out, err, how = (late.stdout or b"").decode(), (late.stderr or b"").decode(), "never ended"
        last = out.strip().splitlines()[-1] if out.strip() else f"trial {at} (before it began)"
        result.failures += [line for line in err.split("\ntrial ") if "FAILED" in line]
        if last.startswith("done "):
            facts = json.loads(last.removeprefix("done "))
            result.counts.update(facts["counts"])
            result.mib = max(result.mib, facts["mib"])
            if facts["mib"] > MOST_MIB:
                result.failures.append(f"trials {at} to {at + size - 1} took {facts['mib']:.0f} MiB")
            at += size
        else:
            number = int(last.split()[1])
            result.failures.append(f"{last}: the process {how}\n{err[-2000:]}")
            result.counts["CRASHED or hung"] += 1
            result.counts["not counted, before a crash"] += number - at
            at = number + 1
        report(result)
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=500)
    parser.add_argument("--first", type=int, default=0)
    arguments = parser.parse_args()
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        result = run(
            Path(folder), arguments.first, arguments.files, lambda so_far: print(so_far.trials, end=" ", flush=True)
        )
    print(f"\n{result}\n{time.monotonic() - begin:.0f} s")
    for failure in result.failures:
        print(failure, file=sys.stderr)
    return 1 if result.failures else 0


if __name__ == "__main__":
    sys.exit(main())
