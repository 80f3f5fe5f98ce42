"""Make the model cards from zoo.yaml, and in a checkout the generated parts of its documents: `videomae cards`."""

import argparse
from pathlib import Path

from videomae.files import write_atomic
from videomae.model_cards.build import CARDS, outdated
from videomae.model_cards.readme import with_table
from videomae.model_cards.recipe_page import recipe_page
from videomae.model_cards.zoo import load_zoo

README, RECIPES = (Path(__file__).parents[1] / name for name in ("README.md", "docs/recipes.md"))


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="videomae cards", description=__doc__.partition(":")[0] + ".")
    made.add_argument("--check", action="store_true", help="write nothing, fail if a card is out of date")
    made.add_argument(
        "--output", type=Path, metavar="FOLDER", help=f"where cards go, and nothing else is written [{CARDS}]"
    )
    return made


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    folder = args.output or CARDS
    changes = {folder / name: content for name, content in outdated(folder)}
    if args.output is None and README.is_file():  # an installed package has no documents
        pages = {README: with_table(README.read_text("utf-8")), RECIPES: recipe_page()}
        changes |= {path: text for path, text in pages.items() if path.read_text("utf-8") != text}
    if args.check and changes:
        names = sorted(path.name for path in changes)
        raise ValueError(
            f"{len(changes)} files differ from zoo.yaml and the recipes ({', '.join(names[:5])}"
            f"{', …' if len(names) > 5 else ''}); run `videomae cards` and commit what it writes"
        )
    for path, content in changes.items():
        if content is None:
            path.unlink()
        else:
            write_atomic(path, content)
    print(f"{len(load_zoo())} cards in {folder}, {len(changes)} files {'out of date' if args.check else 'written'}")
    return 0
