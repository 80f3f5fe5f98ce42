"""Released VideoMAE weights to a `from_pretrained` folder, and back, with the proof beside them.

    videomae convert checkpoint.pth FOLDER --name videomae-base-finetuned-kinetics --labels kinetics400
    videomae convert FOLDER checkpoint.pth --to original

The layout of a file is recognised by its keys, one table says where each tensor goes, and shapes give the architecture.
What shapes cannot tell (heads, epsilon, pooling, pixel statistics) comes from zoo.yaml or a preset, never from a guess.
Afterwards the written folder is loaded as a user would and compared with reference_videomae.py run on the source.
Opening files is checkpoint_files.py's work, class names are label_files.py's.
"""

import argparse
import math
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers.utils import logging as transformers_logging

from videomae import reference_videomae as reference
from videomae.checkpoint_files import MAX_GIGABYTES, Source, fetched, open_checkpoint
from videomae.configuration_videomae import OFFICIAL_NORM_EPS, PRESETS, VideoMAEConfig
from videomae.files import new_file, new_folder, sha256_of, write_atomic, write_json
from videomae.label_files import class_names
from videomae.model_cards.zoo import Checkpoint, entry, load_zoo

TOLERANCE = 1e-4  # of the proof, relative to the largest output
SPARE_BYTES = 200_000_000  # left free on the disk after writing

# Official name -> ours. `#` is the number of a block, `*` is weight or bias. A fused qkv becomes query, key and value.
# Rows below the line are what MMAction2 calls the same parts; on the way back the first row for a part counts.
_BLOCK = (
    ("norm1.*", "layernorm_before.*"),
    ("norm2.*", "layernorm_after.*"),
    ("attn.qkv.weight", "attention.attention.qkv.weight"),
    ("attn.q_bias", "attention.attention.query.bias"),
    ("attn.v_bias", "attention.attention.value.bias"),
    ("attn.proj.*", "attention.output.dense.*"),
    ("mlp.fc1.*", "intermediate.dense.*"),
    ("mlp.fc2.*", "output.dense.*"),
)
KEY_TABLE = (
    ("patch_embed.proj.*", "videomae.embeddings.patch_embeddings.projection.*"),
    *((f"blocks.#.{official}", f"videomae.encoder.layer.#.{ours}") for official, ours in _BLOCK),
    ("norm.*", "videomae.layernorm.*"),
    ("fc_norm.*", "fc_norm.*"),
    ("head.*", "classifier.*"),
    ("encoder_to_decoder.weight", "encoder_to_decoder.weight"),
    ("mask_token", "mask_token"),
    *((f"decoder.blocks.#.{official}", f"decoder.decoder_layers.#.{ours}") for official, ours in _BLOCK),
    ("decoder.norm.*", "decoder.norm.*"),
    ("decoder.head.*", "decoder.head.*"),
    # ---
    ("patch_embed.projection.*", "videomae.embeddings.patch_embeddings.projection.*"),
    ("blocks.#.mlp.layers.0.0.*", "videomae.encoder.layer.#.intermediate.dense.*"),
    ("blocks.#.mlp.layers.1.*", "videomae.encoder.layer.#.output.dense.*"),
    ("cls_head.fc_cls.*", "classifier.*"),
    ("roi_head.bbox_head.fc_cls.*", "classifier.*"),
)
# transformers' own files differ from our parameters only in two older names.
TRANSFORMERS_TABLE = (
    (r"(.*attention\.attention)\.q_bias", r"\1.query.bias"),
    (r"(.*attention\.attention)\.v_bias", r"\1.value.bias"),
)
QKV = ("query", "key", "value")
ENCODER_PREFIXES = ("encoder.", "backbone.", "model.")


@dataclass(frozen=True)
class Layout:
    """A kind of released file: which release wrote it (a key of zoo.yaml's releases) and what its model is for."""

    release: str
    head: str
    title: str


