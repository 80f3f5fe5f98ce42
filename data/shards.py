"""Prepared data sets: tar files in WebDataset's layout with an index, read at random or nearly in order.

`prepare.py` writes them. Each shard is an uncompressed tar of `00000017.mp4` and `00000017.json` pairs, which the
webdataset readers of other libraries take too; beside it lies its index, which says where each video starts, so that we
read a video with one `pread` and need no unpacking. `shards.json` lists the shards and completes the set.
"""

import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import torch

from videomae.data.manifests import Builder, Manifest, ReadOptions
from videomae.data.randomness import generator_for, sample_key
from videomae.data.sampler import EpochSampler
from videomae.files import new_file

INDEX = "shards.json"
FORMAT_VERSION = 1
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


def read_shards(path: Path, options: ReadOptions) -> Manifest:
    """The manifest of a folder that `prepare.py` has finished."""
    folder = path if path.is_dir() else path.parent
    try:
        return _read_shards(folder, options)
    except MALFORMED as error:
        raise ValueError(
            f"the index of {folder} is damaged ({type(error).__name__}: {error}); run prepare again, into another folder"
        ) from None


def _read_shards(folder: Path, options: ReadOptions) -> Manifest:
    index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    if index.get("format") != FORMAT_VERSION:
        raise ValueError(f"{folder / INDEX} has format {index.get('format')!r}; this version reads {FORMAT_VERSION}")
    names = options.class_names or (tuple(index["class_names"]) if index["class_names"] else None)
    builder = Builder(folder, folder, ReadOptions(**{**vars(options), "class_names": names}))
    shard, offset, size, vectors = [], [], [], []
    for number, name in enumerate(index["shards"]):
        if os.path.basename(name) != name:
            raise ValueError(f"{folder / INDEX} names a shard {name!r} outside its folder; run prepare again")
        tar, part = folder / f"{name}.tar", folder / f"{name}.json"
        if not tar.exists() or not part.exists():
            raise FileNotFoundError(
                f"{tar if part.exists() else part} is missing from the prepared set; run prepare again"
            )
        length = os.path.getsize(tar)
        for record in json.loads(part.read_text(encoding="utf-8"))["videos"]:
            if record["offset"] < 0 or record["size"] < 0:
                raise ValueError(f"{part} places {record['path']!r} at {record['offset']}; run prepare again")
            if length < record["offset"] + record["size"]:
                raise ValueError(f"{tar} is cut off: {length} bytes; copy it again")
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


class ShardSampler(EpochSampler):
    """An order that reads shards nearly one after the other, for disks and networks that seek slowly.

    Each epoch, shards come in a new order; the videos of `open_shards` consecutive ones are shuffled together. Like
    EpochSampler it is a function of (seed, epoch), shared out over processes, and starts at any position at no cost.
    """

    def __init__(self, manifest: Manifest, seed: int = 0, epoch: int = 0, *, open_shards: int = 8, **fields: Any):
        if manifest.shard is None:
            raise ValueError(f"{manifest.origin} is not made of shards; use EpochSampler")
        if open_shards < 1:
            raise ValueError(f"open_shards must be at least 1, not {open_shards}")
        super().__init__(len(manifest), seed, epoch, **fields)
        self.shard, self.open_shards = manifest.shard, open_shards

    def order(self) -> torch.Tensor:
        if not self.shuffle:
            return torch.arange(self.length)
        generator = generator_for(sample_key(self.seed, self.epoch, 0, 0), "shards")
        rank = torch.randperm(int(self.shard.max()) + 1, generator=generator)  # of each shard
        group = rank[self.shard] // self.open_shards
        mixed = torch.randperm(self.length, generator=generator)
        return mixed[torch.sort(group[mixed], stable=True).indices]
