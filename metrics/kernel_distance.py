"""The kernel distance between two sets of feature vectors: the squared maximum mean discrepancy under a polynomial kernel.

k(x, y) = (x.y / D)^2, times 100, as in JEDi (Luo et al., "Beyond FVD", ICLR 2025; videojedi/JEDi.py of oooolga/JEDi). With
this kernel it is 100 / D^2 times the squared difference of the two sets' second moments, E xx', and so it sees means and
covariances as the Fréchet distance does, from far fewer vectors.
"""

# n vectors  D width  B bootstrap samples

from typing import Any

import numpy as np

from videomae.metrics.frechet_distance import checked_sets

DEGREE, SCALE = 2, 100.0
MOST_VECTORS = 5000  # of a set; JEDi's number, and three matrices of 200 MB
ADVISED_VECTORS = 100
INTERVAL = 95.0  # percent of the bootstrap samples


def kernel_distance(first: np.ndarray, second: np.ndarray, *, bootstraps: int = 1000, seed: int = 0) -> dict[str, Any]:
    """Between (n1, D) and (n2, D) features: "distance", its bootstrap interval "low" and "high", and "jedi".

    "distance" is the unbiased estimate: a vector is never compared with itself, and two sets of one distribution are at 0
    on average, whatever their sizes. "jedi" is JEDi's, with these comparisons, which is larger by about 1/n. The interval
    holds the middle 95 % of the estimates on as many vectors drawn from each set with replacement. Of a larger set
    MOST_VECTORS are drawn first.
    """
    if bootstraps < 2:
        raise ValueError(f"bootstraps must be at least 2 for an interval, not {bootstraps}")
    rng = np.random.default_rng(seed)
    first, second = (_at_most(each, rng) for each in checked_sets(first, second, min_vectors=2))
    own = [_kernel(each, each) for each in (first, second)]
    diagonals = [matrix.diagonal().copy() for matrix in own]
    between = _kernel(first, second)
    sizes = [len(first), len(second)]
    for matrix in own:
        np.fill_diagonal(matrix, 0.0)
    apart = [matrix.sum() / (n * (n - 1)) for matrix, n in zip(own, sizes)]
    biased = [(matrix.sum() + diagonal.sum()) / n**2 for matrix, diagonal, n in zip(own, diagonals, sizes)]
    samples = _bootstrap(own, between, bootstraps, rng)
    low, high = np.percentile(samples, [(100 - INTERVAL) / 2, (100 + INTERVAL) / 2])
    return {
        "distance": float(SCALE * (sum(apart) - 2 * between.mean())),
        "low": float(SCALE * low),
        "high": float(SCALE * high),
        "jedi": float(SCALE * (sum(biased) - 2 * between.mean())),
        "vectors": sizes,
        "bootstraps": bootstraps,
    }


def _kernel(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return (first @ second.T / first.shape[1]) ** DEGREE


def _at_most(features: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    if len(features) <= MOST_VECTORS:
        return features
    return features[np.sort(rng.choice(len(features), MOST_VECTORS, replace=False))]


def _bootstrap(own: list[np.ndarray], between: np.ndarray, bootstraps: int, rng: np.random.Generator) -> np.ndarray:
    """Unbiased estimates (B,) on drawn vectors, from the matrices of all; copies of one vector are not compared.

    `own` have zero diagonals. Vector i drawn c_i times stands in c_i c_j pairs with j.
    """
    counts = [rng.multinomial(len(matrix), np.full(len(matrix), 1 / len(matrix)), bootstraps) for matrix in own]
    counts = [each.astype(np.float64) for each in counts]
    total = np.zeros(bootstraps)
    for matrix, drawn in zip(own, counts):
        pairs = len(matrix) ** 2 - (drawn**2).sum(axis=1)  # 0 where one vector was drawn every time
        total += np.einsum("bi,bi->b", drawn @ matrix, drawn) / np.maximum(pairs, 1)
    shared = np.einsum("bi,bi->b", counts[0] @ between, counts[1]) / between.size
    return total - 2 * shared