LAYOUTS = {
    layout.title: layout
    for layout in (
        Layout("videomae", "pretrain", "VideoMAE or VideoMAE V2, pre-training"),
        Layout("videomae", "classify", "VideoMAE or VideoMAE V2, classifier"),
        Layout("videomae_v2_hub", "features", "VideoMAE V2, feature extractor"),
        Layout("action_detection", "detect", "VideoMAE-Action-Detection, action detector"),
        Layout("mmaction2", "classify", "MMAction2, classifier"),
        Layout("mmaction2", "detect", "MMAction2, action detector"),
        Layout("transformers", "pretrain", "transformers, pre-training"),
        Layout("transformers", "classify", "transformers, classifier"),
        Layout("transformers", "encode", "transformers, encoder"),
    )
}


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
        known = [shape["decoder"] for shape in PRESETS.values() if shape["width"] == config.hidden_size]
        return 2 if known and decoder == known[0].get(2) and decoder != known[0].get(1) else 1


# ---------------------------------------------------------------------------------------------------------------------
# What is it?
# ---------------------------------------------------------------------------------------------------------------------


def recognise(source: Source) -> Layout:
    """The layout of an opened checkpoint, by its keys; a file of another model is an error that shows some of them."""
    keys = {re.sub(r"^module\.", "", key) for key in source.tensors}

    def has(part: str) -> bool:
        return any(key.startswith(part) for key in keys)

    if source.is_transformers:
        kind = "pretrain" if has("decoder.") else "classify" if has("classifier.") else "encode"
        if source.config.get("pooled_features") or "VideoMAEForActionDetection" in source.config.get(
            "architectures", []
        ):
            raise ValueError(f"{source.path} is a folder of this package already; load it with from_pretrained")
        return LAYOUTS[f"transformers, {dict(pretrain='pre-training', classify='classifier', encode='encoder')[kind]}"]
    if has("encoder.blocks.") and has("decoder.blocks."):
        return LAYOUTS["VideoMAE or VideoMAE V2, pre-training"]
    if has("backbone.blocks.") and has("roi_head.bbox_head.fc_cls."):
        return LAYOUTS["MMAction2, action detector"]
    if has("backbone.blocks.") and has("cls_head.fc_cls."):
        return LAYOUTS["MMAction2, classifier"]
    plain = has("blocks.") or has("encoder.blocks.") or has("model.blocks.")
    head = has("head.") or has("model.head.")
    pooled = has("fc_norm.") or has("model.fc_norm.")
    if plain and pooled and not head:
        return LAYOUTS["VideoMAE V2, feature extractor"]
    if plain and pooled:
        return LAYOUTS["VideoMAE or VideoMAE V2, classifier"]
    if plain and head:
        return LAYOUTS["VideoMAE-Action-Detection, action detector"]
    shown = ", ".join(sorted(keys)[:6])
    raise ValueError(
        f"{source.path} is no VideoMAE checkpoint that this converter knows: {len(keys)} tensors such as {shown}. Known "
        f"are {'; '.join(LAYOUTS)}"
    )


def _expression(template: str) -> re.Pattern:
    return re.compile(re.escape(template).replace(r"\#", r"(\d+)").replace(r"\*", r"(weight|bias)"))


def _fill(template: str, groups: Sequence[str]) -> str:
    for group in groups:
        template = re.sub(r"[#*]", group, template, count=1)
    return template


TO_OURS = tuple((_expression(official), ours) for official, ours in KEY_TABLE)
TO_OFFICIAL = tuple((_expression(ours), official) for official, ours in KEY_TABLE)


def rename(key: str, rows: Sequence[tuple[re.Pattern, str]]) -> str | None:
    """What the first row that matches makes of a key."""
    for pattern, template in rows:
        if match := pattern.fullmatch(key):
            return _fill(template, match.groups())
    return None


