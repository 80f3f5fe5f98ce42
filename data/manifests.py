"""What a data set holds: paths, labels and class names, read from the layouts that people have.

`open_manifest` recognises the layout. A manifest keeps a million entries in a few flat tensors, which worker processes
share instead of copying. Nothing here opens a video; that is sources.py's. Layouts of particular data sets (Kinetics,
Something-Something, UCF101, HMDB51) are in dataset_layouts.py, prepared shards in shards.py.
"""

import csv
import json
import os
import re
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from videomae.data.sources import FrameFolder, Source, TarMember

VIDEO_SUFFIXES = frozenset(
    ".mp4 .webm .mkv .avi .mov .m4v .mpg .mpeg .wmv .flv .ts .m2ts .mts .3gp .ogv .gif .mjpg .mjpeg .vob .asf".split()
)
IMAGE_SUFFIXES = frozenset(".jpg .jpeg .png .bmp .webp .ppm .tif .tiff".split())
# What other files may lie in a folder of videos without being taken for videos that we cannot read.
SIDE_SUFFIXES = frozenset(
    ".txt .csv .tsv .json .jsonl .md .xml .yaml .yml .srt .vtt .log .html .pdf .py .sh .npy .npz .wav .mp3 .m4a".split()
) | {""}

# Names that columns have in the wild, the first found wins; compared in lower case.
PATH_COLUMNS = ("path", "video_path", "filepath", "file_path", "file_name", "filename", "video", "file", "clip", "name")
LABEL_COLUMNS = ("label", "labels", "class", "class_name", "label_name", "action", "category", "target", "class_id")
FIRST_COLUMNS = ("start", "start_frame", "first", "first_frame")
COUNT_COLUMNS = ("total", "num_frames", "frames", "total_frames", "frame_count")

LABEL_KINDS = ("class", "multi", "value")
FRAME_PATTERN = "img_{:05}.jpg"  # V2's lists mean this one


@dataclass(frozen=True, eq=False)
class Manifest:
    """The entries of a data set. `text` and the tensors may be shared between processes; treat all as read-only.

    labels: (N,) class numbers, or (N, K) floats for several classes at once or for values, or None.
    first, count: for frame folders, the number in the first file's name and how many frames there are; 0 frames means
        that the entry is a video file.
    shard, offset, size: for entries inside tar files, `shards[shard]` and where in it.
    table: a datasets.Dataset that holds the videos in `column`.
    """

    origin: str
    root: str
    text: torch.Tensor
    ends: torch.Tensor
    labels: torch.Tensor | None = None
    class_names: tuple[str, ...] | None = None
    first: torch.Tensor | None = None
    count: torch.Tensor | None = None
    pattern: str = FRAME_PATTERN
    shards: tuple[str, ...] = ()
    shard: torch.Tensor | None = None
    offset: torch.Tensor | None = None
    size: torch.Tensor | None = None
    table: Any = None
    column: str | None = None

    def __len__(self) -> int:
        return len(self.ends)

    def path(self, index: int) -> str:
        """The entry's name as the list gives it."""
        start = int(self.ends[index - 1]) if index else 0
        return self.text[start : int(self.ends[index])].numpy().tobytes().decode("utf-8", "surrogateescape")

    def source(self, index: int) -> Source:
        """What to open for the entry."""
        if self.table is not None:
            return self.table[int(index)][self.column]
        if self.shard is not None:
            shard = os.path.join(self.root, self.shards[int(self.shard[index])])
            return TarMember(shard, int(self.offset[index]), int(self.size[index]), self.path(index))
        path = os.path.join(self.root, self.path(index))
        if self.count is not None and self.count[index] > 0:
            return FrameFolder(path, int(self.first[index]), int(self.count[index]), self.pattern)
        return path

    def label(self, index: int) -> int | torch.Tensor | None:
        if self.labels is None:
            return None
        label = self.labels[index]
        return label if label.dim() else int(label)

    @property
    def num_labels(self) -> int | None:
        if self.class_names is not None:
            return len(self.class_names)
        if self.labels is None or not len(self):
            return None
        return self.labels.shape[1] if self.labels.dim() == 2 else int(self.labels.max()) + 1

    def subset(self, indices: Sequence[int]) -> "Manifest":
        """The chosen entries in the given order."""
        if self.table is not None:
            picked = {"table": self.table.select(indices)}
        else:
            picked = {}
        chosen = torch.as_tensor(list(indices), dtype=torch.int64)
        names = [self.path(int(index)).encode("utf-8", "surrogateescape") for index in chosen]
        for name in ("labels", "first", "count", "shard", "offset", "size"):
            column = getattr(self, name)
            picked[name] = None if column is None else column[chosen]
        text, ends = _packed(b"".join(names), array("q", map(len, names)))
        return Manifest(**{**vars(self), **picked, "text": text, "ends": ends})

    def check_labels(self, *, num_labels: int | None = None, classes: bool = True) -> None:
        """What a classifier needs: labels, inside the range, of more than one class."""
        if self.labels is None:
            raise ValueError(f"{self.origin} has no labels; a classifier needs a label for each video")
        if self.labels.dim() == 2:
            if num_labels is not None and self.labels.shape[1] != num_labels:
                raise ValueError(f"{self.origin} has labels of {self.labels.shape[1]} numbers, the model {num_labels}")
            return
        if num_labels is not None:
            outside = ((self.labels < 0) | (self.labels >= num_labels)).nonzero().flatten()
            if len(outside):
                index = int(outside[0])
                raise ValueError(
                    f"{self.origin}: label {int(self.labels[index])} of {self.path(index)} lies outside 0 ... "
                    f"{num_labels - 1} ({len(outside)} such entries); raise num_labels or mend the list"
                )
        if classes and len(self.labels.unique()) < 2:
            raise ValueError(
                f"{self.origin} has one class only ({self._class_name(int(self.labels[0]))}); a classifier learns "
                "nothing from it: add videos of another class"
            )

    def _class_name(self, label: int) -> str:
        return repr(self.class_names[label]) if self.class_names else str(label)


