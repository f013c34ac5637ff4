"""Task vectors of one small matrix for the tests of merge methods: any shape, degenerate ones included."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from amybuild.link.delta import Delta, Dense, LowRank, dense

ALPHAS = (-1.0, -0.5, 0.0, 0.25, 1.0, 1.5)


@dataclass(frozen=True)
class Case:
    """The same vectors as factors and as dense arrays: equal exactly, the factors' products fit float32."""

    low: list[LowRank]
    alphas: list[float]
    base: NDArray[np.float32]

    @property
    def full(self) -> list[Delta]:
        return [Dense(dense(delta)) for delta in self.low]

    @property
    def arrays(self) -> list[NDArray[Any]]:
        return [dense(delta).astype(np.float64) for delta in self.low]

    @property
    def size(self) -> float:
        """What errors are measured against."""
        return 1e-30 + sum(abs(a) * float(np.linalg.norm(x)) for a, x in zip(self.alphas, self.arrays, strict=True))

    def with_alphas(self, *alphas: float) -> Case:
        return Case(self.low, list(alphas), self.base)

    def chosen(self, *places: int) -> Case:
        return Case([self.low[i] for i in places], [self.alphas[i] for i in places], self.base)


def factors(rng: np.random.Generator, out: int, width: int, rank: int) -> LowRank:
    """Entries are multiples of 2^-8, so that sums of products are exact in float32."""
    left = np.round(rng.standard_normal((out, rank)) * 256) / 256
    right = np.round(rng.standard_normal((rank, width)) * 256) / 256
    return LowRank(left.astype(np.float32), right.astype(np.float32), float(rng.choice([0.5, 1.0, 2.0])))


@st.composite
def cases(draw: st.DrawFn, fewest: int = 1, most: int = 4) -> Case:
    """1 x n, n x 1, square and oblong; zero vectors, repeated ones, factors of less rank than they have columns."""
    out, width = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    count = draw(st.integers(fewest, most))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    low: list[LowRank] = []
    for _ in range(count):
        kind = draw(st.sampled_from(["any", "any", "zero", "repeated", "deficient"]))
        found = factors(rng, out, width, draw(st.integers(1, 4)))
        if kind == "zero":
            found = LowRank(found.left * 0, found.right, found.scale)
        elif kind == "repeated" and low:
            found = low[0]
        elif kind == "deficient":
            found = LowRank(np.repeat(found.left[:, :1], 2, axis=1), np.repeat(found.right[:1], 2, axis=0))
        low.append(found)
    alphas = draw(st.lists(st.sampled_from(ALPHAS), min_size=count, max_size=count))
    base = rng.standard_normal((out, width)).astype(np.float32)
    return Case(low, alphas, base)


def ordinary(seed: int = 0, out: int = 12, width: int = 9, count: int = 3, rank: int = 3) -> Case:
    """Vectors in general position."""
    rng = np.random.default_rng(seed)
    low = [factors(rng, out, width, rank) for _ in range(count)]
    return Case(low, [1.0] * count, rng.standard_normal((out, width)).astype(np.float32))


def broken(delta: LowRank, value: float) -> list[Delta]:
    """The same with one entry that is no number, as factors and dense."""
    left, values = delta.left.copy(), dense(delta).copy()
    left[0, 0] = values[0, 0] = value
    return [LowRank(left, delta.right), Dense(values)]
