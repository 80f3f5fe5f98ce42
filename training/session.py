"""What comes before the first step of a training: the process and its precision, the plan of steps, the run's folder."""

import contextlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.utils import logging as transformers_logging

from videomae.data.video_dataset import BrokenVideosError
from videomae.training import engines
from videomae.training.batches import StepPlan, default_workers
from videomae.training.optimisation import Schedule, build_optimizer
from videomae.training.options import RunOptions
from videomae.training.progress import say
from videomae.training.recipes import Recipe
from videomae.training.runs import LOG, Run, open_run

AnyRecipe = TypeVar("AnyRecipe", bound=Recipe)
AnyOptions = TypeVar("AnyOptions", bound=RunOptions)


class Session(Generic[AnyRecipe, AnyOptions]):
    """One start of a training: its recipe, its options, and this process's part in it."""

    def __init__(self, recipe: AnyRecipe, options: AnyOptions):
        transformers_logging.disable_progress_bar()
        self.recipe, self.options = recipe, options
        self.accelerator = engines.start_accelerator(options)
        self.workers = default_workers() if options.num_workers is None else options.num_workers

    @property
    def device(self) -> torch.device:
        return self.accelerator.device

    @property
    def log(self) -> Path:
        """The log of the run, there or not."""
        return Path(self.options.output) / LOG

    def say(self, text: str) -> None:
        """Print a sentence once, whatever the number of processes."""
        if self.accelerator.is_main_process:
            say(text)

    def plan(self, num_clips: int) -> StepPlan:
        return StepPlan.of(
            self.recipe,
            num_clips=num_clips,
            processes=self.accelerator.num_processes,
            clips_per_device=self.options.clips_per_device,
        )

    def describe(
        self, model: nn.Module, plan: StepPlan, schedule: Schedule, summary: Mapping[str, Any]
    ) -> dict[str, Any]:
        """What the recipe comes to on this data and these devices: printed, and returned for the records."""
        recipe = self.recipe
        total = sum(parameter.numel() for parameter in model.parameters())
        trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        decay = getattr(recipe, "layer_decay", None)
        facts = {
            "recipe": recipe.name,
            "model": recipe.model,
            "parameters": total if trained == total else f"{total} ({trained} trained)",
            **summary,
            "clips a step": f"{plan.clips_per_step} ({plan.clips_per_device} a device x {plan.processes} processes x "
            f"{plan.accumulation} micro-batches)",
            "samples of a clip": getattr(recipe, "num_samples", 1),
            "steps": f"{plan.total_steps} ({plan.steps_per_epoch} an epoch, {schedule.warmup_steps} of warm-up)",
            "learning rate": f"{schedule.peak_lr:g} to {schedule.final_lr:g} ({recipe.base_lr:g} and {recipe.min_lr:g} "
            f"for {recipe.lr_batch} clips)" + (f", layer decay {decay:g}" if decay is not None else ""),
            **engines.describe(self.accelerator),
            "workers": self.workers,
        }
        self.say("\n".join(f"{name:>28}  {value}" for name, value in facts.items()))
        return facts

    def open_run(self) -> Run:
        """Claim --output in the main process; every process gets the same answer, or the same error."""
        options = self.options
        return engines.share(
            self.accelerator, lambda: open_run(options.output, self.recipe, resume=options.resume, say=self.say)
        )

    def prepare(self, model: PreTrainedModel) -> tuple[nn.Module, torch.optim.Optimizer]:
        """Model, in training mode, and optimizer as the engine wants them; both may come back wrapped."""
        if self.options.compile:
            model.compile()
        if self.recipe.gradient_checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": False})
        return engines.prepare(self.accelerator, model.train(), build_optimizer(model, self.recipe))

    def end(self, exit_code: int = 0) -> int:
        """Close trackers and processes; returns the exit code."""
        self.accelerator.end_training()
        return exit_code


def named_data(options: RunOptions, path: str) -> dict[str, str]:
    """What the records of a run call its data; of the form owner/name it is the data set's name on the Hub too."""
    name = options.dataset_name or Path(path).name
    return {"name": name, **({"dataset_id": name} if re.fullmatch(r"[\w.-]+/[\w.-]+", name) else {})}


@contextlib.contextmanager
def explained_broken_videos() -> Iterator[None]:
    """Too many broken videos as one sentence: a worker's error carries its traceback in the message."""
    try:
        yield
    except BrokenVideosError as error:
        raise ValueError(str(error).strip().splitlines()[-1]) from error
