"""What a command line calls a model or a device, validated before anything is loaded or computed.

transformers loads a folder of another architecture, or one without some weights, with a warning and random numbers, and
reports a misspelt folder as a network problem; here each is an error of one sentence. Classes of models and processors
are imported inside the functions that need them, so that asking for a configuration stays cheap.
"""

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from transformers.utils import logging as transformers_logging

from videomae.command_line import is_hub_name
from videomae.configuration_videomae import VideoMAEConfig
from videomae.sampling_videomae import ClipSampling

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from videomae.modeling_videomae import VideoMAEForVideoClassification
    from videomae.video_processing_videomae import VideoMAEVideoProcessor

WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
Model = TypeVar("Model", bound="PreTrainedModel")


def open_config(
    model: str, argument: str = "--model", *, kind: str | None = None, weights: bool = True
) -> VideoMAEConfig:
    """The configuration of a VideoMAE model folder or Hub name that can be loaded; anything else is an error.

    kind: the end of the class name that the caller needs, such as "ForActionDetection". weights: whether it needs them.
    """
    folder, named = Path(model), f"{argument} {model}"
    if folder.is_file():
        raise ValueError(
            f"{named} is a file; give a model folder (`videomae convert FILE FOLDER` makes one of weights)"
        )
    if folder.is_dir():
        _check_folder(folder, named, weights)
    check_name(model, argument)
    try:
        model_type = VideoMAEConfig.get_config_dict(model)[0].get("model_type", "videomae")
    except OSError as error:
        if folder.is_dir():
            raise
        reason = str(error).splitlines()[0]
        raise OSError(f"{named}: there is no such folder, and the Hub did not give it ({reason})") from None
    if model_type != "videomae":
        raise ValueError(
            f"{named} is of model_type {model_type!r}, not 'videomae'; `videomae convert` makes a folder of released weights"
        )
    try:
        config = VideoMAEConfig.from_pretrained(model)
    except (ValueError, OSError):
        raise
    except Exception as error:  # a file can hold anything, and transformers trusts the types in it
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise ValueError(f"{named}: config.json does not describe a model ({reason})") from error
    architecture = (config.architectures or [""])[0]
    if kind and architecture and not architecture.endswith(kind):
        raise ValueError(f"{named} is {architecture}, and a VideoMAE{kind} is needed")
    return config


def open_model(
    kind: type[Model],
    model: str | os.PathLike,
    *,
    may_lack: str | None = None,
    way_out: str = "`videomae doctor` reports what is wrong with the folder",
) -> Model:
    """The model of that class from a folder or Hub name, in float32 and evaluation mode, without warnings.

    Parameters that the folder has no weights for are an error, unless their whole name matches the pattern `may_lack`.
    Weights that the class has no place for, such as a head, are left out.
    """
    opened, report = load_with_report(kind, model, dtype=torch.float32)
    missing = sorted(name for name in report["missing_keys"] if not (may_lack and re.fullmatch(may_lack, name)))
    if missing:
        raise ValueError(
            f"{model} has no weights for {len(missing)} of {len(opened.state_dict())} parameters of {kind.__name__}, such as "
            f"{missing[0]}; {way_out}"
        )
    return opened.eval()


def load_with_report(kind: type[Model], model: str | os.PathLike, **options: Any) -> tuple[Model, dict[str, Any]]:
    """`from_pretrained` of that class with its report on the keys, which the caller judges instead of a warning.

    transformers' bars of progress stay off from then on.
    """
    transformers_logging.disable_progress_bar()
    with quiet_loading():
        return kind.from_pretrained(model, output_loading_info=True, **options)


@contextlib.contextmanager
def quiet_loading() -> Iterator[None]:
    """No warnings of transformers inside."""
    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)


def open_classifier(model: str, argument: str = "model") -> "VideoMAEForVideoClassification":
    """The classifier of a folder or Hub name in float32; one that merges or leaves out tokens where its configuration asks for it."""
    from videomae.modeling_videomae import VideoMAEForVideoClassification
    from videomae.token_reduction_videomae import ReducedVideoMAEForVideoClassification

    config = open_config(model, argument, kind="ForVideoClassification")
    reduced = "ReducedVideoMAEForVideoClassification" in (config.architectures or [])
    kind = ReducedVideoMAEForVideoClassification if reduced else VideoMAEForVideoClassification
    return kind.from_pretrained(model, dtype=torch.float32)


def check_name(model: str, argument: str) -> None:
    """A name is a folder that exists or OWNER/NAME; any other goes to the Hub only to come back as a network problem."""
    if not is_hub_name(model) and not Path(model).is_dir():
        raise FileNotFoundError(f"{argument} {model}: there is no such folder, and names on the Hub are OWNER/NAME")


def _check_folder(folder: Path, named: str, weights: bool) -> None:
    path = folder / "config.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"{named} has no config.json; give a folder that save_pretrained or a training run wrote"
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"{named}: config.json is not JSON ({error}); it may be cut off, save the model again"
        ) from None
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content.get("architectures") or ()):
        raise ValueError(f"{named}: config.json does not describe a model, an object whose `architectures` are names")
    if weights and not any((folder / name).is_file() for name in WEIGHTS):
        raise FileNotFoundError(f"{named} has no weights (model.safetensors); the folder is not complete")


def open_device(name: str | None) -> torch.device:
    """The device of that name, or the accelerator, or the CPU where there is none."""
    here = ["cpu"] + ([torch.accelerator.current_accelerator().type] if torch.accelerator.is_available() else [])
    if name is None:
        return torch.device(here[-1])
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        raise ValueError(f"--device {name} is not a device of this machine; there is {' and '.join(here)}") from None
    return device


def open_processor(
    model: str | os.PathLike, config: VideoMAEConfig, *, say: Callable[[str], object] = lambda text: None
) -> "VideoMAEVideoProcessor":
    """The processor of a model folder; where it has none, one of the model's size, pixel scaling and dense clips.

    `say` is called with a sentence when that happens.
    """
    from videomae.video_processing_videomae import VideoMAEVideoProcessor

    try:
        return VideoMAEVideoProcessor.from_pretrained(model)
    except OSError:
        height, width = config.image_hw
        mean, std = config.pixel_statistics
        sampling = ClipSampling(num_frames=config.num_frames)
        say(
            f"{model} has no video processor; taking dense clips at stride {sampling.stride_frames}, pixels by {mean}, {std}"
        )
        return VideoMAEVideoProcessor(
            size={"shortest_edge": min(height, width)},
            crop_size={"height": height, "width": width},
            image_mean=mean,
            image_std=std,
            sampling=sampling,
        )


def weights_sha256(model: torch.nn.Module) -> str:
    """A hash of every parameter and buffer, by name, wherever they came from."""
    return state_sha256(model.state_dict())


def state_sha256(state: Mapping[str, torch.Tensor]) -> str:
    """`weights_sha256` of weights without a model."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype} ".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
