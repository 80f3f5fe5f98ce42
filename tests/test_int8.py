"""8-bit inference and its gate: exact integer arithmetic, small differences, and all put back when answers change."""

import pytest
import torch
from published_folders import save_tiny
from torch import nn
from video_files import write_video

from videomae import ReducedVideoMAEForVideoClassification, VideoMAEForVideoClassification, VideoMAEVideoProcessor
from videomae.inference.fidelity import agreement, example_clips, logits_of
from videomae.inference.int8 import Int8Linear, block_linears, quantize_int8, rounded


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("int8") / "model", "classify")


@pytest.fixture(scope="module")
def clips(folder):
    return example_clips(folder)


def load(folder):
    return VideoMAEForVideoClassification.from_pretrained(folder).eval()


# The layer -------------------------------------------------------------------------------------------------------


def test_whole_numbers_up_to_127_go_through_exactly():
    generator = torch.Generator().manual_seed(0)
    linear = nn.Linear(16, 8)
    with torch.no_grad():
        linear.weight.copy_(torch.randint(-126, 127, (8, 16), generator=generator))
        linear.weight[:, 0] = 127  # so that the scale of each row is 1
        linear.bias.copy_(torch.arange(8))
    inputs = torch.randint(-126, 127, (2, 20, 16), generator=generator).float()
    inputs[..., 3] = -127
    with torch.no_grad():
        assert torch.equal(Int8Linear(linear)(inputs), linear(inputs))


@pytest.mark.parametrize("bias", [True, False])
def test_the_product_is_that_of_the_rounded_matrices(bias):
    torch.manual_seed(0)
    linear = nn.Linear(48, 32, bias=bias)
    inputs = torch.randn(3, 10, 48)
    (weight, weight_scales), (values, scales) = rounded(linear.weight.detach()), rounded(inputs.flatten(0, 1))
    expected = (values.double() * scales) @ (weight.double() * weight_scales).T
    if bias:
        expected = expected + linear.bias.detach()
    with torch.no_grad():
        found = Int8Linear(linear)(inputs)
        assert torch.allclose(found, expected.view(3, 10, 32).float(), atol=1e-5)
        assert (found - linear(inputs)).abs().max() < 0.03  # half a step of both, summed over 48 products


def test_each_token_has_its_own_scale_and_zeros_stay_zeros():
    linear = nn.Linear(8, 8, bias=False)
    inputs = torch.cat([torch.randn(20, 8), torch.zeros(1, 8), 1e6 * torch.randn(1, 8)])
    layer = Int8Linear(linear)
    with torch.no_grad():
        assert torch.equal(layer(inputs)[:20], layer(inputs[:20]))  # a huge neighbour costs no precision
        assert (layer(inputs)[20] == 0).all()


def test_it_follows_the_type_of_its_inputs_and_autocast():
    layer = Int8Linear(nn.Linear(8, 8))
    with torch.no_grad():
        assert layer(torch.randn(20, 8)).dtype == torch.float32
        assert layer(torch.randn(20, 8).bfloat16()).dtype == torch.bfloat16
        with torch.autocast("cpu", torch.bfloat16):
            assert layer(torch.randn(20, 8)).dtype == torch.bfloat16


# A model, and the gate -------------------------------------------------------------------------------------------


def test_a_quantised_model_answers_alike_and_says_how_well(folder, clips):
    model, original = load(folder), load(folder)
    found = quantize_int8(model, clips, min_agreement=0.9)
    assert found.count == 16 and found.same >= 15 and found.max_score_difference < 0.1
    assert found == agreement(logits_of(original, clips), logits_of(model, clips))
    assert sum(isinstance(module, Int8Linear) for module in model.modules()) == 3 * 6  # q, k, v, out and two of the MLP
    assert not block_linears(model) and type(model.classifier) is nn.Linear
    assert str(found).startswith(f"the same answer on {found.same} of 16 clips, scores differ by up to 0.0")


def test_a_model_whose_answers_change_too_much_is_put_back(folder, clips):
    model, original = load(folder), load(folder)
    with torch.no_grad():  # one huge weight a row leaves no steps for the others
        model.videomae.encoder.layer[0].intermediate.dense.weight[:, 0] = 1e6
        original.load_state_dict(model.state_dict())
    with pytest.raises(
        ValueError, match=r"int8 gives the same answer on \d+ of 16 clips.*max_score_difference=1e-06: .*bf16"
    ):
        quantize_int8(model, clips, max_score_difference=1e-6)
    assert torch.equal(logits_of(model, clips), logits_of(original, clips))
    assert list(model.state_dict()) == list(original.state_dict())


def test_a_model_that_is_int8_already_is_refused(folder, clips):
    model = load(folder)
    quantize_int8(model, clips, min_agreement=0, max_score_difference=1)
    with pytest.raises(ValueError, match="was it quantised before"):
        quantize_int8(model, clips)


def test_int8_and_fewer_tokens_go_together(folder, clips):
    model = ReducedVideoMAEForVideoClassification.from_pretrained(folder, merge_per_layer=20).eval()
    before = logits_of(model, clips)
    assert quantize_int8(model, clips, min_agreement=0.8, max_score_difference=0.3).count == 16
    assert not torch.equal(logits_of(model, clips), before)


# Clips and agreement ---------------------------------------------------------------------------------------------


def test_drawn_clips_are_the_same_every_time_and_fit_the_model(folder):
    clips = example_clips(folder, count=3)
    assert clips.shape == (3, 16, 3, 32, 32) and torch.equal(clips, example_clips(folder, count=16)[:3])
    assert not torch.equal(clips[0], clips[1])


def test_videos_go_through_the_folders_processor(folder, tmp_path):
    video = write_video(tmp_path / "video.mp4", 70, width=48, height=40)
    expected = VideoMAEVideoProcessor.from_pretrained(folder)(str(video), return_tensors="pt")["pixel_values"]
    assert torch.equal(example_clips(folder, [video, video]), torch.cat([expected, expected]))
    with pytest.raises(ValueError, match="no videos were given"):
        example_clips(folder, [])


def test_a_folder_without_a_processor_gives_clips_of_its_models_size(tmp_path):
    assert example_clips(save_tiny(tmp_path / "bare", "classify", processor=False), count=1).shape == (1, 16, 3, 32, 32)


def test_agreement_follows_the_kind_of_problem():
    before = torch.tensor([[2.0, 1.0], [0.0, 1.0]])
    after = torch.tensor([[1.0, 2.0], [0.0, 1.0]])
    single = agreement(before, after)
    assert (single.count, single.same, single.share) == (2, 1, 0.5)
    assert single.max_score_difference == pytest.approx(2 / (1 + 2.718281828**-1) - 1, abs=1e-5)
    assert agreement(before, after, "multi_label_classification").same == 2  # the same labels stand above one half
    assert agreement(before, after, "regression").max_score_difference == 1
    assert agreement(before, torch.full_like(after, float("nan"))).max_score_difference == float("inf")
    with pytest.raises(ValueError, match="logits of the same clips"):
        agreement(before, after[:1])
