"""Fewer tokens: throughput against agreement of answers, for token merging, run-length tokens and int8.

    python -m benchmarks token_reduction                       # trains a tiny classifier, then times ViT-S too
    python -m benchmarks token_reduction --presets small base  # and ViT-B
    python -m benchmarks token_reduction --steps 30 --presets  # a quick look at the first table

First a tiny classifier learns four motions of synthetic clips under a still camera (data/synthetic.py), from nothing, in
memory. On clips that it has not seen, each setting is asked for its answers: how many are those of the full model, how many
are right, how many patches enter the first block, and clips a second against the full model in turns. Then the settings that
fit are timed at the released sizes, with random weights, on clips of the same kind at 224 x 224. The peer is the plain
classifier of this package, whose speed beside transformers' is what benchmarks/inference.py prints.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch

from videomae import ReducedVideoMAEForVideoClassification, VideoMAEConfig, VideoMAEForVideoClassification
from videomae.configuration_videomae import IMAGENET_MEAN, IMAGENET_STD
from videomae.data.synthetic import SyntheticSet, render_clip
from videomae.data.transforms import normalise
from videomae.inference.fidelity import agreement, logits_of
from videomae.inference.int8 import quantize_int8

from .common.timing import cores, header, record, take_turns

MOTIONS = ("moves right", "moves left", "moves down", "moves up")
TINY = VideoMAEConfig(
    image_size=32,
    patch_size=8,
    num_frames=8,
    hidden_size=96,
    num_hidden_layers=4,
    num_attention_heads=3,
    intermediate_size=384,
    num_labels=len(MOTIONS),
    layer_norm_eps=1e-6,
    norm_eps=1e-6,
)
TEST_CLIPS = 256
# Shares of all tokens that a block merges away; of what is left after all blocks, ToMe's table goes down to a few tokens.
MERGED_SHARES = (0.05, 0.1, 0.2)
THRESHOLDS = (0.0, 0.05, 0.1, 0.3)


def still_clips(count: int, config: VideoMAEConfig, seed: int, distractors: int = 0) -> torch.Tensor:
    """uint8 (B, T, C, H, W): clip i shows motion i modulo their number."""
    height, width = config.image_hw
    drawing = SyntheticSet(
        num_frames=config.num_frames, height=height, width=width, distractors=distractors, still_camera=True
    )
    frames = [render_clip(MOTIONS[i % len(MOTIONS)], drawing, seed=(seed, i)) for i in range(count)]
    return torch.from_numpy(np.stack(frames)).permute(0, 1, 4, 2, 3)


def labels_of(count: int) -> torch.Tensor:
    return torch.arange(count) % len(MOTIONS)


def pixels_of(clips: torch.Tensor) -> torch.Tensor:
    return normalise(clips, IMAGENET_MEAN, IMAGENET_STD)


def trained(steps: int, clips: int, batch: int = 16, peak_lr: float = 1e-3) -> VideoMAEForVideoClassification:
    """A classifier of the motions; the test of the table says how good it became."""
    videos, labels = still_clips(clips, TINY, seed=1), labels_of(clips)
    torch.manual_seed(0)
    model = VideoMAEForVideoClassification(TINY).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=peak_lr, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, peak_lr, total_steps=steps, pct_start=0.1)
    generator = torch.Generator().manual_seed(0)
    began = time.monotonic()
    for step in range(1, steps + 1):
        drawn = torch.randint(clips, (batch,), generator=generator)
        loss = model(pixels_of(videos[drawn]), labels[drawn]).loss
        loss.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 100 == 0 or step == steps:
            print(f"  step {step}: loss {loss.item():.3f}, {time.monotonic() - began:.0f} s", flush=True)
    return model.eval()


def settings(tokens: int) -> dict[str, dict]:
    """What is compared, by name; the first two leave the numbers alone."""
    merging = {
        f"merging {round(share * tokens)} a block": {"merge_per_layer": round(share * tokens)}
        for share in MERGED_SHARES
    }
    middle = round(MERGED_SHARES[1] * tokens)
    still = {f"still patches out, {threshold}": {"still_threshold": threshold} for threshold in THRESHOLDS}
    return {
        "full": {},
        **merging,
        f"merging {middle}, not proportional": {"merge_per_layer": middle, "proportional_attention": False},
        **still,
        "still patches out, 0.1, weighed": {"still_threshold": 0.1, "run_lengths": "weigh"},
        f"both, 0.1 and {middle}": {"still_threshold": 0.1, "merge_per_layer": middle},
    }


def reduced(model: VideoMAEForVideoClassification, fields: dict) -> ReducedVideoMAEForVideoClassification:
    """The same weights under a setting."""
    config = {**model.config.to_dict(), **fields}
    other = ReducedVideoMAEForVideoClassification(ReducedVideoMAEForVideoClassification.config_class.from_dict(config))
    other.load_state_dict(model.state_dict())
    return other.eval()


def timer() -> Callable[[], float]:
    """Processor time where there is one thread, which other work on the machine disturbs less; else the wall's."""
    return time.process_time if torch.get_num_threads() == 1 else time.perf_counter


