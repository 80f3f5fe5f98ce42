"""The golden files are the ones that PROVENANCE.json describes, and their weights and inputs are what its seeds give."""

import json

import pytest
import torch
from golden.make import BOXES, FRAME, PROVENANCE, SEEDS, pixels, sha256, tensors_of, tube_masks, weight
from golden.official import OfficialTrees
from support import GOLDEN, golden

RECORD = json.loads(PROVENANCE.read_text("utf-8"))
CHECKPOINTS = [name for name in RECORD["files"] if name.endswith(".pth") or name == "videomae_v2_hub.safetensors"]
OUTPUTS = [name.split(".")[0] for name in RECORD["files"] if name.endswith(".golden.safetensors")]


def test_every_golden_file_has_the_recorded_hash_and_every_record_a_file():
    made = {file.name: sha256(file) for file in GOLDEN.iterdir() if file.suffix in (".pth", ".safetensors")}
    made["videomae_v2_hub.config.json"] = sha256(GOLDEN / "videomae_v2_hub.config.json")
    assert made == {name: entry["sha256"] for name, entry in RECORD["files"].items()}


def test_the_record_says_what_ran_and_that_the_official_code_gave_these_outputs():
    assert len(RECORD["repositories"]) == 4 and all(len(commit) == 40 for commit in RECORD["repositories"].values())
    assert RECORD["seeds"] == SEEDS and RECORD["versions"]["torch"]
    for name, entry in RECORD["files"].items():
        assert "kept" in entry or entry["weights_and_inputs_equal"], name
        assert "kept" in entry or entry["largest_difference_of_outputs"] <= RECORD["tolerance_of_outputs"] == 1e-6, name


# Released names of the same parts, as in the key tables of the converter but restated.
RENAMED = (
    ("roi_head.bbox_head.fc_cls", "head"),
    ("cls_head.fc_cls", "head"),
    ("backbone.", ""),
    ("patch_embed.projection", "patch_embed.proj"),
    ("mlp.layers.0.0", "mlp.fc1"),
    ("mlp.layers.1", "mlp.fc2"),
)


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_weights_are_those_of_the_recorded_seed(name):
    tensors = tensors_of(GOLDEN / name)
    assert len(tensors) >= 43
    for key, tensor in tensors.items():
        key = key.removeprefix("model.")
        for theirs, official in RENAMED:
            key = key.replace(theirs, official)
        # Not to the bit: another processor may round the logarithm of a random number otherwise.
        torch.testing.assert_close(weight(key, tuple(tensor.shape)), tensor, rtol=1e-5, atol=1e-6, msg=key)


@pytest.mark.parametrize("name", OUTPUTS)
def test_inputs_are_those_of_the_recorded_seeds(name):
    tensors = golden(name)
    detector = "detection" in name
    clips = pixels(*(FRAME if detector else (32, 32))).transpose(1, 2)
    torch.testing.assert_close(tensors["input.pixel_values"], clips, rtol=1e-3, atol=1e-3)  # one step of float16
    if detector:
        assert all(torch.equal(tensors[f"input.boxes_{i}"], box) for i, box in enumerate(BOXES))
    if "pretrain" in name:
        assert torch.equal(tensors["input.bool_masked_pos"], tube_masks())


def test_a_folder_without_the_public_trees_is_an_error_that_names_them(tmp_path):
    (tmp_path / "VideoMAE").mkdir()
    with pytest.raises(ValueError, match="has no VideoMAEv2, VideoMAE-Action-Detection, mmaction2; clone"):
        OfficialTrees(tmp_path)
