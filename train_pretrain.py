"""Pre-train VideoMAE (tube mask) or VideoMAE V2 (dual masking).

    videomae pretrain --recipe tiny --data VIDEOS --output runs/tiny
    videomae pretrain --data VIDEOS --output runs/tiny --resume auto           # goes on after any end
    accelerate launch train_pretrain.py --recipe v1-base-k400 --data train.csv --output runs/base --clips_per_device 32
    torchrun --nproc_per_node 2 train_pretrain.py --recipe tiny ...            # also how several CPU processes start

A recipe (training/recipes.py) says what is trained; the options say where. `train` reads downwards: data, model,
optimizer, resume, steps, save; `training_step` is the step. After SIGTERM or SIGUSR1 a checkpoint is written and the
exit code is 75. What the files of a run are stands in training/runs.py and training/checkpoints.py.
"""

import contextlib
import math
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from transformers.utils import logging as transformers_logging

from videomae.command_line import guarded, plain
from videomae.configuration_videomae import PRESETS, VideoMAEConfig
from videomae.data.collators import PretrainCollator
from videomae.data.lists.layouts import open_manifest
from videomae.data.transforms import PretrainTransform
from videomae.data.video_dataset import BrokenVideosError, VideoDataset
from videomae.masking_videomae import make_mask
from videomae.model_cards.run_cards import write_run_card
from videomae.modeling_videomae import VideoMAEForPreTraining
from videomae.models import open_config
from videomae.pictures.drawing import grid_picture
from videomae.pictures.reconstruction import reconstruct
from videomae.sampling_videomae import ClipSampling
from videomae.training import engines
from videomae.training.batches import MicroBatches, StepPlan, default_workers, seed_step, step_batches
from videomae.training.checkpoints import prune
from videomae.training.optimisation import Ema, Schedule, build_optimizer, set_rates, step_unless, warmup
from videomae.training.options import PRETRAIN, PretrainOptions, read_arguments
from videomae.training.progress import Log, Meter, peak_memory_gib, say
from videomae.training.recipes import PretrainRecipe
from videomae.training.runs import (
    EXIT_INTERRUPTED,
    check_same_data,
    interruptible,
    open_run,
    record_start,
    rewind_log,
)
from videomae.video_processing_videomae import VideoMAEVideoProcessor

# ---------------------------------------------------------------------------------------------------------- the step


