"""Presets against the official constructors: shapes, head counts and first weights, by tests/golden/official_tables.py."""

import json
import re
from functools import cache

import pytest
import torch
from support import GOLDEN

from videomae import (
    VideoMAEConfig,
    VideoMAEForActionDetection,
    VideoMAEForPreTraining,
    VideoMAEForVideoClassification,
)
from videomae.training.recipes import DETECTION

TABLE = json.loads((GOLDEN / "official_shapes.json").read_text("utf-8"))["models"]
HEADS = {
    "pretrain": ("pretrain", VideoMAEForPreTraining),
    "finetune": ("classify", VideoMAEForVideoClassification),
    "detect": ("detect", VideoMAEForActionDetection),
}
# Our name -> the official one of the same parameter, restated here so that the converter's table has a witness.
NAMES = (
    (r"^videomae\.embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^videomae\.encoder\.layer\.\d+\.", "blocks.#."),
    (r"^decoder\.decoder_layers\.\d+\.", "decoder.blocks.#."),
    (r"^videomae\.layernorm\.", "norm."),
    (r"^classifier\.", "head."),
    (r"layernorm_before\.", "norm1."),
    (r"layernorm_after\.", "norm2."),
    (r"attention\.attention\.(query|key|value)\.weight", "attn.qkv.weight"),
    (r"attention\.attention\.(query|value)\.bias", lambda match: f"attn.{match[1][0]}_bias"),
    (r"attention\.output\.dense\.", "attn.proj."),
    (r"intermediate\.dense\.", "mlp.fc1."),
    (r"output\.dense\.", "mlp.fc2."),
)


def preset_of(name: str) -> VideoMAEConfig:
    tree, head, size = name.split()
    fields = {"finetune": {"num_labels": 400}, "detect": {"num_labels": 80}}.get(head, {})
    if head == "detect":
        fields["init_scale"] = DETECTION[f"ad-{size}-k400"].init_scale  # a flag there
    return VideoMAEConfig.preset(size, head=HEADS[head][0], version=2 if tree == "VideoMAEv2" else 1, **fields)


def official_kinds(model: torch.nn.Module) -> dict[str, list[torch.Tensor]]:
    """Our parameters by the official kind of parameter; a fused qkv is its three parts, in that order."""
    encoder = "encoder." if isinstance(model, VideoMAEForPreTraining) else ""
    kinds: dict[str, list[torch.Tensor]] = {}
    for name, parameter in model.named_parameters():
        official = name
        for pattern, replacement in NAMES:
            official = re.sub(pattern, replacement, official)
        if name.startswith("videomae."):
            official = encoder + official
        kinds.setdefault(official, []).append(parameter.detach())
    return kinds


@cache
def shapes(name: str) -> dict[str, list[int]]:
    """[how many, *shape] of each kind of parameter of our preset."""
    head = name.split()[1]
    with torch.device("meta"):
        kinds = official_kinds(HEADS[head][1](preset_of(name)))
    found = {}
    for kind, parameters in kinds.items():
        fused = 3 if kind.endswith("qkv.weight") else 1
        rows, *rest = parameters[0].shape
        assert all(parameter.shape == parameters[0].shape for parameter in parameters)
        found[kind] = [len(parameters) // fused, rows * fused, *rest]
    return found


def statistics(name: str) -> dict[str, tuple[float, float, int]]:
    """(mean, deviation, number of values) of each kind of fresh parameter of our preset."""
    return fresh_statistics(name.split()[1], preset_of(name).to_json_string())


@cache  # some presets of V1 and V2 are the same
def fresh_statistics(head: str, config: str) -> dict[str, tuple[float, float, int]]:
    torch.manual_seed(1)
    kinds = official_kinds(HEADS[head][1](VideoMAEConfig(**json.loads(config))))
    found = {}
    for kind, parameters in kinds.items():
        values = torch.cat([parameter.flatten() for parameter in parameters])
        found[kind] = (values.mean().item(), values.std(correction=0).item(), values.numel())
    return found


def assert_same_start(name: str, kind: str) -> None:
    mean, deviation = TABLE[name]["initial"][kind]
    ours_mean, ours_deviation, count = statistics(name)[kind]
    # Two draws of `count` values: five of their standard errors. And 2 %, because the official truncated normal puts
    # a rare weight at its far bound of a hundred deviations.
    error = (2 / count) ** 0.5
    assert ours_deviation == pytest.approx(deviation, rel=5 * error / 2**0.5 + 0.02), (name, kind)
    assert ours_mean == pytest.approx(mean, abs=5 * error * deviation + 1e-9), (name, kind)


@pytest.mark.parametrize("name", TABLE)
def test_a_preset_has_the_shapes_of_the_official_model(name):
    assert shapes(name) == TABLE[name]["shapes"]


@pytest.mark.parametrize("name", TABLE)
def test_a_preset_has_the_heads_and_the_epsilon_of_the_official_model(name):
    config, official = preset_of(name), TABLE[name]
    assert config.num_attention_heads == official["heads"]
    assert config.norm_eps == config.layer_norm_eps == official["norm_eps"] == 1e-6
    if "decoder_heads" in official:
        assert config.decoder_num_attention_heads == official["decoder_heads"]


@pytest.mark.parametrize("name", [name for name in TABLE if "initial" in TABLE[name]])
def test_fresh_weights_are_spread_as_the_official_ones(name):
    for kind in TABLE[name]["initial"]:
        assert_same_start(name, kind)
