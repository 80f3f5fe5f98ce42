"""Does pre-training on a few real clips pay? From scratch, V1 and V2 on small sets of real videos, on a CPU.

    python experiments/real_clips.py --data CLIPS --output runs/real_clips                   # everything, in order
    python experiments/real_clips.py --data CLIPS --output runs/real_clips --cells 'finetune/lip/*'
    python experiments/real_clips.py --data CLIPS --output runs/real_clips --table           # only the table so far

CLIPS holds videos, `meta.csv` (path, split, group) and `subsets/NAME_train.csv`, `NAME_val.csv` ("path label" a line).
Each cell of the experiment is a file `cells/NAME.json` in the output folder. A cell that exists is not run again, and
an interrupted training goes on from its last checkpoint, so the same command continues after any end.

    prepare             every video once: 10 evenly spaced frames, squeezed to 56 x 56
    trivial/SUBSET      two ridge regressions: on a grey middle frame, and on a coarse grid of motion
    pretrain/NAME       V1 and V2 on the training clips of all subsets, without labels, at equal processor time
    finetune/SUBSET/START/SEED    same steps and augmentation from each start; the last weights are tested
    probe/SUBSET/START  linear and attentive probe on the frozen encoder
    masks               the same with short pre-trainings that differ in the masks only
"""

import argparse
import csv
import dataclasses
import fnmatch
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F
from transformers.utils import logging as transformers_logging

from videomae import train_classification, train_pretrain
from videomae.data.encoding import Recoding
from videomae.data.lists.layouts import open_manifest
from videomae.data.transforms import resize
from videomae.evaluation.probes import probe_models
from videomae.files import check_output, today, write_atomic, write_json
from videomae.sampling_videomae import ClipSampling, validation_clip
from videomae.training.options import FinetuneOptions, PretrainOptions
from videomae.training.recipes import FINETUNING, PRETRAINING, FinetuneRecipe, PretrainRecipe
from videomae.video_io import VideoReader
from videomae.video_processing_videomae import VideoMAEVideoProcessor

SUBSETS = ("lip", "interact", "yoga", "sign", "fight")
STORED_FRAMES, STORED_SIDE, STORED_FPS = 10, 56, 15.0
FRAME_GRID, MOTION_GRID = (16, 16), (8, 8, 8)
SCRATCH = "scratch"
CALIBRATION_STEPS = 20

CLIP = {"image_size": 48, "num_frames": 8, "stride_frames": 1}  # with the model of the recipe `tiny`: 144 tokens
LR_BATCH = 256  # the recipes' learning rates are for so many clips a step
V1 = dataclasses.replace(
    PRETRAINING["tiny"],
    **CLIP,
    mask_ratio=0.75,
    crop_scales=(1.0, 0.875),
    flip=0.5,
    clips_per_step=16,
    num_samples=2,
    base_lr=2e-3 * LR_BATCH / 16,
    min_lr=1e-5 * LR_BATCH / 16,
)
V2 = dataclasses.replace(V1, version=2, decoder_mask="running_cell")
STARTS: dict[str, PretrainRecipe] = {
    "v1": V1,
    "v2": V2,
    "masks-tube-90": dataclasses.replace(V1, mask_ratio=0.9),
    "masks-tube-75": V1,
    "masks-random-90": dataclasses.replace(V1, mask="random", mask_ratio=0.9),
    "masks-random-75": dataclasses.replace(V1, mask="random"),
}
MASKS = tuple(name for name in STARTS if name.startswith("masks-"))

FINETUNE = dataclasses.replace(
    FINETUNING["tiny"],
    **CLIP,
    flip=0.5,
    crop_area=(0.5, 1.0),
    clips_per_step=16,
    min_lr=1e-5 * LR_BATCH / 16,
    layer_decay=None,
    drop_path_rate=0.1,
    test_clips=2,
    test_crops=1,
)
EPOCHS = {"lip": 16, "interact": 80, "yoga": 80, "sign": 80, "fight": 32}  # 1200, 400, 320, 560, 448 steps
PEAK_LR = {SCRATCH: 1e-3, "pre-trained": 1e-3}


