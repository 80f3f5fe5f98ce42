"""Every published training run as data: pre-training, fine-tuning and detection, one frozen record each.

A recipe says what is trained and how, never on which machine: batch sizes are totals over all devices, and learning
rates are for a total batch of 256. Devices, paths and logging are options of the training scripts (options.py, which
also reads recipes from files and the command line). `videomae cards` writes docs/recipes.md from them.

Where a paper's table and the released script disagree, the script's value is used, since the released weights came
from it, and the record names both in `differs`. The few places where the script's value is not used say so there too;
tests/test_recipes.py compares every field with the flags that tests/golden/official_tables.py reads from the scripts.
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, TypeVar

from videomae.command_line import option

V1_PAPER = "VideoMAE, arXiv 2203.12602"
V2_PAPER = "VideoMAE V2, arXiv 2303.16727"
V1_SCRIPTS = "MCG-NJU/VideoMAE scripts"
V2_SCRIPTS = "OpenGVLab/VideoMAEv2 scripts"
AD_SCRIPTS = "MCG-NJU/VideoMAE-Action-Detection scripts"
SALT_PAPER = "SALT, arXiv 2509.24317"
VJEPA2_CONFIG = "facebookresearch/vjepa2 configs/train/vitl16/pretrain-256px-16f.yaml"
MM_CONFIGS = "open-mmlab/mmaction2 configs/detection/videomae"

R = TypeVar("R", bound="Recipe")
LR_BATCH = 256  # the total batch that published learning rates are quoted for


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What all trainings share: where the numbers come from, the model, and the optimisation."""

    kind: ClassVar[str] = ""

    name: str = option("custom", "recipe", "name of the run in logs and cards")
    source: str = option("", "recipe", "where the values come from", flag=False)
    differs: tuple[str, ...] = option(
        (), "recipe", "where paper, released script and its comments disagree", flag=False
    )

    model: str = option("base", "model", "a preset (small, base, large, huge, giant) or a model folder to start from")
    version: int = option(1, "model", "1 (VideoMAE) or 2 (VideoMAE V2: 4-layer decoders)", choices=(1, 2))
    image_size: int = option(224, "model", "height and width of a crop in pixels")
    num_frames: int = option(16, "model", "frames of a clip")
    config: Mapping[str, Any] = option({}, "model", "further VideoMAEConfig fields, as FIELD=VALUE ...")

    epochs: int = option(800, "optimisation", "passes over the data")
    warmup_epochs: float = option(5, "optimisation", "epochs of linear warm-up from 0")
    clips_per_step: int = option(
        256, "optimisation", "videos in one optimizer step, over all devices; augmented copies do not count"
    )
    base_lr: float = option(1e-3, "optimisation", "peak learning rate for lr_batch clips a step; scaled with the batch")
    min_lr: float = option(1e-6, "optimisation", "final learning rate for lr_batch clips a step; scaled likewise")
    betas: tuple[float, float] = option((0.9, 0.999), "optimisation", "AdamW's momenta")
    adam_eps: float = option(1e-8, "optimisation", "AdamW's epsilon")
    weight_decay: float = option(0.05, "optimisation", "weight decay of matrices; vectors and the mask token have none")
    weight_decay_end: float | None = option(None, "optimisation", "weight decay at the end (cosine from weight_decay)")
    lr_batch: int = option(LR_BATCH, "optimisation", "the clips a step that the learning rates are quoted for")
    clip_grad_norm: float | None = option(None, "optimisation", "largest norm of the whole gradient")
    ema_decay: float | None = option(None, "optimisation", "keep a moving average of the weights with this decay")
    gradient_checkpointing: bool = option(False, "optimisation", "recompute activations: less memory, more time")
    seed: int = option(0, "optimisation", "seed of clip order, crops, masks and initial weights")

    @property
    def peak_lr(self) -> float:
        """Learning rate after scaling with the batch."""
        return self.base_lr * self.clips_per_step / self.lr_batch

    @property
    def final_lr(self) -> float:
        return self.min_lr * self.clips_per_step / self.lr_batch


