"""Run the benchmarks: all of a device with results, tables and a time limit, or some by name.

    python -m benchmarks                      # lists them
    python -m benchmarks cpu                  # `make bench`: all of the table CPU below, under 20 minutes
    python -m benchmarks gpu                  # all of the table GPU, on a machine with a CUDA device
    python -m benchmarks cpu data_loading     # only entries with this in their command; others of the day's file stay
    python -m benchmarks gpu --missing        # only those that are not yet done in the day's file
    python -m benchmarks data_loading --repeats 3      # by name: prints, records nothing; takes its own options and --help
    python -m benchmarks tables               # docs/performance.md from the newest results files, nothing measured

A suite writes benchmarks/results/DEVICE-DATE.json after every benchmark, so a failure or an interruption loses nothing that
was measured, and at the end the tables in docs/performance.md. Peers that are not installed are left out and named: give an
interpreter that has them (`make bench BENCH_PYTHON=/path/to/python`).
"""

import argparse
import ast
import importlib
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).resolve().parent


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One line of a suite. `seconds` is what it is expected to take on two quiet cores; it is stopped at three times that."""

    benchmark: str
    options: str = ""
    seconds: int
    threads: int = 0  # 0: all cores

    @property
    def title(self) -> str:
        return f"{self.benchmark} {self.options}".strip()


MINUTES = 20
SUITES = {
    "cpu": (
        Entry(benchmark="pretrain_step", options="--repeats 3", seconds=110),
        Entry(benchmark="video_input", options="--only reading --key_frames 60 100000", seconds=75, threads=1),
        Entry(benchmark="video_input", options="--only processing", seconds=10, threads=1),
        Entry(benchmark="video_input", options="--only windows --quick", seconds=15, threads=1),
        Entry(benchmark="data_loading", options="--repeats 20", seconds=45, threads=1),
        Entry(benchmark="epoch_edges", seconds=60, threads=1),
        Entry(benchmark="from_files", options="--only evaluate --videos 2", seconds=95),
        Entry(benchmark="from_files", options="--only finetune --steps 2", seconds=80),
        Entry(benchmark="from_files", options="--only pretrain --rounds 1 --steps 3", seconds=135),
        Entry(benchmark="model_step", options="--presets small --rounds 1", seconds=90),
        Entry(benchmark="model_step", options="--presets base --heads pretrain pretrain-dual --rounds 1", seconds=65),
        Entry(benchmark="training_cost", seconds=135),
        Entry(benchmark="inference", options="--rounds 2", seconds=120),
        Entry(benchmark="token_reduction", options="--rounds 2", seconds=110),
        Entry(benchmark="detection", options="--only roi_align", seconds=10),
        Entry(benchmark="detection", options="--only ava_map", seconds=15, threads=1),
        Entry(benchmark="conversion", options="--preset base", seconds=25),
    ),
    "gpu": (
        Entry(benchmark="gpu_steps", options="--presets large --kinds pretrain pretrain-dual", seconds=420),
        Entry(benchmark="gpu_steps", options="--presets base --kinds pretrain pretrain-dual", seconds=300),
        Entry(benchmark="gpu_steps", options="--presets base large --kinds classify", seconds=420),
        Entry(benchmark="pretrain_step", options="--device cuda --dtype bf16 --batch 32 --repeats 10", seconds=60),
    ),
}
# Longer than in a suite: by name.
OUTSIDE = {
    "conversion": "at its full size: 4 GB, about four minutes",
    "video_input": "with every distance of key frames, and ten minutes of sliding windows: about three minutes",
    "model_step": "with --presets large or --compile: several minutes",
}


def benchmarks() -> dict[str, Path]:
    return {path.stem: path for path in sorted(FOLDER.glob("*.py")) if path.stem not in ("__init__", "__main__")}


def listing() -> str:
    lines = [
        f"{name:<22}{ast.get_docstring(ast.parse(path.read_text(encoding='utf-8'))).splitlines()[0]}"
        for name, path in benchmarks().items()
    ]
    lines += ["", "Larger than in the suite:"]
    lines += [f"{name:<22}{why}" for name, why in OUTSIDE.items()]
    lines += ["", "python -m benchmarks cpu runs the suite (gpu: that of a GPU); python -m benchmarks NAME runs one."]
    return "\n".join(lines)


def chosen(kind: str, only: list[str]) -> list[Entry]:
    """The entries of a suite whose titles contain one of the words; all without words."""
    for word in only:
        if not any(word in entry.title for entry in SUITES[kind]):
            names = ", ".join(dict.fromkeys(entry.benchmark for entry in SUITES[kind]))
            raise ValueError(f"the suite {kind!r} has no benchmark {word!r}; there are {names}")
    return [entry for entry in SUITES[kind] if not only or any(word in entry.title for word in only)]


def run_suite(kind: str, only: list[str], minutes: float, missing: bool) -> int:
    """Run the entries one after the other, each in a process of its own, and write what they record."""
    import psutil
    import torch

    from .common.results import ResultsFile, commit, machine, update_page

    if kind == "gpu" and not torch.cuda.is_available():
        raise ValueError(
            "no CUDA device here; to see that everything runs: python -m benchmarks gpu_steps --device cpu --smoke"
        )
    entries = chosen(kind, only)
    facts = machine(kind)
    results = ResultsFile(facts, f"python -m benchmarks {kind}")
    ends, failed = time.monotonic() + 60 * minutes, []
    for entry in entries:
        threads = entry.threads or facts["cores"]
        words = ["-m", "benchmarks", entry.benchmark, *shlex.split(entry.options)]
        if missing and results.has(shlex.join(["python", *words])):
            continue
        print(f"\n== python {shlex.join(words)}", flush=True)
        others = psutil.cpu_percent(interval=1.0) / 100  # nothing of ours runs now
        began = time.monotonic()
        status, rows = run_one(words, threads=threads, limit=min(3 * entry.seconds, ends - began))
        took = time.monotonic() - began
        if status != "done":
            failed.append(entry.title)
            print(f"{entry.title}: {status}", file=sys.stderr)
        results.put(
            {
                "benchmark": entry.benchmark,
                "command": shlex.join(["python", *words]),
                "threads": threads,
                "seconds": round(took, 1),
                "other_work": round(others, 2),
                "commit": commit(),
                "status": status,
                "rows": rows,
            },
        )
        print(f"({took:.0f} s)", flush=True)
    update_page()
    print(f"\n{results.path.relative_to(FOLDER.parent)} and docs/performance.md are written")
    if failed:
        print(f"not finished: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def run_one(words: list[str], *, threads: int, limit: float) -> tuple[str, list[dict]]:
    """How a benchmark ended, and the rows it recorded, whatever the end."""
    if limit <= 1:
        return "not started: the time of the suite was used up", []
    with tempfile.TemporaryDirectory() as folder:
        collected = Path(folder) / "rows.jsonl"
        environment = {
            **os.environ,
            "VIDEOMAE_BENCHMARK_ROWS": str(collected),
            "OMP_NUM_THREADS": str(threads),
            "HF_HUB_OFFLINE": "1",
        }
        # A session of its own, so that its workers end with it.
        process = subprocess.Popen([sys.executable, *words], cwd=FOLDER.parent, env=environment, start_new_session=True)
        try:
            code = process.wait(timeout=limit)
            status = "done" if code == 0 else f"ended with exit code {code}"
        except subprocess.TimeoutExpired:
            status = f"stopped after {limit:.0f} s"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        rows = [json.loads(line) for line in collected.read_text().splitlines()] if collected.exists() else []
    if status == "done" and not rows:
        status = "recorded nothing"
    return status, rows


def run_by_name(name: str, words: list[str]) -> int:
    if name not in benchmarks():
        raise ValueError(f"no benchmark {name!r}; there are {', '.join(benchmarks())}, and the suites cpu and gpu")
    module = importlib.import_module(f"{__package__}.{name}")
    return module.main(words) or 0


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    try:
        if argv and argv[0] not in (*SUITES, "tables") and not argv[0].startswith("-"):
            return run_by_name(argv[0], argv[1:])  # it has options of its own
        args = parse(argv)
        if not args.names:
            print(listing())
            return 0
        if args.names == ["tables"]:
            from .common.results import update_page

            update_page()
            return 0
        return run_suite(args.names[0], args.names[1:], args.minutes, args.missing)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "names", nargs="*", help="cpu or gpu, then maybe names; or one name with its options; or tables"
    )
    parser.add_argument("--missing", action="store_true", help="leave out what the day's results file has already")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="a suite ends then, whatever is left to do")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
