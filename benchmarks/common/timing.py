"""What the benchmarks share: taking turns, clocks, peak memory, the header, and rows for the results file.

A benchmark stays a script that prints its own table; it takes from here what it needs (a file beside it, imported by
its bare name):

    from .timing import header, record, take_turns

    print(header(threads=2))
    seconds = take_turns({"stock": stock_step, "ours": our_step}, rounds=5)      # lists, one entry a round
    record("pre-training step, ViT-B, 4 clips", ours=seconds["ours"], unit="s",
           peer="transformers", theirs=seconds["stock"], promised=1.08)

`record` adds a row to the file that `python -m benchmarks cpu` (or gpu) names in VIDEOMAE_BENCHMARK_ROWS and does nothing
more when a benchmark is run by hand, so it can be called always. A ratio above 1 always means that ours is better.
"""

import ctypes
import gc
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

ROWS = "VIDEOMAE_BENCHMARK_ROWS"

Figures = float | Sequence[float]  # one number, or one for each round


# ---------------------------------------------------------------------------------------------------------- rows


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the results: what was done, by whom, how long it took, and what had been promised.

    ratio: above 1 means that ours is better; the median over the rounds where both have rounds.
    promised: the smallest ratio that was promised. limit: the worst value of `ours` that was promised, in `unit`, for
    work that has no peer. Without either nothing was promised and `met` is None.
    """

    work: str
    ours: float
    unit: str
    peer: str = ""
    theirs: float | None = None
    ratio: float | None = None
    promised: float | None = None
    limit: float | None = None
    note: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)  # for programs that read the file: preset, batch, ...

    @property
    def met(self) -> bool | None:
        verdicts = []
        if self.promised is not None:
            verdicts.append(self.ratio is not None and self.ratio >= self.promised)
        if self.limit is not None:
            verdicts.append(self.ours >= self.limit if larger_is_better(self.unit) else self.ours <= self.limit)
        return all(verdicts) if verdicts else None


def record(
    work: str,
    *,
    ours: Figures,
    unit: str,
    peer: str = "",
    theirs: Figures | None = None,
    ratio: float | None = None,
    promised: float | None = None,
    limit: float | None = None,
    note: str = "",
    **facts: Any,
) -> Row:
    """Make a row, and write it where the suite collects them.

    `ours` and `theirs` are single figures, or one for each round in the same order; then the row holds their medians,
    and the ratio is the median of the ratios of rounds. Rates ("clips/s") and shares of what is possible ("%") are
    better when larger, all other units when smaller. `ratio` overrides what follows from the figures; further keywords are kept for programs that read
    the file.
    """
    if ratio is None and theirs is not None:
        ratio = 1 / median_ratio(theirs, ours) if larger_is_better(unit) else median_ratio(theirs, ours)
    row = Row(
        work=work,
        ours=middle(ours),
        unit=unit,
        peer=peer,
        theirs=None if theirs is None else middle(theirs),
        ratio=ratio,
        promised=promised,
        limit=limit,
        note=note,
        facts=facts,
    )
    if path := os.environ.get(ROWS):
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(row) | {"met": row.met}) + "\n")
    return row


def larger_is_better(unit: str) -> bool:
    return unit.endswith(("/s", "%"))


def middle(figures: Figures) -> float:
    return float(statistics.median(figures)) if isinstance(figures, Sequence) else float(figures)


def median_ratio(above: Figures, below: Figures) -> float:
    """The median over rounds of above / below: a machine that slows down for a while slows both of a round."""
    if isinstance(above, Sequence) and isinstance(below, Sequence) and len(above) == len(below):
        return float(statistics.median(a / b for a, b in zip(above, below)))
    return middle(above) / middle(below)


# ------------------------------------------------------------------------------------------------------- timing


def clock(device: str | torch.device = "cpu") -> Callable[[], float]:
    """Seconds on the wall once the device has done what it was given."""
    if torch.device(device).type != "cuda":
        return time.perf_counter

    def synchronised() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return synchronised


def take_turns(
    contenders: Mapping[str, Callable[[int], object]],
    rounds: int,
    *,
    now: Callable[[], float] = time.perf_counter,
    warmup: int = 1,
) -> dict[str, list[float]]:
    """Seconds that each contender takes in each round, after `warmup` rounds that do not count.

    A contender gets the number of the round, so that all work on the same seed. Every other round goes backwards, so
    that none always finds the caches as one certain other leaves them. `now` may be `clock("cuda")`, or
    `time.process_time` for work on one thread, which other work on the machine disturbs less.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(warmup + rounds):
        turns = list(contenders.items())
        for name, run in turns if number % 2 == 0 else reversed(turns):
            began = now()
            run(number)
            took = now() - began
            if number >= warmup:
                seconds[name].append(took)
    return seconds


# ------------------------------------------------------------------------------------------------------- memory


def peak_mib(device: str | torch.device = "cpu") -> float:
    """The most memory that this process (or its share of a GPU) has held so far, since `reset_peak` where that works."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    # Not getrusage: its maximum survives exec, so a child would report what its parent had used.
    if (status := _status()) is not None:
        return status["VmHWM"]
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if platform.system() == "Darwin" else 2**10)


def held_mib(device: str | torch.device = "cpu") -> float:
    """What this process, or its share of a GPU, holds now; 0 where the system cannot say."""
    if torch.device(device).type == "cuda":
        return torch.cuda.memory_allocated(device) / 2**20
    status = _status()
    return status["VmRSS"] if status else 0.0


def reset_peak(device: str | torch.device = "cpu") -> bool:
    """Reset `peak_mib`; False where the system cannot."""
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return True
    try:
        Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak becomes what is held now
    except OSError:
        return False
    return True


def added_mib(run: Callable[[], object], device: str | torch.device = "cpu") -> float | None:
    """How much more memory a call holds at its peak than was held before it; None where the system cannot say."""
    gc.collect()
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
    else:
        try:
            ctypes.CDLL(None).malloc_trim(0)  # else the call would reuse what earlier ones freed, and seem to need less
        except (AttributeError, OSError):
            return None
    before = held_mib(device)
    if not reset_peak(device):
        return None
    run()
    return peak_mib(device) - before


def _status() -> dict[str, float] | None:
    """The Vm fields of this process in MiB; None where the system has no /proc."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return {
        name: int(rest.split()[0]) / 2**10
        for name, _, rest in (line.partition(":") for line in lines)
        if name[:2] == "Vm"
    }


# ------------------------------------------------------------------------------------------------------ machine


def header(*, threads: int | None = None, device: str | torch.device = "cpu", also: Sequence[str] = ()) -> str:
    """The line that every benchmark begins with: date, machine, threads, versions (`also` names further packages)."""
    threads = torch.get_num_threads() if threads is None else threads
    versions = ", ".join(f"{name} {version_of(name)}" for name in ("torch", "transformers", *also) if version_of(name))
    where = torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else cpu_name()
    return f"{date.today()}, {where}, {cores()} cores, {threads} thread{'s' * (threads != 1)}; {versions}"


def cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def has_bf16() -> bool:
    """Whether bf16 matrix products run in the device's own instructions."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported()
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return any(flag in flags for flag in ("avx512_bf16", "amx_bf16", " bf16"))


def version_of(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
