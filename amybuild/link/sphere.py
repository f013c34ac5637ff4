"""Merge methods of angles: SLERP, NuSLERP, the Karcher mean and Model Stock, for one matrix.

Every result lies in the span of its inputs, so that only inner products decide: from the factors where all inputs are
low-rank (the result is, too), else summed over blocks of rows. Everything is float64 inside.

The points are X_i = weight_i * delta_i (weights are absolute strengths, a negative one points the other way), or the
full weights base + X_i where a base is given and a method is defined on full weights. A vector of weight 0 is absent;
one vector alone comes out as weight * delta.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from amybuild.errors import InputError
from amybuild.link.delta import Delta, Dense, LowRank, release
from amybuild.link.finite import check_finite
from amybuild.value import value

Array = NDArray[np.float64]
Base = NDArray[np.float32] | None

_BLOCK = 1 << 20  # entries of one input per block of rows
_PARALLEL = 1e-12  # sin^2 of an angle below which an arc is a line, or (opposite points) has no direction
_NOISE = 1e-6  # lengths and sines below it are rounding: they come from differences of inner products near 1
_STEPS = 50  # of the Karcher iteration; it converges in a handful


@value
class Points:
    """base + weight_i * delta_i, the vectors of weight 0 left out; `base` float32 [out, in] or None for zero."""

    deltas: list[Delta]
    weights: list[float]
    shape: tuple[int, int]
    base: Base = None

    def gram(self, *, per_row: bool = False) -> Array:
        """Inner products, float64 [n, n], or [out, n, n] with one matrix per row."""
        low = [delta for delta in self.deltas if isinstance(delta, LowRank)]
        if self.base is None and len(low) == len(self.deltas):
            return _low_rank_gram(low, np.array(self.weights), per_row)
        if per_row:
            return np.concatenate([np.einsum("iro,jro->rij", block, block) for _, block in self.blocks()])
        total = np.zeros((len(self.deltas), len(self.deltas)))
        for _, block in self.blocks():
            flat = block.reshape(len(block), -1)
            total += flat @ flat.T
        return total

    def blocks(self) -> Iterator[tuple[int, Array]]:
        """(first row, points float64 [n, rows, in]) over all rows."""
        step = max(1, _BLOCK // max(1, self.shape[1]))
        for start in range(0, self.shape[0], step):
            stop = min(start + step, self.shape[0])
            block = np.stack([delta.rows(start, stop).astype(np.float64) for delta in self.deltas])
            block *= np.array(self.weights)[:, None, None]
            yield start, block if self.base is None else block + self.base[start:stop].astype(np.float64)
            for delta in self.deltas:
                release(delta, start, stop)

    def combined(self, shares: Array) -> Delta:
        """sum_i shares_i * point_i - base; `shares` [n], or [out, n] with its own for each row."""
        scales = np.atleast_2d(shares * np.array(self.weights))  # [1 or out, n]
        low = [delta for delta in self.deltas if isinstance(delta, LowRank)]
        if self.base is None and len(low) == len(self.deltas):
            left = [delta.left.astype(np.float64) * (delta.scale * scales[:, i : i + 1]) for i, delta in enumerate(low)]
            right = np.vstack([delta.right for delta in low])
            return LowRank(np.ascontiguousarray(np.hstack(left), np.float32), np.ascontiguousarray(right, np.float32))
        merged = np.empty(self.shape, np.float32)
        rows = np.broadcast_to(np.atleast_2d(shares), (self.shape[0], len(self.deltas)))
        for start, block in self.blocks():
            stop = start + block.shape[1]
            total = np.einsum("ri,iro->ro", rows[start:stop], block)
            merged[start:stop] = total if self.base is None else total - self.base[start:stop]
        return Dense(merged)


def points(base: Base, deltas: Sequence[Delta], weights: Sequence[float]) -> Points:
    """The points of a merge; a base of None leaves the differences. Raises `ActionError` for values not finite."""
    found = [(delta, float(weight)) for delta, weight in zip(deltas, weights, strict=True) if weight != 0]
    check_finite((delta for delta, _ in found), "link")
    shape = (deltas[0].shape[0], deltas[0].shape[1])
    return Points([delta for delta, _ in found], [weight for _, weight in found], shape, base)


def slerp(
    base: Base, deltas: Sequence[Delta], weights: Sequence[float], *, t: float = 0.5, per_row: bool = False
) -> Delta:
    """SLERP of two full weights (https://en.wikipedia.org/wiki/Slerp), as mergekit's `slerp`, less the base.

    a = base + X_1, b = base + X_2, w their angle (of the flattened tensors, or row by row with `per_row`):
    result = sin((1-t) w)/sin(w) a + sin(t w)/sin(w) b - base. Parallel and opposite points: (1-t) a + t b. Without a
    base it is the arc between X_1 and X_2 (`nuslerp`). `t`: 0 is the first vector, 1 the second.

    mergekit falls back to the line above |cos w| = 0.9995, which full weights of two fine-tunes of one base nearly
    always are; here the formula is followed as far as float64 bears. Raises `InputError` for more than two vectors.
    """
    found = points(base, deltas, weights)
    if len(found.deltas) != 2:
        return _alone(found, "slerp")
    gram = found.gram(per_row=per_row)
    return found.combined(_arc(gram[..., 0, 0], gram[..., 1, 1], gram[..., 0, 1], t))


def nuslerp(
    base: Base, deltas: Sequence[Delta], weights: Sequence[float], *, t: float = 0.5, per_row: bool = False
) -> Delta:
    """NuSLERP (mergekit): SLERP of the two differences X_1 and X_2 to the base; parameters as in `slerp`.

    mergekit's t = w_2 / (w_1 + w_2) from relative weights is the parameter `t` here, because weights are strengths; its
    `nuslerp_row_wise = false, nuslerp_flatten = false` is `per_row` (its row_wise = true works on columns).
    """
    return slerp(None, deltas, weights, t=t, per_row=per_row)


def karcher(base: Base, deltas: Sequence[Delta], weights: Sequence[float], *, of_deltas: bool = False) -> Delta:
    """The Karcher mean (https://arxiv.org/abs/2603.04972) of the full weights base + X_i, less the base.

    The unit vector with sum_i log_m(u_i) = 0 on the sphere, u_i = point_i / |point_i|, by m <- exp_m(mean log_m(u_i))
    from the normalised mean; times the mean of the norms (zero points count there). All points weigh the same, as in
    mergekit. `of_deltas`, or no base: the mean of the X_i themselves. The mean is unique for points within 90 degrees
    of each other, as full weights of one base are; points that cancel have no direction: the result is zero (mergekit
    takes the first).
    """
    found = points(None if of_deltas else base, deltas, weights)
    if len(found.deltas) < 2:
        return _alone(found, "karcher")
    shares = _karcher_shares(found.gram())
    return _zero(found.shape) if shares is None else found.combined(shares)


def model_stock(base: Base, deltas: Sequence[Delta], weights: Sequence[float], *, per_row: bool = False) -> Delta:
    """Model Stock (https://arxiv.org/abs/2403.19522): t * mean(X_i), t = N c / (1 + (N - 1) c).

    c is the mean cosine of the pairs, over the tensor or row by row (`per_row`), held to 0 … 1: the paper's geometry
    has the vectors within 90 degrees, and beyond it the formula has a pole and changes sign. Opposing vectors so keep
    the base. A pair with a zero vector counts as orthogonal. The paper derives N = 2 and, for more, takes all angles
    to be equal; the mean cosine is mergekit's reading.
    """
    found = points(None, deltas, weights)
    count = len(found.deltas)
    if count < 2:
        return _alone(found, "model_stock")
    gram = found.gram(per_row=per_row)
    above = np.triu_indices(count, 1)
    norms = np.sqrt(np.diagonal(gram, axis1=-2, axis2=-1))
    sizes = (norms[..., :, None] * norms[..., None, :])[..., above[0], above[1]]
    dots = gram[..., above[0], above[1]]
    cosine = np.clip(np.divide(dots, sizes, out=np.zeros_like(dots), where=sizes > 0).mean(-1), 0.0, 1.0)
    share = cosine / (1 + (count - 1) * cosine)  # t / N
    return found.combined(np.repeat(share[..., None], count, axis=-1))


def _alone(found: Points, method: str) -> Delta:
    # what is left when fewer than two vectors are present; `slerp` and `nuslerp` join no more than two
    if len(found.deltas) > 2:
        raise InputError(
            f"{method} joins two vectors, not {len(found.deltas)}", where="[link] method", remedy="use karcher"
        )
    if not found.deltas:
        return _zero(found.shape)
    return Points(found.deltas, found.weights, found.shape).combined(np.ones(1))


def _zero(shape: tuple[int, int]) -> Delta:
    return LowRank(np.zeros((shape[0], 1), np.float32), np.zeros((1, shape[1]), np.float32))


def _low_rank_gram(deltas: Sequence[LowRank], weights: Array, per_row: bool) -> Array:
    left = [
        delta.left.astype(np.float64) * (delta.scale * weight) for delta, weight in zip(deltas, weights, strict=True)
    ]
    right = [delta.right.astype(np.float64) for delta in deltas]
    gram = np.empty((len(left[0]), len(left), len(left)) if per_row else (len(left), len(left)))
    for i in range(len(left)):
        for j in range(i + 1):
            middle = right[i] @ right[j].T
            found = ((left[i] @ middle) * left[j]).sum(1) if per_row else ((left[i].T @ left[j]) * middle).sum()
            gram[..., i, j] = gram[..., j, i] = found
    return gram


def _arc(aa: Array, bb: Array, ab: Array, t: float) -> Array:
    # the shares [2] or [out, 2] of a and b from |a|^2, |b|^2 and a·b
    size = np.sqrt(aa * bb)
    cosine = np.clip(np.divide(ab, size, out=np.ones_like(ab), where=size > 0), -1.0, 1.0)
    line = 1 - cosine**2 < _PARALLEL
    angle = np.arccos(np.where(line, 0.0, cosine))
    shares = [np.where(line, at, np.sin(at * angle) / np.sin(angle)) for at in (1 - t, t)]
    return np.stack(shares, axis=-1)


def _karcher_shares(gram: Array) -> Array | None:
    # of the points; None where they cancel
    norms = np.sqrt(np.diagonal(gram))
    there = norms > 0
    if not there.any():
        return np.zeros(len(norms))
    inverse = np.divide(1.0, norms, out=np.zeros_like(norms), where=there)
    cosines = gram * np.outer(inverse, inverse)  # of the units
    count = int(np.count_nonzero(there))
    mean: Array = there.astype(np.float64) / count  # the point of the sphere, as shares of the units
    length = _length(mean, cosines)
    if length < _NOISE:
        return None
    mean = mean / length
    for _ in range(_STEPS):
        cosine = np.clip(cosines @ mean, -1.0, 1.0)
        sine = np.sqrt(1 - cosine**2)
        # a point that is the mean pulls by nothing, the opposite one in no direction
        stretch = (there & (cosine > 0)).astype(np.float64)
        np.divide(np.arctan2(sine, cosine), sine, out=stretch, where=there & (sine > _NOISE))
        step = (stretch - (stretch * cosine).sum() * mean) / count
        length = _length(step, cosines)
        if length < 1e-12:
            break
        mean = np.cos(length) * mean + np.sin(length) / length * step
        mean = mean / _length(mean, cosines)
    shares: Array = norms.mean() * mean * inverse
    return shares


def _length(shares: Array, cosines: Array) -> float:
    return math.sqrt(max(0.0, float(shares @ cosines @ shares)))
