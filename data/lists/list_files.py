"""Lists (one entry a line) and tables (columns with names) as manifests; the delimiter is recognised.

What cannot be told apart is an error that names the line, never a guess: a wrong guess trains on wrong labels.
"""

import csv
import itertools
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from videomae.data.lists.manifests import WHOLE, Builder, Manifest, ReadOptions, as_integer, some_of
from videomae.data.sources import VIDEO_SUFFIXES
from videomae.data.stretches import seconds_in

# Names that columns have in the wild, the first found wins; compared in lower case.
PATH_COLUMNS = ("path", "video_path", "filepath", "file_path", "file_name", "filename", "video", "file", "clip", "name")
LABEL_COLUMNS = ("label", "labels", "class", "class_name", "label_name", "action", "category", "target", "class_id")
FIRST_COLUMNS = ("start", "start_frame", "first", "first_frame")
COUNT_COLUMNS = ("total", "num_frames", "frames", "total_frames", "frame_count")
START_SECONDS, END_SECONDS, LENGTH_SECONDS = "start_seconds", "end_seconds", "duration_seconds"


def read_list(path: Path, options: ReadOptions, columns: tuple[str, ...] | None = None) -> Manifest:
    """Lines of `path label`, of `path start total label` or `path start total` (V2), or just paths.

    Delimiters are blanks, commas, semicolons or tabs. `columns` states what the columns are where that is known.
    """
    delimiter, width = _list_format(path, columns)
    columns = columns or _COLUMNS[width]
    builder = Builder(path, options.root or path.parent, options)
    for line, fields in _rows(path, delimiter):
        if len(fields) != width and delimiter == " ":
            fields = _with_blanks(fields, width)
        if len(fields) != width:
            raise ValueError(
                f"{path}, line {line}: {len(fields)} columns where the lines before have {width}: "
                f"{_shorten(delimiter.join(fields))}"
            )
        if width <= 2:
            builder.add(fields[0], fields[1] if width == 2 else None, line)
            continue
        entry = dict(zip(columns, fields))
        first, total = as_integer(entry.get("start", 1)), as_integer(entry["total"])
        if first is None or total is None:
            raise ValueError(
                f"{path}, line {line}: start and total must be integers: {_shorten(delimiter.join(fields))}"
            )
        if total == 0:
            raise ValueError(f"{path}, line {line}: a total of 0 frames; give the count, or -1 for a video file")
        builder.add(entry["path"], entry.get("label"), line, first, max(total, 0))
    return builder.build()


_COLUMNS = {1: ("path",), 2: ("path", "label"), 3: ("path", "start", "total"), 4: ("path", "start", "total", "label")}
FRAME_LIST_COLUMNS = ("path", "total", "label")  # V2's lists of frame folders for fine-tuning


def read_video_list(path: Path, options: ReadOptions) -> Manifest:
    """Lines of `path start total`, as V2 pre-trains; with a label they need no such hint."""
    return read_list(path, options, _COLUMNS[3])


def read_frame_list(path: Path, options: ReadOptions) -> Manifest:
    """Lines of `path total label`, as V2 fine-tunes on folders of frames."""
    return read_list(path, options, FRAME_LIST_COLUMNS)


