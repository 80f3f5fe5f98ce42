"""The Fréchet distance on Gaussians whose distance is known, and the command that compares two sets."""

import json

import numpy as np
import pytest

from videomae.commands.fvd import main
from videomae.features.files import RowFile
from videomae.files import write_json
from videomae.metrics.frechet_distance import frechet_distance


def sample(mean, covariance, n=200, seed=0):
    """Vectors whose sample mean and covariance (of n - 1) are exactly these."""
    mean, covariance = np.asarray(mean, float), np.atleast_2d(np.asarray(covariance, float))
    noise = np.random.default_rng(seed).normal(size=(n, len(mean)))
    noise -= noise.mean(0)
    white = noise @ np.linalg.inv(np.linalg.cholesky(np.cov(noise.T).reshape(covariance.shape))).T
    values, vectors = np.linalg.eigh(covariance)
    return mean + white @ (vectors * np.sqrt(values.clip(0))).T


def by_roots(m1, c1, m2, c2):
    """The textbook formula, with roots of matrices by eigenvalues."""

    def root(matrix):
        values, vectors = np.linalg.eigh(matrix)
        return (vectors * np.sqrt(values.clip(0))) @ vectors.T

    shared = root(root(c1) @ c2 @ root(c1))
    return float(((m1 - m2) ** 2).sum() + np.trace(c1) + np.trace(c2) - 2 * np.trace(shared))


def test_in_one_dimension_it_is_the_squared_differences_of_means_and_deviations():
    result = frechet_distance(sample([1.0], [[4.0]]), sample([3.0], [[25.0]], seed=1))
    assert result == pytest.approx({"distance": 13.0, "mean": 4.0, "covariance": 9.0})


def test_independent_dimensions_add_up():
    first, second = sample([0, 0, 0], np.diag([1.0, 4.0, 9.0])), sample([1, 2, 3], np.diag([4.0, 4.0, 1.0]), seed=1)
    assert frechet_distance(first, second)["distance"] == pytest.approx(14 + 1 + 0 + 4)


def test_correlated_dimensions_agree_with_the_formula_of_matrix_roots():
    rng = np.random.default_rng(3)
    factors = [rng.normal(size=(6, 6)) for _ in range(2)]
    c1, c2 = (factor @ factor.T for factor in factors)
    m1, m2 = rng.normal(size=(2, 6))
    ours = frechet_distance(sample(m1, c1), sample(m2, c2, n=50, seed=1))["distance"]
    assert ours == pytest.approx(by_roots(m1, c1, m2, c2), rel=1e-9)


def test_a_set_has_no_distance_to_itself_and_distances_are_the_same_both_ways():
    first, second = np.random.default_rng(0).normal(size=(2, 100, 8)).astype(np.float32)
    assert frechet_distance(first, first)["distance"] == pytest.approx(0, abs=1e-12)
    assert frechet_distance(first, first[::-1])["distance"] == pytest.approx(0, abs=1e-12)
    one, other = frechet_distance(first, second), frechet_distance(second, first)
    assert one["distance"] == pytest.approx(other["distance"]) and one["covariance"] > 0


def test_covariances_without_full_rank_and_of_very_different_scales_stay_exact():
    flat = sample([0, 0, 0], np.diag([1.0, 0.0, 0.0]))
    assert frechet_distance(flat, sample([0, 0, 0], np.diag([0.0, 1.0, 0.0]), seed=1))["distance"] == pytest.approx(2)
    scales = np.diag([1e8, 1.0, 1e-8])
    result = frechet_distance(sample([0, 0, 0], scales), sample([0, 0, 0], scales, seed=1))
    assert result["distance"] == pytest.approx(0, abs=1e-6)
    few = np.random.default_rng(0).normal(size=(2, 5, 40))
    moments = [(x.mean(0), np.cov(x.T)) for x in few]
    expected = by_roots(*moments[0], *moments[1])
    assert frechet_distance(*few, min_vectors=5)["distance"] == pytest.approx(expected, rel=1e-6)


def test_what_cannot_be_compared_is_refused():
    good = np.random.default_rng(0).normal(size=(20, 4))
    with pytest.raises(ValueError, match="the second set has 4 vectors of 4 and at least 5 are needed"):
        frechet_distance(good, good[:4])
    with pytest.raises(ValueError, match="has 1 vectors of 4 and at least 2"):
        frechet_distance(good[:1], good, min_vectors=0)
    with pytest.raises(ValueError, match="vectors of 4, the second of 3"):
        frechet_distance(good, good[:, :3])
    with pytest.raises(ValueError, match=r"must be floats \(vectors, width\)"):
        frechet_distance(good, good[None])
    with pytest.raises(ValueError, match="1 vectors with NaN or infinity, the first is 7"):
        frechet_distance(good, np.where(np.arange(20)[:, None] == 7, np.nan, good))


# ------------------------------------------------------------------------------------------------ the command


def feature_folder(folder, vectors, *, complete=True, **identity):
    videos = []
    for number, vector in enumerate(vectors):
        file = RowFile(folder / "features" / f"{number}.npy", "float32", single=True)
        file.add(vector)
        file.close()
        videos.append({"file": f"features/{number}.npy"})
    same = {"weights_sha256": "a", "pooling": "mean", "num_frames": 16, "level": "video", "clips": {"clips": 1}}
    manifest = {"complete": complete, "identity": {**same, "pixels": {}, "reference": None, **identity}}
    write_json(folder / "manifest.json", {**manifest, "videos": videos, "broken": []})
    return str(folder)


def test_two_folders_are_compared(tmp_path, capsys):
    vectors = np.random.default_rng(0).normal(size=(2, 12, 5)).astype(np.float32)
    one, other = (feature_folder(tmp_path / str(i), vectors[i]) for i in range(2))
    assert main([one, other, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["distance"] == pytest.approx(frechet_distance(*vectors)["distance"])
    assert result["vectors"] == [12, 12] and result["checked"]
    np.save(tmp_path / "other.npy", vectors[1])
    assert main([one, str(tmp_path / "other.npy")]) == 0
    assert "between 12 and 12 vectors of 5" in capsys.readouterr().out


def test_folders_of_other_models_or_half_made_are_refused(tmp_path):
    vectors = np.ones((6, 2), np.float32)
    one = feature_folder(tmp_path / "one", vectors)
    with pytest.raises(ValueError, match="weights_sha256: 'a' against 'b'"):
        main([one, feature_folder(tmp_path / "other", vectors, weights_sha256="b")])
    with pytest.raises(ValueError, match="is not complete; run the same"):
        main([one, feature_folder(tmp_path / "half", vectors, complete=False)])
    with pytest.raises(ValueError, match="holds tokens"):
        main([one, feature_folder(tmp_path / "tokens", vectors, level="token")])
    with pytest.raises(ValueError, match="accept fewer with --min_clips"):
        main([one, feature_folder(tmp_path / "few", vectors[:2])])
    with pytest.raises(FileNotFoundError, match=r"has no manifest\.json"):
        main([one, str(tmp_path)])
    (tmp_path / "x.npy").write_bytes(b"nonsense")
    with pytest.raises(ValueError, match=r"x\.npy is not an array"):
        main([one, str(tmp_path / "x.npy")])