def open_manifest(
    source: Any,
    *,
    root: str | os.PathLike | None = None,
    split: str | None = None,
    class_names: Sequence[str] | None = None,
    num_labels: int | None = None,
    label_kind: str = "class",
    layout: str | None = None,
    missing: str = "error",
    pattern: str = FRAME_PATTERN,
) -> Manifest:
    """Read a data set of any known layout.

    source: a list (`path label` or V2's `path start total label` a line; blank, comma or tab), a CSV, TSV, JSONL or
        Parquet file with named columns, a folder with a sub-folder per class (of videos or of frame folders), prepared
        shards, a `datasets.Dataset`, or the annotation files of Kinetics, Something-Something, UCF101 and HMDB51.
    root: where relative paths start; by default the folder of the list.
    split: which part, where one source has several (train, validation, test; for UCF101 and HMDB51 `train1` ...).
    class_names: the classes in the order of their numbers. Give the training set's (or the checkpoint's) to every other
        split; without them they come from `labels.txt` beside the list, or are the sorted names that occur.
    label_kind: "class"; "multi" for several classes an entry (separated by | in text files); "value" for numbers.
    layout: name it where recognition fails: one of `LAYOUTS`.
    missing: what to do about videos that an annotation file names and the disk lacks ("error" or "drop"), for layouts
        that are matched against the disk.
    pattern: names of the images in frame folders that a list gives by start and total.
    """
    from videomae.data import dataset_layouts

    if label_kind not in LABEL_KINDS:
        raise ValueError(f"label_kind must be one of {', '.join(LABEL_KINDS)}, not {label_kind!r}")
    if missing not in ("error", "drop"):
        raise ValueError(f"missing must be error or drop, not {missing!r}")
    options = ReadOptions(
        root=None if root is None else str(root),
        split=split,
        class_names=None if class_names is None else tuple(class_names),
        num_labels=num_labels,
        label_kind=label_kind,
        missing=missing,
        pattern=pattern,
    )
    if isinstance(source, Manifest):
        return source
    if not isinstance(source, (str, os.PathLike)):
        return dataset_layouts.from_dataset(source, options)
    path = Path(source)
    if not path.exists():
        raise FileNotFoundError(f"no such list or folder: {path}")
    if layout is None:
        layout = dataset_layouts.recognise(path, options)
    if layout not in dataset_layouts.LAYOUTS:
        raise ValueError(f"unknown layout {layout!r}; choose one of {', '.join(dataset_layouts.LAYOUTS)}")
    return dataset_layouts.LAYOUTS[layout](path, options)


