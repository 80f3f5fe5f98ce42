"""Reading and processing videos, side by side with decord, torchcodec and transformers' PIL processor.

    python -m benchmarks video_input            # about two minutes; peers are used where they are installed
    python -m benchmarks video_input --quick    # shorter videos, fewer repeats: only to see that it runs
    python -m benchmarks video_input --only windows

One thread everywhere, so the figures are processor time, which a busy machine disturbs less than the clock does. All
take turns, each from a closed file to the frames in memory, as a data set does it; medians are printed, and the median
ratio of a round. A ratio above 1 means that ours is faster.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import av
import numpy as np
import PIL.Image
import torch

from videomae.image_processing_videomae import VideoMAEImageProcessor
from videomae.sampling_videomae import ClipSampling, inference_clip
from videomae.video_io import iter_windows, read_frames

from .common.timing import header, median_ratio, middle, peak_mib, record, take_turns

WIDTH, HEIGHT, FPS = 340, 256, 30


def write_scene(path: Path, seconds: float, gop: int) -> Path:
    """An H.264 file of a textured scene under camera motion with a little noise, at about Kinetics' bit rate."""
    random = np.random.default_rng(0)
    coarse = PIL.Image.fromarray(random.integers(0, 256, (40, 50, 3)).astype(np.uint8))
    scene = np.asarray(coarse.resize((WIDTH + 160, HEIGHT + 120), PIL.Image.BICUBIC)).astype(np.int16)
    grain = random.normal(0, 4, (8, HEIGHT, WIDTH, 1)).astype(np.int16)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.gop_size = gop
        stream.options = {"preset": "veryfast", "bf": "3", "sc_threshold": "0", "crf": "24"}
        for i in range(int(seconds * FPS)):
            left, top = int(80 + 79 * np.sin(i / 37)), int(60 + 59 * np.sin(i / 53))
            picture = scene[top : top + HEIGHT, left : left + WIDTH] + grain[i % len(grain)]
            frame = av.VideoFrame.from_ndarray(np.clip(picture, 0, 255).astype(np.uint8), "rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def compare(
    title: str,
    repeats: int,
    ours: Callable[[], object],
    peers: dict[str, Callable[[], object]],
    promised: dict[str, float],
) -> None:
    """Let ours and the peers take turns; `promised` holds the smallest ratio for peers by the start of their name."""
    contenders = {"videomae": ours, **peers}
    turns = {name: lambda number, run=run: run() for name, run in contenders.items()}
    seconds = take_turns(turns, repeats, now=time.process_time)
    print(f"\n{title}\n  {'videomae':<34}{1000 * middle(seconds['videomae']):9.2f} ms")
    for name in peers:
        ratio = median_ratio(seconds[name], seconds["videomae"])
        print(f"  {name:<34}{1000 * middle(seconds[name]):9.2f} ms   ratio {ratio:5.2f}")
        milliseconds = {
            side: [1000 * took for took in seconds[key]] for side, key in (("ours", "videomae"), ("theirs", name))
        }
        wanted = next((least for start, least in promised.items() if name.startswith(start)), None)
        record(title, **milliseconds, unit="ms", peer=name, promised=wanted, note="processor time")


def from_the_start(path: Path, indices: list[int]) -> np.ndarray:
    """What a plain PyAV loop does: decode everything up to the last wanted frame."""
    wanted, frames = set(indices), []
    with av.open(str(path)) as container:
        container.streams.video[0].codec_context.thread_count = 1
        for index, frame in enumerate(container.decode(video=0)):
            if index in wanted:
                frames.append(frame.to_ndarray(format="rgb24"))
            if index == indices[-1]:
                break
    return np.stack(frames)


def peers(path: Path, indices: list[int]) -> dict[str, Callable[[], object]]:
    readers: dict[str, Callable[[], object]] = {}
    try:
        import decord

        readers[f"decord {decord.__version__}"] = lambda: (
            decord.VideoReader(str(path), num_threads=1).get_batch(indices).asnumpy()
        )
    except (ImportError, OSError) as error:
        print(f"  (decord is not here: {type(error).__name__})")
    try:
        import torchcodec
        from torchcodec.decoders import VideoDecoder

        for mode in ("exact", "approximate"):
            readers[f"torchcodec {torchcodec.__version__} {mode}"] = lambda mode=mode: (
                VideoDecoder(str(path), seek_mode=mode, num_ffmpeg_threads=1, dimension_order="NHWC")
                .get_frames_at(indices)
                .data
            )
    except (ImportError, OSError, RuntimeError) as error:
        print(f"  (torchcodec is not here: {type(error).__name__})")
    return readers