# ------------------------------------------------------------------------------------------------------------- data


def prepare(data: Path, folder: Path, subsets: Sequence[str]) -> None:
    """Write each clip small and short, once, and the lists of the subsets and of all training clips."""
    check_output(folder)
    rule = ClipSampling(strategy="uniform", rule="exact", num_frames=STORED_FRAMES)
    recoding, pooled = Recoding(short_side=STORED_SIDE, quality=12), []
    for name in subsets:
        for split in ("train", "val"):
            lines = []
            for line in (data / "subsets" / f"{name}_{split}.csv").read_text(encoding="utf-8").splitlines():
                path, label = line.rsplit(maxsplit=1)
                target = Path("videos", path).with_suffix(".mp4")
                if not (folder / target).exists():
                    with VideoReader(str(data / path)) as video:
                        frames = video.read(validation_clip(video.num_frames, rule))
                    frames = resize(frames.permute(0, 3, 1, 2), (STORED_SIDE, STORED_SIDE), antialias=True)
                    (folder / target).parent.mkdir(parents=True, exist_ok=True)
                    pixels = frames.permute(0, 2, 3, 1).contiguous().numpy()
                    write_atomic(folder / target, recoding.encode(iter(pixels), STORED_FPS))
                lines.append(f"{target} {label}\n")
            write_atomic(folder / f"{name}_{split}.csv", "".join(lines))
            pooled += lines if split == "train" else []
    write_atomic(folder / "all_train.csv", "".join(pooled))


def hold_out_groups(data: Path, folder: Path, name: str, every: int = 4) -> None:
    """Split a subset's training list again, by persons or source videos: for choosing a recipe without its val list."""
    with open(data / "meta.csv", encoding="utf-8", newline="") as file:
        groups = {str(Path("videos", row["path"]).with_suffix(".mp4")): row["group"] for row in csv.DictReader(file)}
    lines = (folder / f"{name}_train.csv").read_text(encoding="utf-8").splitlines(keepends=True)
    held = sorted({groups[line.rsplit(maxsplit=1)[0]] for line in lines})[every - 1 :: every]
    for split, inside in (("val", True), ("train", False)):
        kept = [line for line in lines if (groups[line.rsplit(maxsplit=1)[0]] in held) is inside]
        write_atomic(folder / f"{name}-tune_{split}.csv", "".join(kept))


