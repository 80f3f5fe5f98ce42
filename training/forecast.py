"""The dry run: a few steps with growing micro-batches say what a run takes, before anything is written.

It starts with the smallest micro-batch that the data allows, so that a batch that does not fit the machine is never
tried; with --output it leaves the card that the run will have, to be looked at. Memory is a straight line through the two largest sizes; time comes from the largest.
"""

import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from videomae.files import write_atomic
from videomae.training import engines
from videomae.training.batches import StepPlan
from videomae.training.loop import Parts, training_step
from videomae.training.optimisation import Ema, Schedule
from videomae.training.progress import peak_memory_gib
from videomae.training.runs import CARD, FINAL
from videomae.training.session import Session

PROBE_SECONDS = 35.0  # a larger micro-batch is tried only while all together should stay below this
FITS = 0.8  # share of the memory that a run may take: what is beside it needs some too


@dataclass(frozen=True)
class Probe:
    """One measured step of a single micro-batch; of 0 clips: what the model takes without any."""

    clips: int
    seconds: float
    gib: float


def dry_run(session: Session, plan: StepPlan, parts: Parts) -> int:
    """Measure, and print what the run would take on these devices; writes nothing but its card."""
    schedule = Schedule.of(session.recipe, plan.steps_per_epoch)
    session.describe(parts.model, plan, schedule, parts.summary)
    probes, load_seconds = measure(session, plan, parts, schedule)
    steps = min(plan.total_steps, session.options.max_steps or plan.total_steps)
    seconds = step_seconds(plan, probes[-1], load_seconds, session.workers, session.device)
    written = write_card(session, plan, parts)
    session.say(
        f"dry run: about {duration(steps * seconds)} on this machine without validation ({steps} steps of "
        f"{plan.clips_per_step} clips, {seconds:.{0 if seconds >= 10 else 2}f} s each); {advice(session, plan, probes, parts.smallest)}; "
        + (f"the card that the run will have: {written}" if written else "nothing was written")
    )
    return session.end()


def write_card(session: Session, plan: StepPlan, parts: Parts) -> Path | None:
    """OUTPUT/card.md, as a run of all steps would write it; None without --output, or where a model is sharded."""
    if not session.options.output or engines.is_sharded(session.accelerator):
        return None
    output = Path(session.options.output)
    if session.accelerator.is_main_process:
        output.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".card.", suffix=".tmp", dir=output) as beside:
            folder = Path(beside, FINAL)
            parts.save(parts.model, folder, parts.model.state_dict())
            parts.write_files(folder, plan.total_steps)
            card = (folder / "README.md").read_text(encoding="utf-8")
            write_atomic(output / CARD, f"<!-- made by --dry_run: no step of this run was made -->\n\n{card}")
    return output / CARD


def measure(session: Session, plan: StepPlan, parts: Parts, schedule: Schedule) -> tuple[list[Probe], float]:
    """Steps of 1, 2, 4, ... clips, printed as they come, after what the model takes; and the seconds to load one clip."""
    recipe, accelerator = session.recipe, session.accelerator
    model, optimizer = session.prepare(parts.model)
    ema = Ema(accelerator.unwrap_model(model), recipe.ema_decay) if recipe.ema_decay else None
    trained = sum(parameter.numel() * 4 for parameter in model.parameters() if parameter.requires_grad)
    items: list = []
    # Gradients and AdamW's two moments come with the first step.
    probes = [Probe(0, 0.0, peak_memory_gib(session.device) + 3 * trained / 2**30)]
    began, loading, warm = time.perf_counter(), 0.0, False
    clips = min(parts.smallest, plan.clips_per_device)
    while True:
        start = time.perf_counter()
        items += [parts.dataset[len(items) % len(parts.dataset)] for _ in range(clips - len(items))]
        loading += time.perf_counter() - start
        batch = parts.collate(items[:clips])
        if session.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(session.device)
        start = time.perf_counter()
        with engines.explained_out_of_memory(recipe, plan):
            *_, bad = training_step(
                accelerator,
                model,
                optimizer,
                [batch],
                parts.loss,
                lr=schedule.lr_at(0),
                weight_decay=schedule.weight_decay_at(0),
                clip_grad_norm=recipe.clip_grad_norm,
            )
            if ema:
                ema.update(accelerator.unwrap_model(model))
            bad.item()  # waits for the device
        probe = Probe(clips, time.perf_counter() - start, peak_memory_gib(session.device))
        # The first step also makes the optimizer's state and warms caches: it is repeated where there is time for it.
        (slow,) = engines.agreed(accelerator, time.perf_counter() - began + probe.seconds > PROBE_SECONDS)
        if not warm and not slow:
            warm = True
            continue
        warm = True
        probes.append(probe)
        session.say(f"{clips} clips at a time: {probe.seconds:.2f} s, {probe.gib:.2f} GiB in use at most")
        after = time.perf_counter() - began + 2 * probe.seconds
        (over,) = engines.agreed(accelerator, after > PROBE_SECONDS)
        if over or clips >= plan.clips_per_device:
            return probes, loading / len(items)
        clips = min(2 * clips, plan.clips_per_device)


def step_seconds(plan: StepPlan, probe: Probe, load_seconds: float, workers: int, device: torch.device) -> float:
    """Seconds of a whole step: computing and loading run at the same time, on a CPU on the same cores."""
    clips = plan.clips_per_device * plan.accumulation
    computing, loading = clips * probe.seconds / probe.clips, clips * load_seconds
    if workers == 0:
        return computing + loading
    if device.type == "cpu":
        return computing + loading / (os.cpu_count() or 1)
    return max(computing, loading / workers)


def predicted_gib(probes: list[Probe], clips: int) -> float:
    """Memory for so many clips at a time, on the line through the last two probes."""
    before, last = probes[-2:]
    slope = max(last.gib - before.gib, 0.0) / (last.clips - before.clips)
    return last.gib + slope * (clips - last.clips)


def advice(session: Session, plan: StepPlan, probes: list[Probe], smallest: int) -> str:
    """What the asked micro-batch takes, and a smaller one that fits where it does not, or that was measured."""
    asked, share, total = plan.clips_per_device, plan.clips_per_step // plan.processes, memory_gib(session.device)
    smaller = [size for size in range(smallest, asked, smallest) if share % size == 0]
    takes = predicted_gib(probes, asked)
    if total and takes > FITS * total:
        text = f"--clips_per_device {asked} would take about {takes:.1f} of this machine's {total:.1f} GiB, too much"
        smaller = [size for size in smaller if predicted_gib(probes, size) <= FITS * total]
        if not smaller:
            return f"{text}, and so would every smaller one"
    elif probes[-1].clips >= asked:
        return f"--clips_per_device {asked} takes {takes:.1f} GiB"
    else:
        text = f"--clips_per_device {asked} takes about {takes:.1f} GiB"
        smaller = [size for size in smaller if size <= probes[-1].clips]
    if not smaller:
        return text
    return f"{text}, --clips_per_device {smaller[-1]} about {predicted_gib(probes, smaller[-1]):.1f}"


def memory_gib(device: torch.device) -> float:
    """The memory of the device, or of this machine where the device is the CPU; 0 where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1] / 2**30
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    except (AttributeError, ValueError, OSError):  # Windows
        return 0.0


def duration(seconds: float) -> str:
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 1.5 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} seconds"
