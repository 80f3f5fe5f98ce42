"""The demo over several seeds: is what one run shows a matter of luck?

    python experiments/demo_seeds.py                  # 5 seeds, one after the other, each as long as the demo
    python experiments/demo_seeds.py --quick --seeds 2 --first 5

Each seed is `videomae demo --seed N` in a process of its own: other videos, first weights, order and masks. What is done
is kept in --folder, so that the same command continues after an interruption. Prints a table with mean and deviation.
"""

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from videomae.app.demo import FIGURES, ONE_FRAME, PRETRAINED, SCRATCH

COLUMNS = (ONE_FRAME, SCRATCH, PRETRAINED)


def one_seed(folder: Path, seed: int, size: str) -> dict[str, Any]:
    """Accuracies and seconds of the demo with a seed, run where they are not there yet."""
    output = folder / f"seed-{seed}"
    command = [sys.executable, "-m", "videomae.commands.main", "demo", "--seed", str(seed), "--output", str(output)]
    record = output / size / FIGURES
    if not record.exists():
        print(f"seed {seed}", flush=True)
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / f"seed-{seed}.txt", "a") as printed:
            code = subprocess.run(
                [*command, *["--quick"] * (size == "quick")], stdout=printed, stderr=printed
            ).returncode
        if code:
            raise RuntimeError(f"seed {seed} ended with code {code}; its output is in {printed.name}")
    return json.loads(record.read_text("utf-8"))


def table(records: Mapping[int, dict[str, Any]]) -> str:
    """One row a seed; then mean and standard deviation over the seeds."""
    rows = []
    for record in records.values():
        shares = [100 * record["figures"][name] for name in COLUMNS]
        rows.append([*shares, shares[2] - shares[1], record["seconds"] / 60])
    head = ["seed", *COLUMNS, "gain", "minutes"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += [f"| {seed} | " + " | ".join(f"{value:.1f}" for value in row) + " |" for seed, row in zip(records, rows)]
    columns = list(zip(*rows))
    if len(rows) > 1:
        means = [f"{statistics.mean(column):.1f} ± {statistics.stdev(column):.1f}" for column in columns]
        lines.append("| mean | " + " | ".join(means) + " |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5, help="how many [%(default)s]")
    parser.add_argument("--first", type=int, default=0, help="the first of them [%(default)s]")
    parser.add_argument("--quick", action="store_true", help="the demo's quick size, to see that everything runs")
    parser.add_argument("--folder", default="runs/demo_seeds", help="where the demos lie [%(default)s]")
    arguments = parser.parse_args(argv)
    if arguments.seeds < 1:
        parser.error(f"--seeds must be at least 1, not {arguments.seeds}")
    size = "quick" if arguments.quick else "full"
    seeds = range(arguments.first, arguments.first + arguments.seeds)
    records = {seed: one_seed(Path(arguments.folder), seed, size) for seed in seeds}
    machine = f"{os.cpu_count()} CPU cores ({platform.machine()}), torch {torch.__version__}"
    print(f"\nTop-1 of the demo ({size}), {datetime.date.today().isoformat()}, {machine}\n\n{table(records)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
