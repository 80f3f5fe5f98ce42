"""Fine-tuning against the official loop, restated in plain lines: ten steps, and every parameter's rate and decay.

The other side has weights under the official names with the fused qkv matrix, the forward of conversion/reference.py, timm's
mixup in batch mode, layer decay as optim_factory.py assigns it, and AdamW written out. Float32, no AMP.
"""

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from official_loops import OfficialAdamW, official_rates, official_weights
from support import TINY

from videomae import VideoMAEConfig, VideoMAEForVideoClassification
from videomae.conversion import reference as reference_videomae
from videomae.data.mixing import Mix, Mixing
from videomae.data.transforms import Box
from videomae.training.loop import training_step
from videomae.training.objective import Objective
from videomae.training.optimisation import Schedule, build_optimizer, parameter_groups
from videomae.training.recipes import FINETUNING, FinetuneRecipe

STEPS_PER_EPOCH, STEPS, CLIPS, CLASSES, LAYERS = 2, 10, 4, 5, 3
# Mixup and cutmix in turn, one step unmixed; the boxes as cutmix_bbox_and_lam leaves them, cut at the border.
MIXES = [Mix(0.3), Mix(1 - 8 * 12 / 1024, Box(4, 20, 8, 12)), Mix(1.0), Mix(0.9)]


def classifier_weights(model):
    """Our weights as leaves under the names and in the layout of modeling_finetune.py."""
    state = {name: value.detach() for name, value in model.state_dict().items()}
    renamed = {}
    for kind in ("weight", "bias"):
        renamed[f"patch_embed.proj.{kind}"] = state[f"videomae.embeddings.patch_embeddings.projection.{kind}"]
        renamed[f"fc_norm.{kind}"] = state[f"fc_norm.{kind}"]
        renamed[f"head.{kind}"] = state[f"classifier.{kind}"]
    return official_weights(state, renamed, [("videomae.encoder.layer", "blocks", LAYERS)])


def official_layer(name, layers=LAYERS):
    """`get_num_layer_for_vit`."""
    if name.startswith("patch_embed"):
        return 0
    return int(name.split(".")[1]) + 1 if name.startswith("blocks") else layers + 1


def official_mixed(pixels, labels, mix, smoothing):
    """timm's Mixup in batch mode with a given draw, and its smoothed soft labels."""
    pixels = pixels.clone()
    if mix.box is not None:
        y, x, h, w = mix.box
        pixels[..., y : y + h, x : x + w] = pixels.flip(0)[..., y : y + h, x : x + w]
    elif mix.share != 1:
        pixels = pixels * mix.share + pixels.flip(0) * (1 - mix.share)
    off = smoothing / CLASSES
    on = 1 - smoothing + off
    one = torch.full((len(labels), CLASSES), off).scatter_(1, labels[:, None], on)
    two = torch.full((len(labels), CLASSES), off).scatter_(1, labels.flip(0)[:, None], on)
    return pixels, one * mix.share + two * (1 - mix.share)


def official_loop(weights, batches, recipe):
    """engine_for_finetuning.py without its loss scaler: returns the loss of every step and updates the weights."""
    optimizer, losses = OfficialAdamW(weights, recipe), []
    rates = official_rates(recipe, STEPS_PER_EPOCH)
    for step, (lr, (pixels, labels, mix)) in enumerate(zip(rates, batches), start=1):
        pixels, targets = official_mixed(pixels, labels, mix, recipe.label_smoothing)
        forward = reference_videomae.classify.__wrapped__  # the same function, outside of its no_grad
        logits = forward(weights, pixels, heads=3)["logits"]
        loss = torch.sum(-targets * torch.log_softmax(logits, dim=-1), dim=-1).mean()
        gradients = dict(zip(weights, torch.autograd.grad(loss, list(weights.values())), strict=True))
        losses.append(loss.item())
        for name, value in weights.items():
            rate = lr * recipe.layer_decay ** (LAYERS + 1 - official_layer(name))
            decay = 0.0 if value.ndim == 1 or name.endswith(".bias") else recipe.weight_decay
            optimizer.update(name, value, gradients[name], step=step, rate=rate, decay=decay)
    return losses


