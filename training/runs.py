"""The folder of a run: whose it is, what was asked for, the log, and how a run is interrupted.

RUN/recipe.yaml     the effective recipe, complete
RUN/run.json        every start of the run: options, effective numbers, versions, command
RUN/log.jsonl       one JSON object a line, by step; rewound to the checkpoint on resume
RUN/checkpoint-N/   see checkpoints.py; what a run resumes from
RUN/best/           the model of the best validation, where there is one
RUN/final/          the model of the last step, once the run has ended
"""

import contextlib
import datetime
import json
import os
import platform
import shlex
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from videomae.command_line import INTERRUPTED, changed_fields, plain
from videomae.files import is_leftover, path_in_errors, remove_leftovers, write_atomic, write_json
from videomae.training.checkpoints import checkpoints, damage, latest_checkpoint
from videomae.training.options import RECIPE, RECORD, read_recipe, write_recipe
from videomae.training.recipes import Recipe

LOG = "log.jsonl"
CARD = "card.md"  # of a dry run, for a look at it
FINAL = "final"

# What a process returns after SIGTERM, SIGUSR1 or Ctrl-C, once its checkpoint is written: "try again" in sysexits.h. A queue
# system can take it as the sign to put the job back in line with `--resume auto`.
EXIT_INTERRUPTED = INTERRUPTED

try:
    import fcntl
except ImportError:  # Windows: two runs in one folder are then not noticed
    fcntl = None


class Run:
    """The folder of one run, opened by its main process; other processes get the same answers through `engines.share`.

    `resume_from` is the checkpoint to resume from, or None to start from the beginning.
    """

    def __init__(self, folder: Path, resume_from: Path | None, lock: Any):
        self.folder = folder
        self.resume_from = resume_from
        self._lock = lock

    def __getstate__(self) -> dict[str, Any]:
        """What other processes are told: all but the lock, which stays with the main one."""
        return {**vars(self), "_lock": None}

    @property
    def log(self) -> Path:
        return self.folder / LOG


def open_run(output: str | os.PathLike, recipe: Recipe, *, resume: str, say=print) -> Run:
    """Claim a folder for a run, or to resume the one in it; every conflict is an error before any work.

    `resume` is "never", "auto" (the newest whole checkpoint, or a fresh start where there is none yet) or the path of
    one checkpoint of this run.
    """
    if not output:
        raise ValueError("--output is missing: the folder that the run writes to")
    folder = Path(output)
    recorded = folder / RECIPE
    started = bool(checkpoints(folder)) or (folder / LOG).exists()
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--output {folder} is a file; name a folder")
    if not recorded.exists():
        if folder.exists() and any(
            name not in (".lock", CARD) and not is_leftover(name) for name in os.listdir(folder)
        ):
            raise ValueError(
                f"--output {folder} is not empty and not a run ({RECIPE} is missing); choose another folder"
            )
    elif started and resume == "never":
        raise ValueError(
            f"--output {folder} holds another run; add --resume auto to resume it, or choose another folder"
        )
    if not started and resume not in ("never", "auto"):
        raise ValueError(
            f"--resume {resume}: {folder} holds no checkpoint to resume from; give auto, never or the path of one in --output"
        )
    folder.mkdir(parents=True, exist_ok=True)
    lock = _locked(folder)
    remove_leftovers(folder)
    if not started:  # new, or stopped by an error before its first step
        if resume == "auto":
            say(f"--resume auto: {folder} holds nothing to resume from; starting from the beginning")
        write_recipe(recorded, recipe)
        return Run(folder, None, lock)

    if changes := changed_fields(read_recipe(recorded, type(recipe)), recipe):
        raise ValueError(
            f"the run in {folder} has another recipe ({'; '.join(changes)}); resume with --recipe {recorded} and no "
            "overrides, or start a new run in another folder (its --model may be a checkpoint of this one)"
        )
    return Run(folder, _checkpoint_to_resume(folder, resume, say), lock)


def check_same_data(recorded: Mapping[str, Any], current: Mapping[str, Any]) -> None:
    differing = [
        f"{name}: {recorded[name]} -> {current[name]}"
        for name in ("clips", "manifest_sha256")
        if recorded[name] != current[name]
    ]
    if differing:
        raise ValueError(
            f"--data is not the list that this run trains on ({'; '.join(differing)}), so it cannot resume exactly; give "
            "the same list, or start a new run with --model CHECKPOINT"
        )
    if recorded.get("teacher_sha256") != current.get("teacher_sha256"):
        raise ValueError(
            "--teacher holds other weights than this run was started with, so it cannot resume exactly; give the same "
            "teacher, or start a new run with --model RUN/final"
        )


