"""Our reader against a decode from the start, over every file below a folder: counts, and each exception with a reason.

    python experiments/read_folder.py --data FOLDER             # --views: also the 15 views of the published test
    python experiments/read_folder.py --data A B --processes 2

The other side is PyAV alone: the stream that FFmpeg takes for the best, decoded from the first packet to the last, each
picture as RGB. Of ours are compared, bit for bit: the number of frames, every frame in one pass over the file, sets of
indices drawn at random, and the frames of overlapping windows. It is about correctness; nothing is timed.
"""

import argparse
import hashlib
import multiprocessing
import os
import random
import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import av
import numpy as np
from motion_folders import machine

from videomae import VideoMAEVideoProcessor
from videomae.data.sources import VIDEO_SUFFIXES
from videomae.video_io import VideoReader, VideoReadError, iter_windows

# What a whole file can be; the first two are as they should be, the others are listed.
EQUAL, NO_VIDEO, REFUSED, DIFFERENT, ACCEPTED, SKIPPED = (
    "read as decoded", "no whole video for either", "refused though it decodes", "different", "read though it does not decode",
    "too large to compare",
)  # fmt: skip
CHUNK = 32  # frames that are held at once


@dataclass(frozen=True)
class Outcome:
    path: str
    kind: str
    frames: int = 0
    reason: str = ""


def digest(picture: np.ndarray) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(picture), digest_size=16).digest()


def decoded(path: Path, most: int) -> tuple[list[bytes], str, str]:
    """A digest of each frame, the error that ended the decode if one did, and what is known to be odd about it."""
    frames, sizes, marked = [], set(), 0
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            stream = container.streams.best("video")
            if stream is None:
                return [], "no video stream", ""
            stream.codec_context.thread_count = 1
            for frame in container.decode(stream):
                if len(frames) == most:
                    return [], "", SKIPPED
                marked += frame.is_corrupt
                sizes.add((frame.width, frame.height))
                turns = frame.rotation // 90 % 4 if frame.rotation % 90 == 0 else 0
                frames.append(digest(np.rot90(frame.to_ndarray(format="rgb24"), turns)))
    except IndexError:  # PyAV's, behind the last packet, where a stream has appeared on the way
        pass
    except (av.FFmpegError, OSError, ValueError) as error:
        return frames, str(error).split(":")[0], ""
    odd = [f"{marked} frames marked as damaged by the decoder"] if marked else []
    odd += [f"{len(sizes)} sizes of frames"] if len(sizes) > 1 else []
    return frames, "" if frames else "no frames", ", ".join(odd)


def difference(path: Path, expected: list[bytes], views: bool, whole: bool) -> str:
    """Where our reader and the decode part, or nothing; of what does not decode to its end, only reading is tried."""
    draw = random.Random(path.name)
    with VideoReader(path) as reader:
        n = reader.info.num_frames
        if not whole:
            for first in range(0, n, CHUNK):
                reader.read(range(first, min(first + CHUNK, n)))
            return ""
        if n != len(expected):
            return f"{n} frames, the decode has {len(expected)}"
        sets = [list(range(first, min(first + CHUNK, n))) for first in range(0, n, CHUNK)]
        sets += [[0], [n - 1]] + [[draw.randrange(n) for _ in range(draw.randint(1, 8))] for _ in range(8)]
        for indices in sets:
            for index, frame in zip(indices, reader.read(indices).numpy()):
                if digest(frame) != expected[index]:
                    return f"frame {index} of {n}"
    count = 0
    for window in iter_windows(path, num_frames=1, stride_frames=1, hop_frames=1):
        if count >= n or digest(window.frames[0]) != expected[count]:
            return f"window {count}"
        count += 1
    if count != n:
        return f"{count} windows of {n} frames"
    if views and VideoMAEVideoProcessor()(path, views="test")["pixel_values"][0].shape[:2] != (15, 16):
        return "the 15 views"
    return ""


def compare(path: Path, views: bool, most: int) -> Outcome:
    frames, error, odd = decoded(path, most)
    if odd == SKIPPED:
        return Outcome(str(path), SKIPPED, reason=f"more than {most} frames")
    try:
        found = difference(path, frames, views, not error)
    except (VideoReadError, FileNotFoundError) as refusal:
        message = str(refusal).replace(str(path), "").strip(" :")
        kind = REFUSED if not error else NO_VIDEO
        return Outcome(str(path), kind, len(frames), "; ".join(filter(None, (odd, error or message))))
    if error:
        return Outcome(str(path), ACCEPTED, len(frames), error)
    return Outcome(str(path), DIFFERENT if found else EQUAL, len(frames), "; ".join(filter(None, (found, odd))))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="folders, or files")
    parser.add_argument("--views", action="store_true", help="also make the 15 views of the published test")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--most_frames", type=int, default=20_000, help="longer files are left out, and counted")
    arguments = parser.parse_args(argv)
    print(machine())
    files: list[Path] = []
    for folder in arguments.data:
        inside = sorted(path for path in folder.rglob("*") if path.suffix.lower() in VIDEO_SUFFIXES | {".mts", ".mpg"})
        files += inside if folder.is_dir() else [folder]
    if not files:
        raise SystemExit(f"no videos below {', '.join(map(str, arguments.data))}")
    jobs = (files, [arguments.views] * len(files), [arguments.most_frames] * len(files))
    with ProcessPoolExecutor(arguments.processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        outcomes = []
        for outcome in pool.map(compare, *jobs, chunksize=4):
            outcomes.append(outcome)
            if len(outcomes) % 100 == 0:
                print(f"{len(outcomes)} of {len(files)}", file=sys.stderr)
    counts = Counter(outcome.kind for outcome in outcomes)
    print(f"\n{len(files)} files, {sum(outcome.frames for outcome in outcomes)} frames")
    for kind in (EQUAL, NO_VIDEO, REFUSED, DIFFERENT, ACCEPTED, SKIPPED):
        print(f"{counts[kind]:6d}  {kind}")
    for outcome in outcomes:
        if outcome.kind != EQUAL or outcome.reason:
            print(f"{outcome.path}\n    {outcome.kind}, {outcome.frames} frames: {outcome.reason}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
