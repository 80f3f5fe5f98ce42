"""Opening untrusted weight files: `.pth`, `.safetensors`, and folders of transformers or the V2 Hub layout.

Nothing in a file is ever executed: pickles go through torch's restricted loader with a short list of harmless types,
and there is no way round it. Files of another kind (a web page, half a download, a script) get an error that names the kind.
layouts.py knows what the tensors mean.
"""

import argparse
import json
import pickle
import re
import tarfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from videomae.choices import MAX_GIGABYTES
from videomae.models import check_content

SUFFIXES = (".pth", ".pt", ".bin", ".safetensors")
WRAPPERS = ("model", "module", "state_dict")  # where the releases keep their weights, in the order they look there
# Parts of names that torch.compile and DistributedDataParallel add in front of whatever they wrap, a whole model or a
# part of it. No part of a VideoMAE is called so.
ADDED_NAMES = ("_orig_mod", "module")

# What real files carry besides tensors: the options of the run, and numbers that were logged as numpy scalars. Newer
# and older numpy spell the scalar's constructor differently, and either spelling may be in a file.
_SCALAR = np.float64(0).__reduce__()[0]
HARMLESS = [
    argparse.Namespace,
    (_SCALAR, "numpy.core.multiarray.scalar"),
    (_SCALAR, "numpy._core.multiarray.scalar"),
    np.dtype,
    *(kind for kind in vars(np.dtypes).values() if isinstance(kind, type) and issubclass(kind, np.dtype)),
]


@dataclass(frozen=True)
class Source:
    """An opened checkpoint. The tensors are mapped from the file, not read, where the format allows."""

    path: Path  # as the user named it
    file: Path  # the file with the weights
    tensors: dict[str, torch.Tensor]
    wrapper: str | None  # "model", "module", "state_dict", or None for bare tensors
    config: dict[str, Any] | None  # config.json beside the weights
    rest: dict[str, Any]  # whatever else the file holds: args, epoch, meta

    @property
    def transformers_config(self) -> dict[str, Any] | None:
        """The configuration of a VideoMAE folder of transformers, or of this package; None for anything else."""
        return self.config if self.config is not None and self.config.get("model_type") == "videomae" else None


def open_checkpoint(path: str | Path, *, max_gigabytes: float = MAX_GIGABYTES) -> Source:
    """Open a file or folder; every reason why that cannot be done is a ValueError or FileNotFoundError."""
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; give a .pth or .safetensors file or a model folder")
    file, config = _locate(path)
    size = file.stat().st_size
    if size > max_gigabytes * 1e9:
        raise ValueError(
            f"{file} has {size / 1e9:.1f} GB, more than the limit of {max_gigabytes:g}; no released checkpoint is that "
            "large; raise the limit with --max_gigabytes if this is meant"
        )
    _refuse_what_is_no_checkpoint(file)
    content = _load_safetensors(file) if file.suffix == ".safetensors" else _load_pickle(file)
    tensors, wrapper = _unwrap(content, file)
    tensors = _without_added_names(tensors, file)
    declared = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    if declared > max_gigabytes * 1e9:  # an expanded view can declare terabytes in a small file
        raise ValueError(f"{file} declares {declared / 1e9:,.0f} GB of weights in {size / 1e9:.2f} GB; it is damaged")
    rest = {} if wrapper is None else {key: value for key, value in content.items() if key != wrapper}
    return Source(path, file, tensors, wrapper, config, rest)


def fetched(checkpoint: str | Path) -> Path:
    """The path itself, or a local copy of the Hub repository where there is no such path and it reads OWNER/NAME."""
    path = Path(checkpoint)
    if path.exists() or not re.fullmatch(r"[\w.-]+/[\w.-]+", str(checkpoint)) or path.suffix in SUFFIXES:
        return path
    from huggingface_hub import snapshot_download

    wanted = ["config.json", "*preprocessor_config.json", "model.safetensors"]
    try:
        folder = Path(snapshot_download(str(checkpoint), allow_patterns=wanted))
        if not (folder / "model.safetensors").exists():
            folder = Path(snapshot_download(str(checkpoint), allow_patterns=[*wanted, "pytorch_model.bin"]))
    except Exception as error:  # no network, no such repository, no access: the way out is the same
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise FileNotFoundError(
            f"{checkpoint} does not exist here, and the Hub did not give it ({reason}); give a .pth or .safetensors file or a "
            "model folder"
        ) from None
    return folder


def _without_added_names(tensors: Mapping[str, torch.Tensor], file: Path) -> dict[str, torch.Tensor]:
    """The tensors under the names that they had before the model was compiled or distributed."""
    named: dict[str, torch.Tensor] = {}
    origins: dict[str, str] = {}
    for key, tensor in tensors.items():
        name = ".".join(part for part in key.split(".") if part not in ADDED_NAMES)
        if name in named:
            raise ValueError(f"{file} has {name} twice, as {origins[name]} and as {key}; it mixes two models")
        named[name], origins[name] = tensor, key
    return named