@dataclass(frozen=True)
class ReadOptions:
    """The options of `open_manifest`, as its readers get them."""

    root: str | None = None
    split: str | None = None
    class_names: tuple[str, ...] | None = None
    num_labels: int | None = None
    label_kind: str = "class"
    missing: str = "error"
    pattern: str = FRAME_PATTERN


class Builder:
    """Collects entries and makes the manifest, checking paths and labels against the line they came from.

    Labels arrive as the text or number that stands in the file; what they mean is decided when all are known: integers
    if all of them are, names otherwise.
    """

    def __init__(self, origin: str | os.PathLike, root: str | os.PathLike, options: ReadOptions):
        self.origin, self.root, self.options = str(origin), str(root), options
        self._text, self._lengths, self._hashes = bytearray(), array("q"), array("q")
        self._codes, self._first_use = array("q"), []
        self._code_of: dict[Any, int] = {}
        self._lines = array("q")
        self._firsts, self._counts = array("q"), array("q")

    def add(self, path: str, label: Any, line: int | None, first: int = 0, count: int = 0) -> None:
        """One entry; `label` None where there is none, `line` for messages."""
        if not path:
            raise ValueError(f"{self._at(line)}: the path is empty")
        if ".." in path and not os.path.isabs(path):
            if os.path.normpath(path).startswith(".."):
                raise ValueError(f"{self._at(line)}: {path!r} leads out of the data folder {self.root}; give its root")
        encoded = path.encode("utf-8", "surrogateescape")
        self._text += encoded
        self._lengths.append(len(encoded))
        self._hashes.append(hash(path))
        self._lines.append(line or 0)
        if count:
            if not self._counts:
                self._firsts, self._counts = array("q", [0] * (len(self) - 1)), array("q", [0] * (len(self) - 1))
            self._firsts.append(first)
            self._counts.append(count)
        elif self._counts:
            self._firsts.append(0)
            self._counts.append(0)
        if isinstance(label, list):
            label = tuple(label)
        code = self._code_of.get(label)
        if code is None:
            code = self._code_of[label] = len(self._code_of)
            self._first_use.append(line)
        self._codes.append(code)

    def __len__(self) -> int:
        return len(self._lengths)

    def build(self) -> Manifest:
        if not len(self):
            raise ValueError(f"{self.origin} lists no videos")
        codes = torch.frombuffer(self._codes, dtype=torch.int64).clone()
        labels, class_names = self._labels(codes)
        self._refuse_contradictions(codes)
        text, ends = _packed(bytes(self._text), self._lengths)
        frames = {}
        if self._counts:
            frames = {"first": torch.tensor(self._firsts), "count": torch.tensor(self._counts)}
        return Manifest(
            origin=self.origin,
            root=self.root,
            text=text,
            ends=ends,
            labels=labels,
            class_names=class_names,
            pattern=self.options.pattern,
            **frames,
        )

    def _at(self, line: int | None) -> str:
        return f"{self.origin}, line {line}" if line else self.origin

    def _labels(self, codes: torch.Tensor) -> tuple[torch.Tensor | None, tuple[str, ...] | None]:
        """Labels by entry and the class names, from the distinct labels that occurred."""
        names, options = self.options.class_names, self.options
        if names is None and options.label_kind != "value":
            names = _names_beside(self.origin, self.root)
        used = list(self._code_of)
        if None in self._code_of:
            if len(used) > 1:
                line = self._first_use[self._code_of[None]]
                raise ValueError(f"{self._at(line)}: the label is missing, though other entries have one")
            return None, names
        if options.label_kind == "value":
            values = [self._values(label, i) for i, label in enumerate(used)]
            return torch.tensor(values, dtype=torch.float32)[codes], None
        if options.label_kind == "multi":
            sets = [label if isinstance(label, tuple) else str(label).split("|") for label in used]
            numbers, names = self._numbers(
                [label for labels in sets for label in labels],
                names,
                [i for i, labels in enumerate(sets) for _ in labels],
            )
            count = len(names) if names else options.num_labels or max(numbers.values()) + 1
            table = torch.zeros(len(used), count)
            for row, labels in enumerate(sets):
                for label in labels:
                    table[row, numbers[label]] = 1.0
            return table[codes], names
        for i, label in enumerate(used):
            if isinstance(label, tuple):
                raise ValueError(
                    f"{self._at(self._first_use[i])}: the label is a list; pass label_kind='multi' or 'value'"
                )
        numbers, names = self._numbers(used, names, range(len(used)))
        return torch.tensor([numbers[label] for label in used])[codes], names

    def _values(self, label: Any, i: int) -> list[float]:
        try:
            parts = label if isinstance(label, tuple) else str(label).split("|")
            values = [float(part) for part in parts]
        except ValueError:
            raise ValueError(f"{self._at(self._first_use[i])}: label {label!r} is not a number") from None
        if not np.isfinite(values).all():
            raise ValueError(f"{self._at(self._first_use[i])}: label {label!r} is not finite")
        return values

    def _numbers(
        self, labels: Sequence[Any], names: tuple[str, ...] | None, uses: Sequence[int]
    ) -> tuple[dict[Any, int], tuple[str, ...] | None]:
        """The class number of each distinct label, and the class names where there are any."""
        as_integers = {label: _integer(label) for label in labels}
        if names and all(str(label) in names for label in as_integers):
            return {label: names.index(str(label)) for label in as_integers}, names
        if all(number is not None for number in as_integers.values()):
            limit = len(names) if names else self.options.num_labels
            for label, use in zip(labels, uses):
                number, line = as_integers[label], self._first_use[use]
                if number < 0 or (limit is not None and number >= limit):
                    bound = f"0 ... {limit - 1}" if limit is not None else "0 and above"
                    if number < 0 and limit is None and not names:
                        continue  # lists for pre-training carry -1; a classifier's check refuses it
                    raise ValueError(f"{self._at(line)}: label {number} lies outside {bound}")
            return as_integers, names
        for label, use in zip(labels, uses):
            line = self._first_use[use]
            if isinstance(label, float):
                raise ValueError(
                    f"{self._at(line)}: label {label!r} is not an integer; for values pass label_kind='value'"
                )
            if names and str(label) not in names:
                raise ValueError(f"{self._at(line)}: no class {label!r} among {_some(names)}")
        integers = [label for label in labels if as_integers[label] is not None]
        if integers:
            named = next(i for i, label in enumerate(labels) if as_integers[label] is None)
            raise ValueError(
                f"{self._at(self._first_use[uses[named]])}: label {labels[named]!r} is a name where others are numbers "
                f"(such as {integers[0]!r}); use one or the other, or pass class_names"
            )
        names = tuple(sorted({str(label) for label in labels}))
        return {label: names.index(str(label)) for label in as_integers}, names

    def _refuse_contradictions(self, codes: torch.Tensor) -> None:
        """One path under two labels is a mistake; twice under the same label is a repetition."""
        hashes = np.frombuffer(self._hashes, np.int64)
        order = np.argsort(hashes, kind="stable")
        same = np.flatnonzero(hashes[order][1:] == hashes[order][:-1])
        ends = np.cumsum(np.frombuffer(self._lengths, np.int64))
        for i in same:
            one, other = int(order[i]), int(order[i + 1])
            frames = self._counts and self._firsts[one] != self._firsts[other]
            if codes[one] == codes[other] or frames:
                continue
            paths = {bytes(self._text[int(ends[k]) - self._lengths[k] : int(ends[k])]) for k in (one, other)}
            if len(paths) == 1:
                raise ValueError(
                    f"{self._at(self._lines[other])}: {paths.pop().decode(errors='replace')!r} has another label on "
                    f"line {self._lines[one]}"
                )


