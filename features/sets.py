"""Fréchet video distance between two sets of features: `videomae fvd A B`.

A and B are folders that `videomae features` wrote with the same model and options (`--level video`, or `window`), or
.npy or .safetensors files of vectors.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from videomae.features.extract import differing
from videomae.features.files import read_array

# What must agree for two sets to be comparable; batches, files and their precision need not.
MUST_AGREE = ("weights_sha256", "pooling", "num_frames", "pixels", "clips", "level", "reference")


def read_set(path: str) -> tuple[np.ndarray, dict[str, Any] | None]:
    """The vectors (n, D) of a folder or a file, and, of a folder, what they were made with."""
    folder = Path(path)
    if not folder.is_dir():
        return read_array(folder), None
    manifest = folder / "manifest.json"
    if not manifest.is_file():
        raise FileNotFoundError(f"{path} has no manifest.json; give a folder that `videomae features` wrote")
    described = json.loads(manifest.read_text("utf-8"))
    if not isinstance(described, dict) or not {"identity", "complete", "videos", "broken"} <= described.keys():
        raise ValueError(f"{manifest} is not what `videomae features` writes")
    identity = described["identity"]
    if not described["complete"]:
        raise ValueError(f"{path} is not complete; run the same `videomae features` again to finish it")
    if identity["level"] == "token":
        raise ValueError(f"{path} holds tokens; make features with --level video or window to compare")
    if not described["videos"]:
        raise ValueError(f"{path} holds no features; none of its videos could be read")
    rows = [read_array(folder / video["file"]) for video in described["videos"]]
    return np.concatenate([np.atleast_2d(row) for row in rows]), {**identity, "broken": len(described["broken"])}


def check_comparable(first: dict[str, Any] | None, second: dict[str, Any] | None) -> None:
    if first is None or second is None:
        return
    compared = [{name: identity[name] for name in MUST_AGREE} for identity in (first, second)]
    if changes := differing(compared[0], compared[1]):
        raise ValueError(
            f"the two sets were made in different ways ({'; '.join(changes).replace(', now ', ' against ')}); make both "
            "with one model and the same options"
        )
