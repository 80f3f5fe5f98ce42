"""Probes on frozen features."""

import json

import pytest
import torch
from support import TINY

from videomae import VideoMAEConfig, VideoMAEForPreTraining
from videomae.commands.probe import main
from videomae.data.synthetic import SyntheticSet, make_synthetic_set
from videomae.evaluation import probes as probe_command
from videomae.evaluation.probes import (
    accuracy,
    attentive_scores,
    few_shot,
    held_out_share,
    knn_scores,
    linear_scores,
    logistic_regression,
    vector_probes,
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


def test_a_high_temperature_lets_many_neighbours_outvote_a_nearer_one():
    train, labels = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [0.0, 1.0]]), torch.tensor([0, 1, 1, 1])
    test = torch.tensor([[1.0, 0.2]])
    similarity = torch.nn.functional.normalize(test)[0]
    for temperature, winner in ((0.07, 0), (10.0, 1)):
        votes = knn_scores(train, labels, test, 2, k=4, temperature=temperature)
        expected = (similarity[0] / temperature).exp() / (3 * (similarity[1] / temperature).exp())
        assert votes.argmax() == winner and (votes[0, 0] / votes[0, 1]).item() == pytest.approx(expected.item())


def test_few_shot_says_mean_and_deviation_of_its_draws():
    (train, train_labels), (test, labels) = blobs(90, 0.9, 0), blobs(300, 0.9, 1)
    sides = (train, train_labels, test, labels, 3)
    one, many = few_shot(*sides, shots=1, draws=8), few_shot(*sides, shots=25, draws=8)
    assert one["draws"] == 8 and one == few_shot(*sides, shots=1, draws=8)
    assert one["top1"] < many["top1"] and one["deviation"] > 0
    everything = few_shot(*sides, shots=1000, draws=3)  # no class has so many: all draws are the whole set
    whole = accuracy(linear_scores(train, train_labels, test, 3), labels)["top1"]
    assert everything["top1"] == pytest.approx(whole, abs=0.02)


def test_vector_probes_are_those_that_are_asked_for():
    (train, train_labels), (test, labels) = blobs(90, 0.2, 0), blobs(60, 0.2, 1)
    results = vector_probes(train, train_labels, test, labels, 3, ("knn",), neighbours=5, shots=(2, 5), draws=2)
    assert list(results) == ["knn", "2-shot", "5-shot"] and results["knn"]["top1"] > 0.95


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


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    """A small set and a pre-trained folder without a processor."""
    folder = tmp_path_factory.mktemp("probe")
    make_synthetic_set(folder / "set", SyntheticSet(clips=16, validation_clips=0, test_clips=8, height=40, width=48))
    torch.manual_seed(1)
    VideoMAEForPreTraining(VideoMAEConfig(**TINY, use_mean_pooling=False)).save_pretrained(folder / "model")
    return folder


def run(setting, *more):
    lists = [str(setting / "set" / f"{split}.csv") for split in ("train", "test")]
    return main([str(setting / "model"), *lists, "--device", "cpu", *more])


def test_the_command_compares_a_folder_with_fresh_weights(setting, tmp_path, capsys):
    assert run(setting, "--baseline", "random", "--output", str(tmp_path / "out")) == 0
    printed = capsys.readouterr()
    assert "16 training clips, 8 test clips, 8 classes" in printed.out
    assert [line.split()[0] for line in printed.out.splitlines()[2:]] == ["knn", "linear", "attentive"]
    assert "has no video processor; taking dense clips at stride 4" in printed.err
    results = json.loads((tmp_path / "out/probe.json").read_text())
    assert set(results) == {str(setting / "model"), "random"}


def test_few_shot_lines_carry_their_deviation(setting, capsys):
    assert run(setting, "--probes", "knn", "--few_shot", "1", "2", "--draws", "3") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[2:]] == ["knn", "1-shot", "2-shot"]
    assert all(line.endswith("over 3 draws)") for line in lines[3:])


def test_features_that_are_kept_are_not_made_again(setting, tmp_path, monkeypatch):
    run(setting, "--probes", "knn", "--output", str(tmp_path / "out"))
    first = json.loads((tmp_path / "out/probe.json").read_text())
    monkeypatch.setattr(probe_command, "extract_features", None)
    run(setting, "--probes", "knn", "--output", str(tmp_path / "out"))
    assert json.loads((tmp_path / "out/probe.json").read_text()) == first


def test_tokens_that_do_not_fit_stop_before_any_work(setting):
    with pytest.raises(ValueError, match="the attentive probe keeps all tokens"):
        run(setting, "--max_cache_gib", "0.0001")