def grey_clips(listed: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """All clips of a list as (n, T, H, W) grey in [0, 1], and their labels."""
    clips, labels = [], []
    for line in listed.read_text(encoding="utf-8").splitlines():
        path, label = line.rsplit(maxsplit=1)
        with VideoReader(str(listed.parent / path)) as video:
            clips.append(video.read(range(video.num_frames)).float().mean(dim=-1) / 255)
        labels.append(int(label))
    return torch.stack(clips), torch.tensor(labels)


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


# ------------------------------------------------------------------------------------------------------------- cells


@dataclass(frozen=True)
class Experiment:
    """The folders and budgets of one experiment, and how each of its cells is made."""

    data: Path
    output: Path
    minutes: float = 20.0  # processor minutes of a pre-training
    mask_minutes: float = 5.0
    threads: int = 1
    epochs: float = 1.0  # factor on the epochs of fine-tuning
    peak_lr: float | None = None

    @property
    def clips(self) -> Path:
        return self.output / "clips"

    def listed(self, subset: str, split: str) -> Path:
        if subset.endswith("-tune") and not (self.clips / f"{subset}_{split}.csv").exists():
            hold_out_groups(self.data, self.clips, subset.removesuffix("-tune"))
        return self.clips / f"{subset}_{split}.csv"

    def run(self, cell: str) -> dict[str, Any]:
        """Make a cell, or read it where it is made already."""
        path = self.output / "cells" / f"{cell}.json"
        if path.exists():
            return json.loads(path.read_text(encoding="utf-8"))
        kind, *names = cell.split("/")
        makers: dict[str, Callable[..., dict[str, Any]]] = {
            "trivial": self.trivial, "pretrain": self.pretrain, "finetune": self.finetune, "probe": self.probe
        }  # fmt: skip
        print(f"{cell} ...", flush=True)
        transformers_logging.disable_progress_bar()
        transformers_logging.set_verbosity_error()  # that a decoder or a head is left out is the point here
        began, worked = time.monotonic(), time.process_time()
        record = makers[kind](*names)
        minutes = {"minutes": (time.process_time() - worked) / 60, "wall_minutes": (time.monotonic() - began) / 60}
        record = {"cell": cell, **minutes, "date": today(), "machine": machine(self.threads), **record}
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, record)
        shown = {name: value for name, value in record.items() if isinstance(value, float)}
        print(f"{cell}: " + ", ".join(f"{name} {value:.3f}" for name, value in shown.items()), flush=True)
        return record

    def trivial(self, subset: str) -> dict[str, Any]:
        train, labels = grey_clips(self.listed(subset, "train"))
        test, test_labels = grey_clips(self.listed(subset, "val"))
        num_classes = int(labels.max()) + 1
        scores = {
            name: accuracy(ridge_predictions(features(train), labels, features(test), num_classes), test_labels)
            for name, features in (("frame", frame_features), ("motion", motion_features))
        }
        majority = test_labels.bincount().max().item() / len(test_labels)
        return {"chance": 1 / num_classes, "majority": majority, "clips": [len(train), len(test)], **scores}

    def pretrain(self, name: str) -> dict[str, Any]:
        """As many epochs as the budget of processor time allows, by the time of a few steps."""
        budget = 60 * (self.mask_minutes if name in MASKS else self.minutes)
        run, recipe = self.output / "runs" / f"pretrain-{name}", STARTS[name]
        options = PretrainOptions(
            data=str(self.clips / "all_train.csv"), output=str(run), num_workers=0, log_every=50, resume="auto"
        )
        planned = self.output / "runs" / f"pretrain-{name}.json"
        if not planned.exists():
            write_json(planned, {"epochs": self.affordable_epochs(recipe, options, budget)})
        epochs = json.loads(planned.read_text())["epochs"]
        recipe = dataclasses.replace(recipe, name=name, epochs=epochs, warmup_epochs=epochs / 10)
        finish(train_pretrain.train(recipe, options))
        last = json.loads((run / "log.jsonl").read_text().splitlines()[-1])
        return {"epochs": epochs, "loss": last["loss"]}

    def affordable_epochs(self, recipe: PretrainRecipe, options: PretrainOptions, budget: float) -> int:
        clips, began = len(open_manifest(options.data)), time.process_time()
        trial = dataclasses.replace(
            options, output=f"{options.output}-timing", resume="never", max_steps=CALIBRATION_STEPS
        )
        finish(train_pretrain.train(dataclasses.replace(recipe, epochs=1000, warmup_epochs=10), trial))
        seconds = (time.process_time() - began) / CALIBRATION_STEPS
        return max(round(budget / (seconds * (clips // recipe.clips_per_step))), 1)

    def start_folder(self, start: str, seed: int) -> Path:
        """The weights to start from: fresh ones in a folder of the same kind, or pre-trained ones."""
        if start != SCRATCH:
            self.run(f"pretrain/{start}")
            return self.output / "runs" / f"pretrain-{start}" / "final"
        folder = self.output / "runs" / f"fresh-{seed}"
        if not (folder / "config.json").exists():
            size = V1.image_size
            processor = VideoMAEVideoProcessor(
                size={"shortest_edge": size},
                crop_size={"height": size, "width": size},
                sampling=ClipSampling(num_frames=V1.num_frames, stride_frames=V1.stride_frames),
            )
            processor.save_pretrained(folder)
            train_pretrain.build_model(dataclasses.replace(V1, seed=seed)).save_pretrained(folder)
        return folder

    def finetune(self, subset: str, start: str, seed: str) -> dict[str, Any]:
        epochs = max(round(self.epochs * EPOCHS[subset.removesuffix("-tune")]), 1)
        peak = self.peak_lr or PEAK_LR[SCRATCH if start == SCRATCH else "pre-trained"]
        run = self.output / "runs" / f"finetune-{subset}-{start}-{seed}"
        recipe: FinetuneRecipe = dataclasses.replace(
            FINETUNE,
            name=run.name,
            model=str(self.start_folder(start, int(seed))),
            config={},
            epochs=epochs,
            warmup_epochs=epochs / 10,
            base_lr=peak * LR_BATCH / FINETUNE.clips_per_step,
            seed=int(seed),
        )
        options = FinetuneOptions(
            data=str(self.listed(subset, "train")),
            test_data=str(self.listed(subset, "val")),
            output=str(run),
            num_workers=0,
            log_every=50,
            resume="auto",
        )
        finish(train_classification.train(recipe, options))
        results = json.loads((run / "test" / "results.json").read_text(encoding="utf-8"))
        return {"top1": results["metrics"]["top1"], "epochs": epochs, "peak_lr": peak}

    def probe(self, subset: str, start: str) -> dict[str, Any]:
        train, test = (open_manifest(self.listed(subset, split)) for split in ("train", "val"))
        model = str(self.start_folder(start, 0))
        found = probe_models(model, train, test, ("linear", "attentive"), quiet=True)
        return {name: scores["top1"] for name, scores in found[model]["probes"].items()}


def finish(code: int) -> None:
    if code:
        raise SystemExit(code)


def accuracy(predicted: torch.Tensor, labels: torch.Tensor) -> float:
    return (predicted == labels).double().mean().item()


def machine(threads: int) -> str:
    return f"{os.cpu_count()} CPU cores ({platform.machine()}), {threads} thread, torch {torch.__version__}"


def all_cells(subsets: Sequence[str], seeds: Sequence[int]) -> list[str]:
    """Every cell, the ones that decide most first."""
    cells = [f"trivial/{subset}" for subset in subsets]
    cells += [f"finetune/{subset}/{start}/{seeds[0]}" for start in (SCRATCH, "v1") for subset in subsets[:2]]
    cells += [f"finetune/{subset}/{start}/{seeds[0]}" for start in (SCRATCH, "v1", "v2") for subset in subsets]
    cells += [f"probe/{subset}/{start}" for subset in subsets for start in (SCRATCH, "v1", "v2")]
    cells += [
        f"finetune/{subset}/{start}/{seed}" for seed in seeds for subset in subsets for start in (SCRATCH, "v1", "v2")
    ]
    cells += [
        f"{kind}/{subsets[0]}/{name}{end}"
        for name in MASKS
        for kind, end in (("probe", ""), ("finetune", f"/{seeds[0]}"))
    ]
    return list(dict.fromkeys(cells))


# ------------------------------------------------------------------------------------------------------------- table


def read_cells(output: Path) -> dict[str, dict[str, Any]]:
    records = [json.loads(path.read_text(encoding="utf-8")) for path in sorted((output / "cells").rglob("*.json"))]
    return {record["cell"]: record for record in records}


def percent(values: Sequence[float]) -> str:
    """One value, or mean and standard deviation over seeds with their number; nothing where nothing was run."""
    if not values:
        return "not run"
    mean = 100 * statistics.mean(values)
    return f"{mean:.1f} ± {100 * statistics.stdev(values):.1f} ({len(values)})" if len(values) > 1 else f"{mean:.1f}"


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows))


def tables(cells: dict[str, dict[str, Any]]) -> str:
    """The results so far as Markdown: fine-tuning, probes, pre-trainings and masks."""
    made = [cell.split("/") for cell in cells]
    subsets = [subset for subset in SUBSETS if any(len(names) > 1 and names[1] == subset for names in made)]

    def tuned(subset: str, start: str) -> list[dict[str, Any]]:
        return [cells["/".join(names)] for names in made if names[:3] == ["finetune", subset, start]]

    def probed(subset: str, start: str) -> str:
        record = cells.get(f"probe/{subset}/{start}")
        return f"{100 * record['linear']:.1f} / {100 * record['attentive']:.1f}" if record else "not run"

    main, probes = [], []
    for subset in subsets:
        floor = cells.get(f"trivial/{subset}", {})
        tuned_from = {start: tuned(subset, start) for start in (SCRATCH, "v1", "v2")}
        minutes = [record["minutes"] for records in tuned_from.values() for record in records]
        main.append(
            [
                f"{subset} ({' / '.join(map(str, floor.get('clips', ['?'])))})",
                *(
                    percent([floor[name]] if name in floor else [])
                    for name in ("chance", "majority", "frame", "motion")
                ),
                *(percent([record["top1"] for record in records]) for records in tuned_from.values()),
                f"{statistics.mean(minutes):.1f}" if minutes else "",
                f"`--cells '*/{subset}' 'finetune/{subset}/*'`",
            ]
        )
        probes.append(
            [subset, *(probed(subset, start) for start in (SCRATCH, "v1", "v2")), f"`--cells 'probe/{subset}/*'`"]
        )
    head = [
        "set (train / val clips)",
        "chance",
        "majority",
        "frame",
        "motion",
        "from scratch",
        "V1",
        "V2",
        "minutes a fine-tuning",
        "command",
    ]
    parts = [
        markdown(head, main),
        markdown(["probe, linear / attentive", "fresh weights", "V1", "V2", "command"], probes),
    ]
    trained = []
    for name in STARTS:
        if record := cells.get(f"pretrain/{name}"):
            subset = subsets[0]
            trained.append(
                [
                    name, f"{record['minutes']:.1f}", str(record["epochs"]), f"{record['loss']:.3f}", probed(subset, name),
                    percent([tuned["top1"] for tuned in tuned(subset, name)]), f"`--cells pretrain/{name} 'probe/{subset}/{name}'`",
                ]
            )  # fmt: skip
    head = ["pre-training", "minutes", "epochs", "last loss", f"{subsets[0]}: probe", "fine-tuned", "command"]
    return "\n\n".join([*parts, markdown(head, trained)]) + "\n"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with meta.csv, subsets/ and the videos")
    parser.add_argument("--output", type=Path, required=True, help="folder for small clips, runs, cells and the table")
    parser.add_argument("--subsets", nargs="+", default=list(SUBSETS), metavar="NAME", help="[%(default)s]")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], metavar="N", help="of fine-tuning [0 1 2]")
    parser.add_argument("--minutes", type=float, default=20.0, help="processor minutes of a pre-training [%(default)s]")
    parser.add_argument(
        "--mask_minutes", type=float, default=5.0, help="the same for those that compare masks [%(default)s]"
    )
    parser.add_argument("--epochs", type=float, default=1.0, help="factor on the epochs of fine-tuning [%(default)s]")
    parser.add_argument("--peak_lr", type=float, help="of fine-tuning, instead of the chosen ones")
    parser.add_argument("--cells", nargs="+", metavar="PATTERN", help="only cells that match, such as 'finetune/lip/*'")
    parser.add_argument("--threads", type=int, default=1, help="of torch [%(default)s]")
    parser.add_argument("--table", action="store_true", help="run nothing; print and write the table of what there is")
    given = parser.parse_args(argv)
    torch.set_num_threads(given.threads)
    experiment = Experiment(
        given.data, given.output, given.minutes, given.mask_minutes, given.threads, given.epochs, given.peak_lr
    )
    if not given.table:
        prepare(given.data, experiment.clips, given.subsets)
        for cell in all_cells(given.subsets, given.seeds):
            if not given.cells or any(fnmatch.fnmatch(cell, pattern) for pattern in given.cells):
                experiment.run(cell)
    text = tables(read_cells(given.output))
    write_atomic(given.output / "table.md", text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
