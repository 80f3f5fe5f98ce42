"""Class names of a data set against those of a checkpoint: the same, in another order, or another set.

Scores that are near zero because two label orders differ are the commonest mistake in testing a classifier, so names
are compared wherever both sides have them, and nothing is remapped unless the user says so.
"""

import difflib
import itertools
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from videomae.choices import MATCHES


def normalised(name: str) -> str:
    """A name without what annotation files disagree about: case, quotes, underscores, hyphens, doubled blanks."""
    name = re.sub(r"[\s_\-]+", " ", name.strip().strip("\"'").replace("’", "'")).strip()
    return name.casefold()


def are_placeholders(names: Iterable[str]) -> bool:
    """Whether these are the names that transformers gives to classes without any: LABEL_0, LABEL_1 ..."""
    return all(re.fullmatch(r"LABEL_\d+", name) for name in names)


def names_of(id2label: Mapping[int, str] | None) -> list[str] | None:
    """The class names of a config in class order; None where they are transformers' placeholders (LABEL_0 ...)."""
    if not id2label:
        return None
    names = [id2label[index] for index in sorted(id2label)]
    return None if are_placeholders(names) else names


def class_columns(
    data_names: Sequence[str] | None, model_names: Sequence[str] | None, num_labels: int, match: str = "check"
) -> list[int] | None:
    """Which of the model's outputs stands for each class of the data, or None where they are the same already.

    match: "check" asks for equal names in equal order, "by_name" finds each class of the data among the model's (which
    may have more), "by_index" trusts the numbers. Where one side has no names the numbers are all there is.
    """
    if match not in MATCHES:
        raise ValueError(f"labels must be matched by one of {', '.join(MATCHES)}, not {match!r}")
    if match == "by_name":
        if not (data_names and model_names):
            side = "the data set has" if not data_names else "the checkpoint has"
            raise ValueError(f"labels cannot be matched by name: {side} no class names; use by_index or name them")
        columns = find_names(data_names, model_names)
        return None if columns == list(range(num_labels)) else columns
    if data_names and len(data_names) > num_labels:
        raise ValueError(
            f"the data set has {len(data_names)} classes and the checkpoint {num_labels} outputs\n"
            + side_by_side(data_names, model_names or [])
        )
    if match == "check" and data_names and model_names:
        if list(map(normalised, data_names)) == list(map(normalised, model_names)):
            return None
        same_set = set(map(normalised, data_names)) <= set(map(normalised, model_names))
        hint = (
            "every class of the data is known to the checkpoint under another number: match them by_name"
            if same_set
            else "fine-tune on these classes, or, if only the spelling differs, match them by_index"
        )
        raise ValueError(
            f"class names of the data and of the checkpoint differ; {hint}\n" + side_by_side(data_names, model_names)
        )
    if data_names and len(data_names) < num_labels:
        return list(range(len(data_names)))
    return None


def find_names(wanted: Sequence[str], among: Sequence[str]) -> list[int]:
    """The index of each wanted name in `among`; names without a partner are an error that lists the nearest ones."""
    places: dict[str, int] = {}
    for index, name in enumerate(among):
        if normalised(name) in places:
            raise ValueError(f"the name {name!r} appears twice, at {places[normalised(name)]} and {index}")
        places[normalised(name)] = index
    missing = [name for name in wanted if normalised(name) not in places]
    if missing:
        lines = []
        for name in missing[:10]:
            near = difflib.get_close_matches(normalised(name), places, n=1)
            lines.append(f"  {name!r}" + (f" (nearest: {among[places[near[0]]]!r})" if near else ""))
        more = f"\n  and {len(missing) - 10} more" if len(missing) > 10 else ""
        raise ValueError(
            f"{len(missing)} of {len(wanted)} classes have no partner by name:\n" + "\n".join(lines) + more
        )
    return [places[normalised(name)] for name in wanted]


def side_by_side(data_names: Sequence[str], model_names: Sequence[str], *, most: int = 12) -> str:
    """The first classes that differ, as a table `index  data  checkpoint`."""
    pairs = itertools.zip_longest(data_names, model_names, fillvalue="-")
    rows = [(str(i), d, m) for i, (d, m) in enumerate(pairs) if normalised(d) != normalised(m)]
    shown = [("class", "data", "checkpoint"), *rows[:most]]
    widths = [max(len(row[column]) for row in shown) for column in (0, 1)]
    lines = [f"  {a:>{widths[0]}}  {b:<{widths[1]}}  {c}" for a, b, c in shown]
    return "\n".join(lines + ([f"  and {len(rows) - most} more"] if len(rows) > most else []))


def names_beside(origin: str, root: str) -> tuple[str, ...] | None:
    """The class names of a `labels.txt` in the folder of the list or the root, one a line."""
    for folder in dict.fromkeys((os.path.dirname(origin), root)):
        path = Path(folder, "labels.txt")
        if path.is_file() and str(path) != origin:
            return _read_class_names(path)
    return None


def _read_class_names(path: str | os.PathLike) -> tuple[str, ...]:
    """One class a line, in the order of their numbers."""
    names = [line.strip() for line in Path(path).read_text(encoding="utf-8-sig").splitlines()]
    names = [name for name in names if name]
    twice = [name for name, times in Counter(names).items() if times > 1]
    if twice:
        raise ValueError(f"{path} lists class {twice[0]!r} twice")
    return tuple(names)
