"""The attentive heads against the public frozen evaluation of V-JEPA 2, restated here from its files.

What is restated: `AttentiveClassifier` and its blocks, the loss of `run_one_epoch`, one AdamW a head over all its
parameters, and `WarmupCosineLRSchedule` (attentive_pooler.py, modules.py and eval.py of facebookresearch/vjepa2, commit
c2963a4), on the same weights and the same tokens of tiny encoders.
"""

import math

import pytest
import torch
from accelerate import Accelerator
from support import TINY
from torch import nn
from torch.nn import functional as F
from transformers import VJEPA2Config, VJEPA2Model

from videomae import VideoMAEConfig, VideoMAEModel
from videomae.attentive_probe_videomae import AttentiveHead
from videomae.evaluation.attentive_heads import AttentiveHeads, HeadsConfig, heads_loss
from videomae.training.loop import training_step
from videomae.training.optimisation import Schedule, build_optimizer
from videomae.training.probe_recipes import PROBE_RECIPES, ProbeRecipe, consistent

TINY_VJEPA2 = dict(
    crop_size=32, patch_size=8, frames_per_clip=8, hidden_size=48, num_attention_heads=2, num_hidden_layers=2,
    pred_hidden_size=24, pred_num_attention_heads=2, pred_num_hidden_layers=1,
)  # fmt: skip

# --------------------------------------------------------------------------------------------- the public code, restated


def attention(query, key, value, heads):
    query, key, value = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (query, key, value))
    weights = (query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])).softmax(-1)
    return (weights @ value).transpose(1, 2).flatten(2)


class PublicBlock(nn.Module):
    """Pre-norm, one fused matrix for query, key and value; of several tokens (`cross` False) or of one query."""

    def __init__(self, width, heads, cross=False):
        super().__init__()
        self.heads, self.cross = heads, cross
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        if cross:
            self.q, self.kv = nn.Linear(width, width), nn.Linear(width, 2 * width)
        else:
            self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x, context=None):
        if self.cross:  # the query itself is not normalised, and nothing is projected after the attention
            key, value = self.kv(self.norm1(context)).chunk(2, dim=-1)
            x = x + attention(self.q(x), key, value, self.heads)
        else:
            x = x + self.proj(attention(*self.qkv(self.norm1(x)).chunk(3, dim=-1), self.heads))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class PublicClassifier(nn.Module):
    def __init__(self, width, heads, depth, num_classes):
        super().__init__()
        self.query = nn.Parameter(torch.zeros(1, 1, width))
        self.blocks = nn.ModuleList(PublicBlock(width, heads) for _ in range(depth - 1))
        self.cross = PublicBlock(width, heads, cross=True)
        self.linear = nn.Linear(width, num_classes)

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return self.linear(self.cross(self.query.repeat(len(x), 1, 1), x).squeeze(1))


@torch.no_grad()
def public_twin(head: AttentiveHead, *, heads: int) -> PublicClassifier:
    """The public classifier with the weights of ours: separate matrices stacked, names mapped."""
    pooler, width = head.pooler, head.linear.in_features
    twin = PublicClassifier(width, heads, len(pooler.self_attention_layers) + 1, head.linear.out_features)
    twin.to(head.linear.weight.dtype)
    for ours, theirs in zip(
        [*pooler.self_attention_layers, pooler.cross_attention_layer], [*twin.blocks, twin.cross], strict=True
    ):
        attend = ours.cross_attn if theirs.cross else ours.self_attn
        fused = [attend.k_proj, attend.v_proj] if theirs.cross else [attend.q_proj, attend.k_proj, attend.v_proj]
        target = theirs.kv if theirs.cross else theirs.qkv
        target.weight.copy_(torch.cat([each.weight for each in fused]))
        target.bias.copy_(torch.cat([each.bias for each in fused]))
        pairs = [(theirs.norm1, ours.layer_norm1), (theirs.norm2, ours.layer_norm2)]
        pairs += [(theirs.fc1, ours.mlp.fc1), (theirs.fc2, ours.mlp.fc2)]
        pairs += [(theirs.q, attend.q_proj)] if theirs.cross else [(theirs.proj, attend.out_proj)]
        for to, of in pairs:
            to.load_state_dict(of.state_dict())
    twin.query.copy_(pooler.query_tokens)
    twin.linear.load_state_dict(head.linear.state_dict())
    return twin


