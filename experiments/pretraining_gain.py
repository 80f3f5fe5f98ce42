"""Does pre-training pay? The same labelled clips and steps, from random and from pre-trained weights, over seeds.

    python experiments/pretraining_gain.py                # 5 seeds, two jobs at a time, under 40 minutes on 2 cores
    python experiments/pretraining_gain.py --quick        # 1 seed and shorter, under 5 minutes

For each seed: make synthetic motion clips, pre-train a tiny VideoMAE on all of them without labels, then fine-tune on a
few and on many labelled ones. Both arms start from a folder of the same kind, with the same initialisation; in one arm
its weights were pre-trained. Recipe, clips, their order, augmentation and steps are the same. Everything runs through
the project's own commands, and the test is `videomae evaluate`'s, one view a video. Chance is 1 / 8.
"""

import argparse
import concurrent.futures
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from motion_folders import write_frame_folders

from videomae.configuration_videomae import VideoMAEConfig
from videomae.data.synthetic import SyntheticSet
from videomae.files import write_json
from videomae.modeling_videomae import VideoMAEForPreTraining

SIZE, FRAMES, STRIDE = 32, 8, 2
MODEL = {
    "image_size": SIZE,
    "num_frames": FRAMES,
    "patch_size": 8,
    "hidden_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 3,
    "intermediate_size": 384,
    "decoder_hidden_size": 64,
    "decoder_num_hidden_layers": 2,
    "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 256,
}
CLIPS = 32  # of a pre-training step
ARMS = ("from scratch", "pre-trained")


@dataclass(frozen=True)
class Plan:
    """How much of everything; the smallest in which the gain is plain, chosen once and not tuned per arm."""

    seeds: int = 5
    unlabelled: int = 1600
    pretrain_epochs: int = 80
    few: int = 80  # labelled clips, 10 a class
    many: int = 640
    few_epochs: int = 100
    many_epochs: int = 25
    test: int = 400
    workers: int = 0  # decoding processes of a pre-training; two jobs at a time need both cores for themselves


QUICK = Plan(seeds=1, pretrain_epochs=32, few_epochs=50, many_epochs=12, test=200, workers=1)


def make_data(folder: Path, plan: Plan, seed: int) -> None:
    """Clips of one seed; the labelled ones are the first of the unlabelled, as in a data set that is partly labelled."""
    spec = SyntheticSet(
        clips=plan.unlabelled,
        validation_clips=0,
        test_clips=plan.test,
        num_frames=FRAMES * STRIDE + 4,
        height=SIZE + 8,
        width=SIZE + 8,
        distractors=1,
        seed=seed,
    )
    write_frame_folders(folder, spec)
    lines = (folder / "train.txt").read_text().splitlines(keepends=True)
    for name, count in (("few", plan.few), ("many", plan.many)):
        (folder / f"{name}.txt").write_text("".join(lines[:count]))


def make_fresh(folder: Path, seed: int) -> None:
    torch.manual_seed(seed)
    VideoMAEForPreTraining(VideoMAEConfig(**MODEL, use_mean_pooling=False)).save_pretrained(folder)


def run(name: str, log: Path, *arguments: str) -> float:
    """One command of ours in its own process on one thread; returns its seconds."""
    began = time.monotonic()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "w") as file:
        code = subprocess.run(
            [sys.executable, "-m", "videomae.commands.main", *arguments], stdout=file, stderr=file, env=environment
        ).returncode
    if code:
        raise RuntimeError(f"{name} ended with code {code}; its output is in {log}")
    print(f"  {name}: {time.monotonic() - began:.0f} s", flush=True)
    return time.monotonic() - began


