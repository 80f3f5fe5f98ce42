"""Parameter groups, schedule, step and average against plain restatements of the official arithmetic."""

import math

import numpy as np
import pytest
import torch
from support import TINY
from torch import nn

from videomae import VideoMAEConfig, VideoMAEForPreTraining, VideoMAEForVideoClassification
from videomae.training.optimisation import (
    Ema,
    Schedule,
    build_optimizer,
    gradient_norm,
    layer_of,
    layer_scale,
    parameter_groups,
    set_rates,
    step_unless,
)
from videomae.training.recipes import FINETUNING, PRETRAINING, FinetuneRecipe, PretrainRecipe


def official_schedule(base, final, epochs, steps_per_epoch, warmup_epochs, start=0.0):
    """`cosine_scheduler` of the releases' utils.py, restated."""
    warmup_steps = int(warmup_epochs * steps_per_epoch)
    rest = np.arange(epochs * steps_per_epoch - warmup_steps)
    cosine = [final + 0.5 * (base - final) * (1 + math.cos(math.pi * i / len(rest))) for i in rest]
    return np.concatenate([np.linspace(start, base, warmup_steps), cosine])


@pytest.mark.parametrize(
    "recipe", [*PRETRAINING.values(), *FINETUNING.values()], ids=lambda recipe: f"{recipe.kind} {recipe.name}"
)
def test_every_recipes_learning_rate_is_the_official_schedule(recipe):
    steps_per_epoch = 3
    schedule = Schedule.of(recipe, steps_per_epoch)
    scale = recipe.clips_per_step / 256
    expected = official_schedule(
        recipe.base_lr * scale, recipe.min_lr * scale, recipe.epochs, steps_per_epoch, recipe.warmup_epochs
    )
    assert schedule.total_steps == len(expected)
    np.testing.assert_allclose(
        [schedule.lr_at(step) for step in range(schedule.total_steps)], expected, rtol=1e-12, atol=0
    )


def test_the_warm_up_starts_at_zero_and_reaches_the_peak_in_its_last_step():
    schedule = Schedule(peak_lr=1.0, final_lr=0.1, warmup_steps=5, total_steps=15)
    assert [schedule.lr_at(step) for step in range(6)] == [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]


def test_weight_decay_is_constant_unless_it_has_an_end():
    schedule = Schedule(peak_lr=1, final_lr=0, warmup_steps=0, total_steps=10, weight_decay=0.05)
    assert {schedule.weight_decay_at(step) for step in range(10)} == {0.05}
    schedule = Schedule(peak_lr=1, final_lr=0, warmup_steps=0, total_steps=10, weight_decay=0.05, weight_decay_end=0.5)
    assert schedule.weight_decay_at(0) == pytest.approx(0.05) and schedule.weight_decay_at(5) == pytest.approx(0.275)


def test_a_warm_up_longer_than_the_training_is_refused():
    with pytest.raises(ValueError, match="warmup_epochs 40 does not leave room in epochs 10"):
        Schedule.of(PretrainRecipe(epochs=10), 5)


def test_rates_scale_with_the_batch_and_are_not_written_back():
    recipe = PretrainRecipe(base_lr=1.5e-4, min_lr=1e-5, clips_per_step=2048)
    assert (
        recipe.peak_lr == pytest.approx(1.2e-3) and recipe.final_lr == pytest.approx(8e-5) and recipe.base_lr == 1.5e-4
    )


def test_vectors_biases_and_the_mask_token_have_no_weight_decay():
    model = VideoMAEForPreTraining(VideoMAEConfig(**TINY))
    groups = {group["name"]: group for group in parameter_groups(model, weight_decay=0.05)}
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    free = {names[id(parameter)] for parameter in groups["no_decay"]["params"]}
    assert set(groups) == {"decay", "no_decay"}
    assert "mask_token" in free
    assert free - {"mask_token"} == {name for name, parameter in model.named_parameters() if parameter.ndim == 1}
    assert groups["no_decay"]["weight_decay"] == 0.0 and groups["decay"]["weight_decay"] == 0.05


