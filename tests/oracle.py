"""The elementwise merge methods as plain float64 numpy on dense arrays: what the linker's tests compare with.

Written from the papers and independently of the linker. Every function takes one tensor: `deltas` (one array per task
vector, all of one shape) and `alphas` (absolute strengths; a negative one subtracts), and returns what is added to the
base, before lambda. A vector whose alpha is 0 is absent. Thresholds are inclusive, so nothing depends on a sort order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
# keep(i, p): which entries of vector i (its place in `deltas`) stay, each with probability p; bool in the shape of p
Keep = Callable[[int, Array], NDArray[np.bool_]]


def wide(deltas: Sequence[NDArray[np.floating]]) -> list[Array]:
    return [np.asarray(delta, dtype=np.float64) for delta in deltas]


def present(deltas: Sequence[NDArray[np.floating]], alphas: Sequence[float]) -> list[Array]:
    """alpha_i * delta_i of the vectors that are there."""
    return [alpha * delta for delta, alpha in zip(wide(deltas), alphas, strict=True) if alpha != 0]


# -- selection ---------------------------------------------------------------------------------------------------------


def largest(values: Array, k: int) -> float:
    """The k-th largest (k = 1: the largest) of all entries."""
    return float(np.sort(values, axis=None)[-k])


def kept(size: int, density: float) -> int:
    return max(1, int(density * size))


def cut(tensors: Sequence[NDArray[np.floating]], density: float) -> float:
    """The magnitude an entry needs to stay: over one tensor (scope "tensor") or all of a vector's (scope "global")."""
    magnitudes = np.concatenate([np.abs(tensor).ravel() for tensor in wide(tensors)])
    return 0.0 if density >= 1 or not magnitudes.size else largest(magnitudes, kept(magnitudes.size, density))


def trim(delta: NDArray[np.floating], threshold: float) -> Array:
    delta = np.asarray(delta, dtype=np.float64)
    return np.where(np.abs(delta) >= threshold, delta, 0.0)


def breadcrumb(delta: Array, density: float, gamma: float = 0.01) -> Array:
    """Drop the int(gamma * n) largest and all but the next k: |x| stays from the (top + k)-th to the (top + 1)-th.

    Both edges stay, so ties stay. Outlier removal gives way where top + k would exceed n (arXiv 2312.06795).
    """
    size = delta.size
    if density >= 1 or not size:
        return delta
    top = min(int(gamma * size), size - kept(size, density))
    magnitude = np.abs(delta)
    inside = (magnitude >= largest(magnitude, top + kept(size, density))) & (magnitude <= largest(magnitude, top + 1))
    return np.where(inside, delta, 0.0)


def magprune(delta: Array, density: float, epsilon: float = 0.15) -> Array:
    """DELLA's keep probability of each entry (arXiv 2406.11617): by rank of its magnitude within its row.

    density - epsilon for the smallest to density + epsilon for the largest; equal magnitudes share their mean rank, so
    that a row's mean is its density whatever its ties. A row of one entry has `density`.
    """
    rows = np.atleast_2d(np.abs(delta))
    less = (rows[:, None, :] < rows[:, :, None]).sum(-1)
    equal = (rows[:, None, :] == rows[:, :, None]).sum(-1)
    middle = (less + (equal - 1) / 2) / max(rows.shape[1] - 1, 1) if rows.shape[1] > 1 else np.full(rows.shape, 0.5)
    return (density - epsilon + 2 * epsilon * middle).reshape(delta.shape)


def rescaled(delta: Array, keep: NDArray[np.bool_], probability: Array, rescale: str | None) -> Array:
    """What stays, over its probability ("probability", the papers), to the old L1 norm ("l1", mergekit), or as is."""
    left = np.where(keep, delta, 0.0)
    if rescale == "probability":
        return left / probability
    mass = np.abs(left).sum()
    return left * (np.abs(delta).sum() / mass) if rescale == "l1" and mass > 0 else left


# -- elementwise methods -----------------------------------------------------------------------------------------------


def linear(deltas: Sequence[NDArray[np.floating]], alphas: Sequence[float]) -> Array:
    """Task arithmetic, sum of alpha_i delta_i (arXiv 2212.04089)."""
    return np.sum([alpha * delta for delta, alpha in zip(wide(deltas), alphas, strict=True)], axis=0)


def elected(weighted: Array, elect: str) -> Array:
    """-1, 0, 1 per entry: sign of the sum ("mass") or of the sum of signs ("count"). 0: nobody is elected."""
    return np.sign(weighted.sum(0) if elect == "mass" else np.sign(weighted).sum(0))


def disjoint(trimmed: Sequence[Array], alphas: Sequence[float], elect: str = "mass", divide: str = "count") -> Array:
    """Elect on alpha_i * trimmed_i and join those that agree: their sum over their count, their |alpha|, or 1."""
    strengths = np.array([alpha for alpha in alphas if alpha != 0])
    weighted = np.array(present(trimmed, alphas))
    if not len(weighted):
        return np.zeros_like(np.asarray(trimmed[0], dtype=np.float64))
    sign = elected(weighted, elect)
    agree = (np.sign(weighted) == sign) & (sign != 0)
    total = np.where(agree, weighted, 0.0).sum(0)
    column = np.abs(strengths).reshape(-1, *[1] * (weighted.ndim - 1))
    divisor = {"count": agree.sum(0), "weights": (agree * column).sum(0), "none": np.ones_like(total)}[divide]
    return np.where(agree.any(0), total / np.where(agree.any(0), divisor, 1), 0.0)


