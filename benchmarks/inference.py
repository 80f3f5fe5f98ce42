"""Inference of a classifier: latency of one clip and throughput of a batch; float32, bf16, int8, ONNX Runtime, attention kinds.

    python -m benchmarks inference                                             # ViT-S on the CPU, 1 and 4 clips
    python -m benchmarks inference --preset base --batch 8 --only float32 bf16 int8
    python -m benchmarks inference --device cuda --preset base --batch 32 --compile
    python -m benchmarks inference --preset small --image_size 64 --rounds 1   # a quick look

All contenders have the same random weights (a head as large as a trained one) and take turns. The peer is transformers'
VideoMAEForVideoClassification with sdpa, in float32 and under bf16 autocast; where torchao is installed also stock with its
dynamic int8. ONNX Runtime runs the file that `videomae export` writes, where it is installed. What the answers differ from
our float32 is printed beside the times; with random weights that tells rounding, and benchmarks/token_reduction.py has the
agreement of a trained classifier.
"""

import argparse
import importlib.util
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import transformers
from transformers.utils import is_flash_attn_2_available

from videomae import VideoMAEConfig, VideoMAEForVideoClassification
from videomae.inference.fidelity import agreement, example_clips
from videomae.inference.int8 import quantize_int8

from .common.timing import Row, clock, cores, has_bf16, header, middle, record, take_turns

KINDS = ("float32", "bf16", "int8", "onnx", "attention")
STOCK, OURS = "transformers, float32", "ours, float32"
# Whom each is compared with; what is not named here is compared with our float32.
PEERS = {
    OURS: STOCK,
    "ours, bf16 autocast": "transformers, bf16 autocast",
    "ours, int8": STOCK,
    "ours, bf16 autocast, compiled": "transformers, bf16 autocast",
}

Answer = Callable[[torch.Tensor], torch.Tensor]  # clips to logits


def installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def answering(model: torch.nn.Module, *, bf16: bool = False) -> Answer:
    model.eval()
    autocast = {"device_type": next(model.parameters()).device.type, "dtype": torch.bfloat16, "enabled": bf16}

    @torch.inference_mode()
    def answer(clips: torch.Tensor) -> torch.Tensor:
        with torch.autocast(**autocast):
            return model(clips).logits

    return answer


def contenders(args: argparse.Namespace, folder: Path, clips: torch.Tensor) -> dict[str, Answer]:
    """Everything that is asked for and runs here, by name."""
    cuda = args.device != "cpu"

    def ours(**options) -> torch.nn.Module:
        return VideoMAEForVideoClassification.from_pretrained(folder, **options).to(args.device)

    def stock() -> torch.nn.Module:
        return transformers.VideoMAEForVideoClassification.from_pretrained(folder).to(args.device)

    found: dict[str, Answer] = {STOCK: answering(stock()), OURS: answering(ours())}
    if "bf16" in args.only:
        found["transformers, bf16 autocast"] = answering(stock(), bf16=True)
        found["ours, bf16 autocast"] = answering(ours(), bf16=True)
        if args.compile:
            found["ours, bf16 autocast, compiled"] = answering(torch.compile(ours()), bf16=True)
    if "int8" in args.only and not cuda:
        model = ours()
        quantize_int8(model, clips[:1], min_agreement=0, max_score_difference=1)  # the table shows the agreement
        found["ours, int8"] = answering(model)
        if installed("torchao"):
            from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

            model = stock()
            quantize_(model.videomae.encoder, Int8DynamicActivationInt8WeightConfig())
            found["transformers, torchao int8"] = answering(model)
    if "onnx" in args.only and not cuda and all(map(installed, ("onnx", "onnxscript", "onnxruntime"))):
        found |= onnx_contenders(args, folder)
    if "attention" in args.only:
        found["ours, eager attention"] = answering(ours(attn_implementation="eager"), bf16=cuda)
        if cuda and is_flash_attn_2_available():
            found["ours, flash attention 2"] = answering(
                ours(attn_implementation="flash_attention_2", dtype=torch.bfloat16), bf16=True
            )
    return found


