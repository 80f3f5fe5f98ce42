"""Pixel or latent targets, at equal encoder and equal processor time: what frozen features are worth after each.

    python experiments/latent_targets.py --output runs/latent_targets                      # synthetic motions, 3 seeds
    python experiments/latent_targets.py --output runs/lip --train lip_train.csv --test lip_val.csv --image_size 48 \\
        --patch_size 12 --stride_frames 1                                                  # lists of small clips

    pixel-tube    V1: tube mask, pixels
    pixel-blocks  short and long blocks, pixels
    latent        the first quarter of the time trains a teacher as pixel-blocks, the rest a student of the same size

Each arm makes as many steps as fit into --minutes of processor time, by the time of some steps. The probes are those of
`videomae probe`: linear, and k-NN. Random weights stand beside them. Clips are decoded once and kept in memory; the lists of
experiments/real_clips.py (OUTPUT/clips) have clips that are small enough. A result is a file in OUTPUT/cells and is not
made again; an interrupted training resumes.
"""

import argparse
import dataclasses
import json
import os
import platform
import shutil
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from real_clips import LR_BATCH, TIMED_STEPS, clips_in_memory, finish

from videomae import train_pretrain
from videomae.app.demo import MODEL
from videomae.data.lists.layouts import open_manifest
from videomae.data.synthetic import SyntheticSet, make_synthetic_set
from videomae.evaluation.probes import probe_models
from videomae.files import today, write_json
from videomae.training.options import PretrainOptions
from videomae.training.recipes import PRETRAINING, PretrainRecipe
from videomae.training.runs import read_log

ARMS = ("pixel-tube", "pixel-blocks", "latent", "random")
PROBES = ("linear", "knn")
TEACHER_SHARE = 0.25
CLIPS = 16  # of a step; two crops of each
SYNTHETIC = SyntheticSet(
    clips=1600, validation_clips=0, test_clips=400, num_frames=16, height=32, width=32, distractors=0
)


@dataclass(frozen=True)
class Experiment:
    """The lists, the size of clips, and the processor minutes of an arm."""

    output: Path
    train: Path
    test: Path
    minutes: float
    image_size: int
    patch_size: int
    stride_frames: int

    def recipe(self, name: str, seed: int, **more: Any) -> PretrainRecipe:
        return dataclasses.replace(
            PRETRAINING["tiny"],
            name=name,
            image_size=self.image_size,
            stride_frames=self.stride_frames,
            config={**MODEL, "patch_size": self.patch_size},
            crop_scales=(1.0, 0.875),
            num_samples=2,
            clips_per_step=CLIPS,
            base_lr=2e-3 * LR_BATCH / CLIPS,
            min_lr=1e-5 * LR_BATCH / CLIPS,
            seed=seed,
            **more,
        )

    def recipes(self, seed: int, teacher: str) -> dict[str, PretrainRecipe]:
        blocks = self.recipe("pixel-blocks", seed, mask="blocks")
        return {
            "pixel-tube": self.recipe("pixel-tube", seed),
            "pixel-blocks": blocks,
            "teacher": dataclasses.replace(blocks, name="teacher"),
            "latent": dataclasses.replace(blocks, name="latent", targets="latent", teacher=teacher),
        }

    def plan(self) -> None:
        """The epochs of each training, the same for all seeds: by the processor time of steps made one after the other."""
        planned = self.output / "plan.json"
        if planned.exists():
            return
        runs, epochs = self.output / "timing", {}
        shares = {"teacher": TEACHER_SHARE, "latent": 1 - TEACHER_SHARE}
        for name, recipe in self.recipes(0, str(runs / "teacher" / "final")).items():
            options = PretrainOptions(
                data=str(self.train), output=str(runs / name), num_workers=0, max_steps=5 * TIMED_STEPS
            )
            shutil.rmtree(runs / name, ignore_errors=True)
            began = time.process_time()
            finish(train_pretrain.train(dataclasses.replace(recipe, epochs=1000, warmup_epochs=10), options))
            seconds = (time.process_time() - began) / (5 * TIMED_STEPS)
            steps = len(open_manifest(str(self.train))) // CLIPS
            epochs[name] = max(round(60 * self.minutes * shares.get(name, 1.0) / (seconds * steps)), 2)
        write_json(planned, epochs)

    def pretrain(self, recipe: PretrainRecipe) -> dict[str, Any]:
        """The planned training; its folder, steps, last loss and measured minutes."""
        run = self.output / "runs" / f"{recipe.name}-{recipe.seed}"
        options = PretrainOptions(data=str(self.train), output=str(run), num_workers=0, log_every=50, resume="auto")
        epochs = json.loads((self.output / "plan.json").read_text(encoding="utf-8"))[recipe.name]
        began = time.process_time()
        finish(train_pretrain.train(dataclasses.replace(recipe, epochs=epochs, warmup_epochs=epochs / 10), options))
        spent = (time.process_time() - began) / 60
        last = read_log(run / "log.jsonl")[-1]
        return {"folder": str(run / "final"), "steps": last["step"], "loss": last["loss"], "minutes": spent}

    def arm(self, name: str, seed: int) -> dict[str, Any]:
        """Train an arm and probe its encoder."""
        recipes = self.recipes(seed, str(self.output / "runs" / f"teacher-{seed}" / "final"))
        if name == "random":
            folder, trained = (
                str(self.output / "runs" / f"pixel-tube-{seed}" / "final"),
                {"steps": 0},
            )  # its architecture
        elif name == "latent":
            teacher, trained = self.pretrain(recipes["teacher"]), self.pretrain(recipes[name])
            trained = {**trained, "minutes": trained["minutes"] + teacher["minutes"], "teacher_steps": teacher["steps"]}
            folder = trained["folder"]
        else:
            trained = self.pretrain(recipes[name])
            folder = trained["folder"]
        lists = (open_manifest(str(listed)) for listed in (self.train, self.test))
        baseline = {"baseline": "random"} if name == "random" else {}
        found = probe_models(folder, *lists, PROBES, seed=seed, quiet=True, **baseline)
        scores = found["random" if name == "random" else folder]["probes"]
        return {**trained, **{probe: scores[probe]["top1"] for probe in PROBES}}

    def cell(self, name: str, seed: int) -> dict[str, Any]:
        """The result of an arm and seed, made once."""
        path = self.output / "cells" / f"{name}-{seed}.json"
        if not path.exists():
            machine = f"{os.cpu_count()} CPU cores ({platform.machine()}), 1 thread, torch {torch.__version__}"
            record = {"date": today(), "machine": machine, **self.arm(name, seed)}
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, record)
            print(f"{name}, seed {seed}: {json.dumps(record)}", flush=True)
        return json.loads(path.read_text(encoding="utf-8"))


