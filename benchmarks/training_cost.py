"""What a training costs: clips a second with data, waiting, workers, memory against batch, and hours of published recipes.

    python -m benchmarks training_cost                         # ViT-S pre-training on this CPU, then the extrapolation
    python -m benchmarks training_cost --only recipes          # no training: published recipes in FLOPs and GPU hours
    python -m benchmarks training_cost --only recipes --clips_per_second v1-base-k400=900 --gpus 8
    python -m benchmarks training_cost --predict large classify --gib 80      # which batch fits

The loop is the trainer's own (training/batches.py, training/loop.py) on 340x256 H.264 files. Memory is measured
for a forward and backward pass and stands beside the count of benchmarks/common/cost.py.

The arithmetic of the extrapolation: clips of an epoch = videos of the data set x samples of a decoded clip; hours = clips /
(clips a second of one device) / devices / 3600. The rate of a device comes from the newest results file of a GPU
(`python -m benchmarks gpu`) or from --clips_per_second. Where there is neither, it is formula only: the FLOPs of a clip over
the device's peak times an assumed utilisation, and the table says so. Scaling over devices is taken as perfect, data as
never waited for, and a recipe with gradient checkpointing as costing a third more.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch

from videomae import VideoMAEConfig
from videomae.training.recipes import FINETUNING, PRETRAINING, FinetuneRecipe, PretrainRecipe

from .common.cost import (
    TRAINING_BYTES_PER_PARAMETER,
    Tokens,
    checkpointed_bytes,
    forward_flops,
    kept_bytes,
    num_parameters,
    step_flops,
    tokens_of,
)
from .common.results import newest_results, number, table
from .common.timing import added_mib, cores, header, record

# Training videos as the papers count them (VideoMAE, section 4.1; VideoMAE V2, section 4.1).
VIDEOS = {
    "K400": 240_000,
    "K600": 366_000,
    "K710": 658_000,
    "SSV2": 169_000,
    "UCF101": 9_500,
    "HMDB51": 3_500,
    "UnlabeledHybrid": 1_350_000,
}
ASSUMED_UTILISATION = 0.4
ASSUMED_PEAKS = {"A100": 312e12, "H100": 989e12}  # dense bf16, from the data sheets
CHECKPOINTING_FACTOR = 4 / 3  # one more forward pass
GIB, MIB = 2**30, 2**20


# ---------------------------------------------------------------------------------------------------- counted


def config_and_tokens(preset: str, kind: str) -> tuple[VideoMAEConfig, str, Tokens]:
    """Of a preset at its published size; kind is pretrain, pretrain-dual or classify."""
    head = kind.removesuffix("-dual")
    dual = kind == "pretrain-dual"
    more = {"num_labels": 400} if head == "classify" else {}
    config = VideoMAEConfig.preset(preset, head=head, version=2 if dual or preset == "giant" else 1, **more)
    return config, head, tokens_of(config, head, dual=dual)


def preset_table() -> str:
    """FLOPs and memory of every preset, by counting alone."""
    rows = []
    for preset in ("small", "base", "large", "huge", "giant"):
        for kind in ("pretrain", "pretrain-dual", "classify"):
            if preset == "giant" and kind == "pretrain":
                continue  # released by V2 only
            config, head, tokens = config_and_tokens(preset, kind)
            parameters = num_parameters(config, head)
            rows.append(
                [
                    f"{preset}, {kind}",
                    f"{parameters / 1e6:.1f} M",
                    f"{parameters * TRAINING_BYTES_PER_PARAMETER / GIB:.2f} GiB",
                    number(forward_flops(config, head, tokens) / 1e9),
                    number(step_flops(config, head, tokens) / 1e9),
                    f"{kept_bytes(config, head, tokens) / MIB:.0f} MiB",
                    f"{checkpointed_bytes(config, head, tokens) / MIB:.0f} MiB",
                ]
            )
    head_line = ["Preset, head", "Parameters", "Weights, gradients, AdamW", "GFLOP forward", "GFLOP a step"]
    return table([*head_line, "Kept a clip, float32", "With checkpointing"], rows)


def predict(preset: str, kind: str, gib: float) -> None:
    """Print the largest batch that fits, with 5 % left for the allocator and the passing."""
    config, head, tokens = config_and_tokens(preset, kind)
    fixed = num_parameters(config, head) * TRAINING_BYTES_PER_PARAMETER
    room = 0.95 * gib * GIB - fixed
    print(f"ViT-{preset}, {kind}: {fixed / GIB:.2f} GiB for weights, gradients and AdamW, of {gib:g} GiB")
    if room <= 0:
        print("  that alone does not fit; shard it (examples/accelerate/fsdp2.yaml)")
        return
    for what, held in (
        ("float32", kept_bytes(config, head, tokens)),
        ("bf16 autocast (half is kept; measured on the CPU only)", kept_bytes(config, head, tokens) / 2),
        ("float32, gradient checkpointing", checkpointed_bytes(config, head, tokens)),
    ):
        print(f"  {what}: {held / MIB:.0f} MiB a clip, batch {max(int(room / held), 0)}")


# ---------------------------------------------------------------------------------------------------- measured


def loop(args: argparse.Namespace) -> float:
    """Clips a second and the share of waiting of the trainer's own loop, by workers; returns the best rate."""
    import data_loading  # beside this file
    from accelerate import Accelerator

    from videomae import VideoMAEForPreTraining
    from videomae.data.collators import PretrainCollator
    from videomae.data.lists.layouts import open_manifest
    from videomae.data.transforms import PretrainTransform
    from videomae.data.video_dataset import VideoDataset
    from videomae.training.batches import StepPlan, step_batches
    from videomae.training.loop import training_step
    from videomae.training.optimisation import build_optimizer

    recipe = PRETRAINING["v1-small-k400"]
    config = VideoMAEConfig.preset(args.preset, image_size=args.image_size)
    accelerator = Accelerator(cpu=True)
    model = VideoMAEForPreTraining(config).train()
    model, optimizer = accelerator.prepare(model, build_optimizer(model, recipe))
    rates = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for index in range(4):
            (folder / f"{index}.mp4").write_bytes(data_loading.natural_video(seconds=5, seed=index))
        (folder / "list.txt").write_text("".join(f"{index % 4}.mp4 0\n" for index in range(400)))
        for workers in args.workers:
            dataset = VideoDataset(
                open_manifest(folder / "list.txt"), mode="pretrain", transform=PretrainTransform(size=args.image_size)
            )
            plan = StepPlan(
                num_clips=len(dataset), clips_per_step=args.batch, clips_per_device=args.batch, processes=1, epochs=1000
            )
            collate = PretrainCollator(config.grid, mask_ratio=recipe.mask_ratio, as_bytes=True)
            warm = 1 + 2 * workers  # what workers prepared while the model was waiting to start
            seconds, waiting = [], []
            steps = step_batches(
                dataset, collate, plan, seed=0, first_step=0, last_step=warm + args.steps, num_workers=workers
            )
            for step, batches in steps:
                began = time.perf_counter()
                training_step(accelerator, model, optimizer, batches, lr=1e-4, weight_decay=0.05)
                if step >= warm:
                    seconds.append(time.perf_counter() - began)
                    waiting.append(batches.waited)
            rates[workers] = args.batch / statistics.mean(seconds)
            share = sum(waiting) / sum(seconds)
            print(
                f"  {workers} workers: {rates[workers]:6.2f} clips/s, {share:.0%} of the time waiting for data",
                flush=True,
            )
            record(
                f"pre-training from files, ViT-{args.preset}, batch {args.batch}, {workers} workers",
                ours=rates[workers],
                unit="clips/s",
                note=f"waiting for data {share:.0%}",
                preset=args.preset,
                workers=workers,
                waiting=share,
            )
    return max(rates.values())


