"""The kernel distance on Gaussians whose distance is known, its interval, and `videomae fvd` with it."""

import json

import numpy as np
import pytest
from test_frechet_distance import sample

from videomae.commands.fvd import main
from videomae.metrics.kernel_distance import kernel_distance


def population(m1, c1, m2, c2) -> float:
    """100 times the squared difference of the second moments, over the squared width: what the kernel means."""
    moments = [np.atleast_2d(c) + np.outer(m, m) for m, c in ((m1, c1), (m2, c2))]
    return float(100 * ((moments[0] - moments[1]) ** 2).sum() / len(m1) ** 2)


def test_with_comparisons_to_itself_it_is_the_difference_of_the_samples_second_moments():
    m1, c1, m2, c2 = [1.0, 0, 2], np.diag([1.0, 4, 9]), [0.0, 1, 1], np.diag([2.0, 2, 2])
    n1, n2 = 40, 60
    first, second = sample(m1, c1, n1), sample(m2, c2, n2, seed=1)
    # `sample` fixes the covariance of n - 1; the second moment of a set divides by n.
    expected = population(m1, c1 * (n1 - 1) / n1, m2, c2 * (n2 - 1) / n2)
    assert kernel_distance(first, second, bootstraps=2)["jedi"] == pytest.approx(expected, rel=1e-9)


def test_it_is_jedis_own_example():
    # videojedi/mmd_polynomial.py prints 270.7 for these two, of degree 2 without a constant
    first = np.arange(1.0, 10.0).reshape(3, 3)
    second = np.array([[7.0, 6, 5], [4, 3, 2], [1, 1, 8], [0, 2, 5]])
    assert kernel_distance(first, second, bootstraps=2)["jedi"] / 100 == pytest.approx(270.7, abs=0.05)


def test_without_them_it_is_right_on_average_for_any_number_of_vectors():
    rng = np.random.default_rng(0)
    m1, c1, m2, c2 = np.zeros(4), np.eye(4), np.array([0.5, 0, 0, 0]), np.diag([2.0, 1, 1, 1])
    found = []
    for _ in range(400):
        first = rng.multivariate_normal(m1, c1, size=12)
        second = rng.multivariate_normal(m2, c2, size=20)
        found.append(kernel_distance(first, second, bootstraps=2)["distance"])
    error = np.std(found) / np.sqrt(len(found))
    assert np.mean(found) == pytest.approx(population(m1, c1, m2, c2), abs=4 * error)
    assert 4 * error < 0.6 * population(m1, c1, m2, c2)


def test_two_samples_of_one_gaussian_are_at_zero_on_average_and_jedis_are_not():
    rng = np.random.default_rng(1)
    results = [kernel_distance(*rng.normal(size=(2, 30, 6)), bootstraps=2) for _ in range(200)]
    distances = np.array([result["distance"] for result in results])
    assert abs(distances.mean()) < 4 * distances.std() / np.sqrt(len(distances))
    assert min(result["jedi"] for result in results) > 0


def test_the_interval_of_a_hundred_videos_holds_the_true_distance_as_often_as_it_says():
    rng = np.random.default_rng(2)
    m1, m2 = np.zeros(8), np.full(8, 0.6)
    truth, held = population(m1, np.eye(8), m2, np.eye(8)), []
    for seed in range(200):
        first, second = rng.normal(size=(100, 8)), rng.normal(size=(100, 8)) + m2
        result = kernel_distance(first, second, bootstraps=200, seed=seed)
        held.append(result["low"] <= truth <= result["high"])
        assert result["low"] < result["distance"] < result["high"]
    assert 0.88 <= np.mean(held) <= 0.99


def test_a_seed_gives_the_same_interval_and_more_videos_a_narrower_one():
    rng = np.random.default_rng(3)
    first, second = rng.normal(size=(800, 8)), rng.normal(size=(800, 8)) + 0.5
    few, again = (kernel_distance(first[:100], second[:100]) for _ in range(2))
    many = kernel_distance(first, second)
    assert few == again and many["high"] - many["low"] < 0.6 * (few["high"] - few["low"])


def test_large_sets_are_drawn_from(monkeypatch):
    monkeypatch.setattr("videomae.metrics.kernel_distance.MOST_VECTORS", 50)
    rng = np.random.default_rng(4)
    assert kernel_distance(rng.normal(size=(80, 3)), rng.normal(size=(40, 3)))["vectors"] == [50, 40]


def test_what_cannot_be_compared_is_refused():
    good = np.random.default_rng(0).normal(size=(20, 4))
    with pytest.raises(ValueError, match="has 1 vectors of 4 and at least 2"):
        kernel_distance(good, good[:1])
    with pytest.raises(ValueError, match="vectors of 4, the second of 3"):
        kernel_distance(good, good[:, :3])
    with pytest.raises(ValueError, match="bootstraps must be at least 2"):
        kernel_distance(good, good, bootstraps=1)


def test_the_command_prints_both_or_the_kernel_distance_of_few_videos_alone(tmp_path, capsys):
    rng = np.random.default_rng(0)
    sets = {"a": rng.normal(size=(12, 5)), "b": rng.normal(size=(12, 5)), "few": rng.normal(size=(4, 5))}
    for name, vectors in sets.items():
        np.save(tmp_path / f"{name}.npy", vectors.astype(np.float32))
    one, other, few = (str(tmp_path / f"{name}.npy") for name in sets)
    assert main([one, other]) == 0
    shown = capsys.readouterr().out
    assert "Fréchet distance" in shown and "kernel distance" in shown and "fewer than 100 vectors" in shown
    with pytest.raises(ValueError, match="--distances kernel needs fewer"):
        main([one, few])
    assert main([one, few, "--distances", "kernel", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    expected = kernel_distance(*(sets[name].astype(np.float32) for name in ("a", "few")))
    assert result["kernel"] == expected and "distance" not in result and result["vectors"] == [12, 4]