def public_lr(step: int, total: int, reference: float) -> float:
    """The rate of the `step`-th call of the schedule, counted from 1, without warm-up and down to 0."""
    return max(0.0, reference * 0.5 * (1.0 + math.cos(math.pi * step / total)))


def public_training(classifiers, rates, batches, total):
    """Ten steps of the public loop: each classifier has its own optimizer, and its rate is set before each step."""
    optimizers = [
        torch.optim.AdamW(c.parameters(), lr=1.0, weight_decay=decay) for c, (_, decay) in zip(classifiers, rates)
    ]
    history = []
    for number, (tokens, labels) in enumerate(batches, start=1):
        losses = [nn.CrossEntropyLoss()(c(tokens), labels) for c in classifiers]
        for loss, optimizer, (lr, _) in zip(losses, optimizers, rates):
            loss.backward()
            optimizer.param_groups[0]["lr"] = public_lr(number, total, lr)
            optimizer.step()
            optimizer.zero_grad()
        history.append([loss.item() for loss in losses])
    return history


# ------------------------------------------------------------------------------------------------------------- parity


def tiny_tokens(kind: str, videos: int) -> torch.Tensor:
    """Tokens of two segments of `videos` random videos from a tiny encoder, (B, N, 48)."""
    torch.manual_seed(3)
    clips = torch.randn(2 * videos, 8, 3, 32, 32)
    with torch.no_grad():
        if kind == "videomae":
            model = VideoMAEModel(VideoMAEConfig(**{**TINY, "num_frames": 8}, use_mean_pooling=False)).eval()
            tokens = model(clips).last_hidden_state
        else:
            model = VJEPA2Model(VJEPA2Config(**TINY_VJEPA2)).eval()
            tokens = model(pixel_values_videos=clips, skip_predictor=True).last_hidden_state
    return tokens.unflatten(0, (videos, 2)).flatten(1, 2)


RECIPE = consistent(ProbeRecipe(learning_rates=(5e-3, 3e-4), weight_decays=(0.01, 0.8), epochs=2, clips_per_step=3))


def grid_of_heads() -> AttentiveHeads:
    torch.manual_seed(0)
    config = HeadsConfig(
        width=48, num_classes=5, learning_rates=RECIPE.learning_rates, weight_decays=RECIPE.weight_decays
    )
    heads = AttentiveHeads(config)
    with torch.no_grad():  # all parameters move away from where symmetry could hide a mistake
        for parameter in heads.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return heads


@pytest.mark.parametrize("encoder", ["videomae", "vjepa2"])
def test_forward_loss_and_ten_steps_are_those_of_the_public_code(encoder):
    # In float64: AdamW divides a gradient by its own size, and so makes whole steps of what is rounding in float32 (the
    # bias of keys, which a softmax does not see, has no other gradient).
    heads, tokens = grid_of_heads().double(), tiny_tokens(encoder, 6).double()
    labels = torch.tensor([0, 1, 2, 3, 4, 0])
    twins = [public_twin(head, heads=16) for head in heads.heads]
    with torch.no_grad():
        logits = heads(tokens)
        for ours, twin in zip(logits, twins):
            torch.testing.assert_close(ours, twin(tokens), atol=1e-5, rtol=1e-5)
        public = sum(nn.CrossEntropyLoss()(twin(tokens), labels) for twin in twins)
        torch.testing.assert_close(heads_loss(logits, labels), public, atol=1e-5, rtol=1e-5)

    batches = [(tokens[3 * (i % 2) :][:3], labels[3 * (i % 2) :][:3]) for i in range(10)]
    public_losses = public_training(twins, heads.config.rates, batches, total=10)
    accelerator, optimizer = Accelerator(cpu=True), build_optimizer(heads, RECIPE)
    schedule = Schedule.of(RECIPE, steps_per_epoch=5)
    for step, (part, answer) in enumerate(batches):
        batch = [{"tokens": part, "labels": answer}]
        rates = {"lr": schedule.lr_at(step), "weight_decay": schedule.weight_decay_at(step)}
        loss, _, _ = training_step(
            accelerator, heads, optimizer, batch, lambda model, b: heads_loss(model(b["tokens"]), b["labels"]), **rates
        )
        assert loss.item() == pytest.approx(sum(public_losses[step]), abs=1e-5, rel=1e-5)
    for head, twin in zip(heads.heads, twins):
        ours = dict(public_twin(head, heads=16).named_parameters())
        for name, parameter in twin.named_parameters():
            torch.testing.assert_close(ours[name], parameter, atol=1e-5, rtol=1e-5, msg=name)


