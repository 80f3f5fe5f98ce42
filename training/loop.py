"""The loop of every training: one optimizer step, and the iterator that makes steps, logs, saves, resumes and stops.

    with Loop(session, plan, parts) as loop:
        for done in loop:                  # `done` steps are made; the checkpoint of this one is not written yet
            if loop.every_epochs(1):
                ...                        # validate or draw; loop.ask_to_save() or loop.stop(why) as needed
    return session.end(loop.exit_code)

What differs between trainings is data (`Parts`) and the body of that `for`, which stands in the train scripts.
"""

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from transformers import PreTrainedModel

from videomae.files import new_folder
from videomae.training import engines
from videomae.training.batches import MicroBatches, StepPlan, seed_step, step_batches
from videomae.training.checkpoints import checkpoint_folder, prune
from videomae.training.optimisation import Ema, Schedule, averaged, build_optimizer, set_rates, step_unless, warmup
from videomae.training.progress import Log, Meter, say
from videomae.training.runs import (
    EXIT_INTERRUPTED,
    FINAL,
    check_same_data,
    interruptible,
    record_start,
    rewind_log,
)
from videomae.training.session import Session

Loss = Callable[[nn.Module, Mapping[str, Any]], torch.Tensor]  # (model, batch on the device) -> mean over the batch


def model_loss(model: nn.Module, batch: Mapping[str, Any], **forward: Any) -> torch.Tensor:
    """The loss that the model itself computes; `forward` goes to it with every batch."""
    return model(**batch, **forward).loss


def save_whole(model: Any, folder: Path, weights: Mapping[str, Any]) -> None:
    """Write a model folder of `weights`, the whole state of the model."""
    model.save_pretrained(folder, state_dict=weights)


