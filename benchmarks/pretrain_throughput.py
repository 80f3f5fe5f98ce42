"""Pre-training end to end: clips a second from files to optimizer steps, ours and a plain loop around stock transformers.

    python benchmarks/pretrain_throughput.py                           # ViT-S on the CPU, V1's and V2's recipe
    python benchmarks/pretrain_throughput.py --device cuda             # ViT-B and ViT-L in bf16 on synthetic input
    python benchmarks/pretrain_throughput.py --preset small --image_size 64 --steps 2        # a quick look

From files, both sides read the same 340x256 H.264 videos with the same batch, threads and workers, float32, and take
turns. The plain loop is stock's VideoMAEForPreTraining (sdpa) with torch's AdamW and the official data path as
benchmarks/data_loading.py restates it: decord where installed, else PyAV; PIL per frame. With V2's recipe it also takes its
4 samples from one decode, but masks once, as stock has no decoder mask. A clip is one trained sample.

On a GPU the input is synthetic and stays there, so that only the step is timed. Model FLOPs are those of the algorithm,
whatever an implementation does: two for each multiply-add of the linear maps and of the two attention products, patch
projection and encoder on the visible tokens, decoder on visible and decoded tokens, head on decoded ones, times three for
forward and backward; norms, activations and any recomputation count nothing. MFU divides by the device's dense bf16 peak.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import data_loading  # beside this file
import psutil
import torch
import transformers
from _side_by_side import header, record
from accelerate import Accelerator

from videomae import VideoMAEConfig, VideoMAEForPreTraining
from videomae.data.collators import PretrainCollator
from videomae.data.manifests import open_manifest
from videomae.data.transforms import PretrainTransform
from videomae.data.video_dataset import VideoDataset
from videomae.masking_videomae import batch_masks
from videomae.sampling_videomae import ClipSampling
from videomae.train_pretrain import training_step
from videomae.training.batches import StepPlan, step_batches
from videomae.training.optimisation import build_optimizer
from videomae.training.recipes import PRETRAINING, PretrainRecipe

# Dense bf16 peaks from NVIDIA's data sheets, in TFLOP/s; another device needs --peak_tflops.
PEAK_TFLOPS = {"H200": 989, "H100 PCIe": 756, "H100": 989, "A100": 312, "L40S": 362, "A10G": 70, "L4": 121, "V100": 125}


def stock_model(config: VideoMAEConfig) -> torch.nn.Module:
    return transformers.VideoMAEForPreTraining(transformers.VideoMAEConfig.from_dict(config.to_dict())).train()


# ------------------------------------------------------------------------------------------------------ from files


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
    collate = PretrainCollator(config.grid, mask_ratio=recipe.mask_ratio, decoder_mask=recipe.decoder_mask)
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


# ------------------------------------------------------------------------------------------------- steps on a GPU


def model_flops(config: VideoMAEConfig, visible: int, decoded: int) -> float:
    """Forward and backward FLOPs of one clip, counted as the docstring of this file says."""

    def block(tokens: int, width: int, mlp: int) -> float:
        return 2 * tokens * (4 * width * width + 2 * width * mlp) + 4 * tokens * tokens * width

    (high, wide), width = config.patch_hw, config.hidden_size
    values = config.num_channels * config.tubelet_size * high * wide
    forward = 2 * visible * values * width
    forward += config.num_hidden_layers * block(visible, width, config.intermediate_size)
    forward += 2 * visible * width * config.decoder_hidden_size
    decoder = block(visible + decoded, config.decoder_hidden_size, config.decoder_intermediate_size)
    forward += config.decoder_num_hidden_layers * decoder + 2 * decoded * config.decoder_hidden_size * values
    return 3.0 * forward


def peak_flops(args: argparse.Namespace) -> float | None:
    if args.peak_tflops:
        return args.peak_tflops * 1e12
    name = torch.cuda.get_device_name() if args.device == "cuda" else ""
    return next((peak * 1e12 for key, peak in PEAK_TFLOPS.items() if key in name), None)


def step_of(args: argparse.Namespace, contender: str, config: VideoMAEConfig) -> tuple[Callable[[], object], int]:
    """A function that makes one optimizer step of a contender, and the number of tokens that it decodes."""
    torch.manual_seed(0)
    accelerator = Accelerator(mixed_precision="bf16", cpu=args.device == "cpu")
    device = accelerator.device
    stock = contender.startswith("stock")
    model = stock_model(config) if stock else VideoMAEForPreTraining(config).train()
    if "compiled" in contender:
        model.compile()
    model, optimizer = accelerator.prepare(model, build_optimizer(model.to(device), PretrainRecipe()))
    masks, visible = batch_masks("tube", config.grid, 0.9, args.batch)
    batch = {"pixel_values": torch.randn(args.batch, config.num_frames, 3, *config.image_hw, device=device)}
    batch["bool_masked_pos"] = masks.to(device)
    decoded = config.num_patches - visible
    if not stock:
        batch["num_visible"] = visible
    if "dual" in contender:
        left_out, decoded = batch_masks("running_cell", config.grid, 0.5, args.batch)
        batch |= {"bool_decoded_pos": (~left_out).to(device), "num_decoded": decoded}
    return (lambda: training_step(accelerator, model, optimizer, [batch], lr=1e-4, weight_decay=0.05)), decoded


def synthetic_steps(args: argparse.Namespace) -> None:
    contenders = ["stock", "ours", "ours, dual masking"]
    if not args.no_compile:
        contenders += ["stock, compiled", "ours, compiled", "ours, dual masking, compiled"]
    peak = peak_flops(args)
    wait = torch.cuda.synchronize if args.device == "cuda" else (lambda: None)
    for preset in args.presets:
        config = VideoMAEConfig.preset(preset, version=2 if preset == "giant" else 1, image_size=args.image_size)
        visible = config.num_patches - int(batch_masks("tube", config.grid, 0.9, 1)[0].sum())
        reference = None
        print(f"ViT-{preset}, batch {args.batch}, bf16, synthetic input")
        for contender in contenders:
            step, decoded = step_of(args, contender, config)
            for _ in range(args.warmup):
                step()
            if args.device == "cuda":
                torch.cuda.reset_peak_memory_stats()
            seconds = []
            for _ in range(args.rounds):
                wait()
                began = time.perf_counter()
                for _ in range(args.steps):
                    step()
                wait()
                seconds.append((time.perf_counter() - began) / args.steps)
            rate = args.batch / statistics.median(seconds)
            reference = reference or rate
            used = model_flops(config, visible, decoded) * rate
            share = f", MFU {used / peak:.1%}" if peak else ""
            memory = f", peak {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB" if args.device == "cuda" else ""
            print(
                f"  {contender:<30}{rate:9.2f} clips/s  {rate / reference:5.2f}x stock{share}, {used / 1e12:.2f} TFLOP/s{memory}",
                flush=True,
            )
            del step
            if args.device == "cuda":
                torch.cuda.empty_cache()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--synthetic", action="store_true", help="steps on synthetic input on the CPU too")
    parser.add_argument("--preset", default="small", help="from files: the model")
    parser.add_argument("--presets", nargs="+", default=["base", "large"], help="on synthetic input: the models")
    parser.add_argument("--batch", type=int, default=None, help="trained samples a step (8 from files, 64 on a GPU)")
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--steps", type=int, default=None, help="steps timed in a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--warmup", type=int, default=5)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--videos", type=int, default=4)
    parser.add_argument("--no_compile", action="store_true")
    parser.add_argument("--peak_tflops", type=float, help="the device's dense bf16 peak, where it is not known here")
    args = parser.parse_args()
    synthetic = args.synthetic or args.device == "cuda"
    args.batch = args.batch or (64 if synthetic else 8)
    args.steps = args.steps or (20 if synthetic else 4)
    data_loading.SIZE = args.image_size
    print(header(device=args.device))
    if synthetic:
        synthetic_steps(args)
    else:
        from_files(args)


if __name__ == "__main__":
    main()