def reading(folder: Path, repeats: int, quick: bool, key_frames: list[int]) -> None:
    readers = {"decord": 1.0, "torchcodec": 1.0}  # where installed: not slower
    path = write_scene(folder / "clip.mp4", 10, gop=250)
    indices = inference_clip(10 * FPS, ClipSampling(rule="exact"))
    title = "16 frames at stride 4 from the middle of a 10 s clip, a key frame every 250"
    others = {**peers(path, indices), "from the start": lambda: from_the_start(path, indices)}
    compare(title, repeats, lambda: read_frames(path, indices), others, readers)

    seconds = 30 if quick else 180
    for gop in key_frames:
        path = write_scene(folder / f"long_{gop}.mp4", seconds, gop)
        indices = inference_clip(seconds * FPS, ClipSampling("spread"))
        every = f"a key frame every {gop} frames" if gop < seconds * FPS else "one key frame"
        compare(
            f"16 frames spread over {seconds} s, {every}",
            max(repeats // 4, 2),
            lambda path=path, indices=indices: read_frames(path, indices),
            {
                **peers(path, indices),
                "from the start": lambda path=path, indices=indices: from_the_start(path, indices),
            },
            {**readers, "from the start": 5.0 if gop == 2 * FPS else 1.0},
        )


def processing(repeats: int) -> None:
    from transformers.models.videomae.image_processing_pil_videomae import VideoMAEImageProcessorPil

    frames = torch.randint(0, 256, (16, HEIGHT, WIDTH, 3), dtype=torch.uint8)
    as_list = list(frames.numpy())
    pictures = [PIL.Image.fromarray(frame) for frame in as_list]
    ours, stock = VideoMAEImageProcessor(), VideoMAEImageProcessorPil()
    compare(
        f"processing one clip: 16 frames of {WIDTH}x{HEIGHT} to 224x224",
        repeats,
        lambda: ours(frames, return_tensors="pt"),
        {"transformers PIL, numpy frames": lambda: stock(as_list, return_tensors="pt")},
        {"transformers": 2.0},
    )
    compare(
        "the same from PIL images",
        repeats,
        lambda: ours(pictures, return_tensors="pt"),
        {"transformers PIL, PIL images": lambda: stock(pictures, return_tensors="pt")},
        {"transformers": 2.0},
    )


def windows(folder: Path, quick: bool) -> None:
    """Sliding windows over ten minutes: the model is left out, so that only the input's memory shows."""
    seconds = 60 if quick else 600
    path = write_scene(folder / "ten_minutes.mp4", seconds, gop=250)
    list(iter_windows(write_scene(folder / "warm.mp4", 5, 60), num_frames=16, stride_frames=4, hop_frames=32))
    before, begin, converted = peak_mib(), time.perf_counter(), []
    count = sum(
        1
        for _ in iter_windows(
            path, num_frames=16, stride_frames=4, hop_frames=32, transform=lambda frame: converted.append(1) or frame
        )
    )
    took = time.perf_counter() - begin
    print(f"\nsliding windows over {seconds} s: {count} windows in {took:.1f} s ({seconds / took:.0f} times real time)")
    print(f"  frames converted: {len(converted)} of {seconds * FPS} decoded (every 4th, once each)")
    after = peak_mib()
    print(f"  peak memory of the process: {before:.0f} MiB before, {after:.0f} MiB after")
    record(f"memory that sliding windows over {seconds} s add", ours=after - before, unit="MiB", limit=16)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument(
        "--key_frames", type=int, nargs="+", default=[12, 60, 250, 1000, 100_000], help="frames between them"
    )
    parser.add_argument("--only", choices=("reading", "processing", "windows"))
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    print(header(threads=1, also=["av"]))
    repeats = 3 if arguments.quick else 20
    with tempfile.TemporaryDirectory() as folder:
        if arguments.only in (None, "windows"):  # first: the peak memory of a process never falls
            windows(Path(folder), arguments.quick)
        if arguments.only in (None, "reading"):
            reading(Path(folder), repeats, arguments.quick, arguments.key_frames)
        if arguments.only in (None, "processing"):
            processing(repeats)
    return 0
