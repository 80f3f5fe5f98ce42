"""Does the memory of `pipe.live` stay flat? A process encodes a stream into a pipe as fast as it is read; this one labels it.

    python experiments/live_memory.py                  # 30 minutes of video at 30 frames/s
    python experiments/live_memory.py --minutes 2

The model is tiny and has fresh weights: what is measured is reading, windows and dropping. Linux; prints a table.
"""

import argparse
import multiprocessing
import os
import sys
from pathlib import Path

import av
import numpy as np
import torch

from videomae import (
    VideoClassificationPipeline,
    VideoMAEConfig,
    VideoMAEForVideoClassification,
    VideoMAEVideoProcessor,
)

WIDTH, HEIGHT, RATE = 340, 256, 30
ROWS = 10  # of the table


def serve(end: int, frames: int) -> None:
    """Moving noise as H.264 in MPEG-TS, into the write end of a pipe."""
    noise = np.random.default_rng(0).integers(0, 256, (HEIGHT, 2 * WIDTH, 3), dtype=np.uint8)
    with open(end, "wb") as pipe, av.open(pipe, "w", format="mpegts") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"preset": "ultrafast", "g": "60", "crf": "35"})
        stream.width, stream.height, stream.pix_fmt, stream.thread_count = WIDTH, HEIGHT, "yuv420p", 1
        for index in range(frames):
            picture = np.ascontiguousarray(noise[:, index % WIDTH :][:, :WIDTH])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30, help="of video [%(default)s]")
    frames = round(60 * RATE * parser.parse_args(argv).minutes)
    torch.set_num_threads(1)
    read, write = os.pipe()
    sender = multiprocessing.get_context("fork").Process(target=serve, args=(write, frames), daemon=True)
    sender.start()
    os.close(write)
    config = VideoMAEConfig.preset("small", head="classify", image_size=32, num_hidden_layers=1, hidden_size=48,
        intermediate_size=96, num_attention_heads=3, num_labels=2)  # fmt: skip
    model = VideoMAEForVideoClassification(config).eval()
    processor = VideoMAEVideoProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    pipe = VideoClassificationPipeline(model=model, video_processor=processor)
    print("| frames | windows | frames dropped | MB |\n|---|---|---|---|")
    windows = dropped = 0
    shown = frames // ROWS
    with open(read, "rb") as source:
        for answer in pipe.live(source):
            windows, dropped = windows + 1, dropped + answer["dropped_frames"]
            if answer["last_frame"] >= shown:
                print(f"| {answer['last_frame'] + 1} | {windows} | {dropped} | {resident_mb():.1f} |", flush=True)
                shown += frames // ROWS
    sender.join()
    return 0


if __name__ == "__main__":
    sys.exit(main())
