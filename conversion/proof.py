"""The proof of a conversion: the written folder, loaded as a user would, against the source on a fixed clip."""

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from videomae.configuration_videomae import VideoMAEConfig
from videomae.conversion import reference
from videomae.conversion.plan import Plan, model_class
from videomae.conversion.weight_files import open_checkpoint
from videomae.data.lists.manifests import some_of
from videomae.models import load_with_report

TOLERANCE = 1e-4  # relative to the largest output


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
def proof_outputs(model: PreTrainedModel, head: str, version: int = 1) -> dict[str, Tensor]:
    """What a model (of ours, or transformers' own) computes for the fixed clip."""
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
    common: dict[str, Any] = dict(heads=config.num_attention_heads, eps=hub.get("layer_norm_eps", reference.EPS))
    if head == "pretrain":
        return reference.pretrain(tensors, **inputs, **common, decoder_heads=config.decoder_num_attention_heads)
    if head == "detect":
        family = config.detection_family
        logits = reference.detect(tensors, **inputs, **common, family=family, table_grid=config.grid[1:])["logits"]
        return {"logits": logits[:, 1:] if family == "mmaction2" else logits}
    outputs = reference.classify(tensors, **inputs, **common)
    return {"pooler_output": outputs["pooled_features"]} if head == "features" else {"logits": outputs["logits"]}


def _transformers_outputs(planned: Plan) -> dict[str, Tensor]:
    import transformers

    stock = getattr(transformers, model_class(planned.layout).__name__)
    config = stock.config_class.from_dict(source_config(planned))
    # The opened tensors, not the folder: a compiled model's names are not stock's.
    tensors = open_checkpoint(planned.source.path, max_gigabytes=math.inf).tensors
    model, info = stock.from_pretrained(
        None, config=config, state_dict=tensors, output_loading_info=True, dtype=torch.float32
    )
    if info["missing_keys"] or info["unexpected_keys"]:
        lost = some_of(sorted([*info["missing_keys"], *info["unexpected_keys"]]))
        raise ValueError(f"transformers {transformers.__version__} does not load all of {planned.source.path}: {lost}")
    return proof_outputs(model, planned.layout.head)


def source_config(planned: Plan) -> dict[str, Any]:
    """A transformers folder's own configuration, with the numbers of heads of the plan."""
    config = planned.config
    heads = dict(
        num_attention_heads=config.num_attention_heads, decoder_num_attention_heads=config.decoder_num_attention_heads
    )
    return {**(planned.source.config or {}), **heads, "num_frames": config.num_frames, "image_size": config.image_size}


def prove(planned: Plan, folder: Path) -> dict[str, Any]:
    """Load the written folder as a user would and compare it with the source on a fixed clip."""
    head = planned.layout.head
    model, info = load_with_report(model_class(planned.layout), folder)
    if info["missing_keys"] or info["unexpected_keys"]:
        lost = some_of(sorted([*info["missing_keys"], *info["unexpected_keys"]]))
        raise ValueError(f"{folder} has missing or unexpected weights: {lost}")
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
        "reference": "transformers' own class" if stock else "conversion/reference.py",
        "compared": list(ours),
        "inputs": "proof_inputs of conversion/proof.py, which has no randomness",
        "largest_difference": absolute,
        "largest_relative_difference": relative,
        "tolerance": TOLERANCE,
        "expected": {name: [round(value, 6) for value in theirs[name].flatten()[:8].tolist()]},
    }