@dataclass(frozen=True, kw_only=True)
class PretrainRecipe(Recipe):
    """Masked pre-training, V1 (tube mask) or V2 (tube mask for the encoder, running cells for the decoder)."""

    kind: ClassVar[str] = "pre-training"

    dataset: str = option("K400", "data", "what the published run was trained on")
    stride_frames: int = option(4, "data", "frames between two frames of a clip")
    half_rate_sources: tuple[str, ...] = option(
        (), "data", "parts of paths whose folders of frames are stored at half the frame rate and take half the stride"
    )
    num_samples: int = option(1, "data", "crops with masks of their own from one decoded clip")
    crop_scales: tuple[float, ...] = option(
        (1.0, 0.875, 0.75, 0.66), "data", "multi-scale crop: shares of the short side"
    )
    flip: float = option(0.0, "data", "chance of a horizontal flip")

    mask: str = option(
        "tube",
        "masks",
        "what the encoder does not see; blocks: short and long blocks, two masks of each clip (V-JEPA)",
        choices=("tube", "random", "frame", "blocks", "short_blocks", "long_blocks"),
    )
    mask_ratio: float = option(0.9, "masks", "share hidden from the encoder")
    decoder_mask: str | None = option(
        None, "masks", "which positions the decoder leaves out (V2)", choices=(None, "running_cell")
    )
    decoder_mask_ratio: float = option(0.5, "masks", "share left out of the decoder")
    norm_pix_loss: bool = option(True, "masks", "normalise each patch's pixels before the loss")
    targets: str = option(
        "pixels",
        "targets",
        "what the decoder predicts of hidden tokens: pixels, or latent (what a frozen encoder makes of them)",
        choices=("pixels", "latent"),
    )
    teacher: str | None = option(None, "targets", "folder of that frozen encoder, pre-trained or fine-tuned")

    epochs: int = option(1600, "optimisation", "passes over the data")
    warmup_epochs: float = option(40, "optimisation", "epochs of linear warm-up from 0")
    base_lr: float = option(
        1.5e-4, "optimisation", "peak learning rate for lr_batch clips a step; scaled with the batch"
    )
    min_lr: float = option(1e-5, "optimisation", "final learning rate for lr_batch clips a step; scaled likewise")
    betas: tuple[float, float] = option((0.9, 0.95), "optimisation", "AdamW's momenta")


# What a label is, and what `problem_type` of the model it makes.
PROBLEMS = {"class": "single_label_classification", "multi": "multi_label_classification", "value": "regression"}