def memory(args: argparse.Namespace) -> None:
    """What a forward and backward pass adds, against the batch, with and without gradient checkpointing."""
    from model_step import config_of, inputs_of, our_model, runner

    print("\nmemory of forward and backward beyond the weights (in brackets: counted)")
    for kind, batches in (("pretrain", args.batches), ("classify", args.batches[:2])):
        config = config_of(args.preset, kind, args.image_size)
        tokens = tokens_of(config, kind)
        model = our_model(config, kind, "cpu")
        gradients = 4 * sum(parameter.numel() for parameter in model.parameters())
        for checkpointing in (False, True):
            if checkpointing:
                model.activation_checkpointing_enable({"use_reentrant": False})
            held = (checkpointed_bytes if checkpointing else kept_bytes)(config, kind, tokens)
            for batch in batches:
                run = runner(model, inputs_of(config, kind, batch, "cpu"), work="step", dtype=torch.float32)
                run(0)
                added = added_mib(lambda run=run: run(0))
                if added is None:
                    print("  this system does not tell how much memory a process holds")
                    return
                began = time.perf_counter()
                run(0)
                seconds = time.perf_counter() - began
                counted = (gradients + batch * held) / MIB
                how = "with checkpointing" if checkpointing else "without checkpointing"
                print(f"  {kind}, batch {batch}, {how}: {added:.0f} MiB ({counted:.0f}), {seconds:.2f} s", flush=True)
                record(
                    f"memory of a step, ViT-{args.preset}, {kind}, float32, batch {batch}, {how}",
                    ours=added,
                    unit="MiB",
                    note=f"counted {counted:.0f} MiB; {seconds:.2f} s",
                )


