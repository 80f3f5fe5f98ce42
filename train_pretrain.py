"""Pre-train VideoMAE (tube mask) or VideoMAE V2 (dual masking).

    videomae pretrain --recipe tiny --data VIDEOS --output runs/tiny
    videomae pretrain --output runs/tiny --resume auto                         # resumes after any interruption
    videomae pretrain --recipe tiny --targets latent --teacher runs/tiny/final --mask blocks --data VIDEOS --output runs/latent
    accelerate launch train_pretrain.py --recipe v1-base-k400 --data train.csv --output runs/base --clips_per_device 32
    torchrun --nproc_per_node 2 train_pretrain.py --recipe tiny ...            # also how several CPU processes start

A recipe (training/recipes.py) says what is trained; the options say where. `train` reads downwards: data, model, loop.
The optimizer step and everything that all trainings share (resume, log, save, stop) is in training/loop.py. After
SIGTERM, SIGUSR1 or a Ctrl-C a checkpoint is written and the exit code is 75; what the files of a run are is in
training/runs.py and training/checkpoints.py.
"""

import dataclasses
import functools
import math
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from videomae.command_line import guarded, plain
from videomae.configuration_videomae import PRESETS, VideoMAEConfig
from videomae.data.check import refuse_broken
from videomae.data.collators import PretrainCollator
from videomae.data.lists.layouts import open_manifest
from videomae.data.on_device import finish
from videomae.data.remote import use_cache
from videomae.data.transforms import PretrainTransform
from videomae.data.video_dataset import VideoDataset
from videomae.files import final_name, new_file
from videomae.masking_videomae import make_mask, masks_of
from videomae.model_cards.run_cards import write_run_card
from videomae.modeling_videomae import VideoMAEForPreTraining
from videomae.models import load_with_report, open_config, weights_sha256
from videomae.pictures.drawing import grid_picture
from videomae.pictures.reconstruction import reconstruct
from videomae.sampling_videomae import ClipSampling
from videomae.training.batches import StepPlan
from videomae.training.forecast import dry_run
from videomae.training.latent import LatentConfig, LatentStudent, LatentTeacher, latent_loss, save_encoder
from videomae.training.loop import Loop, Loss, Parts, model_loss, overfit, save_whole
from videomae.training.options import PRETRAIN, PretrainOptions, read_arguments
from videomae.training.progress import say
from videomae.training.recipes import PretrainRecipe
from videomae.training.runs import FINAL
from videomae.training.session import Session, explained_broken_videos, named_data
from videomae.video_processing_videomae import VideoMAEVideoProcessor

# ----------------------------------------------------------------------------------------------------------- the run


def train(recipe: PretrainRecipe, options: PretrainOptions) -> int:
    """Run a training to its end; returns the exit code."""
    session = Session(recipe, options)
    model, data = build_model_and_data(recipe, options, session)
    refuse_broken(data.dataset.manifest, max_broken=options.max_broken, errors=options.errors)
    plan = session.plan(len(data.dataset))
    parts = Parts(
        model=model,
        dataset=data.dataset,
        collate=data.collate,
        facts=data.facts,
        summary=summary(recipe, data.collate.grid, plan),
        write_files=lambda folder, steps: write_model_files(folder, session, data, plan, steps),
        loss=data.loss,
        save=save_encoder if data.teacher else save_whole,
    )
    if options.dry_run:
        return dry_run(session, plan, parts)
    samples = finish(data.batch(2)) if options.picture_every else {}
    with Loop(session, plan, parts) as loop:
        for done in loop:
            if loop.every_epochs(options.picture_every):
                draw(
                    loop.run.folder / "pictures" / f"step-{done}.png", session, loop.plain_model, samples, data.forward
                )
    return session.end(loop.exit_code)


OVERFIT_STEPS = 600
OVERFIT_GOAL = 0.35  # of normalised pixels, where a constant prediction has a loss of 1


def overfit_samples(recipe: PretrainRecipe, options: PretrainOptions) -> int:
    """A test of the whole path from files to weights on a few fixed samples; writes nothing."""
    session = Session(recipe, options)
    model, data = build_model_and_data(recipe, options, session)
    if options.overfit > len(data.dataset):
        raise ValueError(f"--overfit {options.overfit} is more than the {len(data.dataset)} videos of --data")
    return overfit(
        session,
        model,
        data.batch(options.overfit),
        data.loss,
        what=f"{options.overfit} samples",
        steps=OVERFIT_STEPS,
        goal=OVERFIT_GOAL,
        advice=(
            "the masks and the teacher"
            if data.teacher
            else "the clips (--picture_every 1), the masks and --norm_pix_loss"
        )
        + ", or try fewer samples",
    )