def training_step(
    accelerator: Accelerator,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: MicroBatches | Sequence[Mapping[str, Any]],
    *,
    lr: float,
    weight_decay: float,
    clip_grad_norm: float | None = None,
    **forward: Any,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """One optimizer step over micro-batches: (loss of this process, gradient norm, whether the step was skipped).

    All three stay on the device; nothing here waits for it. `forward` goes to the model with every batch.
    """
    set_rates(optimizer, lr=lr, weight_decay=weight_decay)
    loss = torch.zeros((), device=accelerator.device)
    for number, batch in enumerate(batches, start=1):
        accelerator.sync_gradients = number == len(batches)
        with contextlib.nullcontext() if accelerator.sync_gradients else accelerator.no_sync(model):
            part = model(**engines.on_device(batch, accelerator.device), **forward).loss / len(batches)
            accelerator.backward(part)
        loss += part.detach()
    norm = engines.gradient_norm(accelerator, model, clip_grad_norm)
    bad = ~norm.isfinite()  # the norm is the same in every process, so all skip the step or none
    step_unless(bad, optimizer)
    optimizer.zero_grad()
    return loss, norm, bad


# ----------------------------------------------------------------------------------------------------------- the run


def train(recipe: PretrainRecipe, options: PretrainOptions) -> int:
    """Run a training to its end; returns the exit code."""
    transformers_logging.disable_progress_bar()
    accelerator = engines.start_accelerator(options)
    engines.check_recipe(accelerator, recipe)
    tell = say if accelerator.is_main_process else lambda text: None

    model = build_model(recipe, tell)
    grid = token_grid(recipe, model.config)
    check_masks(recipe, grid)
    data = build_data(recipe, options, model.config, grid)
    plan = StepPlan.of(
        recipe,
        num_clips=len(data.dataset),
        processes=accelerator.num_processes,
        clips_per_device=options.clips_per_device,
    )
    schedule = Schedule.of(recipe, plan.steps_per_epoch)
    workers = default_workers() if options.num_workers is None else options.num_workers
    effective = summary(recipe, model, plan, schedule, grid) | engines.describe(accelerator) | {"workers": workers}
    tell("\n".join(f"{name:>28}  {value}" for name, value in effective.items()))

    run = None  # a dry run writes nothing
    if not options.dry_run:
        run = engines.share(accelerator, lambda: open_run(options.output, recipe, resume=options.resume, say=tell))
    if options.compile:
        model.compile()
    if recipe.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    model.train()
    model, optimizer = engines.prepare(accelerator, model, build_optimizer(model, recipe), plan)
    plain_model = accelerator.unwrap_model(model)
    ema = Ema(plain_model, recipe.ema_decay) if recipe.ema_decay else None
    meter = Meter(accelerator, max_bad_steps=options.max_bad_steps)

    first_step = 0
    if run and run.resume_from:
        state = engines.load(accelerator, run.resume_from, model=model, optimizer=optimizer, ema=ema)
        check_same_data(state["data"], data.facts)
        first_step = state["step"]
        meter.restore(state["meter"])
        tell(f"going on from {run.resume_from}")
    last_step = min(plan.total_steps, options.max_steps or plan.total_steps)
    if options.dry_run:
        last_step = 1
    if run and accelerator.is_main_process:
        rewind_log(run.log, first_step)
        record_start(run.folder, options=options, effective=effective, data=data.facts, step=first_step)
    if run:
        engines.start_trackers(accelerator, effective)
    log = Log(accelerator, run.log if run else None, total_steps=last_step, first_step=first_step)

    def save(done: int) -> None:
        engines.save(
            accelerator,
            run.folder,
            state={"step": done, "meter": meter.state(), "data": data.facts},
            model=model,
            optimizer=optimizer,
            ema=ema,
            write_more=lambda folder: write_model_files(folder, recipe, data, plan, done, run.log),
        )
        if accelerator.is_main_process:
            prune(run.folder, keep_last=options.keep_last, keep_every=options.keep_every)

    samples = (
        data.collate([data.dataset[index] for index in range(min(2, len(data.dataset)))])
        if options.picture_every
        else None
    )
    steps = step_batches(
        data.dataset,
        data.collate,
        plan,
        seed=recipe.seed,
        first_step=first_step,
        last_step=last_step,
        rank=accelerator.process_index,
        num_workers=workers,
        pin_memory=accelerator.device.type == "cuda",
    )
    with interruptible() as interruption, engines.explained_out_of_memory(recipe, plan), log:
        for step, batches in steps:
            seed_step(recipe.seed, step, accelerator.process_index)
            lr = schedule.lr_at(step)
            loss, norm, bad = training_step(
                accelerator,
                model,
                optimizer,
                batches,
                lr=lr,
                weight_decay=schedule.weight_decay_at(step),
                clip_grad_norm=recipe.clip_grad_norm,
                **data.forward,
            )
            if ema:
                ema.update(plain_model)
            meter.add(step, loss=loss, norm=norm, bad=bad, batches=batches, clips=plan.clips_per_step)
            done = step + 1
            log.advance()

            at_a_line = done % options.log_every == 0 or done == last_step
            if at_a_line:
                line = {"epoch": round(done / plan.steps_per_epoch, 4), "lr": lr, **meter.take()}
                log.line(done, line | {"broken_videos": len(data.dataset.broken)})
                engines.cap_loss_scale(accelerator, options.max_loss_scale)
            stop = engines.asked_to_stop(accelerator, bool(interruption), at_a_line)
            if run and (done % options.save_every == 0 or done == last_step or stop):
                save(done)
            if run and options.picture_every and done % (options.picture_every * plan.steps_per_epoch) == 0:
                draw(run.folder / "pictures" / f"step-{done}.png", accelerator, plain_model, samples, **data.forward)
            if stop and done < last_step:
                tell(f"{interruption.signal}: checkpoint-{done} written; go on with --resume auto")
                return EXIT_INTERRUPTED
    if options.dry_run:
        tell(
            f"dry run: one step done, at most {peak_memory_gib(accelerator.device):.2f} GiB in use; nothing was written"
        )
    accelerator.end_training()
    return 0


# -------------------------------------------------------------------------------------------------- model, masks, data


def build_model(recipe: PretrainRecipe, tell=say) -> VideoMAEForPreTraining:
    """A fresh model of a preset, or the one in a folder (ours, transformers' or converted), to go on with."""
    fields = dict(recipe.config)
    if recipe.model in PRESETS:
        fields |= {
            "image_size": recipe.image_size,
            "num_frames": recipe.num_frames,
            "norm_pix_loss": recipe.norm_pix_loss,
        }
        config = VideoMAEConfig.preset(recipe.model, head="pretrain", version=recipe.version, **fields)
        torch.manual_seed(recipe.seed)
        return VideoMAEForPreTraining(config)
    if recipe.model.endswith((".pth", ".pt", ".bin")):
        raise ValueError(
            f"--model {recipe.model} is a released file; `videomae convert {recipe.model} FOLDER` makes the folder to give"
        )
    config = open_config(recipe.model)
    differing = [
        f"{name}: recipe {value!r}, folder {getattr(config, name, None)!r}"
        for name, value in fields.items()
        if getattr(config, name, None) != value
    ]
    if differing:
        raise ValueError(
            f"--model {recipe.model} is not the model that the recipe describes ({'; '.join(differing)}); "
            "choose the recipe of its size, or drop the recipe's own fields with an empty --config"
        )
    model, report = VideoMAEForPreTraining.from_pretrained(
        recipe.model, dtype=torch.float32, norm_pix_loss=recipe.norm_pix_loss, output_loading_info=True
    )
    if report["missing_keys"]:
        names = sorted(report["missing_keys"])
        tell(f"{recipe.model} has no weights for {len(names)} tensors ({names[0]}, ...): they start afresh")
    return model


def token_grid(recipe: PretrainRecipe, config: VideoMAEConfig) -> tuple[int, int, int]:
    """(t, h, w) of the clips of the recipe's size, which may differ from the size in a model folder."""
    clip = VideoMAEConfig(
        image_size=recipe.image_size,
        num_frames=recipe.num_frames,
        patch_size=config.patch_size,
        tubelet_size=config.tubelet_size,
    )
    clip.check_buildable()
    return clip.grid


def check_masks(recipe: PretrainRecipe, grid: tuple[int, int, int]) -> None:
    """Draw the recipe's masks once: a ratio that leaves nothing to see, or nothing to rebuild, ends here."""
    generator = torch.Generator().manual_seed(recipe.seed)
    masked = make_mask(recipe.mask, grid, recipe.mask_ratio, generator)
    for what, count in (("visible", (~masked).sum()), ("hidden", masked.sum())):
        if count == 0:
            raise ValueError(
                f"mask_ratio {recipe.mask_ratio} with a {recipe.mask} mask leaves no token {what} in a grid of "
                f"{' x '.join(map(str, grid))}; the published ratios are 0.75 and 0.9"
            )
    if recipe.decoder_mask:
        left_out = make_mask(recipe.decoder_mask, grid, recipe.decoder_mask_ratio, generator)
        if not (masked & ~left_out).any():
            raise ValueError(
                f"decoder_mask_ratio {recipe.decoder_mask_ratio} leaves out every hidden token, so nothing would be "
                "rebuilt; lower it (published: 0.5)"
            )


@dataclass(frozen=True)
class PretrainData:
    """The clips, what makes batches of them, what the model's forward needs to know, and facts for the records."""

    dataset: VideoDataset
    collate: PretrainCollator
    forward: dict[str, Any]
    facts: dict[str, Any]


def build_data(
    recipe: PretrainRecipe, options: PretrainOptions, config: VideoMAEConfig, grid: tuple[int, int, int]
) -> PretrainData:
    if not options.data:
        raise ValueError("--data is missing: a folder of videos or a list; `videomae demo` makes a small synthetic set")
    manifest = open_manifest(options.data, root=options.data_root)
    if len(manifest) == 0:
        raise ValueError(f"--data {options.data} has no videos")
    dataset = VideoDataset(
        manifest,
        mode="pretrain",
        sampling=ClipSampling(num_frames=recipe.num_frames, stride_frames=recipe.stride_frames),
        transform=PretrainTransform(size=recipe.image_size, scales=recipe.crop_scales, flip=recipe.flip),
        num_samples=recipe.num_samples,
        seed=recipe.seed,
        half_rate_sources=recipe.half_rate_sources,
        max_broken=options.max_broken,
    )
    mean, std = config.pixel_statistics
    collate = PretrainCollator(
        grid,
        mask=recipe.mask,
        mask_ratio=recipe.mask_ratio,
        decoder_mask=recipe.decoder_mask,
        decoder_mask_ratio=recipe.decoder_mask_ratio,
        mean=mean,
        std=std,
    )
    facts = {"name": Path(options.data).name, "clips": len(manifest), "manifest_sha256": manifest.sha256()}
    forward = {"interpolate_pos_encoding": True} if grid != config.grid else {}
    return PretrainData(dataset, collate, forward, facts)


# -------------------------------------------------------------------------------------------------- records and looks


def summary(
    recipe: PretrainRecipe, model: torch.nn.Module, plan: StepPlan, schedule: Schedule, grid: tuple[int, int, int]
) -> dict[str, Any]:
    """What the recipe comes to on this data and these devices; printed before the first step and kept in run.json."""
    tokens = math.prod(grid)
    hidden = int(make_mask(recipe.mask, grid, recipe.mask_ratio, torch.Generator().manual_seed(0)).sum())
    decoded = hidden
    if recipe.decoder_mask:
        left_out = make_mask(recipe.decoder_mask, grid, recipe.decoder_mask_ratio, torch.Generator().manual_seed(0))
        decoded = int((~left_out).sum())
    return {
        "recipe": recipe.name,
        "model": recipe.model,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "token grid (t, h, w)": " x ".join(map(str, grid)),
        "visible tokens": f"{tokens - hidden} of {tokens}",
        "decoded tokens": decoded,
        "videos": plan.num_clips,
        "clips a step": f"{plan.clips_per_step} ({plan.clips_per_device} a device x {plan.processes} processes x "
        f"{plan.accumulation} micro-batches)",
        "samples of a clip": recipe.num_samples,
        "steps": f"{plan.total_steps} ({plan.steps_per_epoch} an epoch, {schedule.warmup_steps} of warm-up)",
        "learning rate": f"{schedule.peak_lr:g} to {schedule.final_lr:g} "
        f"({recipe.base_lr:g} and {recipe.min_lr:g} for {recipe.lr_batch} clips)",
    }


def write_model_files(
    folder: Path, recipe: PretrainRecipe, data: PretrainData, plan: StepPlan, steps: int, log: Path
) -> None:
    """What makes a checkpoint a model that others can use: its processor and its card."""
    processor = VideoMAEVideoProcessor(
        size={"shortest_edge": recipe.image_size},
        crop_size={"height": recipe.image_size, "width": recipe.image_size},
        image_mean=list(data.collate.mean),
        image_std=list(data.collate.std),
        sampling=data.dataset.sampling,
    )
    processor.save_pretrained(folder)
    write_run_card(
        folder,
        task="pretrain",
        recipe=plain(recipe),
        clips_per_step=plan.clips_per_step,
        steps=steps,
        data=data.facts,
        log=log,
        base_model=recipe.model,
        command=shlex.join(sys.argv),
    )


def draw(
    path: Path, accelerator: Accelerator, model: torch.nn.Module, samples: Mapping[str, Any], **forward: Any
) -> None:
    """Save a picture of samples: the clip, what the encoder sees of it, and what comes out, without a leak."""
    rows, notes = [], {}
    for pixels, mask in zip(samples["pixel_values"], samples["bool_masked_pos"]):
        made = reconstruct(model, pixels.to(accelerator.device), mask.to(accelerator.device), **forward)
        rows += [("input", made.input()), ("seen", made.seen()), ("rebuilt", made.output("nearby"))]
        notes[made.note("nearby")] = None
    if accelerator.is_main_process:
        path.parent.mkdir(parents=True, exist_ok=True)
        grid_picture(rows, notes=list(notes)).save(path)


# ----------------------------------------------------------------------------------------------------------- overfit

OVERFIT_STEPS, OVERFIT_WARMUP, OVERFIT_LR = 600, 20, 1e-3
OVERFIT_GOAL = 0.35  # of normalised pixels, where a constant prediction has a loss of 1


def overfit(recipe: PretrainRecipe, options: PretrainOptions) -> int:
    """Learn a few fixed samples by heart. A path that is whole gets there; one with a broken link stays near 1."""
    transformers_logging.disable_progress_bar()
    accelerator = engines.start_accelerator(options)
    model = build_model(recipe)
    grid = token_grid(recipe, model.config)
    check_masks(recipe, grid)
    data = build_data(recipe, options, model.config, grid)
    if options.overfit > len(data.dataset):
        raise ValueError(f"--overfit {options.overfit} is more than the {len(data.dataset)} videos of --data")
    batch = data.collate([data.dataset[index] for index in range(options.overfit)])
    model, optimizer = accelerator.prepare(model, build_optimizer(model.train(), recipe))
    for step in range(OVERFIT_STEPS):
        lr = warmup(min(step, OVERFIT_WARMUP - 1), OVERFIT_WARMUP, 0.0, OVERFIT_LR)
        loss, _, _ = training_step(accelerator, model, optimizer, [batch], lr=lr, weight_decay=0.0, **data.forward)
        if step % 20 == 0 or step == OVERFIT_STEPS - 1:
            say(f"step {step}: loss {loss.item():.4f}")
            if loss.item() < OVERFIT_GOAL:
                say(f"{options.overfit} samples learnt by heart in {step} steps: the path from file to weights works")
                return 0
    raise ValueError(
        f"after {OVERFIT_STEPS} steps on the same {options.overfit} samples the loss is {loss.item():.3f}, above "
        f"{OVERFIT_GOAL}; look at the clips (--picture_every 1), the masks and --norm_pix_loss, or try fewer samples"
    )


# ------------------------------------------------------------------------------------------------------ command line


def main(argv: list[str] | None = None) -> int:
    recipe, options, *_ = read_arguments(PRETRAIN, argv)
    try:
        return overfit(recipe, options) if options.overfit else train(recipe, options)
    except BrokenVideosError as error:
        raise ValueError(str(error).strip().splitlines()[-1]) from error


if __name__ == "__main__":
    sys.exit(guarded("videomae pretrain", main, sys.argv[1:]))
