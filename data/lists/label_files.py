"""Class names from files as people have them: txt, json, csv, pbtxt, or a data set's own annotation file.

Reading only: data/lists/label_names.py compares the names of data and checkpoint. The public lists are not shipped; known
sets (label_sets.py) are fetched from the Hub where it has them, and otherwise the error says which file of
the data set to give.
"""

import csv
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from videomae.data.lists.label_sets import LABEL_SETS

HUB_LISTS = "huggingface/label-files"
NAME_COLUMNS = ("name", "label", "class", "class_name", "label_name", "action", "template", "display_name")
ID_COLUMNS = ("id", "index", "class_id", "label_id", "class_index", "action_id")


def class_names(source: str | Path | Sequence[str] | Mapping[Any, str], count: int) -> list[str]:
    """The `count` class names in class order, from a known set, a file, a list, or an id2label mapping."""
    if isinstance(source, Mapping):
        names, shown = _by_id(source.items(), "the labels"), "the labels"
    elif isinstance(source, (str, Path)):
        file = _fetch(str(source), count) if str(source) in LABEL_SETS and not Path(source).is_file() else Path(source)
        names, shown = read_names(file), str(file)
    else:
        names, shown = [str(name) for name in source], "the labels"
    if len(names) != count:
        fits = [name for name, known in LABEL_SETS.items() if known.count == count]
        hint = f"; {count} classes is {' or '.join(fits)}" if fits else ""
        raise ValueError(f"{shown} has {len(names)} class names, but the head has {count} classes{hint}")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{shown} has the name {twice[0]!r} more than once; class names must differ")
    return names


def read_names(file: str | Path) -> list[str]:
    """All class names of a file in class order; numbers in it may start at 0 or 1, and no number may be missing."""
    file = Path(file)
    if not file.is_file():
        known = ", ".join(LABEL_SETS)
        raise FileNotFoundError(f"no label file {file}; give a txt, json, csv or pbtxt file, or one of {known}")
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{file} is not a text file; labels are read from txt, json, csv and pbtxt") from None
    reader = {".json": _from_json, ".csv": _from_csv, ".pbtxt": _from_pbtxt}.get(file.suffix.lower(), _from_lines)
    names = reader(text, str(file))
    if not names:
        raise ValueError(f"{file} holds no class names")
    return names


def _fetch(name: str, count: int) -> Path:
    """The list of a known set from the Hub, or an error that says which file would do."""
    known = LABEL_SETS[name]
    if known.count != count:
        raise ValueError(f"{known.title} has {known.count} classes, but the head has {count}")
    if known.hub_file is None:
        raise ValueError(f"the Hub has no list of {known.title}'s classes; give --labels the file {known.own_file}")
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(HUB_LISTS, known.hub_file, repo_type="dataset"))
    except Exception as error:  # no network, offline mode, a proxy's page: the way out is the same
        raise OSError(
            f"cannot fetch {known.hub_file} from {HUB_LISTS} ({_first_line(error)}); give --labels a local file of "
            f"{count} names instead"
        ) from None


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _by_id(pairs: Iterable[tuple[Any, Any]], shown: str) -> list[str]:
    """Names ordered by their numbers, which must be 0..n-1 or 1..n."""
    try:
        numbered = sorted((int(number), str(name)) for number, name in pairs)
    except (TypeError, ValueError):
        raise ValueError(f"{shown} does not map numbers to names, nor names to numbers") from None
    numbers = [number for number, _ in numbered]
    first = numbers[0] if numbers else 0
    if first not in (0, 1) or numbers != list(range(first, first + len(numbers))):
        missing = sorted(set(range(first, numbers[-1])) - set(numbers))
        what = f"number {missing[0]} is missing" if missing else f"they run from {first} to {numbers[-1]}, some twice"
        raise ValueError(f"{shown} numbers its classes with gaps ({what}); give the complete list")
    return [name for _, name in numbered]


def _is_number(value: Any) -> bool:
    return not isinstance(value, bool) and re.fullmatch(r"\d+", str(value).strip()) is not None


