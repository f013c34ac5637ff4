"""Merge methods that work on singular values: TSV-M, Iso-C, Iso-CTS, Core Space and KnOTS, for one matrix.

All inputs low-rank: the merge happens between the cores X_i = Q M_i P of the joint bases (QR of the stacked factors),
matrices of the summed ranks, and its result is low-rank again; the dense matrix is never formed. Else the inputs are
made dense. Both paths give the same result up to rounding, because a direction counts only while its singular value is
above what float32 rounding of the inputs could have made: null directions have no singular vectors of their own, and
the papers' code, which takes what LAPACK happens to return for them, is not a function of the inputs there.

Everything is float64 inside. X_i = weight_i * delta_i: weights are absolute strengths, a negative one subtracts, and a
vector of weight 0 is absent (it takes no share of a rank budget).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from amybuild.errors import InputError
from amybuild.link.delta import Delta, Dense, LowRank, dense, release
from amybuild.link.finite import check_finite
from amybuild.value import value

Array = NDArray[np.float64]
Triples = tuple[Array, Array, Array]  # U [m, r], s [r], V^T [r, n]

ROUNDING = 2.0**-22  # times the inputs' Frobenius norms: a bound on what rounding to float32 adds to a singular value


@value
class Cores:
    """X_i = left @ parts[i] @ right for every vector; `left` [out, p], `right` [q, in] orthonormal, None: identity."""

    parts: list[Array]
    shape: tuple[int, int]
    left: Array | None = None
    right: Array | None = None

    def lift(self, u: Array, vt: Array) -> Delta:
        """left @ u @ vt @ right, with u [p, r] and vt [r, q]: low-rank when the inputs were."""
        if self.left is None or self.right is None:
            return Dense((u @ vt).astype(np.float32))
        return low_rank(self.left @ u, vt @ self.right)


def low_rank(left: Array, right: Array) -> LowRank:
    """Factors [out, r], [r, in] rounded to float32; r = 0 gives the zero difference of rank 1."""
    if not left.shape[1]:
        left, right = np.zeros((len(left), 1)), np.zeros((1, right.shape[1]))
    return LowRank(np.ascontiguousarray(left, np.float32), np.ascontiguousarray(right, np.float32))


def nothing(shape: tuple[int, int]) -> LowRank:
    """The zero difference."""
    return low_rank(np.zeros((shape[0], 0)), np.zeros((0, shape[1])))


def cores(deltas: Sequence[Delta], weights: Sequence[float]) -> Cores:
    """The inputs in their joint bases, those of weight 0 left out; `weights` multiply the parts.

    Raises `ActionError` for values that are not finite.
    """
    shape = (deltas[0].shape[0], deltas[0].shape[1])
    found = [(delta, weight) for delta, weight in zip(deltas, weights, strict=True) if weight != 0]
    check_finite((delta for delta, _ in found), "link")
    low = [(delta, weight) for delta, weight in found if isinstance(delta, LowRank)]
    if len(low) < len(found) or not found:
        parts = [weight * dense(delta).astype(np.float64) for delta, weight in found]
        for delta, _ in found:
            release(delta, 0, shape[0])
        return Cores(parts, shape)
    left, left_parts = _joint([delta.left.astype(np.float64) * (delta.scale * weight) for delta, weight in low])
    right, right_parts = _joint([delta.right.astype(np.float64).T for delta, _ in low])
    return Cores([a @ b.T for a, b in zip(left_parts, right_parts, strict=True)], shape, left, right.T)


def _joint(factors: Sequence[Array]) -> tuple[Array, list[Array]]:
    # Q [m, p] and the R_i [p, r_i] with factors[i] = Q R_i
    q, r = np.linalg.qr(np.hstack(factors))
    return q, np.split(r, np.cumsum([factor.shape[1] for factor in factors])[:-1], axis=1)


def tsv_m(base: NDArray[np.float32] | None, deltas: Sequence[Delta], weights: Sequence[float]) -> Delta:
    """TSV-M, task singular vectors (https://arxiv.org/abs/2412.00081). No parameters.

    X_i = U_i S_i V_i^T cut to its top k = max(1, min(out, in) // N) triples; U = [U_1 … U_N], V likewise;
    result = polar(U) diag(S_1 … S_N) polar(V)^T with polar(P S Q^T) = P Q^T (whitening, the nearest orthonormal set).
    """
    found = cores(deltas, weights)
    return _tsv(found, [_svd(part, _floor([part])) for part in found.parts], min(found.shape))


def iso_c(base: NDArray[np.float32] | None, deltas: Sequence[Delta], weights: Sequence[float]) -> Delta:
    """Iso-C, isotropic merging in the common subspace (https://arxiv.org/abs/2502.04959). No parameters.

    sum_i X_i = U S V^T; result = mean(S) U V^T, the mean over the rank of the sum (for the paper's dense inputs that is
    min(out, in)); the paper's scale on top is the linker's lambda.
    """
    return _iso(cores(deltas, weights))


def iso_cts(
    base: NDArray[np.float32] | None, deltas: Sequence[Delta], weights: Sequence[float], *, common: float = 0.8
) -> Delta:
    """Iso-CTS, common and task-specific subspaces (https://arxiv.org/abs/2502.04959).

    r = min(rank of the joint column space, of the joint row space); k = r - N * round((r - int(common * r)) / N).
    U_c S_c V_c^T = the top k triples of sum_i X_i; U_i S_i V_i^T = the top (r - k) / N of X_i - U_c U_c^T X_i;
    result = mean(all S) polar([U_1 … U_N U_c]) polar([V_1 … V_N V_c])^T.

    `common`: share of the directions that is common, 0 … 1 (the authors' 0.8).
    """
    if not 0 <= common <= 1:
        raise InputError(f"common = {common!r} is not a share", where="[link] common", remedy="a number from 0 to 1")
    found = cores(deltas, weights)
    count = len(found.parts)
    side = _side(found.parts) if count else 0
    if not side:
        return nothing(found.shape)
    each = min(round((side - int(side * common)) / count), side // count)
    shared = _top(_svd(_total(found.parts), _floor(found.parts)), side - each * count)
    own = [_top(_svd(part - shared[0] @ (shared[0].T @ part), _floor([part])), each) for part in found.parts]
    return _whitened(found, [*own, shared], isotropic=True)


def core_space(
    base: NDArray[np.float32] | None, deltas: Sequence[Delta], weights: Sequence[float], *, inner: str = "tsv_m"
) -> Delta:
    """Core Space (https://arxiv.org/abs/2509.17786): another method between the cores M_i, X_i = Q M_i P.

    Q [out, p] and P [q, in] are orthonormal bases of the joint column and row spaces. `inner` on the M_i: "linear" (the
    exact sum), "tsv_m" (the default) or "iso_c". TSV-M's k is the core's side over N here, min(out, in, sum of the
    ranks) // N: for LoRAs of one rank r it is r, so nothing is cut.
    All three commute with rotations, so which bases are taken does not matter; elementwise methods such as TIES depend
    on it, so they are not offered.
    """
    found = cores(deltas, weights)
    if inner not in ("linear", "tsv_m", "iso_c"):
        raise InputError(f"unknown inner method {inner!r}", where="[link] inner", remedy="one of linear, tsv_m, iso_c")
    if not found.parts:
        return nothing(found.shape)
    if inner == "iso_c":
        return _iso(found)
    if inner == "tsv_m":
        sets = [_svd(part, _floor([part])) for part in found.parts]
        return _tsv(found, sets, min(*found.shape, sum(len(s) for _, s, _ in sets)))
    total = _total(found.parts)
    return Dense(total.astype(np.float32)) if found.right is None else found.lift(total, np.eye(len(found.right)))


def knots(
    base: NDArray[np.float32] | None,
    deltas: Sequence[Delta],
    weights: Sequence[float],
    *,
    density: float = 1.0,
    elect: str = "mass",
    divide: str = "count",
) -> Delta:
    """KnOTS with TIES (https://arxiv.org/abs/2410.19735).

    [delta_1 … delta_N] (side by side) = U S [V_1^T … V_N^T]; TIES on the S V_i^T with the weights; result = U @ that.
    The basis is that of the deltas as they are, so a weight changes no alignment.

    `density`: share of each S V_i^T that stays (the authors' Llama setting is 1.0, no trimming); `elect`: "mass" or
    "count"; `divide`: "count", "weights" or "none", as in `ties`.
    """
    if elect not in ("mass", "count") or divide not in ("count", "weights", "none"):
        raise InputError(f"elect = {elect!r}, divide = {divide!r}", where="[link] method", remedy="see `ties`")
    if not 0 < density <= 1:
        raise InputError(f"density = {density!r}", where="[link] density", remedy="a number above 0, at most 1")
    alphas = [weight for weight in weights if weight != 0]
    found = cores(deltas, [float(weight != 0) for weight in weights])
    if not alphas:
        return nothing(found.shape)
    parts = found.parts if found.right is None else [part @ found.right for part in found.parts]
    u, s, vt = _svd(np.hstack(parts), _floor(parts))
    aligned = np.split(s[:, None] * vt, len(parts), axis=1)
    # A direction only another vector has is zero here but for rounding, and must not be counted as agreeing.
    aligned = [np.where(np.abs(part) > _floor(parts), part, 0.0) for part in aligned]
    merged = _ties(aligned, alphas, density, elect, divide)
    return low_rank(found.left @ u, merged) if found.left is not None else found.lift(u, merged)


def _tsv(found: Cores, sets: Sequence[Triples], side: int) -> Delta:
    share = max(1, side // max(1, len(sets)))
    return _whitened(found, [_top(triples, share) for triples in sets], isotropic=False)


def _iso(found: Cores) -> Delta:
    if not found.parts:
        return nothing(found.shape)
    return _whitened(found, [_svd(_total(found.parts), _floor(found.parts))], isotropic=True)


def _whitened(found: Cores, sets: Sequence[Triples], *, isotropic: bool) -> Delta:
    # polar(U) diag(s) polar(V^T) over all the triples, with one value for all of s when isotropic
    if not sum(len(s) for _, s, _ in sets):
        return nothing(found.shape)
    u, s, vt = np.hstack([t[0] for t in sets]), np.hstack([t[1] for t in sets]), np.vstack([t[2] for t in sets])
    if len(sets) > 1:
        u, vt = _polar(u), _polar(vt)
    return found.lift(u * (s.mean() if isotropic else s), vt)


def _svd(matrix: Array, floor: float) -> Triples:
    u, s, vt = np.linalg.svd(matrix, full_matrices=False)
    rank = int(np.count_nonzero(s > floor))
    return u[:, :rank], s[:rank], vt[:rank]


def _top(triples: Triples, count: int) -> Triples:
    u, s, vt = triples
    return u[:, :count], s[:count], vt[:count]


def _polar(vectors: Array) -> Array:
    # A partial isometry where they are dependent: two equal directions share the place of one, which is what makes
    # identical vectors merge to themselves.
    u, _, vt = _svd(vectors, ROUNDING)
    isometry: Array = u @ vt
    return isometry


def _floor(parts: Sequence[Array]) -> float:
    return ROUNDING * sum(float(np.linalg.norm(part)) for part in parts)


def _total(parts: Sequence[Array]) -> Array:
    total = parts[0].copy()
    for part in parts[1:]:
        total += part
    return total


def _side(parts: Sequence[Array]) -> int:
    # the smaller of the ranks of [M_1 … M_N] side by side and one above the other, from the Gram matrices
    floor = _floor(parts) ** 2
    grams = (_total([part @ part.T for part in parts]), _total([part.T @ part for part in parts]))
    return min(int(np.count_nonzero(np.linalg.eigvalsh(gram) > floor)) for gram in grams)


def _ties(parts: Sequence[Array], weights: Sequence[float], density: float, elect: str, divide: str) -> Array:
    # the elementwise method (link semantics of `ties`) on float64 matrices that exist only here
    weighted = np.stack([weight * _trimmed(part, density) for part, weight in zip(parts, weights, strict=True)])
    votes = weighted if elect == "mass" else np.sign(weighted)
    total: Array = votes.sum(0)
    sign = np.sign(total) * (np.abs(total) > ROUNDING * np.abs(votes).sum(0))  # opposites cancel but for rounding
    agree = (np.sign(weighted) == sign) & (sign != 0)
    total = np.where(agree, weighted, 0.0).sum(0)
    if divide == "none":
        return total
    strength = np.abs(weights)[:, None, None] if divide == "weights" else 1.0
    divisor = (agree * strength).sum(0)
    total /= np.where(divisor > 0, divisor, 1.0)
    return total


def _trimmed(part: Array, density: float) -> Array:
    if density >= 1 or not part.size:
        return part
    magnitude = np.abs(part)
    place = part.size - max(1, int(density * part.size))
    return np.where(magnitude >= np.partition(magnitude, place, axis=None)[place], part, 0.0)