# ------------------------------------------------------------------------------------------------- extrapolated


def recipe_tokens(recipe: PretrainRecipe | FinetuneRecipe) -> tuple[VideoMAEConfig, str, Tokens]:
    head = "pretrain" if isinstance(recipe, PretrainRecipe) else "classify"
    config = VideoMAEConfig.preset(recipe.model, head=head, version=recipe.version, image_size=recipe.image_size)
    if head == "classify":
        return config, head, tokens_of(config, head)
    dual = recipe.decoder_mask is not None
    return config, head, tokens_of(config, head, dual=dual, mask_ratio=recipe.mask_ratio)


def published() -> list[PretrainRecipe | FinetuneRecipe]:
    """Recipes of data sets whose size is known: all but the tiny ones."""
    return [recipe for recipe in (*PRETRAINING.values(), *FINETUNING.values()) if recipe.dataset in VIDEOS]


def clips_of_an_epoch(recipe: PretrainRecipe | FinetuneRecipe) -> int:
    return VIDEOS[recipe.dataset] * recipe.num_samples


def measured_rates(results: Iterable[Mapping]) -> dict[tuple[str, str], tuple[float, str]]:
    """(preset, kind) -> (clips a second of one device, where it was measured): ours, the best of each, from GPU files."""
    best: dict[tuple[str, str], tuple[float, str]] = {}
    for content in results:
        if content["machine"]["kind"] != "gpu":
            continue
        for row in (row for entry in content["benchmarks"] for row in entry["rows"]):
            facts = row["facts"]
            if row["unit"] != "clips/s" or not {"preset", "kind"} <= facts.keys():
                continue
            key = (facts["preset"], facts["kind"])
            if row["ours"] > best.get(key, (0.0, ""))[0]:
                best[key] = (row["ours"], f"{content['machine']['device']}, {content['date']}")
    return best


def kind_of(recipe: PretrainRecipe | FinetuneRecipe) -> str:
    if isinstance(recipe, FinetuneRecipe):
        return "classify"
    return "pretrain-dual" if recipe.decoder_mask else "pretrain"


