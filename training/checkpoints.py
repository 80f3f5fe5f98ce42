"""Checkpoints: each a model folder with the training state inside, hashed, and either whole or not there.

    RUN/checkpoint-1000/            `from_pretrained` reads it as it is
        config.json, model.safetensors, processor files, README.md
        ema/                        the averaged weights, a model folder too, where the recipe keeps an average
        training/state.json         step, counters, loss scale: whatever is not a tensor
        training/optimizer.safetensors
        manifest.json               size and SHA-256 of every file above but the cards

A folder is written beside its place, flushed and renamed (videomae.files), so a crash leaves the last one alone. Before
anything is read, the hashes are compared; a damaged checkpoint is named and the one before it is used. Nothing here is
a pickle.

Random numbers need no state: clips, crops, masks and dropout follow from (seed, epoch, index) or (seed, step).
"""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedModel

from videomae.files import new_folder, sha256_of, write_json
from videomae.training.optimisation import Ema

FORMAT = 1
MANIFEST = "manifest.json"
STATE = "training/state.json"
OPTIMIZER = "training/optimizer.safetensors"
EMA = "ema"
CARD_FILES = ("README.md", "training_record.json", "curves.png")
_FOLDER_NAME = re.compile(r"checkpoint-(\d+)$")


class CheckpointError(ValueError):
    """A checkpoint that cannot be used, with the reason and the way out."""


def checkpoint_folder(run: str | os.PathLike, step: int) -> Path:
    return Path(run) / f"checkpoint-{step}"


def checkpoints(run: str | os.PathLike) -> list[Path]:
    """The checkpoint folders of a run, oldest first, whole or not."""
    found = [
        (int(match.group(1)), path)
        for path in Path(run).glob("checkpoint-*")
        if (match := _FOLDER_NAME.search(path.name))
    ]
    return [path for _, path in sorted(found)]


# ---------------------------------------------------------------------------------------------------------- save


def save_checkpoint(
    run: str | os.PathLike,
    *,
    state: Mapping[str, Any],
    model: PreTrainedModel,
    optimizer: torch.optim.Optimizer,
    ema: Ema | None = None,
    write_more: Callable[[Path], None] | None = None,
    main: bool = True,
) -> Path:
    """Write RUN/checkpoint-STEP; the folder appears whole or not at all.

    `state` must hold "step" and be plain JSON. `model` is the unwrapped model; `optimizer` may be accelerate's wrapper.
    `write_more(folder)` adds the processor, a card and whatever else belongs to the model folder. Where several
    processes train, all call this and one is `main`: the others only bring their shards (FSDP2), which are written as
    whole tensors, so that any number of processes, sharded or not, can resume from them. An error (a full disk, say)
    leaves the run as it was.
    """
    weights = whole_tensors(model.state_dict(), keep=main)
    moments = whole_tensors(optimizer_tensors(model, optimizer), keep=main)
    average = whole_tensors(ema.state, keep=main) if ema is not None else None
    target = checkpoint_folder(run, state["step"])
    if not main:
        return target

    def write(folder: Path) -> None:
        model.save_pretrained(folder, state_dict=weights)
        if average is not None:
            model.save_pretrained(folder / EMA, state_dict=average)
        save_tensors(moments, folder / OPTIMIZER)

    return write_checkpoint(run, state, [write, *([write_more] if write_more else [])])


def whole_tensors(tensors: Mapping[str, torch.Tensor], *, keep: bool = True) -> dict[str, torch.Tensor]:
    """Sharded tensors put together, on the CPU where they are kept; a collective when any is sharded."""
    whole = {}
    for name, tensor in tensors.items():
        full_tensor = getattr(tensor, "full_tensor", None)
        if full_tensor is not None:
            tensor = full_tensor().cpu() if keep else full_tensor()
        if keep:
            whole[name] = tensor
    return whole


