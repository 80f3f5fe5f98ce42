import numpy as np
import pytest
import torch

from videomae.data.boxes import Box
from videomae.data.mixing import Mix, Mixing, soft_labels


def test_soft_labels_sum_to_one_with_the_published_smoothing():
    targets = soft_labels(torch.tensor([0, 3]), 4, 0.1)
    assert targets[0].tolist() == pytest.approx([0.925, 0.025, 0.025, 0.025])
    assert targets[1].argmax() == 3


def test_a_mixup_is_a_weighted_sum_with_the_mirrored_batch():
    pixels = torch.randn(4, 2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    mixed, targets = Mixing(5, label_smoothing=0).apply(pixels.clone(), torch.tensor([0, 1, 2, 3]), Mix(0.7))
    assert torch.allclose(mixed[0], 0.7 * pixels[0] + 0.3 * pixels[3], atol=1e-6)
    assert targets[1].tolist() == pytest.approx([0, 0.7, 0.3, 0, 0])


def test_a_cutmix_pastes_a_box_of_the_mirrored_batch_into_every_frame():
    pixels = torch.randn(2, 4, 3, 8, 8)
    mix = Mix(1 - 6 / 64, Box(1, 2, 2, 3))
    mixed, targets = Mixing(2, label_smoothing=0).apply(pixels.clone(), torch.tensor([0, 1]), mix)
    assert torch.equal(mixed[0, :, :, 1:3, 2:5], pixels[1, :, :, 1:3, 2:5])
    outside = torch.ones(8, 8, dtype=torch.bool)
    outside[1:3, 2:5] = False
    assert torch.equal(mixed[..., outside], pixels[..., outside])
    assert targets[0].tolist() == pytest.approx([58 / 64, 6 / 64])


def test_draws_follow_the_published_distributions():
    mixing = Mixing(10)
    mixes = [mixing.draw(224, 224, seed) for seed in range(6000)]
    cut = [mix for mix in mixes if mix.box is not None]
    assert len(cut) / len(mixes) == pytest.approx(0.5, abs=0.02)
    shares = np.array([mix.share for mix in mixes if mix.box is None])
    assert shares.mean() == pytest.approx(0.5, abs=0.02)
    assert shares.var() == pytest.approx(1 / (4 * (2 * 0.8 + 1)), rel=0.05)  # of a beta distribution with both 0.8
    for mix in cut:
        assert mix.share == 1 - mix.box.height * mix.box.width / 224**2
    assert mixing.draw(64, 64, 3) == mixing.draw(64, 64, 3)


def test_switches_turn_each_kind_off():
    assert all(Mixing(3, mixup_alpha=0).draw(32, 32, seed).box is not None for seed in range(50))
    assert all(Mixing(3, cutmix_alpha=0).draw(32, 32, seed).box is None for seed in range(50))
    assert Mixing(3, mixup_alpha=0, cutmix_alpha=0).draw(32, 32, 0) == Mix(1.0)
    shares = [Mixing(3, probability=0.2).draw(32, 32, seed).share for seed in range(1000)]
    assert np.mean([share < 1 for share in shares]) == pytest.approx(0.2, abs=0.05)


def test_vectors_of_labels_are_mixed_too():
    labels = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    _, targets = Mixing(3).apply(torch.zeros(2, 1, 3, 4, 4), labels, Mix(0.75))
    assert targets[0].tolist() == [0.75, 0.75, 0.25]


def test_what_cannot_be_mixed_is_refused():
    with pytest.raises(ValueError, match="even batch, got 3"):
        Mixing(4)(torch.zeros(3, 1, 3, 4, 4), torch.tensor([0, 1, 2]), 0)
    with pytest.raises(ValueError, match="at least 2 classes"):
        Mixing(1)
    with pytest.raises(ValueError, match="label_smoothing must be in"):
        Mixing(3, label_smoothing=1.2)
