"""What a command line calls a model or a device, validated before anything is loaded or computed.

transformers loads a folder of another architecture, or one without some weights, with a warning and random numbers, and
reports a misspelt folder as a network problem; here each is an error of one sentence. Classes of models and processors
are imported inside the functions that need them, so that asking for a configuration stays cheap.
"""

import contextlib
import hashlib
import json
import os
import pickle
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
from safetensors import SafetensorError, safe_open
from transformers.utils import logging as transformers_logging

from videomae.choices import CONFIG_BOUNDS, MAX_LABELS
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

MAX_POSITIONS = 2**28  # numbers in the table of positions, tokens x width; released models have 2 million at most
MAX_SIDE = CONFIG_BOUNDS["image_size"][1]
MAX_SAMPLING = {"num_frames": 4096, "stride_frames": 100_000, "clips": 1000, "crops": 100}  # of a saved policy
# Those of torch itself. By any other name transformers may fetch code from the Hub, also where a package is missing.
ATTENTIONS = ("eager", "sdpa", "flex_attention")
# The parameters that show what a configuration must say: a pattern, their shape by it, and its fields.
SHAPES: tuple[tuple[str, Callable[[VideoMAEConfig], tuple[int, ...]], str], ...] = (
    (
        r"(videomae\.)?embeddings\.patch_embeddings\.projection\.weight",
        lambda config: (config.hidden_size, config.num_channels, config.tubelet_size, *config.patch_hw),
        "hidden_size, num_channels, tubelet_size, patch_size",
    ),
    (
        r"(videomae\.)?encoder\.layer\.\d+\.intermediate\.dense\.weight",
        lambda config: (config.intermediate_size, config.hidden_size),
        "intermediate_size, hidden_size",
    ),
    (
        r"encoder_to_decoder\.weight",
        lambda config: (config.decoder_hidden_size, config.hidden_size),
        "decoder_hidden_size, hidden_size",
    ),
    (
        r"decoder\.decoder_layers\.\d+\.intermediate\.dense\.weight",
        lambda config: (config.decoder_intermediate_size, config.decoder_hidden_size),
        "decoder_intermediate_size, decoder_hidden_size",
    ),
    (r"classifier\.weight", lambda config: (config.num_labels, config.hidden_size), "num_labels, hidden_size"),
)


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
        content = VideoMAEConfig.get_config_dict(model)[0]
    except OSError as error:
        if folder.is_dir():
            raise
        reason = str(error).splitlines()[0]
        raise OSError(f"{named}: there is no such folder, and the Hub did not give it ({reason})") from None
    model_type = content.get("model_type", "videomae")
    if model_type != "videomae":
        raise ValueError(
            f"{named} is of model_type {model_type!r}, not 'videomae'; `videomae convert` makes a folder of released weights"
        )
    check_content(content, named)
    try:
        config = VideoMAEConfig.from_pretrained(model)
    except (ValueError, OSError):
        raise
    except Exception as error:  # a file can hold anything, and transformers trusts the types in it
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise ValueError(f"{named}: config.json does not describe a model ({reason})") from error
    positions = config.num_patches * max(config.hidden_size, config.decoder_hidden_size)
    if positions > MAX_POSITIONS:
        raise ValueError(
            f"{named}: config.json asks for {config.num_patches:,} tokens a clip ({config.num_frames} frames of "
            f"{config.image_size} in patches of {config.patch_size}), more than any model here can take; fix its sizes"
        )
    if weights and folder.is_dir():
        _check_weights(folder, config, named)
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
    **options: Any,
) -> Model:
    """The model of that class from a folder or Hub name, in float32 and evaluation mode, without warnings.

    Parameters that the folder has no weights for are an error, unless their whole name matches the pattern `may_lack`.
    Weights that the class has no place for, such as a head, are left out. `options` change fields of the configuration.
    """
    opened, report = load_with_report(kind, model, dtype=torch.float32, **options)
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
        # The annotation of transformers leaves out that a report comes with the model.
        return cast(Any, kind).from_pretrained(model, output_loading_info=True, **options)


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
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{named}: config.json is not JSON ({error}); it may be cut off, save the model again"
        ) from None
    names = (content.get("architectures") if isinstance(content, dict) else None) or []
    if not isinstance(content, dict) or not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{named}: config.json does not describe a model, an object whose `architectures` are names")
    if weights and not any((folder / name).is_file() for name in WEIGHTS):
        raise FileNotFoundError(f"{named} has no weights (model.safetensors); the folder is not complete")


