"""Measures: modules for `evaluate.load` (video_accuracy, ava_map), and plain functions.

metric = evaluate.load(videomae.metrics.path("video_accuracy"))
"""

from pathlib import Path

MODULES = ("video_accuracy", "ava_map")


def path(name: str) -> str:
    """The folder of a measure, wherever the package is installed; `evaluate.load` takes it without a network."""
    if name not in MODULES:
        raise ValueError(f"there is no measure {name!r}; the modules for evaluate.load are {', '.join(MODULES)}")
    return str(Path(__file__).parent / name)
