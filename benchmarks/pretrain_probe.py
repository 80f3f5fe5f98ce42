"""Does pre-training teach the encoder anything? A linear probe on frozen features, before and after, from one command.

    python benchmarks/pretrain_probe.py                     # a few minutes of training on 2 CPU cores
    python benchmarks/pretrain_probe.py --epochs 2          # too short to rise; shows that everything runs

It makes small synthetic clips (their classes are motions that no single frame shows), pre-trains without labels, and runs
`videomae probe` on the trained encoder and on one with fresh weights. For about a thousand steps the loss stays at what a
constant prediction of normalised pixels gives, near 1; the features begin to tell motions apart when it leaves that level.
"""

import argparse
import json
import os
import platform
import tempfile
import time
from pathlib import Path

import torch

from videomae import train_pretrain
from videomae.commands import probe
from videomae.data.synthetic import SyntheticSet, make_synthetic_set
from videomae.training.checkpoints import checkpoints
from videomae.training.runs import read_log

# 32 pixels and 64 tokens a clip, and 32 samples of 8 decoded clips a step: the most steps that a few minutes allow.
VIDEOS = SyntheticSet(clips=1600, validation_clips=0, test_clips=400, num_frames=20, height=40, width=40, distractors=1)
CLIPS, SAMPLES, PEAK_LR = 8, 4, 2e-3
FIELDS = {
    "image_size": 32,
    "num_frames": 8,
    "stride_frames": 2,
    "clips_per_step": CLIPS,
    "num_samples": SAMPLES,
    "base_lr": PEAK_LR * 256 / CLIPS,
    "min_lr": 1e-5 * 256 / CLIPS,
}
MODEL = (
    "patch_size=8 hidden_size=96 num_hidden_layers=4 num_attention_heads=3 intermediate_size=384 decoder_hidden_size=64 "
    "decoder_num_hidden_layers=2 decoder_num_attention_heads=2 decoder_intermediate_size=256"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=20, help="passes over the 1600 clips, 200 steps each")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--output", type=Path, help="keep the videos, the run and the probe here")
    args = parser.parse_args()
    print(
        f"{time.strftime('%Y-%m-%d')}  torch {torch.__version__}  {platform.machine()}, {os.cpu_count()} cores",
        flush=True,
    )
    with tempfile.TemporaryDirectory() as temporary:
        output = args.output or Path(temporary)
        videos = make_synthetic_set(output / "motion", VIDEOS)
        command = ["--recipe", "tiny", "--data", str(videos / "train.csv"), "--output", str(output / "run")]
        command += [word for name, value in FIELDS.items() for word in (f"--{name}", str(value))]
        command += ["--config", *MODEL.split(), "--epochs", str(args.epochs), "--warmup_epochs", str(args.epochs / 10)]
        command += ["--num_workers", str(args.workers), "--log_every", "50", "--picture_every", str(args.epochs)]
        began = time.perf_counter()
        train_pretrain.main(command)
        seconds = time.perf_counter() - began

        trained = checkpoints(output / "run")[-1]
        command = [str(trained), str(videos / "train.csv"), str(videos / "test.csv"), "--baseline", "random"]
        probe.main([*command, "--probes", "linear", "--output", str(output / "probe")])
        results = json.loads((output / "probe" / "probe.json").read_text())
        before, after = (results[name]["probes"]["linear"]["top1"] for name in ("random", str(trained)))
        losses = [line["loss"] for line in read_log(output / "run" / "log.jsonl")]
        print(f"pre-training took {seconds:.0f} s; loss {losses[0]:.3f} -> {losses[-1]:.3f}")
        print(f"linear probe on frozen features: before {before:.1%}, after {after:.1%} (chance 12.5 %)")


if __name__ == "__main__":
    main()
