"""Pre-training end to end: clips a second from files to optimizer steps, ours and a plain loop around stock transformers.

    python benchmarks/pretrain_throughput.py                           # ViT-S on the CPU, V1's and V2's recipe
    python benchmarks/pretrain_throughput.py --preset small --image_size 64 --steps 2        # a quick look

From files, both sides read the same 340x256 H.264 videos with the same batch, threads and workers, float32, and take
turns. The plain loop is stock's VideoMAEForPreTraining (sdpa) with torch's AdamW and the official data path as
benchmarks/data_loading.py restates it: decord where installed, else PyAV; PIL per frame. With V2's recipe it also takes its
4 samples from one decode, but masks once, as stock has no decoder mask. A clip is one trained sample. Steps on a GPU
are timed by benchmarks/gpu_steps.py.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import data_loading  # beside this file
import psutil
import torch
import transformers
from _side_by_side import header, record
from accelerate import Accelerator

from videomae import VideoMAEConfig, VideoMAEForPreTraining
from videomae.data.collators import PretrainCollator
from videomae.data.lists.layouts import open_manifest
from videomae.data.transforms import PretrainTransform
from videomae.data.video_dataset import VideoDataset
from videomae.masking_videomae import batch_masks
from videomae.sampling_videomae import ClipSampling
from videomae.training.batches import StepPlan, step_batches
from videomae.training.loop import training_step
from videomae.training.optimisation import build_optimizer
from videomae.training.recipes import PRETRAINING, PretrainRecipe


def stock_model(config: VideoMAEConfig) -> torch.nn.Module:
    return transformers.VideoMAEForPreTraining(transformers.VideoMAEConfig.from_dict(config.to_dict())).train()


def ours_from_files(
    args: argparse.Namespace, recipe: PretrainRecipe, config: VideoMAEConfig, listing: Path
) -> Iterator:
    """Each `next` is one optimizer step of the trainer's own loop."""
    accelerator = Accelerator(cpu=True)
    model = VideoMAEForPreTraining(config).train()
    dataset = VideoDataset(
        open_manifest(listing),
        mode="pretrain",
        sampling=ClipSampling(num_frames=config.num_frames, stride_frames=recipe.stride_frames),
        transform=PretrainTransform(size=args.image_size),
        num_samples=recipe.num_samples,
    )
    collate = PretrainCollator(
        config.grid, mask_ratio=recipe.mask_ratio, decoder_mask=recipe.decoder_mask, as_bytes=True
    )
    videos = args.batch // recipe.num_samples
    plan = StepPlan(num_clips=len(dataset), clips_per_step=videos, clips_per_device=videos, processes=1, epochs=1000)
    model, optimizer = accelerator.prepare(model, build_optimizer(model, recipe))
    steps = step_batches(dataset, collate, plan, seed=0, first_step=0, last_step=10**6, num_workers=args.workers)
    for _, batches in steps:
        yield training_step(accelerator, model, optimizer, batches, lr=1e-4, weight_decay=0.05)


class OfficialSamples(torch.utils.data.Dataset):
    """The official pre-training path: decode, crop and scale in PIL, a fresh tube mask for each copy."""

    def __init__(self, paths: list[Path], recipe: PretrainRecipe, config: VideoMAEConfig, length: int):
        self.paths, self.recipe, self.config, self.length = paths, recipe, config, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        copies = self.recipe.num_samples
        pixels = data_loading.official_pretrain(self.paths[index % len(self.paths)], index, copies)
        return pixels, batch_masks("tube", self.config.grid, self.recipe.mask_ratio, copies)[0]


def stock_from_files(
    args: argparse.Namespace, recipe: PretrainRecipe, config: VideoMAEConfig, paths: list[Path]
) -> Iterator:
    """Each `next` is one step of a plain loop, as engine_for_pretraining.py writes it but for the loss scaler."""
    model = stock_model(config)
    decayed = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-4, betas=(0.9, 0.95))
    loader = torch.utils.data.DataLoader(
        OfficialSamples(paths, recipe, config, 10**6),
        batch_size=args.batch // recipe.num_samples,
        num_workers=args.workers,
    )
    for pixels, masks in loader:
        loss = model(pixels.flatten(0, 1), masks.flatten(0, 1)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield loss.item()


def alternate(args: argparse.Namespace, contenders: dict[str, Iterator]) -> tuple[dict, dict]:
    """Clips a second, and CPU seconds a clip with those of workers: of each contender, one figure a round.

    Workers go on decoding while the other side computes, so before a turn the steps that were prepared meanwhile are made
    and not counted.
    """
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    spent: dict[str, list[float]] = {name: [] for name in contenders}
    clips = args.steps * args.batch
    for _ in range(args.rounds):
        for name, steps in contenders.items():
            for _ in range(2 * max(args.workers, 1)):
                next(steps)
            began, before = time.perf_counter(), cpu_seconds()
            for _ in range(args.steps):
                next(steps)
            rates[name].append(clips / (time.perf_counter() - began))
            spent[name].append((cpu_seconds() - before) / clips)
    return rates, spent


def cpu_seconds() -> float:
    """CPU time of this process and its workers: what a busy machine does not distort."""
    here = psutil.Process()
    times = [process.cpu_times() for process in (here, *here.children(recursive=True))]
    return sum(spent.user + spent.system for spent in times)


def from_files(args: argparse.Namespace) -> None:
    print(
        f"ViT-{args.preset}, batch {args.batch}, {args.image_size} px, float32, {torch.get_num_threads()} threads, {args.workers} workers"
    )
    size = {"image_size": args.image_size}
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{number}.mp4" for number in range(args.videos)]
        for number, path in enumerate(paths):
            path.write_bytes(data_loading.natural_video(seed=number))
        listing = Path(folder) / "list.txt"
        listing.write_text("".join(f"{path.name} 0\n" for path in paths * 50))
        for name, wanted in (("v1-small-k400", 1.2), ("v2-base-hybrid", 1.6)):
            recipe = PRETRAINING[name]
            config = VideoMAEConfig.preset(args.preset, version=recipe.version, **size)
            contenders = {
                "stock": stock_from_files(args, recipe, config, paths),
                "ours": ours_from_files(args, recipe, config, listing),
            }
            rates, spent = alternate(args, contenders)
            work = (
                f"pre-training from files, ViT-{args.preset}, {args.image_size} px, V{recipe.version}'s recipe, "
                f"{recipe.num_samples} samples a decode"
            )
            row = record(
                work,
                ours=rates["ours"],
                unit="clips/s",
                peer="transformers, official data path restated",
                theirs=rates["stock"],
                promised=wanted,
            )
            print(f"{work}: {row.ratio:.2f}x (promised {wanted}x)")
            for side in contenders:
                rate, cpu = statistics.median(rates[side]), statistics.median(spent[side])
                print(f"  {side:<6}{rate:8.3f} clips/s {cpu:9.3f} CPU s a clip", flush=True)
            for steps in contenders.values():
                steps.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="small")
    parser.add_argument("--batch", type=int, default=8, help="trained samples a step")
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--steps", type=int, default=4, help="steps timed in a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--videos", type=int, default=4)
    args = parser.parse_args()
    data_loading.SIZE = args.image_size
    print(header())
    from_files(args)


if __name__ == "__main__":
    main()
