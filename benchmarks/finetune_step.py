"""Fine-tuning end to end: seconds a step from files to the optimizer, ours and stock transformers on the official path.

    python benchmarks/finetune_step.py                             # ViT-S, 2 videos x 2 augmented samples a step
    python benchmarks/finetune_step.py --preset small --image_size 64 --steps 2                # a quick look

Both sides read the same 340x256 H.264 videos, augment (RandAugment, random resized crop, erasing, two samples from one
decode), mix, and make one AdamW step in float32 with the same threads; they take turns. The peer is transformers'
VideoMAEForVideoClassification (sdpa), the official augmentation as benchmarks/data_loading.py restates it, mixup and soft
cross-entropy in plain torch. Outside of pre-training the forward and backward passes are nearly everything and the same
arithmetic on both sides; the shares are printed.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import data_loading  # beside this file
import torch
import transformers
from _side_by_side import header, record, take_turns
from accelerate import Accelerator

from videomae import VideoMAEConfig, VideoMAEForVideoClassification
from videomae.data.collators import ClassificationCollator
from videomae.data.lists.layouts import open_manifest
from videomae.data.mixing import Mixing
from videomae.data.transforms import TrainTransform
from videomae.data.video_dataset import VideoDataset
from videomae.training.loop import training_step
from videomae.training.objective import Objective
from videomae.training.optimisation import build_optimizer
from videomae.training.recipes import FINETUNING

CLASSES, SAMPLES = 400, 2


def ours(config: VideoMAEConfig, listing: Path, videos: int, reading: list[float]) -> Callable[[int], None]:
    """A function of the step's number that makes it and notes the seconds spent on data."""
    accelerator = Accelerator(cpu=True)
    model = VideoMAEForVideoClassification(config).train()
    dataset = VideoDataset(
        open_manifest(listing), transform=TrainTransform(size=config.image_size), num_samples=SAMPLES, as_bytes=True
    )
    collate = ClassificationCollator(Mixing(CLASSES), as_bytes=True)
    objective = Objective(problem="single_label_classification", num_labels=CLASSES, label_smoothing=0.1)
    model, optimizer = accelerator.prepare(model, build_optimizer(model, FINETUNING["v1-small-k400"]))

    def step(number: int) -> None:
        began = time.perf_counter()
        dataset.set_epoch(number)
        batch = collate([dataset[index] for index in range(videos)])
        reading.append(time.perf_counter() - began)
        training_step(accelerator, model, optimizer, [batch], objective, lr=1e-4, weight_decay=0.05)

    return step


def stock(config: VideoMAEConfig, paths: list[Path], videos: int, reading: list[float]) -> Callable[[int], None]:
    fields = {**config.to_dict(), "problem_type": "single_label_classification"}
    model = transformers.VideoMAEForVideoClassification(transformers.VideoMAEConfig.from_dict(fields)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.05)

    def step(number: int) -> None:
        began = time.perf_counter()
        pixels = torch.cat(
            [data_loading.official_finetune(paths[i], number * videos + i, SAMPLES) for i in range(videos)]
        )
        targets = torch.full((len(pixels), CLASSES), 0.1 / CLASSES)
        targets[torch.arange(len(pixels)), torch.arange(len(pixels)) % 2] += 0.9
        pixels, targets = pixels * 0.7 + pixels.flip(0) * 0.3, targets * 0.7 + targets.flip(0) * 0.3
        reading.append(time.perf_counter() - began)
        loss = (-targets * model(pixels).logits.log_softmax(dim=-1)).sum(dim=-1).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="small")
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--videos", type=int, default=2, help="videos a step; each gives two samples")
    parser.add_argument("--steps", type=int, default=6)
    args = parser.parse_args(argv)
    data_loading.SIZE = args.image_size
    torch.manual_seed(0)
    config = VideoMAEConfig.preset(args.preset, head="classify", num_labels=CLASSES, image_size=args.image_size)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = [folder / f"{index}.mp4" for index in range(args.videos)]
        for index, path in enumerate(paths):
            path.write_bytes(data_loading.natural_video(seed=index))
        (folder / "list.txt").write_text("".join(f"{path.name} {index % 2}\n" for index, path in enumerate(paths)))
        reading: dict[str, list[float]] = {"stock": [], "ours": []}
        sides = {
            "stock": stock(config, paths, args.videos, reading["stock"]),
            "ours": ours(config, folder / "list.txt", args.videos, reading["ours"]),
        }
        seconds = take_turns(sides, args.steps)
    print(f"{header()}; float32; the peer decodes with {'decord' if data_loading.decord else 'PyAV'}")
    work = f"fine-tuning step from files, ViT-{args.preset}, {args.image_size} px, {args.videos} videos x {SAMPLES} samples"
    print(f"{work}, {args.steps} steps, medians")
    for side in sides:
        whole, data = statistics.median(seconds[side]), statistics.median(reading[side][1:])  # the first warmed up
        print(
            f"{side:6} {whole:7.2f} s a step: data {data:5.2f} s ({100 * data / whole:4.1f} %), model {whole - data:6.2f} s"
        )
    peer = "transformers, official data path restated"
    row = record(work, ours=seconds["ours"], unit="s", peer=peer, theirs=seconds["stock"], promised=1.0)
    print(f"ratio  {row.ratio:7.2f}x, median over the steps (promised: not slower)")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
