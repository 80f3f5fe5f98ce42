"""Samples a second for training and testing: ours against the official pipelines, restated, in one run on one thread.

    python -m benchmarks data_loading                 # a 10 s clip of 340x256, H.264
    python -m benchmarks data_loading --repeats 3     # a quick look
    python -m benchmarks data_loading --operations    # each image operation against PIL
    python -m benchmarks data_loading --codecs        # ways to re-encode a data set, compared

The official pipelines decode with decord (where it is installed, else with PyAV from the start of the file), augment
frame by frame in PIL, open a video again for each of the 15 test views, and hand over normalised floats. Ours hand over the
bytes of a training batch as the loop takes them; what is then left to do on the device (normalise, erase, mix) is timed
beside it, on this CPU, and so are the bytes handed over. The sides take turns, each on the same seeds; medians of the CPU
time and their ratio are printed, the latter also with the device's part counted as ours. Also: ours from prepared shards, and how
samples a second grow with workers. The video is made here: textured, moving, with noise.
"""

import argparse
import functools
import math
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageEnhance, ImageOps

from videomae.data.collators import ClassificationCollator, PretrainCollator
from videomae.data.encoding import Recoding, encode_video
from videomae.data.lists.layouts import open_manifest
from videomae.data.lists.manifests import Manifest
from videomae.data.lists.shards import write_shard
from videomae.data.mixing import Mixing
from videomae.data.on_device import NOISE, finish
from videomae.data.prepare import prepare
from videomae.data.randaugment import RandAugment
from videomae.data.sampler import EpochIndex
from videomae.data.sources import TarMember, open_clip
from videomae.data.transforms import IMAGENET_MEAN, IMAGENET_STD, EvalTransform, normalise, resize
from videomae.data.video_dataset import VideoDataset, make_loader
from videomae.sampling_videomae import ClipSampling
from videomae.video_io import probe, read_frames

from .common.timing import cores, header, record, take_turns

try:
    import decord
except ImportError:
    decord = None
try:
    import cv2
except ImportError:
    cv2 = None

SIZE, FRAMES, STRIDE = 224, 16, 4


def natural_video(seconds: int = 10, fps: int = 30, width: int = 340, height: int = 256, seed: int = 0) -> bytes:
    """A clip with the spectrum of photographs: a panning texture, moving patches, sensor noise; x264's defaults."""
    rng = np.random.default_rng(seed)
    side = 2 * width
    distance = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.fftfreq(side)[None]) + 1 / side

    def texture():
        image = np.fft.ifft2(np.fft.fft2(rng.standard_normal((3, side, side))) / distance).real
        return (128 + 45 * image / image.std()).transpose(1, 2, 0)

    scene, actor = texture(), texture()

    def frames():
        for t in range(seconds * fps):
            top, left = int(60 + 50 * math.sin(t / 40)), int(90 + 80 * math.sin(t / 55))
            frame = scene[top : top + height, left : left + width].copy()
            y, x = int(height / 3 + 50 * math.sin(t / 12)), int(width / 2 + 100 * math.sin(t / 19))
            frame[y : y + 70, x - 40 : x + 40] = actor[y : y + 70, x - 40 : x + 40][:, : width - x + 40]
            frame += rng.standard_normal((height, width, 1)) * 2
            yield frame.clip(0, 255).astype(np.uint8)

    return encode_video(frames(), fps, options={"preset": "medium", "crf": "23"})


# -- the official pipelines, restated ----------------------------------------------------------------------------------


class OfficialReader:
    """decord on one thread; or PyAV from the start of the file to the last wanted frame."""

    def __init__(self, path: Path):
        if decord is not None:
            self._reader = decord.VideoReader(str(path), num_threads=1, ctx=decord.cpu(0))
            self.num_frames = len(self._reader)
        else:
            self._container = av.open(str(path))
            self._container.streams.video[0].thread_count = 1
            self.num_frames = self._container.streams.video[0].frames

    def read(self, indices: list[int]) -> np.ndarray:
        if decord is not None:
            return self._reader.get_batch(indices).asnumpy()
        wanted, found = set(indices), {}
        for index, frame in enumerate(self._container.decode(video=0)):
            if index in wanted:
                found[index] = frame.to_ndarray(format="rgb24")
            if index == max(wanted):
                break
        self._container.close()
        return np.stack([found[index] for index in indices])