def _locate(path: Path) -> tuple[Path, dict[str, Any] | None]:
    """The weight file, and the config.json beside it where there is one."""
    if path.is_dir():
        found = [path / name for name in ("model.safetensors", "pytorch_model.bin") if (path / name).is_file()]
        if not found:
            shards = sorted(path.glob("*.index.json"))
            if shards:
                raise ValueError(
                    f"{path} holds weights in several shards ({shards[0].name}); load it with from_pretrained and save "
                    "it again with max_shard_size='50GB'"
                )
            others = sorted(file.name for file in path.iterdir() if file.suffix in SUFFIXES)
            hint = f"; it holds {', '.join(others[:5])}: name one of them" if others else ""
            raise FileNotFoundError(f"{path} has neither model.safetensors nor pytorch_model.bin{hint}")
        file = found[0]
    else:
        file = path
    config = file.parent / "config.json"
    belongs = path.is_dir() or file.name in ("model.safetensors", "pytorch_model.bin")
    if not (belongs and config.is_file()):
        return file, None
    try:
        content = json.loads(config.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{config} is not JSON ({error}); download it again") from None
    except RecursionError:
        raise ValueError(f"{config} is nested too deep for a configuration; download it again") from None
    if not isinstance(content, dict):
        raise ValueError(f"{config} holds a {type(content).__name__}, not a configuration; download it again")
    check_content(content, str(path))
    return file, content


def _refuse_what_is_no_checkpoint(file: Path) -> None:
    with open(file, "rb") as stream:
        start = stream.read(512)
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not start:
        raise ValueError(f"{file} is empty; download it again")
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        raise ValueError(
            f"{file} is a web page, not weights: the link led to a page (Google Drive asks for a confirmation of large "
            "files); open the link in a browser and save the file itself"
        )
    if text.startswith(b"version https://git-lfs"):
        raise ValueError(f"{file} is a Git LFS pointer, not the weights; run `git lfs pull` in its repository")
    if start.startswith(b"PK") and not zipfile.is_zipfile(file):
        raise ValueError(
            f"{file} breaks off after {file.stat().st_size:,} bytes: the download is incomplete; repeat it"
        )

    if tarfile.is_tarfile(file):
        raise ValueError(
            f"{file} is a tar file: if it is a checkpoint of torch before 0.1.10, opening it would run code, and it is refused; "
            "if the checkpoint is inside, unpack it"
        )
    if start.startswith(b"PK"):
        with zipfile.ZipFile(file) as archive:
            if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
                raise ValueError(
                    f"{file} is a compressed archive, which torch.save never writes; if the checkpoint is inside, unpack it"
                )


def _load_safetensors(file: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(file)
    except SafetensorError as error:
        raise ValueError(
            f"{file} is not a whole safetensors file ({error}); it was renamed or the download is incomplete"
        ) from None


def _load_pickle(file: Path) -> Any:
    """torch.load without execution of anything, mapped where the file is of the zip kind (torch >= 1.6)."""
    try:
        with torch.serialization.safe_globals(HARMLESS):
            return torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except pickle.UnpicklingError as error:
        unknown = _unknown_globals(file, str(error))
        if unknown:
            raise ValueError(
                f"{file} needs {', '.join(unknown)} to be unpickled, which could run code and is refused. If you trust "
                "the file, open it where it was made and keep the weights alone: "
                "torch.save({'model': torch.load(FILE, weights_only=False)['model']}, 'weights.pth')"
            ) from None
        reason = str(error).splitlines()[0]
        if reason.startswith("Weights only load failed"):  # torch's advice is to run the file, which is not ours
            reason = ""
    except (EOFError, RuntimeError, OSError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        reason = (str(error).splitlines() or [""])[0]
    reason = f" ({reason})" if " " in reason and "pop from" not in reason else ""  # a bare "101" tells nobody anything
    raise ValueError(f"{file} is not a checkpoint that torch can read{reason}; it is damaged or of another kind")


def _unknown_globals(file: Path, message: str) -> list[str]:
    """Names of what the pickle wants to import beyond the harmless; empty if that was not the trouble."""
    if zipfile.is_zipfile(file):
        with torch.serialization.safe_globals(HARMLESS):
            try:
                return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(file))
            except Exception:  # it scans the pickle's opcodes and may stumble over a broken one
                pass
    marker = "GLOBAL "
    return [message.split(marker, 1)[1].split()[0]] if marker in message else []


def _unwrap(content: Any, file: Path) -> tuple[dict[str, torch.Tensor], str | None]:
    """The tensors by name, from under the key that the releases use or from the top."""
    if not isinstance(content, Mapping):
        raise ValueError(f"{file} holds a {type(content).__name__}, not weights by name; save a state dict")
    for wrapper in WRAPPERS:
        inner = content.get(wrapper)
        if isinstance(inner, Mapping) and inner and all(isinstance(value, torch.Tensor) for value in inner.values()):
            return dict(inner), wrapper
    tensors = {key: value for key, value in content.items() if isinstance(value, torch.Tensor)}
    if not tensors:
        keys = ", ".join(str(key) for key in list(content)[:8])
        raise ValueError(f"{file} holds no weights under {', '.join(WRAPPERS)} or at the top; its keys are {keys}")
    return tensors, None