def sharded_like(tensor: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """This process's shard of a whole tensor, laid out as the parameter is; the tensor itself where nothing is sharded."""
    mesh, placements = getattr(parameter, "device_mesh", None), getattr(parameter, "placements", None)
    if placements is None or tensor.shape != parameter.shape:
        return tensor.clone()  # off a mapped file, and aligned as fresh tensors are
    from torch.distributed.tensor import distribute_tensor

    # Every process has read the whole tensor from the file, so none needs to be sent it.
    return distribute_tensor(tensor.to(parameter.device), mesh, placements, src_data_rank=None)


def write_checkpoint(
    run: str | os.PathLike, state: Mapping[str, Any], writers: Iterable[Callable[[Path], None]]
) -> Path:
    """Let `writers` fill a folder beside RUN/checkpoint-STEP, add state and manifest, and rename it there."""
    target = checkpoint_folder(run, state["step"])
    with new_folder(target, replace=True) as folder:
        for write in writers:
            write(folder)
        write_json(folder / STATE, {"format": FORMAT, **state})
        write_manifest(folder)
    return target


def write_manifest(folder: Path) -> None:
    """Record size and SHA-256 of every file; not of the card's, which are written again when a model is published."""
    files = {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in CARD_FILES
    }
    write_json(folder / MANIFEST, {"format": FORMAT, "files": files})


def save_tensors(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, path)


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """The optimizer's state by parameter name, as `KIND/PARAMETER` (exp_avg/..., exp_avg_sq/..., step/...)."""
    state = optimizer.state
    return {
        f"{kind}/{name}": value
        for name, parameter in model.named_parameters()
        for kind, value in state.get(parameter, {}).items()
    }


def prune(run: str | os.PathLike, *, keep_last: int, keep_every: int | None = None) -> list[Path]:
    """Delete old checkpoints but the last `keep_last` and those whose step `keep_every` divides. Returns what went."""
    old = checkpoints(run)[: -max(keep_last, 1)]
    gone = [path for path in old if keep_every is None or _step_of(path) % keep_every]
    for path in gone:
        # Rename first: a kill in the middle of a deletion must not leave a folder that looks like a checkpoint.
        dying = path.with_name(f".{path.name}.old")
        os.replace(path, dying)
        shutil.rmtree(dying, ignore_errors=True)
    return gone


# ---------------------------------------------------------------------------------------------------------- load


def damage(folder: str | os.PathLike) -> str | None:
    """What is wrong with a checkpoint folder, or None where every file is what was written."""
    folder = Path(folder)
    try:
        manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
        files = {name: (file["bytes"], file["sha256"]) for name, file in manifest["files"].items()}
    except FileNotFoundError:
        return f"it has no {MANIFEST}"
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return f"{MANIFEST} is not readable"
    if manifest.get("format") != FORMAT:
        return f"its format is {manifest.get('format')!r} and this version reads {FORMAT}"
    for name, (size, sha256) in files.items():
        path = folder / name
        if Path(name).is_absolute() or ".." in Path(name).parts:
            return f"{MANIFEST} names {name!r}, outside the folder"
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} bytes of {size}"
        if sha256_of(path) != sha256:
            return f"{name} has other content than was written"
    if _FOLDER_NAME.search(folder.name):  # a copy under another name is a model folder, and no run resumes from it
        try:
            read_state(folder)
        except (CheckpointError, OSError) as error:
            return str(error)
    return None


def latest_checkpoint(run: str | os.PathLike, say: Callable[[str], None] = print) -> Path | None:
    """The newest undamaged checkpoint of a run, or None; each damaged one is named through `say`."""
    for folder in reversed(checkpoints(run)):
        reason = damage(folder)
        if reason is None:
            return folder
        say(f"{folder} is damaged ({reason}); looking for the one before it")
    return None


def model_of_run(run: str | os.PathLike) -> Path | None:
    """The model folder that a run has come to: its best by validation, else its last, else the newest checkpoint."""
    folders = (Path(run, "best"), Path(run, "final"), *reversed(checkpoints(run)))
    return next((folder for folder in folders if (folder / "config.json").is_file()), None)


