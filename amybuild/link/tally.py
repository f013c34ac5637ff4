"""What the link did, counted: densities, surviving mass, sign conflicts, norms and cosines, per layer and overall."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from amybuild.link.counting import products

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
_DIGITS = 6  # sums are taken in float32 over a thousand entries, then in float64


class Counts:
    """Counts over entries of one weight, for n vectors: `table`, float64 [3 n + 3, n].

    Inner products of the differences, entries that both of two vectors keep, those with like signs minus those with
    opposite ones (n rows each, lower halves, signs before the alphas); then the sums of |difference|, of what stays of
    it, and of what went into the merge. All but the last row is a function of the vectors alone: `known`, an earlier
    `numbers`, saves it.
    """

    def __init__(self, n: int, known: Sequence[float] | None = None) -> None:
        self.table = np.zeros((3 * n + 3, n))
        self.known = known is not None
        if known is not None:
            self.table[:-1] = np.reshape(known, (3 * n + 2, n))

    def add_raw(self, deltas: F32) -> None:
        """Count differences before any entry is dropped: float32 [n, m]."""
        n = len(deltas)
        products(deltas, self.table[:n], self.table[3 * n])

    @property
    def numbers(self) -> list[float]:
        """What `known` can be another time."""
        return self.table[:-1].ravel().tolist()


def numbers_of(n: int) -> int:
    """How many numbers `Counts` holds for n vectors."""
    return (3 * n + 2) * n


class Sums:
    """The counts of several weights on which the same vectors act alike."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.tensors = self.size = 0
        self.table = np.zeros(shape)  # of `Counts`


class Tally:
    """Counts over some tensors for `n` vectors; tallies add up."""

    def __init__(self, n: int) -> None:
        self.tensors = 0
        self.size = np.zeros(n)  # entries of the tensors a vector touches
        self.kept = np.zeros(n)  # non-zero entries after the trim
        self.mass = np.zeros(n)  # sum of |alpha * delta|
        self.mass_kept = np.zeros(n)  # … after the trim
        self.mass_agreed = np.zeros(n)  # … of the entries that went into the result
        self.both = np.zeros((n, n))  # entries two vectors both keep
        self.conflict = np.zeros((n, n))  # … with opposite weighted signs
        self.gram = np.zeros((n, n))  # inner products of the untrimmed, unweighted differences

    def enter(self, who: Sequence[int], alphas: F64, sums: Sums) -> None:
        """Add the counts of the vectors `who` at `alphas` [n]."""
        n, table = len(who), sums.table
        turn, strength = np.sign(alphas), np.abs(alphas)
        pairs = np.ix_(who, who)
        gram, both, same = (_mirrored(table[i * n : (i + 1) * n]) for i in range(3))
        self.tensors += sums.tensors
        self.size[who] += sums.size
        self.kept[who] += both.diagonal()
        self.mass[who] += table[-3] * strength
        self.mass_kept[who] += table[-2] * strength
        self.mass_agreed[who] += table[-1] * strength
        self.both[pairs] += both
        self.conflict[pairs] += (both - same * np.outer(turn, turn)) / 2
        self.gram[pairs] += gram

    @property
    def norms(self) -> list[float]:
        """Frobenius norm of each unweighted difference."""
        return [_round(value) for value in np.sqrt(np.maximum(self.gram.diagonal(), 0.0))]

    @property
    def conflicts(self) -> F64:
        """Of the entries two vectors both keep, the share with opposite weighted signs: [n, n]."""
        return _share(self.conflict, self.both)

    def vector(self, i: int, names: Sequence[str]) -> dict[str, Any]:
        """The numbers of vector `i`, its sign conflicts by the other's name."""
        rates = self.conflicts[i]
        return {
            "norm": self.norms[i],
            "density_reached": _round(_share(self.kept, self.size)[i]),
            "mass_kept": _round(_share(self.mass_kept, self.mass)[i]),
            "mass_surviving": _round(_share(self.mass_agreed, self.mass)[i]),
            "sign_conflict": {name: _round(rates[j]) for j, name in enumerate(names) if j != i},
        }

    def cosines(self) -> list[list[float]]:
        """Cosines between the unweighted differences, [n][n]; 0 beside a zero vector."""
        norm = np.sqrt(np.maximum(self.gram.diagonal(), 0.0))
        return [[_round(value) for value in row] for row in _share(self.gram, np.outer(norm, norm))]

    def row(self) -> dict[str, Any]:
        """A compact row for one layer; lists are in the order of the vectors."""
        above = np.triu_indices(len(self.size), 1)
        conflict = self.conflict[above].sum() / max(self.both[above].sum(), 1.0)
        return {
            "tensors": self.tensors,
            "norm": self.norms,
            "density_reached": [_round(value) for value in _share(self.kept, self.size)],
            "mass_surviving": [_round(value) for value in _share(self.mass_agreed, self.mass)],
            "sign_conflict": _round(conflict),
        }


def _share(part: F64, whole: F64) -> F64:
    return np.divide(part, whole, out=np.zeros_like(part), where=whole != 0)


def _mirrored(lower: F64) -> F64:
    return np.tril(lower) + np.tril(lower, -1).T


def _round(value: float) -> float:
    return float(f"{float(value):.{_DIGITS}g}") + 0.0
