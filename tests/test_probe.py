"""Probes on frozen features."""

import torch

from videomae.commands.probe import (
    accuracy,
    attentive_scores,
    held_out_share,
    knn_scores,
    linear_scores,
    logistic_regression,
)


def blobs(n: int, spread: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Points round the corners of a triangle in 8 dimensions."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 3
    return torch.eye(8)[labels] + spread * torch.randn(n, 8, generator=generator), labels


def test_the_nearest_neighbour_votes():
    train = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    scores = knn_scores(train, torch.tensor([1, 0]), torch.tensor([[2.0, 0.1], [0.1, 3.0]]), 2, k=1)
    assert scores.argmax(dim=1).tolist() == [1, 0]


def test_nearer_neighbours_weigh_more_than_many():
    train = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [0.0, 1.0]])
    scores = knn_scores(train, torch.tensor([0, 1, 1, 1]), torch.tensor([[1.0, 0.2]]), 2, k=4)
    assert scores.argmax() == 0


def test_all_probes_separate_blobs():
    (train, train_labels), (test, labels) = blobs(90, 0.2, 0), blobs(60, 0.2, 1)
    assert accuracy(knn_scores(train, train_labels, test, 3), labels)["top1"] > 0.95
    assert accuracy(linear_scores(train, train_labels, test, 3), labels)["top1"] > 0.95


def test_the_logistic_regression_reaches_the_minimum():
    features, labels = blobs(60, 0.5, 0)
    weight, bias = logistic_regression(features, labels, 3, 1e-2)
    weight.requires_grad_()
    bias.requires_grad_()
    loss = torch.nn.functional.cross_entropy(features @ weight.T + bias, labels) + 5e-3 * weight.square().sum()
    gradients = torch.autograd.grad(loss, (weight, bias))
    assert max(gradient.abs().max() for gradient in gradients) < 1e-4


def test_every_class_keeps_training_videos_when_some_are_held_out():
    labels = torch.tensor([0] * 10 + [1] * 3)
    held_out = held_out_share(labels, every=5, seed=0)
    assert held_out[:10].sum() == 2 and not held_out[10:].any()


def test_the_attentive_probe_finds_the_token_that_tells_the_class():
    # One of 6 tokens, at a random place, carries the class; the mean token shows a sixth of it.
    def clips(n, seed):
        generator = torch.Generator().manual_seed(seed)
        tokens, labels = 0.3 * torch.randn(n, 6, 8, generator=generator), torch.arange(n) % 3
        place = torch.randint(6, (n,), generator=generator)
        tokens[torch.arange(n), place] += 2 * torch.eye(8)[labels]
        return tokens, labels

    (train, train_labels), (test, labels) = clips(240, 0), clips(60, 1)
    scores = attentive_scores(train, train_labels, test, 3, heads=2, lr=1e-2)
    assert accuracy(scores, labels)["top1"] > 0.9
    again = attentive_scores(train, train_labels, test, 3, heads=2, lr=1e-2)
    assert torch.equal(scores, again)
