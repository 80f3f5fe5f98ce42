"""What the page says of its models: name, licence and example of each, from its card, its run or the zoo."""

import re
from dataclasses import dataclass
from pathlib import Path

import yaml
from huggingface_hub import ModelCard

from videomae.data.sources import VIDEO_SUFFIXES
from videomae.model_cards.licences import is_non_commercial
from videomae.model_cards.results import text
from videomae.model_cards.run_cards import base_facts
from videomae.training.options import RECORD

PARTS = {
    "model": ("Labels", "its labels and their course over time"),
    "pretrained": ("Reconstruction", "what is rebuilt of it where most is hidden"),
    "attention": ("Attention", "where the encoder looks"),
    "action_detector": ("Actions", "who does what, and when"),
}


@dataclass(frozen=True)
class About:
    """`examples` are the videos of a model folder that its card names under `widget`."""

    name: str
    licence: str | None
    examples: tuple[str, ...] = ()

    def line(self) -> str:
        """The model in one line of Markdown."""
        if self.licence is None:
            return f"**{text(self.name)}**; no licence is given, so ask its owner before you use it"
        limit = ", which forbids commercial use" if is_non_commercial(self.licence) else ""
        return f"**{text(self.name)}**, licence {text(self.licence)}{limit}"


def about(model: str) -> About:
    """A model by the name of its run or the heading of its card, else by that of its folder or on the Hub."""
    folder = Path(model)
    licence = base_facts(model)["license"]
    if not folder.is_dir():
        return About(model, licence)
    card = read_card(folder)
    heading = re.search(r"^# (.+)$", card.text, flags=re.MULTILINE) if card else None
    place = folder.resolve()
    name = heading[1].strip() if heading else place.name
    if (place.parent / RECORD).is_file():  # "best" and "final" say nothing without their run
        name = f"{place.parent.name}/{place.name}{name.removeprefix(place.name)}"
    return About(name, licence, examples_of(folder, card))


def read_card(folder: Path) -> ModelCard | None:
    """The card of a folder; None where there is none, or none that can be read."""
    try:
        return ModelCard((folder / "README.md").read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return None


def examples_of(folder: Path, card: ModelCard | None) -> tuple[str, ...]:
    """Videos beside a card that it names as examples: `widget`, a list of `src`. Addresses and other folders are not read."""
    widget = card.data.to_dict().get("widget") if card else None
    names = [entry.get("src") for entry in widget if isinstance(entry, dict)] if isinstance(widget, list) else []
    return tuple(
        str(folder / name)
        for name in names
        if isinstance(name, str)
        and Path(name).name == name
        and Path(name).suffix.lower() in VIDEO_SUFFIXES
        and (folder / name).is_file()
    )


def introduction(models: dict[str, About]) -> str:
    """What the page shows, in two sentences, and the models that answer; `models` by the names of `build_page`."""
    shown = [what for part, (_, what) in PARTS.items() if part in models or part == "attention"]
    listed = ", ".join(shown[:-1]) + f" and {shown[-1]}" if len(shown) > 1 else shown[0]
    lines = [
        f"This page shows what VideoMAE makes of a video: {listed}. Choose a file, record a clip or take an example; it "
        "stays on the machine that serves this page and is removed after an hour.",
        "",
        *(f"- {PARTS[part][0]}: {model.line()}" for part, model in models.items()),
    ]
    return "\n".join(lines)