def our_state(source: Source, layout: Layout) -> dict[str, Tensor]:
    """The tensors of a source under our parameters' names; keys that match no row are an error that lists them."""
    state, homeless = {}, []
    for key, tensor in source.tensors.items():
        bare = re.sub(r"^module\.", "", key)
        if layout.release == "transformers":
            ours = bare
            for pattern, replacement in TRANSFORMERS_TABLE:
                ours = re.sub(pattern, replacement, ours)
            parts = {ours: tensor}
        else:
            for prefix in ENCODER_PREFIXES:
                bare = bare.removeprefix(prefix)
            ours = rename(bare, TO_OURS)
            if ours is None and bare == "pos_embed" and _is_fixed_table(tensor):
                continue  # some tools write the table of positions, which is no parameter
            if ours is None:
                homeless.append(key)
                continue
            parts = {ours: tensor}
            if ours.endswith(".qkv.weight"):
                parts = dict(zip((ours.replace("qkv", part) for part in QKV), thirds(tensor)))
        for name, part in parts.items():
            if name in state:
                raise ValueError(f"{source.path} has {name} twice, the second time as {key}; it mixes two models")
            state[name] = part
    if homeless:
        raise ValueError(
            f"{len(homeless)} of the {len(source.tensors)} tensors in {source.path} have no place in a {layout.title}: "
            f"{_listed(homeless)}"
        )
    if (layout.release, layout.head) == (
        "mmaction2",
        "detect",
    ):  # class 0 is background and has no score of its own here
        state |= {name: state[name][1:] for name in ("classifier.weight", "classifier.bias")}
    if layout.head == "features":
        state = {name.removeprefix("videomae."): tensor for name, tensor in state.items()}
    return state


def thirds(fused: Tensor) -> list[Tensor]:
    """Query, key and value of a fused (3D, D) matrix: views, each with a storage of its own.

    Of tensors that share a storage, `save_pretrained` makes copies first, a third of the model's size.
    """
    fused = fused.contiguous()
    rows, start = len(fused) // 3, fused.storage_offset() * fused.element_size()
    step = rows * fused.shape[1] * fused.element_size()
    parts = []
    for number in range(3):
        own = fused.untyped_storage()[start + number * step : start + (number + 1) * step]
        parts.append(torch.empty(0, dtype=fused.dtype).set_(own, 0, (rows, fused.shape[1]), (fused.shape[1], 1)))
    return parts


def _is_fixed_table(tensor: Tensor) -> bool:
    if tensor.dim() != 3 or len(tensor) != 1:
        return False
    return torch.allclose(tensor[0].float(), reference.position_table(*tensor.shape[1:]), atol=1e-3)


def _listed(names: Sequence[str], most: int = 8) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(sorted(names)[:most]) + more


# ---------------------------------------------------------------------------------------------------------------------
# Which architecture?
# ---------------------------------------------------------------------------------------------------------------------


