"""The reader of zoo.yaml: every released checkpoint as a checked, frozen record.

The file holds the facts; the converter, the cards (build.py) and the tables of the documentation only derive from it.
"""

import difflib
import functools
import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from videomae.configuration_videomae import HEADS, PRESETS
from videomae.data.lists.label_sets import LABEL_SETS

ZOO = Path(__file__).with_name("zoo.yaml")
WEIGHTS = ("public", "on_request", "unlinked", "none")


@dataclass(frozen=True, kw_only=True)
class Release:
    """A group of checkpoints that came out together: one page, one licence, one layout of the files."""

    title: str
    paper: str  # arXiv number
    code: str
    source: str
    license: str
    license_note: str | None = None
    version: int  # of the decoder: 1 or 2


@dataclass(frozen=True, kw_only=True)
class Pretraining:
    data: str
    mask: str
    mask_ratio: float
    stride_frames: int
    decoder_layers: int
    epochs: int | None = None
    decoder_mask: str | None = None
    decoder_mask_ratio: float | None = None


@dataclass(frozen=True, kw_only=True)
class Result:
    """A published figure, in percent. `protocol` is frames x clips x crops, or a sentence where that says nothing."""

    data: str
    protocol: str
    top1: float | None = None
    top5: float | None = None
    map: float | None = None

    @property
    def views(self) -> tuple[int, int, int] | None:
        """(frames, clips, crops), where the protocol is of that kind."""
        match = re.fullmatch(r"(\d+)x(\d+)x(\d+)", self.protocol)
        return (int(match[1]), int(match[2]), int(match[3])) if match else None


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """One released checkpoint. `release` is also the layout of its file, as the converter knows it."""

    name: str
    release: str
    head: str  # pretrain, classify, features or detect
    preset: str
    weights: str
    paper: str
    source: str
    license: str
    version: int
    license_note: str | None = None
    pretraining: Pretraining | None = None
    post_pretraining: str | None = None  # supervised training between pre-training and the last fine-tuning
    finetuning: str | None = None
    labels: str | None = None
    sampling: dict[str, Any] | None = None  # how frames of a clip were chosen: fields of a ClipSampling
    recipe: str | None = None  # of the last stage, in training/recipes.py
    results: tuple[Result, ...] = ()
    base_model: str | None = None
    teacher: str | None = None
    hub: str | None = None
    download: str | None = None
    file: str | None = None
    note: str | None = None

    @property
    def num_labels(self) -> int:
        return LABEL_SETS[self.labels].count if self.labels else 0

    @property
    def released(self) -> bool:
        return self.weights in ("public", "on_request")


@functools.lru_cache(maxsize=1)
def _content() -> dict[str, Any]:
    return yaml.safe_load(ZOO.read_text(encoding="utf-8"))


@functools.lru_cache(maxsize=1)
def releases() -> dict[str, Release]:
    return {name: Release(**row) for name, row in _content()["releases"].items()}


@functools.lru_cache(maxsize=1)
def load_zoo() -> dict[str, Checkpoint]:
    """All checkpoints by name, in the order of the file; what the file got wrong is a ValueError with the name."""
    zoo = {}
    for row in _content()["checkpoints"]:
        checkpoint = _checkpoint(row)
        if checkpoint.name in zoo:
            raise ValueError(f"{ZOO.name}: {checkpoint.name} is listed twice")
        zoo[checkpoint.name] = checkpoint
    for checkpoint in zoo.values():
        for field in ("base_model", "teacher"):
            other = getattr(checkpoint, field)
            if other is not None and other not in zoo:
                raise ValueError(f"{ZOO.name}: {checkpoint.name} names {field} {other!r}, which is not listed")
    return zoo


def entry(name: str) -> Checkpoint:
    """The checkpoint of that zoo name or Hub name (`videomae-base` or `MCG-NJU/videomae-base`)."""
    zoo = load_zoo()
    if name in zoo:
        return zoo[name]
    by_hub = {checkpoint.hub: checkpoint for checkpoint in zoo.values() if checkpoint.hub}
    if name in by_hub:
        return by_hub[name]
    nearest = difflib.get_close_matches(name, [*zoo, *by_hub], n=3)
    hint = f"; did you mean {' or '.join(nearest)}?" if nearest else f"; {ZOO.name} lists what there is"
    raise ValueError(f"no released checkpoint is called {name!r}{hint}")


def _checkpoint(row: dict[str, Any]) -> Checkpoint:
    name = row.get("name", "a checkpoint without a name")
    unknown = set(row) - {field.name for field in fields(Checkpoint)}
    if unknown:
        raise ValueError(f"{ZOO.name}: {name} has unknown fields: {', '.join(sorted(unknown))}")
    for field, known in (
        ("release", releases()),
        ("head", HEADS),
        ("preset", PRESETS),
        ("weights", WEIGHTS),
        ("labels", [*LABEL_SETS, None]),
    ):
        if row.get(field) not in known:
            choices = ", ".join(str(choice) for choice in known if choice)
            raise ValueError(f"{ZOO.name}: {name} has {field} {row.get(field)!r}; choose one of {choices}")
    release = releases()[row["release"]]
    inherited = {key: getattr(release, key) for key in ("paper", "source", "license", "license_note", "version")}
    if row.get("pretraining"):
        row = {**row, "pretraining": Pretraining(**row["pretraining"])}
    return Checkpoint(**{**inherited, **row, "results": tuple(Result(**result) for result in row.get("results", ()))})