def test_ten_steps_across_the_end_of_the_warm_up_equal_the_official_loop():
    recipe = FinetuneRecipe(
        epochs=8, warmup_epochs=2, clips_per_step=1024, base_lr=1e-3, min_lr=1e-5, layer_decay=0.75, drop_path_rate=0.0
    )
    torch.manual_seed(0)
    model = VideoMAEForVideoClassification(
        VideoMAEConfig(**TINY, layer_norm_eps=1e-6, norm_eps=1e-6, num_labels=CLASSES, init_scale=1.0)
    )
    model.train()
    weights = classifier_weights(model)
    batches = [batch_of(step) for step in range(STEPS)]
    official_losses = official_loop(weights, batches, recipe)

    accelerator = Accelerator(cpu=True)
    schedule = Schedule.of(recipe, STEPS_PER_EPOCH)
    mixing = Mixing(CLASSES, label_smoothing=recipe.label_smoothing)
    objective = Objective(problem="single_label_classification", num_labels=CLASSES, label_smoothing=0.1)
    model, optimizer = accelerator.prepare(model, build_optimizer(model, recipe))
    losses = []
    for step, (pixels, labels, mix) in enumerate(batches):
        pixels, labels = mixing.apply(pixels.clone(), labels, mix)
        batch = {"pixel_values": pixels, "labels": labels, "sources": ["clip"] * CLIPS}
        rates = {"lr": schedule.lr_at(step), "weight_decay": schedule.weight_decay_at(step)}
        loss, _, bad = training_step(accelerator, model, optimizer, [batch], objective, **rates)
        losses.append(loss.item())
        assert not bad

    assert schedule.warmup_steps == 4 and losses[0] != losses[-1]
    np.testing.assert_allclose(losses, official_losses, rtol=0, atol=1e-5)
    after = classifier_weights(model)
    for name, value in weights.items():
        torch.testing.assert_close(after[name], value, rtol=0, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")


def batch_of(step):
    generator = torch.Generator().manual_seed(step)
    pixels = torch.randn(CLIPS, 16, 3, 32, 32, generator=generator)
    return pixels, torch.randint(CLASSES, (CLIPS,), generator=generator), MIXES[step % len(MIXES)]


def test_micro_batches_and_smoothing_without_mixing_give_the_step_of_the_whole_batch():
    steps = []
    for parts in (1, 2):
        torch.manual_seed(0)
        model = VideoMAEForVideoClassification(VideoMAEConfig(**TINY, num_labels=CLASSES))
        accelerator = Accelerator(cpu=True)
        model, optimizer = accelerator.prepare(model, build_optimizer(model, FINETUNING["tiny"]))
        pixels, labels, _ = batch_of(0)
        batches = [
            {"pixel_values": some, "labels": own, "sources": []}
            for some, own in zip(pixels.chunk(parts), labels.chunk(parts))
        ]
        objective = Objective(problem="single_label_classification", num_labels=CLASSES, label_smoothing=0.1)
        loss, norm, _ = training_step(accelerator, model, optimizer, batches, objective, lr=1e-3, weight_decay=0.05)
        steps.append((loss.item(), norm.item()))
    np.testing.assert_allclose(steps[0], steps[1], rtol=1e-5)
    # Cross-entropy smoothed by torch itself is the same loss.
    torch.manual_seed(0)
    model = VideoMAEForVideoClassification(VideoMAEConfig(**TINY, num_labels=CLASSES))
    expected = torch.nn.functional.cross_entropy(model(pixels).logits, labels, label_smoothing=0.1)
    assert steps[0][0] == pytest.approx(expected.item(), abs=1e-6)


LAYERS_OF = {"small": 12, "base": 12, "large": 24, "huge": 32, "giant": 40}


@pytest.mark.parametrize("name", [name for name in FINETUNING if name != "tiny"])
def test_every_parameter_of_every_published_recipe_has_the_published_rate_and_decay(name):
    recipe = FINETUNING[name]
    layers = LAYERS_OF[recipe.model]
    with torch.device("meta"):
        config = VideoMAEConfig.preset(recipe.model, head="classify", version=recipe.version, num_labels=10)
        model = VideoMAEForVideoClassification(config)
    groups = parameter_groups(model, weight_decay=recipe.weight_decay, layer_decay=recipe.layer_decay)
    found = {id(parameter): group for group in groups for parameter in group["params"]}
    parameters = list(model.named_parameters())
    assert len(found) == len(parameters)
    for parameter_name, parameter in parameters:
        if parameter_name.startswith("videomae.embeddings."):
            layer = 0
        elif parameter_name.startswith("videomae.encoder.layer."):
            layer = int(parameter_name.split(".")[3]) + 1
        else:
            assert parameter_name.split(".")[0] in ("fc_norm", "classifier")
            layer = layers + 1
        group = found[id(parameter)]
        assert group["lr_scale"] == pytest.approx(recipe.layer_decay ** (layers + 1 - layer)), parameter_name
        vector = parameter.ndim == 1 or parameter_name.endswith(".bias")
        assert group["weight_decay"] == (0.0 if vector else recipe.weight_decay), parameter_name