def check_content(content: Mapping[str, Any], named: str) -> None:
    """What an untrusted config.json says, before anything is built from it: numbers in bounds, names that are known."""
    for name, (least, most) in CONFIG_BOUNDS.items():
        value = content.get(name)
        for number in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(number, (int, float)) and not least <= number <= most:
                raise ValueError(
                    f"{named}: config.json has {name}={number}, and it must be in {least} ... {most}; fix the file"
                )
    labels = content.get("id2label")
    if isinstance(labels, Mapping) and len(labels) > MAX_LABELS:
        raise ValueError(f"{named}: config.json has {len(labels)} labels, and {MAX_LABELS} are the most; fix the file")
    for number, name in labels.items() if isinstance(labels, Mapping) else ():
        if not re.fullmatch(r"\d{1,9}", str(number)) or not isinstance(name, str):
            raise ValueError(
                f"{named}: id2label in config.json has {str(number)[:40]!r}: {str(name)[:40]!r}, and it maps numbers to "
                "names; fix the file"
            )
    for name in ("dtype", "torch_dtype"):
        value = content.get(name)
        if isinstance(value, str) and not isinstance(getattr(torch, value.removeprefix("torch."), None), torch.dtype):
            raise ValueError(
                f"{named}: config.json has {name}={value!r}, which is not a dtype of torch; remove the line"
            )
    for name in ("attn_implementation", "_attn_implementation", "_attn_implementation_internal"):
        value = content.get(name)
        if value is not None and value not in ATTENTIONS:
            raise ValueError(
                f"{named}: config.json asks for {name}={value!r}, which may be fetched from the Hub and run; remove the "
                f"line (it may be one of {', '.join(ATTENTIONS)}) and pass attn_implementation to from_pretrained instead"
            )


def _check_weights(folder: Path, config: VideoMAEConfig, named: str) -> None:
    """Compare config.json with the shapes of the weights beside it, from their headers alone.

    transformers would build what the configuration says and then stop with a traceback that names no numbers.
    """
    layers = {"num_hidden_layers": 0, "decoder_num_hidden_layers": 0}
    for name, shape in _shapes_in(folder, named).items():
        found = re.match(r"(?:videomae\.)?encoder\.layer\.(\d+)\.|decoder\.decoder_layers\.(\d+)\.", name)
        if found:
            field = "num_hidden_layers" if found[1] else "decoder_num_hidden_layers"
            layers[field] = max(layers[field], int(found[1] or found[2]) + 1)
        for pattern, shape_by, fields in SHAPES:
            if re.fullmatch(pattern, name) and shape != shape_by(config):
                raise ValueError(
                    f"{named}: the weights have {name} of shape {shape}, and config.json says {shape_by(config)} "
                    f"({fields}); they are not of one model: save it again, or fix config.json"
                )
    for field, count in layers.items():
        if 0 < count < getattr(config, field):
            raise ValueError(
                f"{named}: the weights have {count} layers, and config.json says {field}={getattr(config, field)}; they "
                "are not of one model: save it again, or fix config.json"
            )


def _shapes_in(folder: Path, named: str) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor in the weight files that transformers would load; no weights are read or allocated."""
    first = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if first is None:
        return {}
    files = {first.name}
    if first.suffix == ".json":
        try:
            files = set(json.loads(first.read_text(encoding="utf-8"))["weight_map"].values())
            outside = sorted(name for name in files if os.path.basename(name) != name)
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ValueError(f"{named}: {first.name} does not map weights to files; save the model again") from None
        if outside:
            raise ValueError(f"{named}: {first.name} names {outside[0]!r}, outside the folder; save the model again")
        if missing := sorted(name for name in files if not (folder / name).is_file()):
            raise FileNotFoundError(f"{named} has no {missing[0]}, which {first.name} names; copy the folder again")
    shapes: dict[str, tuple[int, ...]] = {}
    for name in sorted(files):
        shapes |= _shapes_of(folder / name, named)
    return shapes


def _shapes_of(file: Path, named: str) -> dict[str, tuple[int, ...]]:
    if file.suffix == ".safetensors":
        try:
            with safe_open(file, framework="pt") as tensors:
                return {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise ValueError(f"{named}: {file.name} is not a whole safetensors file ({error}); copy it again") from None
    try:
        content = torch.load(file, map_location="meta", weights_only=True, mmap=zipfile.is_zipfile(file))
    except pickle.UnpicklingError:
        raise ValueError(
            f"{named}: {file.name} holds more than weights, or is damaged; unpickling it could run code, so it is refused. "
            "Save the model again with save_pretrained, which writes safetensors, where you trust it"
        ) from None
    except (EOFError, RuntimeError, ValueError, KeyError, IndexError, TypeError, AttributeError):
        raise ValueError(f"{named}: {file.name} is not a file of weights; it is damaged, copy it again") from None
    if not isinstance(content, Mapping):
        raise ValueError(f"{named}: {file.name} holds a {type(content).__name__}, not weights by name; save it again")
    return {name: tuple(value.shape) for name, value in content.items() if isinstance(value, torch.Tensor)}


def open_device(name: str | None) -> torch.device:
    """The device of that name, or the accelerator, or the CPU where there is none."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    here = ["cpu"] + ([accelerator.type] if accelerator is not None else [])
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
        processor = VideoMAEVideoProcessor.from_pretrained(model)
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
    except (TypeError, AttributeError, KeyError, IndexError) as error:  # a file can hold anything
        raise ValueError(f"{model}: the processor's file does not describe one ({error}); save it again") from None
    sides = [side for size in (processor.size, processor.crop_size) for side in dict(size or {}).values()]
    longest = max((side for side in sides if isinstance(side, (int, float))), default=0)
    if longest > MAX_SIDE:
        raise ValueError(f"{model}: the processor has a size of {longest} pixels, and {MAX_SIDE} are the most; fix it")
    for name, most in MAX_SAMPLING.items():
        if getattr(processor.sampling, name) > most:
            raise ValueError(
                f"{model}: the processor's sampling has {name}={getattr(processor.sampling, name)}, and {most} are the "
                "most; fix the file"
            )
    return processor


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
