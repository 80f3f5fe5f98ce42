"""Folders as manifests: a sub-folder per class, of video files or of folders of frame images; and videos found by name."""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from videomae.data.lists.manifests import Builder, Manifest, ReadOptions, some_of
from videomae.data.sources import IMAGE_SUFFIXES, VIDEO_SUFFIXES

# What other files may lie in a folder of videos without being taken for videos that we cannot read.
SIDE_SUFFIXES = frozenset(
    (".txt", ".csv", ".tsv", ".json", ".jsonl", ".md", ".xml", ".yaml", ".yml", ".srt", ".vtt", ".log", ".html")
    + (".pdf", ".py", ".sh", ".npy", ".npz", ".safetensors", ".wav", ".mp3", ".m4a", "")
)


def read_class_folders(path: Path, options: ReadOptions) -> Manifest:
    """A sub-folder per class, holding videos or folders of frame images; or a flat folder of videos without labels.

    With `split`, the sub-folder of that name is read. A file that is neither a video nor an ordinary side file is an
    error, since a reader that leaves videos out in silence changes the data set.
    """
    if options.split is not None:
        if not (path / options.split).is_dir():
            folders = sorted(entry.name for entry in path.iterdir() if entry.is_dir())
            raise ValueError(f"{path} has no folder for split {options.split!r}; there are {some_of(folders)}")
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
                raise ValueError(f"{path}: folder {name!r} is not among the classes {some_of(wanted)}")
            found = list(_videos_below(path / name, unknown))
            if not found:
                raise ValueError(f"class {name!r} has no videos: {path / name}; fill the folder or remove it")
            for video, frames in found:
                _add_found(builder, path, video, frames, name)
    _refuse_unknown(path, unknown)
    if not len(builder):
        raise ValueError(f"{path} holds no videos and no folders of frames")
    return builder.build()


def read_folder(path: Path, options: ReadOptions) -> Manifest:
    """Every video and folder of frames at any depth, without labels, whatever the folders mean."""
    builder, unknown = Builder(path, options.root or path, options), Counter()
    for video, frames in _videos_below(path, unknown):
        _add_found(builder, path, video, frames, None)
    _refuse_unknown(path, unknown)
    if not len(builder):
        raise ValueError(f"{path} holds no videos and no folders of frames")
    return builder.build()


def find_by_name(root: Path, origin: Path) -> dict[str, str]:
    """Every video below the root, relative to it, by file name without its suffix; two of one name are an error."""
    if not root.is_dir():
        raise FileNotFoundError(f"no folder {root} with the videos of {origin}; give root")
    found: dict[str, str] = {}
    for folder, _, names in os.walk(root):
        for name in names:
            stem, suffix = os.path.splitext(name)
            if suffix.lower() not in VIDEO_SUFFIXES:
                continue
            path = os.path.relpath(os.path.join(folder, name), root)
            if stem in found:
                raise ValueError(f"two videos of one name below {root}: {found[stem]} and {path}; remove one")
            found[stem] = path
    return found


def matched(builder: Builder, missing: list[str], options: ReadOptions) -> Manifest:
    if missing and (options.missing == "error" or not len(builder)):
        raise ValueError(
            f"{builder.origin}: {len(missing)} of {len(missing) + len(builder)} videos are not below {builder.root}: "
            f"{some_of(missing)}; fetch them, give the right root, or pass missing='drop'"
        )
    return builder.build()


def _refuse_unknown(path: Path, unknown: Counter[str]) -> None:
    if unknown:
        shown = ", ".join(f"{count} {suffix}" for suffix, count in unknown.most_common(5))
        raise ValueError(
            f"{path} holds {sum(unknown.values())} files that are neither known videos nor side files ({shown}); "
            "list the videos in a CSV if they are to be used, or move these files"
        )


def _add_found(builder: Builder, root: Path, video: str, frames: list[str] | None, label: str | None) -> None:
    builder.add(os.path.relpath(video, builder.root), label, None, -1, len(frames) if frames else 0)


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
