"""What decoders say of flipped bits in picture data: an error, a mark, or nothing; the table of docs/video_input.md.

python tests/fuzz/bit_rot.py                           # --files N: flipped copies of each kind
"""

import argparse
import random
import sys
import tempfile
from collections import Counter
from pathlib import Path

import av
import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from video_files import make_kind

KINDS = ("h264_b_frames", "mpeg4_avi", "hevc", "vp9")
FLIPS = 4  # bits, all in one packet
VISIBLE = 8  # grey levels, in the mean over a picture


def decode(path: Path) -> tuple[list[np.ndarray], bool]:
    """Grey pictures, and whether the decoder marked one as damaged."""
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    return [frame.to_ndarray(format="gray").astype(int) for frame in frames], any(frame.is_corrupt for frame in frames)


def outcome(path: Path, whole: list[np.ndarray]) -> str:
    try:
        pictures, marked = decode(path)
    except (av.FFmpegError, OSError, ValueError):
        return "error"
    if marked:
        return "marked"
    harmed = len(pictures) != len(whole) or any(
        picture.shape != other.shape or np.abs(picture - other).mean() > VISIBLE
        for picture, other in zip(pictures, whole)
    )
    return "visibly wrong" if harmed else "no visible harm"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=300)
    files = parser.parse_args().files
    with tempfile.TemporaryDirectory() as folder:
        for kind in KINDS:
            source = make_kind(kind, Path(folder))
            with av.open(str(source)) as container:
                packets = [packet for packet in container.demux(video=0) if packet.size]
            content, whole, counts = source.read_bytes(), decode(source)[0], Counter()
            for number in range(files):
                draw, flipped = random.Random(number), bytearray(content)
                packet = draw.choice(packets)
                for _ in range(FLIPS):
                    flipped[packet.pos + draw.randrange(packet.size)] ^= 1 << draw.randrange(8)
                path = Path(folder) / f"flipped{source.suffix}"
                path.write_bytes(flipped)
                counts[outcome(path, whole)] += 1
            columns = ("error", "marked", "visibly wrong", "no visible harm")
            print(f"{kind:<16}" + "".join(f"{counts[column]:5d} {column}" for column in columns))


if __name__ == "__main__":
    main()
