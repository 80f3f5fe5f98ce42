"""Prepared shards behind a URL: byte ranges read through fsspec, tried again up to a time limit, and a cache on the disk.

lists/shards.py opens such a set and sources.py reads its videos; local folders never come here. Every process opens its
own file systems at its first read, since their event loop does not survive a fork. Credentials, endpoints and the like
are fsspec's and its file systems' own settings (environment variables, `~/.config/fsspec`).

What cannot be read raises OSError, which stops a run. Taking the next video in its place, as is done for a broken one,
would make the clips of a run depend on the state of the network.
"""

import contextlib
import hashlib
import json
import os
import random
import re
import shutil
import tarfile
import tempfile
import time
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CACHE, CACHE_GIB, READ_SECONDS = "VIDEOMAE_CACHE", "VIDEOMAE_CACHE_GIB", "VIDEOMAE_READ_SECONDS"
DEFAULT_CACHE_GIB = 16.0
DEFAULT_READ_SECONDS = 120.0
SLOWEST_BYTES_A_SECOND = 1e6  # an object that is large gets more time
BUCKETS = 64  # folders of the cache; each keeps to its part of the limit, so that a look at one of them is enough
FREE_PART = 20  # the cache leaves one part in so many of the disk free, for checkpoints
TRY_AGAIN = frozenset((408, 425, 429))  # among the answers 400 to 499, which otherwise stay what they are


def is_url(source: Any) -> bool:
    return isinstance(source, str) and re.match(r"[A-Za-z][\w+.-]+://", source) is not None


def use_cache(folder: str | None, gib: float | None) -> None:
    """Set the cache of this process and of those that it starts; None leaves what the environment says."""
    if folder is not None:
        os.environ[CACHE] = folder
    if gib is not None:
        os.environ[CACHE_GIB] = repr(gib)


def read_json(url: str, *, first: bool = False) -> Any:
    """`first` is that of `read`."""
    data = read(url, first=first)
    try:
        return json.loads(data)
    except ValueError:
        raise ValueError(f"{url} holds no JSON but {data[:60]!r}; give the URL of a prepared folder") from None


def read_member(url: str, offset: int, size: int, name: str) -> bytes:
    """A video of a shard, from the cache or by one ranged read, which takes in the tar header before the video."""
    cache, key = Cache.of_environment(), f"{url}\0{offset}\0{size}\0{name}"
    video = cache.get(key, size)
    if video is None:
        data = read(url, max(offset - tarfile.BLOCKSIZE, 0), offset + size)
        video = data[len(data) - size :]
        try:
            found = tarfile.TarInfo.frombuf(data[:-size], tarfile.ENCODING, "surrogateescape").size
        except tarfile.HeaderError as error:
            found = error
        if found != size:
            raise OSError(
                f"{url} has no file of {size} bytes at {offset} ({found}), as its index says for {name}; upload the "
                "prepared folder again, tar and json files together"
            )
        cache.put(key, video)
    return video


def check_length(url: str, size: int) -> None:
    """See that an object is there, is not shorter than `size`, and is given in parts, by reading one byte."""
    read(url, size - 1, size)


def read(url: str, start: int | None = None, end: int | None = None, *, first: bool = False) -> bytes:
    """The bytes [start, end) of an object, or all of it.

    first: nothing was read from there yet. A server that cannot be reached is then a wrong address after three tries;
        later it is a failure that may pass.
    """
    fs, path = _file_system(url)
    wanted = None if end is None else end - (start or 0)
    seconds = _setting(READ_SECONDS, DEFAULT_READ_SECONDS) + (wanted or 0) / SLOWEST_BYTES_A_SECOND
    deadline = time.monotonic() + seconds
    attempt = 0
    while True:
        short = False
        try:
            data = _fetch(fs, path, start, end, max(min(seconds / 4, deadline - time.monotonic()), 0.1))
        except Exception as error:
            cause, reason = error, f"{type(error).__name__}: {error}".rstrip(": ")
            if _is_final(error):
                raise _final_error(error, url, reason) from error
        else:
            if wanted is None or len(data) == wanted:
                return data
            if len(data) > wanted:
                raise OSError(
                    f"{url}: asked for {wanted} bytes, the server sent {len(data)}; it does not serve byte ranges, which "
                    "reading single videos needs. Use a server that does, or copy the folder to a local disk"
                )
            cause, reason, short = None, f"{len(data)} bytes came instead of {wanted}", True
        if short and attempt == 2:
            raise OSError(_cut_off(url, reason))
        if first and attempt == 2 and _is_unreachable(cause):
            raise OSError(f"{url}: no server can be reached there ({reason}); correct the address, or start the server")
        pause = min(0.5 * 2**attempt, 8.0) * random.SystemRandom().uniform(0.5, 1.0)
        if time.monotonic() + pause >= deadline:
            raise OSError(
                f"{url} could not be read in {seconds:.0f} s and {attempt + 1} tries: {reason}; resume the run when the "
                f"storage answers, or raise {READ_SECONDS}"
            ) from cause
        if attempt == 0:
            warnings.warn(f"{url}: {reason}; trying for {seconds:.0f} s", RuntimeWarning, stacklevel=2)
        time.sleep(pause)
        attempt += 1


def _fetch(fs: Any, path: str, start: int | None, end: int | None, seconds: float) -> bytes:
    if fs.async_impl:
        return fs.cat_file(path, start=start, end=end, timeout=seconds)
    # The others, such as the Hub's, would read 5 MB ahead; they keep time limits of their own.
    return fs.cat_file(path, start, end, cache_type="none")