@dataclass(frozen=True, kw_only=True)
class FinetuneRecipe(Recipe):
    """Supervised fine-tuning of a classifier, and the views it is tested with."""

    kind: ClassVar[str] = "fine-tuning"

    start: str = option(
        "", "recipe", "the pre-training recipe (or fine-tuning) whose weights the published run started from"
    )
    dataset: str = option("K400", "data", "what the published run was trained on")
    num_labels: int | None = option(None, "data", "number of classes; None: from the data")

    sampling: str = option(
        "dense", "data", "dense (window of stride frames) or uniform (segments)", choices=("dense", "uniform")
    )
    stride_frames: int = option(4, "data", "frames between two frames of a dense clip")
    num_samples: int = option(2, "data", "augmented copies of one decoded clip (repeated augmentation)")
    test_clips: int = option(5, "data", "clips of a video in the final test")
    test_crops: int = option(3, "data", "crops of a clip in the final test")
    test_weights: str = option(
        "final",
        "data",
        "weights of the final test: those after the last epoch, as the papers report, or the best of the validation",
        choices=("final", "best"),
    )

    rand_augment: str | None = option(
        "rand-m7-n4-mstd0.5-inc1", "augmentation", "RandAugment string; none turns it off"
    )
    crop_area: tuple[float, float] = option((0.08, 1.0), "augmentation", "random resized crop: share of the area")
    crop_aspect: tuple[float, float] = option((3 / 4, 4 / 3), "augmentation", "random resized crop: aspect ratios")
    flip: float = option(0.5, "augmentation", "chance of a horizontal flip")
    erase: float = option(0.25, "augmentation", "chance of random erasing")
    erase_area: tuple[float, float] = option((0.02, 1 / 3), "augmentation", "random erasing: share of the area")
    mixup: float = option(0.8, "augmentation", "mixup alpha; 0 turns it off")
    cutmix: float = option(1.0, "augmentation", "cutmix alpha; 0 turns it off")
    mix_prob: float = option(1.0, "augmentation", "chance that a batch is mixed")
    mix_switch: float = option(0.5, "augmentation", "chance of cutmix where both are on")
    label_smoothing: float = option(0.1, "augmentation", "label smoothing")

    drop_path_rate: float = option(0.1, "model", "stochastic depth of the last block; grows linearly over the blocks")
    head_dropout_prob: float = option(0.0, "model", "dropout before the head")
    init_scale: float = option(0.001, "model", "factor on the head's initial weights")

    layer_decay: float | None = option(0.75, "optimisation", "learning-rate factor from each layer to the one below")
    epochs: int = option(100, "optimisation", "passes over the data")

    # For data of one's own; the published runs leave these alone.
    label_kind: str = option(
        "class", "data", "one class a video, several (a|b), or numbers to predict", choices=tuple(PROBLEMS)
    )
    class_weights: str = option(
        "none", "data", "balanced: rare classes weigh more in the loss", choices=("none", "balanced")
    )
    init_head_from: str = option(
        "auto",
        "model",
        "head: auto (keep it if the classes are the same), labels (rows by class name), fresh, or a label map (.json; "
        "label_710to400.json and label_710to600.json are known)",
    )
    freeze: str = option("none", "model", "what is not trained: none, encoder, or the first N blocks")
    lora_rank: int = option(0, "model", "train matrices of this rank beside query and value instead (needs peft)")
    probe_epochs: int = option(0, "optimisation", "epochs in which the head alone is trained, before the rest joins")
    teacher: str | None = option(None, "distillation", "folder of a classifier that scores the same clips")
    teacher_scores: str | None = option(
        None, "distillation", "instead of it: predictions.parquet of `videomae evaluate TEACHER TRAINING_LIST`"
    )
    temperature: float = option(1.0, "distillation", "softens teacher and student; 1 compares plain probabilities")
    teacher_weight: float = option(1.0, "distillation", "weight of the teacher's scores in the loss")
    label_weight: float = option(0.0, "distillation", "weight of the labels in the loss of a student")


@dataclass(frozen=True, kw_only=True)
class DetectionRecipe(Recipe):
    """Action detection on AVA: the encoder, boxes of persons, one score per class."""

    kind: ClassVar[str] = "detection"

    family: str = option(
        "videomae",
        "model",
        "which release: its head, boxes, sizes and pixel scaling",
        choices=("videomae", "mmaction2"),
    )
    start: str = option("", "recipe", "the recipe whose weights the published run started from")
    dataset: str = option("AVA v2.2", "data", "what the published run was trained on")

    num_labels: int = option(80, "data", "number of action classes")
    stride_frames: int = option(4, "data", "frames between two frames of the clip around a keyframe")
    frame_jitter: tuple[int, int] = option((0, 0), "data", "each training frame moves by a random count in this range")
    short_side: tuple[int, int] = option((256, 256), "data", "training: short side drawn from this range")
    test_short_side: int = option(256, "data", "test: short side of the whole frame")
    crop_size: int = option(224, "data", "training crop")
    flip: float = option(0.5, "data", "chance of a horizontal flip")
    color_jitter: tuple[float, float, float] = option((0.0, 0.0, 0.0), "data", "hue (degrees), saturation, value")
    max_boxes: int = option(100, "data", "training boxes of a clip")
    boxes_outside: str = option(
        "squeeze",
        "data",
        "persons outside of the training crop: squeezed to its border, as both releases do, or dropped (ours)",
        choices=("squeeze", "drop"),
    )
    box_score: float = option(0.8, "data", "test: smallest score of a person box")
    proposal_iou: float | None = option(None, "data", "training: proposals matched to the truth at this IoU join it")

    drop_path_rate: float = option(0.2, "model", "stochastic depth of the last block; grows linearly over the blocks")
    head_dropout_prob: float = option(0.0, "model", "dropout before the head")
    init_scale: float = option(0.001, "model", "factor on the head's initial weights")

    layer_decay: float | None = option(0.75, "optimisation", "learning-rate factor from each layer to the one below")
    warmup_start: float = option(0.0, "optimisation", "share of the peak that the warm-up starts from")
    epochs: int = option(30, "optimisation", "passes over the data")
    clips_per_step: int = option(128, "optimisation", "keyframes in one optimizer step, over all devices")
    base_lr: float = option(5e-4, "optimisation", "peak learning rate for lr_batch clips a step; scaled with the batch")


