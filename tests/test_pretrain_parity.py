"""Ten optimizer steps of ours against the official pre-training loop, restated in plain lines.

The other side shares nothing with ours but the arithmetic of the papers: weights under the official names with the fused
qkv matrix, the forward and loss of conversion/reference.py, AdamW written out, the schedule as an array. Float32, no AMP.
"""

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from official_loops import OfficialAdamW, official_rates, official_weights
from support import TINY

from videomae import VideoMAEConfig, VideoMAEForPreTraining
from videomae.conversion import reference as reference_videomae
from videomae.masking_videomae import running_cell_mask, tube_mask
from videomae.training.loop import training_step
from videomae.training.optimisation import Schedule, build_optimizer
from videomae.training.recipes import PretrainRecipe

STEPS_PER_EPOCH, STEPS, CLIPS = 2, 10, 4


def pretraining_weights(model):
    """Our weights as leaves under the names and in the layout of modeling_pretrain.py."""
    state = {name: value.detach() for name, value in model.state_dict().items()}
    renamed = {"mask_token": state["mask_token"], "encoder_to_decoder.weight": state["encoder_to_decoder.weight"]}
    for kind in ("weight", "bias"):
        renamed[f"encoder.patch_embed.proj.{kind}"] = state[f"videomae.embeddings.patch_embeddings.projection.{kind}"]
        renamed[f"encoder.norm.{kind}"] = state[f"videomae.layernorm.{kind}"]
        renamed[f"decoder.norm.{kind}"] = state[f"decoder.norm.{kind}"]
        renamed[f"decoder.head.{kind}"] = state[f"decoder.head.{kind}"]
    stacks = [("videomae.encoder.layer", "encoder.blocks", 3), ("decoder.decoder_layers", "decoder.blocks", 2)]
    return official_weights(state, renamed, stacks)


def official_loop(weights, batches, recipe, max_norm):
    """engine_for_pretraining.py without its loss scaler: returns the loss of every step and updates the weights."""
    optimizer, losses = OfficialAdamW(weights, recipe), []
    rates = official_rates(recipe, STEPS_PER_EPOCH)
    for step, (lr, (pixels, masked, decoded)) in enumerate(zip(rates, batches), start=1):
        forward = reference_videomae.pretrain.__wrapped__  # the same function, outside of its no_grad
        loss = forward(weights, pixels, masked, decoded, heads=3, decoder_heads=2)["loss"]
        gradients = dict(zip(weights, torch.autograd.grad(loss, list(weights.values())), strict=True))
        norm = torch.stack([gradient.norm() for gradient in gradients.values()]).norm()
        losses.append(loss.item())
        for name, value in weights.items():
            gradient = gradients[name]
            if max_norm is not None:
                gradient = gradient * min(1.0, max_norm / (norm.item() + 1e-6))
            kept = value.ndim == 1 or name.endswith(".bias") or name == "mask_token"
            optimizer.update(name, value, gradient, step=step, rate=lr, decay=0.0 if kept else recipe.weight_decay)
    return losses


@pytest.mark.parametrize("version, max_norm, micro_batches", [(1, None, 1), (2, None, 1), (2, 0.02, 2)])
def test_ten_steps_across_the_end_of_the_warm_up_equal_the_official_loop(version, max_norm, micro_batches):
    recipe = PretrainRecipe(
        epochs=8, warmup_epochs=2, clips_per_step=1024, base_lr=1e-3, min_lr=1e-5, clip_grad_norm=max_norm
    )
    torch.manual_seed(0)
    model = VideoMAEForPreTraining(
        VideoMAEConfig(**TINY, use_mean_pooling=False, layer_norm_eps=1e-6, norm_eps=1e-6, norm_pix_loss=True)
    )
    weights = pretraining_weights(model)
    batches = [batch_of(step, version, model.config.grid) for step in range(STEPS)]
    official_losses = official_loop(weights, batches, recipe, max_norm)

    accelerator = Accelerator(cpu=True)
    optimizer = build_optimizer(model, recipe)
    schedule = Schedule.of(recipe, STEPS_PER_EPOCH)
    model, optimizer = accelerator.prepare(model, optimizer)
    losses = []
    for step, batch in enumerate(batches):
        parts = [ours(batch, part, micro_batches) for part in range(micro_batches)]
        rates = {"lr": schedule.lr_at(step), "weight_decay": schedule.weight_decay_at(step)}
        loss, _, bad = training_step(accelerator, model, optimizer, parts, **rates, clip_grad_norm=max_norm)
        losses.append(loss.item())
        assert not bad

    assert schedule.warmup_steps == 4 and losses[0] != losses[-1]
    np.testing.assert_allclose(losses, official_losses, rtol=0, atol=1e-5)
    after = pretraining_weights(model)
    for name, value in weights.items():
        torch.testing.assert_close(after[name], value, rtol=0, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")


def batch_of(step, version, grid):
    generator = torch.Generator().manual_seed(step)
    pixels = torch.randn(CLIPS, 16, 3, 32, 32, generator=generator)
    masked = torch.stack([tube_mask(grid, 0.75, generator) for _ in range(CLIPS)])
    if version == 1:
        return pixels, masked, None
    return pixels, masked, torch.stack([~running_cell_mask(grid, 0.5, generator) for _ in range(CLIPS)])


def ours(batch, part, parts):
    """One micro-batch as the collator gives it, with the counts."""
    pixels, masked, decoded = (value if value is None else value.chunk(parts)[part] for value in batch)
    made = {"pixel_values": pixels, "bool_masked_pos": masked, "num_visible": int((~masked[0]).sum())}
    if decoded is not None:
        made |= {"bool_decoded_pos": decoded, "num_decoded": int(decoded[0].sum())}
    return {**made, "sources": ["clip"] * len(pixels)}