def build_model_and_data(
    recipe: PretrainRecipe, options: PretrainOptions, session: Session
) -> tuple[VideoMAEForPreTraining, "PretrainData"]:
    check_targets(recipe, options)
    model = build_model(recipe, session.say)
    grid = token_grid(recipe, model.config)
    check_masks(recipe, grid)
    data = build_data(recipe, options, model.config, grid)
    if recipe.teacher is None:
        return model, data
    teacher = LatentTeacher(recipe.teacher, clip=clip_config(recipe, model.config), device=session.device)
    facts = {**data.facts, "teacher_sha256": weights_sha256(teacher.model)}
    return model, dataclasses.replace(data, teacher=teacher, facts=facts)


def check_targets(recipe: PretrainRecipe, options: PretrainOptions) -> None:
    """The options of latent targets belong together."""
    if recipe.targets == "latent" and not recipe.teacher:
        raise ValueError(
            "--targets latent needs --teacher FOLDER, a pre-trained encoder such as the `final` of another run"
        )
    if recipe.targets != "latent" and recipe.teacher:
        raise ValueError(f"--teacher {recipe.teacher} is for --targets latent; give both, or neither")
    if recipe.targets == "latent" and options.picture_every:
        raise ValueError("--picture_every draws predicted pixels, and --targets latent predicts none; leave it out")


# -------------------------------------------------------------------------------------------------- model, masks, data


def build_model(recipe: PretrainRecipe, say=say) -> VideoMAEForPreTraining:
    """A fresh model of a preset, or the one in a folder (ours, transformers' or converted).

    With latent targets its decoder ends in the teacher's width, and starts from new weights where the folder's does not.
    """
    fields, width = dict(recipe.config), {}
    model_class: Any = VideoMAEForPreTraining
    if recipe.teacher:
        model_class, width = LatentStudent, {"latent_size": open_config(recipe.teacher, "--teacher").hidden_size}
    if recipe.model in PRESETS:
        fields |= {
            "image_size": recipe.image_size,
            "num_frames": recipe.num_frames,
            "norm_pix_loss": recipe.norm_pix_loss,
            **width,
        }
        config = model_class.config_class.preset(recipe.model, head="pretrain", version=recipe.version, **fields)
        torch.manual_seed(recipe.seed)
        return model_class(config)
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
    loading: dict[str, Any] = {"norm_pix_loss": recipe.norm_pix_loss}
    if width:  # the folder may have a head for pixels; open_config has compared the other shapes
        loading = {"config": LatentConfig.from_dict({**config.to_dict(), **width}), "ignore_mismatched_sizes": True}
    elif getattr(config, "latent_size", 0):
        raise ValueError(
            f"--model {recipe.model} is a checkpoint with latent targets, whose decoder predicts no pixels; give the `final` "
            "folder of that run"
        )
    model, report = load_with_report(model_class, recipe.model, dtype=torch.float32, **loading)
    if names := sorted({*report["missing_keys"], *(name for name, *_ in report["mismatched_keys"])}):
        say(f"{recipe.model} has no weights for {len(names)} tensors ({names[0]}, ...): they start from new weights")
    return model


def token_grid(recipe: PretrainRecipe, config: VideoMAEConfig) -> tuple[int, int, int]:
    """(t, h, w) of the clips of the recipe's size, which may differ from the size in a model folder."""
    clip = clip_config(recipe, config)
    clip.check_buildable()
    return clip.grid


def clip_config(recipe: PretrainRecipe, config: VideoMAEConfig) -> VideoMAEConfig:
    """What the model sees in this run: clips of the recipe's size, in the patches of the model."""
    return VideoMAEConfig(
        image_size=recipe.image_size,
        num_frames=recipe.num_frames,
        num_channels=config.num_channels,
        patch_size=config.patch_size,
        tubelet_size=config.tubelet_size,
        pixel_mean=config.pixel_mean,
        pixel_std=config.pixel_std,
    )