def _packed(text: bytes, lengths: array) -> tuple[torch.Tensor, torch.Tensor]:
    """The text as bytes and where each entry ends."""
    ends = torch.frombuffer(lengths, dtype=torch.int64).cumsum(0) if len(lengths) else torch.zeros(0, dtype=torch.int64)
    return torch.frombuffer(bytearray(text), dtype=torch.uint8) if text else torch.zeros(0, dtype=torch.uint8), ends


def _integer(label: Any) -> int | None:
    if isinstance(label, bool) or isinstance(label, float):
        return int(label) if isinstance(label, float) and label.is_integer() else None
    try:
        return int(label)
    except (TypeError, ValueError):
        return None


def _some(names: Iterable[str], most: int = 6) -> str:
    names = list(names)
    return ", ".join(map(repr, names[:most])) + (f" ... ({len(names)} in all)" if len(names) > most else "")


def _names_beside(origin: str, root: str) -> tuple[str, ...] | None:
    """The class names of a `labels.txt` in the folder of the list or the root, one a line."""
    for folder in dict.fromkeys((os.path.dirname(origin), root)):
        path = Path(folder, "labels.txt")
        if path.is_file() and str(path) != origin:
            return read_class_names(path)
    return None


def read_class_names(path: str | os.PathLike) -> tuple[str, ...]:
    """One class a line, in the order of their numbers."""
    names = [line.strip() for line in Path(path).read_text(encoding="utf-8-sig").splitlines()]
    names = [name for name in names if name]
    twice = [name for name, times in Counter(names).items() if times > 1]
    if twice:
        raise ValueError(f"{path} lists class {twice[0]!r} twice")
    return tuple(names)


