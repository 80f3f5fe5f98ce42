"""The card of one's own run: what was trained, on what, how, and what came out, written from the run's own records.

The trainers call `write_run_card` for every checkpoint folder they keep; `videomae publish` renders the card again from
the record (`run.json`) that lies beside it. Cards of the released checkpoints are made by build.py.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def write_run_card(
    folder: str | os.PathLike,
    *,
    task: str,
    recipe: Mapping[str, Any],
    clips_per_step: int,
    steps: int,
    data: Mapping[str, Any],
    log: str | os.PathLike | None = None,
    results: Sequence[Mapping[str, Any]] = (),
    base_model: str | None = None,
    license: str | None = None,
    command: str | None = None,
) -> Path:
    """Write README.md, run.json and (with matplotlib) curves.png into a model folder; returns the card's path.

    `folder` is a finished `save_pretrained` folder (config.json is read from it).
    `task` is "pretrain", "classify" or "detect".
    `recipe` is the effective configuration as the run saved it (plain JSON values; nested mappings are flattened).
    `clips_per_step` is the effective batch in decoded clips; `steps` the optimiser steps made so far.
    `data` describes the training data: "name" (what a reader would call it), "manifest_sha256", "clips", and
    optionally "validation", "label_source" or any other short facts; all are shown.
    `log` is the run's JSONL file: one object a line with "step" and numbers ("loss", "lr", "val_top1", ...).
    `results` are evaluations, each {"dataset": str, "protocol": str, "metrics": {"top1": 0.81, ...}} with fractions
    of one, and optionally "split", "videos", "date", "dataset_id" (the data set's name on the Hub), "data_sha256".
    `base_model` is the folder or Hub name that the weights started from; its licence is inherited when `license` is
    not given. `command` is the command line that started the run.
    """
    raise NotImplementedError
