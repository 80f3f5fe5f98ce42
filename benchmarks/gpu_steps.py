"""Training steps on a GPU in bf16: ours and stock, eager, compiled and with CUDA graphs, over batches, without any wait.

    python -m benchmarks gpu                                          # everything below, with a results file and the tables
    python -m benchmarks gpu_steps --presets base --kinds pretrain --batches 32 64
    python -m benchmarks gpu_steps --device cpu --smoke               # small and on the CPU: only to see that it runs

A step is the trainers' own `training_step` for ours (autocast, gradient norm, fused AdamW), and the same function around
transformers' model for stock, on synthetic clips that already lie on the device. Kinds: pretrain (V1), pretrain-dual (V2,
against stock's single mask) and classify (fine-tuning with soft labels, as mixup makes them). Modes: eager, compiled
(torch.compile) and graphs (mode="reduce-overhead", which replays CUDA graphs); of a sweep of batches only the middle one is
compiled. Each contender takes turns with stock eager; one that does not fit or fails is named and left out.

FLOPs are counted as benchmarks/common/cost.py says, for ours and stock alike those of the algorithm that each runs; MFU divides by
the data sheet's dense bf16 peak (--peak_tflops for a device that is not listed) and "of the ceiling" by the rate of a large
matrix product measured here. Every mode of ours is also run once under torch.cuda.set_sync_debug_mode("error"), where any
wait for the device inside a step is an error. --profile prints what the kernels of a step take.
"""

import argparse
import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from accelerate import Accelerator

from videomae.training.loop import training_step
from videomae.training.objective import Objective
from videomae.training.optimisation import build_optimizer
from videomae.training.recipes import FinetuneRecipe, PretrainRecipe

from .common.cost import device_peak, matmul_flops_per_second, step_flops, tokens_of
from .common.timing import clock, header, held_mib, median_ratio, middle, peak_mib, record, reset_peak, take_turns
from .model_step import config_of, inputs_of, our_model, stock_inputs, stock_model

KINDS = ("pretrain", "pretrain-dual", "classify")
BATCHES = {"pretrain": [32, 64, 128], "pretrain-dual": [32, 64, 128], "classify": [8, 16, 32]}
MODES = {"eager": None, "compiled": "default", "graphs": "reduce-overhead"}
PROMISED = 1.5  # times stock eager, in pre-training
PROMISED_MFU = 50  # per cent, of ViT-L's pre-training


def contender(
    args: argparse.Namespace, preset: str, kind: str, side: str, mode: str, batch: int
) -> tuple[torch.nn.Module, Callable[[int], object]]:
    """A model on the device, and a function that makes one optimizer step with it and leaves everything there."""
    accelerator = Accelerator(mixed_precision="bf16", cpu=args.device == "cpu")
    config = config_of(preset, kind, args.image_size)
    inputs = inputs_of(config, kind, batch, args.device)
    if side == "ours":
        model = our_model(config, kind, args.device)
    else:
        model, inputs = stock_model(config, kind, args.device), stock_inputs(inputs)
    model.train()
    if MODES[mode]:
        model.compile(mode=MODES[mode])
    recipe = FinetuneRecipe() if kind == "classify" else PretrainRecipe()
    model, optimizer = accelerator.prepare(model, build_optimizer(model, recipe))
    rates = {"lr": 1e-4, "weight_decay": 0.05}
    if kind != "classify":
        return model, lambda number: training_step(accelerator, model, optimizer, [inputs], **rates)
    soft = torch.full((batch, config.num_labels), 0.1 / config.num_labels, device=args.device)
    soft[:, 0] += 0.9
    inputs["labels"] = soft
    objective = Objective(problem="single_label_classification", num_labels=config.num_labels, label_smoothing=0.1)
    return model, lambda number: training_step(accelerator, model, optimizer, [inputs], objective, **rates)


@contextmanager
def waits_are_errors(device: str) -> Iterator[None]:
    """Inside, whatever makes the CPU wait for a CUDA device raises."""
    if device != "cuda":
        yield
        return
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def check_no_wait(run: Callable[[int], object], device: str, title: str) -> None:
    """Two steps in which no wait is allowed, after the first ones have compiled and filled the caches."""
    try:
        with waits_are_errors(device):
            run(0)
            run(1)
        waits = 0
    except RuntimeError as error:
        if "synchroniz" not in str(error):
            raise
        waits = 1
        print(f"  {title}: a step waits for the device: {error}")
    if device == "cuda":
        record(f"steps that wait for the device, {title}", ours=waits, unit="steps", limit=0)


def free(device: str) -> None:
    torch.compiler.reset()
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()