# -- lists: one entry a line, without names of columns -----------------------------------------------------------------


def read_list(path: Path, options: ReadOptions) -> Manifest:
    """`path label`, `path start total label`, `path start total`, or just `path`; blank, comma, semicolon or tab."""
    delimiter, columns = _list_format(path)
    builder = Builder(path, options.root or path.parent, options)
    for line, fields in _rows(path, delimiter):
        if len(fields) != columns:
            # A path with blanks is whatever stands before the other columns, if that looks like a video.
            fields = _with_blanks(fields, columns) if delimiter == " " else fields
            if len(fields) != columns:
                raise ValueError(
                    f"{path}, line {line}: {len(fields)} columns where the lines before have {columns}: "
                    f"{_shorten(delimiter.join(fields))}"
                )
        if columns == 1:
            builder.add(fields[0], None, line)
        elif columns == 2:
            builder.add(fields[0], fields[1], line)
        else:
            first, total = _integer(fields[1]), _integer(fields[2])
            if first is None or total is None:
                raise ValueError(
                    f"{path}, line {line}: start and total must be integers, not {fields[1]!r}, {fields[2]!r}"
                )
            if total == 0:
                raise ValueError(f"{path}, line {line}: a total of 0 frames; give the count, or -1 for a video file")
            builder.add(fields[0], fields[3] if columns == 4 else None, line, first, max(total, 0))
    return builder.build()


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


def _list_format(path: Path, sample: int = 200) -> tuple[str, int]:
    """The delimiter and the number of columns that the first lines agree on; two possible answers are an error."""
    fitting: list[tuple[str, int]] = []
    complaints: dict[str, str] = {}
    for delimiter in ("\t", ",", ";", " "):
        rows = []
        for row in _rows(path, delimiter):
            rows.append(row)
            if len(rows) == sample:
                break
        if not rows:
            raise ValueError(f"{path} lists no videos")
        columns = _columns(rows, delimiter)
        if columns is not None:
            fitting.append((delimiter, columns))
        else:
            line, fields = next((row for row in rows if _columns([row], delimiter) is None), rows[0])
            complaints[delimiter] = f"line {line}: {_shorten(delimiter.join(fields))}"
    several = [found for found in fitting if found[1] > 1]
    if len(several) == 1:
        return several[0]
    if len(several) > 1:
        line, fields = next(_rows(path, several[0][0]))
        shown = " and ".join(f"{_DELIMITER_NAMES[delimiter]} ({columns} columns)" for delimiter, columns in several)
        raise ValueError(
            f"{path}, line {line}: could be split at {shown}; quote the paths or give a header line: "
            f"{_shorten(several[0][0].join(fields))}"
        )
    if fitting:
        return fitting[0]
    raise ValueError(
        f"{path} is not a list of `path label` or `path start total label` lines ({complaints[' ']}); "
        "name the columns in a header line, or name the layout"
    )