def shapes_tell(state: Mapping[str, Tensor], layout: Layout) -> dict[str, Any]:
    """The config fields that shapes give."""
    encoder = "" if layout.head == "features" else "videomae."

    def shape(name: str) -> torch.Size:
        if name not in state:
            raise ValueError(f"a {layout.title} needs {name}, which is missing; the file is incomplete")
        return state[name].shape

    def depth(stack: str) -> int:
        numbers = {int(name[len(stack) :].split(".")[0]) for name in state if name.startswith(stack)}
        return max(numbers, default=-1) + 1

    kernel = shape(f"{encoder}embeddings.patch_embeddings.projection.weight")
    if len(kernel) != 5 or kernel[3] != kernel[4]:
        raise ValueError(f"the patch projection has shape {tuple(kernel)}, not (width, channels, frames, patch, patch)")
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
        if (preset["width"], preset["layers"], preset["mlp"], preset["patch"]) == (
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
        known.setdefault("num_attention_heads", PRESETS[preset]["heads"])
        if layout.head == "pretrain":
            heads = {width: heads for shape in PRESETS.values() for width, heads, _ in shape["decoder"].values()}
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
    return min(PRESETS[preset or "base"]["decoder"])


def transformers_architecture(
    source: Source, found: Checkpoint | None, overrides: Mapping[str, int | None], notes: list[str]
) -> VideoMAEConfig:
    """The configuration of a transformers folder is its own, but for the head count that an old converter got wrong."""
    config = VideoMAEConfig.from_dict(source.config)
    for key, value in overrides.items():
        if value is not None:
            setattr(config, key, value)
    released = PRESETS[found.preset]["heads"] if found is not None else None
    if overrides.get("num_attention_heads") is None and released not in (None, config.num_attention_heads):
        notes.append(
            f"config.json says {config.num_attention_heads} attention heads, {found.name} was trained with {released}; "
            f"{released} it is"
        )
        config.num_attention_heads = released
    if config.hidden_size == 384 and config.num_attention_heads == 16 and overrides.get("num_attention_heads") is None:
        raise ValueError(
            f"{source.path}: width 384 with 16 attention heads is what a faulty converter once wrote; the released small "
            "models have 6, and every shape fits either way. Give --num_attention_heads 6 for those, or 16 if you "
            "trained this model so"
        )
    return config


# ---------------------------------------------------------------------------------------------------------------------
# Convert
# ---------------------------------------------------------------------------------------------------------------------


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
    elif layout.head in ("classify", "detect") and all(re.fullmatch(r"LABEL_\d+", x) for x in config.id2label.values()):
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


def model_class(layout: Layout) -> type:
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


def build(planned: Plan) -> torch.nn.Module:
    """The model with every parameter filled from the source, in float32, and nothing left over on either side."""
    with torch.device("meta"):
        model = model_class(planned.layout)(planned.config)
    wanted = model.state_dict()
    missing, spare = sorted(wanted.keys() - planned.state.keys()), sorted(planned.state.keys() - wanted.keys())
    misfits = [
        f"{name} {tuple(planned.state[name].shape)} where {tuple(wanted[name].shape)} fits"
        for name in sorted(wanted.keys() & planned.state.keys())
        if planned.state[name].shape != wanted[name].shape
    ]
    for names, what in ((missing, "are missing"), (spare, "have no place"), (misfits, "have the wrong shape")):
        if names:
            raise ValueError(
                f"{planned.source.path} was recognised as {planned.layout.title}, but {len(names)} of its parameters "
                f"{what}: {_listed(names)}"
            )
    model.load_state_dict(_float_weights(planned), strict=True, assign=True)
    return model.eval()


def _float_weights(planned: Plan) -> dict[str, Tensor]:
    """The weights in float32, which is what the releases compute in, each looked at once."""
    total = sum(tensor.numel() * tensor.element_size() for tensor in planned.state.values())
    weights, bad = {}, []
    # disable=None hides the bar where nobody sees it, as in a log file.
    with tqdm(total=total, unit="B", unit_scale=True, desc="reading", disable=None, leave=False) as bar:
        for name, tensor in planned.state.items():
            if not tensor.is_floating_point():
                raise ValueError(f"{planned.source.path}: {name} is {tensor.dtype}, not a floating-point weight")
            if not torch.isfinite(tensor).all():
                bad.append(name)
            weights[name] = tensor.float()  # the tensor itself where it is float32 already
            bar.update(tensor.numel() * tensor.element_size())
    if bad:
        raise ValueError(f"{planned.source.path} has weights that are not finite in {_listed(bad)}; it is damaged")
    return weights


def convert(
    checkpoint: str | Path,
    *,
    name: str | None = None,
    image_size: int | None = None,
    num_frames: int | None = None,
    num_attention_heads: int | None = None,
    decoder_num_attention_heads: int | None = None,
    labels: str | Path | Sequence[str] | Mapping[int, str] | None = None,
) -> torch.nn.Module:
    """The model of a released checkpoint (a file, a folder or a Hub name), ready for `save_pretrained`.

    `name` is an entry of zoo.yaml or its Hub name. The head counts are needed for sizes that were never released.
    """
    return build(
        plan(
            checkpoint,
            name=name,
            image_size=image_size,
            num_frames=num_frames,
            num_attention_heads=num_attention_heads,
            decoder_num_attention_heads=decoder_num_attention_heads,
            labels=labels,
        )
    )


def convert_to_folder(
    planned: Plan, folder: str | Path, *, verify: bool = True, overwrite: bool = False
) -> dict[str, Any]:
    """Write model, processor, conversion.json and the card, all or nothing; returns the content of conversion.json."""
    folder = Path(folder)
    check_output(folder, overwrite=overwrite)
    weights = sum(tensor.numel() * 4 for tensor in planned.state.values())
    parent = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.is_dir())
    free = shutil.disk_usage(parent).free
    if free < weights + SPARE_BYTES:
        raise OSError(
            f"{parent} has {free / 1e9:.2f} GB free, the model needs {weights / 1e9:.2f} GB and some to spare"
        )
    with new_folder(folder, replace=overwrite) as beside:
        model = build(planned)
        model.save_pretrained(beside, max_shard_size="100GB")
        record = describe(planned, model)
        del model
        planned.state.clear()  # the source is opened again for the proof; one mapping of it is enough
        planned.source.tensors.clear()
        save_processors(planned, beside)
        if verify:
            record |= prove(planned, beside)
        write_json(beside / "conversion.json", record)
        save_card(planned, beside, record)
    return record