def recipe_table(rates: Mapping[tuple[str, str], tuple[float, str]], gpus: Iterable[int] = (1, 8)) -> str:
    """Hours of every published recipe: from measured rates where there are any, else by formula alone."""
    rows, sources = [], set()
    gpus = tuple(gpus)
    for recipe in published():
        config, head, tokens = recipe_tokens(recipe)
        clips, flops = clips_of_an_epoch(recipe), step_flops(config, head, tokens)
        slower = CHECKPOINTING_FACTOR if recipe.gradient_checkpointing else 1.0
        rate, source = rates.get((recipe.model, kind_of(recipe)), (None, ""))
        if rate is not None:
            sources.add(source)
            hours = [clips * slower / rate / 3600]
        else:
            hours = [clips * flops * slower / (peak * ASSUMED_UTILISATION) / 3600 for peak in ASSUMED_PEAKS.values()]
        per_epoch = " / ".join(number(value) for value in hours)
        whole = [" / ".join(number(value * recipe.epochs / count) for value in hours) for count in gpus]
        rows.append(
            [
                f"{recipe.kind} {recipe.name}",
                f"{recipe.epochs}",
                f"{clips:,}",
                number(flops / 1e9),
                f"{clips * flops * recipe.epochs / 1e18:,.0f}",
                "measured" if rate is not None else "formula",
                per_epoch,
                *whole,
            ]
        )
    head_line = ["Recipe", "Epochs", "Clips an epoch", "GFLOP a clip", "EFLOP in all", "Rate", "Hours an epoch, 1 GPU"]
    text = table([*head_line, *(f"Hours in all, {count} GPU{'s' * (count != 1)}" for count in gpus)], rows)
    note = (
        f"Rows marked formula give two figures, {' / '.join(ASSUMED_PEAKS)}, at an assumed {ASSUMED_UTILISATION:.0%} of "
        f"the data sheet's bf16 peak ({' / '.join(f'{peak / 1e12:.0f}' for peak in ASSUMED_PEAKS.values())} TFLOP/s): "
        "nothing was measured for them."
    )
    if sources:
        note += f" Measured rates: {'; '.join(sorted(sources))}."
    return f"{text}\n\n{note}"


def extrapolate(args: argparse.Namespace, cpu_rate: float | None) -> None:
    rates = measured_rates(newest_results())
    for given in args.clips_per_second:
        name, _, value = given.partition("=")
        recipe = PRETRAINING.get(name) or FINETUNING.get(name)
        if recipe is None or not value:
            raise ValueError(f"--clips_per_second {given}: give RECIPE=CLIPS, with a name of docs/recipes.md")
        rates[recipe.model, kind_of(recipe)] = (float(value), f"as given, {given}")
    print(f"\n{recipe_table(rates, args.gpus)}")
    if not rates:
        print("No results file of a GPU is here; `python -m benchmarks gpu` on a machine with one writes it.")
    if cpu_rate is not None:
        clips = clips_of_an_epoch(PRETRAINING["v1-small-k400"])
        days = clips / cpu_rate / 86400
        print(f"This CPU: {clips:,} clips / {cpu_rate:.2f} clips/s = {days:.1f} days an epoch of v1-small-k400")
        record("an epoch of v1-small-k400 on this CPU, extrapolated", ours=days, unit="days")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("loop", "memory", "recipes"))
    parser.add_argument("--preset", default="small", help="for the loop and the memory")
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=4, help="of the loop")
    parser.add_argument("--steps", type=int, default=4, help="timed steps of the loop")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2, 4], help="of the memory")
    parser.add_argument("--gpus", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--clips_per_second", nargs="+", default=[], metavar="RECIPE=CLIPS", help="rate of one device")
    parser.add_argument("--predict", nargs=2, metavar=("PRESET", "HEAD"), help="only print which batch fits")
    parser.add_argument("--gib", type=float, default=80, help="memory of the device, for --predict")
    args = parser.parse_args(argv)
    if args.predict:
        predict(*args.predict, args.gib)
        return 0
    rate = None
    if args.only in (None, "loop"):
        print(f"{header()}\npre-training from files, ViT-{args.preset}, batch {args.batch}, {cores()} cores:")
        rate = loop(args)
    if args.only in (None, "memory"):
        memory(args)
    if args.only in (None, "recipes"):
        extrapolate(args, rate if args.preset == "small" and args.image_size == 224 else None)
    return 0