def onnx_contenders(args: argparse.Namespace, folder: Path) -> dict[str, Answer]:
    """Sessions on the files that the command writes, float32 and int8."""
    import onnxruntime

    from videomae.inference.onnx_export import MODEL, quantize_onnx, write_onnx

    model = VideoMAEForVideoClassification.from_pretrained(folder)
    write_onnx(model, folder / MODEL)
    quantize_onnx(folder / MODEL, folder / f"int8-{MODEL}")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = args.threads

    def answering_session(name: str) -> Answer:
        session = onnxruntime.InferenceSession(folder / name, options, providers=["CPUExecutionProvider"])
        return lambda clips: torch.from_numpy(session.run(["logits"], {"pixel_values": clips.numpy()})[0])

    return {
        "ONNX Runtime, float32": answering_session(MODEL),
        "ONNX Runtime, int8": answering_session(f"int8-{MODEL}"),
    }


def report(
    args: argparse.Namespace, batch: int, seconds: dict[str, list[float]], differences: dict[str, str]
) -> list[Row]:
    """Print the table of one batch size, record its rows and return them."""
    unit, what = ("s", "latency of 1 clip") if batch == 1 else ("clips/s", f"throughput of {batch} clips")
    figures = {name: times if batch == 1 else [batch / each for each in times] for name, times in seconds.items()}
    print(f"\n{what:<34}{unit:>10}{'x peer':>9}  {'peer':<30}against {OURS}")
    rows = []
    for name, own in figures.items():
        if name == STOCK:
            print(f"{name:<34}{middle(own):>10.3f}{'':41}{differences[name]}")
            continue
        peer = PEERS.get(name, OURS)
        row = record(
            f"{name}: {what}, ViT-{args.preset}",
            ours=own,
            unit=unit,
            peer=peer,
            theirs=figures[peer],
            note="" if name == OURS else differences[name],
            preset=args.preset,
            batch=batch,
            image_size=args.image_size,
            dtype=name,
        )
        print(f"{name:<34}{row.ours:>10.3f}{row.ratio:>8.2f}x  {peer:<30}{row.note}")
        rows.append(row)
    return rows


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="small", help="small, base, large, huge or giant")
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=4, help="clips of the throughput measurement")
    parser.add_argument("--rounds", type=int, default=3, help="timed rounds, after one that is not")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, default=cores(), help="CPU threads")
    parser.add_argument("--only", nargs="+", choices=KINDS, default=list(KINDS), help="float32 is always there")
    parser.add_argument("--compile", action="store_true", help="also ours compiled, under bf16 autocast")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    torch.set_num_threads(args.threads)
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    torch.manual_seed(0)
    # As large as a trained head: a fresh one would hide every difference in equal scores.
    more = {"version": 2} if args.preset == "giant" else {}
    config = VideoMAEConfig.preset(
        args.preset, head="classify", num_labels=400, image_size=args.image_size, init_scale=10.0, **more
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        VideoMAEForVideoClassification(config).save_pretrained(folder)
        clips = example_clips(folder, count=args.batch).to(args.device)
        runs = contenders(args, folder, clips)
        print(header(threads=args.threads, device=args.device, also=("onnxruntime", "torchao")))
        print(
            f"ViT-{args.preset}, 16 x {args.image_size}², bf16 products {'in hardware' if has_bf16() else 'emulated'}; "
            f"not here: {', '.join(name for name in ('onnxruntime', 'torchao', 'flash_attn') if not installed(name)) or 'none'}"
        )
        answers = {name: run(clips).float().cpu() for name, run in runs.items()}
        differences = {name: str(agreement(answers[OURS], answer)) for name, answer in answers.items()}
        for batch in dict.fromkeys((1, args.batch)):
            turns = {name: lambda number, run=run: run(clips[:batch]) for name, run in runs.items()}  # noqa: B023
            # Processor time on one thread, which other work on the machine disturbs less.
            now = time.process_time if args.device == "cpu" and args.threads == 1 else clock(args.device)
            report(args, batch, take_turns(turns, args.rounds, now=now), differences)
    return 0
