"""What a training says while it runs: the meter of one log interval, the log, the bar, and the watch over bad steps.

Losses and norms stay on the device until a line is due; that line is the only wait for the device. The meter's content is
part of a checkpoint, so a resumed run writes the same lines as one that was never stopped.
"""

import math
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from tqdm.auto import tqdm

from videomae.training.batches import MicroBatches
from videomae.training.runs import append_log


class Meter:
    """Collects the steps since the last line of the log."""

    def __init__(self, accelerator: Accelerator, *, max_bad_steps: int, bad_steps: int = 0, bad_in_row: int = 0):
        self.accelerator = accelerator
        self.max_bad_steps = max_bad_steps
        self.bad_steps = bad_steps  # over the whole run
        self.bad_in_row = bad_in_row
        self._read: list[list[float]] = []  # [loss, norm, bad] of steps already fetched from the device
        self._steps: list[torch.Tensor] = []  # the same, still there
        self._sources: list[tuple[int, Sequence[str]]] = []
        self._restart_clock()

    def add(
        self,
        step: int,
        *,
        loss: torch.Tensor,
        norm: torch.Tensor,
        bad: torch.Tensor,
        batches: MicroBatches,
        clips: int,
    ) -> None:
        """Note one step, without waiting for the device. `loss` is this process's mean over the step's `batches`."""
        self._steps.append(torch.stack([value.detach().float().reshape(()) for value in (loss, norm, bad)]))
        self._sources.append((step, batches.sources))
        self._clips += clips
        self._waited += batches.waited

    def state(self) -> dict[str, Any]:
        """JSON for the checkpoint; fetches what is on the device."""
        self._fetch()
        return {
            "bad_steps": self.bad_steps,
            "bad_in_row": self.bad_in_row,
            "pending": [[_finite(v) for v in row] for row in self._read],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        self.bad_steps, self.bad_in_row = state["bad_steps"], state["bad_in_row"]
        self._read = [[math.nan if value is None else value for value in row] for row in state["pending"]]

    def take(self) -> dict[str, Any]:
        """The line for the log: means over the good steps since the last line, speed, waiting, memory."""
        self._fetch()
        good = [row for row in self._read if not row[2]]
        seconds = time.perf_counter() - self._began
        line = {
            "loss": _mean([row[0] for row in good]),
            "grad_norm": _mean([row[1] for row in good]),
            "bad_steps": self.bad_steps,
            "clips_per_second": round(self._clips / max(seconds, 1e-9), 2),
            "data_wait": round(self._waited / max(seconds, 1e-9), 4),
            "memory_gib": round(peak_memory_gib(self.accelerator.device), 3),
        }
        self._read = []
        self._restart_clock()
        return line

    def _fetch(self) -> None:
        """One transfer (and under several processes one reduction) for all steps since the last."""
        if not self._steps:
            return
        rows = torch.stack(self._steps)
        if self.accelerator.num_processes > 1:
            rows = cast(torch.Tensor, self.accelerator.reduce(rows, reduction="mean"))
        rows = rows.tolist()
        for row, (step, sources) in zip(rows, self._sources, strict=True):
            row[2] = float(row[2] > 0)
            self.bad_in_row = self.bad_in_row + 1 if row[2] else 0
            if row[2]:
                self._report_bad(step, sources)
        self._read += rows
        self._steps, self._sources = [], []
        if self.bad_in_row >= self.max_bad_steps:
            raise ValueError(
                f"{self.bad_in_row} steps in a row had a non-finite gradient, so none was applied; the clips are named above. "
                "Try, in this order: --mixed_precision bf16 (or no) instead of fp16, a lower --base_lr, --clip_grad_norm "
                "(0.02 in V2's giant pre-training, 5 in fine-tuning), --adam_eps 1e-6; then look at the clips themselves"
            )

    def _report_bad(self, step: int, sources: Sequence[str]) -> None:
        self.bad_steps += 1
        everyones = gather_object(list(sources)) if self.accelerator.num_processes > 1 else list(sources)
        if self.accelerator.is_main_process:
            say(f"step {step}: non-finite gradient, step skipped; its clips: {', '.join(everyones)}")

    def _restart_clock(self) -> None:
        self._began, self._waited, self._clips = time.perf_counter(), 0.0, 0


BAR = "{percentage:3.0f}%|{bar:8}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}]{postfix}"
WIDTH = 100  # columns of a line in the terminal
# How a line says what it has: the text, and whether a zero is worth saying. In this order; other names come after.
SHORT = {
    "loss": ("loss {:.4g}", True),
    "grad_norm": ("norm {:.3g}", True),
    "lr": ("lr {:.2g}", True),
    "bad_steps": ("bad {}", False),
    "broken_videos": ("broken {}", False),
    "clips_per_second": ("{:.4g} clips/s", True),
    "data_wait": ("wait {:.0%}", False),
    "memory_gib": ("{:.3g} GiB", False),
    "epoch": ("", False),  # the step says it
}


def brief(values: Mapping[str, Any], beside: Mapping[str, str] | None = None, *, before: str = "") -> str:
    """What a person reads of a line of the log; `beside` has words to put behind a value, `before` begins the line."""
    parts = [before] if before else []
    for name in sorted(values, key=lambda name: [*SHORT, name].index(name)):
        value, (text, zero) = values[name], SHORT.get(name, (name.removeprefix("val_") + " {:.4g}", True))
        if text and value is not None and (zero or (value >= 0.005 if name == "data_wait" else value)):
            parts.append(text.format(value) + (f" ({beside[name]})" if beside and name in beside else ""))
    text = "  ".join(parts)
    return text if len(text) <= WIDTH else " ".join(parts)


class Log:
    """Lines to RUN/log.jsonl, to the trackers, and to the terminal: a bar where it is one, plain lines elsewhere.

    The file gets every number, the terminal the short form.
    """

    def __init__(self, accelerator: Accelerator, path: Path | None, *, total_steps: int, first_step: int):
        self.accelerator = accelerator
        self.path = path
        self._main = accelerator.is_main_process
        self._total = total_steps
        self._bar = None
        if self._main and sys.stderr.isatty():
            self._bar = tqdm(total=total_steps, initial=first_step, dynamic_ncols=True, bar_format=BAR)

    def advance(self) -> None:
        if self._bar:
            self._bar.update()

    def line(self, step: int, values: Mapping[str, Any], *, what: str = "", beside: Mapping[str, str] | None = None):
        """Log numbers after `step` steps. A line about something else than the steps says `what`, and stays above the bar."""
        if not self._main:
            return
        if self.path:
            append_log(self.path, {"step": step, **values})
        self.accelerator.log({name: value for name, value in values.items() if value is not None}, step=step)
        if self._bar and not what:
            self._bar.set_postfix_str(brief(values, beside))
            return
        text = brief(values, beside, before=f"step {step}/{self._total}" + (f"  {what}:" if what else ""))
        tqdm.write(text) if self._bar else print(text, flush=True)

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, *error: Any) -> None:
        if self._bar:
            self._bar.close()


def say(text: str) -> None:
    """A sentence to the terminal, above the bar if there is one."""
    tqdm.write(text, file=sys.stderr)


def peak_memory_gib(device: torch.device) -> float:
    """Most memory in use so far: of the device, or of this process where the device is the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**30 if sys.platform == "darwin" else 2**20)


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
