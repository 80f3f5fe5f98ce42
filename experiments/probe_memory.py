"""The most memory that `videomae probe --protocol vjepa2` takes, by the number of videos.

    python experiments/probe_memory.py                      # 50 and 500 videos, each in a process of its own
    python experiments/probe_memory.py --videos 50 2000

A small encoder of fresh weights on a list that names few synthetic videos many times, one epoch, one head; the tokens of
one video take 0.1 MB, so keeping them would show.
"""

import argparse
import contextlib
import io
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

MODEL = dict(
    image_size=32, patch_size=8, num_frames=16, hidden_size=96, num_hidden_layers=4, num_attention_heads=3,
    intermediate_size=384, use_mean_pooling=False, decoder_hidden_size=48, decoder_num_hidden_layers=1,
    decoder_num_attention_heads=3, decoder_intermediate_size=96,
)  # fmt: skip
WORDS = "--protocol vjepa2 --epochs 1 --clips_per_step 10 --learning_rates 1e-3 --weight_decays 0.1 --views 2x1"
WORDS += " --stride_frames 1 --num_workers 0 --probes attentive --json --output"


def measure(videos: int) -> dict[str, float]:
    """Peak memory of this process in MiB: before the probe, and after it."""
    import torch

    from videomae import VideoMAEConfig, VideoMAEForPreTraining
    from videomae.commands.probe import main
    from videomae.data.synthetic import SyntheticSet, make_synthetic_set

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        shape = SyntheticSet(clips=8, validation_clips=0, test_clips=8, height=36, width=40)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            make_synthetic_set(folder / "set", shape)
        for part, count in (("train", videos), ("test", videos // 10)):
            header, *rows = (folder / "set" / f"{part}.csv").read_text().splitlines()
            rows = (rows * (count // len(rows) + 1))[:count]
            (folder / "set" / f"{part}.csv").write_text("\n".join([header, *rows]) + "\n")
        torch.manual_seed(0)
        VideoMAEForPreTraining(VideoMAEConfig(**MODEL)).save_pretrained(folder / "model")
        before = peak_mib()
        lists = [str(folder / "set" / f"{part}.csv") for part in ("train", "test")]
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            main([str(folder / "model"), *lists, *WORDS.split(), str(folder / "run")])
    tokens = videos * 2 * 8 * 4 * 4 * MODEL["hidden_size"] * 4 / 2**20
    return {"videos": videos, "before": before, "peak": peak_mib(), "all_tokens": tokens}


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, nargs="+", default=[50, 500])
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args.one)))
        return
    for videos in args.videos:
        command = [sys.executable, __file__, "--one", str(videos)]
        shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        row = json.loads(shown.strip().splitlines()[-1])
        print(
            f"{row['videos']:6d} videos: peak {row['peak']:.0f} MiB ({row['before']:.0f} before the probe; all tokens "
            f"would be {row['all_tokens']:.0f} MiB)",
            flush=True,
        )


if __name__ == "__main__":
    main()
