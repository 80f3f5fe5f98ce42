"""The files of a Hub Space that shows the page of page.py: app.py, requirements.txt, README.md, and what they need.

The package itself goes along as a folder, since a Space can install only what an index has; so do models that are
folders. Models that are names stay names.
"""

import importlib.metadata
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import videomae
from videomae.files import new_folder, write_atomic
from videomae.models import check_name, open_config

KINDS = {"model": "ForVideoClassification", "pretrained": "ForPreTraining", "action_detector": "ForActionDetection"}
PREINSTALLED = {"gradio"}  # in a Space of that sdk, so not among its requirements
TEXT = (".py", ".yaml", ".md", ".jinja")
APP = '''"""The page of `videomae app`, as a Space."""

from videomae.commands.main import main

main({arguments!r})
'''
README = """---
title: VideoMAE
emoji: 🎬
colorFrom: indigo
colorTo: yellow
sdk: gradio
sdk_version: {sdk_version}
app_file: app.py
{models}pinned: false
---

A page to try VideoMAE: labels over time, attention{more}. Written by `videomae app ... --write_space`.
The weights keep the licence of whoever released them.
"""
ATTRIBUTES = "*.safetensors filter=lfs diff=lfs merge=lfs -text\n*.bin filter=lfs diff=lfs merge=lfs -text\n"


def write_space(folder: str | Path, **models: str | None) -> Path:
    """Write a Space into a new folder; `models` are the arguments of `videomae app`, by name."""
    given = {name: value for name, value in models.items() if value}
    if not given.keys() & KINDS.keys():
        raise ValueError("a Space needs a model: a classifier, --pretrained or --action_detector")
    for name, value in given.items():
        argument = "model" if name == "model" else f"--{name}"
        if name in KINDS and Path(value).exists():
            open_config(value, argument, kind=KINDS[name])
        elif name != "actions":
            check_name(value, argument)
    with new_folder(folder) as beside:
        arguments, names = [], []
        for name, value in given.items():
            if Path(value).is_dir():
                copy_model(Path(value), beside / name)
                word = name
            elif name == "actions":
                word = f"actions{Path(value).suffix}"
                shutil.copy(value, beside / word)
            else:
                word = value
                names.append(value)
            arguments += [word] if name == "model" else [f"--{name}", word]
        write_atomic(beside / "app.py", APP.format(arguments=["app", *arguments, "--host", "0.0.0.0"]))
        write_atomic(beside / "requirements.txt", "".join(f"{line}\n" for line in requirements()))
        write_atomic(beside / "README.md", readme(names, given))
        write_atomic(beside / ".gitattributes", ATTRIBUTES)
        copy_package(beside / "videomae")
    return Path(folder)


def readme(names: list[str], given: Mapping[str, str]) -> str:
    more = [
        text for name, text in (("pretrained", ", reconstructions"), ("action_detector", ", actions")) if name in given
    ]
    models = "".join(["models:\n", *(f"- {name}\n" for name in names)]) if names else ""
    return README.format(sdk_version=sdk_version(), models=models, more="".join(more))


def sdk_version() -> str:
    """The gradio of this machine, or the least one that the package asks for."""
    try:
        return importlib.metadata.version("gradio")
    except importlib.metadata.PackageNotFoundError:
        asked = next(line for line in importlib.metadata.requires("videomae") or () if line.startswith("gradio"))
        return re.findall(r"[\d.]+", asked)[0] + ".0.0"


def requirements() -> list[str]:
    """What the package depends on, as its own metadata says."""
    lines = importlib.metadata.requires("videomae") or []
    return [line for line in lines if ";" not in line and re.findall(r"[\w-]+", line)[0] not in PREINSTALLED]


def copy_model(source: Path, folder: Path) -> None:
    """What `from_pretrained` reads of a model folder, and its card; not the state of training."""
    folder.mkdir()
    weights = [*source.glob("*.safetensors")] or [*source.glob("pytorch_model*.bin")]
    for path in sorted([*weights, *(path for path in source.iterdir() if path.suffix in (".json", ".md", ".txt"))]):
        shutil.copy(path, folder / path.name)


def copy_package(folder: Path) -> None:
    """The package's modules and the text files beside them, without tests, documents and benchmarks."""
    root = Path(videomae.__file__).parent
    folder.mkdir()
    for path in sorted(root.iterdir()):
        if path.is_dir() and (path / "__init__.py").is_file():
            shutil.copytree(path, folder / path.name, ignore=_not_text)
        elif path.suffix == ".py":
            shutil.copy(path, folder / path.name)
    licence = root / "LICENSE"
    if licence.is_file():
        shutil.copy(licence, folder / "LICENSE")


def _not_text(folder: str, names: list[str]) -> list[str]:
    paths = [Path(folder) / name for name in names if name != "__pycache__"]
    return ["__pycache__", *(path.name for path in paths if path.is_file() and path.suffix not in TEXT)]
