"""The frozen protocol of V-JEPA 2 as recipes: configs/eval/vitl of facebookresearch/vjepa2, commit c2963a4.

docs/frozen.md says where the runs here differ. The public files name no flip: its training augmentation has none.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

from videomae.command_line import option
from videomae.training.recipes import Recipe

SOURCE = "facebookresearch/vjepa2 configs/eval/vitl"


@dataclass(frozen=True, kw_only=True)
class ProbeRecipe(Recipe):
    """A grid of attentive heads on frozen tokens."""

    kind: ClassVar[str] = "probe"

    dataset: str = option("SSv2", "data", "what the published run was made on")
    stride_frames: int = option(4, "data", "frames between two frames of a segment")
    segments: int = option(2, "data", "windows of a video whose tokens a head sees at once, in training and test")
    test_crops: int = option(3, "data", "crops along the long side in the test")
    levels: int = option(1, "model", "how many encoder blocks give tokens; 1 is the encoder's output")
    probe_blocks: int = option(4, "model", "blocks of a head: self-attention, and one cross-attention")
    probe_heads: int = option(16, "model", "attention heads of a block")
    learning_rates: tuple[float, ...] = option((5e-3, 3e-3, 1e-3, 3e-4, 1e-4), "optimisation", "one head for each ...")
    weight_decays: tuple[float, ...] = option((0.01, 0.1, 0.4, 0.8), "optimisation", "... and each of these")
    epochs: int = option(20, "optimisation", "passes over the videos")
    warmup_epochs: float = option(0, "optimisation", "epochs of linear warm-up from 0")
    clips_per_step: int = option(256, "optimisation", "videos in one optimizer step, over all devices")

    rand_augment: str = option("rand-m7-n4-mstd0.5-inc1", "augmentation", "RandAugment string; none turns it off")
    crop_area: tuple[float, float] = option((0.08, 1.0), "augmentation", "random resized crop: share of the area")
    crop_aspect: tuple[float, float] = option((3 / 4, 4 / 3), "augmentation", "random resized crop: aspect ratios")
    flip: float = option(0.0, "augmentation", "chance of a horizontal flip")
    erase: float = option(0.25, "augmentation", "chance of random erasing")
    fixed_views: bool = option(False, "augmentation", "the training views of the first epoch in all epochs")

    first_step: ClassVar[int] = 1  # the schedule moves on before each step, so it ends at exactly 0

    @property
    def peak_lr(self) -> float:
        """The highest learning rate, whatever the batch."""
        return max(self.learning_rates)

    @property
    def final_lr(self) -> float:
        return 0.0


def consistent(recipe: ProbeRecipe) -> ProbeRecipe:
    """The recipe with the fields that all trainings have set from the grid; nothing is scaled with the batch."""
    return dataclasses.replace(
        recipe,
        base_lr=max(recipe.learning_rates),
        min_lr=0.0,
        lr_batch=recipe.clips_per_step,
        weight_decay=max(recipe.weight_decays),
    )


def _vjepa2(name: str, **more: Any) -> ProbeRecipe:
    return consistent(ProbeRecipe(name=f"vjepa2-{name}", source=f"{SOURCE}/{name}.yaml", **more))


# Batches: 4 videos on each of 64 GPUs; Diving48 2.
PROBE_RECIPES: dict[str, ProbeRecipe] = {
    "ssv2": _vjepa2("ssv2"),
    "k400": _vjepa2("k400", dataset="K400", segments=8),
    "diving48": _vjepa2(
        "diving48",
        dataset="Diving48",
        num_frames=32,
        stride_frames=2,
        segments=4,
        levels=4,
        learning_rates=(1e-3, 3e-4, 1e-4),
        weight_decays=(0.8,),
        epochs=100,
        clips_per_step=128,
    ),
}
