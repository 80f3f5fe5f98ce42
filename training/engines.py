"""Accelerate and what stands behind it: one process, DDP, FSDP2.

The traps that stay silent are errors here: a run that asks for FSDP and does not get it, a launch of several processes
that are each alone. What is sharded is listed once (`blocks_to_shard`), for Accelerate and for tests alike.
"""

import contextlib
import ctypes
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import (
    DistributedType,
    FullyShardedDataParallelPlugin,
    GradScalerKwargs,
    broadcast_object_list,
)
from torch import nn

from videomae.data.on_device import finish
from videomae.modeling_videomae import VideoMAELayer
from videomae.training import optimisation
from videomae.training.batches import StepPlan
from videomae.training.checkpoints import load_checkpoint, save_checkpoint
from videomae.training.optimisation import Ema
from videomae.training.options import RunOptions
from videomae.training.recipes import Recipe

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h


def start_accelerator(options: RunOptions) -> Accelerator:
    """The Accelerator of this process, with precision and engine checked; trackers write below the run's folder."""
    if not torch.accelerator.is_available():
        keep_memory()
    accelerator = Accelerator(
        cpu=not torch.accelerator.is_available(),  # several processes on a CPU join only with this flag
        mixed_precision=precision(options.mixed_precision),
        log_with=list(options.trackers) or None,
        project_dir=options.output or None,
        kwargs_handlers=[GradScalerKwargs(init_scale=min(2.0**16, options.max_loss_scale))],
        step_scheduler_with_optimizer=False,
    )
    check_engine(accelerator)
    for name in options.trackers:  # Accelerate leaves out what is not installed without a word
        if name not in [str(tracker) for tracker in accelerator.log_with]:
            raise ValueError(f"--trackers {name}: its package is not installed; pip install {name}, or leave it out")
    return accelerator


def keep_memory() -> None:
    """Let the C library keep what is freed for the next step, in this process; nothing happens where it is not glibc.

    By itself glibc maps blocks above 32 MiB anew each time, and the kernel clears every page of them, a
    tenth of a step when it was timed (docs/decisions.md).
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(M_MMAP_MAX, 0)
    mallopt(M_TRIM_THRESHOLD, -1)


def start_trackers(accelerator: Accelerator, facts: Mapping[str, Any]) -> None:
    """Open the run in every tracker, with the facts as its configuration."""
    if accelerator.log_with:
        accelerator.init_trackers("videomae", config={name: str(value) for name, value in facts.items()})


def precision(asked: str) -> str:
    """ "auto" is bf16 on an accelerator that has it and full precision elsewhere, the CPU included."""
    if asked == "auto":
        return "bf16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "no"
    if asked == "fp16" and not (torch.cuda.is_available() or torch.backends.mps.is_available()):
        raise ValueError("mixed_precision fp16 needs an accelerator; on a CPU use bf16 or no")
    return asked


def check_engine(accelerator: Accelerator) -> None:
    """Raise where the launch asked for an engine, or for several processes, and this process has something else."""
    kind = accelerator.distributed_type
    if kind == DistributedType.DEEPSPEED or os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true":
        raise ValueError("DeepSpeed is not supported; shard with FSDP2 (examples/accelerate/fsdp2.yaml)")
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true" and kind != DistributedType.FSDP:
        raise ValueError(
            f"the launch asks for FSDP and the run would continue with {kind.value}, in full copies on every device; it needs "
            "accelerators and more than one process (on a CPU Accelerate ignores it)"
        )
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world != accelerator.num_processes:
        raise ValueError(
            f"the launch started {world} processes, and each of them is one of {accelerator.num_processes}; on CPUs start "
            "with `torchrun --nproc_per_node N` (accelerate launch --cpu starts one process)"
        )


def blocks_to_shard(model: nn.Module) -> list[nn.Module]:
    """The modules that FSDP gathers one at a time: every transformer block, of the encoder and of a decoder."""
    return [module for module in model.modules() if isinstance(module, VideoMAELayer)]


def prepare(
    accelerator: Accelerator, model: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Hand model and optimizer to the engine; both may come back wrapped."""
    if accelerator.distributed_type == DistributedType.FSDP:
        plugin = cast(FullyShardedDataParallelPlugin, accelerator.state.fsdp_plugin)  # not None under FSDP
        plugin.transformer_cls_names_to_wrap = sorted({type(block).__name__ for block in blocks_to_shard(model)})
    return accelerator.prepare(model, optimizer)


def describe(accelerator: Accelerator) -> dict[str, Any]:
    return {
        "processes": accelerator.num_processes,
        "engine": accelerator.distributed_type.value,
        "device": torch.cuda.get_device_name() if accelerator.device.type == "cuda" else accelerator.device.type,
        "precision": accelerator.mixed_precision,
    }