def compare(
    args: argparse.Namespace, preset: str, kind: str, batch: int, modes: list[str], peak: float | None, ceiling: float
) -> None:
    """Every contender of one batch: rate, ratio to stock eager, MFU, peak memory."""
    config, head = config_of(preset, kind, args.image_size), kind.removesuffix("-dual")
    now, times, memory = clock(args.device), {}, {}
    print(f"\nViT-{preset}, {kind}, batch {batch}")
    base = "stock, eager"
    runs: dict[str, Callable[[int], object]] = {}
    for mode in modes:
        for side in ("stock", "ours"):
            name = f"{side}, {mode}"
            title = f"ViT-{preset} {kind}, batch {batch}, {name}"
            before = held_mib(args.device)  # stock eager stays, to take turns with
            try:
                _, run = contender(args, preset, kind, side, mode, batch)
                for number in range(args.warmup):
                    run(number)
                if side == "ours":
                    check_no_wait(run, args.device, title)
                reset_peak(args.device)
                run(0)
                memory[name] = peak_mib(args.device) - before
            except torch.OutOfMemoryError:
                print(f"  {name}: does not fit")
                run = None
                free(args.device)
                continue
            except RuntimeError as error:  # a compiler or a graph that fails must not cost the other figures
                print(f"  {name}: failed: {str(error).splitlines()[0]}")
                run = None
                free(args.device)
                continue
            if name == base:
                runs[base] = run
                continue
            # Against stock eager in turns, where both fit into the memory; a pair at a time leaves room for large batches.
            pair = {**runs, name: run}
            try:
                seconds = take_turns(
                    {key: repeat(value, args.steps) for key, value in pair.items()}, args.rounds, now=now
                )
            except torch.OutOfMemoryError:
                seconds = take_turns({name: repeat(run, args.steps)}, args.rounds, now=now)
            times[name] = (seconds[name], seconds.get(base))
            del run, pair
            free(args.device)
    if runs:
        own = take_turns({base: repeat(runs[base], args.steps)}, args.rounds, now=now)[base]
        times = {base: (own, own), **times}
    runs.clear()
    free(args.device)
    for name, (seconds, stock) in times.items():
        rates = [batch * args.steps / took for took in seconds]
        ratio = median_ratio(stock, seconds) if stock else None
        dual = kind == "pretrain-dual" and name.startswith("ours")
        flops = step_flops(config, head, tokens_of(config, head, dual=dual)) * middle(rates)
        mfu = flops / peak if peak else None
        print(
            f"  {name:<18}{middle(rates):>10.2f} clips/s{'' if ratio is None else f'{ratio:.2f}x stock eager':>20}"
            f"{'' if mfu is None else f'  MFU {mfu:.1%}'}  {flops / ceiling:.1%} of the ceiling  {memory[name] / 1024:.1f} GiB",
            flush=True,
        )
        if name.startswith("ours"):
            record(
                f"ViT-{preset} {kind} step, bf16, batch {batch}, {name.removeprefix('ours, ')}",
                ours=rates,
                theirs=None if stock is None else [batch * args.steps / took for took in stock],
                unit="clips/s",
                peer="transformers, eager" if stock else "",
                promised=PROMISED if stock and head == "pretrain" and args.device == "cuda" else None,
                note=f"{'' if mfu is None else f'MFU {mfu:.1%}, '}peak {memory[name] / 1024:.1f} GiB",
                preset=preset,
                kind=kind,
                batch=batch,
                mode=name.removeprefix("ours, "),
                mfu=mfu,
            )
        if mfu is not None and preset == "large" and name.startswith("ours") and head == "pretrain":
            record(f"its MFU, ViT-{preset} {kind}, batch {batch}, {name}", ours=100 * mfu, unit="%", limit=PROMISED_MFU)


def repeat(run: Callable[[int], object], steps: int) -> Callable[[int], None]:
    def several(number: int) -> None:
        for step in range(steps):
            run(step)

    return several


def profile(args: argparse.Namespace, preset: str, kind: str, batch: int) -> None:
    """The operators that take most of the device's time in an eager step of ours."""
    _, run = contender(args, preset, kind, "ours", "eager", batch)
    run(0)
    activities = [torch.profiler.ProfilerActivity.CPU]
    if args.device == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profiler:
        for number in range(3):
            run(number)
    order = "self_cuda_time_total" if args.device == "cuda" else "self_cpu_time_total"
    print(f"\nViT-{preset}, {kind}, batch {batch}\n{profiler.key_averages().table(sort_by=order, row_limit=12)}")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--presets", nargs="+", default=["base", "large"])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument(
        "--batches", type=int, nargs="+", help="default: 32 64 128 for pre-training, 8 16 32 for classify"
    )
    parser.add_argument("--modes", nargs="+", choices=list(MODES), default=list(MODES))
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--steps", type=int, default=10, help="steps of a turn")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--warmup", type=int, default=4)
    parser.add_argument("--peak_tflops", type=float, help="the device's dense bf16 peak, where it is not known here")
    parser.add_argument("--profile", action="store_true", help="only profile an eager step of ours")
    parser.add_argument("--smoke", action="store_true", help="smallest sizes and one round: only to see that it runs")
    args = parser.parse_args(argv)
    if args.smoke:
        args.presets, args.batches, args.image_size = ["small"], [2], 32
        args.steps, args.rounds, args.warmup = 1, 1, 1
    if args.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("no CUDA device here; --device cpu --smoke shows that everything runs")
    torch.set_float32_matmul_precision("high")
    print(header(device=args.device))
    peak = device_peak(args.device, args.peak_tflops)
    ceiling = matmul_flops_per_second(torch.bfloat16, device=args.device, size=256 if args.smoke else None)
    print(
        f"bf16 matrix products run at {ceiling / 1e12:.1f} TFLOP/s here; data sheet: {'unknown' if not peak else f'{peak / 1e12:.0f}'}"
    )
    record("matrix product, bf16", ours=ceiling / 1e12, unit="TFLOP/s")
    for preset in args.presets:
        for kind in args.kinds:
            batches = args.batches or BATCHES[kind]
            for batch in batches:
                # Compiling takes a minute each, so only one batch of a sweep is compiled too.
                modes = args.modes if batch == batches[len(batches) // 2] else args.modes[:1]
                if args.profile:
                    profile(args, preset, kind, batch)
                else:
                    compare(args, preset, kind, batch, modes, peak, ceiling)
    return 0
