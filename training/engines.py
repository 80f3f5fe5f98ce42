"""Accelerate and what stands behind it: one process, DDP, FSDP2, DeepSpeed.

The traps that stay silent are errors here: a run that asks for FSDP or DeepSpeed and does not get it, a launch of several
processes that are each alone. What is sharded is listed once (`blocks_to_shard`), for Accelerate and for tests alike.
"""

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedType, GradScalerKwargs, broadcast_object_list
from torch import nn

from videomae.modeling_videomae import VideoMAELayer
from videomae.training import optimisation
from videomae.training.batches import StepPlan
from videomae.training.checkpoints import (
    SHARDED,
    check_same_model,
    load_checkpoint,
    read_state,
    save_checkpoint,
    write_checkpoint,
)
from videomae.training.optimisation import Ema
from videomae.training.options import RunOptions
from videomae.training.recipes import Recipe


def start_accelerator(options: RunOptions) -> Accelerator:
    """The Accelerator of this process, with precision and engine checked; trackers write below the run's folder."""
    accelerator = Accelerator(
        cpu=not torch.accelerator.is_available(),  # several processes on a CPU join only where this is said
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
    for variable, wanted in (
        ("ACCELERATE_USE_FSDP", DistributedType.FSDP),
        ("ACCELERATE_USE_DEEPSPEED", DistributedType.DEEPSPEED),
    ):
        if os.environ.get(variable, "false").lower() == "true" and kind != wanted:
            raise ValueError(
                f"the launch asks for {wanted.value} and the run would go on with {kind.value}, in full copies on every "
                "device; it needs accelerators and more than one process (on a CPU Accelerate ignores it)"
            )
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world != accelerator.num_processes:
        raise ValueError(
            f"the launch started {world} processes, and each of them is one of {accelerator.num_processes}; on CPUs start "
            "with `torchrun --nproc_per_node N` (accelerate launch --cpu starts one process)"
        )


def check_recipe(accelerator: Accelerator, recipe: Recipe) -> None:
    """Raise for what a recipe asks and the engine would leave out without a word."""
    if accelerator.distributed_type != DistributedType.DEEPSPEED:
        return
    # DeepSpeed keeps its own weights and steps inside backward: no place to average, nor to hold the encoder still.
    for name in ("ema_decay", "probe_epochs"):
        if getattr(recipe, name, None):
            raise ValueError(
                f"{name} {getattr(recipe, name)} does not work under DeepSpeed; use DDP or FSDP, or leave it out"
            )


def blocks_to_shard(model: nn.Module) -> list[nn.Module]:
    """The modules that FSDP gathers one at a time: every transformer block, of the encoder and of a decoder."""
    return [module for module in model.modules() if isinstance(module, VideoMAELayer)]


def shard(model: nn.Module, mesh: Any = None) -> nn.Module:
    """FSDP2 as Accelerate applies it: each block, then the rest as one unit."""
    from torch.distributed.fsdp import fully_shard

    for block in blocks_to_shard(model):
        fully_shard(block, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def prepare(
    accelerator: Accelerator, model: nn.Module, optimizer: torch.optim.Optimizer, plan: StepPlan
) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Hand model and optimizer to the engine; both may come back wrapped."""
    if accelerator.distributed_type == DistributedType.FSDP:
        plugin = accelerator.state.fsdp_plugin
        plugin.transformer_cls_names_to_wrap = sorted({type(block).__name__ for block in blocks_to_shard(model)})
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        settings = accelerator.state.deepspeed_plugin.deepspeed_config
        settings["train_micro_batch_size_per_gpu"] = plan.clips_per_device
        settings["gradient_accumulation_steps"] = plan.accumulation
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
    return accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED)


def idle_clip(accelerator: Accelerator, model: nn.Module) -> torch.Tensor:
    """A clip of zeros, for a process that has no video left while others still need its share of the weights."""
    config = accelerator.unwrap_model(model).config
    return torch.zeros(1, config.num_frames, config.num_channels, *config.image_hw, device=accelerator.device)


def on_device(batch: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """Tensors moved without waiting; counts stay numbers, so that the model never looks into a mask."""
    return {
        name: value.to(device, non_blocking=True) if isinstance(value, torch.Tensor) else value
        for name, value in batch.items()
        if name != "sources"
    }


def gradient_norm(accelerator: Accelerator, model: nn.Module, max_norm: float | None) -> torch.Tensor:
    """Norm of the step's gradient, clipped where a bound is given; DeepSpeed has clipped it by its own settings."""
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        norm = model.get_global_grad_norm()
        return torch.as_tensor(0.0 if norm is None else norm, device=accelerator.device)
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


def any_process(accelerator: Accelerator, flag: bool) -> bool:
    """Whether the flag is set in any process. All processes must ask together."""
    if accelerator.num_processes == 1:
        return flag
    flags = torch.tensor([float(flag)], device=accelerator.device)
    return bool(accelerator.reduce(flags, reduction="sum").item() > 0)


def asked_to_stop(accelerator: Accelerator, interrupted: bool, at_a_line: bool) -> bool:
    """Whether to write a checkpoint and end. Processes must agree, which is a wait; they ask when a line is one anyway."""
    return (at_a_line or accelerator.num_processes == 1) and any_process(accelerator, interrupted)


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
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        _save_deepspeed(accelerator, run, state, model, write_more)
    else:
        plain = accelerator.unwrap_model(model, keep_torch_compile=False)
        main = accelerator.is_main_process
        if accelerator.scaler is not None:
            state = {**state, "loss_scale": accelerator.scaler.state_dict()}
        more = {"ema": ema, "write_more": write_more, "main": main}
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
    if accelerator.distributed_type != DistributedType.DEEPSPEED:
        state = load_checkpoint(folder, model=plain, optimizer=optimizer, ema=ema)
        if accelerator.scaler is not None and state.get("loss_scale"):
            accelerator.scaler.load_state_dict(state["loss_scale"])
        return state
    if not (folder / SHARDED).is_dir():
        raise ValueError(f"{folder} was not written under DeepSpeed; resume with the engine of that run")
    check_same_model(folder, plain)
    model.load_checkpoint(str(folder / SHARDED), tag="state")
    return read_state(folder)


def _save_deepspeed(accelerator: Accelerator, run: Path, state: dict[str, Any], model: nn.Module, write_more) -> None:
    """DeepSpeed writes its own files, one a process, into the folder that the main process opens and closes."""
    plain = accelerator.unwrap_model(model)
    weights = accelerator.get_state_dict(model)

    def write_together(folder: Path | None) -> None:
        folder = Path(share(accelerator, lambda: str(folder)))
        model.save_checkpoint(str(folder / SHARDED), tag="state")
        accelerator.wait_for_everyone()

    if not accelerator.is_main_process:
        write_together(None)
        return
    writers = [write_together, lambda folder: plain.save_pretrained(folder, state_dict=weights)]
    write_checkpoint(run, state, writers + ([write_more] if write_more else []))


def cap_loss_scale(accelerator: Accelerator, largest: float) -> None:
    """fp16: torch's scaler doubles without end while nothing overflows; past 2^24 or so it only breeds infinities.

    Asked at log lines only: the scale doubles once in 2000 steps, and reading it waits for the device.
    """
    if accelerator.scaler is not None and accelerator.scaler.get_scale() > largest:
        accelerator.scaler.update(new_scale=largest)
