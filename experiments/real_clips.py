"""Does pre-training on a few real clips pay? From scratch, V1 and V2 on small sets of real videos, on a CPU.

    python experiments/real_clips.py --data CLIPS --output runs/real_clips                   # everything, in order
    python experiments/real_clips.py --data CLIPS --output runs/real_clips --cells 'finetune/lip/*'
    python experiments/real_clips.py --data CLIPS --output runs/real_clips --table           # only the table so far

CLIPS holds videos and `subsets/NAME_train.csv`, `NAME_val.csv` ("path label" a line). The videos are made small first: 10
evenly spaced frames, squeezed to 40 x 40 so that no side is cut off. Each cell of the experiment is a file
`cells/NAME.json` in the output folder. A cell that exists is not run again, whatever the options, and an interrupted
training resumes from its last checkpoint, so the same command continues after any end. Names of cells:

    trivial/SUBSET      two ridge regressions: on a grey middle frame, and on a coarse grid of motion
    pretrain/START      v1 and v2 on the training clips of all subsets, without labels, at equal processor time
    finetune/SUBSET/START/SEED    same steps and augmentation from each start; the last weights are tested
    probe/SUBSET/START  linear and attentive probe on the frozen encoder
    .../masks-...       the same with short pre-trainings that differ in the masks only
"""

import argparse
import contextlib
import dataclasses
import fnmatch
import functools
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch.nn import functional as F
from transformers.utils import logging as transformers_logging

from videomae import train_classification, train_pretrain
from videomae.data import samples
from videomae.data.encoding import Recoding
from videomae.data.lists.layouts import open_manifest
from videomae.data.transforms import resize
from videomae.evaluation.probes import probe_models
from videomae.files import check_output, today, write_atomic, write_json
from videomae.sampling_videomae import ClipSampling, validation_clip
from videomae.training.options import FinetuneOptions, PretrainOptions
from videomae.training.recipes import FINETUNING, PRETRAINING, PretrainRecipe
from videomae.video_io import VideoReader
from videomae.video_processing_videomae import VideoMAEVideoProcessor

SUBSETS = ("lip", "interact", "yoga", "sign", "fight")
STORED_FRAMES, STORED_SIDE, STORED_FPS = 10, 40, 15.0
FRAME_GRID, MOTION_GRID = (16, 16), (8, 8, 8)  # (h, w) and (t, h, w)
TIMED_STEPS = 20

# The model and the rates are those of the recipes `tiny`; patches of 4 x 4 pixels in crops of 32 x 32: 4 x 8 x 8 tokens.
CLIP = {
    "image_size": 32,
    "num_frames": 8,
    "stride_frames": 1,
    "config": {**PRETRAINING["tiny"].config, "patch_size": 4},
}
V1 = dataclasses.replace(PRETRAINING["tiny"], **CLIP, crop_scales=(1.0,), flip=0.5, num_samples=2)
SCRATCH = "scratch"
STARTS: dict[str, PretrainRecipe] = {
    "v1": V1,
    "v2": dataclasses.replace(V1, version=2, decoder_mask="running_cell"),
    "masks-tube-90": dataclasses.replace(V1, mask_ratio=0.9),
    "masks-tube-75": V1,
    "masks-random-90": dataclasses.replace(V1, mask="random", mask_ratio=0.9),
    "masks-random-75": dataclasses.replace(V1, mask="random"),
}
COMPARED = (SCRATCH, "v1", "v2")
MASKS = tuple(name for name in STARTS if name.startswith("masks-"))

FINETUNE = dataclasses.replace(
    FINETUNING["tiny"], **CLIP, flip=0.5, crop_area=(0.8, 1.0), drop_path_rate=0.1, layer_decay=None, test_crops=1
)
EPOCHS = {"lip": 20, "interact": 80, "yoga": 80, "sign": 80, "fight": 40}  # 1500, 400, 320, 560, 560 steps
PEAK_LR = {SCRATCH: 1e-3, "pre-trained": 2e-3}  # the recipe has 2e-3; fresh weights do better at half of it
LR_BATCH = 256  # the recipes' learning rates are for so many clips a step


# ------------------------------------------------------------------------------------------------------------- data


def entries(listed: Path) -> list[tuple[str, int]]:
    """The paths and labels of a list."""
    pairs = (line.rsplit(maxsplit=1) for line in listed.read_text(encoding="utf-8").splitlines())
    return [(path, int(label)) for path, label in pairs]


