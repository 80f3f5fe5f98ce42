"""200 labelled stretches of one two-hour file against the same stretches cut by hand into 200 files, in pairs.

    python -m benchmarks stretches                     # one pass of training items over each, five rounds
    python -m benchmarks stretches --minutes 10 --stretches 20 --rounds 2     # a quick look
    python -m benchmarks stretches --keep folder       # leaves long.mp4, train.csv and test.csv for `videomae finetune`

The film is made here: four motions in scenes of 15 s, 64x64, 25 frames a second, a key frame every 2 s. Stretches begin and
end at key frames, so that cutting copies packets and both sides see the same frames; that their items are equal is checked.
Processor seconds are printed beside the bytes that the process read (from the page cache too), and what it costs to open the
long file, which each process does once while its stretches are read one after the other.
"""

import argparse
import contextlib
import csv
import io
import random
import tempfile
import time
from pathlib import Path

import av
import numpy as np
import torch

from videomae.data import stretches
from videomae.data.encoding import encode_video
from videomae.data.lists.layouts import open_manifest
from videomae.data.transforms import TrainTransform
from videomae.data.video_dataset import VideoDataset
from videomae.sampling_videomae import ClipSampling
from videomae.video_io import VideoReader

from .common.timing import header, median_ratio, middle, record, take_turns

SIZE, FPS, KEY_SECONDS, SCENE_SECONDS = 64, 25, 2, 15
MOTIONS = {"right": (0, 2), "left": (0, -2), "down": (2, 0), "up": (-2, 0)}


def scenes() -> list[str]:
    """The motion of each scene of the part that the film repeats."""
    return list(MOTIONS) * 2


