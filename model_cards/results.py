"""Evaluations as cards show them: published figures of the zoo, and what `videomae evaluate` and the trainers measured."""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import yaml
from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

from videomae.model_cards.facts import DATA_SETS

# How cards call a metric of the results, and what its share of one is multiplied by.
METRICS = {
    "top1": ("top-1 accuracy", 100),
    "top5": ("top-5 accuracy", 100),
    "view_top1": ("top-1 accuracy of single views", 100),
    "view_top5": ("top-5 accuracy of single views", 100),
    "mean_class_accuracy": ("mean accuracy of the classes", 100),
    "mAP": ("mean average precision", 100),
    "map": ("frame mAP at IoU 0.5", 100),
    "mae": ("mean absolute error", 1),
    "mse": ("mean squared error", 1),
    "r2": ("share of the variance explained", 100),
}

VIEWS = re.compile(r"\d+x\d+x\d+")  # a protocol in numbers: frames x clips x crops
# Names of metrics on the Hub, where it has one.
METRIC_IDS = {"top-1 accuracy": "accuracy", "top-5 accuracy": "top_5_accuracy"}


@dataclass(frozen=True, kw_only=True)
class Result:
    """One number of an evaluation, and where it comes from."""

    dataset: str  # a key of DATA_SETS, or what a reader would call one's own data
    metric: str  # top-1 accuracy, top-5 accuracy, frame mAP at IoU 0.5, ...
    value: float  # in percent, but for errors
    protocol: str  # "16x5x3" (frames x clips x crops), or a phrase
    measured: bool  # here, or only published
    source: str = ""  # URL of a published number
    split: str = "validation"
    dataset_id: str = ""
    date: str = ""

    @property
    def dataset_title(self) -> str:
        known = DATA_SETS.get(self.dataset)
        return known.title if known else self.dataset

    @property
    def protocol_in_words(self) -> str:
        return f"frames x clips x crops {self.protocol}" if VIEWS.fullmatch(self.protocol) else self.protocol

    @property
    def hub_dataset(self) -> str:
        known = DATA_SETS.get(self.dataset)
        return self.dataset_id or (known.hub_id if known else slug(self.dataset))


def text(value: Any) -> str:
    """A value that came from outside, made harmless inside a table cell or a sentence of Markdown."""
    one_line = " ".join(str(value).split())
    return re.sub(r"([\\`*_{}\[\]<>|#])", r"\\\1", one_line)


def metric_id(metric: str) -> str:
    return METRIC_IDS.get(metric, slug(metric))


def slug(text: str) -> str:
    """A lower-case name of letters, digits, dots and hyphens."""
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-")


def recorded_results(records: Iterable[Mapping[str, Any]]) -> list[Result]:
    """Results of evaluations as cards show them; `videomae evaluate` writes such records (results.json)."""
    found = []
    for record in records:
        if lacking := [key for key in ("dataset", "protocol", "metrics") if key not in record]:
            raise ValueError(f"results: an evaluation has no {' and no '.join(lacking)}; it has {', '.join(record)}")
        for metric, value in record["metrics"].items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise ValueError(f"results: metric {metric!r} of {record.get('dataset')!r} is {value!r}, not a number")
            title, factor = METRICS.get(metric, (str(metric), 1))
            found.append(
                Result(
                    dataset=str(record["dataset"]),
                    metric=title,
                    value=float(f"{factor * value:.4g}"),
                    protocol=str(record["protocol"]),
                    measured=True,
                    split=str(record.get("split", "validation")),
                    dataset_id=str(record.get("dataset_id", "")),
                    date=str(record.get("date", "")),
                )
            )
    return found


def notes_of(records: Iterable[Mapping[str, Any]]) -> list[str]:
    """A sentence for each evaluation that says on how many videos and on which list it was made."""
    notes = []
    for record in records:
        facts = []
        if "videos" in record:
            facts.append(f"{record['videos']} videos")
        if "data_sha256" in record:
            facts.append(f"list with SHA-256 {record['data_sha256']}")
        if "chance" in record:
            facts.append(f"chance {100 * record['chance']:.4g} % (always the commonest class)")
        if facts:
            notes.append(text(f"{record['dataset']}, {record['protocol']}: {', '.join(facts)}."))
    return notes


def eval_results_files(results: Iterable[Result], *, date: str | None = None) -> dict[str, str]:
    """`.eval_results/*.yaml`, by path: one file a data set and protocol, as huggingface_hub 2 describes them.

    The Hub shows a result on the data set's leaderboard when that data set is registered there as a benchmark, and
    keeps quiet about the others.
    """
    files: dict[str, list[EvalResultEntry]] = {}
    for result in results:
        path = f".eval_results/{slug(result.dataset)}_{slug(result.protocol)}.yaml"
        files.setdefault(path, []).append(
            EvalResultEntry(
                dataset_id=result.hub_dataset,
                task_id=metric_id(result.metric),
                value=result.value,
                date=result.date or date,
                source_url=result.source or None,
                source_name="published" if result.source else None,
                notes=f"{result.metric}, {result.protocol_in_words}"
                + ("" if result.measured else "; published, not measured again"),
            )
        )
    return {
        path: yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False) for path, entries in files.items()
    }
