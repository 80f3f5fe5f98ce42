"""The parts of documents that are made from zoo.yaml and the recipes; `videomae cards` writes them.

The table of published results in README.md is made here, docs/recipes.md in recipe_page.py.

A row a size, a column a data set, and in each cell the best that was published for them.
"""

import re
from pathlib import Path

from videomae.model_cards.recipe_page import recipe_page
from videomae.model_cards.zoo import load_zoo

README, RECIPES = (Path(__file__).parents[1] / name for name in ("README.md", "docs/recipes.md"))

BEGIN = "<!-- begin published: written by videomae cards -->"
END = "<!-- end published -->"

# Releases whose checkpoints make up one family; ports of them elsewhere have the same figures within a few tenths.
FAMILIES = {"VideoMAE": ("videomae", "action_detection"), "VideoMAE V2": ("videomae_v2",)}
SIZES = {"small": "ViT-S", "base": "ViT-B", "large": "ViT-L", "huge": "ViT-H", "giant": "ViT-g"}
COLUMNS = {
    "kinetics400": "Kinetics-400",
    "kinetics600": "Kinetics-600",
    "k710": "Kinetics-710",
    "something-something-v2": "Something-Something V2",
    "ucf101": "UCF101",
    "hmdb51": "HMDB51",
    "ava": "AVA v2.2, mAP",
}


def outdated_pages() -> dict[Path, str]:
    """Documents of a checkout that differ from what they should be, with that; an installed package has none."""
    if not README.is_file():
        return {}
    pages = {README: with_table(README.read_text("utf-8")), RECIPES: recipe_page()}
    return {path: text for path, text in pages.items() if path.read_text("utf-8") != text}


def published_table() -> str:
    best: dict[tuple[str, str, str], float] = {}
    for checkpoint in load_zoo().values():
        family = next((name for name, releases in FAMILIES.items() if checkpoint.release in releases), None)
        if family is None:
            continue
        for result in checkpoint.results:
            value = result.map if result.data == "ava" else result.top1
            if result.data in COLUMNS and value is not None:
                key = (family, checkpoint.preset, result.data)
                best[key] = max(value, best.get(key, 0.0))
    lines = [f"| Published top-1, % | {' | '.join(COLUMNS.values())} |", "|---" * (len(COLUMNS) + 1) + "|"]
    for family in FAMILIES:
        for size, title in SIZES.items():
            cells = [f"{best[family, size, data]:.1f}" if (family, size, data) in best else "–" for data in COLUMNS]
            if set(cells) != {"–"}:
                lines.append(f"| {family} {title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def with_table(text: str) -> str:
    """A README with the table between its two marks brought up to date."""
    pattern = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"README.md has no place for the table: {BEGIN} … {END}")
    return pattern.sub(lambda _: f"{BEGIN}\n\n{published_table()}\n\n{END}", text)