# -------------------------------------------------------------------------------------------------- pre-training


def _v1_pretraining(model: str, dataset: str, epochs: int, clips: int, gpus: int, **more: Any) -> PretrainRecipe:
    differs = (f"epochs: paper {epochs}, script {epochs + 1}; {epochs} here",)
    differs += more.pop("differs", ())
    if clips * gpus == 2048:
        differs += ("clips_per_step: paper 1024, script 32 x 64 = 2048",)
    return PretrainRecipe(
        name=more.pop("name", f"v1-{model}-{dataset.lower()}"),
        source=f"{V1_SCRIPTS}, {dataset} ViT-{model} {epochs} epochs pretrain.sh: {clips} clips x {gpus} GPUs; {V1_PAPER}",
        differs=differs,
        model=model,
        dataset=dataset,
        epochs=epochs,
        clips_per_step=clips * gpus,
        stride_frames=2 if dataset == "SSV2" else 4,
        **more,
    )


def _v2_pretraining(model: str, epochs: int, clips: int, gpus: int, **more: Any) -> PretrainRecipe:
    return PretrainRecipe(
        name=f"v2-{model}-hybrid",
        source=f"{V2_SCRIPTS}/pretrain, ViT-{model} hybrid: {clips} clips x {gpus} GPUs; {V2_PAPER}",
        differs=(
            f"epochs: paper {4 * epochs}, counting each of the 4 copies of a clip; script {epochs} passes over the files",
            *more.pop("differs", ()),
        ),
        model=model,
        version=2,
        dataset="UnlabeledHybrid",
        epochs=epochs,
        clips_per_step=clips * gpus,
        num_samples=4,
        half_rate_sources=("SomethingV2",),
        decoder_mask="running_cell",
        **{"warmup_epochs": 30, "base_lr": 1e-3, **more},
    )


def _salt(name: str, steps: int, **more: Any) -> PretrainRecipe:
    """A stage of SALT as far as it is public: masks, loss, stages and steps; the optimisation is V-JEPA 2's for ViT-L."""
    return PretrainRecipe(
        name=name,
        source=f"{SALT_PAPER} (stages, masks, loss, steps; it has no public code); {VJEPA2_CONFIG} (batch, rates, clips)",
        differs=(
            f"epochs: paper {steps:,} steps; {more['epochs']} here, which on the 240,000 videos of K400 are {more['epochs'] * 78:,} steps: "
            "give your own for other data",
            "mask_ratio: V-JEPA fixes the number of blocks (8 short or 2 long ones, which hide 63 % and 81 % of 14 x 14 cells on "
            "average) and trims a batch to its smallest counts; 0.75 here for both, with as many blocks as that takes",
            "min_lr: the configuration holds its rate after the warm-up, and lowers it in a run of its own; a cosine to a "
            "hundredth here",
            "warmup_epochs: the configuration has 12,000 steps from a fifth of the rate; a tenth of the epochs from 0 here",
            "image_size: the configuration has 256 pixels, 4 frames a second and random resized crops; 224, stride 8 and V1's "
            "crops here",
            *more.pop("differs", ()),
        ),
        model="large",
        clips_per_step=16 * 8 * 24,  # nodes, GPUs a node, clips a GPU
        stride_frames=8,
        mask="blocks",
        mask_ratio=0.75,
        base_lr=5.25e-4 * LR_BATCH / (16 * 8 * 24),
        min_lr=5.25e-6 * LR_BATCH / (16 * 8 * 24),
        betas=(0.9, 0.999),
        weight_decay=0.04,
        gradient_checkpointing=True,
        **more,
    )