def check_output(folder: Path, *, overwrite: bool) -> None:
    """Refuse what is in the way before any work is done."""
    if folder.is_file():
        raise FileExistsError(f"{folder} is a file; name a folder for the model")
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    if not overwrite:
        raise FileExistsError(f"{folder} exists and is not empty; choose another folder or add --overwrite")
    if not (folder / "config.json").is_file():  # a slip of the keyboard must not replace somebody's home
        raise FileExistsError(f"{folder} is not a model folder (no config.json), so it is not overwritten")


def describe(planned: Plan, model: torch.nn.Module) -> dict[str, Any]:
    """What conversion.json says of the source and of what became of it."""
    config, source = planned.config, planned.source
    record = {
        "source_file": source.file.name,
        "source_bytes": source.file.stat().st_size,
        "source_sha256": sha256_of(source.file),
        "weights_under": source.wrapper,
        "family": planned.entry.release if planned.entry else planned.layout.release,
        "layout": planned.layout.title,
        "name": planned.entry.name if planned.entry else None,
        "architecture": type(model).__name__,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "num_attention_heads": config.num_attention_heads,
        "layer_norm_eps": config.layer_norm_eps,
        "norm_eps": config.norm_eps,
        "notes": planned.notes,
        "largest_difference": None,  # prove() fills it in
        "versions": {package: version(package) for package in ("videomae", "torch", "transformers")},
    }
    if planned.layout.head == "pretrain":
        record["decoder_num_attention_heads"] = config.decoder_num_attention_heads
    return record


def processor_settings(planned: Plan) -> dict[str, Any]:
    """How this checkpoint was shown its pixels and frames: fields of a VideoMAEVideoProcessor."""
    config, found, head = planned.config, planned.entry, planned.layout.head
    mean, std = config.pixel_statistics
    views = found.results[0].views if found is not None and found.results else None
    if head == "detect":  # whole frames, which the model pads or trims to patches
        spatial: dict[str, Any] = {"size": {"shortest_edge": config.detection_short_side}, "do_center_crop": False}
        views = (config.num_frames, 1, 1)
    else:
        height, width = config.image_hw
        spatial = {"size": {"shortest_edge": min(height, width)}, "crop_size": {"height": height, "width": width}}
    sampling = dict(found.sampling) if found is not None and found.sampling else {}
    if views is not None:
        sampling |= {"clips": views[1], "crops": views[2]}
    return {
        **spatial,
        # The tests of the releases resize with OpenCV, which does not filter; pre-training and the Hub's extractors do.
        "antialias": head in ("pretrain", "features"),
        "image_mean": mean,
        "image_std": std,
        "sampling": sampling | {"num_frames": config.num_frames},
    }


def save_processors(planned: Plan, folder: Path) -> None:
    """The processor for frames and files, in the files of both names that transformers' pipelines look for."""
    from videomae.image_processing_videomae import SETTINGS, VideoMAEImageProcessor
    from videomae.video_processing_videomae import VideoMAEVideoProcessor

    settings, beside = processor_settings(planned), planned.source.file.parent
    if planned.source.config is not None and (beside / "video_preprocessor_config.json").is_file():
        VideoMAEVideoProcessor.from_pretrained(beside).save_pretrained(folder)
        return
    if planned.source.config is not None and (beside / "preprocessor_config.json").is_file():
        saved = VideoMAEImageProcessor.from_pretrained(beside)  # what a folder says of itself goes before our defaults
        settings |= {name: getattr(saved, name) for name in SETTINGS}
    VideoMAEVideoProcessor(**settings).save_pretrained(folder)


def save_card(planned: Plan, folder: Path, record: Mapping[str, Any]) -> None:
    """The card of a checkpoint that the zoo knows; of others there is nothing to say."""
    if planned.entry is not None:
        from videomae.model_cards.build import zoo_card

        write_atomic(folder / "README.md", zoo_card(planned.entry, conversion=record))