def official_pretrain(path: Path, seed: int, copies: int = 1) -> torch.Tensor:
    """(copies, T, C, H, W): V2 takes its copies from one decode."""
    random.seed(seed)
    reader = OfficialReader(path)
    start = random.randrange(reader.num_frames - FRAMES * STRIDE + 1)
    frames = reader.read([start + i * STRIDE for i in range(FRAMES)])
    return torch.stack([official_pretrain_copy(frames) for _ in range(copies)])


def official_pretrain_copy(frames: np.ndarray) -> torch.Tensor:
    images = [Image.fromarray(frame).convert("RGB") for frame in frames]
    width, height = images[0].size
    sides = [int(min(width, height) * scale) for scale in (1, 0.875, 0.75, 0.66)]
    pairs = [(w, h) for i, h in enumerate(sides) for j, w in enumerate(sides) if abs(i - j) <= 1]
    w, h = random.choice(pairs)
    left, top = (random.randrange(5) * ((total - side) // 4) for total, side in ((width, w), (height, h)))
    images = [image.crop((left, top, left + w, top + h)).resize((SIZE, SIZE), Image.BILINEAR) for image in images]
    stacked = np.concatenate(images, axis=2)  # frames side by side in the channels, as Stack does
    pixels = torch.from_numpy(stacked).permute(2, 0, 1).contiguous().float().div(255)
    for channel, mean, std in zip(pixels, IMAGENET_MEAN * FRAMES, IMAGENET_STD * FRAMES):
        channel.sub_(mean).div_(std)
    return pixels.view(FRAMES, 3, SIZE, SIZE)


def official_finetune(path: Path, seed: int, copies: int = 2) -> torch.Tensor:
    random.seed(seed)
    reader = OfficialReader(path)
    end = random.randrange(FRAMES * STRIDE, reader.num_frames)
    indices = np.linspace(end - FRAMES * STRIDE, end, num=FRAMES)
    frames = reader.read(np.clip(indices, end - FRAMES * STRIDE, end - 1).astype(np.int64).tolist())
    return torch.stack([_official_augment(frames) for _ in range(copies)])


def _official_augment(frames: np.ndarray) -> torch.Tensor:
    images = [Image.fromarray(frame) for frame in frames]
    for name in random.choices(list(PIL_OPERATIONS), k=4):
        if random.random() > 0.5:
            continue
        level = min(max(random.gauss(7, 0.5), 0), 10) / 10
        argument = level * random.choice((-1, 1))
        images = [PIL_OPERATIONS[name](image, level, argument) for image in images]
    # to floats in [0, 1], planes first, as ToTensor; then back to channels last and normalised, as tensor_normalize
    pixels = torch.stack(
        [torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float().div(255) for image in images]
    )
    pixels = pixels.permute(0, 2, 3, 1)
    pixels = (pixels - torch.tensor(IMAGENET_MEAN)) / torch.tensor(IMAGENET_STD)
    pixels = pixels.permute(3, 0, 1, 2)
    height, width = pixels.shape[2:]
    for _ in range(10):
        area = random.uniform(0.08, 1) * height * width
        ratio = math.exp(random.uniform(math.log(0.75), math.log(1.3333)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if w <= width and h <= height:
            break
    top, left = random.randint(0, height - min(h, height)), random.randint(0, width - min(w, width))
    pixels = F.interpolate(pixels[:, :, top : top + h, left : left + w], size=(SIZE, SIZE), mode="bilinear")
    if random.random() < 0.5:
        pixels = pixels.flip(-1)
    pixels = pixels.permute(1, 0, 2, 3)
    if random.random() < 0.25:
        h, w = (int(SIZE * math.sqrt(random.uniform(0.02, 1 / 3))) for _ in range(2))
        top, left = random.randint(0, SIZE - h), random.randint(0, SIZE - w)
        for frame in pixels:
            frame[:, top : top + h, left : left + w] = torch.empty(3, h, w).normal_()
    return pixels


def _warp(image: Image.Image, matrix: tuple[float, ...]) -> Image.Image:
    return image.transform(image.size, Image.AFFINE, matrix, resample=Image.BICUBIC, fillcolor=(128, 128, 128))


PIL_OPERATIONS: dict[str, Callable] = {
    "AutoContrast": lambda image, level, signed: ImageOps.autocontrast(image),
    "Equalize": lambda image, level, signed: ImageOps.equalize(image),
    "Invert": lambda image, level, signed: ImageOps.invert(image),
    "Rotate": lambda image, level, signed: image.rotate(30 * signed, resample=Image.BICUBIC, fillcolor=(128,) * 3),
    "Posterize": lambda image, level, signed: ImageOps.posterize(image, max(4 - int(4 * level), 1)),
    "Solarize": lambda image, level, signed: ImageOps.solarize(image, 256 - int(256 * level)),
    "SolarizeAdd": lambda image, level, signed: image.point(
        [min(255, v + int(110 * level)) if v < 128 else v for v in range(256)] * 3
    ),
    "Color": lambda image, level, signed: ImageEnhance.Color(image).enhance(1 + 0.9 * signed),
    "Contrast": lambda image, level, signed: ImageEnhance.Contrast(image).enhance(1 + 0.9 * signed),
    "Brightness": lambda image, level, signed: ImageEnhance.Brightness(image).enhance(1 + 0.9 * signed),
    "Sharpness": lambda image, level, signed: ImageEnhance.Sharpness(image).enhance(1 + 0.9 * signed),
    "ShearX": lambda image, level, signed: _warp(image, (1, 0.3 * signed, 0, 0, 1, 0)),
    "ShearY": lambda image, level, signed: _warp(image, (1, 0, 0, 0.3 * signed, 1, 0)),
    "TranslateXRel": lambda image, level, signed: _warp(image, (1, 0, 0.45 * signed * image.size[0], 0, 1, 0)),
    "TranslateYRel": lambda image, level, signed: _warp(image, (1, 0, 0, 0, 1, 0.45 * signed * image.size[1])),
}


def official_views(path: Path, seed: int, clips: int = 5, crops: int = 3) -> torch.Tensor:
    """All views of a video, one after the other; the last is returned."""
    for clip in range(clips):
        for crop in range(crops):
            pixels = official_view(path, clip, crop, clips, crops)
    return pixels


def official_view(path: Path, clip: int, crop: int, clips: int = 5, crops: int = 3) -> torch.Tensor:
    """Each view is an item of its own in kinetics.py: the file is opened and decoded for every one."""
    reader = OfficialReader(path)
    frames = reader.read(list(range(0, reader.num_frames, STRIDE)))
    height, width = frames.shape[1:3]
    size = (int(SIZE * width / height), SIZE) if width > height else (SIZE, int(SIZE * height / width))
    if cv2 is not None:
        frames = np.stack([cv2.resize(frame, size, interpolation=cv2.INTER_LINEAR) for frame in frames])
    else:
        frames = np.stack([np.asarray(Image.fromarray(frame).resize(size, Image.BILINEAR)) for frame in frames])
    start = int(clip * max(len(frames) - FRAMES, 0) / (clips - 1))
    left = int(crop * (max(frames.shape[1:3]) - SIZE) / (crops - 1))
    kept = frames[start : start + FRAMES, :, left : left + SIZE]
    pixels = torch.from_numpy(np.ascontiguousarray(kept.transpose(3, 0, 1, 2))).float().div_(255)
    for channel, mean, std in zip(pixels, IMAGENET_MEAN, IMAGENET_STD):
        channel.sub_(mean).div_(std)
    return pixels.transpose(0, 1)


# -- ours --------------------------------------------------------------------------------------------------------------


class Ours:
    """One item of ours in two parts: what a worker makes of a seed, and what is left to do on the device."""

    def __init__(self, manifest: Manifest, mode: str):
        self.mode, self.batch = mode, {}
        sampling = ClipSampling(num_frames=FRAMES, stride_frames=STRIDE, clips=5, crops=3)
        fields = {"num_samples": 2} if mode == "train" else {"transform": EvalTransform(SIZE)} if mode == "test" else {}
        self.dataset = VideoDataset(manifest, mode=mode, sampling=sampling, as_bytes=True, **fields)
        if mode == "pretrain":
            self.collate = PretrainCollator((8, 14, 14), as_bytes=True)
        else:
            self.collate = ClassificationCollator(Mixing(400) if mode == "train" else None, as_bytes=True)
        self.handed_over: list[tuple[float, float]] = []  # MB a clip: pixels, noise of the erased box

    def worker(self, seed: int) -> None:
        self.batch = self.collate([self.dataset[EpochIndex(seed, seed % len(self.dataset))]])
        pixels, noise = self.batch["pixel_values"], self.batch.get(NOISE)
        clips = 1e6 * len(pixels)
        self.handed_over.append((pixels.nbytes / clips, 0.0 if noise is None else noise.nbytes / clips))

    def device(self, seed: int) -> Any:
        if self.mode != "test":
            return finish(self.batch)["pixel_values"]
        for view in self.batch["pixel_values"]:  # as evaluation does, part by part on the way into the model
            pixels = normalise(view)
        return pixels


def in_turns(functions: dict[str, Callable[[int], torch.Tensor]], repeats: int) -> dict[str, list[float]]:
    """CPU milliseconds of each function, called in turns with the same seeds.

    On one thread that is the time on an idle machine, and other work on this one changes it little.
    """
    seconds = take_turns(functions, repeats, now=time.process_time)
    return {name: [1e3 * took for took in times] for name, times in seconds.items()}


def compare_operations(path: Path, repeats: int) -> None:
    """Each RandAugment operation on a whole clip, against PIL frame by frame on images it already holds."""
    clip = read_frames(path, range(0, FRAMES * STRIDE, STRIDE)).permute(0, 3, 1, 2).contiguous()
    images = [Image.fromarray(frame.permute(1, 2, 0).contiguous().numpy()) for frame in clip]
    level, policy = 0.7, RandAugment(increasing=True)
    print(f"{'operation, 16 frames of 340x256':34} {'PIL':>9} {'ours':>9} {'ratio':>7}")
    for name, in_pil in PIL_OPERATIONS.items():
        argument = policy._argument(name, level, torch.Generator().manual_seed(1))
        times = in_turns(
            {
                "pil": lambda seed: [in_pil(image, level, level) for image in images],  # noqa: B023
                "ours": lambda seed: policy.apply(clip, [(name, argument)]),  # noqa: B023
            },
            repeats,
        )
        pil, own = statistics.median(times["pil"]), statistics.median(times["ours"])
        print(f"{name:34} {pil:7.1f}ms {own:7.1f}ms {pil / own:6.1f}x", flush=True)
    crops = {
        "pil": lambda seed: [image.crop((30, 20, 254, 212)).resize((SIZE, SIZE), Image.BILINEAR) for image in images],
        "ours": lambda seed: resize(clip[..., 20:212, 30:254], (SIZE, SIZE), antialias=True),
    }
    times = in_turns(crops, repeats)
    pil, own = statistics.median(times["pil"]), statistics.median(times["ours"])
    print(f"{'crop and antialiased resize':34} {pil:7.1f}ms {own:7.1f}ms {pil / own:6.1f}x")


DEFAULT = Recoding()
EARLIER = {"preset": "medium", "crf": "20", "g": "24", "bf": "3", "tune": "fastdecode"}
EARLIER["x264-params"] = "b-adapt=0:b-pyramid=none:scenecut=0"
CODECS = {
    "H.264 as by default": ("libx264", DEFAULT.options),
    "the same, quality 20": ("libx264", replace(DEFAULT, quality=20).options),
    "the same, quality 18": ("libx264", replace(DEFAULT, quality=18).options),
    "the same, key frame every 24": ("libx264", replace(DEFAULT, gop=24).options),
    "the same, 3 B-frames": ("libx264", {**DEFAULT.options, "bf": "3"}),
    "the default until 2026-11-28: quality 20, 3 B-frames, psy and aq, every 24": ("libx264", EARLIER),
    "that without fastdecode": ("libx264", {**EARLIER, "tune": "film"}),
    "H.264, fastdecode, key frames only": ("libx264", {"crf": "20", "g": "1", "tune": "fastdecode"}),
    "MJPEG": ("mjpeg", replace(DEFAULT, codec="mjpeg", quality=5).options),
}


def compare_codecs(path: Path, repeats: int) -> None:
    """Size, loss against the source, and time to read 16 frames at stride 4, of ways to prepare the same clip."""
    info = probe(path)
    frames = read_frames(path, range(info.num_frames)).numpy()
    print(f"{'prepared as':76} {'kB':>6} {'PSNR':>6} {'read 16 frames':>15}")
    for name, (codec, options) in {"(the raw file)": ("", {}), **CODECS}.items():
        if codec:
            video = encode_video(frames, info.fps, codec=codec, options=options)
        else:
            video = path.read_bytes()
        (record,) = write_shard(path.with_suffix(".tar"), [({"index": 0}, video)])
        member = TarMember(str(path.with_suffix(".tar")), record["offset"], record["size"], name)
        few = list(range(0, info.num_frames, 7))  # frames of every kind
        error = np.square(read_frames(video, few).numpy().astype(np.float32) - frames[few]).mean()
        loss = f"{10 * math.log10(255**2 / error):.1f}" if error else "-"
        times = []
        for seed in range(repeats + 1):
            start = random.Random(seed).randrange(info.num_frames - FRAMES * STRIDE)
            begin = time.process_time()
            with open_clip(member) as clip:
                clip.read([start + i * STRIDE for i in range(FRAMES)])
            times.append(1e3 * (time.process_time() - begin))
        print(f"{name:76} {len(video) / 1e3:6.0f} {loss:>6} {statistics.median(times[1:]):13.1f}ms", flush=True)


def samples_per_second(dataset: VideoDataset, workers: int, batches: int) -> float:
    """Samples a second out of a DataLoader, from its second batch a worker on."""
    warm = max(2 * workers, 1)
    order = [i % len(dataset) for i in range(4 * (batches + warm))]
    iterator = iter(make_loader(dataset, order, 4, PretrainCollator((8, 14, 14), as_bytes=True), workers=workers))
    for _ in range(warm):
        next(iterator)
    start = time.perf_counter()
    count = sum(len(batch["pixel_values"]) for batch in iterator)
    return count / (time.perf_counter() - start)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=40, help="samples of each kind (a tenth for the test views)")
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2], help="numbers of workers to compare")
    parser.add_argument("--codecs", action="store_true", help="only compare ways to prepare a data set")
    parser.add_argument("--operations", action="store_true", help="only compare each image operation with PIL")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    if cv2 is not None:
        cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / "clip.mp4"
        path.write_bytes(natural_video())
        print(header(threads=1, also=["av"]))
        print(f"10 s of 340x256 at 30 fps, {path.stat().st_size / 1e3:.0f} kB")
        if args.operations:
            compare_operations(path, args.repeats)
            return 0
        if args.codecs:
            compare_codecs(path, args.repeats)
            return 0
        (folder / "list.txt").write_text("clip.mp4 0\n./clip.mp4 1\n")
        manifest = open_manifest(folder / "list.txt")
        prepare(manifest, folder / "prepared", progress=False)
        prepared = open_manifest(folder / "prepared")
        reader = f"decord {decord.__version__}" if decord else "PyAV, since decord is not installed"
        resizer = "OpenCV" if cv2 else "PIL, since OpenCV is not installed"
        print(f"the official side reads with {reader}, and resizes test views with {resizer}")
        print(f"{'work':40}{'official':>10}{'ours':>9}{'device':>9}{'ratio':>7}{'whole':>7}   MB a clip + noise")
        views = max(args.repeats // 10, 2)
        for title, official, source, mode, repeats, promised, aim in (
            ("pre-training sample", official_pretrain, manifest, "pretrain", args.repeats, 1.9, 2),
            ("the same, ours from prepared shards", official_pretrain, prepared, "pretrain", args.repeats, 9, 10),
            ("fine-tuning item, 2 augmented samples", official_finetune, manifest, "train", args.repeats, 3, 3.5),
            ("all 15 test views", official_views, manifest, "test", views, 12, 15),
        ):
            own = Ours(source, mode)
            sides = {"official": functools.partial(official, path), "ours": own.worker, "device": own.device}
            times = in_turns(sides, repeats)
            # a mean where the work differs from sample to sample (which operations RandAugment draws), else a median
            middle = statistics.fmean if mode == "train" else statistics.median
            theirs, ours, device = (middle(times[side]) for side in sides)
            pixels, noise = (statistics.fmean(values) for values in zip(*own.handed_over))
            print(
                f"{title:40}{theirs:8.1f}ms{ours:7.1f}ms{device:7.1f}ms{theirs / ours:6.2f}x{theirs / (ours + device):6.2f}x   "
                f"{pixels:.2f} + {noise:.2f}   (promised {promised}x, aim {aim}x)",
                flush=True,
            )
            record(
                f"{title}, from a 10 s file of 340x256",
                ours=ours,
                theirs=theirs,
                unit="ms",
                peer=f"official pipeline, restated, {'decord' if decord else 'PyAV'}",
                promised=promised,
                note=f"processor time of the worker; the device's part, here on the CPU, {device:.1f} ms: "
                f"{theirs / (ours + device):.2f}x with it; aim {aim}x",
                device_ms=device,
            )
            if mode != "test":
                record(
                    f"bytes a clip handed over, {title}",
                    ours=pixels,
                    unit="MB",
                    limit=2.5,
                    note=f"and {noise:.2f} MB of noise, the mean of clips with and without an erased box",
                )
        dataset = VideoDataset(manifest, mode="pretrain", sampling=ClipSampling())
        speeds = {workers: samples_per_second(dataset, workers, max(args.repeats // 4, 2)) for workers in args.workers}
        shown = ", ".join(f"{workers} workers {speed:.1f}" for workers, speed in speeds.items())
        print(f"pre-training samples/s from raw files on {cores()} cores: {shown}")
        for workers, speed in speeds.items():
            record(
                f"pre-training samples from raw files, {workers} worker{'s' * (workers != 1)}",
                ours=speed,
                unit="samples/s",
            )
    return 0