_DELIMITER_NAMES = {"\t": "tabs", ",": "commas", ";": "semicolons", " ": "blanks"}


def _columns(rows: list[tuple[int, list[str]]], delimiter: str) -> int | None:
    """How many columns the rows have, if they fit one of the list formats."""
    widths = {len(fields) for _, fields in rows}
    if widths == {1}:
        return 1 if all(_is_path(fields[0]) for _, fields in rows) else None
    for columns, numbers in ((4, (1, 2, 3)), (3, (1, 2)), (2, (1,))):
        if columns == 2 and delimiter != " ":
            numbers = ()  # a name may stand for the class
        fits = True
        for _, fields in rows:
            if delimiter == " " and len(fields) > columns:
                fields = _with_blanks(fields, columns)
            if len(fields) != columns or any(_integer(fields[i]) is None for i in numbers):
                fits = False
                break
            if columns > 2 and int(fields[2]) < 0 and not _is_path(fields[0]):
                fits = False
                break
        if fits:
            return columns
    if delimiter == " " and all(_is_path(" ".join(fields)) for _, fields in rows):
        return None if any(_is_path(fields[0]) and len(fields) > 1 for _, fields in rows) else 1
    return None


def _with_blanks(fields: list[str], columns: int) -> list[str]:
    """Join what must be a path with blanks in it, leaving the columns after it."""
    joined = " ".join(fields[: len(fields) - columns + 1])
    return [joined, *fields[len(fields) - columns + 1 :]] if _is_path(joined) and len(fields) > columns else fields


def _is_path(text: str) -> bool:
    return os.path.splitext(text)[1].lower() in VIDEO_SUFFIXES or "/" in text or "\\" in text


def _shorten(text: str, most: int = 100) -> str:
    return repr(text if len(text) <= most else text[:most] + " ...")


# -- tables: columns with names ----------------------------------------------------------------------------------------


def read_table(path: Path, options: ReadOptions) -> Manifest:
    """A CSV, TSV, JSONL or Parquet file with named columns: a path, and maybe a label, a start and a total."""
    builder = Builder(path, options.root or path.parent, options)
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        rows = _parquet_rows(path)
    elif suffix in (".jsonl", ".ndjson", ".json"):
        rows = _json_rows(path)
    else:
        rows = _csv_rows(path)
    split, picks = options.split, None
    for line, row in rows:
        if picks is None or row.keys() != known:
            known, picks = row.keys(), _named_columns(row, path, line)
        path_column, label_column, first_column, count_column, split_column = picks
        if split is not None and split_column and row[split_column] != split:
            continue
        video, label = row.get(path_column), row.get(label_column)
        if not isinstance(video, str):
            raise ValueError(f"{path}, line {line}: {path_column} must be a path, not {video!r}")
        if label == "" or (isinstance(label, float) and label != label):
            label = None
        count = _integer(row[count_column]) if first_column and count_column else None
        if count is not None and count > 0:
            builder.add(video.strip(), label, line, _integer(row[first_column]) or 0, count)
        else:
            builder.add(video.strip(), label.strip() if isinstance(label, str) else label, line)
    if split is not None and not len(builder):
        raise ValueError(f"{path} has no rows of split {split!r}")
    return builder.build()


def _named_columns(row: Mapping[str, Any], path: Path, line: int) -> tuple[str | None, ...]:
    lower = {str(name).strip().lower(): name for name in row}

    def find(names):
        return next((lower[name] for name in names if name in lower), None)

    video = find(PATH_COLUMNS)
    if video is None:
        raise ValueError(
            f"{path}, line {line}: no column for the path among {_some(map(str, row))}; name it one of "
            f"{', '.join(PATH_COLUMNS)}"
        )
    return video, find(LABEL_COLUMNS), find(FIRST_COLUMNS), find(COUNT_COLUMNS), find(("split", "subset"))