def is_sharded(accelerator: Accelerator) -> bool:
    """Whether every call of the model gathers its weights, so that all processes must call it equally often."""
    return accelerator.distributed_type == DistributedType.FSDP


def idle_clip(accelerator: Accelerator, model: nn.Module) -> torch.Tensor:
    """A clip of zeros, for a process that has no video left while others still need its share of the weights."""
    config = accelerator.unwrap_model(model).config
    return torch.zeros(1, config.num_frames, config.num_channels, *config.image_hw, device=accelerator.device)


def on_device(batch: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """Tensors moved without waiting, and bytes made into pixels there; counts stay numbers, so that no mask is looked into."""
    moved = {
        name: value.to(device, non_blocking=True) if isinstance(value, torch.Tensor) else value
        for name, value in batch.items()
        if name != "sources"
    }
    return dict(finish(moved))


def gradient_norm(accelerator: Accelerator, model: nn.Module, max_norm: float | None) -> torch.Tensor:
    """Norm of the step's gradient, clipped where a bound is given."""
    accelerator.unscale_gradients()
    return optimisation.gradient_norm(model.parameters(), max_norm)


@contextlib.contextmanager
def explained_out_of_memory(recipe: Recipe, plan: StepPlan) -> Iterator[None]:
    """Say once, instead of a traceback from inside an operator, what can be lowered without changing the result."""
    try:
        yield
    except (torch.OutOfMemoryError, RuntimeError) as error:
        if not isinstance(error, torch.OutOfMemoryError) and "allocate memory" not in str(error):
            raise
        advice = []
        if plan.clips_per_device > 1:
            advice.append(f"--clips_per_device {max(1, plan.clips_per_device // 2)} (more micro-batches, same result)")
        if not recipe.gradient_checkpointing:
            advice.append("--gradient_checkpointing (same result, more time)")
        advice.append("--mixed_precision bf16, or sharding (examples/accelerate/fsdp2.yaml)")
        raise ValueError(
            f"out of memory with {plan.clips_per_device} clips on a device at a time; try {'; or '.join(advice)}"
        ) from error


def share(accelerator: Accelerator | PartialState, make: Callable[[], Any]) -> Any:
    """Run `make` in the main process and give everyone its result, or its error."""
    if accelerator.num_processes == 1:
        return make()
    outcome: list[Any] = [None, None]
    if accelerator.is_main_process:
        try:
            outcome[0] = make()
        except (ValueError, TypeError, OSError) as error:
            outcome[1] = error
    broadcast_object_list(outcome)
    if outcome[1] is not None:
        raise outcome[1]
    return outcome[0]


def agreed(accelerator: Accelerator, *flags: bool, asking: bool = True) -> tuple[bool, ...]:
    """Each flag, true where it is so in any process; all false where nobody is `asking`. All processes must ask together.

    With several processes the answer is one wait for the device.
    """
    if not asking:
        return (False,) * len(flags)
    if accelerator.num_processes == 1:
        return flags
    mine = torch.tensor(flags, dtype=torch.float32, device=accelerator.device)
    counts = cast(torch.Tensor, accelerator.reduce(mine, reduction="sum"))
    return tuple(count > 0 for count in counts.tolist())


# ---------------------------------------------------------------------------------------------------- checkpoints


def save(
    accelerator: Accelerator,
    run: Path,
    *,
    state: dict[str, Any],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    ema: Ema | None = None,
    write_more: Callable[[Path], None] | None = None,
) -> None:
    """Write RUN/checkpoint-STEP under any engine; every process calls it, and leaves it together with the others."""
    plain = accelerator.unwrap_model(model, keep_torch_compile=False)
    if accelerator.scaler is not None:
        state = {**state, "loss_scale": accelerator.scaler.state_dict()}
    more = {"ema": ema, "write_more": write_more, "main": accelerator.is_main_process}
    save_checkpoint(run, state=state, model=plain, optimizer=optimizer, **more)
    accelerator.wait_for_everyone()


def load(
    accelerator: Accelerator,
    folder: Path,
    *,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    ema: Ema | None = None,
) -> dict[str, Any]:
    """Go on from a checkpoint whose hashes agree (`latest_checkpoint`), under any engine; returns its state."""
    plain = accelerator.unwrap_model(model, keep_torch_compile=False)
    state = load_checkpoint(folder, model=plain, optimizer=optimizer, ema=ema)
    if accelerator.scaler is not None and state.get("loss_scale"):
        accelerator.scaler.load_state_dict(state["loss_scale"])
    return state


def cap_loss_scale(accelerator: Accelerator, largest: float) -> None:
    """fp16: torch's scaler doubles without end while nothing overflows; beyond about 2^24 it only produces infinities.

    Asked at log lines only: the scale doubles once in 2000 steps, and reading it waits for the device.
    """
    if accelerator.scaler is not None and accelerator.scaler.get_scale() > largest:
        accelerator.scaler.update(new_scale=largest)
