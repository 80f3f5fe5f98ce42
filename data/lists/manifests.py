"""What a data set holds: paths, labels and class names, read from the layouts that people have.

`open_manifest` recognises the layout. A manifest keeps a million entries in a few flat tensors, which worker processes
share instead of copying. Nothing here opens a video; that is sources.py's. The readers are in list_files.py (lists and
tables), class_folders.py, layouts.py (Kinetics, Something-Something, UCF101, HMDB51, datasets.Dataset) and
shards.py.
"""

import hashlib
import math
import os
import re
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from videomae.choices import MAX_LABELS
from videomae.data.lists.intervals import first_conflict, gaps
from videomae.data.lists.label_names import names_beside
from videomae.data.sources import FrameFolder, Source, TarMember
from videomae.data.stretches import Stretch, named

FRAME_PATTERN = "img_{:05}.jpg"  # V2's lists mean this one
MAX_FRAMES = 2**31  # of one folder
WHOLE = (0.0, math.inf)  # the times of an entry that is a whole file
# But for parts of its mixed list that it knows by their paths (`HybridVideoMAE` in pretrain_datasets.py).
SOURCE_PATTERNS = {"AVA2.2": "image_{:06}.jpg"}


@dataclass(frozen=True, eq=False)
class Manifest:
    """The entries of a data set. `text` and the tensors may be shared between processes; treat all as read-only.

    labels: (N,) class numbers, or (N, K) floats for several classes at once or for values, or None.
    first, count: for frame folders, the number in the first file's name and how many frames there are; 0 frames means
        that the entry is a video file.
    shard, offset, size: for entries inside tar files, `shards[shard]` and where in it.
    table: a datasets.Dataset that holds the videos in `column`.
    stretches: (N, 3) floats: the start and the end of each entry in its file, in seconds, and its line in the list; an
        entry that is a whole file starts at 0 and ends at inf.
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
    stretches: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.ends)

    def sha256(self, *, labels: bool = False) -> str:
        """Identity of the list: names in their order, with the labels on request; not the contents of the videos."""
        digest = hashlib.sha256(self.text.numpy().tobytes() + self.ends.numpy().tobytes())
        if self.stretches is not None:
            digest.update(self.stretches[:, :2].numpy().tobytes())
        if labels and self.labels is not None:
            digest.update(self.labels.numpy().tobytes())
        return digest.hexdigest()

    def file(self, index: int) -> str:
        """The entry's file as the list gives it."""
        start = int(self.ends[index - 1]) if index else 0
        return self.text[start : int(self.ends[index])].numpy().tobytes().decode("utf-8", "surrogateescape")

    def path(self, index: int) -> str:
        """The entry's name: its file, and behind it the times of a stretch, as in `long.mp4#t=12.5,20`."""
        stretch = self.stretch(index)
        return named(self.file(index), *stretch) if stretch else self.file(index)

    def stretch(self, index: int) -> tuple[float, float] | None:
        """Start and end in seconds (inf: to the end of the file); None for a whole file."""
        if self.stretches is None:
            return None
        start, end, _ = self.stretches[index].tolist()
        return (start, end) if start > 0 or end < math.inf else None

    def source(self, index: int) -> Source:
        """What to open for the entry."""
        stretch = self.stretch(index)
        if stretch is None:
            return self.file_source(index)
        line = int(self.stretches[index, 2])
        return Stretch(self.file_source(index), *stretch, f"{self.origin}, line {line}" if line else self.origin)

    def file_source(self, index: int) -> Source:
        """What to open for the whole file that the entry is of."""
        if self.table is not None:
            return self.table[int(index)][self.column]
        if self.shard is not None and self.offset is not None and self.size is not None:
            shard = os.path.join(self.root, self.shards[int(self.shard[index])])
            return TarMember(shard, int(self.offset[index]), int(self.size[index]), self.file(index))
        path = os.path.join(self.root, self.file(index))
        if self.first is not None and self.count is not None and self.count[index] > 0:
            return FrameFolder(path, int(self.first[index]), int(self.count[index]), self._pattern(index))
        return path

    def _pattern(self, index: int) -> str:
        """The names of the images of a frame folder; what the caller chose goes before what V2's list means."""
        if self.pattern != FRAME_PATTERN:
            return self.pattern
        path = self.file(index)
        return next((pattern for source, pattern in SOURCE_PATTERNS.items() if source in path), self.pattern)

    @property
    def given_labels(self) -> torch.Tensor:
        """`labels`, where there must be some."""
        if self.labels is None:
            raise ValueError(f"{self.origin} has no labels; a classifier needs a label for each video")
        return self.labels

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
        if self.labels.dim() == 2:
            return self.labels.shape[1]
        self._check_count()
        return int(self.labels.max()) + 1

    def subset(self, indices: Sequence[int]) -> "Manifest":
        """The chosen entries in the given order."""
        if self.table is not None:
            picked = {"table": self.table.select(indices)}
        else:
            picked = {}
        chosen = torch.as_tensor(list(indices), dtype=torch.int64)
        names = [self.file(int(index)).encode("utf-8", "surrogateescape") for index in chosen]
        for name in ("labels", "first", "count", "shard", "offset", "size", "stretches"):
            column = getattr(self, name)
            picked[name] = None if column is None else column[chosen]
        text, ends = packed(b"".join(names), array("q", map(len, names)))
        return Manifest(**{**vars(self), **picked, "text": text, "ends": ends})

    def check_labels(self, *, num_labels: int | None = None, classes: bool = True) -> None:
        """What a classifier needs: labels, inside the range, of more than one class."""
        labels = self.given_labels
        if labels.dim() == 2:
            if num_labels is not None and labels.shape[1] != num_labels:
                raise ValueError(f"{self.origin} has labels of {labels.shape[1]} numbers, the model {num_labels}")
            return
        outside = labels < 0 if num_labels is None else (labels < 0) | (labels >= num_labels)
        if num_labels is None and self.class_names is None:
            self._check_count()
        if outside.any():
            index = int(outside.nonzero()[0])
            bound = f"0 ... {num_labels - 1}" if num_labels is not None else "0 and above"
            raise ValueError(
                f"{self.origin}: label {int(labels[index])} of {self.path(index)} lies outside {bound} "
                f"({int(outside.sum())} such entries); raise num_labels or fix the list"
            )
        if classes and len(labels.unique()) < 2:
            raise ValueError(
                f"{self.origin} has one class only ({self._class_name(int(labels[0]))}); a classifier learns "
                "nothing from it: add videos of another class"
            )

    def _check_count(self) -> None:
        """Refuse numbers so large that they are no classes: whatever counts by class would take memory for each."""
        labels = self.given_labels
        index = int(labels.argmax())
        if labels[index] >= MAX_LABELS:
            raise ValueError(
                f"{self.origin}: label {int(labels[index])} of {self.path(index)} would make more than {MAX_LABELS:,} "
                "classes; fix the list, or use names as labels"
            )

    def sided_classes(self) -> list[str]:
        """Classes whose names speak of a side or a sense of turning, which a horizontal flip would swap."""
        sided = re.compile(r"\b(left|right|(counter|anti)?-?clockwise|leftwards?|rightwards?)\b", re.IGNORECASE)
        names = [re.sub(r"[_\W]+", " ", name) for name in self.class_names or ()]
        return [name for name, words in zip(self.class_names or (), names) if sided.search(words)]

    def _class_name(self, label: int) -> str:
        return repr(self.class_names[label]) if self.class_names else str(label)


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
    background: str | None = None


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
        self._starts, self._ends = array("d"), array("d")  # empty until there is a stretch
        # For what is background: videos whose length in seconds is known, and stretches that belong to another split.
        self.lengths: dict[str, float] = {}
        self.elsewhere: dict[str, list[tuple[float, float]]] = {}

    def add(
        self,
        path: str,
        label: Any,
        line: int | None,
        first: int = 0,
        count: int = 0,
        *,
        stretch: tuple[float, float] = WHOLE,
    ) -> None:
        """One entry; `label` None where there is none, `line` for messages, `stretch` in seconds."""
        if not path:
            raise ValueError(f"{self._at(line)}: the path is empty")
        if ".." in path and not os.path.isabs(path) and os.path.normpath(path).startswith(".."):
            raise ValueError(f"{self._at(line)}: {path!r} leads out of the data folder {self.root}; give its root")
        if not (-1 <= first < MAX_FRAMES and 0 <= count < MAX_FRAMES):
            raise ValueError(
                f"{self._at(line)}: frames from {first} on, {count} of them, are more than the {MAX_FRAMES:,} that a folder "
                "can hold; fix the line"
            )
        if stretch != WHOLE:
            self._check_stretch(path, line, count, *stretch)
            if not self._starts:
                self._starts, self._ends = array("d", [0.0] * len(self)), array("d", [math.inf] * len(self))
        if self._starts or stretch != WHOLE:
            self._starts.append(stretch[0])
            self._ends.append(stretch[1])
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
        try:
            code = self._code_of.get(label)
        except TypeError:  # an object of JSON, or a list of lists
            raise ValueError(
                f"{self._at(line)}: the label is no name, number or list of these: {str(label)[:80]}"
            ) from None
        if code is None:
            code = self._code_of[label] = len(self._code_of)
            self._first_use.append(line)
        self._codes.append(code)

    def _check_stretch(self, path: str, line: int | None, count: int, start: float, end: float) -> None:
        if count:
            raise ValueError(
                f"{self._at(line)}: {path} is a folder of {count} frames, which have no clock; give their numbers by start "
                "and total, and leave start_seconds and end_seconds empty"
            )
        if end <= start:
            raise ValueError(
                f"{self._at(line)}: end_seconds={end:g} of {path} is not after start_seconds={start:g}; exchange or correct "
                "them"
            )

    def __len__(self) -> int:
        return len(self._lengths)

    def build(self) -> Manifest:
        if not len(self):
            raise ValueError(f"{self.origin} lists no videos")
        if self.options.background is not None:
            self._add_background(self.options.background)
        codes = torch.frombuffer(self._codes, dtype=torch.int64).clone()
        labels, class_names = self._labels(codes)
        self._refuse_contradictions(codes)
        text, ends = packed(bytes(self._text), self._lengths)
        return Manifest(
            origin=self.origin,
            root=self.root,
            text=text,
            ends=ends,
            labels=labels,
            class_names=class_names,
            first=torch.tensor(self._firsts) if self._counts else None,
            count=torch.tensor(self._counts) if self._counts else None,
            pattern=self.options.pattern,
            stretches=torch.tensor([self._starts, self._ends, self._lines], dtype=torch.float64).T.contiguous()
            if self._starts
            else None,
        )

    def _add_background(self, name: str) -> None:
        """Entries of class `name` for what no stretch of a video covers."""
        if self.options.label_kind == "value":
            raise ValueError(f"background {name!r} is a class, and label_kind='value' has none; leave one of them out")
        ends = np.cumsum(np.frombuffer(self._lengths, np.int64)).tolist()
        videos: dict[bytes, list[tuple[float, float]]] = {}
        for index in range(len(self)):
            path = bytes(self._text[ends[index] - self._lengths[index] : ends[index]])
            videos.setdefault(path, []).append((self._starts[index], self._ends[index]) if self._starts else WHOLE)
        for file in self.lengths:  # also those without any stretch
            videos.setdefault(file.encode("utf-8", "surrogateescape"), [])
        for path, stretches in videos.items():
            file = path.decode("utf-8", "surrogateescape")
            for stretch in gaps([*stretches, *self.elsewhere.get(file, ())], self.lengths.get(file)):
                self.add(file, name, None, stretch=stretch)

    def _at(self, line: int | None) -> str:
        return f"{self.origin}, line {line}" if line else self.origin

    def _labels(self, codes: torch.Tensor) -> tuple[torch.Tensor | None, tuple[str, ...] | None]:
        """Labels by entry and the class names, from the distinct labels that occurred."""
        names, options = self.options.class_names, self.options
        if names is None and options.label_kind != "value":
            names = names_beside(self.origin, self.root)
        used = list(self._code_of)
        if None in self._code_of:
            if len(used) > 1:
                line = self._first_use[self._code_of[None]]
                raise ValueError(f"{self._at(line)}: the label is missing, though other entries have one")
            return None, names
        if options.label_kind == "value":
            values = [self._values(label, i) for i, label in enumerate(used)]
            for i, row in enumerate(values):
                if len(row) != len(values[0]):
                    line = self._first_use[i]
                    raise ValueError(
                        f"{self._at(line)}: {len(row)} values where the entries before have {len(values[0])}"
                    )
            return torch.tensor(values, dtype=torch.float32)[codes], None
        if options.label_kind == "multi":
            sets = [label if isinstance(label, tuple) else str(label).split("|") for label in used]
            numbers, names = self._numbers(
                [label for labels in sets for label in labels],
                names,
                [i for i, labels in enumerate(sets) for _ in labels],
            )
            count = len(names) if names else options.num_labels or max(numbers.values(), default=0) + 1
            if count > MAX_LABELS:
                raise ValueError(f"{self.origin}: {count:,} classes, and {MAX_LABELS:,} are the most; fix the list")
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
        as_integers = {label: as_integer(label) for label in labels}
        if names and all(str(label) in names for label in as_integers):
            return {label: names.index(str(label)) for label in as_integers}, names
        integers = {label: number for label, number in as_integers.items() if number is not None}
        if len(integers) == len(as_integers):
            limit = len(names) if names else self.options.num_labels
            for label, use in zip(labels, uses):
                number, line = integers[label], self._first_use[use]
                if not -(2**63) <= number < 2**63:
                    raise ValueError(f"{self._at(line)}: label {str(number)[:40]} is no class number; fix the line")
                if number < 0 or (limit is not None and number >= limit):
                    bound = f"0 ... {limit - 1}" if limit is not None else "0 and above"
                    if number < 0 and limit is None and self.options.label_kind == "class":
                        continue  # lists for pre-training carry -1; a classifier's check refuses it
                    raise ValueError(f"{self._at(line)}: label {number} lies outside {bound}")
            return integers, names
        for label, use in zip(labels, uses):
            line = self._first_use[use]
            if isinstance(label, float):
                raise ValueError(
                    f"{self._at(line)}: label {label!r} is not an integer; for values pass label_kind='value'"
                )
            if names and str(label) not in names:
                raise ValueError(f"{self._at(line)}: no class {label!r} among {some_of(names)}, given or in labels.txt")
        if integers:
            named = next(i for i, label in enumerate(labels) if label not in integers)
            raise ValueError(
                f"{self._at(self._first_use[uses[named]])}: label {labels[named]!r} is a name where others are numbers "
                f"(such as {next(iter(integers))!r}); use one or the other, or pass class_names"
            )
        names = tuple(sorted({str(label) for label in labels}))
        return {label: names.index(str(label)) for label in as_integers}, names

    def _refuse_contradictions(self, codes: torch.Tensor) -> None:
        """One path under two labels is a mistake; twice under the same label is a repetition."""
        hashes = np.frombuffer(self._hashes, np.int64)
        if self._starts:
            self._refuse_overlaps(hashes, codes)
            return
        order = np.argsort(hashes, kind="stable")
        same = np.flatnonzero(hashes[order][1:] == hashes[order][:-1])
        for i in same:
            one, other = int(order[i]), int(order[i + 1])
            frames = self._counts and self._firsts[one] != self._firsts[other]
            if codes[one] == codes[other] or frames:
                continue
            if self._entry(one) == self._entry(other):
                raise ValueError(
                    f"{self._at(self._lines[other])}: {self._entry(other)!r} has another label on line {self._lines[one]}"
                )

    def _refuse_overlaps(self, hashes: np.ndarray, codes: torch.Tensor) -> None:
        """Where each video has one label, the stretches of a file under two labels have no time in common."""
        starts, ends = np.frombuffer(self._starts), np.frombuffer(self._ends)
        single = self.options.label_kind == "class"
        found = first_conflict(hashes, starts, ends, codes.numpy(), overlaps=single)
        if found is None:
            return
        one, other = found
        labels = list(self._code_of)
        told = [f"{starts[i]:g} to {ends[i]:g} s as {labels[int(codes[i])]!r}" for i in found]
        out = (
            "correct the times, or read several labels with label_kind='multi'"
            if single
            else "write both labels in one row"
        )
        raise ValueError(
            f"{self._at(self._lines[other])}: {self._entry(other)!r} from {told[1]} overlaps the stretch from {told[0]}"
            f"{f' on line {self._lines[one]}' if self._lines[one] else ''}; {out}"
        )

    def _entry(self, index: int) -> str:
        """The path of an entry."""
        end = sum(self._lengths[: index + 1])
        return bytes(self._text[end - self._lengths[index] : end]).decode(errors="replace")


def packed(text: bytes, lengths: array) -> tuple[torch.Tensor, torch.Tensor]:
    """The text as bytes and where each entry ends."""
    ends = torch.frombuffer(lengths, dtype=torch.int64).cumsum(0) if len(lengths) else torch.zeros(0, dtype=torch.int64)
    return torch.frombuffer(bytearray(text), dtype=torch.uint8) if text else torch.zeros(0, dtype=torch.uint8), ends


def as_integer(label: Any) -> int | None:
    if isinstance(label, (bool, float)):
        return int(label) if isinstance(label, float) and label.is_integer() else None
    try:
        return int(label)
    except (TypeError, ValueError):
        return None


def some_of(names: Iterable[str], most: int = 6) -> str:
    names = list(names)
    return ", ".join(map(repr, names[:most])) + (f" ... ({len(names)} in all)" if len(names) > most else "")