def _from_json(text: str, shown: str) -> list[str]:
    """A list of names; {number: name}; {name: number}; a list of {"id", "name"}, also under "categories" or the like."""
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{shown} is not JSON ({error})") from None
    if isinstance(value, Mapping):
        for key in ("id2label", "label2id", "categories", "classes", "labels", "names"):
            if isinstance(value.get(key), (Mapping, list)):
                value = value[key]
                break
    if isinstance(value, Mapping):
        if all(_is_number(key) for key in value):
            return _by_id(value.items(), shown)
        if all(_is_number(number) for number in value.values()):
            return _by_id(((number, name) for name, number in value.items()), shown)
        if value and all(isinstance(row, Mapping) for row in value.values()):  # annotations by video
            return _from_rows(list(value.values()), shown)
    if isinstance(value, list):
        if all(isinstance(row, Mapping) for row in value):
            return _from_rows(value, shown)
        if all(isinstance(name, str) for name in value):
            return value
    raise ValueError(f"{shown} holds no class names that can be recognised: expected a list, or numbers with names")


def _from_csv(text: str, shown: str) -> list[str]:
    """Columns with a header (id and name, or the annotations with a label column), or two bare columns."""
    rows = [row for row in csv.reader(text.splitlines()) if any(cell.strip() for cell in row)]
    if not rows:
        return []
    header = [cell.strip().lower() for cell in rows[0]]
    if set(header) & set(NAME_COLUMNS):
        return _from_rows([dict(zip(header, (cell.strip() for cell in row))) for row in rows[1:]], shown)
    if all(len(row) == 2 for row in rows):
        for number, name in ((0, 1), (1, 0)):
            if all(_is_number(row[number]) for row in rows):
                return _by_id(((row[number], row[name].strip()) for row in rows), shown)
    if all(len(row) == 1 for row in rows):
        return [row[0].strip() for row in rows]
    raise ValueError(f"{shown} has no column called {', '.join(NAME_COLUMNS[:4])}; its first line is {rows[0]}")


def _from_rows(rows: Sequence[Mapping[str, Any]], shown: str) -> list[str]:
    """Records with a number and a name each, or annotations whose sorted set of labels is the list (Kinetics' rule)."""
    name_key = next((key for key in NAME_COLUMNS if rows and all(key in row for row in rows)), None)
    if name_key is None:
        raise ValueError(f"{shown}: its entries have no field called {', '.join(NAME_COLUMNS[:4])}")
    id_key = next((key for key in ID_COLUMNS if all(_is_number(row.get(key, "")) for row in rows)), None)
    if id_key is None:
        return sorted({str(row[name_key]) for row in rows})
    pairs = dict.fromkeys((row.get(id_key), str(row[name_key])) for row in rows)  # an annotation file repeats them
    if len({number for number, _ in pairs}) == len({name for _, name in pairs}) == len(pairs):
        return _by_id(pairs, shown)
    return sorted({name for _, name in pairs})


def _from_pbtxt(text: str, shown: str) -> list[str]:
    """AVA's lists: blocks with a name and an id or label_id."""
    blocks = re.findall(r"\{(.*?)\}", text, flags=re.DOTALL)
    pairs = []
    for block in blocks:
        name = re.search(r"\bname\s*:\s*(\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*')", block)
        number = re.search(r"\b(?:label_id|id)\s*:\s*(\d+)", block)
        if not (name and number):
            raise ValueError(f"{shown} has an entry without name and id: {{{' '.join(block.split())[:60]}}}")
        pairs.append((number[1], re.sub(r"\\(.)", r"\1", name[1][1:-1])))
    return _by_id(pairs, shown)


def _from_lines(text: str, shown: str) -> list[str]:
    """A name a line, or a number and a name, or a name and a number."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    for pattern in (r"(?P<number>\d+)[\s,:]+(?P<name>.*\S)", r"(?P<name>.*\S)[\s,:]+(?P<number>\d+)"):
        matches = [match for line in lines if (match := re.fullmatch(pattern, line))]
        if lines and len(matches) == len({match["name"] for match in matches}) == len(lines):
            return _by_id(((match["number"], match["name"].strip("\"'")) for match in matches), shown)
    return [line.strip("\"'") for line in lines]