def _file_system(url: str) -> tuple[Any, str]:
    """The file system of this process (fsspec keeps one for each) and the object's name in it."""
    from fsspec.core import url_to_fs

    scheme = url.partition("://")[0]
    try:
        return url_to_fs(url)
    except ImportError as error:
        way_out = "pip install 'videomae[s3]'" if scheme in ("s3", "s3a") else str(error)
        raise ImportError(f"{scheme}:// needs a package that is not installed: {way_out}") from error
    except ValueError as error:
        raise ValueError(f"{url}: {error}; use s3://, gs://, hf://, https:// or another of fsspec's schemes") from error


def _status(error: BaseException) -> int | None:
    """The HTTP status that an error carries, as the libraries behind the file systems keep it."""
    for level in filter(None, (error, error.__cause__)):
        response = getattr(level, "response", None)
        if isinstance(response, dict):  # botocore
            code = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        else:  # aiohttp, httpx, gcsfs
            code = getattr(level, "status", None) or getattr(response, "status_code", None) or getattr(level, "code", 0)
        if str(code).isdigit() and int(code) >= 400:
            return int(code)
    return None


def _is_final(error: Exception) -> bool:
    status = _status(error)
    if isinstance(error, TimeoutError):  # S3 tells one with status 400
        return False
    if status is not None:
        return status < 500 and status not in TRY_AGAIN
    kinds = (FileNotFoundError, PermissionError, IsADirectoryError, ValueError, TypeError, NotImplementedError)
    return isinstance(error, kinds) or re.search("Credentials|Offline", type(error).__name__) is not None


def _is_unreachable(error: Exception | None) -> bool:
    """No connection came about: refused, no route, or a name that no server has."""
    # aiohttp, httpx and botocore have classes of their own for it.
    return isinstance(error, ConnectionRefusedError) or (
        re.search("Connector|ConnectError|EndpointConnection", type(error).__name__) is not None
    )


def _final_error(error: Exception, url: str, reason: str) -> OSError:
    if isinstance(error, FileNotFoundError) or _status(error) == 404:
        return FileNotFoundError(f"{url} is missing; give the URL of a prepared folder, and upload it whole")
    if isinstance(error, PermissionError) or _status(error) in (401, 403) or "Credentials" in type(error).__name__:
        return PermissionError(f"{url} may not be read ({reason}); check the credentials of this machine")
    if _status(error) == 416:  # the range begins behind the end
        return OSError(_cut_off(url, reason))
    return OSError(f"{url}: {reason}")


def _cut_off(url: str, reason: str) -> str:
    return f"{url} is shorter than its index says ({reason}); upload it again"


def _setting(name: str, default: float) -> float:
    text = os.environ.get(name, "")
    try:
        value = float(text or default)
    except ValueError:
        value = -1.0
    if not 0.0 <= value < float("inf"):
        raise ValueError(f"{name} must be a number from 0 on, not {text!r}")
    return value


@dataclass(frozen=True)
class Cache:
    """Files on the local disk, up to a limit, which any number of processes use at once.

    The key decides the bucket. Who adds a file first removes those of its bucket that were not used for longest, so the
    limit holds but for the files that other processes are adding at that moment. There are no locks: a file is written
    beside its place and renamed, carries its checksum in its last four bytes (which saves waiting for the disk), and
    what a killed process leaves is removed by its age like all else.
    """

    folder: Path
    limit_bytes: int

    @classmethod
    def of_environment(cls) -> "Cache":
        folder = os.environ.get(CACHE) or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "videomae", "shards")
        return cls(Path(folder).expanduser(), int(_setting(CACHE_GIB, DEFAULT_CACHE_GIB) * 2**30))

    def get(self, key: str, size: int) -> bytes | None:
        path = self._path(key)
        try:
            with open(path, "rb") as file:
                data, mark = file.read(size), file.read()
        except OSError:
            return None
        if mark != _checksum(data):
            return None
        with contextlib.suppress(OSError):
            os.utime(path)
        return data

    def put(self, key: str, data: bytes) -> None:
        path = self._path(key)
        room = self.limit_bytes // BUCKETS - len(data) - 4
        if room < 0:
            return
        beside = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            for _, size, file in sorted(_files(path.parent), reverse=True):
                room -= size
                if room < 0:
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(file)
            disk = shutil.disk_usage(path.parent)
            if disk.free - len(data) < disk.total // FREE_PART:
                raise OSError(f"the last 1/{FREE_PART} of the disk stays free for checkpoints")
            handle, beside = tempfile.mkstemp(prefix=".", suffix=".tmp", dir=path.parent)
            with open(handle, "wb") as file:
                file.write(data)
                file.write(_checksum(data))
            with contextlib.suppress(FileNotFoundError):  # where another process has removed it to make room
                os.replace(beside, path)
        except OSError as error:
            if beside is not None:
                with contextlib.suppress(OSError):
                    os.unlink(beside)
            warnings.warn(
                f"the cache {self.folder} takes no more videos: {error}; set {CACHE} to another folder, or {CACHE_GIB}=0",
                RuntimeWarning,
                stacklevel=2,
            )

    def _path(self, key: str) -> Path:
        digest = hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
        return self.folder / f"{int(digest[:8], 16) % BUCKETS:02d}" / digest


def _checksum(data: bytes) -> bytes:
    return zlib.crc32(data).to_bytes(4, "little")


def _files(folder: Path) -> list[tuple[int, int, str]]:
    """When each file was used last, its size and path; a file that another process removes meanwhile is left out."""
    found = []
    with os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):
                status = entry.stat()
                found.append((status.st_mtime_ns, status.st_size, entry.path))
    return found