# ---------------------------------------------------------------------------------------------------------------------
# Prove
# ---------------------------------------------------------------------------------------------------------------------


def proof_inputs(config: VideoMAEConfig, head: str, version: int = 1) -> dict[str, Any]:
    """A fixed clip for a model of this configuration, with masks or boxes where its forward needs them."""
    height, width = config.image_hw
    if head == "detect":
        width += 4 * config.patch_hw[1]  # not square, so that the interpolated positions are part of the proof
    inputs: dict[str, Any] = {
        "pixel_values": reference.fixed_clip(config.num_frames, config.num_channels, height, width)
    }
    if head == "pretrain":
        inputs["bool_masked_pos"] = reference.fixed_mask(config.grid)
        if version == 2:  # half of the tokens, in a pattern that meets hidden and visible ones
            inputs["bool_decoded_pos"] = (torch.arange(config.num_patches) % 4 < 2)[None]
    if head == "detect":
        inputs["boxes"] = [reference.fixed_boxes(height, width)]
    return inputs


@torch.no_grad()
def proof_outputs(model: torch.nn.Module, head: str, version: int = 1) -> dict[str, Tensor]:
    """What a model (of ours, or transformers' own) says of the fixed clip."""
    config = (
        model.config if isinstance(model.config, VideoMAEConfig) else VideoMAEConfig.from_dict(model.config.to_dict())
    )
    outputs = model.eval()(**proof_inputs(config, head, version))
    names = {"pretrain": ("logits", "loss"), "features": ("pooler_output",), "encode": ("last_hidden_state",)}
    return {name: outputs[name].float() for name in names.get(head, ("logits",))}


def reference_outputs(planned: Plan) -> dict[str, Tensor]:
    """The same from the source: the plain official forward, or transformers' own class for its own folders."""
    config, head = planned.config, planned.layout.head
    if planned.layout.release == "transformers":
        return _transformers_outputs(planned)
    tensors = open_checkpoint(planned.source.path, max_gigabytes=math.inf).tensors
    inputs = proof_inputs(config, head, planned.version)
    hub = (planned.source.config or {}).get("model_config", {})
    common = dict(heads=config.num_attention_heads, eps=hub.get("layer_norm_eps", reference.EPS))
    if head == "pretrain":
        return reference.pretrain(tensors, **inputs, **common, decoder_heads=config.decoder_num_attention_heads)
    if head == "detect":
        family = config.detection_family
        outputs = reference.detect(tensors, **inputs, **common, family=family, table_grid=config.grid[1:])
        return {"logits": outputs["logits"][:, 1:] if family == "mmaction2" else outputs["logits"]}
    outputs = reference.classify(tensors, **inputs, **common)
    return {"pooler_output": outputs["pooled_features"]} if head == "features" else {"logits": outputs["logits"]}


def _transformers_outputs(planned: Plan) -> dict[str, Tensor]:
    import transformers

    stock = getattr(transformers, model_class(planned.layout).__name__)
    config = stock.config_class.from_dict(source_config(planned))
    model, info = stock.from_pretrained(
        planned.source.file.parent, config=config, output_loading_info=True, dtype=torch.float32
    )
    if info["missing_keys"] or info["unexpected_keys"]:
        lost = _listed([*info["missing_keys"], *info["unexpected_keys"]])
        raise ValueError(f"transformers {transformers.__version__} does not load {planned.source.path} whole: {lost}")
    return proof_outputs(model, planned.layout.head)


def source_config(planned: Plan) -> dict[str, Any]:
    """A transformers folder's own configuration, with the head counts that were settled on."""
    config = planned.config
    heads = dict(
        num_attention_heads=config.num_attention_heads, decoder_num_attention_heads=config.decoder_num_attention_heads
    )
    return {**planned.source.config, **heads, "num_frames": config.num_frames, "image_size": config.image_size}


