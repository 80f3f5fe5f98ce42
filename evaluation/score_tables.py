"""Tables of scores and labels: what `videomae evaluate` writes, or any CSV, JSON or Parquet file with the same in columns.

One row a video: maybe a path, a label, and scores, either in one column that holds a list or in a column for each class
(`score_NAME` or `prob_NAME`). A single number is the score of class 1 of two.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from videomae.data.lists.list_files import LABEL_COLUMNS, PATH_COLUMNS, table_rows
from videomae.data.lists.manifests import as_integer, some_of
from videomae.metrics.classification import Scored, probabilities_of

SCORE_COLUMNS = ("scores", "probabilities", "probs", "score", "probability", "prob", "logits")
CLASS_PREFIXES = ("score_", "scores_", "prob_", "probability_", "logit_")
SUM_TOLERANCE = 0.01  # of the probabilities of one video, which a CSV may have rounded


@dataclass(frozen=True)
class ScoreTable:
    """Scores and labels of videos; `single` is one class a video. Videos that could not be read are counted only."""

    origin: str
    paths: list[str]
    scores: np.ndarray  # (N, C) probabilities
    targets: np.ndarray  # (N, C) bool
    single: bool
    class_names: list[str]
    unread: int = 0
    about: Mapping[str, Any] = field(default_factory=dict)  # results.json beside it

    def __len__(self) -> int:
        return len(self.paths)

    def scored(self, bins: int = 10) -> Scored:
        return Scored(self.scores, self.targets, self.single, bins)

    @property
    def name(self) -> str:
        """What a reader would call the videos."""
        return str(self.about.get("dataset") or Path(self.origin).name)


def read_scores(
    source: str | os.PathLike,
    *,
    class_names: Sequence[str] | None = None,
    label_kind: str | None = None,
    logits: bool = False,
) -> ScoreTable:
    """Read a table; label_kind "class" or "multi" where the labels do not show it; `logits` takes softmax or sigmoid."""
    path = Path(source)
    if path.is_dir():
        path = path / "predictions.parquet"
    if not path.is_file():
        raise FileNotFoundError(f"no table of scores {path}; `videomae evaluate` writes predictions.parquet")
    about = _about(path)
    rows = [row for _, row in _rows(path)]
    if not rows:
        raise ValueError(f"{path} has no rows")
    read = [row for row in rows if row.get("error") in (None, "")]
    if not read:
        raise ValueError(f"{path}: none of its {len(rows)} videos could be read, so there are no scores")
    path_column, label_column = _columns(read[0], path)
    scores, column_names = _scores(read, path)
    problem = about.get("identity", {}).get("problem")
    if problem == "regression":
        raise ValueError(f"{path} holds values of a regression; its errors are in results.json")
    labels = [_label(row[label_column]) for row in read]
    multi = label_kind == "multi" or (label_kind is None and problem == "multi_label_classification")
    multi = multi or (label_kind is None and problem is None and any(isinstance(label, tuple) for label in labels))
    if scores.shape[1] == 1 and not multi:
        scores = np.concatenate([-scores if logits else 1 - scores, scores], axis=1) / (2 if logits else 1)
    names = _class_names(class_names, column_names, about, labels, scores.shape[1], path)
    targets = _targets(labels, names, multi, path)
    if logits:
        scores = probabilities_of(scores, single=not multi)
    paths = [str(row[path_column]) if path_column else f"row {place}" for place, row in enumerate(read)]
    _check_probabilities(scores, paths, path, single=not multi)
    return ScoreTable(str(path), paths, scores, targets, not multi, names, len(rows) - len(read), about)


def _about(path: Path) -> dict[str, Any]:
    """results.json of the same test, where it lies beside the table."""
    beside = path.parent / "results.json"
    if path.name != "predictions.parquet" or not beside.is_file():
        return {}
    try:
        about = json.loads(beside.read_text("utf-8"))
    except ValueError:
        raise ValueError(f"{beside} is damaged; test again, or move the table elsewhere") from None
    return about if isinstance(about, dict) else {}


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a table; a JSON file may also be one list of objects."""
    if path.suffix.lower() == ".json":
        text = path.read_text("utf-8-sig")
        if text.lstrip().startswith("["):
            try:
                rows = json.loads(text)
            except ValueError as error:
                raise ValueError(f"{path} is not JSON: {error}") from None
            if not all(isinstance(row, dict) for row in rows):
                raise ValueError(f"{path} must be a list of objects with named values")
            yield from enumerate(rows, 1)
            return
    yield from table_rows(path)


def _columns(row: Mapping[str, Any], path: Path) -> tuple[str | None, str]:
    lower = {str(name).strip().lower(): name for name in row}
    label = next((lower[name] for name in LABEL_COLUMNS if name in lower), None)
    if label is None:
        raise ValueError(f"{path} has no column of labels among {some_of(map(str, row))}; name it label")
    return next((lower[name] for name in PATH_COLUMNS if name in lower), None), label


