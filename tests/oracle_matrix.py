"""The matrix merge methods as plain float64 numpy on dense arrays: singular values, and arcs on a sphere.

As in `tests.oracle`, written from the papers and independently of the linker; the same arguments and conventions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tests.oracle import Array, cut, disjoint, linear, present, trim, wide

# -- spectra ------------------------------------------------------------------------------------------------------

ROUNDING = 2.0**-22  # singular values below this share of the inputs' norms are what float32 rounding leaves


def svd(matrix: Array, floor: float) -> tuple[Array, Array, Array]:
    """U [m, r], s [r], V^T [r, n] of the r singular values above `floor`."""
    u, s, vt = np.linalg.svd(matrix, full_matrices=False)
    return u[:, s > floor], s[s > floor], vt[s > floor]


def polar(matrix: Array) -> Array:
    """The orthogonal factor P Q^T of P S Q^T, over the singular values that are not zero (a partial isometry)."""
    u, _, vt = svd(matrix, ROUNDING)  # its columns or rows have norm 1
    return u @ vt


def floor_of(parts: Sequence[Array]) -> float:
    return ROUNDING * sum(float(np.linalg.norm(part)) for part in parts)


def joint_rank(parts: Sequence[Array]) -> int:
    """min(rank of the joint column space, rank of the joint row space): the side of the Core Space matrices."""
    floor = floor_of(parts)
    return min(len(svd(np.hstack(parts), floor)[1]), len(svd(np.vstack(parts), floor)[1]))


def tsv_m(deltas: Sequence[NDArray[np.floating]], alphas: Sequence[float], side: int | None = None) -> Array:
    """TSV-M (arXiv 2412.00081): per vector the top side/N singular triples, side = min(out, in); then whitening."""
    parts = present(deltas, alphas)
    if not parts:
        return np.zeros_like(wide(deltas)[0])
    share = max(1, (side or min(parts[0].shape)) // len(parts))
    triples = [[factor[..., :share] if k < 2 else factor[:share] for k, factor in enumerate(svd(x, floor_of([x])))]
               for x in parts]  # fmt: skip
    u, s, vt = (
        np.hstack([t[0] for t in triples]),
        np.hstack([t[1] for t in triples]),
        np.vstack([t[2] for t in triples]),
    )
    return polar(u) @ np.diag(s) @ polar(vt) if len(s) else np.zeros_like(parts[0])


def iso_c(deltas: Sequence[NDArray[np.floating]], alphas: Sequence[float]) -> Array:
    """Iso-C (arXiv 2502.04959): the sum with all its (non-zero) singular values replaced by their mean."""
    parts = present(deltas, alphas)
    if not parts:
        return np.zeros_like(wide(deltas)[0])
    u, s, vt = svd(np.sum(parts, axis=0), floor_of(parts))
    return s.mean() * (u @ vt) if len(s) else np.zeros_like(parts[0])


def iso_cts(deltas: Sequence[NDArray[np.floating]], alphas: Sequence[float], common_fraction: float = 0.8) -> Array:
    """Iso-CTS (arXiv 2502.04959): the sum's top directions and, per vector, the top ones of what they leave over."""
    parts = present(deltas, alphas)
    if not parts or not (rank := joint_rank(parts)):
        return np.zeros_like(wide(deltas)[0])
    count = len(parts)
    each = min(round((rank - int(rank * common_fraction)) / count), rank // count)
    floor = floor_of(parts)
    u, s, vt = (f[..., : rank - each * count] if k < 2 else f[: rank - each * count]
                for k, f in enumerate(svd(np.sum(parts, axis=0), floor)))  # fmt: skip
    left, values, right = [], [], []
    for x in parts:
        tu, ts, tvt = svd(x - u @ (u.T @ x), floor_of([x]))
        left, values, right = [*left, tu[:, :each]], [*values, ts[:each]], [*right, tvt[:each]]
    spread = np.hstack([*values, s])
    if not len(spread):
        return np.zeros_like(parts[0])
    return spread.mean() * polar(np.hstack([*left, u])) @ polar(np.vstack([*right, vt]))


def core_space(deltas: Sequence[NDArray[np.floating]], alphas: Sequence[float], inner: str = "tsv_m") -> Array:
    """Core Space (arXiv 2509.17786): U_B^T X_i V_A in the joint bases, merged there, lifted back."""
    parts = present(deltas, alphas)
    if not parts or not joint_rank(parts):
        return np.zeros_like(wide(deltas)[0])
    left, right = svd(np.hstack(parts), floor_of(parts))[0], svd(np.vstack(parts), floor_of(parts))[2]
    cores = [left.T @ x @ right.T for x in parts]
    if inner == "tsv_m":
        merged = tsv_m(
            cores, [1.0] * len(cores), min(*parts[0].shape, sum(len(svd(x, floor_of([x]))[1]) for x in parts))
        )
    else:
        merged = {"linear": linear, "iso_c": iso_c}[inner](cores, [1.0] * len(cores))
    return left @ merged @ right


def knots(
    deltas: Sequence[NDArray[np.floating]],
    alphas: Sequence[float],
    density: float = 1.0,
    elect: str = "mass",
    divide: str = "count",
) -> Array:
    """KnOTS-TIES (arXiv 2410.19735): [delta_1 … delta_N] = U S [V_1 … V_N]; TIES on the S V_i; U times the result."""
    found = [(delta, alpha) for delta, alpha in zip(wide(deltas), alphas, strict=True) if alpha != 0]
    stacked = np.hstack([delta for delta, _ in found]) if found else np.zeros((1, 1))
    u, s, vt = svd(stacked, floor_of([delta for delta, _ in found]))
    if not len(s):
        return np.zeros_like(wide(deltas)[0])
    floor = floor_of([delta for delta, _ in found])
    aligned = [np.where(np.abs(x) > floor, x, 0.0) for x in np.split(s[:, None] * vt, len(found), axis=1)]
    alphas = [alpha for _, alpha in found]
    # what cancels but for the rounding of the SVD elects nobody
    trimmed = [trim(x, cut([x], density)) for x in aligned]
    votes = np.array([alpha * x for x, alpha in zip(trimmed, alphas, strict=True)])
    opposed = np.abs(votes.sum(0)) <= ROUNDING * np.abs(votes).sum(0)
    merged = disjoint(trimmed, alphas, elect, divide)
    return u @ (np.where(opposed, 0.0, merged) if elect == "mass" else merged)


# -- spheres ------------------------------------------------------------------------------------------------------


def arc(t: float, a: Array, b: Array) -> Array:
    """The point at `t` of the great circle from a to b (flat arrays), or of the line where they are parallel."""
    size = np.linalg.norm(a) * np.linalg.norm(b)
    cosine = float(np.clip(a @ b / size, -1, 1)) if size > 0 else 1.0
    if 1 - cosine**2 < 1e-12:
        return (1 - t) * a + t * b
    angle = np.arccos(cosine)
    return (np.sin((1 - t) * angle) * a + np.sin(t * angle) * b) / np.sin(angle)


def slerp(
    base: NDArray[np.floating] | None,
    deltas: Sequence[NDArray[np.floating]],
    alphas: Sequence[float],
    t: float = 0.5,
    per_row: bool = False,
) -> Array:
    """The arc between the full weights base + alpha_i delta_i (the differences where base is None), less base."""
    parts = present(deltas, alphas)
    if len(parts) < 2:
        return parts[0] if parts else np.zeros_like(wide(deltas)[0])
    origin = np.zeros_like(parts[0]) if base is None else np.asarray(base, dtype=np.float64)
    a, b = origin + parts[0], origin + parts[1]
    if per_row:
        return np.array([arc(t, x, y) for x, y in zip(a, b, strict=True)]) - origin
    return arc(t, a.ravel(), b.ravel()).reshape(a.shape) - origin


def nuslerp(
    deltas: Sequence[NDArray[np.floating]], alphas: Sequence[float], t: float = 0.5, per_row: bool = False
) -> Array:
    """The arc between the two differences alpha_i delta_i, whole or row by row (mergekit's NuSLERP)."""
    return slerp(None, deltas, alphas, t, per_row)


def karcher(
    base: NDArray[np.floating] | None, deltas: Sequence[NDArray[np.floating]], alphas: Sequence[float]
) -> Array:
    """The Karcher mean on the sphere (arXiv 2603.04972) of the full weights, times their mean norm, less base."""
    parts = present(deltas, alphas)
    if not parts:
        return np.zeros_like(wide(deltas)[0])
    origin = np.zeros_like(parts[0]) if base is None else np.asarray(base, dtype=np.float64)
    points = [(origin + x).ravel() for x in parts]
    norms = [float(np.linalg.norm(point)) for point in points]
    units = [point / norm for point, norm in zip(points, norms, strict=True) if norm > 0]
    mean = np.sum(units, axis=0) / len(units) if units else np.zeros(1)
    if np.linalg.norm(mean) < 1e-6:  # they cancel: no direction
        return np.zeros_like(origin)
    mean = mean / np.linalg.norm(mean)
    for _ in range(100):
        step = np.zeros_like(mean)
        for unit in units:
            cosine = float(np.clip(mean @ unit, -1, 1))
            sine = np.sqrt(1 - cosine**2)
            step += (np.arctan2(sine, cosine) / sine if sine > 1e-6 else 0.0) * (unit - cosine * mean) / len(units)
        length = float(np.linalg.norm(step))
        if length < 1e-13:
            break
        mean = np.cos(length) * mean + np.sin(length) * step / length
        mean = mean / np.linalg.norm(mean)
    return (np.mean(norms) * mean).reshape(origin.shape) - origin


def model_stock(deltas: Sequence[NDArray[np.floating]], alphas: Sequence[float], per_row: bool = False) -> Array:
    """Model Stock (arXiv 2403.19522): t * mean, t = N c / (1 + (N - 1) c), c the mean pairwise cosine, at least 0."""
    parts = present(deltas, alphas)
    if len(parts) < 2:
        return parts[0] if parts else np.zeros_like(wide(deltas)[0])
    if per_row:
        rows = range(len(parts[0]))
        return np.array([model_stock([x[i : i + 1] for x in parts], [1.0] * len(parts))[0] for i in rows])
    sizes = [float(np.linalg.norm(x)) for x in parts]
    cosines = [
        float(np.sum(parts[i] * parts[j])) / (sizes[i] * sizes[j]) if sizes[i] * sizes[j] > 0 else 0.0
        for i in range(len(parts))
        for j in range(i)
    ]
    cosine = float(np.clip(np.mean(cosines), 0, 1))
    return len(parts) * cosine / (1 + (len(parts) - 1) * cosine) * np.mean(parts, axis=0)
