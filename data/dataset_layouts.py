"""The layouts that `open_manifest` knows by name, and how one is recognised."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from videomae.data.class_folders import read_class_folders
from videomae.data.list_files import has_header, read_frame_list, read_list, read_table, read_video_list
from videomae.data.manifests import Manifest, ReadOptions


def recognise(path: Path, options: ReadOptions) -> str:
    """The layout of a file or folder."""
    if path.is_dir():
        return "folders"
    suffix = path.suffix.lower()
    if suffix in (".jsonl", ".ndjson", ".parquet"):
        return "table"
    return "table" if has_header(path) else "list"


LAYOUTS: dict[str, Callable[[Path, ReadOptions], Manifest]] = {
    "list": read_list,
    "video_list": read_video_list,
    "frame_list": read_frame_list,
    "table": read_table,
    "folders": read_class_folders,
}


def from_dataset(source: Any, options: ReadOptions) -> Manifest:
    raise TypeError(f"a data set is a path or a datasets.Dataset, not {type(source).__name__}")
