"""docs/recipes.md: one table a kind of training, made from the recipes."""

from dataclasses import fields
from typing import Any

from videomae.training.recipes import KINDS, LR_BATCH

_COLUMNS = {
    "pre-training": "name dataset epochs warmup_epochs clips_per_step num_samples stride_frames mask mask_ratio "
    "decoder_mask targets base_lr min_lr gradient_checkpointing clip_grad_norm source",
    "fine-tuning": "name start init_head_from dataset epochs warmup_epochs clips_per_step num_samples base_lr min_lr layer_decay "
    "drop_path_rate head_dropout_prob weight_decay clip_grad_norm gradient_checkpointing sampling test_clips test_crops "
    "source",
    "detection": "name start dataset epochs clips_per_step base_lr lr_batch layer_decay drop_path_rate clip_grad_norm "
    "gradient_checkpointing crop_size source",
}
OWN = ("tiny", "tiny-v2", "small-data")  # these reproduce nothing


def recipe_page() -> str:
    """docs/recipes.md: one table a kind, and every disagreement of paper and script."""
    lines = [
        "# Recipes",
        "",
        "Made by `videomae cards`; edit `training/recipes.py`, not this file. Learning rates are for",
        f"`lr_batch` clips a step ({LR_BATCH} unless a table says otherwise) and scale with `clips_per_step`, the videos of",
        "one optimizer step over all devices. All use AdamW. None of the published runs has been repeated here; `tiny` has.",
    ]
    for kind, recipes in KINDS.items():
        columns = _COLUMNS[kind].split()
        lines += ["", f"## {kind.capitalize()}", "", f"| {' | '.join(columns)} |", "|" + " --- |" * len(columns)]
        for recipe in recipes.values():
            lines.append(f"| {' | '.join(_cell(getattr(recipe, column)) for column in columns)} |")
        notes = [f"- `{recipe.name}`: {note}" for recipe in recipes.values() for note in recipe.differs]
        if notes:
            lines += [
                "",
                "Where paper, script and its comments disagree (the script's value is used, but where a line says `here`):",
                "",
                *notes,
            ]
        published = [recipe for name, recipe in recipes.items() if name not in OWN and not name.startswith("salt-")]
        shared = [
            f"`{f.name}` {_cell(getattr(published[0], f.name))}"
            for f in fields(published[0])
            if f.name not in columns
            and f.metadata["group"] in ("optimisation", "augmentation", "masks")
            and len({str(getattr(recipe, f.name)) for recipe in published}) == 1
        ]
        lines += ["", f"The same in all published ones: {', '.join(shared)}."]
        if kind == "fine-tuning":
            lines += [
                "",
                "`init_head_from` label_710to...: the release's lists (`misc/` of the VideoMAE V2 repository, here in",
                "`training/kinetics_maps.py`) by which the head of the start is cut; three epochs at these rates hardly train a new one.",
            ]
    return "\n".join(lines) + "\n"


def _cell(value: Any) -> str:
    if value is None or value in ((), ""):
        return "–"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, tuple):
        return "/".join(map(_cell, value))
    return str(value)
