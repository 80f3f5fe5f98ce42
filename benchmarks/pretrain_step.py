"""One pre-training step, forward and backward, of ours and of stock transformers, in one run.

    python -m benchmarks pretrain_step                                   # ViT-B, batch 4, 16x224x224, 90 % tube, float32
    python -m benchmarks pretrain_step --device cuda --dtype bf16 --compile --batch 32

Three contenders take turns on the same clips and masks: stock with single masking, ours with single masking, ours with
V2's dual masking (running cell 0.5). Peak memory is that of a process that runs one contender alone. The ratio of times is
the median over the rounds, of two contenders in the same round.
"""

import argparse
import statistics
import subprocess
import sys

import torch
import transformers

from videomae import VideoMAEConfig, VideoMAEForPreTraining
from videomae.masking_videomae import batch_masks

from .common.timing import clock, cores, header, median_ratio, peak_mib, record, take_turns

CONTENDERS = ("stock", "ours", "ours, dual masking")


def make_step(name: str, args: argparse.Namespace):
    """A function that runs one step of a contender and leaves its gradients behind."""
    torch.manual_seed(0)
    device = torch.device(args.device)
    config = VideoMAEConfig.preset(args.preset, **({"version": 2} if args.preset == "giant" else {}))
    if name == "stock":
        model = transformers.VideoMAEForPreTraining(transformers.VideoMAEConfig.from_dict(config.to_dict()))
    else:
        model = VideoMAEForPreTraining(config)
    model = model.to(device).train()
    video = torch.randn(args.batch, config.num_frames, 3, *config.image_hw).to(device)
    generator = torch.Generator().manual_seed(0)
    hidden, visible = batch_masks("tube", config.grid, 0.9, args.batch, generator)
    inputs = {"pixel_values": video, "bool_masked_pos": hidden.to(device)}
    if name != "stock":
        inputs["num_visible"] = visible
    if name == "ours, dual masking":
        left_out, num_decoded = batch_masks("running_cell", config.grid, 0.5, args.batch, generator)
        inputs |= {"bool_decoded_pos": (~left_out).to(device), "num_decoded": num_decoded}
    forward = torch.compile(model) if args.compile else model

    def step(number: int = 0) -> None:
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=args.dtype == "bf16"):
            loss = forward(**inputs).loss
        loss.backward()
        for parameter in model.parameters():
            parameter.grad = None

    return step


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="base", help="small, base, large, huge or giant")
    parser.add_argument("--batch", type=int, default=4, help="clips per step")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--dtype", choices=["float32", "bf16"], default="float32", help="bf16 means autocast")
    parser.add_argument("--compile", action="store_true", help="torch.compile every contender")
    parser.add_argument("--repeats", type=int, default=5, help="timed rounds, after one that is not timed")
    parser.add_argument("--threads", type=int, default=cores(), help="CPU threads")
    parser.add_argument("--alone", choices=CONTENDERS, help=argparse.SUPPRESS)  # the memory measurement's child
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    args = parse(argv)
    torch.set_num_threads(args.threads)
    if args.alone:
        step = make_step(args.alone, args)
        step()
        step()
        print(peak_mib(args.device))
        return 0

    print(header(threads=args.threads, device=args.device))
    what = f"ViT {args.preset}, batch {args.batch}, {args.dtype}{', compiled' if args.compile else ''}, tube 0.9"
    print(what)
    steps = {name: make_step(name, args) for name in CONTENDERS}
    times = take_turns(steps, args.repeats, now=clock(args.device))
    del steps
    memory = {}
    for name in CONTENDERS:
        child = [sys.executable, "-m", "benchmarks", "pretrain_step", *argv, "--alone", name]
        memory[name] = float(subprocess.run(child, check=True, capture_output=True, text=True).stdout.split()[-1])

    print(f"{'':<20}{'median s':>10}{'best s':>10}{'x stock':>9}{'peak MiB':>10}{'x stock':>9}")
    for name in CONTENDERS:
        print(
            f"{name:<20}{statistics.median(times[name]):>10.3f}{min(times[name]):>10.3f}"
            f"{median_ratio(times['stock'], times[name]):>8.2f}x"
            f"{memory[name]:>10.0f}{memory[name] / memory['stock']:>8.2f}x"
        )
    published = args.preset == "base" and args.dtype == "float32" and args.device == "cpu"  # what was promised
    for name, promised in (("ours", 1.08), ("ours, dual masking", 1.65)):
        masks = "dual masking" if "dual" in name else "one mask"
        peer = {"peer": "transformers, one mask"}
        record(
            f"pre-training step, {what}, {masks}",
            ours=times[name],
            theirs=times["stock"],
            unit="s",
            promised=promised if published else None,
            **peer,
        )
        record(
            f"peak memory of that step, {masks}",
            ours=memory[name],
            theirs=memory["stock"],
            unit="MiB",
            promised=1.0 if published else None,
            **peer,
        )
    return 0
