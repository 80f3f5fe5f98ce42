"""Run in a process of its own by test_video_corruption.py: read damaged copies of a file, one after another.

Prints the number of each trial before it begins, so that the parent knows which one killed the process or hung.
"""

import random
import sys
import time
from pathlib import Path

import torch

from videomae.video_io import Limits, VideoReader, VideoReadError, iter_windows

LIMITS = Limits(max_pixels=1 << 22, max_frames=10_000, max_bytes=1 << 28, decode_seconds=5.0)


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


def trial(path: Path, draw: random.Random) -> str:
    """Read as users do; only our own error may come out of it."""
    try:
        errors = draw.choice(["strict", "truncate"])
        with VideoReader(path, errors=errors, limits=LIMITS) as reader:
            n = reader.info.num_frames
            indices = [draw.randrange(n) for _ in range(4)]
            frames = reader.read(indices)
            assert frames.dtype == torch.uint8 and frames.shape[0] == 4 and frames.shape[3] == 3
        if draw.random() < 0.2:
            for window in iter_windows(path, num_frames=4, stride_frames=2, hop_frames=4, errors=errors, limits=LIMITS):
                assert len(window.frames) == 4
        return "frames"
    except VideoReadError as error:
        assert path.name in str(error), f"the error does not name the file: {error}"
        return "refused"


def main(folder: str, first: int, count: int) -> None:
    sources = sorted(Path(folder).iterdir())
    contents = [source.read_bytes() for source in sources]
    results = {"frames": 0, "refused": 0}
    for seed in range(first, first + count):
        draw = random.Random(seed)
        which = seed % len(sources)
        path = Path(folder).parent / f"damaged_{seed}{sources[which].suffix}"
        path.write_bytes(damaged(contents[which], draw))
        print(f"trial {seed} of {sources[which].name}", flush=True)
        begin = time.monotonic()
        results[trial(path, draw)] += 1
        took = time.monotonic() - begin
        assert took < 30, f"trial {seed} took {took:.1f} s"
        path.unlink()
    print(f"done {results['frames']} frames {results['refused']} refused", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