def _rows(path: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Lines that are not blank, with their numbers, split at the delimiter outside quotes."""
    with open(path, newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
        reader = csv.reader(file, delimiter=delimiter, skipinitialspace=True)
        try:
            for fields in reader:
                if delimiter == " " and "" in fields:
                    fields = [field for field in fields if field]
                if any(map(str.strip, fields)):
                    yield reader.line_num, [field.strip() for field in fields]
        except csv.Error as error:
            raise ValueError(f"{path}, line {reader.line_num}: {error}") from None


def _list_format(path: Path, columns: tuple[str, ...] | None, sample: int = 200) -> tuple[str, int]:
    """The delimiter and the number of columns that the first lines agree on; two possible answers are an error."""
    fitting: list[tuple[str, int]] = []
    for delimiter in _DELIMITER_NAMES:
        rows = list(itertools.islice(_rows(path, delimiter), sample))
        if not rows:
            raise ValueError(f"{path} lists no videos")
        width = _width(rows, delimiter)
        if width is not None and (columns is None or width == len(columns)):
            fitting.append((delimiter, width))
    several = [found for found in fitting if found[1] > 1]
    if len(several) > 1:
        line, fields = next(_rows(path, several[0][0]))
        shown = " and ".join(f"{_DELIMITER_NAMES[delimiter]} ({width} columns)" for delimiter, width in several)
        raise ValueError(
            f"{path}, line {line}: could be split at {shown}; quote the paths or give a header line: "
            f"{_shorten(several[0][0].join(fields))}"
        )
    if not fitting:
        rows = list(itertools.islice(_rows(path, " "), sample))
        line, fields = next((row for row in rows if _width([row], " ") is None), rows[0])
        raise ValueError(
            f"{path}, line {line}: the list has neither `path label` nor `path start total label` throughout: "
            f"{_shorten(' '.join(fields))}; name the columns in a header line"
        )
    delimiter, width = several[0] if several else fitting[0]
    if width == 3 and columns is None:
        line, fields = next(_rows(path, delimiter))
        # A video file of -1 frames is V2's `path start total`, whatever the other lines hold.
        if not any(_is_v2_video(row) for _, row in _rows(path, delimiter)):
            raise ValueError(
                f"{path}, line {line}: three columns can mean `path start total` or `path total label`; say which by "
                f"layout='video_list' or layout='frame_list': {_shorten(delimiter.join(fields))}"
            )
    return delimiter, width


def _is_v2_video(row: list[str]) -> bool:
    """Whether a row can only be a video file of V2's `path start total`: it has -1 frames."""
    return len(row) >= 3 and _suffix(row[-3]) in VIDEO_SUFFIXES and (as_integer(row[-1]) or 0) < 0


_DELIMITER_NAMES = {"\t": "tabs", ",": "commas", ";": "semicolons", " ": "blanks"}


def _width(rows: list[tuple[int, list[str]]], delimiter: str) -> int | None:
    """How many columns the rows have, if they fit one of the list formats."""
    widths = {len(fields) for _, fields in rows}
    if widths == {1}:
        return 1 if all(_suffix(fields[0]) in VIDEO_SUFFIXES for _, fields in rows) else None
    for width in (4, 3, 2):
        # Commas and tabs leave room for a class name in the last column of `path label`.
        numbers = () if width == 2 and delimiter != " " else range(1, width)
        split = [_with_blanks(fields, width) if delimiter == " " else fields for _, fields in rows]
        if all(
            len(fields) == width and all(as_integer(fields[i]) is not None for i in numbers) for fields in split
        ) and (numbers or all(_is_path(path) or as_integer(label) is not None for path, label in split)):
            return width
    return None


def _with_blanks(fields: list[str], columns: int) -> list[str]:
    """Join what must be a path with blanks in it, leaving the columns after it."""
    joined = " ".join(fields[: len(fields) - columns + 1])
    return [joined, *fields[len(fields) - columns + 1 :]] if _is_path(joined) and len(fields) > columns else fields


def _is_path(text: str) -> bool:
    return _suffix(text) in VIDEO_SUFFIXES or "/" in text or "\\" in text


def _suffix(path: str) -> str:
    return os.path.splitext(path)[1].lower()


def _shorten(text: str, most: int = 100) -> str:
    return repr(text if len(text) <= most else text[:most] + " ...")


# -- tables: columns with names ----------------------------------------------------------------------------------------


class Columns(NamedTuple):
    """What the columns of a table are called; None for those that it has not."""

    path: str
    label: str | None
    first: str | None
    count: str | None
    split: str | None
    start: str | None
    end: str | None
    length: str | None


def read_table(path: Path, options: ReadOptions) -> Manifest:
    """A CSV, TSV, JSONL or Parquet file with named columns: a path, and maybe a label, a start and a total, or seconds."""
    builder = Builder(path, options.root or path.parent, options)
    split, known, names, timed = options.split, None, None, None
    for line, row in table_rows(path):
        if names is None or row.keys() != known:
            known, names = row.keys(), _named_columns(row, path, line)
            timed = names.start or names.end
        if split is not None and names.split and row[names.split] != split:
            if options.background is not None and timed:
                times = times_of(row, names.start, names.end, f"{path}, line {line}")
                builder.elsewhere.setdefault(str(row[names.path]).strip(), []).append(times)
            continue
        video, label = row.get(names.path), row.get(names.label) if names.label else None
        if not isinstance(video, str):
            raise ValueError(f"{path}, line {line}: {names.path} must be a path, not {video!r}")
        if label == "" or (isinstance(label, float) and label != label):
            label = () if options.label_kind == "multi" else None
        label = label.strip() if isinstance(label, str) else label
        count = max(as_integer(row[names.count]) or 0, 0) if names.first and names.count else 0
        first = as_integer(row[names.first]) or 0 if count else 0
        stretch = times_of(row, names.start, names.end, f"{path}, line {line}") if timed else WHOLE
        builder.add(video.strip(), label, line, first, count, stretch=stretch)
        if names.length and (length := _time(row, names.length, 0.0, f"{path}, line {line}")):
            builder.lengths[video.strip()] = length
    if split is not None and not len(builder):
        raise ValueError(f"{path} has no rows of split {split!r}")
    return builder.build()


def times_of(row: Mapping[str, Any], start: str | None, end: str | None, at: str) -> tuple[float, float]:
    """The times of a row in seconds, by the names of their columns; empty cells mean the start and the end of the file."""
    first = WHOLE[0] if start is None else _time(row, start, WHOLE[0], at)
    return first, WHOLE[1] if end is None else _time(row, end, WHOLE[1], at)


def _time(row: Mapping[str, Any], name: str, default: float, at: str) -> float:
    try:
        return seconds_in(row[name], default)
    except (TypeError, ValueError):
        raise ValueError(
            f"{at}: {name}={row[name]!r} is no time; give seconds such as 83.5, or h:mm:ss such as 0:01:23.5"
        ) from None


def _named_columns(row: Mapping[str, Any], path: Path, line: int) -> Columns:
    lower = {str(name).strip().lower(): name for name in row}

    def find(*names: str) -> Any:
        return next((lower[name] for name in names if name in lower), None)

    video = find(*PATH_COLUMNS)
    if video is None:
        raise ValueError(
            f"{path}, line {line}: no column for the path among {some_of(map(str, row))}; name it one of "
            f"{', '.join(PATH_COLUMNS)}"
        )
    found = Columns(
        video, find(*LABEL_COLUMNS), find(*FIRST_COLUMNS), find(*COUNT_COLUMNS), find("split", "subset"),
        find(START_SECONDS), find(END_SECONDS), find(LENGTH_SECONDS),
    )  # fmt: skip
    if found.first and "end" in lower and not (found.count or found.start or found.end):
        raise ValueError(
            f"{path}: columns {found.first} and {lower['end']} without total can mean seconds of a video or frames of a "
            f"folder; for seconds name them {START_SECONDS} and {END_SECONDS}, for frames give {found.first} and total"
        )
    return found


def has_header(path: Path) -> bool:
    """Whether the first line names columns."""
    with open(path, encoding="utf-8-sig", errors="replace") as file:
        first = next((line for line in file if line.strip()), "")
    names = {name.strip().strip("\"'").lower() for name in re.split(r"[\t,; ]", first)}
    if any(as_integer(name) is not None for name in names):
        return False  # an entry called `clip`, say, and its label
    return bool(names & set(PATH_COLUMNS)) or "youtube_id" in names


def table_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a CSV, TSV, JSONL or Parquet file by the names of their columns, with their line numbers."""
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return _parquet_rows(path)
    return _json_rows(path) if suffix in (".jsonl", ".ndjson", ".json") else _csv_rows(path)


def _csv_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with open(path, encoding="utf-8-sig", errors="replace") as file:
        header = next((line for line in file if line.strip()), "")
    present = [delimiter for delimiter in "\t,; " if delimiter in header.strip()]
    delimiter = present[0] if present else ","
    rows = _rows(path, delimiter)
    _, names = next(rows)
    if len(set(names)) != len(names):
        raise ValueError(f"{path}: two columns have one name in the header {names}")
    for line, fields in rows:
        if len(fields) != len(names):
            raise ValueError(f"{path}, line {line}: {len(fields)} columns where the header has {len(names)}")
        yield line, dict(zip(names, fields))


def _json_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with open(path, encoding="utf-8-sig") as file:
        for line, text in enumerate(file, 1):
            if not text.strip():
                continue
            try:
                row = json.loads(text)
            except ValueError as error:
                raise ValueError(f"{path}, line {line}: not JSON: {error}") from None
            except RecursionError:
                raise ValueError(f"{path}, line {line}: nested too deep for an entry of a list") from None
            if not isinstance(row, dict):
                raise ValueError(
                    f"{path}, line {line}: each line must be an object with named values, not {text[:40]!r}"
                )
            yield line, row


def _parquet_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    import pyarrow.parquet as parquet  # comes with datasets

    line = 0
    for batch in parquet.ParquetFile(path).iter_batches():
        columns = batch.to_pydict()
        for values in zip(*columns.values()):
            line += 1
            yield line, dict(zip(columns, values))