def has_header(path: Path) -> bool:
    """Whether the first line names columns."""
    with open(path, encoding="utf-8-sig", errors="replace") as file:
        first = next((line for line in file if line.strip()), "")
    names = {name.strip().strip("\"'").lower() for name in re.split(r"[\t,; ]", first)}
    return bool(names & set(PATH_COLUMNS)) or "youtube_id" in names


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
            except json.JSONDecodeError as error:
                raise ValueError(f"{path}, line {line}: not JSON: {error}") from None
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


# -- folders: a sub-folder per class -----------------------------------------------------------------------------------


def read_class_folders(path: Path, options: ReadOptions) -> Manifest:
    """A sub-folder per class, holding videos or folders of frame images; or a flat folder of videos without labels.

    With `split`, the sub-folder of that name is read. A file that is neither a video nor an ordinary side file is an
    error, since a reader that leaves videos out in silence changes the data set.
    """
    if options.split is not None:
        if not (path / options.split).is_dir():
            folders = sorted(entry.name for entry in path.iterdir() if entry.is_dir())
            raise ValueError(f"{path} has no folder for split {options.split!r}; there are {_some(folders)}")
        path = path / options.split
    builder = Builder(path, options.root or path, options)
    unknown: Counter[str] = Counter()
    classes = [entry.name for entry in _listed(path) if entry.is_dir()]
    if not classes or not any(_videos_below(path / name, Counter()) for name in classes):
        for video, frames in _videos_below(path, unknown):
            _add_found(builder, path, video, frames, None)
    else:
        if any(_is_video(entry.name) for entry in _listed(path) if entry.is_file()):
            stray = next(entry.name for entry in _listed(path) if entry.is_file() and _is_video(entry.name))
            raise ValueError(f"{path} has both class folders and videos beside them (such as {stray}); move these")
        wanted = options.class_names
        for name in classes:
            if wanted is not None and name not in wanted:
                raise ValueError(f"{path}: folder {name!r} is not among the classes {_some(wanted)}")
            found = list(_videos_below(path / name, unknown))
            if not found:
                raise ValueError(f"class {name!r} has no videos: {path / name}; fill the folder or remove it")
            for video, frames in found:
                _add_found(builder, path, video, frames, name)
    if unknown:
        shown = ", ".join(f"{count} {suffix}" for suffix, count in unknown.most_common(5))
        raise ValueError(
            f"{path} holds {sum(unknown.values())} files that are neither known videos nor side files ({shown}); "
            "list the videos in a CSV if they are to be used, or move these files"
        )
    if not len(builder):
        raise ValueError(f"{path} holds no videos and no folders of frames")
    return builder.build()


def _add_found(builder: Builder, root: Path, video: str, frames: list[str] | None, label: str | None) -> None:
    relative = os.path.relpath(video, builder.root) if os.path.isabs(video) else video
    builder.add(relative, label, None, -1, len(frames) if frames else 0)


def _listed(path: Path) -> list[os.DirEntry]:
    """Entries by name, without hidden ones."""
    return sorted((entry for entry in os.scandir(path) if not entry.name.startswith(".")), key=lambda entry: entry.name)


def _videos_below(path: Path, unknown: Counter[str]) -> Iterator[tuple[str, list[str] | None]]:
    """Videos, and folders of frames, anywhere below a folder; counts files that are neither in `unknown`."""
    entries = _listed(path)
    images = [entry.name for entry in entries if entry.is_file() and _suffix(entry.name) in IMAGE_SUFFIXES]
    if images:
        yield str(path), images
    for entry in entries:
        if entry.is_dir():
            yield from _videos_below(Path(entry.path), unknown)
        elif _is_video(entry.name):
            yield entry.path, None
        elif _suffix(entry.name) not in SIDE_SUFFIXES and _suffix(entry.name) not in IMAGE_SUFFIXES:
            unknown[_suffix(entry.name)] += 1


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _is_video(name: str) -> bool:
    return _suffix(name) in VIDEO_SUFFIXES