# Small enough for two CPU cores and the synthetic motion set; the smallest setting in which the loss and a linear
# probe visibly improve within two minutes. It reproduces nothing published.
_TINY_MODEL = {
    "patch_size": 8,
    "hidden_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 3,
    "intermediate_size": 384,
    "decoder_hidden_size": 48,
    "decoder_num_hidden_layers": 2,
    "decoder_num_attention_heads": 3,
    "decoder_intermediate_size": 192,
}
_TINY_PRETRAINING = {
    "source": "for a CPU and the synthetic motion set; reproduces nothing published",
    "dataset": "synthetic motion",
    "model": "small",
    "image_size": 64,
    "num_frames": 8,
    "stride_frames": 2,
    "config": _TINY_MODEL,
    "mask_ratio": 0.75,
    "epochs": 40,
    "warmup_epochs": 4,
    "clips_per_step": 16,
    "base_lr": 1.6e-2,
    "min_lr": 1e-4,
}

PRETRAINING: dict[str, PretrainRecipe] = {
    recipe.name: recipe
    for recipe in (
        _v1_pretraining("small", "K400", 1600, 32, 32),
        _v1_pretraining("base", "K400", 1600, 32, 64),
        _v1_pretraining("base", "K400", 800, 32, 64, name="v1-base-k400-800e"),
        _v1_pretraining("large", "K400", 1600, 8, 64),
        _v1_pretraining("huge", "K400", 1600, 16, 64, gradient_checkpointing=True),
        _v1_pretraining(
            "small",
            "SSV2",
            2400,
            32,
            32,
            differs=(
                "clips_per_step: paper 1024, script's command 32 x 64 = 2048, its comment 32 x 32 = 1024; 1024 here, and the "
                "learning rate scales with it",
            ),
        ),
        _v1_pretraining("base", "SSV2", 2400, 32, 64),
        _v1_pretraining("base", "SSV2", 800, 32, 64, name="v1-base-ssv2-800e"),
        _v1_pretraining("base", "UCF101", 3200, 24, 8, mask_ratio=0.75, base_lr=3e-4),
        _v2_pretraining("base", 200, 32, 32, warmup_epochs=20),
        _v2_pretraining("large", 300, 32, 48),
        _v2_pretraining("huge", 300, 32, 64, gradient_checkpointing=True),
        _v2_pretraining(
            "giant",
            300,
            32,
            64,
            gradient_checkpointing=True,
            base_lr=6e-4,
            clip_grad_norm=0.02,
            differs=("base_lr: paper 1.5e-4 a copy of a clip, script 6e-4 a clip of 4 copies",),
        ),
        _salt("salt-teacher", 40_000, epochs=500, warmup_epochs=50),
        _salt(
            "salt-student",
            200_000,
            epochs=2500,
            warmup_epochs=250,
            targets="latent",
            config={
                "decoder_hidden_size": 384,
                "decoder_num_hidden_layers": 12,
                "decoder_num_attention_heads": 12,
                "decoder_intermediate_size": 1536,
            },
            differs=(
                "config: the predictor's sizes are the configuration's; its positions are fixed sines and cosines here, and "
                "rotary there",
            ),
        ),
        PretrainRecipe(name="tiny", **_TINY_PRETRAINING),
        PretrainRecipe(
            **{**_TINY_PRETRAINING, "name": "tiny-v2", "version": 2, "decoder_mask": "running_cell", "num_samples": 2}
        ),
    )
}


# --------------------------------------------------------------------------------------------------- fine-tuning

NUM_LABELS = {"K400": 400, "K600": 600, "K700": 700, "K710": 710, "SSV2": 174, "UCF101": 101, "HMDB51": 51}
# Segments and two clips; and no flip, since "left to right" is part of the label.
_SSV2 = {"sampling": "uniform", "test_clips": 2, "flip": 0.0}