def compare(model: VideoMAEForVideoClassification, clips: torch.Tensor, batch: int, rounds: int) -> None:
    """The first table: answers of a trained model, and speed."""
    pixels, labels = pixels_of(clips), labels_of(len(clips))
    models = {name: reduced(model, fields) for name, fields in settings(model.config.num_patches).items()}
    shares = {name: other.count_patches(pixels).float().mean().item() for name, other in models.items()}
    models["int8"] = reduced(model, {})
    quantize_int8(models["int8"], pixels[:batch], min_agreement=0, max_score_difference=1)
    answers = {name: logits_of(other, pixels, batch) for name, other in models.items()}
    turns = {name: lambda number, other=other: logits_of(other, pixels, batch) for name, other in models.items()}
    seconds = take_turns(turns, rounds, now=timer())
    print(f"\n{'setting':<34}{'right':>7}{'as full':>9}{'patches in':>12}{'clips/s':>10}{'x full':>8}")
    for name, times in seconds.items():
        found = agreement(answers["full"], answers[name])
        right = (answers[name].argmax(-1) == labels).float().mean().item()
        share = shares.get(name, model.config.num_patches) / model.config.num_patches
        row = record(
            f"{name}: trained tiny classifier, {len(clips)} still-camera clips",
            ours=[len(clips) / each for each in times],
            unit="clips/s",
            peer="the full model",
            theirs=[len(clips) / each for each in seconds["full"]],
            note=f"{100 * found.share:.1f} % the full model's answers, {100 * right:.1f} % right, {100 * share:.0f} % of the patches",
            agreement=found.share,
            accuracy=right,
            patches=share,
        )
        print(
            f"{name:<34}{100 * right:>6.1f}%{100 * found.share:>8.1f}%{100 * share:>11.0f}%{row.ours:>10.1f}{row.ratio:>7.2f}x"
        )


def time_preset(preset: str, batch: int, rounds: int) -> None:
    """The second table: the released sizes with random weights."""
    more = {"version": 2} if preset == "giant" else {}
    config = VideoMAEConfig.preset(preset, head="classify", num_labels=400, **more)
    torch.manual_seed(0)
    model = VideoMAEForVideoClassification(config).eval()
    pixels = pixels_of(still_clips(batch, config, seed=2, distractors=2))
    last = config.num_patches // config.num_hidden_layers  # merges nearly everything, as in ToMe's video table
    chosen = {
        "full": {},
        f"merging {last // 2} a block": {"merge_per_layer": last // 2},
        f"merging {last} a block": {"merge_per_layer": last},
        "still patches out, 0.1": {"still_threshold": 0.1},
        f"both, 0.1 and {last // 4}": {"still_threshold": 0.1, "merge_per_layer": last // 4},
    }
    models = {name: reduced(model, fields) for name, fields in chosen.items()}
    shares = {
        name: other.count_patches(pixels).float().mean().item() / config.num_patches for name, other in models.items()
    }
    turns = {name: lambda number, other=other: logits_of(other, pixels, batch) for name, other in models.items()}
    seconds = take_turns(turns, rounds, now=timer())
    print(f"\nViT-{preset}, random weights, {batch} clips{'':<6}{'patches in':>12}{'clips/s':>10}{'x full':>8}")
    for name, times in seconds.items():
        row = record(
            f"{name}: ViT-{preset}, {batch} still-camera clips at 224",
            ours=[batch / each for each in times],
            unit="clips/s",
            peer="the full model",
            theirs=[batch / each for each in seconds["full"]],
            note=f"{100 * shares[name]:.0f} % of the patches",
            preset=preset,
            patches=shares[name],
        )
        print(f"{name:<34}{100 * shares[name]:>11.0f}%{row.ours:>10.2f}{row.ratio:>7.2f}x")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=800, help="training steps of the tiny classifier")
    parser.add_argument("--clips", type=int, default=800, help="clips that it learns from")
    parser.add_argument("--presets", nargs="*", default=["small"], help="released sizes to time; none: leave them out")
    parser.add_argument("--batch", type=int, default=2, help="clips at a time of the released sizes")
    parser.add_argument("--rounds", type=int, default=3, help="timed rounds, after one that is not")
    parser.add_argument("--threads", type=int, default=cores(), help="CPU threads")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    print(header(threads=args.threads))
    print(f"training on {args.clips} clips of {len(MOTIONS)} motions under a still camera", flush=True)
    model = trained(args.steps, args.clips)
    compare(model, still_clips(TEST_CLIPS, TINY, seed=2), batch=32, rounds=args.rounds)
    for preset in args.presets:
        time_preset(preset, args.batch, max(args.rounds - 1, 1))
    return 0
