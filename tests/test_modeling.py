"""What the models promise beyond parity: masks of any kind, sizes, devices, precisions, compilation, clear errors."""

import copy
import math
import weakref

import pytest
import torch
from support import TINY

from videomae import VideoMAEConfig, VideoMAEForPreTraining, VideoMAEForVideoClassification, VideoMAEModel
from videomae.masking_videomae import batch_masks, running_cell_mask, stack_masks, tube_mask
from videomae.modeling_videomae import (
    VideoMAEDropPath,
    VideoMAELayer,
    VideoMAESelfAttention,
    classification_loss,
    position_table,
    sincos_table,
)

MODELS = [VideoMAEModel, VideoMAEForPreTraining, VideoMAEForVideoClassification]


def build(model_class, seed=0, **fields):
    """A tiny model whose weights are away from their special starting values, in evaluation mode."""
    torch.manual_seed(seed)
    model = model_class(VideoMAEConfig(**{**TINY, "num_labels": 5, **fields}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model.eval()


def clips(batch=2, frames=16, height=32, width=32, channels=3, seed=1):
    return torch.randn(batch, frames, channels, height, width, generator=torch.Generator().manual_seed(seed))


def inputs_for(model, batch=2, counts=True):
    """A batch that the model trains on: with V1's mask for pre-training, labels for the classifier."""
    inputs = {"pixel_values": clips(batch)}
    if isinstance(model, VideoMAEForPreTraining):
        mask, visible = batch_masks("tube", model.config.grid, 0.75, batch, torch.Generator().manual_seed(3))
        inputs["bool_masked_pos"] = mask
        if counts:
            inputs["num_visible"] = visible
    elif isinstance(model, VideoMAEForVideoClassification):
        inputs["labels"] = torch.arange(batch) % 5
    return inputs


def main_output(outputs):
    return outputs.logits if "logits" in outputs else outputs.last_hidden_state


def dual_masks(batch=2, seed=5):
    generator = torch.Generator().manual_seed(seed)
    hidden, visible = batch_masks("tube", (8, 4, 4), 0.75, batch, generator)
    left_out = torch.stack([running_cell_mask((8, 4, 4), 0.5, generator) for _ in range(batch)])
    return hidden, ~left_out, visible


# Masks -----------------------------------------------------------------------------------------------------------


def test_dual_masking_rebuilds_only_decoded_tokens_and_counts_only_hidden_ones():
    model = build(VideoMAEForPreTraining)
    hidden, decoded, visible = dual_masks()
    outputs = model(clips(), hidden, decoded, num_visible=visible, num_decoded=64)
    assert outputs.logits.shape == (2, 64, 384)
    # The loss by hand, clip by clip.
    errors = []
    for clip in range(2):
        positions = decoded[clip].nonzero()[:, 0]
        targets = model.targets(clips()[clip : clip + 1], positions[None])[0]
        squared = (outputs.logits[clip] - targets).square().mean(-1)
        errors.append(squared[hidden[clip][positions]])
    assert torch.allclose(outputs.loss, torch.cat(errors).mean(), rtol=1e-6)


def test_counts_change_nothing_but_the_inspection():
    model = build(VideoMAEForPreTraining)
    hidden, decoded, visible = dual_masks()
    counted = model(clips(), hidden, decoded, num_visible=visible, num_decoded=64)
    inspected = model(clips(), hidden, decoded)
    assert torch.equal(counted.loss, inspected.loss) and torch.equal(counted.logits, inspected.logits)


def test_decoding_every_hidden_token_is_single_masking():
    model = build(VideoMAEForPreTraining)
    hidden, _, _ = dual_masks()
    single, dual = model(clips(), hidden), model(clips(), hidden, hidden)
    assert torch.equal(single.logits, dual.logits)
    assert torch.allclose(single.loss, dual.loss, rtol=1e-6)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("dual", [False, True])
def test_masks_of_unequal_size_give_each_clip_what_it_gets_alone(dual, attention):
    model = build(VideoMAEForPreTraining)
    model.set_attn_implementation(attention)
    generator = torch.Generator().manual_seed(0)
    hidden = torch.rand(3, 128, generator=generator) < torch.tensor([0.9, 0.5, 0.2])[:, None]
    decoded = (torch.rand(3, 128, generator=generator) < 0.5) if dual else None
    together = model(clips(3), hidden, decoded)
    errors, counts = [], []
    for clip in range(3):
        one = slice(clip, clip + 1)
        alone = model(clips(3)[one], hidden[one], decoded[one] if dual else None)
        rows = alone.logits.shape[1]
        assert torch.allclose(together.logits[clip, :rows], alone.logits[0], atol=2e-6)
        assert (together.logits[clip, rows:] == 0).all()
        counted = int((hidden[clip] & (decoded[clip] if dual else True)).sum())
        errors.append(alone.loss * counted)
        counts.append(counted)
    assert together.logits.shape[1] == max(int((decoded if dual else hidden)[c].sum()) for c in range(3))
    assert torch.allclose(together.loss, torch.stack(errors).sum() / sum(counts), rtol=1e-5)


def test_unequal_masks_give_the_gradients_of_the_clips_alone():
    model = build(VideoMAEForPreTraining)
    hidden = torch.rand(2, 128, generator=torch.Generator().manual_seed(0)) < torch.tensor([0.9, 0.4])[:, None]
    model(clips(), hidden).loss.backward()
    together = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    share = hidden.sum(1) / hidden.sum()
    for clip in range(2):
        (model(clips()[clip : clip + 1], hidden[clip : clip + 1]).loss * share[clip]).backward()
    for name, parameter in model.named_parameters():
        assert torch.allclose(parameter.grad, together[name], atol=1e-6), name


def test_an_encoder_pads_unequal_masks_with_zero_rows():
    model = build(VideoMAEModel, pooled_features=True)
    hidden = torch.zeros(2, 128, dtype=torch.bool)
    hidden[0, :100] = True
    together = model(clips(), hidden)
    alone = model(clips()[:1], hidden[:1])
    assert together.last_hidden_state.shape == (2, 128, 48)
    assert torch.allclose(together.last_hidden_state[0, :28], alone.last_hidden_state[0], atol=2e-6)
    assert (together.last_hidden_state[0, 28:] == 0).all()
    assert torch.allclose(together.pooler_output[0], alone.pooler_output[0], atol=2e-6)


def test_the_hubs_own_example_with_random_masks_runs_for_a_batch():
    model = build(VideoMAEForPreTraining)
    torch.manual_seed(0)
    outputs = model(clips(), bool_masked_pos=torch.randint(0, 2, (2, 128)).bool())
    assert outputs.loss.isfinite()


@pytest.mark.parametrize("dual", [False, True])
def test_a_training_step_never_waits_for_the_device_when_the_counts_are_given(dual):
    """On the meta device there are no values: whatever looks at one, or makes a shape of one, raises."""
    model = build(VideoMAEForPreTraining, drop_path_rate=0.1).train().to("meta")
    hidden, decoded, visible = dual_masks()
    masks = dict(bool_decoded_pos=decoded.to("meta")) if dual else {}
    counts = dict(num_visible=visible, num_decoded=64) if dual else dict(num_visible=visible)
    video, hidden = clips().to("meta"), hidden.to("meta")
    model(video, hidden, **masks, **counts).loss.backward()
    with pytest.raises(RuntimeError, match="meta"):
        model(video, hidden, **masks)


# Bad input -------------------------------------------------------------------------------------------------------

ALL_HIDDEN = torch.ones(2, 128, dtype=torch.bool)


@pytest.mark.parametrize(
    "mask, error, message",
    [
        (None, ValueError, r"bool_masked_pos is missing.*tube_mask\(\(8, 4, 4\), 0.9\)"),
        (torch.ones(2, 128), TypeError, "bool_masked_pos must be a bool tensor, got torch.float32"),
        ([[True]], TypeError, "bool_masked_pos must be a bool tensor, got list"),
        (ALL_HIDDEN[:, :100], ValueError, r"must have shape \(2, 128\), one entry per clip and token, got \(2, 100\)"),
        (ALL_HIDDEN[:1], ValueError, r"must have shape \(2, 128\).* got \(1, 128\)"),
        (ALL_HIDDEN, ValueError, "bool_masked_pos hides every token of clip 0"),
        (~ALL_HIDDEN, ValueError, "bool_masked_pos hides no token of clip 0"),
        (ALL_HIDDEN.logical_and(torch.tensor([[False], [True]])), ValueError, "hides every token of clip 1"),
    ],
)
def test_an_impossible_mask_says_what_came_and_what_was_expected(mask, error, message):
    with pytest.raises(error, match=message):
        build(VideoMAEForPreTraining)(clips(), mask)


def test_decoding_only_what_the_encoder_saw_is_refused():
    hidden = torch.zeros(2, 128, dtype=torch.bool)
    hidden[:, :64] = True
    with pytest.raises(ValueError, match="bool_decoded_pos and bool_masked_pos share no position in clip 0"):
        build(VideoMAEForPreTraining)(clips(), hidden, ~hidden)


@pytest.mark.parametrize(
    "video, error, message",
    [
        (clips()[0], ValueError, r"got 4 dimensions \(16, 3, 32, 32\); a single clip needs a batch dimension"),
        (clips()[0, 0], ValueError, r"must be \(batch, frames, channels, height, width\), got shape \(3, 32, 32\)"),
        (
            clips().permute(0, 1, 3, 4, 2),
            ValueError,
            r"32 channels where the model has 3; the channels seem to come last",
        ),
        (clips().transpose(1, 2), ValueError, "16 channels where the model has 3; channels and frames seem swapped"),
        (clips(channels=4), ValueError, "have 4 channels where the model has 3"),
        (
            (clips() * 255).to(torch.uint8),
            TypeError,
            "must be normalised floats, got torch.uint8; pass the frames through",
        ),
        (
            clips(frames=8),
            ValueError,
            "8 frames of 32x32 where the model expects 16 of 32x32.*interpolate_pos_encoding",
        ),
        (clips(frames=5), ValueError, "5 frames, which tubelets of 2 do not fill"),
        (clips(height=40), ValueError, "16 frames of 40x32 where the model expects 16 of 32x32"),
        (clips(height=36), ValueError, "frames of 36x32, which patches of 8x8 do not tile; resize them to 32x32"),
        ([1, 2], TypeError, "pixel_values must be a tensor, got list"),
    ],
)
@pytest.mark.parametrize("model_class", MODELS)
def test_wrong_pixels_say_what_came_and_what_was_expected(model_class, video, error, message):
    model = build(model_class)
    inputs = {"bool_masked_pos": ALL_HIDDEN} if model_class is VideoMAEForPreTraining else {}
    with pytest.raises(error, match=message):
        model(video, **inputs)


def test_a_misspelt_argument_is_not_swallowed():
    with pytest.raises(TypeError, match="bool_mask_pos"):
        build(VideoMAEModel)(clips(), bool_mask_pos=ALL_HIDDEN)


# Losses of the classifier ----------------------------------------------------------------------------------------


def test_soft_labels_mean_soft_cross_entropy_where_the_config_says_single_label():
    model = build(VideoMAEForVideoClassification, problem_type="single_label_classification")
    soft = torch.tensor([[0.7, 0.3, 0, 0, 0], [0, 0, 0, 0.1, 0.9]])
    outputs = model(clips(), soft)
    by_hand = -(soft * outputs.logits.log_softmax(-1)).sum(-1).mean()
    assert torch.allclose(outputs.loss, by_hand)


@pytest.mark.parametrize(
    "labels, message",
    [
        (torch.tensor([1.0, 2.0]), "labels must be 2 class indices"),
        (torch.tensor([1, 2, 3]), "labels must be 2 class indices .* got torch.int64 of shape"),
    ],
)
def test_labels_of_another_shape_are_refused(labels, message):
    config = VideoMAEConfig(problem_type="single_label_classification", num_labels=5)
    with pytest.raises(ValueError, match=message):
        classification_loss(torch.randn(2, 5), labels, config)


def test_multi_label_targets_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"multi-label targets must have shape \(2, 5\)"):
        classification_loss(torch.randn(2, 5), torch.rand(2), VideoMAEConfig(num_labels=5))


def test_head_dropout_and_init_scale_act_on_the_head_alone():
    torch.manual_seed(0)
    wide = VideoMAEConfig(**{**TINY, "hidden_size": 480, "num_labels": 100})
    plain = VideoMAEForVideoClassification(wide)
    small = VideoMAEForVideoClassification(VideoMAEConfig(**{**wide.to_dict(), "init_scale": 0.001}))
    assert 0.019 < plain.classifier.weight.std() < 0.021
    assert 0.019e-3 < small.classifier.weight.std() < 0.021e-3
    assert small.videomae.encoder.layer[0].intermediate.dense.weight.std() > 0.019
    model = build(VideoMAEForVideoClassification, head_dropout_prob=0.5)
    assert torch.equal(model(clips()).logits, model(clips()).logits)
    model.train()
    assert not torch.equal(model(clips()).logits, model(clips()).logits)


# Fresh weights ---------------------------------------------------------------------------------------------------


def test_pretraining_starts_xavier_uniform_with_the_bound_of_the_fused_matrix():
    torch.manual_seed(0)
    model = VideoMAEForPreTraining(VideoMAEConfig(**{**TINY, "hidden_size": 192, "num_attention_heads": 3}))
    layer = model.videomae.encoder.layer[1]
    fused = math.sqrt(6 / (192 + 3 * 192))
    for projection in (layer.attention.attention.query, layer.attention.attention.key, layer.attention.attention.value):
        assert 0.97 * fused < projection.weight.abs().max() <= fused
        assert projection.bias is None or (projection.bias == 0).all()
    xavier = math.sqrt(6 / (192 + 192))
    assert 0.97 * xavier < layer.attention.output.dense.weight.abs().max() <= xavier
    for linear in (model.decoder.decoder_layers[0].attention.attention.key, model.decoder.head):
        fan_out = 3 * 36 if linear.out_features == 36 else linear.out_features
        assert 0.95 * math.sqrt(6 / (36 + fan_out)) < linear.weight.abs().max() <= math.sqrt(6 / (36 + fan_out))
    bridge = 1 / math.sqrt(192)  # torch's default for a linear layer
    assert 0.97 * bridge < model.encoder_to_decoder.weight.abs().max() <= bridge
    patch = model.videomae.embeddings.patch_embeddings.projection
    conv = 1 / math.sqrt(3 * 2 * 8 * 8)  # torch's default for convolutions, bias included
    assert 0.97 * conv < patch.weight.abs().max() <= conv and 0 < patch.bias.abs().max() <= conv
    assert 0 < model.mask_token.abs().max() <= 0.02
    assert (layer.layernorm_before.weight == 1).all() and (layer.layernorm_before.bias == 0).all()


def test_classification_starts_truncated_normal():
    torch.manual_seed(0)
    model = VideoMAEForVideoClassification(VideoMAEConfig(**{**TINY, "hidden_size": 192}))
    for linear in (
        model.videomae.encoder.layer[0].attention.attention.key,
        model.videomae.encoder.layer[2].output.dense,
    ):
        assert 0.019 < linear.weight.std() < 0.021
    assert (model.videomae.encoder.layer[0].intermediate.dense.bias == 0).all()


def test_missing_weights_are_made_fresh_and_loaded_ones_are_kept(tmp_path):
    pretrained = build(VideoMAEForPreTraining, use_mean_pooling=False)
    pretrained.save_pretrained(tmp_path)
    model, info = VideoMAEForVideoClassification.from_pretrained(
        tmp_path, use_mean_pooling=True, num_labels=5, init_scale=0.5, output_loading_info=True
    )
    assert set(info["missing_keys"]) == {"fc_norm.weight", "fc_norm.bias", "classifier.weight", "classifier.bias"}
    assert (model.fc_norm.weight == 1).all() and 0 < model.classifier.weight.std() < 0.012
    for ours, theirs in zip(model.videomae.encoder.parameters(), pretrained.videomae.encoder.parameters()):
        assert torch.equal(ours, theirs)


# Sizes and positions ---------------------------------------------------------------------------------------------


def test_the_position_table_is_the_classic_one():
    table = sincos_table(50, 6)
    for position in (0, 1, 49):
        for pair in range(3):
            angle = position / 10000 ** (2 * pair / 6)
            assert math.isclose(table[position, 2 * pair], math.sin(angle), abs_tol=1e-6)
            assert math.isclose(table[position, 2 * pair + 1], math.cos(angle), abs_tol=1e-6)


def test_the_position_table_ignores_the_caches_way_of_being_filled():
    arguments = ((2, 3, 3), (2, 3, 3), 12, torch.device("cpu"), torch.float32)
    with torch.inference_mode():
        first = position_table(*arguments)
    assert not first.is_inference()
    weight = torch.randn(12, 12, requires_grad=True)
    (position_table(*arguments) @ weight).sum().backward()


def test_other_sizes_interpolate_height_and_width_and_time_apart():
    base, device, kind = (4, 6, 6), torch.device("cpu"), torch.float32
    table = position_table(base, base, 8, device, kind).view(4, 6, 6, 8)
    wide = position_table(base, (4, 6, 9), 8, device, kind).view(4, 6, 9, 8)
    by_hand = torch.nn.functional.interpolate(table.permute(0, 3, 1, 2), size=(6, 9), mode="bicubic")
    assert torch.allclose(wide, by_hand.permute(0, 2, 3, 1))
    long = position_table(base, (8, 6, 6), 8, device, kind).view(8, 6, 6, 8)
    assert torch.allclose(long[1], 0.75 * table[0] + 0.25 * table[1], atol=1e-6)


@pytest.mark.parametrize("frames, height, width", [(8, 32, 32), (32, 32, 32), (16, 48, 24), (4, 64, 40)])
@pytest.mark.parametrize("model_class", MODELS)
def test_other_sizes_run_when_asked_for(model_class, frames, height, width):
    model = build(model_class)
    video = clips(1, frames, height, width)
    grid = (frames // 2, height // 8, width // 8)
    inputs = {"bool_masked_pos": tube_mask(grid, 0.5)[None]} if model_class is VideoMAEForPreTraining else {}
    outputs = model(video, **inputs, interpolate_pos_encoding=True)
    tokens = math.prod(grid)
    expected = {VideoMAEModel: (1, tokens, 48), VideoMAEForPreTraining: (1, tokens // 2, 384)}
    assert main_output(outputs).shape == expected.get(model_class, (1, 5)) and main_output(outputs).isfinite().all()


def test_asking_for_interpolation_changes_nothing_at_the_configured_size():
    model = build(VideoMAEModel)
    plain, asked = model(clips()), model(clips(), interpolate_pos_encoding=True)
    assert torch.equal(plain.last_hidden_state, asked.last_hidden_state)


def test_rectangular_models_and_patches_work():
    model = build(VideoMAEForPreTraining, image_size=[32, 48], patch_size=[8, 16])
    mask = tube_mask(model.config.grid, 0.5)[None]
    outputs = model(clips(1, width=48), mask)
    assert model.config.grid == (8, 4, 3) and outputs.logits.shape == (1, 48, 3 * 2 * 8 * 16)


# The checks that transformers makes of its models -----------------------------------------------------------------


@pytest.mark.parametrize("model_class", MODELS)
def test_saving_and_loading_keeps_every_output(model_class, tmp_path):
    model = build(model_class)
    model.save_pretrained(tmp_path)
    again = model_class.from_pretrained(tmp_path)
    inputs = inputs_for(model)
    assert torch.equal(main_output(model(**inputs)), main_output(again(**inputs)))


@pytest.mark.parametrize("model_class", MODELS)
def test_evaluation_is_deterministic_and_clips_do_not_meet(model_class):
    model = build(model_class)
    inputs = inputs_for(model)
    first, second = main_output(model(**inputs)), main_output(model(**inputs))
    assert torch.equal(first, second)
    alone = {name: value[:1] if isinstance(value, torch.Tensor) else value for name, value in inputs.items()}
    assert torch.allclose(main_output(model(**alone))[0], first[0], atol=1e-5)


@pytest.mark.parametrize("model_class", MODELS)
def test_hidden_states_and_attentions_come_when_asked_for(model_class):
    model = build(model_class)
    inputs = inputs_for(model)
    outputs = model(**inputs, output_hidden_states=True, output_attentions=True)
    tokens = 32 if model_class is VideoMAEForPreTraining else 128
    assert len(outputs.hidden_states) == 4 and outputs.hidden_states[0].shape == (2, tokens, 48)
    assert len(outputs.attentions) == 3 and outputs.attentions[0].shape == (2, 3, tokens, tokens)
    assert torch.allclose(outputs.attentions[0].sum(-1), torch.ones(2, 3, tokens), atol=1e-5)
    assert model(**inputs).hidden_states is None and model(**inputs).attentions is None
    model.config.output_hidden_states = True
    assert len(model(**inputs).hidden_states) == 4


@pytest.mark.parametrize("model_class", MODELS)
def test_chosen_layers_come_alone_as_in_transformers(model_class):
    model = build(model_class)
    inputs = inputs_for(model)
    everything = model(**inputs, output_hidden_states=True).hidden_states
    for asked, kept in (([0, 2], {0, 2}), ([1, -1], {1, 3}), (-2, {2}), ([7], set())):
        states = model(**inputs, output_hidden_states=asked).hidden_states
        assert len(states) == 4 and {layer for layer, state in enumerate(states) if state is not None} == kept
        assert all(torch.equal(states[layer], everything[layer]) for layer in kept)
    assert model(**inputs).hidden_states is None


def test_layers_of_several_callers_do_not_mix():
    """What a call asks for ends with it, also where the call failed."""
    model = build(VideoMAEModel)
    with pytest.raises(ValueError, match="a single clip needs a batch dimension"):
        model(clips()[0], output_hidden_states=True)
    assert model(clips()).hidden_states is None
    assert len(model(clips(), output_hidden_states=True).hidden_states) == 4


@pytest.mark.parametrize("dual", [False, True])
def test_a_mask_is_checked_and_sorted_once_for_encoder_and_decoder(dual, monkeypatch):
    from videomae import inputs_videomae

    sorted_masks = []
    select = inputs_videomae.select_kept
    monkeypatch.setattr(
        inputs_videomae, "select_kept", lambda keep, *rest: sorted_masks.append(keep) or select(keep, *rest)
    )
    hidden, decoded, visible = dual_masks()
    build(VideoMAEForPreTraining)(clips(), hidden, decoded if dual else None, num_visible=visible)
    assert len(sorted_masks) == 2  # the visible tokens and the rebuilt ones


def test_inference_keeps_no_hidden_states_that_nobody_asked_for():
    model = build(VideoMAEModel, num_hidden_layers=6)
    made, alive = [], []

    def count(module, given, out):
        made.append(weakref.ref(out[0]))
        alive.append(sum(state() is not None for state in made))

    for layer in model.encoder.layer:
        layer.register_forward_hook(count)
    with torch.no_grad():
        model(clips())
    assert alive == [1, 2, 2, 2, 2, 2]  # what a layer takes and what it makes


@pytest.mark.parametrize("model_class", MODELS)
def test_outputs_come_as_a_tuple_when_asked_for(model_class):
    model = build(model_class)
    inputs = inputs_for(model)
    outputs, as_tuple = model(**inputs), model(**inputs, return_dict=False)
    assert isinstance(as_tuple, tuple)
    for value, other in zip(outputs.to_tuple(), as_tuple, strict=True):
        assert torch.equal(value, other)


@pytest.mark.parametrize("model_class", MODELS)
def test_attention_implementations_agree(model_class):
    model = build(model_class)
    inputs = inputs_for(model)
    results = {}
    for kind in ("eager", "sdpa", "flex_attention"):
        model.set_attn_implementation(kind)
        if kind == "flex_attention" and not torch.cuda.is_available():
            # On the CPU it needs a C++ compiler; here the switch itself must reach every layer, the decoder's too.
            layers = [module for module in model.modules() if isinstance(module, VideoMAESelfAttention)]
            assert {layer.config._attn_implementation for layer in layers} == {"flex_attention"}
            continue
        results[kind] = main_output(model(**inputs))
    assert torch.allclose(results["eager"], results["sdpa"], atol=2e-6)


@pytest.mark.parametrize("model_class", [VideoMAEForPreTraining, VideoMAEForVideoClassification])
def test_gradient_checkpointing_gives_the_same_gradients(model_class):
    model = build(model_class).train()
    twin = copy.deepcopy(model)
    twin.gradient_checkpointing_enable()
    assert all(layer.gradient_checkpointing for layer in twin.modules() if isinstance(layer, VideoMAELayer))
    inputs = inputs_for(model)
    for one in (model, twin):
        one(**inputs).loss.backward()
    for (name, parameter), other in zip(model.named_parameters(), twin.parameters()):
        assert torch.allclose(parameter.grad, other.grad, atol=1e-7), name


@pytest.mark.parametrize("model_class", [VideoMAEForPreTraining, VideoMAEForVideoClassification])
def test_every_parameter_learns(model_class):
    model = build(model_class, use_mean_pooling=model_class is VideoMAEForVideoClassification).train()
    model(**inputs_for(model)).loss.backward()
    for name, parameter in model.named_parameters():
        if not name.endswith("key.bias"):
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("model_class", [VideoMAEForPreTraining, VideoMAEForVideoClassification])
def test_a_few_steps_lower_the_loss(model_class):
    model = build(model_class).train()
    inputs = inputs_for(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(12):
        loss = model(**inputs).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("model_class", MODELS)
def test_half_precision_stays_near_full_precision(model_class, dtype, tmp_path):
    model = build(model_class)
    inputs = inputs_for(model)
    exact = main_output(model(**inputs))
    model.save_pretrained(tmp_path)
    half = model_class.from_pretrained(tmp_path, dtype=dtype)
    assert half.dtype == dtype
    outputs = half(**{**inputs, "pixel_values": inputs["pixel_values"].to(dtype)})
    tolerance = 0.08 if dtype == torch.bfloat16 else 0.01
    assert (main_output(outputs).float() - exact).abs().max() < tolerance * exact.abs().max()
    if "loss" in outputs:
        assert outputs.loss.dtype == torch.float32 and outputs.loss.isfinite()


@pytest.mark.parametrize("model_class", [VideoMAEForPreTraining, VideoMAEForVideoClassification])
def test_autocast_trains_in_bfloat16(model_class):
    model = build(model_class).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = model(**inputs_for(model))
    outputs.loss.backward()
    assert main_output(outputs).dtype == torch.bfloat16 and outputs.loss.dtype == torch.float32
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("model_class", MODELS)
def test_a_model_built_on_the_meta_device_is_right_once_its_weights_are_there(model_class, tmp_path):
    model = build(model_class)
    with torch.device("meta"):
        empty = model_class(model.config)
    assert all(parameter.is_meta for parameter in empty.parameters())
    assert not list(empty.buffers())  # nothing that meta construction could leave as garbage
    empty.load_state_dict(model.state_dict(), assign=True)
    inputs = inputs_for(model)
    expected = main_output(model(**inputs))
    assert torch.equal(main_output(empty.eval()(**inputs)), expected)
    model.save_pretrained(tmp_path)
    placed = model_class.from_pretrained(tmp_path, device_map={"": "cpu"})
    assert torch.equal(main_output(placed(**inputs)), expected)


@pytest.mark.parametrize("model_class", MODELS)
def test_weights_offloaded_to_disk_give_the_same_outputs(model_class, tmp_path):
    model = build(model_class)
    inputs = inputs_for(model)
    expected = main_output(model(**inputs))
    from accelerate import cpu_offload

    offloaded = cpu_offload(copy.deepcopy(model), execution_device=torch.device("cpu"))
    assert torch.equal(main_output(offloaded(**inputs)), expected)


def test_stochastic_depth_grows_over_the_blocks_and_keeps_the_mean():
    model = build(VideoMAEForVideoClassification, drop_path_rate=0.2)
    assert [layer.drop_path.rate for layer in model.videomae.encoder.layer] == [0.0, 0.1, 0.2]
    torch.manual_seed(0)
    drop = VideoMAEDropPath(0.25).train()
    dropped = drop(torch.ones(20000, 1, 2))
    assert dropped.unique().tolist() == [0.0, pytest.approx(1 / 0.75)]
    assert (dropped[:, :, 0] == dropped[:, :, 1]).all()  # a clip's branch goes as a whole
    assert abs(dropped.mean().item() - 1) < 0.02
    assert torch.equal(drop.eval()(torch.ones(3, 1, 1)), torch.ones(3, 1, 1))


@pytest.mark.parametrize("dual", [False, True])
def test_pretraining_compiles_as_one_graph_forward_and_backward(dual):
    model = build(VideoMAEForPreTraining).train()
    hidden, decoded, visible = dual_masks()
    options = dict(bool_decoded_pos=decoded, num_decoded=64) if dual else {}
    check_compiled(model, {"pixel_values": clips(), "bool_masked_pos": hidden, "num_visible": visible, **options})


@pytest.mark.parametrize("size", ["configured", "other"])
def test_classification_compiles_as_one_graph_forward_and_backward(size):
    model = build(VideoMAEForVideoClassification, drop_path_rate=0.0).train()
    inputs = inputs_for(model)
    if size == "other":
        inputs = {**inputs, "pixel_values": clips(width=48), "interpolate_pos_encoding": True}
    check_compiled(model, inputs)


def check_compiled(model, inputs, backend="aot_eager"):
    torch._dynamo.reset()
    expected = model(**inputs)
    expected.loss.backward()
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    outputs = torch.compile(model, fullgraph=True, backend=backend)(**inputs)
    outputs.loss.backward()
    assert torch.allclose(outputs.loss, expected.loss, rtol=1e-5)
    assert torch.allclose(outputs.logits, expected.logits, atol=1e-5)
    for parameter, gradient in zip(model.parameters(), gradients):
        assert torch.allclose(parameter.grad, gradient, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("model_class", [VideoMAEForPreTraining, VideoMAEForVideoClassification])
def test_inductor_gives_the_same_step(model_class):
    import shutil

    if not shutil.which("g++") and not shutil.which("clang++"):
        pytest.skip("inductor compiles C++ on the CPU and no compiler is installed")
    model = build(model_class).train()
    check_compiled(model, inputs_for(model), backend="inductor")


@pytest.mark.parametrize("model_class", [VideoMAEModel, VideoMAEForVideoClassification])
def test_encoder_and_classifier_export(model_class):
    model = build(model_class)
    video = clips(1)
    program = torch.export.export(model, (video,))
    assert torch.allclose(main_output(program.module()(video)), main_output(model(video)), atol=1e-6)


def test_pooled_features_are_the_normalised_mean(tmp_path):
    model = build(VideoMAEModel, pooled_features=True)
    outputs = model(clips())
    by_hand = model.fc_norm(outputs.last_hidden_state.mean(1))
    assert torch.allclose(outputs.pooler_output, by_hand)
    model.save_pretrained(tmp_path)
    _, info = VideoMAEModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]


def test_stack_masks_and_the_model_agree_on_the_counts():
    hidden, visible = stack_masks([tube_mask((8, 4, 4), 0.75), tube_mask((8, 4, 4), 0.75)])
    outputs = build(VideoMAEForPreTraining)(clips(), hidden, num_visible=visible)
    assert outputs.logits.shape[1] == 128 - visible