def _checkpoint_to_resume(folder: Path, resume: str, say) -> Path | None:
    if resume != "auto":
        chosen = Path(resume)
        if chosen.resolve().parent != folder.resolve():
            raise ValueError(
                f"--resume {resume} is not a checkpoint in {folder}; use --resume auto, or --model to start from it"
            )
        if reason := damage(chosen):
            raise ValueError(f"--resume {resume} is damaged: {reason}; --resume auto uses the newest whole one")
        return chosen
    found = latest_checkpoint(folder, say)
    if found is None and checkpoints(folder):
        raise ValueError(f"every checkpoint in {folder} is damaged; start again in another folder")
    if found is None:
        say(f"{folder} has no checkpoint yet; starting from the beginning")
    return found


def _locked(folder: Path) -> Any:
    """Hold the folder for this process; the lock goes when the process does, however it ends."""
    if fcntl is None:
        return None
    handle = open(folder / ".lock", "w")  # noqa: SIM115 (held for the life of the run)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ValueError(f"another process is training in {folder}; wait for it or choose another folder") from None
    except OSError:
        pass  # a file system without locks
    return handle


def record_start(run: Path, *, options: Any, effective: Mapping[str, Any], data: Mapping[str, Any], step: int) -> None:
    """Add one start to RUN/run.json: what was asked for, what it came to, and with which versions."""
    path = run / RECORD
    try:
        before = json.loads(path.read_text("utf-8"))["starts"] if path.exists() else []
        starts = [dict(start) for start in before]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ValueError(
            f"{path} is not the record of a run; remove it, and the run continues without its history"
        ) from None
    starts.append(
        {
            "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "from_step": step,
            "command": shlex.join(sys.argv),
            "options": plain(options),
            "effective": dict(effective),
            "data": dict(data),
            "versions": versions(),
        }
    )
    write_json(path, {"starts": starts})


def versions() -> dict[str, str]:
    import accelerate
    import transformers

    import videomae

    return {
        "videomae": videomae.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "accelerate": accelerate.__version__,
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine(),
    }


# ------------------------------------------------------------------------------------------------------------ log


def append_log(path: Path, values: Mapping[str, Any]) -> None:
    """Add one line; what a crash cuts short is dropped by `rewind_log`."""
    with path_in_errors(path), open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(values, allow_nan=False) + "\n")


def rewind_log(path: Path, step: int) -> None:
    """Drop the lines after `step`, and a line that was cut short, so that a resumed run's log reads like one run."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text("utf-8", "replace").splitlines():
        with contextlib.suppress(ValueError, TypeError, AttributeError, RecursionError):
            if json.loads(line).get("step", 0) <= step:
                kept.append(line + "\n")
    write_atomic(path, "".join(kept))


def read_log(path: str | os.PathLike) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text("utf-8").splitlines()]


# ----------------------------------------------------------------------------------------------------- interruption


TOGETHER_SECONDS = 1.0  # launchers pass a Ctrl-C on to processes that the terminal has told already


class Interruption:
    """Set by SIGTERM or SIGUSR1 (what queue systems send before the time is up) and Ctrl-C; the loop asks after each step."""

    def __init__(self):
        self.signal: str | None = None
        self._first_ctrl_c: float | None = None

    def __bool__(self) -> bool:
        return self.signal is not None

    def _note(self, number: int, frame: Any) -> None:
        self.signal = self.signal or signal.Signals(number).name
        if number != signal.SIGINT:
            return
        if self._first_ctrl_c is None:
            self._first_ctrl_c = time.monotonic()
            if os.environ.get("RANK", "0") == "0":  # a handler may run inside a print, so not by print
                os.write(2, b"\nCtrl-C: a checkpoint is written after this step; press it again to end at once\n")
        elif time.monotonic() - self._first_ctrl_c > TOGETHER_SECONDS:
            raise KeyboardInterrupt


@contextlib.contextmanager
def interruptible(run: Path) -> Iterator[Interruption]:
    """Catch SIGTERM, SIGUSR1 and the first Ctrl-C inside the block; the handlers from before come back after it.

    A second Ctrl-C ends the process at once, without a checkpoint, in one line and with the shell's code for it, 130.
    """
    interruption = Interruption()
    wanted = [getattr(signal, name) for name in ("SIGTERM", "SIGUSR1", "SIGINT") if hasattr(signal, name)]
    try:
        before = {number: signal.signal(number, interruption._note) for number in wanted}
    except ValueError:  # not the main thread (a notebook's worker, a test): nothing to catch there
        before = {}
    try:
        yield interruption
    except KeyboardInterrupt:
        last = checkpoints(run)[-1:]
        what = f"resume from {last[0].name} with --resume auto" if last else "no checkpoint was written"
        print(f"stopped at once; {what}", file=sys.stderr)
        raise SystemExit(130) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