def _scores(rows: list[dict[str, Any]], path: Path) -> tuple[np.ndarray, list[str] | None]:
    """(N, C) numbers, and the names of the classes where columns carry them."""
    by_class = [name for name in rows[0] if str(name).lower().startswith(CLASS_PREFIXES)]
    whole = next((name for name in SCORE_COLUMNS if name in rows[0]), "")
    if not by_class and not whole:
        raise ValueError(
            f"{path} has no scores among its columns {some_of(map(str, rows[0]))}; name one of lists `scores`, or one "
            "for each class `score_NAME`"
        )
    names = None
    if by_class:
        found = [str(name).split("_", 1)[1] for name in by_class]
        names = None if all(name.isdigit() for name in found) else found
    values: list[list[float]] = []
    for place, row in enumerate(rows, 1):
        try:
            values.append([float(row[name]) for name in by_class] if by_class else _numbers(row[whole]))
        except (TypeError, ValueError, KeyError):
            raise ValueError(f"{path}, row {place}: the scores are no numbers: {str(row.get(whole))[:60]}") from None
        if len(values[-1]) != len(values[0]):
            raise ValueError(f"{path}, row {place}: {len(values[-1])} scores where the first row has {len(values[0])}")
    return np.array(values, np.float64), names


def _numbers(value: Any) -> list[float]:
    if isinstance(value, str):
        value = value.strip().strip("[]").replace("|", " ").replace(",", " ").replace(";", " ").split()
    return [float(one) for one in (value if isinstance(value, (list, tuple)) else [value])]


def _label(value: Any) -> Any:
    """A number, a name, or a tuple of several; text as a CSV has it is understood."""
    if isinstance(value, str):
        value = value.strip()
        if "|" in value:
            return tuple(_label(part) for part in value.split("|") if part.strip())
        if value.startswith("[") and value.endswith("]"):
            return tuple(_label(part) for part in value[1:-1].replace(",", " ").split())
    if isinstance(value, (list, tuple)):
        return tuple(_label(part) for part in value)
    integer = as_integer(value)
    return value if integer is None else integer


def _class_names(
    given: Sequence[str] | None,
    of_columns: list[str] | None,
    about: Mapping[str, Any],
    labels: list[Any],
    count: int,
    path: Path,
) -> list[str]:
    """The classes in the order of the scores: given, of the columns, of results.json, or the names among the labels."""
    names = list(given or of_columns or about.get("class_names") or ())
    flat = [part for label in labels for part in (label if isinstance(label, tuple) else (label,))]
    if not names and any(isinstance(part, str) and part for part in flat):
        names = sorted({str(part) for part in flat if part != ""})
        if len(names) != count:
            raise ValueError(
                f"{path}: {count} scores a video and {len(names)} names among the labels, so their order is unknown; "
                "give --class_names, in the order of the scores"
            )
    if names and len(names) != count:
        raise ValueError(f"{path} has {count} scores a video, and there are {len(names)} class names; they must agree")
    return list(map(str, names)) or list(map(str, range(count)))


def _targets(labels: list[Any], names: list[str], multi: bool, path: Path) -> np.ndarray:
    number = {name: index for index, name in enumerate(names)}
    targets = np.zeros((len(labels), len(names)), bool)
    for place, label in enumerate(labels):
        parts = label if isinstance(label, tuple) else () if label in ("", None) and multi else (label,)
        if multi and isinstance(label, tuple) and len(label) == len(names) and set(label) <= {0, 1}:
            targets[place] = np.array(label, bool)  # one for each class, as videomae evaluate writes it
            continue
        if not multi and len(parts) != 1:
            raise ValueError(f"{path}, row {place + 1}: {len(parts)} labels for one video; give --label_kind multi")
        for part in parts:
            index = part if isinstance(part, int) and not isinstance(part, bool) else number.get(str(part), -1)
            if not 0 <= index < len(names):
                raise ValueError(
                    f"{path}, row {place + 1}: label {part!r} is none of the {len(names)} classes, {some_of(names)}"
                )
            targets[place, index] = True
    return targets


def _check_probabilities(scores: np.ndarray, paths: list[str], path: Path, *, single: bool) -> None:
    bad = ~np.isfinite(scores).all(axis=1)
    if bad.any():
        raise ValueError(
            f"{path}: {bad.sum()} videos have a score that is not finite, the first is {paths[bad.argmax()]}"
        )
    outside = ((scores < 0) | (scores > 1)).any(axis=1)
    if outside.any():
        raise ValueError(
            f"{path}: the scores of {paths[outside.argmax()]} lie outside 0 to 1; probabilities are needed, or give --logits"
        )
    off = np.abs(scores.sum(axis=1) - 1) > SUM_TOLERANCE
    if single and off.any():
        raise ValueError(
            f"{path}: the scores of {paths[off.argmax()]} sum to {scores[off.argmax()].sum():.4g}, not to 1; with several "
            "labels a video give --label_kind multi, with logits --logits"
        )