def _finetuning(
    version: int,
    model: str,
    dataset: str,
    *,
    epochs: int,
    batch: tuple[int, int, int],
    lr: float,
    decay: float,
    drop_path: float,
    **more: Any,
) -> FinetuneRecipe:
    """`batch` is (clips a GPU, GPUs, augmented copies of a clip), as the release scripts give it."""
    clips, gpus, copies = batch
    scripts, paper = (V1_SCRIPTS, V1_PAPER) if version == 1 else (f"{V2_SCRIPTS}/finetune", V2_PAPER)
    default_start = f"v1-{model}-{dataset.lower()}" if version == 1 else f"v2-{model}-hybrid"
    return FinetuneRecipe(
        name=more.pop("name", f"v{version}-{model}-{dataset.lower()}"),
        source=f"{scripts}, {dataset} ViT-{model}: {clips} clips x {gpus} GPUs x {copies} copies, {epochs} epochs; {paper}",
        start=more.pop("start", default_start),
        version=version,
        model=model,
        dataset=dataset,
        num_labels=NUM_LABELS[dataset],
        epochs=epochs,
        clips_per_step=clips * gpus,
        num_samples=copies,
        base_lr=lr,
        layer_decay=decay,
        drop_path_rate=drop_path,
        **{**(_SSV2 if dataset == "SSV2" else {}), **more},
    )


def _v1_finetunings() -> tuple[FinetuneRecipe, ...]:
    return (
        _finetuning(1, "small", "K400", epochs=150, batch=(12, 32, 2), lr=5e-4, decay=0.75, drop_path=0.1),
        _finetuning(1, "base", "K400", epochs=75, batch=(6, 64, 2), lr=5e-4, decay=0.75, drop_path=0.1),
        _finetuning(
            1, "base", "K400", epochs=100, batch=(8, 64, 1), lr=1e-3, decay=0.75, drop_path=0.1,
            name="v1-base-k400-800e", start="v1-base-k400-800e",
        ),
        _finetuning(
            1, "large", "K400", epochs=35, batch=(2, 64, 2), lr=2e-3, decay=0.75, drop_path=0.1,
            differs=("clips_per_step: paper 512 clips, script 2 x 64 clips of 2 copies = 256",),
        ),
        _finetuning(
            1, "huge", "K400", epochs=50, batch=(8, 64, 2), lr=1e-3, decay=0.75, drop_path=0.2,
            head_dropout_prob=0.5, min_lr=1e-5, gradient_checkpointing=True,
        ),
        _finetuning(1, "small", "SSV2", epochs=40, batch=(12, 32, 2), lr=1e-3, decay=0.7, drop_path=0.1),
        _finetuning(1, "base", "SSV2", epochs=30, batch=(6, 64, 2), lr=5e-4, decay=0.75, drop_path=0.1),
        _finetuning(
            1, "base", "SSV2", epochs=50, batch=(8, 64, 1), lr=5e-4, decay=0.75, drop_path=0.1,
            name="v1-base-ssv2-800e", start="v1-base-ssv2-800e",
        ),
        _finetuning(
            1, "base", "UCF101", epochs=100, batch=(16, 8, 2), lr=5e-4, decay=0.7, drop_path=0.2,
            head_dropout_prob=0.5, min_lr=1e-5, gradient_checkpointing=True,
        ),
    )  # fmt: skip