def prove(planned: Plan, folder: Path) -> dict[str, Any]:
    """Load the written folder as a user would and compare it with the source on a fixed clip."""
    head = planned.layout.head
    model, info = model_class(planned.layout).from_pretrained(folder, output_loading_info=True)
    if info["missing_keys"] or info["unexpected_keys"]:
        raise ValueError(f"{folder} does not load whole: {_listed([*info['missing_keys'], *info['unexpected_keys']])}")
    ours = proof_outputs(model, head, planned.version)
    del model
    theirs = reference_outputs(planned)
    absolute = max(float((ours[name] - theirs[name]).abs().max()) for name in ours)
    relative = max(float((ours[name] - theirs[name]).abs().max() / theirs[name].abs().max()) for name in ours)
    if not relative <= TOLERANCE:  # not <=: a NaN must not pass
        raise ValueError(
            f"the converted model does not compute what {planned.source.path} does: {', '.join(ours)} differ by "
            f"{relative:.1e} of the largest value, the limit is {TOLERANCE:.0e}. Nothing was written; if the number of "
            "heads was given by hand, it may be wrong"
        )
    stock = planned.layout.release == "transformers"
    name = next(iter(ours))
    return {
        "reference": "transformers' own class" if stock else "reference_videomae.py",
        "compared": list(ours),
        "inputs": "proof_inputs of convert_original_checkpoint.py, which has no randomness",
        "largest_difference": absolute,
        "largest_relative_difference": relative,
        "tolerance": TOLERANCE,
        "expected": {name: [round(value, 6) for value in theirs[name].flatten()[:8].tolist()]},
    }


# ---------------------------------------------------------------------------------------------------------------------
# And back
# ---------------------------------------------------------------------------------------------------------------------


def official_state(folder: str | Path) -> dict[str, Tensor]:
    """The weights of one of our folders (or transformers') under the official names of V1 and V2."""
    source = open_checkpoint(folder, max_gigabytes=math.inf)
    if not source.is_transformers:
        raise ValueError(f"{folder} is not a VideoMAE folder with a config.json; --to original starts from one")
    if source.config.get("detection_family") == "mmaction2" and "VideoMAEForActionDetection" in source.config.get(
        "architectures", []
    ):
        raise ValueError(f"{folder} came from MMAction2, whose background class was dropped; there is no way back")
    ours = our_state(source, LAYOUTS["transformers, encoder"])
    pretraining = "mask_token" in ours
    state: dict[str, Tensor] = {}
    for name, tensor in ours.items():
        if name.startswith(("embeddings.", "encoder.layer.", "layernorm.")):
            name = f"videomae.{name}"  # a bare encoder
        part = next((part for part in QKV if name.endswith(f".attention.{part}.weight")), None)
        if part in ("key", "value"):
            continue  # they go with the query
        if part == "query":
            tensor = torch.cat([ours[_sibling(name, other, ours)] for other in QKV])
            name = name.replace("query", "qkv")
        official = rename(name, TO_OFFICIAL)
        if official is None:
            raise ValueError(f"{folder}: {name} has no official name")
        encoder = name.startswith("videomae.")
        state[f"encoder.{official}" if pretraining and encoder else official] = tensor
    return dict(sorted(state.items(), key=lambda item: _official_order(item[0])))


def _sibling(query: str, part: str, state: Mapping[str, Tensor]) -> str:
    name = query.replace("query", part)
    return name if name in state else name.removeprefix("videomae.")


def _official_order(name: str) -> tuple:
    """Parts in the order of the forward pass, blocks by number."""
    stacks = ("mask_token", "encoder.", "patch_embed.", "blocks.", "decoder.blocks", "decoder.", "encoder_to_decoder")
    rank = next((i for i, stack in enumerate(stacks) if name.startswith(stack)), len(stacks))
    return rank, [int(part) if part.isdigit() else -1 for part in name.split(".")], name


def convert_to_original(folder: str | Path, output: str | Path, *, overwrite: bool = False) -> int:
    """Write an official-layout `.pth` that the V1 and V2 code loads; returns the number of tensors."""
    output = Path(output)
    if output.is_dir():
        raise ValueError(f"{output} is a folder; --to original writes one file, such as {output / 'checkpoint.pth'}")
    if output.exists() and not overwrite:
        raise FileExistsError(f"{output} exists; choose another name or add --overwrite")
    state = official_state(folder)
    with new_file(output) as beside:
        torch.save({"model": state}, beside)
    return len(state)


