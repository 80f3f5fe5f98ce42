"""Run in a process of its own by campaign.py: damage files in many ways, read them, and count what comes of it.

Each trial depends on its number alone. The number is printed before the trial begins, so that the parent knows which one
ended the process or never ends.
"""

import json
import random
import resource
import sys
import time
import traceback
from collections import Counter
from pathlib import Path

import av
import numpy as np

from videomae import VideoMAEVideoProcessor
from videomae.video_io import Limits, VideoReader, VideoReadError, iter_windows

LIMITS = Limits(max_pixels=1 << 22, max_frames=10_000, max_bytes=1 << 28, decode_seconds=5.0)
MOST_SECONDS = 20  # of one trial
MOST_FRAMES = 200  # that are read and compared


def damaged(content: bytes, draw: random.Random) -> bytes:
    data = bytearray(content)
    kind = draw.choice(["cut", "flip", "flip", "header", "zeros", "swap", "insert", "lie"])
    if kind == "cut":
        del data[draw.randrange(len(data)) :]
    elif kind == "flip":
        for _ in range(draw.choice([1, 3, 30, 300])):
            data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    elif kind == "header":  # bytes of the first or last kilobyte, where the containers keep their tables
        start = draw.choice([0, max(len(data) - 1024, 0)])
        for _ in range(draw.choice([1, 4, 16])):
            data[start + draw.randrange(min(1024, len(data) - start))] = draw.randrange(256)
    elif kind == "zeros":
        at = draw.randrange(len(data))
        data[at : at + draw.randrange(1, 2000)] = b""
    elif kind == "swap":
        a, b, size = draw.randrange(len(data)), draw.randrange(len(data)), draw.randrange(1, 500)
        first, second = bytes(data[a : a + size]), bytes(data[b : b + size])
        data[a : a + len(second)], data[b : b + len(first)] = second, first
    elif kind == "insert":
        at = draw.randrange(len(data))
        data[at:at] = draw.randbytes(draw.randrange(1, 300))
    else:  # a large number somewhere: sizes, counts, durations
        at = draw.randrange(max(len(data) - 4, 1))
        data[at : at + 4] = draw.choice(
            [b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x00\x00\x00\x00", b"\xff\xff\xff\x7f"]
        )
    return bytes(data)


def decoded(path: Path) -> list[np.ndarray] | None:
    """Every frame of a decode from the start by PyAV alone; None where it ends in an error."""
    frames = []
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            stream = container.streams.best("video")
            if stream is None or stream.codec_context.width * stream.codec_context.height > LIMITS.max_pixels:
                return None
            stream.codec_context.thread_count = 1
            for frame in container.decode(stream):
                frames.append(frame.to_ndarray(format="rgb24"))
                if len(frames) > MOST_FRAMES:
                    return None
    except Exception:
        return None
    return frames


def read(path: Path, draw: random.Random) -> str:
    """Read as users do; what of it came out. Only our own error may be raised."""
    errors = draw.choice(["strict", "truncate"])
    with VideoReader(path, errors=errors, limits=LIMITS) as reader:
        count = reader.info.num_frames
        frames = reader.read(range(min(count, MOST_FRAMES))).numpy()
        indices = [draw.randrange(len(frames)) for _ in range(4)]
        again = reader.read(indices).numpy()
    assert again.dtype == np.uint8 and again.shape == (4, *frames.shape[1:])
    if draw.random() < 0.2:
        for window in iter_windows(path, num_frames=4, stride_frames=2, hop_frames=4, errors=errors, limits=LIMITS):
            assert len(window.frames) == 4
    if draw.random() < 0.05:
        pixels = VideoMAEVideoProcessor()(path, errors=errors, limits=LIMITS, return_tensors="pt")["pixel_values"]
        assert pixels.shape == (1, 16, 3, 224, 224)
    if errors == "truncate":
        return "read, truncate"
    if not all(np.array_equal(frame, frames[index]) for frame, index in zip(again, indices)):
        return "read, strict: a second read differs"
    expected = decoded(path)
    if expected is None or count > MOST_FRAMES:
        return "read, strict: the decode from the start fails"
    same = len(expected) == count and all(np.array_equal(frame, other) for frame, other in zip(frames, expected))
    return "read, strict: as the decode from the start" if same else "read, strict: unlike the decode from the start"


def trial(path: Path, draw: random.Random) -> str:
    begin = time.monotonic()
    try:
        outcome = read(path, draw)
    except VideoReadError as error:
        outcome = "refused" if path.name in str(error) else f"FAILED: the error does not name the file: {error}"
    except Exception:
        outcome = f"FAILED: {traceback.format_exc()}"
    took = time.monotonic() - begin
    return outcome if took < MOST_SECONDS else f"FAILED: it took {took:.1f} s"


def main(folder: str, first: int, count: int) -> None:
    sources = sorted(Path(folder).iterdir())
    contents = [source.read_bytes() for source in sources]
    counts: Counter[str] = Counter()
    before = peak_mib()
    for number in range(first, first + count):
        draw = random.Random(number)
        which = number % len(sources)
        path = Path(folder).parent / f"damaged_{number}{sources[which].suffix}"
        path.write_bytes(damaged(contents[which], draw))
        print(f"trial {number} of {sources[which].name}", flush=True)
        outcome = trial(path, draw)
        if outcome.startswith("FAILED"):
            print(f"trial {number} of {sources[which].name} {outcome}", file=sys.stderr, flush=True)
            outcome = "FAILED"
        counts[outcome] += 1
        path.unlink()
    print("done " + json.dumps({"counts": counts, "mib": peak_mib() - before}), flush=True)


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