def pretrain(folder: Path, plan: Plan, seed: int) -> None:
    if (folder / "pretrained" / "config.json").exists():
        return
    steps = plan.pretrain_epochs * (plan.unlabelled // CLIPS)
    run(
        f"seed {seed}: pre-training, {steps} steps",
        folder / "logs" / "pretrain.txt",
        *["pretrain", "--recipe", "tiny", "--model", str(folder / "fresh"), "--config"],
        *["--data", str(folder / "data" / "train.txt"), "--output", str(folder / "pretrain")],
        *["--image_size", str(SIZE), "--num_frames", str(FRAMES), "--stride_frames", str(STRIDE)],
        *["--epochs", str(plan.pretrain_epochs), "--warmup_epochs", str(plan.pretrain_epochs / 10)],
        *["--clips_per_step", str(CLIPS), "--mask_ratio", "0.75", "--crop_scales", "1.0"],
        *["--base_lr", str(2e-3 * 256 / CLIPS), "--min_lr", str(1e-5 * 256 / CLIPS)],
        *["--num_workers", str(plan.workers), "--save_every", "100000", "--log_every", "50", "--seed", str(seed)],
    )
    (folder / "pretrain" / f"checkpoint-{steps}").rename(folder / "pretrained")


def finetune(folder: Path, plan: Plan, seed: int, labels: str, arm: str) -> float:
    """Test accuracy of one arm."""
    output = folder / f"{labels}-{arm.replace(' ', '-')}"
    if not (output / "test" / "results.json").exists():
        epochs = getattr(plan, f"{labels}_epochs")
        run(
            f"seed {seed}: fine-tuning, {labels} labels, {arm}",
            folder / "logs" / f"{output.name}.txt",
            *["finetune", "--recipe", "tiny", "--model", str(folder / ("fresh" if arm == ARMS[0] else "pretrained"))],
            *["--data", str(folder / "data" / f"{labels}.txt"), "--test_data", str(folder / "data" / "test.txt")],
            *["--output", str(output), "--image_size", str(SIZE), "--num_frames", str(FRAMES)],
            *["--stride_frames", str(STRIDE), "--epochs", str(epochs), "--warmup_epochs", str(epochs / 10)],
            *["--clips_per_step", "16", "--base_lr", "1.6e-2", "--min_lr", "1e-4", "--layer_decay", "none"],
            *["--test_clips", "1", "--test_crops", "1", "--num_workers", "0", "--save_every", "100000"],
            *["--seed", str(seed)],
        )
    return json.loads((output / "test" / "results.json").read_text())["metrics"]["top1"]


def one_seed(folder: Path, plan: Plan, seed: int, pool: concurrent.futures.Executor) -> dict[str, dict[str, float]]:
    """All arms of a seed. From-scratch arms need no pre-training, so they run beside it."""
    make_data(folder / "data", plan, seed)
    make_fresh(folder / "fresh", seed)
    before = pool.submit(pretrain, folder, plan, seed)
    scratch = {labels: pool.submit(finetune, folder, plan, seed, labels, ARMS[0]) for labels in ("many", "few")}
    before.result()
    tuned = {labels: pool.submit(finetune, folder, plan, seed, labels, ARMS[1]) for labels in ("many", "few")}
    return {labels: {ARMS[0]: scratch[labels].result(), ARMS[1]: tuned[labels].result()} for labels in ("few", "many")}


def table(results: list[dict[str, dict[str, float]]], plan: Plan) -> str:
    """Mean and standard deviation over seeds, and the gain of each seed."""
    lines = ["| labelled clips | from scratch | pre-trained | gain | gain of each seed |", "|---|---|---|---|---|"]

    def shown(values: list[float]) -> str:
        spread = f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
        return f"{100 * statistics.mean(values):.1f}{spread}"

    for labels in ("few", "many"):
        scratch, tuned = ([result[labels][arm] for result in results] for arm in ARMS)
        gains = [b - a for a, b in zip(scratch, tuned)]
        each = ", ".join(f"{100 * gain:+.1f}" for gain in gains)
        count = getattr(plan, labels)
        lines.append(
            f"| {count} ({count // 8} a class) | {shown(scratch)} | {shown(tuned)} | {shown(gains)} | {each} |"
        )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="1 seed and shorter, under 5 minutes")
    parser.add_argument("--seeds", type=int, help="how many seeds")
    parser.add_argument("--jobs", type=int, default=2, help="commands at a time, one thread each [2]")
    parser.add_argument(
        "--folder", default="runs/pretraining_gain", help="where data, runs and results lie [%(default)s]"
    )
    arguments = parser.parse_args(argv)
    plan = QUICK if arguments.quick else Plan()
    if arguments.seeds:
        plan = replace(plan, seeds=arguments.seeds)
    folder = Path(arguments.folder) / ("quick" if arguments.quick else "full")
    began = time.monotonic()
    threads = concurrent.futures.ThreadPoolExecutor
    # One thread a seed waits for its own jobs; the pool bounds how many run.
    with threads(arguments.jobs) as pool, threads(plan.seeds) as seeds:
        waiting = [seeds.submit(one_seed, folder / f"seed-{seed}", plan, seed, pool) for seed in range(plan.seeds)]
        results = [each.result() for each in waiting]
    minutes = (time.monotonic() - began) / 60
    text = table(results, plan)
    date = datetime.date.today().isoformat()
    machine = f"{os.cpu_count()} CPU cores ({platform.machine()}), torch {torch.__version__}"
    print(f"\nTop-1 on {plan.test} test clips, {plan.seeds} seeds, {date}, {machine}, {minutes:.1f} minutes\n\n{text}")
    record = {"date": date, "machine": machine, "minutes": minutes, "plan": asdict(plan), "results": results}
    write_json(folder / "results.json", record | {"table": text})
    return 0


if __name__ == "__main__":
    sys.exit(main())
