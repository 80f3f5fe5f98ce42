"""Writing so that a crash leaves either the old or the new, and hashing what was written.

Everything that the package keeps on disk (checkpoints, converted folders, results, shards) goes through here. What is not
finished has a name that starts with "." and ends with ".tmp" or ".old"; `remove_leftovers` deletes what a kill left of it.
"""

import contextlib
import ctypes
import datetime
import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG, errno.EROFS)


@contextlib.contextmanager
def path_in_errors(path: str | os.PathLike, beside: str | os.PathLike | None = None) -> Iterator[None]:
    """Let an error of the disk say which file it is about: a failed write knows only the number of its handle.

    beside: the temporary file or folder that is to become `path`. safetensors gives the number of the system's error in
    the text of its own; torch.save raises another error on top of it.
    """
    try:
        yield
    except OSError as error:
        temporary = beside is not None and str(error.filename).startswith(str(beside))
        if error.errno is not None and (error.filename is None or temporary):
            error.filename = str(path)
        raise
    except Exception as error:
        number = re.search(r"\(os error (\d+)\)", str(error))
        if number is not None:
            code = int(number[1])
        elif isinstance(error.__context__, OSError) and error.__context__.errno in DISK_ERRORS:
            code = error.__context__.errno
        else:
            raise
        raise OSError(code, os.strerror(code), str(path)) from error


def write_atomic(path: str | os.PathLike, content: bytes | str) -> Path:
    """Write a file beside its place, flush it to the disk, and rename it there."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode("utf-8") if isinstance(content, str) else content
    handle, beside = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with path_in_errors(path), os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(beside, 0o666 & ~_umask())
        os.replace(beside, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(beside)
        raise
    sync_folder(path.parent)
    return path


def write_json(path: str | os.PathLike, value: Any) -> Path:
    """Write sorted, indented JSON; NaN and infinity are refused, since no other reader would take them."""
    return write_atomic(path, json.dumps(value, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n")


@contextlib.contextmanager
def new_file(path: str | os.PathLike) -> Iterator[Path]:
    """Give a temporary path beside `path`, for writers that want a name; on success it takes the place of `path`."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, beside = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    os.close(handle)
    try:
        with path_in_errors(path, beside):
            yield Path(beside)
            os.chmod(beside, 0o666 & ~_umask())
            with open(beside, "rb+") as file:
                os.fsync(file.fileno())
            os.replace(beside, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(beside)
        raise
    sync_folder(path.parent)


@contextlib.contextmanager
def new_folder(path: str | os.PathLike, *, replace: bool = False) -> Iterator[Path]:
    """Give a temporary folder beside `path`; on success it takes the place of `path`, on failure it vanishes.

    With `replace` an existing folder is swapped out only once the new one is complete and on the disk; where the system
    can exchange two names (Linux), `path` is there at every moment.
    """
    path = Path(path)
    if path.exists() and not replace and (not path.is_dir() or any(path.iterdir())):
        raise FileExistsError(f"{path} exists and is not empty; choose another folder or ask for it to be replaced")
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
    os.chmod(beside, 0o777 & ~_umask())
    try:
        with path_in_errors(path, beside):
            yield beside
            open_up(beside)
            sync_tree(beside)
        if not path.exists():
            os.replace(beside, path)
        elif not _exchange(beside, path):
            # A kill between the two renames leaves the old folder here, and `remove_leftovers` gives it its name back.
            old = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".old", dir=path.parent))
            os.replace(path, old / path.name)
            os.replace(beside, path)
            _remove(old)
        sync_folder(path.parent)
    finally:
        _remove(beside)  # the new folder after an error, the old one after an exchange


def _exchange(one: Path, two: Path) -> bool:
    """Swap the names of two paths in one step; False where the system has no call for it."""
    try:
        rename = ctypes.CDLL(None).renameat2
    except (OSError, AttributeError, TypeError):  # not Linux
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return rename(here, os.fsencode(one), here, os.fsencode(two), exchange) == 0


def _remove(path: Path) -> None:
    """Delete a folder as far as that works; of a link, the link."""
    if path.is_symlink():
        path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)


def is_leftover(name: str) -> bool:
    """Whether a file or folder of this name is one that a killed process was writing or deleting."""
    return name.startswith(".") and name.endswith((".tmp", ".old"))


def remove_leftovers(folder: str | os.PathLike) -> None:
    """Delete the leftovers below a folder. Only for the process that owns it: those of a running process look the same."""
    for root, folders, names in os.walk(folder):
        for name in filter(is_leftover, names):
            (Path(root) / name).unlink(missing_ok=True)
        for name in filter(is_leftover, folders):
            leftover, own = Path(root) / name, Path(root) / name[1:].rsplit(".", 2)[0]
            if (leftover / own.name).is_dir() and not own.exists():
                os.replace(leftover / own.name, own)
            _remove(leftover)
        folders[:] = [name for name in folders if not is_leftover(name)]


def check_output(path: str | os.PathLike, argument: str = "--output") -> None:
    """Refuse an output folder that cannot be one: before the work, not when its result is to be written."""
    if Path(path).exists() and not Path(path).is_dir():
        raise FileExistsError(f"{argument} {path} is a file; name a folder")
    there = next((folder for folder in (Path(path), *Path(path).absolute().parents) if folder.exists()), Path())
    if not there.is_dir():
        raise NotADirectoryError(f"{argument} {path}: {there} is a file; name another folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise PermissionError(f"{argument} {path}: {there} cannot be written to; name another folder")


def open_up(folder: Path) -> None:
    """Give every file the mode that the user's umask asks for; safetensors writes 0600, which a team could not read."""
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            os.chmod(path, path.stat().st_mode | 0o666 & ~_umask())


def final_name(folder: str | os.PathLike) -> str:
    """The name of a folder; of one that `new_folder` has given, the name that it will get."""
    name = Path(folder).resolve().name
    if name.startswith(".") and name.endswith(".tmp"):
        return name[1:].removesuffix(".tmp").rsplit(".", 1)[0]
    return name


def sync_folder(path: Path) -> None:
    """Make renames inside a folder durable; a no-op where the system cannot open folders."""
    with contextlib.suppress(OSError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def sync_tree(folder: Path) -> None:
    """Flush every file below a folder, then the folders."""
    for root, _, names in os.walk(folder):
        for name in names:
            with open(os.path.join(root, name), "rb+") as file:
                os.fsync(file.fileno())
        sync_folder(Path(root))


def today() -> str:
    """The date of a record, in UTC: the same for two machines that write one."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d")


def sha256_of(path: str | os.PathLike) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _sha256(file)


def _sha256(file) -> str:  # Python 3.10 has no hashlib.file_digest
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