def part() -> bytes:
    """Two minutes of the film: noise that moves, another one in each scene."""
    frames = []
    for number, name in enumerate(scenes()):
        noise = np.random.default_rng(number).integers(0, 255, (SIZE // 8, SIZE // 8, 3), dtype=np.uint8)
        noise = noise.repeat(8, axis=0).repeat(8, axis=1)
        down, right = MOTIONS[name]
        frames += [np.roll(noise, (down * i, right * i), axis=(0, 1)) for i in range(SCENE_SECONDS * FPS)]
    options = {"preset": "ultrafast", "g": str(KEY_SECONDS * FPS), "bf": "2", "crf": "23"}
    return encode_video(frames, FPS, options={**options, "x264-params": "scenecut=0:open-gop=0"})


def write_packets(path: Path, source: bytes | Path, repeats: int = 1, first: float = 0.0, end: float = np.inf) -> None:
    """The packets of a video from one key frame to another, so many times one after the other."""
    with av.open(str(path), "w") as output:
        shift, stream = 0, None
        for _ in range(repeats):
            with av.open(io.BytesIO(source) if isinstance(source, bytes) else str(source)) as opened:
                video = opened.streams.video[0]
                stream = stream or output.add_stream_from_template(video)
                origin = round(first / video.time_base)
                opened.seek(origin, stream=video)
                length = 0
                for packet in opened.demux(video):
                    if packet.dts is None or packet.dts * video.time_base >= end:
                        break  # nothing behind it is shown before the end
                    if not first <= packet.pts * video.time_base < end:
                        continue
                    length = max(length, packet.pts - origin + packet.duration)
                    packet.pts, packet.dts = packet.pts - origin + shift, packet.dts - origin + shift
                    packet.stream = stream
                    output.mux(packet)
                shift += length


def choose(minutes: int, count: int) -> list[tuple[str, int, int]]:
    """(motion, start, end) of stretches inside scenes, in seconds, spread over the film; from key frame to key frame."""
    draw, names, found = random.Random(0), scenes(), []
    places = minutes * 60 // SCENE_SECONDS
    for place in sorted(draw.sample(range(places), count)):
        first = -(-place * SCENE_SECONDS // KEY_SECONDS) * KEY_SECONDS
        end = (place + 1) * SCENE_SECONDS // KEY_SECONDS * KEY_SECONDS
        start = draw.randrange(first, end - 6 + 1, KEY_SECONDS)
        found.append((names[place % len(names)], start, draw.randrange(start + 6, end + 1, KEY_SECONDS)))
    return found


def write_lists(folder: Path, chosen: list[tuple[str, int, int]]) -> None:
    """train.csv and test.csv (every fifth stretch) of the film, and hand.csv of the files cut by hand for train.csv."""
    rows = [("long.mp4", name, start, end) for name, start, end in chosen]
    for table, kept in (("all", rows), ("test", rows[::5]), ("train", [row for i, row in enumerate(rows) if i % 5])):
        with open(folder / f"{table}.csv", "w", newline="") as file:
            csv.writer(file).writerows([("path", "label", "start_seconds", "end_seconds"), *kept])
    (folder / "cut").mkdir(exist_ok=True)
    for number, (_, _, start, end) in enumerate(rows):
        write_packets(folder / "cut" / f"{number:04d}.mp4", folder / "long.mp4", first=start, end=end)
    cut = [(f"cut/{number:04d}.mp4", name) for number, (_, name, _, _) in enumerate(rows)]
    with open(folder / "hand.csv", "w", newline="") as file:
        csv.writer(file).writerows([("path", "label"), *cut])


class Pass:
    """One pass over all items of a list, an epoch for each round; the bytes that it read."""

    def __init__(self, path: Path):
        sampling, transform = ClipSampling(num_frames=16, stride_frames=2), TrainTransform(SIZE, flip=0.0)
        self.dataset = VideoDataset(open_manifest(path), sampling=sampling, transform=transform, as_bytes=True)
        self.bytes = 0

    def __call__(self, number: int) -> None:
        stretches._idle.clear()  # as a worker starts
        before = bytes_read()
        self.dataset.set_epoch(number)
        for index in range(len(self.dataset)):
            self.dataset[index]
        self.bytes = bytes_read() - before


def bytes_read() -> int:
    """What this process has read from files so far, or 0 where the system does not say."""
    with contextlib.suppress(OSError):
        return int(Path("/proc/self/io").read_text().split()[1])
    return 0


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=int, default=120, help="of the long file, an even number")
    parser.add_argument("--stretches", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--keep", metavar="FOLDER", help="write the film and the lists there, and leave them")
    args = parser.parse_args(argv)
    if args.minutes < 2 or args.minutes % 2 or not 5 <= args.stretches <= args.minutes * 60 // SCENE_SECONDS:
        raise ValueError(
            f"--minutes {args.minutes} --stretches {args.stretches}: minutes must be even, and the film has "
            f"{60 // SCENE_SECONDS} scenes a minute, each with at most one stretch; 5 is the least"
        )
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(args.keep or name)
        folder.mkdir(parents=True, exist_ok=True)
        write_packets(folder / "long.mp4", part(), repeats=args.minutes // 2)
        began = time.process_time()
        write_lists(folder, choose(args.minutes, args.stretches))
        cutting = time.process_time() - began
        sides = {"stretches": Pass(folder / "all.csv"), "cut by hand": Pass(folder / "hand.csv")}
        for index in range(args.stretches):
            ours, theirs = (sides[name].dataset[index]["pixel_values"] for name in ("stretches", "cut by hand"))
            if not torch.equal(ours, theirs):
                raise ValueError(f"item {index} of the two sides differs; their times would mean nothing")
        seconds = take_turns(sides, args.rounds, now=time.process_time)
        opening = take_turns({"open": lambda _: VideoReader(folder / "long.mp4").close()}, 3, now=time.process_time)
        size = (folder / "long.mp4").stat().st_size
        cut = sum(path.stat().st_size for path in (folder / "cut").iterdir())
    print(
        f"{header()}\n{args.stretches} stretches of one file of {args.minutes} minutes ({size / 1e6:.1f} MB), one item of each:"
    )
    for name, side in sides.items():
        print(f"  {name:<14}{middle(seconds[name]):7.3f} s of processor time {side.bytes / 1e6:9.1f} MB read")
    ratio = median_ratio(seconds["stretches"], seconds["cut by hand"])
    print(f"  opening the long file: {1e3 * middle(opening['open']):.0f} ms, part of the first line once")
    print(
        f"stretches / cut by hand: {ratio:.2f} (median of {args.rounds} pairs); cutting took {cutting:.1f} s and "
        f"{cut / 1e6:.1f} MB of disk; the items are equal bit for bit"
    )
    record(
        f"one pass over {args.stretches} stretches of a file of {args.minutes} minutes",
        ours=seconds["stretches"],
        unit="s",
        peer="the same stretches cut by hand",
        theirs=seconds["cut by hand"],
        note=f"processor time; {sides['stretches'].bytes / 1e6:.1f} MB read against {sides['cut by hand'].bytes / 1e6:.1f}",
    )
    return 0
