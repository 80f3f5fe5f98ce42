"""What the scores of a table are worth, as `videomae scores` reports it: figures, intervals, groups, calibration.

The arithmetic is metrics/classification.py, the tables are score_tables.py, the picture is pictures/scores.py.
"""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from videomae.data.lists.groups import group_of
from videomae.data.lists.manifests import some_of
from videomae.evaluation.score_tables import ScoreTable
from videomae.files import today, write_json
from videomae.metrics.classification import TEMPERATURES, fit_temperature, intervals, tempered
from videomae.metrics.video_accuracy.scores import confusion_matrix, confusion_pairs

FEW_GROUPS = 10  # from so few, an interval says little
WHOLE_MATRIX = 100  # classes, up to which the confusion is written as a matrix
LARGE = 1_000_000  # videos x classes, from which fewer resamples are the default
OF_GROUPS = ("top1", "micro_f1", "mean_class_accuracy", "auc", "macro_auc", "ece")


def report(
    table: ScoreTable,
    *,
    groups: Mapping[str, str] | None = None,
    group_column: str = "group",
    fit_on: ScoreTable | None = None,
    bins: int = 10,
    resamples: int | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Everything that scores.json holds; `groups` are by path. The temperature is fitted on `fit_on`, or on the table."""
    if resamples is None:
        resamples = 1000 if table.scores.size < LARGE else 200
    scored, codes, names = table.scored(bins), None, []
    if groups is not None:
        found = [group_of(groups, path) for path in table.paths]
        if missing := [path for path, group in zip(table.paths, found) if group is None]:
            raise ValueError(
                f"{len(missing)} of {len(table)} videos have no {group_column}: {some_of(missing, 3)}; paths must be "
                "written as in the table of scores"
            )
        names, codes = np.unique(found, return_inverse=True)
    ranges = intervals(scored, groups=codes, resamples=resamples, seed=seed)
    headline = {
        name: {
            "value": value,
            "low": (ranges.get(name) or (None, None))[0],
            "high": (ranges.get(name) or (None, None))[1],
        }
        for name, value in scored.headline().items()
    }
    result: dict[str, Any] = {
        "table": Path(table.origin).name,
        "dataset": table.name,
        "date": today(),
        "videos": len(table),
        "unread": table.unread,
        "problem": "binary" if scored.binary else "single_label" if table.single else "multi_label",
        "class_names": table.class_names,
        "headline": headline,
        "levels": scored.levels(),
        "bootstrap": {"resamples": resamples, "by": group_column if groups is not None else "video", "seed": seed},
        "per_class": scored.per_class(table.class_names),
        "reliability": scored.reliability.table(),
        "temperature": _temperature(table, fit_on, bins),
        "notes": [],
    }
    if table.single:
        predicted, labels = scored.scores.argmax(axis=1), scored.targets.argmax(axis=1)
        result["confusion_pairs"] = confusion_pairs(predicted, labels, table.class_names)
        if len(table.class_names) <= WHOLE_MATRIX:
            result["confusion"] = confusion_matrix(predicted, labels, len(table.class_names)).tolist()
    if codes is not None:
        result["groups"] = _by_group(scored, names, codes, group_column)
        result["bootstrap"]["groups"] = len(names)
        if len(names) < FEW_GROUPS:
            result["notes"].append(f"the intervals come from {len(names)} groups only, so they say little")
    if table.unread:
        result["notes"].append(f"{table.unread} videos could not be read and count nowhere")
    result["notes"] += list(_notes(result))
    return result


def _by_group(scored: Any, names: Any, codes: np.ndarray, column: str) -> dict[str, Any]:
    rows = []
    for code, name in enumerate(names):
        figures = scored.headline((codes == code).astype(np.float64))
        kept = {key: value for key, value in figures.items() if key in OF_GROUPS}
        rows.append({"group": str(name), "videos": int((codes == code).sum()), **kept})
    return {"column": column, "rows": rows}


def _temperature(table: ScoreTable, fit_on: ScoreTable | None, bins: int) -> dict[str, Any]:
    """The fitted temperature, and likelihood and calibration of the table before and after it."""
    source = table if fit_on is None else fit_on
    if (source.single, source.class_names) != (table.single, table.class_names):
        raise ValueError(
            f"{source.origin} and {table.origin} have other classes, so one's temperature says nothing of the other"
        )
    value = fit_temperature(source.scores, source.targets, single=source.single)
    after = ScoreTable(table.origin, table.paths, tempered(table.scores, value, single=table.single), table.targets,
                       table.single, table.class_names)  # fmt: skip
    figures = {}
    for name, one in (("before", table.scored(bins)), ("after", after.scored(bins))):
        headline = one.headline()
        figures[name] = {key: headline[key] for key in ("nll", "ece")}
    return {
        "value": value,
        "fitted_on": source.name,
        "fitted_videos": len(source),
        "same_table": fit_on is None,
        "at_bound": value in TEMPERATURES,
        "reliability_after": after.scored(bins).reliability.table(),
        **figures,
    }


def _notes(result: Mapping[str, Any]) -> Iterator[str]:
    temperature = result["temperature"]
    if temperature["at_bound"]:
        yield f"the temperature stopped at the bound {temperature['value']:g}: nearly all answers are right, or wrong"
    if temperature["same_table"]:
        yield (
            "the temperature was fitted and judged on the same table, so `after` is too good; give --fit_on another table"
        )
    top1 = result["headline"].get("top1")
    floor = max(result["levels"].get("chance_top1", 0), result["levels"].get("majority_top1", 0))
    if top1 and top1["low"] is not None and top1["low"] <= floor:
        yield f"top1 cannot be told from always answering the most frequent class ({floor:.3f})"


# -------------------------------------------------------------------------------------------------- into the model


def save_temperature(
    folder: str | os.PathLike, result: Mapping[str, Any], table: ScoreTable, *, weights_sha256: str | None
) -> None:
    """Write the temperature of a report, and what it was fitted on, into the config of a classifier.

    `weights_sha256` is that of the folder: a table that says which weights gave it must say the same.
    """
    path, temperature = Path(folder) / "config.json", result["temperature"]
    if not path.is_file():
        raise ValueError(f"{folder} has no config.json; give the model folder that the scores come from")
    config = json.loads(path.read_text("utf-8"))
    kinds = config.get("architectures") or []
    if not any(kind.endswith("ForVideoClassification") for kind in kinds):
        raise ValueError(
            f"{folder} is {', '.join(kinds) or 'of no named kind'}, not a classifier; only scores of classes have one"
        )
    names = config.get("id2label")
    count = len(names) if names else 2
    if count != len(table.class_names):
        raise ValueError(
            f"{folder} has {count} classes and {table.origin} {len(table.class_names)}; give the model of these scores"
        )
    measured = table.about.get("weights_sha256")
    if measured and weights_sha256 and measured != weights_sha256:
        raise ValueError(f"{table.origin} comes from other weights than those in {folder}; test them, then fit again")
    if temperature["at_bound"]:
        raise ValueError(
            f"no temperature fits within {TEMPERATURES[0]:g} and {TEMPERATURES[1]:g} on {temperature['fitted_on']}; fit it on "
            "videos that the model was not trained on, some of which it gets wrong"
        )
    config["temperature"] = round(temperature["value"], 4)
    config["calibrated_on"] = f"{temperature['fitted_videos']} videos of {temperature['fitted_on']}"
    write_json(path, config)


# -------------------------------------------------------------------------------------------------------- for people


def report_lines(result: Mapping[str, Any], *, rows: int = 10) -> Iterator[str]:
    """The report for a terminal."""
    by = result["bootstrap"]
    yield (
        f"{result['dataset']}: {result['videos']} videos, {len(result['class_names'])} classes, {result['problem']}; "
        f"95 % intervals by {by['by']}, {by['resamples']} resamples"
    )
    for name, figure in result["headline"].items():
        yield f"  {name:<26}{_figure(figure['value'])}{_range(figure)}"
    for name, value in result["levels"].items():
        yield f"  {name:<26}{_figure(value)}"
    temperature = result["temperature"]
    before, after = temperature["before"], temperature["after"]
    yield (
        f"  temperature {temperature['value']:.3f} (fitted on {temperature['fitted_on']}): nll {before['nll']:.3f} -> "
        f"{after['nll']:.3f}, ece {before['ece']:.3f} -> {after['ece']:.3f}"
    )
    if rows:
        yield from _class_lines(result, rows)
    for pair in result.get("confusion_pairs", [])[:rows]:
        yield f"  {pair['videos']:5d} x  {pair['true']} called {pair['predicted']}"
    if rows and "groups" in result:
        yield from _group_lines(result["groups"], rows)
    for note in result["notes"]:
        yield f"note: {note}"


def _class_lines(result: Mapping[str, Any], rows: int) -> Iterator[str]:
    table = sorted(result["per_class"], key=lambda row: (row["f1"] is None, row["f1"], row["index"]))
    shown = [row for row in table if row["videos"]][:rows]
    width = max((len(row["class"]) for row in shown), default=5)
    columns = ("precision", "recall", "f1", "auc", "average_precision", "best_threshold", "best_f1")
    heads = ("precision", "recall", "f1", "auc", "ap", "threshold", "its f1")
    yield f"  {'class':<{width}}  videos" + "".join(f"{head:>11}" for head in heads)
    for row in shown:
        yield f"  {row['class']:<{width}}  {row['videos']:>6}" + "".join(f"{_figure(row[key]):>11}" for key in columns)
    if len(table) > len(shown):
        yield f"  the {len(shown)} of lowest f1, of {len(table)}; --table_rows shows more, scores.json has all"


def _group_lines(groups: Mapping[str, Any], rows: int) -> Iterator[str]:
    columns = [key for key in OF_GROUPS if key in groups["rows"][0]]
    ranked = sorted(groups["rows"], key=lambda row: (row[columns[0]] is None, row[columns[0]], row["group"]))
    width = max(len(groups["column"]), *(len(row["group"]) for row in ranked[:rows]))
    yield f"  {groups['column']:<{width}}  videos" + "".join(f"{key:>21}" for key in columns)
    for row in ranked[:rows]:
        yield f"  {row['group']:<{width}}  {row['videos']:>6}" + "".join(f"{_figure(row[key]):>21}" for key in columns)
    if len(ranked) > rows:
        yield f"  the lowest {rows} of {len(ranked)} groups; scores.json has all"


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _range(figure: Mapping[str, float | None]) -> str:
    return "" if figure["low"] is None else f"  [{figure['low']:.3f}, {figure['high']:.3f}]"
