"""The Fréchet distance between two sets of feature vectors, each taken as a Gaussian.

|m1 - m2|^2 + tr(C1) + tr(C2) - 2 tr((C1 C2)^(1/2)), as in FID (Heusel et al. 2017) and FVD (Unterthiner et al. 2018).
With C1 = A'A and C2 = B'B the last trace is the sum of the singular values of AB', so no root of a matrix is taken: small
eigenvalues keep their digits, and a covariance without full rank needs no care.
"""

# n vectors  D width

import numpy as np


def frechet_distance(first: np.ndarray, second: np.ndarray, *, min_vectors: int | None = None) -> dict[str, float]:
    """The distance between (n1, D) and (n2, D) features: "distance", and its parts "mean" and "covariance".

    Fewer vectors than `min_vectors` (by default D + 1, what a covariance of full rank takes) are an error: the
    estimate falls with the number of vectors, and from few of them says more of their number than of their content.
    """
    first, second = checked_sets(first, second, min_vectors=min_vectors)
    (mean1, root1), (mean2, root2) = _moments(first), _moments(second)
    apart = float(((mean1 - mean2) ** 2).sum())
    shared = np.linalg.svd(root1 @ root2.T, compute_uv=False).sum()
    spread = float((root1**2).sum() + (root2**2).sum() - 2 * shared)
    spread = max(spread, 0.0)  # it is not negative but for rounding
    return {"distance": apart + spread, "mean": apart, "covariance": spread}


def checked_sets(first: np.ndarray, second: np.ndarray, *, min_vectors: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Both sets in float64: finite vectors of one width, and enough of them."""
    first, second = _checked(first, "first", min_vectors), _checked(second, "second", min_vectors)
    if first.shape[1] != second.shape[1]:
        raise ValueError(
            f"the first set has vectors of {first.shape[1]}, the second of {second.shape[1]}; make both with one model"
        )
    return first, second


def _checked(features: np.ndarray, name: str, min_vectors: int | None) -> np.ndarray:
    features = np.asarray(features)
    if features.ndim != 2 or not np.issubdtype(features.dtype, np.floating):
        raise ValueError(f"the {name} set must be floats (vectors, width), not {features.dtype} {features.shape}")
    features = features.astype(np.float64)
    bad = ~np.isfinite(features).all(axis=1)
    if bad.any():
        raise ValueError(
            f"the {name} set has {int(bad.sum())} vectors with NaN or infinity, the first is {bad.argmax()}"
        )
    need = features.shape[1] + 1 if min_vectors is None else max(min_vectors, 2)
    if len(features) < need:
        raise ValueError(
            f"the {name} set has {len(features)} vectors of {features.shape[1]} and at least {need} are needed for a "
            "distance that means something; take more clips, or accept fewer with min_vectors and compare only "
            "distances from equal numbers"
        )
    return features


def _moments(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean (D,), and a matrix R of at most D rows with R'R the covariance (of n - 1, as np.cov has it)."""
    mean = features.mean(axis=0)
    root = (features - mean) / np.sqrt(len(features) - 1)
    return mean, np.asarray(np.linalg.qr(root, mode="r")) if len(root) > root.shape[1] else root
