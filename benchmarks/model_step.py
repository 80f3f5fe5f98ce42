"""The model alone: forward, and forward with backward, of every head and size; ours, stock and the official code.

    python -m benchmarks model_step                                            # ViT-S, every head, float32 and bf16
    python -m benchmarks model_step --presets base large --heads pretrain --dtypes float32 --compile
    python -m benchmarks model_step --profile --presets small --heads pretrain # where the time goes, by operator

Heads are pretrain (V1: 90 % tube mask), pretrain-dual (V2: and half of the decoder's tokens), classify and detect (three
boxes a clip). Stock is transformers with sdpa; it has no dual masking and no detector, so pretrain-dual stands against its
single mask and detect has no peer. With --official, pretrain also runs against the official forward as
conversion/reference.py restates it (forward only: it is the tests' oracle and keeps no gradients).

FLOPs are counted as benchmarks/common/cost.py says; utilisation divides them by the time and by the rate of a large square matrix
product of the same type, measured in the same process. Memory is what the call holds at its peak beyond what was held before
it: activations, and for a step the gradients.
"""

import argparse
from collections.abc import Callable

import torch
import transformers

from videomae import VideoMAEConfig
from videomae.conversion import reference as reference
from videomae.masking_videomae import batch_masks

from .common.cost import HEADS, forward_flops, matmul_flops_per_second, step_flops, tokens_of
from .common.timing import added_mib, cores, has_bf16, header, median_ratio, middle, record, take_turns

KINDS = ("pretrain", "pretrain-dual", "classify", "detect")
DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16}
STOCK = {"pretrain": "VideoMAEForPreTraining", "classify": "VideoMAEForVideoClassification"}


def config_of(preset: str, kind: str, image_size: int = 224) -> VideoMAEConfig:
    head = kind.removesuffix("-dual")
    version = 2 if kind == "pretrain-dual" or preset == "giant" else 1
    labels = {"classify": 400, "detect": 80}
    more = {"num_labels": labels[head]} if head in labels else {}
    return VideoMAEConfig.preset(preset, head=head, version=version, image_size=image_size, **more)


def inputs_of(config: VideoMAEConfig, kind: str, batch: int, device: str) -> dict:
    """What ours takes; stock takes the same without the counts and the second mask."""
    generator = torch.Generator().manual_seed(0)
    video = torch.randn(batch, config.num_frames, 3, *config.image_hw, generator=generator).to(device)
    if kind == "classify":
        return {"pixel_values": video, "labels": (torch.arange(batch) % config.num_labels).to(device)}
    if kind == "detect":
        height, width = config.image_hw
        boxes = torch.tensor([[0.1, 0.1, 0.5, 0.9], [0.4, 0.2, 0.9, 0.9], [0.0, 0.0, 1.0, 1.0]])
        boxes = (boxes * torch.tensor([width, height, width, height])).to(device)
        labels = torch.zeros(3 * batch, config.num_labels, device=device)
        return {"pixel_values": video, "boxes": [boxes] * batch, "labels": labels}
    hidden, visible = batch_masks("tube", config.grid, 0.9, batch, generator)
    inputs = {"pixel_values": video, "bool_masked_pos": hidden.to(device), "num_visible": visible}
    if kind == "pretrain-dual":
        left_out, decoded = batch_masks("running_cell", config.grid, 0.5, batch, generator)
        inputs |= {"bool_decoded_pos": (~left_out).to(device), "num_decoded": decoded}
    return inputs


def our_model(config: VideoMAEConfig, kind: str, device: str) -> torch.nn.Module:
    torch.manual_seed(0)
    return HEADS[kind.removesuffix("-dual")](config).to(device)


def stock_model(config: VideoMAEConfig, kind: str, device: str) -> torch.nn.Module | None:
    """Stock's model of the same size; under dual masking its single-mask one; None where it has none."""
    name = STOCK.get(kind.removesuffix("-dual"))
    if name is None:
        return None
    torch.manual_seed(0)
    fields = {**config.to_dict(), "problem_type": "single_label_classification"}
    return getattr(transformers, name)(transformers.VideoMAEConfig.from_dict(fields)).to(device)


