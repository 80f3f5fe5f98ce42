"""The plain reference against the outputs of the official implementations themselves."""

import pytest
import torch
from safetensors.torch import load_file
from support import GOLDEN, golden

from videomae.conversion import reference as reference


def weights_of(name: str) -> dict:
    """The weights of a golden file; these files are ours, so an open pickle is no danger here."""
    if (GOLDEN / f"{name}.safetensors").exists():
        return load_file(GOLDEN / f"{name}.safetensors")
    content = torch.load(GOLDEN / f"{name}.pth", weights_only=False)
    return next(content[key] for key in ("model", "module", "state_dict") if key in content)


def relative_difference(ours: torch.Tensor, expected: torch.Tensor) -> float:
    return float((ours - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize(
    "name", ["videomae_finetune", "videomae_v2_finetune", "mmaction2_recognition", "videomae_v2_hub"]
)
def test_classifiers_and_the_feature_extractor_reproduce_the_official_outputs(name):
    tensors = golden(name)
    outputs = reference.classify(weights_of(name), tensors["input.pixel_values"], heads=3)
    expected = [key for key in tensors if key.startswith("expected.")]
    assert expected
    for key in expected:
        assert relative_difference(outputs[key.removeprefix("expected.")], tensors[key]) < 1e-5


def test_v1_pretraining_reproduces_logits_labels_and_both_losses():
    tensors = golden("videomae_pretrain")
    arguments = (
        weights_of("videomae_pretrain"),
        tensors["input.pixel_values"],
        tensors["input.bool_masked_pos"].bool(),
    )
    outputs = reference.pretrain(*arguments, heads=3, decoder_heads=2)
    for key in ("logits", "labels", "loss"):
        assert relative_difference(outputs[key], tensors[f"expected.{key}"]) < 1e-5
    raw = reference.pretrain(*arguments, heads=3, decoder_heads=2, normalized_targets=False)
    assert relative_difference(raw["loss"], tensors["expected.loss_raw_pixels"]) < 1e-5


def test_v2_pretraining_decodes_and_counts_what_the_official_code_does():
    tensors = golden("videomae_v2_pretrain")
    hidden = tensors["input.bool_masked_pos"].bool()
    decoded = ~tensors["input.decode_masked_pos"].bool()  # the official mask says what the decoder leaves out
    outputs = reference.pretrain(
        weights_of("videomae_v2_pretrain"), tensors["input.pixel_values"], hidden, decoded, heads=3, decoder_heads=2
    )
    for key in ("logits", "labels", "loss"):
        assert relative_difference(outputs[key], tensors[f"expected.{key}"]) < 1e-5
    assert torch.equal(outputs["loss_positions"], tensors["expected.loss_positions"].bool())


@pytest.mark.parametrize("name, family", [("action_detection", "videomae"), ("mmaction2_detection", "mmaction2")])
def test_detectors_reproduce_boxes_roi_features_and_scores(name, family):
    tensors = golden(name)
    boxes = [tensors["input.boxes_0"], tensors["input.boxes_1"]]
    outputs = reference.detect(
        weights_of(name), tensors["input.pixel_values"], boxes, heads=3, family=family, table_grid=(4, 4)
    )
    for key in ("roi_features", "logits"):
        assert relative_difference(outputs[key], tensors[f"expected.{key}"]) < 1e-5
    if family == "videomae":
        for i, box in enumerate(outputs["boxes"]):
            assert relative_difference(box, tensors[f"expected.extended_boxes_{i}"]) < 1e-6


def test_the_wrong_number_of_heads_changes_the_outputs_though_every_shape_fits():
    tensors = golden("videomae_finetune")
    outputs = reference.classify(weights_of("videomae_finetune"), tensors["input.pixel_values"], heads=2)
    assert relative_difference(outputs["logits"], tensors["expected.logits"]) > 1e-2


def test_roi_align_averages_a_linear_map_to_its_value_at_the_bin_centres():
    ramp = torch.arange(12.0).expand(10, 12)[None]  # value = column
    box = torch.tensor([16.0, 16.0, 96.0, 80.0])  # columns 1 to 6 at stride 16
    for aligned, shift in ((False, 0.0), (True, 0.5)):
        pooled = reference.roi_align(ramp, box, size=5, scale=1 / 16, aligned=aligned)
        assert torch.allclose(pooled[0, 0], torch.arange(5) + 1.5 - shift)


def test_a_box_wholly_outside_the_map_pools_zeros():
    pooled = reference.roi_align(
        torch.ones(2, 4, 4), torch.tensor([-90.0, -90.0, -50.0, -50.0]), size=7, scale=1 / 16, aligned=True
    )
    assert pooled.abs().max() == 0


def test_random_weights_run_and_spread_their_logits():
    weights = reference.random_weights("classify", width=48, depth=2, mlp=96, patch=8, num_labels=5)
    logits = reference.classify(weights, reference.fixed_clip(4, 3, 16, 16), heads=3)["logits"]
    assert logits.shape == (1, 5) and 0.1 < logits.std() < 10


def test_the_fixed_inputs_are_the_same_every_time_and_hide_whole_tubes():
    assert torch.equal(reference.fixed_clip(2, 3, 8, 8), reference.fixed_clip(2, 3, 8, 8))
    mask = reference.fixed_mask((8, 14, 14)).view(8, 196)
    assert (mask == mask[0]).all() and mask[0].sum() == 176


def test_the_fixed_frames_have_slopes_of_a_few_grey_levels_and_no_edges():
    frames = reference.fixed_frames(4, 40, 48)
    assert frames.shape == (4, 40, 48, 3) and frames.dtype == torch.uint8 and len(frames.unique()) > 100
    levels = frames.long()
    assert [levels.diff(dim=axis).abs().max().item() for axis in range(3)] == [8, 1, 2]
    assert levels[1, 2, 3].tolist() == [2 * 3 + 2 + 8 + 85 * channel for channel in range(3)]
