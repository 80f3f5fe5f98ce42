"""Make the model cards from zoo.yaml, and in a checkout the generated parts of its documents: `videomae cards`."""

from dataclasses import dataclass
from pathlib import Path

from videomae.command_line import option, read_options


@dataclass(frozen=True, kw_only=True)
class Options:
    check: bool = option(False, "options", "write nothing, fail if a card is out of date")
    output: str | None = option(
        None, "options", "where cards go, and nothing else is written [model_cards/cards]", metavar="FOLDER"
    )


def main(argv: list[str] | None = None) -> int:
    options = read_options(Options, argv, command="cards", about=__doc__)
    from videomae.files import write_atomic
    from videomae.model_cards.build import CARDS, outdated
    from videomae.model_cards.readme import outdated_pages
    from videomae.model_cards.zoo import load_zoo

    folder = Path(options.output or CARDS)
    changes: dict[Path, str | None] = {folder / name: content for name, content in outdated(folder)}
    if options.output is None:
        changes |= outdated_pages()
    if options.check and changes:
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
    done = "out of date" if options.check else "written"
    print(f"{len(load_zoo())} cards in {folder}, {len(changes)} files {done}")
    return 0
