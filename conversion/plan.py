"""From an opened file to a configuration: shapes first, then what only zoo.yaml, a preset or the caller can know."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from videomae.choices import MAX_GIGABYTES
from videomae.configuration_videomae import OFFICIAL_NORM_EPS, PRESETS, VideoMAEConfig
from videomae.conversion.layouts import Layout, our_state, recognise
from videomae.conversion.weight_files import Source, fetched, open_checkpoint
from videomae.data.lists.label_files import class_names
from videomae.data.lists.label_names import are_placeholders
from videomae.files import sha256_of
from videomae.model_cards.zoo import Checkpoint, entry, load_zoo

if TYPE_CHECKING:
    from videomae.modeling_videomae import VideoMAEPreTrainedModel


@dataclass
class Plan:
    """Everything that is known before a model is built: what the file is, what it becomes, and where that came from."""

    source: Source
    layout: Layout
    entry: Checkpoint | None
    config: VideoMAEConfig
    state: dict[str, Tensor]  # under our names; views of the mapped file
    notes: list[str] = field(default_factory=list)

    @property
    def version(self) -> int:
        """1 or 2: whether pre-training leaves part of the clip out of the decoder."""
        if self.entry is not None:
            return self.entry.version
        config = self.config
        decoder = (config.decoder_hidden_size, config.decoder_num_attention_heads, config.decoder_num_hidden_layers)
        known = [shape.decoder for shape in PRESETS.values() if shape.width == config.hidden_size]
        return 2 if known and decoder == known[0].get(2) and decoder != known[0].get(1) else 1


def plan(
    checkpoint: str | Path,
    *,
    name: str | None = None,
    image_size: int | None = None,
    num_frames: int | None = None,
    num_attention_heads: int | None = None,
    decoder_num_attention_heads: int | None = None,
    labels: str | Path | Sequence[str] | Mapping[int, str] | None = None,
    max_gigabytes: float = MAX_GIGABYTES,
) -> Plan:
    """Open a checkpoint and settle everything that can be settled without reading the weights."""
    found = entry(name) if name is not None else None
    source = open_checkpoint(fetched(checkpoint), max_gigabytes=max_gigabytes)
    layout = recognise(source)
    if found is None:
        found = _named_by_itself(str(checkpoint), source)
    if found is not None:
        _check_entry(found, layout, source)
    notes: list[str] = []
    if promised := re.search(r"-([0-9a-f]{8})\.pth$", source.file.name):  # OpenMMLab puts the hash into the name
        digest = sha256_of(source.file)
        if not digest.startswith(promised[1]):
            notes.append(
                f"the name promises a SHA-256 of {promised[1]}..., the file has {digest[:8]}...: if it was not changed on "
                "purpose, download it again"
            )
    overrides = dict(
        image_size=image_size,
        num_frames=num_frames,
        num_attention_heads=num_attention_heads,
        decoder_num_attention_heads=decoder_num_attention_heads,
    )
    state = our_state(source, layout)
    if layout.release == "transformers":
        config = transformers_architecture(source, found, overrides, notes)
    else:
        config = architecture(state, layout, source, found, overrides, notes)
    if labels is not None:
        if layout.head not in ("classify", "detect"):
            raise ValueError(f"a {layout.title} has no classes; leave --labels out")
        names = class_names(labels, config.num_labels)
        config.id2label = dict(enumerate(names))
        config.label2id = {name: index for index, name in enumerate(names)}
    elif layout.head in ("classify", "detect") and are_placeholders(config.id2label.values()):
        hint = f"--labels {found.labels}" if found is not None else "--labels FILE"
        notes.append(f"the classes have no names yet; add them with {hint}")
    config.architectures = [model_class(layout).__name__]
    return Plan(source, layout, found, config, state, notes)


def _named_by_itself(checkpoint: str, source: Source) -> Checkpoint | None:
    """The zoo entry with this Hub name, or whose file has this very name, where that is telling."""
    telling = source.file.name not in ("model.safetensors", "pytorch_model.bin")
    for known in load_zoo().values():
        if known.hub == checkpoint or (telling and known.file == source.file.name):
            return known
    return None


def _check_entry(found: Checkpoint, layout: Layout, source: Source) -> None:
    release = "videomae" if found.release == "videomae_v2" else found.release
    head = {"encode": "features"}.get(layout.head, layout.head)
    if (release, found.head) != (layout.release, head) and not (
        layout.release == "transformers" and found.head == head
    ):
        raise ValueError(
            f"{source.path} is a {layout.title} file, but {found.name} is for {found.head} from the release "
            f"{found.release}; correct --name or leave it out"
        )


def shapes_tell(state: Mapping[str, Tensor], layout: Layout) -> dict[str, Any]:
    """The config fields that shapes give."""
    encoder = "" if layout.head == "features" else "videomae."

    def shape(name: str) -> tuple[int, ...]:
        if name not in state:
            raise ValueError(f"a {layout.title} needs {name}, which is missing; the file is incomplete")
        return tuple(state[name].shape)

    def depth(stack: str) -> int:
        numbers = {int(name[len(stack) :].split(".")[0]) for name in state if name.startswith(stack)}
        return max(numbers, default=-1) + 1

    kernel = shape(f"{encoder}embeddings.patch_embeddings.projection.weight")
    if len(kernel) != 5 or kernel[3] != kernel[4]:
        raise ValueError(f"the patch projection has shape {kernel}, not (width, channels, frames, patch, patch)")
    first = f"{encoder}encoder.layer.0."
    fields = dict(
        hidden_size=kernel[0],
        num_channels=kernel[1],
        tubelet_size=kernel[2],
        patch_size=kernel[3],
        num_hidden_layers=depth(f"{encoder}encoder.layer."),
        intermediate_size=shape(f"{first}intermediate.dense.weight")[0],
        qv_bias=f"{first}attention.attention.query.bias" in state,
    )
    if layout.head == "pretrain":
        fields |= dict(
            decoder_hidden_size=shape("mask_token")[-1],
            decoder_num_hidden_layers=depth("decoder.decoder_layers."),
            decoder_intermediate_size=shape("decoder.decoder_layers.0.intermediate.dense.weight")[0],
        )
    if layout.head in ("classify", "detect"):
        fields["num_labels"] = shape("classifier.weight")[0]
    return fields


def preset_of(fields: Mapping[str, Any]) -> str | None:
    """The released size with these shapes; a width alone does not make one."""
    for name, preset in PRESETS.items():
        if (preset.width, preset.layers, preset.mlp, preset.patch) == (
            fields["hidden_size"],
            fields["num_hidden_layers"],
            fields["intermediate_size"],
            fields["patch_size"],
        ):
            return name
    return None


def architecture(
    state: Mapping[str, Tensor],
    layout: Layout,
    source: Source,
    found: Checkpoint | None,
    overrides: Mapping[str, int | None],
    notes: list[str],
) -> VideoMAEConfig:
    """The configuration: shapes, then what only the zoo entry, the preset or the caller can know."""
    fields = shapes_tell(state, layout)
    preset = preset_of(fields)
    if found is not None and preset != found.preset:
        raise ValueError(
            f"{found.name} is of size {found.preset}, but {source.path} has width {fields['hidden_size']}, "
            f"{fields['num_hidden_layers']} layers and patches of {fields['patch_size']}"
            + (f", which is {preset}" if preset else "")
        )
    if found is not None and found.num_labels and fields.get("num_labels") != found.num_labels:
        raise ValueError(
            f"{found.name} has {found.num_labels} classes, but the head in the file {fields['num_labels']}"
        )

    hub = (source.config or {}).get("model_config", {})
    if hub.get("cos_attn"):
        raise ValueError(f"{source.path} uses cosine attention (cos_attn), which no released VideoMAE does")
    known: dict[str, Any] = {}
    if hub:
        known = dict(image_size=hub["img_size"], num_frames=hub.get("num_frames", hub.get("all_frames", 16)))
        known |= dict(num_attention_heads=hub["num_heads"])
        known |= dict.fromkeys(("layer_norm_eps", "norm_eps"), hub.get("layer_norm_eps", OFFICIAL_NORM_EPS))
    if preset is not None:
        known.setdefault("num_attention_heads", PRESETS[preset].heads)
        if layout.head == "pretrain":
            heads = {width: heads for shape in PRESETS.values() for width, heads, _ in shape.decoder.values()}
            known["decoder_num_attention_heads"] = heads.get(fields["decoder_hidden_size"])
    known |= {key: value for key, value in overrides.items() if value is not None}
    wanted = ["num_attention_heads"] + (["decoder_num_attention_heads"] if layout.head == "pretrain" else [])
    missing = [key for key in wanted if known.get(key) is None]
    if missing:
        raise ValueError(
            f"{source.path} has width {fields['hidden_size']} and {fields['num_hidden_layers']} layers"
            + (f" (decoder: width {fields['decoder_hidden_size']})" if layout.head == "pretrain" else "")
            + ", which is no released size, and the number of attention heads leaves no mark on a file; give "
            + " and ".join(f"--{key}" for key in missing)
        )
    if preset is None and "image_size" not in known:
        notes.append("image_size 224 assumed, as in every release; another one needs --image_size")
    if layout.release in ("action_detection", "mmaction2") and layout.head == "detect":
        fields["detection_family"] = "mmaction2" if layout.release == "mmaction2" else "videomae"
    return VideoMAEConfig.preset(
        preset or "base", head=layout.head, version=_version_of(preset, found), **fields | known
    )


def _version_of(preset: str | None, found: Checkpoint | None) -> int:
    if found is not None:
        return found.version
    return min(PRESETS[preset or "base"].decoder)


def transformers_architecture(
    source: Source, found: Checkpoint | None, overrides: Mapping[str, int | None], notes: list[str]
) -> VideoMAEConfig:
    """The configuration of a transformers folder is its own, but for the head count that an old converter got wrong."""
    config = VideoMAEConfig.from_dict(source.config or {})
    for key, value in overrides.items():
        if value is not None:
            setattr(config, key, value)
    if found is not None and overrides.get("num_attention_heads") is None:
        released = PRESETS[found.preset].heads
        if released != config.num_attention_heads:
            notes.append(
                f"config.json says {config.num_attention_heads} attention heads, {found.name} was trained with {released}; "
                f"{released} it is"
            )
            config.num_attention_heads = released
    if config.hidden_size == 384 and config.num_attention_heads == 16 and overrides.get("num_attention_heads") is None:
        raise ValueError(
            f"{source.path}: width 384 with 16 attention heads was written by a faulty converter; the released small "
            "models have 6, and the shapes fit both. Give --num_attention_heads 6 for those, or 16 if you "
            "trained this model so"
        )
    return config


def model_class(layout: Layout) -> "type[VideoMAEPreTrainedModel]":
    from videomae import modeling_videomae as models

    if layout.head == "detect":
        from videomae.modeling_videomae_detection import VideoMAEForActionDetection

        return VideoMAEForActionDetection
    return {
        "pretrain": models.VideoMAEForPreTraining,
        "classify": models.VideoMAEForVideoClassification,
        "features": models.VideoMAEModel,
        "encode": models.VideoMAEModel,
    }[layout.head]