def check_masks(recipe: PretrainRecipe, grid: tuple[int, int, int]) -> None:
    """Draw the recipe's masks once: a ratio that leaves nothing to see, or nothing to rebuild, ends here."""
    generator = torch.Generator().manual_seed(recipe.seed)
    masked = make_mask(masks_of(recipe.mask)[0], grid, recipe.mask_ratio, generator)  # all have the same count
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
    """The clips, what makes batches of them, what the model's forward needs to know, and facts for the records.

    teacher: the source of latent targets; without it the targets are pixels.
    """

    dataset: VideoDataset
    collate: PretrainCollator
    forward: dict[str, Any]
    facts: dict[str, Any]
    teacher: LatentTeacher | None = None

    @property
    def loss(self) -> Loss:
        if self.teacher is None:
            return functools.partial(model_loss, **self.forward)
        masks = len(masks_of(self.collate.mask))
        return functools.partial(latent_loss, teacher=self.teacher, masks=masks, **self.forward)

    def batch(self, count: int) -> dict[str, Any]:
        """A batch of the first clips, at most `count`."""
        return self.collate([self.dataset[index] for index in range(min(count, len(self.dataset)))])


def build_data(
    recipe: PretrainRecipe, options: PretrainOptions, config: VideoMAEConfig, grid: tuple[int, int, int]
) -> PretrainData:
    if not options.data:
        raise ValueError("--data is missing: a folder of videos or a list; `videomae demo` makes a small synthetic set")
    use_cache(options.cache_dir, options.cache_gib)
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
        errors=options.errors,
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
        as_bytes=True,
    )
    facts = {**named_data(options, options.data), "clips": len(manifest), "manifest_sha256": manifest.sha256()}
    forward = {"interpolate_pos_encoding": True} if grid != config.grid else {}
    return PretrainData(dataset, collate, forward, facts)


# -------------------------------------------------------------------------------------------------- records and looks


def summary(recipe: PretrainRecipe, grid: tuple[int, int, int], plan: StepPlan) -> dict[str, Any]:
    """What a user should know of the masks before the first step; also kept in run.json."""
    tokens = math.prod(grid)
    kinds = masks_of(recipe.mask)
    hidden = int(make_mask(kinds[0], grid, recipe.mask_ratio, torch.Generator().manual_seed(0)).sum())
    decoded = hidden
    if recipe.decoder_mask:
        left_out = make_mask(recipe.decoder_mask, grid, recipe.decoder_mask_ratio, torch.Generator().manual_seed(0))
        decoded = int((~left_out).sum())
    return {
        "token grid (t, h, w)": " x ".join(map(str, grid)),
        "visible tokens": f"{tokens - hidden} of {tokens}",
        "decoded tokens": decoded,
        **({"masks of a sample": len(kinds)} if len(kinds) > 1 else {}),
        **({"targets": f"latent, of {recipe.teacher}"} if recipe.teacher else {}),
        "videos": plan.num_clips,
    }


def write_model_files(folder: Path, session: Session, data: PretrainData, plan: StepPlan, steps: int) -> None:
    """What makes weights a model that others can use: its processor and its card."""
    recipe = session.recipe
    processor = VideoMAEVideoProcessor(
        size={"shortest_edge": recipe.image_size},
        crop_size={"height": recipe.image_size, "width": recipe.image_size},
        image_mean=list(data.collate.mean),
        image_std=list(data.collate.std),
        sampling=data.dataset.sampling,
    )
    processor.save_pretrained(folder)
    if data.teacher and final_name(folder) != FINAL:
        return  # a checkpoint of a student has a decoder that no class but the trainer's reads: there is nothing to publish
    write_run_card(
        folder,
        task="pretrain",
        recipe=plain(recipe),
        clips_per_step=plan.clips_per_step,
        steps=steps,
        data=data.facts,
        log=session.log,
        base_model=recipe.model,
        command=shlex.join(sys.argv),
    )


def draw(
    path: Path, session: Session, model: VideoMAEForPreTraining, samples: Mapping[str, Any], forward: Mapping[str, Any]
) -> None:
    """Save a picture of samples: the clip, what the encoder sees of it, and what comes out, without a leak."""
    rows, notes = [], {}
    for pixels, mask in zip(samples["pixel_values"], samples["bool_masked_pos"]):
        made = reconstruct(model, pixels.to(session.device), mask.to(session.device), **forward)
        rows += [("input", made.input()), ("seen", made.seen()), ("rebuilt", made.output("nearby"))]
        notes[made.note("nearby")] = None
    if session.accelerator.is_main_process:
        with new_file(path) as beside:
            grid_picture(rows, notes=list(notes)).save(beside, format="PNG")


# ------------------------------------------------------------------------------------------------------ command line


def main(argv: list[str] | None = None) -> int:
    recipe, options, *_ = read_arguments(PRETRAIN, argv)
    with explained_broken_videos():
        return overfit_samples(recipe, options) if options.overfit else train(recipe, options)


if __name__ == "__main__":
    sys.exit(guarded("videomae pretrain", main, sys.argv[1:]))
