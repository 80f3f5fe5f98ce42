"""Time and peak memory of converting the largest released size, on random weights.

    python -m benchmarks conversion                  # ViT-g with 710 classes, 1.01 B parameters, 4.1 GB
    python -m benchmarks conversion --preset small   # the same in a minute

Each conversion runs in a process of its own, whose peak resident memory (mapped pages of the weight files included) is
compared with the promise: the size of the file and 1 GB, or twice the size and 1 GB with the proof. Nobody else's
converter takes these files, so there is no peer to time.

Measured on 2026-11-21 with 2 CPU cores and torch 2.13, other work running beside: 31 s and 4.63 GB without the proof,
183 s and 5.12 GB with it, for a file of 4.05 GB.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from videomae.configuration_videomae import PRESETS
from videomae.conversion import reference as reference

from .common.timing import header, record

GB = 1e9


def write_checkpoint(path: Path, preset: str, num_labels: int) -> int:
    """An official-layout classifier of that size with random weights; returns its number of parameters."""
    size = PRESETS[preset]
    weights = reference.random_weights(
        "classify",
        width=size.width,
        depth=size.layers,
        mlp=size.mlp,
        patch=size.patch,
        num_labels=num_labels,
    )
    torch.save({"module": weights, "epoch": 34}, path)
    return sum(tensor.numel() for tensor in weights.values())


def run_once(checkpoint: Path, folder: Path, *options: str) -> tuple[float, float]:
    """Seconds and peak GB of one conversion in a fresh process."""
    child = (
        "import resource, sys\n"
        "from videomae.convert_original_checkpoint import main\n"
        "code = main(sys.argv[1:])\n"
        "print('PEAK', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
        "sys.exit(code)\n"
    )
    start = time.perf_counter()
    command = [sys.executable, "-c", child, str(checkpoint), str(folder), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - start
    if done.returncode:
        raise RuntimeError(f"the conversion failed: {done.stderr.strip().splitlines()[-1]}")
    lines = done.stdout.splitlines()
    print("\n".join(f"    {line}" for line in lines if line.startswith("proof")))
    peak = next(int(line.split()[1]) for line in lines if line.startswith("PEAK"))
    return seconds, peak * (1 if sys.platform == "darwin" else 1024) / GB


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--preset", choices=tuple(PRESETS), default="giant")
    parser.add_argument("--num_labels", type=int, default=710)
    parser.add_argument(
        "--folder", help="where to put the files (4 times the model's size), default a temporary folder"
    )
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        checkpoint = folder / f"{args.preset}.pth"
        count = write_checkpoint(checkpoint, args.preset, args.num_labels)
        size = checkpoint.stat().st_size / GB
        print(header(), f"\n{args.preset}: {count / 1e9:.3f} B parameters, {size:.2f} GB", flush=True)
        met = True
        for title, options, promise in (
            ("without the proof", ["--no_verify"], size + 1),
            ("with the proof", [], 2 * size + 1),
        ):
            seconds, peak = run_once(checkpoint, folder / title.split()[0], *options)
            met = met and peak <= promise
            print(f"{title:<18} {seconds:6.1f} s   peak {peak:5.2f} GB   promised {promise:5.2f} GB", flush=True)
            record(f"converting ViT-{args.preset}, {size:.2f} GB, {title}", ours=seconds, unit="s")
            record(f"peak memory of converting ViT-{args.preset}, {title}", ours=peak, unit="GB", limit=promise)
    return 0 if met else 1
