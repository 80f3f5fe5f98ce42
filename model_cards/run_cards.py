"""The card of one's own run: what was trained, on what, how, and what came out, written from the run's own records.

The trainers call `write_run_card` for every checkpoint folder they keep. Beside the card lies the record that it was
rendered from (`training_record.json`), so that `videomae publish` can render it again under the final name and licence. Cards of the
released checkpoints are made by build.py.
"""

import contextlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from videomae.configuration_videomae import PRESETS, VideoMAEConfig
from videomae.files import final_name, today, write_atomic, write_json
from videomae.model_cards.cards import (
    HEADS,
    architecture,
    clip_from_frames,
    describe_sampling,
    head_of,
    licence_of,
    metadata,
    render,
)
from videomae.model_cards.facts import PAPERS
from videomae.model_cards.licences import choose_licence, is_non_commercial, licence_of_release
from videomae.model_cards.results import notes_of, recorded_results, text
from videomae.model_cards.run_facts import NOT_LISTED, balance, by_class, class_names, class_rows, settings
from videomae.model_cards.zoo import entry
from videomae.models import quiet_loading, weights_sha256
from videomae.pictures.drawing import png_bytes
from videomae.pictures.scores import confusion_panel
from videomae.remote_code import add_code
from videomae.training.runs import versions

RECORD = "training_record.json"
CURVES, CONFUSION = "curves.png", "confusion.png"
TASKS = {
    "pretrain": "pre-trained",
    "classify": "fine-tuned to label videos",
    "detect": "trained to detect actions",
    "probe": "frozen, with an attentive head trained on its tokens",
}
# What belongs into one panel of the curves: its title, and how a key of the log is recognised.
PANELS = (
    ("loss", lambda key: "loss" in key and "scale" not in key),
    ("accuracy", lambda key: any(word in key for word in ("top1", "top5", "acc", "map"))),
    ("learning rate", lambda key: key in ("lr", "learning_rate")),
)
TABLE_ROWS = 10  # of the log, where no picture can be drawn


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
    """Write README.md, training_record.json, confusion.png and (with matplotlib) curves.png into a model folder; returns the card's path.

    `folder` is a finished `save_pretrained` folder (config.json is read from it).
    `task` is "pretrain", "classify", "detect" or "probe".
    `recipe` is the effective configuration as the run saved it (plain JSON values; nested mappings are flattened).
    `clips_per_step` is the effective batch in decoded clips; `steps` the optimizer steps made so far.
    `data` describes the training data: "name" (what a reader would call it), "manifest_sha256", "clips", and
    optionally "validation", "label_source" or any other short facts; all are shown. "clips_per_class" is a list in class
    order, for the table of classes; "dataset_id" the name on the Hub.
    `log` is the run's JSONL file: one object a line with "step" and numbers ("loss", "lr", "val_top1", ...).
    `results` are evaluations, each {"dataset": str, "protocol": str, "metrics": {"top1": 0.81, ...}}, accuracies as
    shares of one (see METRICS), and optionally "split", "videos", "date", "dataset_id" (the data set's name on the Hub),
    "data_sha256", "chance", "confusion_matrix" (counts, true class by row) and "weights_sha256"
    (`models.weights_sha256` of what was measured). A run hands over all that it has
    measured; what other weights than the folder's reached is left out.
    `base_model` is the folder or Hub name that the weights started from; its licence is inherited, and a licence that
    forbids commercial use cannot be replaced by `license`. `command` is the command line that started the run.

    A model that transformers has no class for gets the code that its card tells to trust.
    """
    folder = Path(folder)
    if task not in TASKS:
        raise ValueError(f"task must be one of {', '.join(TASKS)}, got {task!r}")
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder} has no config.json; save the model there before its card")
    recorded_results(results)  # a number that is none is refused before anything is written
    results = [result for result in results if not of_other_weights(folder, [result])]
    if base_model in PRESETS:
        base_model = None  # a size, not weights
    base = base_facts(base_model)
    points = log_points(log) if log and Path(log).exists() else []  # a first checkpoint may come before the first line
    record = {
        "folder": final_name(folder),
        "task": task,
        "recipe": {key: _without_folders(value) for key, value in _plain(recipe).items()},
        "clips_per_step": clips_per_step,
        "steps": steps,
        "data": _plain(data),
        "results": _plain(list(results)),
        "base_model": base["name"],
        "base_license": base["license"],
        "license": license,
        "command": " ".join(map(_without_folders, command.split(" "))) if command else None,
        "environment": environment(),
        "date": today(),
        "curves": "picture" if draw_curves(points, folder / CURVES) else table_of(points),
        "confusion": draw_confusion(results, folder),
    }
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if not HEADS[head_of(config)].in_stock:
        add_code(folder)
    path = write_json(folder / RECORD, record)
    record = json.loads(path.read_text(encoding="utf-8"))  # as it will be read again: keys sorted, the card the same
    return write_atomic(folder / "README.md", render_run_card(folder, record, name=record["folder"]))