def write_list(listed: Path, rows: Sequence[tuple[str, int]]) -> None:
    write_atomic(listed, "".join(f"{path} {label}\n" for path, label in rows))


def small_path(path: str) -> str:
    return str(Path("videos", path).with_suffix(".mp4"))


def prepare(data: Path, folder: Path, subsets: Sequence[str]) -> None:
    """Write each clip small and short, once, and the lists of the subsets and of all training clips."""
    check_output(folder)
    rule = ClipSampling(strategy="uniform", rule="exact", num_frames=STORED_FRAMES)
    recoding, pooled = Recoding(short_side=STORED_SIDE, quality=12), []
    for name in subsets:
        for split in ("train", "val"):
            rows = entries(data / "subsets" / f"{name}_{split}.csv")
            for path, _ in rows:
                target = folder / small_path(path)
                if not target.exists():
                    with VideoReader(str(data / path)) as video:
                        frames = video.read(validation_clip(video.num_frames, rule)).permute(0, 3, 1, 2)
                    frames = resize(frames, (STORED_SIDE, STORED_SIDE), antialias=True).permute(0, 2, 3, 1)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    write_atomic(target, recoding.encode(iter(frames.contiguous().numpy()), STORED_FPS))
            rows = [(small_path(path), label) for path, label in rows]
            write_list(folder / f"{name}_{split}.csv", rows)
            pooled += rows if split == "train" else []
    write_list(folder / "all_train.csv", pooled)


@functools.cache
def stored_frames(path: str) -> torch.Tensor:
    with VideoReader(path) as video:
        return video.read(range(video.num_frames))


@contextlib.contextmanager
def clips_in_memory() -> Iterator[None]:
    """Decode each small clip once in this process: else decoding takes longer than a step of so small a model."""

    @contextlib.contextmanager
    def open_stored(source: str, *_: Any, **__: Any) -> Iterator[SimpleNamespace]:
        frames = stored_frames(str(source))

        def read(indices: Sequence[int], *, short_side: int | None = None, part: Any = None) -> torch.Tensor:
            top, left, height, width = part(*frames.shape[1:3]) if part else (0, 0, *frames.shape[1:3])
            return frames[list(indices), top : top + height, left : left + width]

        yield SimpleNamespace(num_frames=len(frames), truncated=False, read=read)

    before, samples.open_clip = samples.open_clip, open_stored
    try:
        yield
    finally:
        samples.open_clip = before