def test_the_schedule_is_the_public_one_and_ends_at_zero():
    schedule = Schedule.of(RECIPE, steps_per_epoch=5)
    assert [schedule.lr_at(step) for step in range(10)] == pytest.approx([public_lr(i, 10, 5e-3) for i in range(1, 11)])
    assert schedule.lr_at(9) == pytest.approx(0.0, abs=1e-12)


def test_fresh_weights_have_the_public_deviations():
    torch.manual_seed(0)
    (head,) = AttentiveHeads(HeadsConfig(width=256, num_classes=50)).heads
    pooler = head.pooler
    for number, layer in enumerate(pooler.self_attention_layers, start=1):
        assert layer.self_attn.q_proj.weight.std().item() == pytest.approx(0.02, rel=0.02)
        for last in (layer.self_attn.out_proj, layer.mlp.fc2):
            assert last.weight.std().item() == pytest.approx(0.02 / math.sqrt(2 * number), rel=0.02)
    last = pooler.cross_attention_layer.mlp.fc2.weight.std().item()
    assert last == pytest.approx(0.02 / math.sqrt(6), rel=0.02)  # the third block's number again
    assert head.linear.weight.abs().max().item() <= 256**-0.5 and head.linear.bias.abs().max() > 0
    assert not pooler.cross_attention_layer.cross_attn.k_proj.bias.any()
    assert pooler.cross_attention_layer.layer_norm1.eps == 1e-5


def test_every_head_starts_from_weights_of_its_own():
    heads = AttentiveHeads(HeadsConfig(width=48, num_classes=5, learning_rates=(1e-3, 1e-4)))
    first, second = (head.pooler.query_tokens for head in heads.heads)
    assert not torch.equal(first, second)


def test_a_head_that_diverges_does_not_touch_the_others():
    heads, tokens = grid_of_heads(), tiny_tokens("videomae", 3)
    labels = torch.tensor([0, 1, 2])
    before = [p.detach().clone() for p in heads.heads[1].parameters()]
    with torch.no_grad():
        heads.heads[0].linear.weight.fill_(float("inf"))
    optimizer = build_optimizer(heads, RECIPE)
    loss, norm, bad = training_step(
        Accelerator(cpu=True), heads, optimizer, [{"tokens": tokens, "labels": labels}],
        lambda model, b: heads_loss(model(b["tokens"]), b["labels"]), lr=5e-3, weight_decay=0.8,
    )  # fmt: skip
    assert loss.isfinite() and norm.isfinite() and not bad
    after = list(heads.heads[1].parameters())
    assert all(p.isfinite().all() for p in after) and not all(map(torch.equal, before, after))


def test_a_number_of_heads_that_does_not_divide_the_width_is_named():
    with pytest.raises(ValueError, match="probe_heads=16 does not divide the encoder's width 50"):
        AttentiveHeads(HeadsConfig(width=50))


def test_the_presets_are_the_public_configurations():
    # configs/eval/vitl/{ssv2,k400,diving48}.yaml: frames, frame_step, num_segments, views, epochs, batch x GPUs, heads
    expected = {
        "ssv2": (16, 4, 2, 3, 20, 256, 20),
        "k400": (16, 4, 8, 3, 20, 256, 20),
        "diving48": (32, 2, 4, 3, 100, 128, 3),
    }
    for name, recipe in PROBE_RECIPES.items():
        grid = len(recipe.learning_rates) * len(recipe.weight_decays)
        found = (recipe.num_frames, recipe.stride_frames, recipe.segments, recipe.test_crops, recipe.epochs)
        assert (*found, recipe.clips_per_step, grid) == expected[name]
        assert (recipe.probe_blocks, recipe.probe_heads, recipe.warmup_epochs, recipe.flip) == (4, 16, 0, 0.0)
        assert recipe.peak_lr == max(recipe.learning_rates) and recipe.final_lr == 0.0