def test_layer_decay_gives_each_layer_its_published_factor():
    model = VideoMAEForVideoClassification(VideoMAEConfig(**TINY, num_labels=5))
    factors = {name: layer_scale(name, 3, 0.5) for name, _ in model.named_parameters()}
    assert factors["videomae.embeddings.patch_embeddings.projection.weight"] == 0.5**4
    for block in range(3):
        assert factors[f"videomae.encoder.layer.{block}.attention.attention.query.weight"] == 0.5 ** (3 - block)
    assert factors["fc_norm.weight"] == factors["classifier.bias"] == 1.0
    assert layer_of("videomae.layernorm.weight", 3) == 4
    groups = parameter_groups(model, weight_decay=0.05, layer_decay=0.5)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert all(factors[names[id(p)]] == group["lr_scale"] for group in groups for p in group["params"])
    assert sum(len(group["params"]) for group in groups) == len(factors)


def test_set_rates_multiplies_by_the_groups_factor():
    model = VideoMAEForVideoClassification(VideoMAEConfig(**TINY, num_labels=5))
    optimizer = build_optimizer(model, FinetuneRecipe(layer_decay=0.5))
    set_rates(optimizer, lr=2.0, weight_decay=0.3)
    by_name = {group["name"]: group for group in optimizer.param_groups}
    assert by_name["layer_0_decay"]["lr"] == 2.0 * 0.5**4 and by_name["layer_4_no_decay"]["lr"] == 2.0
    assert by_name["layer_0_decay"]["weight_decay"] == 0.3 and by_name["layer_4_no_decay"]["weight_decay"] == 0.0


def test_a_model_without_trainable_parameters_is_refused():
    with pytest.raises(ValueError, match="no trainable parameter"):
        parameter_groups(nn.Linear(2, 2).requires_grad_(False), weight_decay=0.0)


@pytest.mark.parametrize("fused", [True, False])
def test_a_bad_step_changes_neither_weights_nor_momenta_nor_the_step_count(fused):
    torch.manual_seed(0)
    layer = nn.Linear(4, 3)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1, fused=fused)
    layer(torch.randn(2, 4)).sum().backward()
    step_unless(torch.tensor(False), optimizer)
    before = [layer.weight.clone(), *(value.clone() for value in optimizer.state[layer.weight].values())]
    layer.weight.grad.fill_(float("nan"))
    step_unless(torch.tensor(True), optimizer)
    after = [layer.weight, *optimizer.state[layer.weight].values()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    layer.weight.grad.fill_(1.0)
    step_unless(torch.tensor(False), optimizer)
    assert not torch.equal(before[0], layer.weight) and optimizer.state[layer.weight]["step"].item() == 2


def test_the_gradient_norm_is_that_of_all_gradients_and_clips_to_the_bound():
    layer = nn.Linear(2, 2)
    layer.weight.grad, layer.bias.grad = torch.full((2, 2), 2.0), torch.tensor([3.0, 0.0])
    assert gradient_norm(layer.parameters()).item() == pytest.approx(5.0)
    assert layer.bias.grad[0] == 3.0
    assert gradient_norm(layer.parameters(), 1.0).item() == pytest.approx(5.0)
    assert gradient_norm(layer.parameters()).item() == pytest.approx(1.0, rel=1e-4)


def test_the_average_follows_the_weights():
    layer = nn.Linear(2, 2)
    ema = Ema(layer, 0.9)
    old = layer.weight.detach().clone()
    with torch.no_grad():
        layer.weight += 1.0
    ema.update(layer)
    torch.testing.assert_close(ema.state["weight"], old + 0.1)
    with pytest.raises(ValueError, match=r"strictly between 0 and 1, got 1\.0"):
        Ema(layer, 1.0)
