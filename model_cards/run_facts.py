"""What a run's card says of its classes, its results by class and its settings, from the run's own records.

`run_cards.py` renders it. The confusion matrices come from evaluation/validation.py and evaluation/multi_view.py.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from videomae.command_line import plain
from videomae.data.lists.label_names import are_placeholders
from videomae.evaluation.validation import SHOWN_CLASSES
from videomae.metrics.video_accuracy.scores import rows_of_matrix
from videomae.model_cards.results import text
from videomae.training.probe_recipes import PROBE_RECIPES
from videomae.training.recipes import KINDS

# Of the recipe: what the published run was trained on and started from, and the model, which the card shows by what it is.
OF_THE_RECIPE = ("name", "source", "differs", "dataset", "start", "model", "config")
# Of the data: shown elsewhere than in its list of facts.
NOT_LISTED = ("dataset_id", "clips_per_class")
KIND_OF_TASK = {"pretrain": "pre-training", "classify": "fine-tuning", "detect": "detection", "probe": "probe"}
RECIPES = {**KINDS, "probe": {recipe.name: recipe for recipe in PROBE_RECIPES.values()}}


def class_names(id2label: Mapping[int, str]) -> list[str] | None:
    """The names of the outputs; None where they have none, or too many for a card."""
    names = [str(id2label[index]) for index in sorted(id2label)]
    return names if len(names) <= SHOWN_CLASSES and not are_placeholders(names) else None


def class_rows(names: Sequence[str] | None, counts: Sequence[int] | None) -> list[tuple[str, int | None]]:
    """The classes and how many training videos each has, where that is known."""
    if names is None:
        return []
    known = counts if counts and len(counts) == len(names) else [None] * len(names)
    return list(zip(map(text, names), known, strict=True))


def balance(counts: Sequence[int] | None) -> str:
    """How many training videos the classes have, in a sentence; "" where that is not known."""
    if not counts:
        return ""
    least, most, total = min(counts), max(counts), sum(counts)
    videos = f"{least}" if least == most else f"{least} to {most}"
    return f"The classes have {videos} training videos each; always naming the commonest is right for {most / total:.1%} of them."


def by_class(result: Mapping[str, Any], names: Sequence[str] | None) -> dict[str, Any] | None:
    """The table of one evaluation: a row a class with its videos, its accuracy and what it is most taken for."""
    matrix = result.get("confusion_matrix")
    if not matrix or names is None or len(matrix) != len(names):
        return None
    return {
        "title": text(f"{result['dataset']}, {result.get('split', 'test')}, {result['protocol']}"),
        "rows": [
            (
                text(row["class"]),
                row["videos"],
                "–" if row["accuracy"] is None else f"{100 * row['accuracy']:.1f}",
                "–" if row["precision"] is None else f"{100 * row['precision']:.1f}",
                text(row["most_taken_for"] or "–"),
            )
            for row in rows_of_matrix(np.array(matrix), list(names))
        ],
    }


def settings(task: str, recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe's name, the settings that were changed from it, and those that were left; both as (name, value).

    Of a recipe that is none of ours everything counts as changed.
    """
    base = RECIPES[KIND_OF_TASK[task]].get(recipe.get("name", ""))
    before = plain(base) if base else {}
    own = {key: value for key, value in recipe.items() if key not in OF_THE_RECIPE}
    changed = {key: value for key, value in own.items() if not base or before.get(key) != value}
    left = {key: value for key, value in own.items() if key not in changed}
    return {"name": recipe["name"] if base else None, "changed": flatten(changed), "left": flatten(left)}


def flatten(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Rows of a settings table as text; nested mappings become dotted names, unset values are left out."""
    rows = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            rows += flatten(value, f"{prefix}{key}.")
        elif value is not None and value != [] and value != ():
            rows.append((text(f"{prefix}{key}"), text(value)))
    return rows
