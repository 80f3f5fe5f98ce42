"""Does pre-training teach the encoder anything? A linear probe on frozen features, before and after, from one command.

    python experiments/pretrain_probe.py                     # about two minutes of training on 2 CPU cores
    python experiments/pretrain_probe.py --epochs 2          # too short to rise; shows that everything runs

It makes small synthetic clips (their classes are motions that no single frame shows), pre-trains without labels (V1: tube
mask, normalised pixels), and runs `videomae probe` on the trained encoder and on one with fresh weights. For some hundred
steps the loss stays at what a constant prediction of normalised pixels gives, near 1; the features begin to tell motions
apart when it leaves that level.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

from motion_folders import machine, write_frame_folders

from videomae import train_pretrain
from videomae.data.synthetic import SyntheticSet
from videomae.evaluation import probes as probe
from videomae.training.checkpoints import checkpoints
from videomae.training.runs import read_log

# 64 tokens a clip and a very small model: the most steps that two minutes allow.
SIZE, FRAMES, CLIPS, PEAK_LR = 32, 8, 32, 4e-3
VIDEOS = SyntheticSet(
    clips=1600, validation_clips=0, test_clips=400, num_frames=2 * FRAMES, height=SIZE, width=SIZE, distractors=0
)
FIELDS = {
    "image_size": SIZE,
    "num_frames": FRAMES,
    "stride_frames": 2,
    "crop_scales": 1.0,
    "clips_per_step": CLIPS,
    "base_lr": PEAK_LR * 256 / CLIPS,
    "min_lr": 1e-5 * 256 / CLIPS,
}
MODEL = (
    "patch_size=8 hidden_size=64 num_hidden_layers=2 num_attention_heads=2 intermediate_size=256 decoder_hidden_size=48 "
    "decoder_num_hidden_layers=1 decoder_num_attention_heads=2 decoder_intermediate_size=192"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=40, help="passes over the 1600 clips, 50 steps each")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="keep the videos, the run and the probe here")
    args = parser.parse_args()
    print(machine(), flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        output = args.output or Path(temporary)
        videos = write_frame_folders(output / "motion", VIDEOS)
        command = ["--recipe", "tiny", "--data", str(videos / "train.txt"), "--output", str(output / "run")]
        command += [word for name, value in FIELDS.items() for word in (f"--{name}", str(value))]
        command += ["--config", *MODEL.split(), "--epochs", str(args.epochs), "--warmup_epochs", str(args.epochs / 20)]
        command += ["--num_workers", str(args.workers), "--log_every", "50", "--picture_every", str(args.epochs)]
        command += ["--seed", str(args.seed)]
        began = time.perf_counter()
        train_pretrain.main(command)
        seconds = time.perf_counter() - began

        trained = checkpoints(output / "run")[-1]
        command = [str(trained), str(videos / "train.txt"), str(videos / "test.txt"), "--baseline", "random"]
        probe.main([*command, "--probes", "linear", "--output", str(output / "probe")])
        results = json.loads((output / "probe" / "probe.json").read_text())
        before, after = (results[name]["probes"]["linear"]["top1"] for name in ("random", str(trained)))
        losses = [line["loss"] for line in read_log(output / "run" / "log.jsonl")]
        print(f"pre-training took {seconds:.0f} s; loss {losses[0]:.3f} -> {losses[-1]:.3f}")
        print(f"linear probe on frozen features: before {before:.1%}, after {after:.1%} (chance 12.5 %)")


if __name__ == "__main__":
    main()
