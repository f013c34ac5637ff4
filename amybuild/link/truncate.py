"""One weight's difference as the product of two thin factors: the best of a given rank, and how much they miss."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from amybuild.link.delta import Delta, LowRank, release
from amybuild.link.tensors import extent

Array = NDArray[np.float64]

_BLOCK = 1 << 20  # entries per block of rows
_EXACT = 512  # smaller side up to which all singular values are computed
_OVERSAMPLING = 16  # columns of the random basis beyond the rank
_ITERATIONS = 4  # of the subspace iteration, one pass over the rows each
_KEY = 2011  # of the random signs: a constant, so that the same difference always gives the same factors


@dataclass(frozen=True)
class Factors:
    """The difference is about b @ a: b [out, r] carries its size, the rows of a [r, in] are orthonormal or zero."""

    b: Array
    a: Array


def truncate(delta: Delta, rank: int) -> Factors:
    """The nearest matrix of at most that rank in the Frobenius norm (Eckart, Young), padded with zeros to it.

    Exact for low-rank differences, by QR and the SVD of the core, and for dense ones with a side up to 512. Larger ones
    by subspace iteration from random signs (https://arxiv.org/abs/0909.4061), with the rows streamed: the residual
    comes within a percent of the best even for a flat spectrum. The largest entry of each column of b is positive.
    """
    out, width = extent(delta.shape)
    if isinstance(delta, LowRank):
        left, core_left = np.linalg.qr(delta.left.astype(np.float64) * delta.scale)
        right, core_right = np.linalg.qr(delta.right.astype(np.float64).T)
        u, s, vt = np.linalg.svd(core_left @ core_right.T, full_matrices=False)
        u, vt = left @ u, vt @ right.T
    elif min(out, width) <= max(_EXACT, 2 * (rank + _OVERSAMPLING)):
        u, s, vt = np.linalg.svd(delta.rows(0, out).astype(np.float64), full_matrices=False)
    else:
        basis = _dominant_rows(delta, rank + _OVERSAMPLING)  # [in, rank + oversampling], orthonormal
        u, s, vt = np.linalg.svd(np.vstack([block @ basis for _, block in _blocks(delta)]), full_matrices=False)
        vt = vt @ basis.T
    count = min(rank, len(s))
    signs = np.where(u[np.abs(u).argmax(0), np.arange(u.shape[1])] < 0, -1.0, 1.0)[:count]
    factors = Factors(np.zeros((out, rank)), np.zeros((rank, width)))
    factors.b[:, :count] = u[:, :count] * (s[:count] * signs)
    factors.a[:count] = vt[:count] * signs[:, None]
    return factors


def missing(delta: Delta, factors: Factors) -> float:
    """The Frobenius norm of delta - b @ a."""
    if isinstance(delta, LowRank):
        left = np.hstack([delta.left.astype(np.float64) * delta.scale, -factors.b])
        right = np.vstack([delta.right.astype(np.float64), factors.a])
        return _product_norm(left, right)
    squares = [
        float(np.square(block - factors.b[start : start + len(block)] @ factors.a).sum())
        for start, block in _blocks(delta)
    ]
    return math.sqrt(math.fsum(squares))


def norm(delta: Delta) -> float:
    """The Frobenius norm of a difference of any shape."""
    if isinstance(delta, LowRank):
        return _product_norm(delta.left.astype(np.float64) * delta.scale, delta.right.astype(np.float64))
    return math.sqrt(math.fsum(float(np.square(block).sum()) for _, block in _blocks(delta)))


def _product_norm(left: Array, right: Array) -> float:
    # by QR, not by Gram matrices: what is nearly zero comes out small, not as the square root of rounding
    return float(np.linalg.norm(np.linalg.qr(left)[1] @ np.linalg.qr(right.T)[1].T))


def _dominant_rows(delta: Delta, count: int) -> Array:
    width = extent(delta.shape)[1]
    words = np.random.Philox(key=_KEY).random_raw(-(-width * count // 64))
    bits = np.unpackbits(words.astype("<u8").view(np.uint8))[: width * count]
    basis = np.asarray(bits.reshape(width, count) * 2.0 - 1.0, np.float64)
    for _ in range(_ITERATIONS):
        image = np.zeros((width, count))
        for _, block in _blocks(delta):
            image += block.T @ (block @ basis)
        basis = np.asarray(np.linalg.qr(image)[0], np.float64)
    return basis


def _blocks(delta: Delta) -> Iterator[tuple[int, Array]]:
    rows, columns = extent(delta.shape)
    step = max(1, _BLOCK // max(1, columns))
    for start in range(0, rows, step):
        stop = min(start + step, rows)
        yield start, delta.rows(start, stop).astype(np.float64)
        release(delta, start, stop)