def rewrite_card(folder: str | os.PathLike) -> bool:
    """Render README.md again from the record of a run, as after a change of config.json; False without a record."""
    path = Path(folder) / RECORD
    if not path.is_file():
        return False
    record = json.loads(path.read_text(encoding="utf-8"))
    write_atomic(path.parent / "README.md", render_run_card(path.parent, record, name=record["folder"]))
    return True


def _plain(value: Any) -> Any:
    """JSON values only; what JSON does not know (paths, types) becomes text."""
    return json.loads(json.dumps(value, default=str))


def _without_folders(value: Any) -> Any:
    """An absolute path as its last part: the folders of the trainer's disk are private."""
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


def render_run_card(
    folder: Path,
    record: Mapping[str, Any],
    *,
    name: str,
    license: str | None = None,
    measured: Sequence[Mapping[str, Any]] = (),
) -> str:
    """The card of a recorded run under `name`, which stands in its snippets.

    `license` fills an unset one; `measured` are evaluations made since, in the form of the run's own, which the
    publication has compared with the weights. Recorded figures of other weights than those in the folder are an error.
    """
    evaluations = [*record["results"], *measured]
    check_own_figures(folder, record["results"])
    licence, source = choose_licence(license or record["license"], record["base_license"], record["base_model"])
    results = recorded_results(evaluations)
    data, recipe = record["data"], record["recipe"]
    fields = folder_fields(folder, name)
    names = class_names(fields["config"].id2label) if fields["head"] in ("classify", "detect") else None
    return render(
        "run_card.md.jinja",
        card_data=metadata(
            name=name,
            head=fields["head"],
            license=licence,
            tags=["action-detection"] if fields["head"] == "detect" else [],
            datasets=[data["dataset_id"]] if data.get("dataset_id") else [],
            base_model=hub_name(record["base_model"]),
            results=results,
        ),
        title=f"{name.rsplit('/', 1)[-1]}: {model_of(record, fields['config'])}, {TASKS[record['task']]}",
        license=licence,
        license_source=source,
        non_commercial=is_non_commercial(licence),
        summary=summary_of(record, fields["config"]),
        data=[
            (text(key.replace("_", " ")), text(data[key]))
            for key in sorted(data.keys() - set(NOT_LISTED), key=lambda key: (key != "name", key))
        ],
        classes=class_rows(names, data.get("clips_per_class")),
        balance=balance(data.get("clips_per_class")),
        data_hash=any("sha256" in key for key in data),
        mask_ratio=recipe.get("mask_ratio", 0.9),
        dual_mask=bool(recipe.get("decoder_mask")),
        steps=f"{record['steps']:,}",
        clips_per_step=record["clips_per_step"],
        peak_lr=_peak_lr(recipe, record["clips_per_step"]),
        command=record["command"].replace("`", "'") if record["command"] else None,
        settings=settings(record["task"], recipe),
        confusion=CONFUSION if record.get("confusion") else None,
        curves=record["curves"],
        environment=text(", ".join(f"{key} {value}" for key, value in record["environment"].items())),
        results=results,
        result_notes=notes_of(evaluations),
        by_class=[table for result in evaluations if (table := by_class(result, names))][-1:],
        base_model=text(record["base_model"]) if record["base_model"] else None,
        papers=[PAPERS["2303.16727" if _is_v2(recipe) else "2203.12602"]],
        **fields,
    )


def render_plain_card(
    folder: Path,
    *,
    name: str,
    license: str | None,
    facts: Sequence[str] = (),
    measured: Sequence[Mapping[str, Any]] = (),
) -> str:
    """The card of a folder without the record of a training: what its files show, and that nothing else is known.

    `facts` are sentences about where the weights come from, `measured` evaluations as `videomae evaluate` writes them.
    """
    fields = folder_fields(folder, name)
    results = recorded_results(measured)
    return render(
        "plain_card.md.jinja",
        title=name.rsplit("/", 1)[-1],
        card_data=metadata(name=name, head=fields["head"], license=license, results=results),
        results=results,
        result_notes=notes_of(measured),
        license=license,
        non_commercial=is_non_commercial(license),
        mask_ratio=0.9,
        dual_mask=False,
        facts=facts,
        papers=[PAPERS["2203.12602"]],
        **fields,
    )