def read_state(folder: str | os.PathLike) -> dict[str, Any]:
    """The JSON state of a checkpoint: "step" and what the trainer put there."""
    folder = Path(folder)
    try:
        state = json.loads((folder / STATE).read_text("utf-8"))
        step = state["step"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise CheckpointError(f"{STATE} of {folder} does not hold the state of a run") from None
    if type(step) is not int or step < 0 or (_FOLDER_NAME.search(folder.name) and step != _step_of(folder)):
        raise CheckpointError(f"{STATE} of {folder} is of step {step!r}, which is not the folder's")
    return state


def load_checkpoint(
    folder: str | os.PathLike,
    *,
    model: PreTrainedModel,
    optimizer: torch.optim.Optimizer | None = None,
    ema: Ema | None = None,
) -> dict[str, Any]:
    """Put weights, optimizer state and average back, bit for bit, and return the JSON state.

    The caller has chosen the folder with `latest_checkpoint`. A model of another architecture is refused, field by field.
    """
    folder = Path(folder)
    check_same_model(folder, model)
    restore_weights(model, folder)
    if ema is not None:
        if not (folder / EMA).is_dir():
            raise CheckpointError(f"{folder} holds no averaged weights; resume without ema_decay, or start another run")
        saved = read_weights(_plain_class(model), folder / EMA)
        ema.load({name: sharded_like(saved[name], value) for name, value in ema.state.items()})
    if optimizer is not None:
        if not (folder / OPTIMIZER).is_file():
            raise CheckpointError(
                f"{folder} has no {OPTIMIZER}, so it cannot be resumed; start a new run from its weights with --model {folder}"
            )
        restore_optimizer(model, optimizer, load_file(folder / OPTIMIZER))
    return read_state(folder)


def check_same_model(folder: Path, model: PreTrainedModel) -> None:
    """Raise with the names and both values of the configuration fields in which model and checkpoint differ."""
    saved = json.loads((folder / "config.json").read_text("utf-8"))
    current = json.loads(model.config.to_json_string(use_diff=False))
    skip = {"transformers_version", "dtype", "torch_dtype", "architectures", "_name_or_path", "auto_map"}
    differing = [
        f"{name}: checkpoint {saved[name]!r}, now {current.get(name)!r}"
        for name in sorted(set(saved) & set(current) - skip)
        if saved[name] != current[name]
    ]
    if differing:
        raise CheckpointError(
            f"{folder} is of another model ({'; '.join(differing)}); resume with the recipe of that run, or start a new "
            "run in another folder"
        )


def read_weights(model_class: type[PreTrainedModel], folder: Path) -> dict[str, torch.Tensor]:
    """A model folder's weights under the model's own names, whatever names the files use."""
    return model_class.from_pretrained(folder, dtype=torch.float32).state_dict()


def restore_weights(model: PreTrainedModel, folder: Path) -> None:
    current = model.state_dict()
    saved = read_weights(_plain_class(model), folder)
    model.load_state_dict({name: sharded_like(saved[name], current[name]) for name in current}, strict=True)


def restore_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor]) -> None:
    """The inverse of `optimizer_tensors`; parameters without saved state (never stepped) start from new state."""
    parameters = dict(model.named_parameters())
    by_name: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        kind, _, name = key.partition("/")
        by_name.setdefault(name, {})[kind] = tensor
    names = {id(parameter): name for name, parameter in parameters.items()}
    order = [names[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]
    if unknown := sorted(set(by_name) - set(order)):
        raise CheckpointError(
            f"the optimizer state is of other parameters ({', '.join(unknown[:3])}); resume with the same --freeze and --lora_rank"
        )
    # torch's own loader puts each tensor where the optimizer wants it; rates and groups stay those of this run.
    state = {
        index: {kind: sharded_like(tensor, parameters[name]) for kind, tensor in by_name[name].items()}
        for index, name in enumerate(order)
        if name in by_name
    }
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _plain_class(model: PreTrainedModel) -> type[PreTrainedModel]:
    """The model's own class, below the one that FSDP2 puts over it."""
    return next(kind for kind in type(model).__mro__ if not kind.__name__.startswith("FSDP"))


def _step_of(folder: Path) -> int:
    return int(folder.name.rpartition("-")[2])