def stock_inputs(inputs: dict) -> dict:
    ours_only = ("num_visible", "num_decoded", "bool_decoded_pos")
    return {name: value for name, value in inputs.items() if name not in ours_only}


def runner(
    model: torch.nn.Module, inputs: dict, *, work: str, dtype: torch.dtype, compile_mode: str | None = None
) -> Callable[[int], None]:
    """A function that makes one forward pass, or one step: forward, backward, gradients dropped."""
    device = next(model.parameters()).device.type
    model.train(work == "step")
    called = torch.compile(model, mode=compile_mode or None) if compile_mode is not None else model
    autocast = {"device_type": device, "dtype": dtype, "enabled": dtype != torch.float32}

    def forward(number: int = 0) -> None:
        with torch.inference_mode(), torch.autocast(**autocast):
            called(**inputs)

    def step(number: int = 0) -> None:
        with torch.autocast(**autocast):
            loss = called(**inputs).loss
        loss.backward()
        for parameter in model.parameters():
            parameter.grad = None

    return forward if work == "forward" else step


def official_runner(config: VideoMAEConfig, inputs: dict) -> Callable[[int], None]:
    """The official forward on random weights of that size."""
    weights = reference.random_weights(
        "pretrain",
        width=config.hidden_size,
        depth=config.num_hidden_layers,
        mlp=config.intermediate_size,
        patch=config.patch_hw[0],
        decoder=(config.decoder_hidden_size, config.decoder_num_hidden_layers, config.decoder_intermediate_size),
    )
    heads = {"heads": config.num_attention_heads, "decoder_heads": config.decoder_num_attention_heads}
    masks = (inputs["bool_masked_pos"], inputs.get("bool_decoded_pos"))
    return lambda number=0: reference.pretrain(weights, inputs["pixel_values"], *masks, **heads)


def measure(args: argparse.Namespace, preset: str, kind: str, dtype: str, work: str, ceiling: float) -> None:
    """One line of the table: ours and the peers in turns, memory, FLOPs, utilisation."""
    config = config_of(preset, kind, args.image_size)
    config._attn_implementation = args.attention[0]
    inputs = inputs_of(config, kind, args.batch, "cpu")
    options = {"work": work, "dtype": DTYPES[dtype]}
    ours = our_model(config, kind, "cpu")
    contenders = {"ours": runner(ours, inputs, **options)}
    for other in args.attention[1:]:
        changed = our_model(config, kind, "cpu")
        changed.set_attn_implementation(other)
        contenders[f"ours, {other}"] = runner(changed, inputs, **options)
    stock = stock_model(config, kind, "cpu")
    if stock is not None:
        contenders["transformers"] = runner(stock, stock_inputs(inputs), **options)
    if args.compile:
        contenders["ours, compiled"] = runner(ours, inputs, compile_mode="", **options)
        if stock is not None:
            contenders["transformers, compiled"] = runner(stock, stock_inputs(inputs), compile_mode="", **options)
    if args.official and kind.startswith("pretrain") and work == "forward" and dtype == "float32":
        contenders["official, restated"] = official_runner(config, inputs)
    memory = {}
    for name, run in contenders.items():
        run(0)  # what the first call sets up once is no part of a step
        if "official" not in name:
            memory[name] = added_mib(lambda run=run: run(0))
    times = take_turns(contenders, args.rounds, warmup=0)
    head = kind.removesuffix("-dual")
    count = forward_flops if work == "forward" else step_flops
    for name, seconds in times.items():
        dual = kind == "pretrain-dual" and "transformers" not in name
        flops = args.batch * count(config, head, tokens_of(config, head, dual=dual))
        took, held = middle(seconds), memory.get(name)
        ratio = median_ratio(times["transformers"], seconds) if "transformers" in times else None
        print(
            f"{preset:<7}{kind:<15}{dtype:<9}{work:<9}{name:<24}{1e3 * took:>9.0f}{'' if ratio is None else f'{ratio:.2f}x':>8}"
            f"{'' if held is None else f'{held:.0f}':>8}{flops / 1e9:>9.1f}{flops / took / ceiling:>8.0%}",
            flush=True,
        )
        if name.startswith("ours"):
            peer = "transformers, one mask" if kind == "pretrain-dual" else "transformers"
            record(
                f"ViT-{preset}, {kind}, {dtype}, {work}, batch {args.batch}{name.removeprefix('ours')}",
                ours=seconds,
                unit="s",
                peer=peer if "transformers" in times else "",
                theirs=times.get("transformers"),
                note=f"{flops / 1e9:.1f} GFLOP, {flops / took / ceiling:.0%} of the ceiling"
                + ("" if held is None else f", {held:.0f} MiB"),
            )