def _v2_finetunings() -> tuple[FinetuneRecipe, ...]:
    huge = partial(_finetuning, 2, "huge", batch=(4, 32, 2), decay=0.8, drop_path=0.2)
    giant = partial(_finetuning, 2, "giant", decay=0.9)
    from_k710 = partial(giant, start="v2-giant-k710")
    after_k710 = partial(
        from_k710, batch=(3, 32, 2), epochs=3, lr=1e-5, drop_path=0.25, warmup_epochs=1, weight_decay=0.1
    )
    small_sets = partial(from_k710, batch=(3, 8, 2), drop_path=0.35, head_dropout_prob=0.5)
    return (
        _finetuning(2, "base", "K400", epochs=90, batch=(16, 32, 2), lr=7e-4, decay=0.75, drop_path=0.1),
        _finetuning(2, "base", "K710", epochs=90, batch=(16, 32, 2), lr=7e-4, decay=0.75, drop_path=0.1),
        _finetuning(2, "base", "SSV2", epochs=25, batch=(16, 16, 2), lr=2e-3, decay=0.65, drop_path=0.1),
        _finetuning(2, "large", "K400", epochs=35, batch=(6, 32, 2), lr=2e-3, decay=0.75, drop_path=0.2),
        _finetuning(2, "large", "SSV2", epochs=20, batch=(6, 32, 2), lr=5e-4, decay=0.75, drop_path=0.2),
        huge("K400", epochs=40, lr=1e-3, head_dropout_prob=0.5),
        huge(
            "K600", epochs=40, lr=1e-3, head_dropout_prob=0.5,
            differs=(
                "clips_per_step: script 4 x 1 = 4 where it is not told the GPUs; 128 here, as for K400 and K710",
            ),
        ),
        huge("K710", epochs=40, lr=1e-3, head_dropout_prob=0.5),
        huge("SSV2", epochs=20, lr=5e-4),
        giant("K400", epochs=30, batch=(3, 64, 2), lr=1e-3, drop_path=0.2, weight_decay=0.1),
        giant("K710", epochs=35, batch=(3, 32, 2), lr=1e-3, drop_path=0.3, weight_decay=0.1, clip_grad_norm=5.0),
        giant("SSV2", epochs=20, batch=(3, 32, 2), lr=3e-4, drop_path=0.25),
        after_k710("K400", name="v2-giant-k710-k400", init_head_from="label_710to400.json"),
        after_k710("K600", name="v2-giant-k710-k600", init_head_from="label_710to600.json"),
        small_sets("UCF101", name="v2-giant-k710-ucf101", epochs=50, lr=1e-3),
        small_sets("HMDB51", name="v2-giant-k710-hmdb51", epochs=15, lr=5e-4, stride_frames=2),
    )  # fmt: skip


FINETUNING: dict[str, FinetuneRecipe] = {
    recipe.name: recipe
    for recipe in (
        *_v1_finetunings(),
        *_v2_finetunings(),
        FinetuneRecipe(
            name="tiny",
            source="for a CPU and the synthetic motion set; reproduces nothing published",
            start="tiny",
            dataset="synthetic motion",
            model="small",
            image_size=64,
            num_frames=8,
            stride_frames=2,
            config=_TINY_MODEL,
            num_samples=1,
            test_clips=2,
            rand_augment=None,
            flip=0.0,  # the synthetic classes are directions of motion
            erase=0.0,
            crop_area=(0.5, 1.0),
            mixup=0.0,
            cutmix=0.0,
            drop_path_rate=0.0,
            init_scale=1.0,
            epochs=20,
            warmup_epochs=2,
            clips_per_step=16,
            base_lr=3.2e-2,
            min_lr=1e-4,
        ),
        # For a few hundred to a few thousand videos and one device: the head learns first, then everything with layer decay;
        # milder augmentation than the published recipes, which are for hundreds of thousands of clips.
        FinetuneRecipe(
            name="small-data",
            source="for data sets of one's own on one device; reproduces nothing published",
            dataset="one's own",
            model="base",
            epochs=30,
            warmup_epochs=3,
            probe_epochs=3,
            clips_per_step=16,
            base_lr=4e-3,
            min_lr=1e-5,
            num_samples=2,
            test_weights="best",
            crop_area=(0.3, 1.0),
            mixup=0.2,
            cutmix=0.0,
            erase=0.1,
            drop_path_rate=0.1,
            head_dropout_prob=0.5,
        ),
    )
}


# ----------------------------------------------------------------------------------------------------- detection


