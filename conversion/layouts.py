"""The layouts of released files: what tells them apart, and where each of their tensors goes, there and back.

Names and tensors only; plan.py makes an architecture of them.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from videomae.conversion import reference as reference
from videomae.conversion.weight_files import Source, open_checkpoint

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


def recognise(source: Source) -> Layout:
    """The layout of an opened checkpoint, by its keys; a file of another model is an error that shows some of them."""
    keys = {bare_name(key) for key in source.tensors}

    def has(part: str) -> bool:
        return any(key.startswith(part) for key in keys)

    config = source.transformers_config
    if config is not None:
        if config.get("pooled_features") or is_detector(config):
            raise ValueError(f"{source.path} is a folder of this package already; load it with from_pretrained")
        kind = "pre-training" if has("decoder.") else "classifier" if has("classifier.") else "encoder"
        return LAYOUTS[f"transformers, {kind}"]
    if has("blocks.") and has("decoder.blocks."):
        return LAYOUTS["VideoMAE or VideoMAE V2, pre-training"]
    if has("blocks.") and has("roi_head.bbox_head.fc_cls."):
        return LAYOUTS["MMAction2, action detector"]
    if has("blocks.") and has("cls_head.fc_cls."):
        return LAYOUTS["MMAction2, classifier"]
    if has("blocks.") and has("fc_norm."):
        return LAYOUTS["VideoMAE or VideoMAE V2, classifier" if has("head.") else "VideoMAE V2, feature extractor"]
    if has("blocks.") and has("head."):
        return LAYOUTS["VideoMAE-Action-Detection, action detector"]
    shown = ", ".join(sorted(source.tensors)[:6])
    raise ValueError(
        f"{source.path} is not a VideoMAE checkpoint that this converter supports: {len(keys)} tensors such as {shown}. Known "
        f"are {'; '.join(LAYOUTS)}"
    )


def bare_name(key: str) -> str:
    """A key without what the releases put in front of the encoder's parts (weight_files.py took off what wrappers add)."""
    for prefix in ENCODER_PREFIXES:
        key = key.removeprefix(prefix)
    return key


def is_detector(config: Mapping[str, Any]) -> bool:
    return "VideoMAEForActionDetection" in (config.get("architectures") or [])


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
    state, without_place = {}, []
    for key, tensor in source.tensors.items():
        if layout.release == "transformers":
            ours = key
            for pattern, replacement in TRANSFORMERS_TABLE:
                ours = re.sub(pattern, replacement, ours)
            parts = {ours: tensor}
        else:
            bare = bare_name(key)
            ours = rename(bare, TO_OURS)
            if ours is None and bare == "pos_embed" and _is_fixed_table(tensor):
                continue  # some tools write the table of positions, which is no parameter
            if ours is None:
                without_place.append(key)
                continue
            parts = {ours: tensor}
            if ours.endswith(".qkv.weight"):
                parts = dict(zip((ours.replace("qkv", part) for part in QKV), thirds(tensor)))
        for name, part in parts.items():
            if name in state:
                raise ValueError(f"{source.path} has {name} twice, the second time as {key}; it mixes two models")
            state[name] = part
    if without_place:
        raise ValueError(
            f"{len(without_place)} of the {len(source.tensors)} tensors in {source.path} have no place in a {layout.title}: "
            f"{listed(without_place)}"
        )
    if layout.release == "mmaction2" and layout.head == "detect":
        # Class 0 is background, which has no score of its own here.
        state |= {name: state[name][1:] for name in ("classifier.weight", "classifier.bias") if name in state}
    if layout.head == "features":
        state = {name.removeprefix("videomae."): tensor for name, tensor in state.items()}
    return state


def thirds(fused: Tensor) -> list[Tensor]:
    """Query, key and value of a fused (3D, D) matrix: views, each with a storage of its own.

    Of tensors that share a storage, `save_pretrained` makes copies first, a third of the model's size.
    """
    if fused.dim() != 2 or len(fused) % 3:
        raise ValueError(f"a fused qkv weight has shape {tuple(fused.shape)}, not (3 * width, width)")
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


def listed(names: Sequence[str], most: int = 8) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(sorted(names)[:most]) + more


def official_state(folder: str | Path) -> dict[str, Tensor]:
    """The weights of one of our folders (or transformers') under the official names of V1 and V2."""
    source = open_checkpoint(folder, max_gigabytes=math.inf)
    config = source.transformers_config
    if config is None:
        raise ValueError(f"{folder} is not a VideoMAE folder with a config.json; --to original starts from one")
    if is_detector(config) and config.get("detection_family") == "mmaction2":
        raise ValueError(
            f"{folder} came from MMAction2, whose background class was dropped; it cannot be written as an MMAction2 file"
        )
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