def ties(
    deltas: Sequence[NDArray[np.floating]],
    alphas: Sequence[float],
    density: float = 0.2,
    elect: str = "mass",
    divide: str = "count",
    cuts: Sequence[float] | None = None,
) -> Array:
    """TIES (arXiv 2306.01708). `cuts`: the vectors' thresholds for scope "global" (from `cut` over all tensors)."""
    edges = cuts if cuts is not None else [cut([delta], density) for delta in deltas]
    return disjoint([trim(delta, edge) for delta, edge in zip(deltas, edges, strict=True)], alphas, elect, divide)


def dare(
    deltas: Sequence[NDArray[np.floating]],
    alphas: Sequence[float],
    density: float,
    keep: Keep,
    rescale: str | None = "probability",
    elect: str | None = None,
    divide: str = "count",
) -> Array:
    """DARE (arXiv 2311.03099): random entries stay, rescaled; then summed (elect None) or joined as TIES does."""
    chances = [np.full(delta.shape, min(density, 1.0)) for delta in deltas]
    return _sampled(deltas, alphas, chances, keep, rescale, elect, divide)


def della(
    deltas: Sequence[NDArray[np.floating]],
    alphas: Sequence[float],
    density: float,
    keep: Keep,
    epsilon: float = 0.15,
    rescale: str | None = "probability",
    elect: str | None = "mass",
    divide: str = "count",
) -> Array:
    """DELLA (arXiv 2406.11617): DARE with `magprune`'s probabilities; density 1 keeps all. elect None: della_linear."""
    chances = [magprune(delta, density, epsilon) if density < 1 else np.ones(delta.shape) for delta in wide(deltas)]
    return _sampled(deltas, alphas, chances, keep, rescale, elect, divide)


def _sampled(
    deltas: Sequence[NDArray[np.floating]],
    alphas: Sequence[float],
    chances: Sequence[Array],
    keep: Keep,
    rescale: str | None,
    elect: str | None,
    divide: str,
) -> Array:
    sparse = [
        rescaled(delta, keep(i, chance) | (chance >= 1), chance, rescale)
        for i, (delta, chance) in enumerate(zip(wide(deltas), chances, strict=True))
    ]
    return linear(sparse, alphas) if elect is None else disjoint(sparse, alphas, elect, divide)


def breadcrumbs(
    deltas: Sequence[NDArray[np.floating]],
    alphas: Sequence[float],
    density: float,
    gamma: float = 0.01,
    elect: str | None = None,
    divide: str = "count",
) -> Array:
    """Model Breadcrumbs (arXiv 2312.06795); with an election, mergekit's breadcrumbs_ties."""
    sparse = [breadcrumb(delta, density, gamma) for delta in wide(deltas)]
    return linear(sparse, alphas) if elect is None else disjoint(sparse, alphas, elect, divide)


def sce(deltas: Sequence[NDArray[np.floating]], alphas: Sequence[float], density: float = 1.0) -> Array:
    """SCE (arXiv 2408.07990) of X_i = alpha_i delta_i: select, calculate, erase.

    The entries whose variance over the vectors is among the k largest stay; a vector weighs by its remaining energy;
    what opposes the elected sign is erased; the rest is averaged with those weights.
    """
    found = present(deltas, alphas)
    if not found:
        return np.zeros_like(wide(deltas)[0])
    x = np.array(found)
    if density < 1:
        spread = x.var(0)
        x = np.where(spread >= largest(spread, kept(spread.size, density)), x, 0.0)
    energy = np.square(x).reshape(len(x), -1).sum(1).reshape(-1, *[1] * (x.ndim - 1))
    sign = np.sign(x.sum(0))
    weight = energy * ((np.sign(x) == sign) & (sign != 0))
    total = weight.sum(0)
    return np.where(total > 0, (weight * x).sum(0) / np.where(total > 0, total, 1), 0.0)


def tall_masks(deltas: Sequence[NDArray[np.floating]], alphas: Sequence[float], merged: Array, scale: float) -> Array:
    """TALL masks [n, …] (arXiv 2405.07813): the entries vector t needs, |X_t| >= scale * |merged - X_t|."""
    return np.array([np.abs(x) >= scale * np.abs(merged - x) for x in present(deltas, alphas)])


def consensus(
    deltas: Sequence[NDArray[np.floating]],
    alphas: Sequence[float],
    agree: int = 2,
    scale: float = 0.4,
    merged: Array | None = None,
) -> Array:
    """Consensus merging (arXiv 2405.07813): the merged vector (default: the sum) where >= `agree` vectors need it.

    `agree` is capped at the number of vectors: one vector alone is itself.
    """
    merged = linear(deltas, alphas) if merged is None else merged
    masks = tall_masks(deltas, alphas, merged, scale)
    if not len(masks):
        return np.zeros_like(merged)
    return np.where(masks.sum(0) >= min(agree, len(masks)), merged, 0.0)


def depth_factor(layer: int | None, layers: int, first: float, rise: float) -> float:
    """LiNeS (arXiv 2410.17146): first + rise * layer / (layers - 1), layer from 0; `first` outside the layers."""
    return first + rise * (layer / (layers - 1) if layer is not None and layers > 1 else 0.0)