def training_step(
    accelerator: Accelerator,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: MicroBatches | Sequence[Mapping[str, Any]],
    loss_of: Loss = model_loss,
    *,
    lr: float,
    weight_decay: float,
    clip_grad_norm: float | None = None,
    still: Iterable[nn.Parameter] = (),
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """One optimizer step over micro-batches: (loss of this process, gradient norm, whether the step was skipped).

    All three stay on the device; nothing here waits for it. The parameters in `still` do not move in this step.
    """
    set_rates(optimizer, lr=lr, weight_decay=weight_decay)
    loss = torch.zeros((), device=accelerator.device)
    for number, batch in enumerate(batches, start=1):
        accelerator.sync_gradients = number == len(batches)
        with contextlib.nullcontext() if accelerator.sync_gradients else accelerator.no_sync(model):
            part = loss_of(model, engines.on_device(batch, accelerator.device)) / len(batches)
            accelerator.backward(part)
        loss += part.detach()
    for parameter in still:  # AdamW passes over parameters without a gradient: neither weights nor moments move
        parameter.grad = None
    norm = engines.gradient_norm(accelerator, model, clip_grad_norm)
    bad = ~norm.isfinite()  # the norm is the same in every process, so all skip the step or none
    step_unless(bad, optimizer)
    optimizer.zero_grad()
    return loss, norm, bad


# ----------------------------------------------------------------------------------------------------------- the run


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What one kind of training brings to the loop."""

    model: PreTrainedModel
    dataset: Any  # a Dataset that takes an EpochIndex, and names what is `broken`
    collate: Callable[[list], Any]
    facts: Mapping[str, Any]  # of the data, for the records; a resumed run must have the same
    summary: Mapping[str, Any]  # further lines of what is printed before the first step
    write_files: Callable[[Path, int], None]  # (folder, steps): processor and card, which make weights a model folder
    loss: Loss = model_loss
    still: Callable[[int], Iterable[nn.Parameter]] = lambda step: ()  # the parameters that do not move in a step
    notes: Any = None  # a dataclass of JSON values that the script keeps; saved and restored with each checkpoint
    write_state: Callable[[Path], None] | None = None  # further files of the training state, and their reading
    read_state: Callable[[Path], None] | None = None
    smallest: int = 1  # clips of the smallest micro-batch that `collate` takes
    save: Callable[[Any, Path, Mapping[str, Any]], None] = save_whole  # writes what RUN/final holds of the model


class Loop:
    """The steps of one start of a run. Iterating makes them; the attributes say where the run is.

    `run` is its folder, `done` the number of steps made, `ended` whether the run came to its end (and RUN/final is
    written), `exit_code` what the process should return.
    """

    def __init__(self, session: Session, plan: StepPlan, parts: Parts):
        self.session, self.plan, self.parts = session, plan, parts
        recipe, options, accelerator = session.recipe, session.options, session.accelerator
        self.schedule = Schedule.of(recipe, plan.steps_per_epoch)
        effective = session.describe(parts.model, plan, self.schedule, parts.summary)
        self.run = session.open_run()
        self.model, self.optimizer = session.prepare(parts.model)
        self.plain_model = accelerator.unwrap_model(self.model)
        self.ema = Ema(self.plain_model, recipe.ema_decay) if recipe.ema_decay else None
        self.meter = Meter(accelerator, max_bad_steps=options.max_bad_steps)
        self.done, self.last_step = 0, min(plan.total_steps, options.max_steps or plan.total_steps)
        self.ended, self.exit_code = False, 0
        self._why, self._asked_to_save, self._closing = "", False, contextlib.ExitStack()
        if self.run.resume_from:
            self._resume(self.run.resume_from)
        if accelerator.is_main_process:
            rewind_log(self.run.log, self.done)
            record_start(self.run.folder, options=options, effective=effective, data=parts.facts, step=self.done)
        engines.start_trackers(accelerator, effective)
        self.log = Log(accelerator, self.run.log, total_steps=self.last_step, first_step=self.done)

    def _resume(self, checkpoint: Path) -> None:
        state = engines.load(
            self.session.accelerator, checkpoint, model=self.model, optimizer=self.optimizer, ema=self.ema
        )
        check_same_data(state["data"], self.parts.facts)
        if self.parts.read_state:
            self.parts.read_state(checkpoint)
        notes = state.get("notes") or state.get("watch") or {}
        if self.parts.notes is not None:
            for field in dataclasses.fields(self.parts.notes):
                setattr(self.parts.notes, field.name, notes.get(field.name, getattr(self.parts.notes, field.name)))
        self.done = state["step"]
        self.meter.restore(state["meter"])
        if state.get("stopped", notes.get("stopped")):
            self.last_step = self.done
        self.session.say(f"resuming from {checkpoint}")

    def __enter__(self) -> "Loop":
        self._interruption = self._closing.enter_context(interruptible(self.run.folder))
        self._closing.enter_context(engines.explained_out_of_memory(self.session.recipe, self.plan))
        self._closing.enter_context(self.log)
        return self

    def __exit__(self, *error: Any) -> bool | None:
        return self._closing.__exit__(*error)

    def __iter__(self) -> Iterator[int]:
        recipe, options, parts = self.session.recipe, self.session.options, self.parts
        accelerator = self.session.accelerator
        first_step, saved_at = self.done, time.monotonic()
        steps = step_batches(
            parts.dataset,
            parts.collate,
            self.plan,
            seed=recipe.seed,
            first_step=first_step,
            last_step=self.last_step,
            rank=accelerator.process_index,
            num_workers=self.session.workers,
            pin_memory=accelerator.device.type == "cuda",
        )
        for step, batches in steps:
            seed_step(recipe.seed, step, accelerator.process_index)
            lr = self.schedule.lr_at(step)
            loss, norm, bad = training_step(
                accelerator,
                self.model,
                self.optimizer,
                batches,
                parts.loss,
                lr=lr,
                weight_decay=self.schedule.weight_decay_at(step),
                clip_grad_norm=recipe.clip_grad_norm,
                still=parts.still(step),
            )
            if self.ema:
                self.ema.update(self.plain_model)
            self.meter.add(step, loss=loss, norm=norm, bad=bad, batches=batches, clips=self.plan.clips_per_step)
            self.done = step + 1
            self.log.advance()
            at_a_line = self.done % options.log_every == 0 or self.done == self.last_step
            if at_a_line:
                line = {"epoch": round(self.done / self.plan.steps_per_epoch, 4), "lr": lr, **self.meter.take()}
                if truncated := len(getattr(parts.dataset, "truncated", ())):
                    line["truncated_videos"] = truncated
                self.log.line(self.done, line | {"broken_videos": len(parts.dataset.broken)})
                engines.cap_loss_scale(accelerator, options.max_loss_scale)

            yield self.done

            # Processes must agree, which is a wait: several of them ask only where a line of the log is one anyway.
            overdue = 0 < options.save_minutes * 60 <= time.monotonic() - saved_at
            interrupted, overdue = engines.agreed(
                accelerator, bool(self._interruption), overdue, asking=at_a_line or accelerator.num_processes == 1
            )
            over = self.done == self.last_step or bool(self._why)
            if self.done % options.save_every == 0 or self._asked_to_save or overdue or interrupted or over:
                self._save()
                saved_at, self._asked_to_save = time.monotonic(), False
            if over:
                break
            if interrupted:
                name = self._interruption.signal or "a signal to another process"
                checkpoint = checkpoint_folder(self.run.folder, self.done).name
                self.session.say(f"{name}: {checkpoint} written; resume with --resume auto")
                self.exit_code = EXIT_INTERRUPTED
                return
        if self._why:
            self.session.say(self._why)
        if self.done > first_step or not engines.share(accelerator, (self.run.folder / FINAL).exists):
            with averaged(self.plain_model, self.ema):
                self.write_model(FINAL)
        self.ended = True

    def every_epochs(self, count: int) -> bool:
        """Whether this step ends an epoch whose number `count` divides; never where `count` is 0."""
        return count > 0 and self.done % (count * self.plan.steps_per_epoch) == 0

    def ask_to_save(self) -> None:
        """Write a checkpoint of this step, also where none is due."""
        self._asked_to_save = True

    def stop(self, why: str) -> None:
        """End the run with this step; it cannot be resumed from here. `why` is printed."""
        self._why = why

    def write_model(self, name: str) -> None:
        """Write RUN/NAME, an ordinary model folder of the present weights. Every process calls it."""
        accelerator = self.session.accelerator
        weights = accelerator.get_state_dict(self.model)
        if accelerator.is_main_process:
            with new_folder(self.run.folder / name, replace=True) as folder:
                self.parts.save(self.plain_model, folder, weights)
                self.parts.write_files(folder, self.done)
        accelerator.wait_for_everyone()

    def _save(self) -> None:
        parts, options, accelerator = self.parts, self.session.options, self.session.accelerator

        def write_more(folder: Path) -> None:
            parts.write_files(folder, self.done)
            if parts.write_state:
                parts.write_state(folder)

        state = {"step": self.done, "meter": self.meter.state(), "data": parts.facts, "stopped": bool(self._why)}
        if parts.notes is not None:
            state["notes"] = dataclasses.asdict(parts.notes)
        engines.save(
            accelerator,
            self.run.folder,
            state=state,
            model=self.model,
            optimizer=self.optimizer,
            ema=self.ema,
            write_more=write_more,
        )
        if accelerator.is_main_process:
            prune(self.run.folder, keep_last=options.keep_last, keep_every=options.keep_every)


# ----------------------------------------------------------------------------------------------------------- overfit

OVERFIT_WARMUP, OVERFIT_LR = 20, 1e-3


def overfit(
    session: Session,
    model: nn.Module,
    batch: Mapping[str, Any],
    loss: Loss,
    *,
    what: str,
    steps: int,
    goal: float,
    advice: str,
) -> int:
    """Train on one fixed batch until the loss is below `goal`; a path with a broken link never gets there.

    `what` names the clips in the batch ("8 videos"); `advice` is what to look at where the goal is missed.
    """
    accelerator = session.accelerator
    model, optimizer = accelerator.prepare(model, build_optimizer(model.train(), session.recipe))
    last = math.inf
    for step in range(steps):
        lr = warmup(min(step, OVERFIT_WARMUP - 1), OVERFIT_WARMUP, 0.0, OVERFIT_LR)
        value, _, _ = training_step(accelerator, model, optimizer, [batch], loss, lr=lr, weight_decay=0.0)
        if step % 20 == 0 or step == steps - 1:
            last = value.item()
            say(f"step {step}: loss {last:.4f}")
            if last < goal:
                say(f"overfitted {what} in {step} steps: the path from file to weights works")
                return 0
    raise ValueError(f"after {steps} steps on the same {what} the loss is {last:.3f}, above {goal}; look at {advice}")
