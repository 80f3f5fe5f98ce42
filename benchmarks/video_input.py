"""Reading and processing videos, side by side with decord, torchcodec and transformers' PIL processor.

    python benchmarks/video_input.py            # about two minutes; peers are used where they are installed
    python benchmarks/video_input.py --quick    # shorter videos, fewer repeats: only to see that it runs
    python benchmarks/video_input.py --only windows

One thread everywhere, so the figures are processor time, which a busy machine disturbs less than the clock does. Each
is the least of several repeats that take turns, each from a closed file to the frames in memory, as a data set does
it. A ratio above 1 means that ours is faster.
"""

import argparse
import os
import platform
import resource
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import av
import numpy as np
import PIL.Image
import torch

from videomae.image_processing_videomae import VideoMAEImageProcessor
from videomae.sampling_videomae import ClipSampling, inference_clip
from videomae.video_io import iter_windows, read_frames

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


def best_of(repeats: int, **candidates: Callable[[], object]) -> dict[str, float]:
    """Milliseconds of each candidate, the least of `repeats` turns after one to warm up."""
    least = dict.fromkeys(candidates, float("inf"))
    for turn in range(repeats + 1):
        for name, run in candidates.items():
            begin = time.process_time()
            run()
            if turn:
                least[name] = min(least[name], 1000 * (time.process_time() - begin))
    return least


def show(title: str, times: dict[str, float]) -> None:
    ours = times.pop("videomae")
    print(f"\n{title}\n  {'videomae':<34}{ours:9.2f} ms")
    for name, value in times.items():
        print(f"  {name:<34}{value:9.2f} ms   ratio {value / ours:5.2f}")


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
    path = write_scene(folder / "clip.mp4", 10, gop=250)
    indices = inference_clip(10 * FPS, ClipSampling(rule="exact"))
    ours = {"videomae": lambda: read_frames(path, indices)}
    title = (
        f"16 frames at stride 4 from the middle of a 10 s clip ({path.stat().st_size >> 10} KiB, a key frame every 250)"
    )
    show(
        title,
        best_of(repeats, **ours, **peers(path, indices), **{"from the start": lambda: from_the_start(path, indices)}),
    )

    seconds = 30 if quick else 180
    for gop in key_frames:
        path = write_scene(folder / f"long_{gop}.mp4", seconds, gop)
        indices = inference_clip(seconds * FPS, ClipSampling("spread"))
        ours = {"videomae": lambda path=path, indices=indices: read_frames(path, indices)}
        base = {"from the start": lambda path=path, indices=indices: from_the_start(path, indices)}
        title = f"16 frames spread over {seconds} s, a key frame every {gop} frames ({path.stat().st_size >> 10} KiB)"
        show(title, best_of(max(repeats // 4, 2), **ours, **peers(path, indices), **base))


def processing(repeats: int) -> None:
    from transformers.models.videomae.image_processing_pil_videomae import VideoMAEImageProcessorPil

    frames = torch.randint(0, 256, (16, HEIGHT, WIDTH, 3), dtype=torch.uint8)
    as_list = list(frames.numpy())
    pictures = [PIL.Image.fromarray(frame) for frame in as_list]
    ours, stock = VideoMAEImageProcessor(), VideoMAEImageProcessorPil()
    times = best_of(
        repeats,
        videomae=lambda: ours(frames, return_tensors="pt"),
        **{
            "videomae, a list of PIL images": lambda: ours(pictures, return_tensors="pt"),
            "transformers PIL, numpy frames": lambda: stock(as_list, return_tensors="pt"),
            "transformers PIL, PIL images": lambda: stock(pictures, return_tensors="pt"),
        },
    )
    show(f"processing one clip: 16 frames of {WIDTH}x{HEIGHT} to 224x224", times)


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
    print(f"  peak memory of the process: {before:.0f} MiB before, {peak_mib():.0f} MiB after")


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument(
        "--key_frames", type=int, nargs="+", default=[12, 60, 250, 1000, 100_000], help="frames between them"
    )
    parser.add_argument("--only", choices=("reading", "processing", "windows"))
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    print(
        f"{date.today()}  {os.cpu_count()} CPU cores ({platform.machine()}), torch {torch.__version__}, PyAV {av.__version__}"
    )
    repeats = 3 if arguments.quick else 20
    with tempfile.TemporaryDirectory() as folder:
        if arguments.only in (None, "windows"):  # first: the peak memory of a process never falls
            windows(Path(folder), arguments.quick)
        if arguments.only in (None, "reading"):
            reading(Path(folder), repeats, arguments.quick, arguments.key_frames)
        if arguments.only in (None, "processing"):
            processing(repeats)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