def grey_clips(listed: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """All clips of a list as (n, T, H, W) grey in [0, 1], and their labels."""
    rows = entries(listed)
    clips = [stored_frames(str(listed.parent / path)).float().mean(dim=-1) / 255 for path, _ in rows]
    return torch.stack(clips), torch.tensor([label for _, label in rows])


# ---------------------------------------------------------------------------------------------- trivial classifiers


def frame_features(clips: torch.Tensor) -> torch.Tensor:
    """(n, T, H, W) -> the middle frame on a coarse grid, which shows no motion."""
    return F.adaptive_avg_pool2d(clips[:, clips.shape[1] // 2], FRAME_GRID).flatten(1)


def motion_features(clips: torch.Tensor) -> torch.Tensor:
    """(n, T, H, W) -> mean absolute change between neighbouring frames, by cells of time and place."""
    return F.adaptive_avg_pool3d((clips[:, 1:] - clips[:, :-1]).abs(), MOTION_GRID).flatten(1)


def ridge_predictions(train: torch.Tensor, labels: torch.Tensor, test: torch.Tensor, num_classes: int) -> torch.Tensor:
    """Classes of the test rows by ridge regression to one-hot labels on standardised features.

    The penalty is the one with the least leave-one-out error on the training rows, which has a closed form.
    """
    mean, std = train.mean(dim=0), train.std(dim=0).clamp_min(1e-6)
    train, test = ((train - mean) / std).double(), ((test - mean) / std).double()
    targets = F.one_hot(labels, num_classes).double()
    centre = targets.mean(dim=0)
    u, s, vh = torch.linalg.svd(train, full_matrices=False)
    projected = u.T @ (targets - centre)
    best_error, best_weight = float("inf"), None
    for penalty in 10.0 ** torch.arange(-1, 7, 0.5):
        shrink = s.square() / (s.square() + penalty)
        leverage = u.square() @ shrink + 1 / len(train)
        error = ((targets - centre - (u * shrink) @ projected) / (1 - leverage)[:, None]).square().mean().item()
        if error < best_error:
            best_error, best_weight = error, vh.T @ ((s / (s.square() + penalty))[:, None] * projected)
    return (test @ best_weight + centre).argmax(dim=1)


def accuracy(predicted: torch.Tensor, labels: torch.Tensor) -> float:
    return (predicted == labels).double().mean().item()


# ------------------------------------------------------------------------------------------------------------- cells


@dataclass(frozen=True)
class Experiment:
    """The folder and the budgets of one experiment, and how each of its cells is made."""

    output: Path
    minutes: float = 20.0  # processor minutes of a pre-training
    mask_minutes: float = 5.0
    epochs: float = 1.0  # factor on the epochs of fine-tuning
    peak_lr: float | None = None
    threads: int = 1

    def listed(self, subset: str, split: str) -> Path:
        return self.output / "clips" / f"{subset}_{split}.csv"

    def run(self, cell: str) -> dict[str, Any]:
        """Make a cell, or read it where it is made already. The minutes of interrupted starts count too."""
        path = self.output / "cells" / f"{cell}.json"
        if path.exists():
            return json.loads(path.read_text(encoding="utf-8"))
        kind, *names = cell.split("/")
        if kind in ("finetune", "probe") and names[1] != SCRATCH:
            self.run(f"pretrain/{names[1]}")  # before the clock of this cell starts
        spent = self.output / "runs" / f"{'-'.join([kind, *names])}-minutes.json"
        before = json.loads(spent.read_text(encoding="utf-8")) if spent.exists() else 0.0
        print(f"{cell} ...", flush=True)
        began = time.process_time()
        try:
            record = getattr(self, kind)(*names)
        finally:
            minutes = before + (time.process_time() - began) / 60
            spent.parent.mkdir(parents=True, exist_ok=True)
            write_json(spent, minutes)
        machine = f"{os.cpu_count()} CPU cores ({platform.machine()}), {self.threads} used, torch {torch.__version__}"
        record = {"cell": cell, "date": today(), "machine": machine, "minutes": minutes, **record}
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, record)
        print(f"{cell}: {json.dumps(record)}", flush=True)
        return record

    def trivial(self, subset: str) -> dict[str, Any]:
        (train, labels), (test, test_labels) = (grey_clips(self.listed(subset, split)) for split in ("train", "val"))
        num_classes = int(labels.max()) + 1
        scores = {
            name: accuracy(ridge_predictions(features(train), labels, features(test), num_classes), test_labels)
            for name, features in (("frame", frame_features), ("motion", motion_features))
        }
        majority = test_labels.bincount().max().item() / len(test_labels)
        return {"chance": 1 / num_classes, "majority": majority, "clips": [len(train), len(test)], **scores}

    def pretrain(self, start: str) -> dict[str, Any]:
        """As many epochs as the budget of processor time allows, by the time of a few steps."""
        budget = self.mask_minutes if start in MASKS else self.minutes
        run, data = self.output / "runs" / f"pretrain-{start}", self.output / "clips" / "all_train.csv"
        options = PretrainOptions(data=str(data), output=str(run), num_workers=0, log_every=50, resume="auto")
        clips = [stored_frames(str(data.parent / path)) for path, _ in entries(data)]
        recipe, planned = STARTS[start], run.with_suffix(".json")
        if not planned.exists():
            trial = dataclasses.replace(options, output=f"{run}-timing", resume="never", max_steps=TIMED_STEPS)
            began = time.process_time()
            finish(train_pretrain.train(dataclasses.replace(recipe, epochs=1000, warmup_epochs=10), trial))
            seconds = (time.process_time() - began) / TIMED_STEPS
            steps_per_epoch = len(clips) // recipe.clips_per_step
            write_json(planned, {"epochs": max(round(60 * budget / (seconds * steps_per_epoch)), 1)})
        epochs = json.loads(planned.read_text(encoding="utf-8"))["epochs"]
        recipe = dataclasses.replace(recipe, name=start, epochs=epochs, warmup_epochs=epochs / 10)
        finish(train_pretrain.train(recipe, options))
        last = json.loads((run / "log.jsonl").read_text(encoding="utf-8").splitlines()[-1])
        return {"epochs": epochs, "steps": last["step"], "loss": last["loss"]}

    def start_folder(self, start: str, seed: int) -> str:
        """The weights to start from: pre-trained ones, or fresh ones in a folder of the same kind."""
        if start != SCRATCH:
            return str(self.output / "runs" / f"pretrain-{start}" / "final")
        folder = self.output / "runs" / f"fresh-{seed}"
        if not (folder / "config.json").exists():
            size, sampling = V1.image_size, ClipSampling(num_frames=V1.num_frames, stride_frames=V1.stride_frames)
            sizes = {"size": {"shortest_edge": size}, "crop_size": {"height": size, "width": size}}
            VideoMAEVideoProcessor(**sizes, sampling=sampling).save_pretrained(folder)
            train_pretrain.build_model(dataclasses.replace(V1, seed=seed)).save_pretrained(folder)
        return str(folder)

    def finetune(self, subset: str, start: str, seed: str) -> dict[str, Any]:
        epochs = max(round(self.epochs * EPOCHS[subset]), 1)
        peak = self.peak_lr or PEAK_LR[SCRATCH if start == SCRATCH else "pre-trained"]
        run = self.output / "runs" / f"finetune-{subset}-{start}-{seed}"
        recipe = dataclasses.replace(
            FINETUNE,
            name=run.name,
            model=self.start_folder(start, int(seed)),
            config={},
            epochs=epochs,
            warmup_epochs=epochs / 10,
            base_lr=peak * LR_BATCH / FINETUNE.clips_per_step,
            seed=int(seed),
        )
        data = {"data": str(self.listed(subset, "train")), "test_data": str(self.listed(subset, "val"))}
        options = FinetuneOptions(**data, output=str(run), num_workers=0, log_every=50, resume="auto")
        finish(train_classification.train(recipe, options))
        results = json.loads((run / "test" / "results.json").read_text(encoding="utf-8"))
        return {"top1": results["metrics"]["top1"], "epochs": epochs, "peak_lr": peak}

    def probe(self, subset: str, start: str) -> dict[str, Any]:
        train, test = (open_manifest(self.listed(subset, split)) for split in ("train", "val"))
        model = self.start_folder(start, 0)
        found = probe_models(model, train, test, ("linear", "attentive"), quiet=True)
        return {name: scores["top1"] for name, scores in found[model]["probes"].items()}


def finish(code: int) -> None:
    """Leave with the code of a training that was told to stop."""
    if code:
        raise SystemExit(code)


def all_cells(subsets: Sequence[str], seeds: Sequence[int]) -> list[str]:
    """Every cell, those that decide most first."""

    def tuned(subsets: Sequence[str], starts: Sequence[str], seeds: Sequence[int]) -> list[str]:
        return [f"finetune/{subset}/{start}/{seed}" for seed in seeds for subset in subsets for start in starts]

    def probed(starts: Sequence[str]) -> list[str]:
        return [f"probe/{subset}/{start}" for subset in subsets for start in starts]

    cells = [f"trivial/{subset}" for subset in subsets]
    cells += ["pretrain/v1", *tuned(subsets[:2], COMPARED[:2], seeds[:1]), *probed(COMPARED[:2])]
    cells += [*tuned(subsets, COMPARED, seeds[:1]), *probed(COMPARED), *tuned(subsets[:2], COMPARED, seeds)]
    cells += [*(f"probe/{subsets[0]}/{start}" for start in MASKS), *tuned(subsets[:1], MASKS, seeds[:1])]
    return list(dict.fromkeys([*cells, *tuned(subsets, COMPARED, seeds)]))


# ------------------------------------------------------------------------------------------------------------- table


def read_cells(output: Path) -> dict[str, dict[str, Any]]:
    records = [json.loads(path.read_text(encoding="utf-8")) for path in sorted((output / "cells").rglob("*.json"))]
    return {record["cell"]: record for record in records}


def percent(values: Sequence[float]) -> str:
    """One value, or mean, standard deviation and number of seeds; a dash where nothing was run."""
    spread = f" ± {100 * statistics.stdev(values):.1f} ({len(values)})" if len(values) > 1 else ""
    return f"{100 * statistics.mean(values):.1f}{spread}" if values else "-"


def markdown(head: str, rows: Sequence[Sequence[str]]) -> str:
    columns = head.split(" | ")
    return "\n".join("| " + " | ".join(row) + " |" for row in (columns, ["---"] * len(columns), *rows))


def tables(cells: dict[str, dict[str, Any]]) -> str:
    """The results so far as Markdown: fine-tuning, probes, pre-trainings. Top-1 in percent, one clip in two views."""
    subsets = [subset for subset in SUBSETS if any(f"/{subset}" in cell for cell in cells)]
    first = next(iter(subsets), SUBSETS[0])

    def tuned(subset: str, start: str, field: str = "top1") -> list[float]:
        return [record[field] for cell, record in cells.items() if cell.startswith(f"finetune/{subset}/{start}/")]

    def probed(subset: str, start: str) -> str:
        record = cells.get(f"probe/{subset}/{start}")
        return f"{100 * record['linear']:.1f} / {100 * record['attentive']:.1f}" if record else "-"

    main = []
    for subset in subsets:
        floor = cells.get(f"trivial/{subset}", {})
        spent = [minutes for start in COMPARED for minutes in tuned(subset, start, "minutes")]
        row = [f"{subset}, {' / '.join(map(str, floor['clips']))}" if floor else subset]
        row += [percent([floor[name]] if floor else []) for name in ("chance", "majority", "frame", "motion")]
        row += [percent(tuned(subset, start)) for start in COMPARED]
        row += [f"{statistics.mean(spent):.1f}" if spent else "-", f"`'trivial/{subset}' 'finetune/{subset}/*'`"]
        main.append(row)
    probes = [[name, *(probed(name, start) for start in COMPARED), f"`'probe/{name}/*'`"] for name in subsets]
    trained = []
    for start in STARTS:
        if record := cells.get(f"pretrain/{start}"):
            row = [start, f"{record['minutes']:.1f}", str(record["epochs"]), f"{record['loss']:.4f}"]
            row += [probed(first, start), percent(tuned(first, start)), f"`'*{start}*'`"]
            trained.append(row)
    dates = sorted({record["date"] for record in cells.values()})
    machines = sorted({record["machine"] for record in cells.values()})
    parts = [
        f"{' to '.join(dict.fromkeys(dates[:1] + dates[-1:]))}, {'; '.join(machines)}. Minutes are processor minutes.",
        markdown(
            "set, train / val clips | chance | majority | frame | motion | scratch | V1 | V2 | minutes each | `--cells`",
            main,
        ),
        markdown("probe: linear / attentive | fresh weights | V1 | V2 | `--cells`", probes),
        markdown(
            f"pre-training | minutes | epochs | last loss | {first}: probe | {first}: fine-tuned | `--cells`",
            trained,
        ),
    ]
    return "\n\n".join(parts) + "\n"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with subsets/ and the videos")
    parser.add_argument("--output", type=Path, required=True, help="folder for small clips, runs, cells and the table")
    parser.add_argument(
        "--subsets", nargs="+", default=list(SUBSETS), choices=SUBSETS, metavar="NAME", help="[%(default)s]"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], metavar="N", help="of fine-tuning [0 1 2]")
    parser.add_argument("--minutes", type=float, default=20, help="processor minutes of a pre-training [%(default)s]")
    parser.add_argument("--mask_minutes", type=float, default=5, help="of one that compares masks [%(default)s]")
    parser.add_argument("--epochs", type=float, default=1, help="factor on the epochs of fine-tuning [%(default)s]")
    parser.add_argument("--peak_lr", type=float, help="of fine-tuning [what was chosen for each start]")
    parser.add_argument("--cells", nargs="+", metavar="PATTERN", default=["*"], help="only cells that match")
    parser.add_argument("--threads", type=int, default=1, help="of torch [%(default)s]")
    parser.add_argument("--table", action="store_true", help="run nothing; print and write the table of what there is")
    given = parser.parse_args(argv)
    torch.set_num_threads(given.threads)
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()  # that a decoder or a head is left out is the point here
    budgets = {name: getattr(given, name) for name in ("minutes", "mask_minutes", "epochs", "peak_lr", "threads")}
    if not given.table:
        prepare(given.data, given.output / "clips", given.subsets)
        with clips_in_memory():
            for cell in all_cells(given.subsets, given.seeds):
                if any(fnmatch.fnmatch(cell, pattern) for pattern in given.cells):
                    Experiment(given.output, **budgets).run(cell)
    if not (cells := read_cells(given.output)):
        raise ValueError(f"--output {given.output} has no cells yet; run without --table first")
    write_atomic(given.output / "table.md", tables(cells))
    print(tables(cells))
    return 0


if __name__ == "__main__":
    sys.exit(main())