def table(cells: dict[str, list[dict[str, Any]]]) -> str:
    """One line an arm: mean and, with several seeds, standard deviation of the probes in percent."""

    def percent(values: Sequence[float]) -> str:
        spread = f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
        return f"{100 * statistics.mean(values):.1f}{spread}"

    lines = ["| arm | seeds | steps | processor minutes | linear | k-NN |", "|---|---|---|---|---|---|"]
    for name, records in cells.items():
        steps = "/".join(str(round(statistics.mean(each))) for each in zip(*map(steps_of, records)))
        minutes = statistics.mean(record.get("minutes", 0.0) for record in records)
        scores = [percent([record[probe] for record in records]) for probe in PROBES]
        lines.append(f"| {name} | {len(records)} | {steps} | {minutes:.1f} | {scores[0]} | {scores[1]} |")
    return "\n".join(lines)


def steps_of(record: dict[str, Any]) -> list[int]:
    """Steps of the training, or of the teacher and of the student."""
    return [record[name] for name in ("teacher_steps", "steps") if name in record]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder of clips, runs and cells")
    parser.add_argument("--train", type=Path, help="labelled list of small clips [synthetic motions]")
    parser.add_argument("--test", type=Path, help="its test list")
    parser.add_argument("--minutes", type=float, default=2.5, help="processor minutes of an arm [%(default)s]")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--image_size", type=int, default=32)
    parser.add_argument("--patch_size", type=int, default=8)
    parser.add_argument("--stride_frames", type=int, default=2)
    arguments = vars(parser.parse_args(argv))
    if (arguments["train"] is None) is not (arguments["test"] is None):
        parser.error("--train and --test go together")
    torch.set_num_threads(1)
    seeds, arms, output = arguments.pop("seeds"), arguments.pop("arms"), arguments["output"]
    if arguments["train"] is None:
        videos = output / "motion"
        if not videos.exists():
            make_synthetic_set(videos, SYNTHETIC)
        arguments |= {"train": videos / "train.csv", "test": videos / "test.csv"}
    experiment = Experiment(**arguments)
    cells: dict[str, list[dict[str, Any]]] = {}
    with clips_in_memory():
        experiment.plan()
        for seed in seeds:
            for name in filter(arms.__contains__, ARMS):
                cells.setdefault(name, []).append(experiment.cell(name, seed))
    print(table(cells))
    return 0


if __name__ == "__main__":
    sys.exit(main())
