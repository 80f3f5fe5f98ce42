"""Prepared data sets: tar files in WebDataset's layout with an index, read at random.

`prepare.py` writes them. Each shard is an uncompressed tar of `00000017.mp4` and `00000017.json` pairs, which the
webdataset readers of other libraries take too; beside it lies its index, which says where each video starts, so that we
read a video with one `pread` and need no unpacking. `shards.json` lists the shards and completes the set.
"""

import io
import json
import os
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from videomae.data import remote
from videomae.data.lists.manifests import Builder, Manifest, ReadOptions
from videomae.files import new_file

INDEX = "shards.json"
FORMAT_VERSION = 1
REQUESTS_AT_A_TIME = 16  # when a set behind a URL is opened
# What an index that was edited or damaged leads to.
MALFORMED = (AttributeError, IndexError, KeyError, OverflowError, RecursionError, TypeError, json.JSONDecodeError)


def write_shard(path: Path, videos: list[tuple[dict[str, Any], bytes]]) -> list[dict[str, Any]]:
    """Write one tar of (record, video) pairs; the records come back with `offset` and `size` of their video."""
    placed = []
    with new_file(path) as beside, open(beside, "wb") as file, tarfile.open(fileobj=file, mode="w") as tar:
        for record, video in videos:
            offset = _add(tar, f"{record['index']:08d}.mp4", video)
            _add(tar, f"{record['index']:08d}.json", json.dumps(record, ensure_ascii=False).encode())
            placed.append({**record, "offset": offset, "size": len(video)})
    return placed


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> int:
    """Append a file, with no owner and no time so that equal content gives equal shards; where its data starts."""
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(data), 0o644
    tar.addfile(member, io.BytesIO(data))
    blocks = -(-len(data) // tarfile.BLOCKSIZE)
    return tar.offset - blocks * tarfile.BLOCKSIZE


def _local_parts(folder: Path, names: list[str]) -> Iterator[list[dict[str, Any]]]:
    """The records of each shard, once the shard is seen to be whole."""
    for name in names:
        tar, part = folder / f"{name}.tar", folder / f"{name}.json"
        if not tar.exists() or not part.exists():
            raise FileNotFoundError(
                f"{tar if part.exists() else part} is missing from the prepared set; run prepare again"
            )
        records = json.loads(part.read_text(encoding="utf-8"))["videos"]
        if os.path.getsize(tar) < _end(records, part):
            raise ValueError(f"{tar} is cut off: {os.path.getsize(tar)} bytes; copy it again")
        yield records


def _parts(url: str, names: list[str]) -> Iterator[list[dict[str, Any]]]:
    """The same from a URL, many at a time: each costs two requests."""

    def part(name: str) -> list[dict[str, Any]]:
        records = remote.read_json(f"{url}/{name}.json")["videos"]
        remote.check_length(f"{url}/{name}.tar", _end(records, f"{url}/{name}.json"))
        return records

    with ThreadPoolExecutor(REQUESTS_AT_A_TIME) as pool:
        for first in range(0, len(names), 4 * REQUESTS_AT_A_TIME):
            yield from pool.map(part, names[first : first + 4 * REQUESTS_AT_A_TIME])


def _end(records: list[dict[str, Any]], part: Path | str) -> int:
    """How long a shard is at least, by its index."""
    if not records:
        raise ValueError(f"{part} lists no videos; run prepare again")
    for record in records:
        if type(record["offset"]) is not int or type(record["size"]) is not int:
            raise TypeError(f"offset and size are {record['offset']!r} and {record['size']!r}")
        if record["offset"] < 0 or record["size"] < 0:
            raise ValueError(f"{part} places {record['path']!r} at {record['offset']}; run prepare again")
    return max(record["offset"] + record["size"] for record in records)


def read_shards(path: Path | str, options: ReadOptions) -> Manifest:
    """The manifest of a folder that `prepare.py` has finished, on the disk or, as a URL, wherever fsspec reads."""
    try:
        return _read_shards(path, options)
    except MALFORMED as error:
        raise ValueError(
            f"the index of {path} is damaged ({type(error).__name__}: {error}); run prepare again, into another folder"
        ) from None


def _read_shards(path: Path | str, options: ReadOptions) -> Manifest:
    if isinstance(path, str):
        remote.Cache.of_environment()  # wrong settings are refused here, and not by a worker
        folder = path.removesuffix(INDEX).rstrip("/")
        index = remote.read_json(f"{folder}/{INDEX}", first=True)
    else:
        folder = path if path.is_dir() else path.parent
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    if index.get("format") != FORMAT_VERSION:
        raise ValueError(f"{folder}/{INDEX} has format {index.get('format')!r}; this version reads {FORMAT_VERSION}")
    names = options.class_names or (tuple(index["class_names"]) if index["class_names"] else None)
    builder = Builder(folder, folder, ReadOptions(**{**vars(options), "class_names": names}))
    shard, offset, size, vectors = [], [], [], []
    outside = [name for name in index["shards"] if os.path.basename(name) != name]
    if outside:
        raise ValueError(f"{folder}/{INDEX} names a shard {outside[0]!r} outside its folder; run prepare again")
    parts = _local_parts(folder, index["shards"]) if isinstance(folder, Path) else _parts(folder, index["shards"])
    for number, records in enumerate(parts):
        for record in records:
            label = record["label"]
            if isinstance(label, list):
                vectors.append(label)
                label = None
            elif names and isinstance(label, int):
                label = index["class_names"][label] if index["class_names"] else label
            builder.add(record["path"], label, None)
            shard.append(number)
            offset.append(record["offset"])
            size.append(record["size"])
    manifest = builder.build()
    columns = {"shard": shard, "offset": offset, "size": size}
    tensors = {name: torch.tensor(values, dtype=torch.int64) for name, values in columns.items()}
    if vectors:
        tensors["labels"] = torch.tensor(vectors, dtype=torch.float32)
    return Manifest(**{**vars(manifest), "shards": tuple(f"{name}.tar" for name in index["shards"]), **tensors})