# ---------------------------------------------------------------------------------------------------------------------
# Command line
# ---------------------------------------------------------------------------------------------------------------------


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="videomae convert", description=__doc__.split("\n\n")[0], formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("checkpoint", help="a .pth or .safetensors file, a model folder, or OWNER/NAME on the Hub")
    parser.add_argument("output", help="the folder to write (with --to original: the .pth file)")
    parser.add_argument("--name", help="which released checkpoint it is: a name of zoo.yaml or on the Hub")
    parser.add_argument(
        "--labels", help="class names: a known set (kinetics400, ava, ...) or a txt, json, csv, pbtxt file"
    )
    parser.add_argument("--image_size", type=int, help="height and width in pixels, where it is not 224")
    parser.add_argument("--num_frames", type=int, help="frames of a clip, where it is not 16")
    parser.add_argument("--num_attention_heads", type=int, help="needed for sizes that were never released")
    parser.add_argument("--decoder_num_attention_heads", type=int, help="the same for a pre-training file's decoder")
    parser.add_argument("--to", choices=("videomae", "original"), default="videomae", help="which way to convert")
    parser.add_argument("--no_verify", action="store_true", help="skip the comparison with the official forward")
    parser.add_argument("--overwrite", action="store_true", help="replace a model folder (or file) that is in the way")
    parser.add_argument("--dry_run", action="store_true", help="say what would be made, and write nothing")
    parser.add_argument("--push_to_hub", metavar="NAME", help="upload the folder with its card as owner/name")
    parser.add_argument("--max_gigabytes", type=float, default=MAX_GIGABYTES, help="refuse larger files (%(default)s)")
    return parser


def summary(planned: Plan) -> str:
    config, source = planned.config, planned.source
    under = f"under {source.wrapper!r}" if source.wrapper else "at the top of the file"
    size = preset_of(config.to_dict()) or "no released size"
    lines = [
        f"{source.file}: {planned.layout.title}; {len(source.tensors)} tensors {under}",
        f"{config.architectures[0]}, {size}: width {config.hidden_size}, {config.num_hidden_layers} layers, "
        f"{config.num_attention_heads} heads, patch {config.patch_size}, {config.num_frames} frames of {config.image_size}",
    ]
    if planned.entry:
        lines.insert(1, f"released as {planned.entry.name}, licence of the weights {planned.entry.license}")
    return "\n".join(lines + [f"note: {note}" for note in planned.notes])


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    output = Path(args.output)
    if args.push_to_hub and (args.to == "original" or args.push_to_hub.count("/") != 1):
        raise ValueError("--push_to_hub takes OWNER/NAME and goes with a model folder, not with --to original")
    if args.to == "original":
        if args.dry_run:
            print(f"{output}: {len(official_state(args.checkpoint))} tensors under 'model', official names")
            return 0
        count = convert_to_original(args.checkpoint, output, overwrite=args.overwrite)
        print(f"wrote {output}: {count} tensors under 'model', official names")
        return 0
    planned = plan(
        args.checkpoint,
        name=args.name,
        image_size=args.image_size,
        num_frames=args.num_frames,
        num_attention_heads=args.num_attention_heads,
        decoder_num_attention_heads=args.decoder_num_attention_heads,
        labels=args.labels,
        max_gigabytes=args.max_gigabytes,
    )
    check_output(output, overwrite=args.overwrite)
    print(summary(planned))
    if not sys.stderr.isatty():  # transformers' bars would fill a log file
        transformers_logging.disable_progress_bar()
    if args.dry_run:
        build(planned)
        card = ", README.md" if planned.entry else ""
        print(f"would write {output}: config.json, model.safetensors, the processor's files, conversion.json{card}")
        return 0
    record = convert_to_folder(planned, output, verify=not args.no_verify, overwrite=args.overwrite)
    if args.no_verify:
        print("proof: skipped (--no_verify)")
    else:
        difference = record["largest_relative_difference"]
        print(
            f"proof: {', '.join(record['compared'])} agree with the source within {difference:.1e} of the largest value"
        )
    print(f"wrote {output}: {', '.join(sorted(path.name for path in output.iterdir()))}")
    if args.push_to_hub:
        from videomae.commands.publish import publish

        print(f"published: {publish(output, args.push_to_hub)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