def _ad(
    model: str,
    *,
    finetuned: bool,
    lr: float,
    decay: float,
    epochs: int = 30,
    batch: tuple[int, int] = (4, 32),
    **more: Any,
) -> DetectionRecipe:
    clips, gpus = batch
    weights = "pretrain+finetune" if finetuned else "pretrain"
    return DetectionRecipe(
        name=f"ad-{model}-k400" + ("-finetuned" if finetuned else ""),
        source=f"{AD_SCRIPTS}/ava, videomae_vit_{model}_k400_{weights}: {clips} clips x {gpus} GPUs",
        start=("fine-tuning " if finetuned else "pre-training ") + f"v1-{model}-k400",
        model=model,
        epochs=epochs,
        clips_per_step=clips * gpus,
        base_lr=lr,
        layer_decay=decay,
        color_jitter=(20.0, 0.1, 0.1),
        **more,
    )


def _mm(model: str, *, lr: float, decay: float) -> DetectionRecipe:
    return DetectionRecipe(
        name=f"mm-{model}-k400",
        source=f"{MM_CONFIGS}, vit-{model} AVA-Kinetics RGB: 8 clips x 8 GPUs (rates quoted for that batch)",
        start=f"fine-tuning v1-{model}-k400",
        family="mmaction2",
        dataset="AVA-Kinetics",
        model=model,
        epochs=20,
        clips_per_step=64,
        base_lr=lr,
        min_lr=0.0,
        lr_batch=64,
        warmup_start=0.1,
        layer_decay=decay,
        clip_grad_norm=40.0,
        head_dropout_prob=0.5,
        init_scale=1.0,
        frame_jitter=(-2, 1),
        short_side=(256, 320),
        crop_size=256,
        max_boxes=32,
        box_score=0.9,
        proposal_iou=0.9,
    )


DETECTION: dict[str, DetectionRecipe] = {
    recipe.name: recipe
    for recipe in (
        _ad("small", finetuned=False, lr=1e-3, decay=0.6, batch=(8, 16)),
        _ad("small", finetuned=True, lr=5e-4, decay=0.6, batch=(8, 16)),
        _ad("base", finetuned=False, lr=2.5e-4, decay=0.75),
        _ad("base", finetuned=True, lr=5e-4, decay=0.75),
        _ad("large", finetuned=False, lr=2.5e-4, decay=0.75, gradient_checkpointing=True),
        _ad("large", finetuned=True, lr=5e-4, decay=0.8, epochs=20, gradient_checkpointing=True),
        _ad("huge", finetuned=False, lr=5e-4, decay=0.8, epochs=20, batch=(2, 64), gradient_checkpointing=True),
        _ad("huge", finetuned=True, lr=5e-4, decay=0.8, epochs=20, batch=(2, 64), gradient_checkpointing=True),
        _mm("base", lr=1.25e-4, decay=0.75),
        _mm("large", lr=2.5e-4, decay=0.8),
        DetectionRecipe(
            name="tiny",
            source="for a CPU and synthetic boxes; reproduces nothing published",
            start="pre-training tiny",
            dataset="synthetic motion",
            model="small",
            image_size=64,
            num_frames=8,
            stride_frames=2,
            config={**_TINY_MODEL, "patch_size": 16},
            short_side=(64, 64),
            test_short_side=64,
            crop_size=64,
            flip=0.0,
            boxes_outside="drop",
            drop_path_rate=0.0,
            init_scale=1.0,
            epochs=20,
            warmup_epochs=2,
            clips_per_step=16,
            base_lr=3.2e-2,
            min_lr=1e-4,
        ),
    )
}

KINDS: dict[str, dict[str, Any]] = {"pre-training": PRETRAINING, "fine-tuning": FINETUNING, "detection": DETECTION}


def find_recipe(name: str, recipes: Mapping[str, R]) -> R:
    """The recipe of that name, or an error with the nearest ones."""
    if name in recipes:
        return recipes[name]
    nearest = difflib.get_close_matches(name, recipes, n=3)
    hint = f"did you mean {' or '.join(nearest)}?" if nearest else f"known: {', '.join(recipes)}"
    raise ValueError(f"no recipe {name!r}; {hint} (a path to a recipe.yaml works as well)")