def of_other_weights(folder: Path, results: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Those of the results that say which weights they were measured on, where these are not the folder's."""
    hashed = [result for result in results if result.get("weights_sha256")]
    own = folder_sha256(folder) if hashed else None
    return [result for result in hashed if result["weights_sha256"] != own]


def check_own_figures(folder: Path, results: Sequence[Mapping[str, Any]]) -> None:
    for result in of_other_weights(folder, results):
        raise ValueError(
            f"the figure {dict(result['metrics'])} on {result['dataset']} was measured on other weights than those in "
            f"{folder}; test them (`videomae evaluate`), and remove {RECORD} and README.md if the weights were replaced"
        )


def folder_sha256(folder: Path) -> str:
    """The hash of the folder's model in float32, as it is tested."""
    import torch

    import videomae

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    model_class = getattr(videomae, HEADS[head_of(config)].model_class)
    with quiet_loading():
        return weights_sha256(model_class.from_pretrained(folder, dtype=torch.float32))


def folder_fields(folder: Path, name: str) -> dict[str, Any]:
    """What a card says of a model folder's own files."""
    config = VideoMAEConfig.from_pretrained(folder)
    head = head_of(config.to_dict())
    if head == "probe":
        from videomae.attentive_probe_videomae import AttentiveProbeConfig

        config = AttentiveProbeConfig.from_pretrained(folder)
    sampling = read_sampling(folder)
    return {
        "name": name,
        "head": head,
        "config": config,
        "num_labels": config.num_labels,
        "architecture": architecture(config, head=head, parameters=count_parameters(folder)),
        "sampling": describe_sampling(sampling),
        "stock_clip": clip_from_frames(sampling, config.num_frames),
    }


def summary_of(record: Mapping[str, Any], config: VideoMAEConfig) -> str:
    start = f"starting from {text(record['base_model'])}" if record["base_model"] else "starting from random weights"
    data = text(record["data"].get("name", "a data set that the run did not name"))
    return f"{model_of(record, config)}, {TASKS[record['task']]} on {data}, {start}, with the `videomae` package."


def model_of(record: Mapping[str, Any], config: VideoMAEConfig) -> str:
    size = next((name for name, shape in PRESETS.items() if shape.width == config.hidden_size), None)
    return ("VideoMAE V2" if _is_v2(record["recipe"]) else "VideoMAE") + (f" {size}" if size else "")


def _is_v2(recipe: Mapping[str, Any]) -> bool:
    return recipe.get("version") == 2


def _peak_lr(recipe: Mapping[str, Any], clips_per_step: int) -> str | None:
    base = recipe.get("base_lr")
    return f"{base * clips_per_step / recipe.get('lr_batch', 256):.3g}" if base else None


# -- where it comes from --


def base_facts(base_model: str | None) -> dict[str, str | None]:
    """Name and licence of the weights that a run started from: a folder with a card, or a released checkpoint.

    A folder of an earlier run passes on the Hub name that it started from, if it knows one.
    """
    if base_model is None:
        return {"name": None, "license": None}
    card = Path(base_model) / "README.md"
    if card.is_file():
        content = card.read_text(encoding="utf-8")
        try:
            licence = licence_of(content)
        except ValueError:
            licence = None
        record = Path(base_model) / RECORD
        earlier = json.loads(record.read_text(encoding="utf-8"))["base_model"] if record.is_file() else None
        proof = Path(base_model) / "conversion.json"
        converted = json.loads(proof.read_text(encoding="utf-8")).get("name") if proof.is_file() else None
        return {"name": earlier or converted or Path(base_model).name, "license": licence}
    if Path(base_model).is_dir():
        return {"name": Path(base_model).resolve().name, "license": None}
    return {"name": base_model, "license": released_licence(base_model)}


def released_licence(name: str) -> str | None:
    """The licence of a released checkpoint, by its name in zoo.yaml or on the Hub."""
    try:
        return licence_of_release(entry(name))[0]
    except ValueError:  # a model that is not in the zoo
        return None


def hub_name(name: str | None) -> str | None:
    """`name` if it can be a repository on the Hub (owner/name), for the card's metadata."""
    return name if name and name.count("/") == 1 and not name.startswith((".", "/")) else None


def environment() -> dict[str, str]:
    """Versions and hardware that the run had."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    return {**versions(), **({"processes": str(world)} if world > 1 else {})}


# -- records --


def log_points(path: str | os.PathLike) -> list[dict[str, Any]]:
    """The lines of a JSONL log that carry a step. A line cut short is passed over: a card must not stop a run."""
    points = []
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(ValueError):
            point = json.loads(line)
            if isinstance(point, dict) and "step" in point:
                points.append(point)
    return points


def read_sampling(folder: Path) -> dict[str, Any] | None:
    """The sampling policy that the folder's processor carries."""
    for name in ("video_preprocessor_config.json", "preprocessor_config.json"):
        path = folder / name
        if path.is_file() and (sampling := json.loads(path.read_text(encoding="utf-8")).get("sampling")):
            return sampling
    return None


def count_parameters(folder: Path) -> int:
    """How many numbers the folder's safetensors files hold, from their headers."""
    from safetensors import safe_open

    total = 0
    for path in sorted(folder.glob("model*.safetensors")):
        with safe_open(path, framework="np") as tensors:
            total += sum(math.prod(tensors.get_slice(key).get_shape()) for key in tensors.keys())  # noqa: SIM118
    return total


# -- pictures --


def draw_confusion(results: Sequence[Mapping[str, Any]], folder: Path) -> bool:
    """Draw the confusion matrix of the last evaluation that has one; False where none has, or the classes no names."""
    matrices = [result["confusion_matrix"] for result in results if result.get("confusion_matrix")]
    names = class_names(VideoMAEConfig.from_pretrained(folder).id2label)
    if not matrices or names is None or len(names) != len(matrices[-1]):
        (folder / CONFUSION).unlink(missing_ok=True)  # of an earlier card
        return False
    write_atomic(folder / CONFUSION, png_bytes(confusion_panel(np.array(matrices[-1]), names)))
    return True


def series_of(points: Sequence[Mapping[str, Any]]) -> dict[str, list[tuple[int, float]]]:
    """The log by key: (step, value), finite numbers only."""
    series: dict[str, list[tuple[int, float]]] = {}
    for point in points:
        for key, value in point.items():
            if (
                key != "step"
                and isinstance(value, int | float)
                and not isinstance(value, bool)
                and math.isfinite(value)
            ):
                series.setdefault(key, []).append((point["step"], value))
    return series


def panels_of(points: Sequence[Mapping[str, Any]]) -> list[tuple[str, dict[str, list[tuple[int, float]]]]]:
    """What the picture shows: panels with their series, without those that have fewer than two points."""
    series = {key: values for key, values in series_of(points).items() if len(values) > 1}
    panels = [(title, {key: series[key] for key in series if belongs(key)}) for title, belongs in PANELS]
    return [(title, inside) for title, inside in panels if inside]


def draw_curves(points: Sequence[Mapping[str, Any]], path: Path) -> bool:
    """Draw the run's curves to a PNG; False where there is nothing to draw or matplotlib is not installed."""
    panels = panels_of(points)
    if not panels:
        return False
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return False
    import io

    figure = Figure(figsize=(4.2 * len(panels), 3.2), layout="constrained")
    for axes, (title, inside) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for key, values in inside.items():
            steps, heights = zip(*values, strict=True)
            axes.plot(steps, heights, label=key, linewidth=1.4, marker="o" if len(values) < 25 else None, markersize=3)
        axes.set(title=title, xlabel="optimizer step")
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        if len(inside) > 1:
            axes.legend(frameon=False)
        if title == "learning rate":
            axes.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    picture = io.BytesIO()
    FigureCanvasAgg(figure).print_png(picture)
    write_atomic(path, picture.getvalue())
    return True


def table_of(points: Sequence[Mapping[str, Any]]) -> dict[str, list] | None:
    """Evenly spaced points of the log as a table, for machines without matplotlib."""
    keys = [key for _, inside in panels_of(points) for key in inside]
    rows = [point for point in points if any(key in point for key in keys)]
    if not rows:
        return None
    count = min(TABLE_ROWS, len(rows))
    chosen = [rows[round(i * (len(rows) - 1) / max(count - 1, 1))] for i in range(count)]
    return {
        "columns": ["step", *keys],
        "rows": [[str(row["step"]), *(f"{row[key]:.4g}" if key in row else "" for key in keys)] for row in chosen],
    }