def profile(args: argparse.Namespace, preset: str, kind: str, dtype: str, work: str) -> None:
    """The operators that take most of our step's own time."""
    config = config_of(preset, kind, args.image_size)
    inputs = inputs_of(config, kind, args.batch, "cpu")
    run = runner(our_model(config, kind, "cpu"), inputs, work=work, dtype=DTYPES[dtype])
    run()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        for _ in range(args.rounds):
            run()
    averages = profiler.key_averages()
    total = sum(event.self_cpu_time_total for event in averages)
    print(f"\n{preset}, {kind}, {dtype}, {work}: {total / 1e3 / args.rounds:.0f} ms of operators a round")
    for event in sorted(averages, key=lambda event: -event.self_cpu_time_total)[: args.top]:
        share, calls = event.self_cpu_time_total / total, event.count / args.rounds
        print(f"  {share:6.1%}{event.self_cpu_time_total / 1e3 / args.rounds:10.2f} ms{calls:8.0f} calls  {event.key}")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", default=["small"])
    parser.add_argument("--heads", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--dtypes", nargs="+", choices=list(DTYPES), default=list(DTYPES))
    parser.add_argument("--works", nargs="+", choices=("forward", "step"), default=["forward", "step"])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument(
        "--attention", nargs="+", default=["sdpa"], help="attn_implementation of ours: sdpa, eager, flex_attention, ..."
    )
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=cores())
    parser.add_argument(
        "--compile", action="store_true", help="also through torch.compile (needs a C++ compiler; minutes)"
    )
    parser.add_argument("--official", action="store_true", help="also the official forward of pre-training, restated")
    parser.add_argument("--profile", action="store_true", help="only profile ours")
    parser.add_argument("--top", type=int, default=12, help="lines of a profile")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    print(header(threads=args.threads))
    cases = [
        (preset, kind, dtype, work)
        for preset in args.presets
        for dtype in args.dtypes
        for kind in args.heads
        for work in args.works
    ]
    if args.profile:
        for case in cases:
            profile(args, *case)
        return 0
    ceilings = {}
    for dtype in args.dtypes:
        ceilings[dtype] = matmul_flops_per_second(DTYPES[dtype])
        print(f"ceiling, {dtype}: {ceilings[dtype] / 1e9:.0f} GFLOP/s in a product of 2048 x 2048 matrices")
        record(f"matrix product, 2048 x 2048, {dtype}", ours=ceilings[dtype] / 1e9, unit="GFLOP/s")
    print(f"bf16 products {'in hardware' if has_bf16() else 'emulated'}; times in ms, memory in MiB")
    print(f"\n{'':<64}{'time':>9}{'x stock':>8}{'memory':>8}{'GFLOP':>9}{'used':>8}")
    for preset, kind, dtype, work in cases:
        measure(args, preset, kind, dtype, work, ceilings[dtype])
    return 0
