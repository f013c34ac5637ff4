"""What the link did, counted: densities, surviving mass, sign conflicts, norms and cosines, per layer and overall."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from amybuild.link.counting import agreeing, products, signs

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
_DIGITS = 6  # sums are taken in float32 over a thousand entries, then in float64


class Counts:
    """Counts over blocks of one weight, for the vectors that act on it with the strengths `alphas` [n].

    All but what the merge agrees with is a function of the vectors alone: `known`, an earlier `numbers`, saves it.
    """

    def __init__(self, alphas: F64, size: int, known: Sequence[float] | None) -> None:
        n = len(alphas)
        self.alphas = alphas
        self.size = size
        self.mass_agreed = np.zeros(n)
        self._known = known is not None
        self.numbers = np.zeros(numbers_of(n)) if known is None else np.array(known, np.float64)
        self.mass, self.mass_kept = self.numbers[: 2 * n].reshape(2, n)
        self.gram, self.both, self.same = self.numbers[2 * n :].reshape(3, n, n)  # lower halves

    def add_raw(self, deltas: F32) -> None:
        """Count the differences of a block before any entry is dropped: float32 [n, m]."""
        if not self._known:
            products(deltas, self.gram, self.mass)

    def add_kept(self, kept: F32, merged: F64) -> None:
        """Count what stays of a block, and what of it the merge has the sign of: float32 [n, m], float64 [m]."""
        if not self._known:
            signs(kept, self.both, self.same, self.mass_kept)
        agreeing(kept, self.alphas, merged, self.mass_agreed)


def numbers_of(n: int) -> int:
    """How many numbers `Counts` holds for n vectors."""
    return 2 * n + 3 * n * n


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

    def enter(self, who: Sequence[int], counts: Counts) -> None:
        """Add one weight's (or a part's) counts of the vectors `who`."""
        turn = np.sign(counts.alphas)
        strength = np.abs(counts.alphas)
        pairs = np.ix_(who, who)
        both = _mirrored(counts.both)
        self.size[who] += counts.size
        self.kept[who] += both.diagonal()
        self.mass[who] += counts.mass * strength
        self.mass_kept[who] += counts.mass_kept * strength
        self.mass_agreed[who] += counts.mass_agreed * strength
        self.both[pairs] += both
        self.conflict[pairs] += (both - _mirrored(counts.same) * np.outer(turn, turn)) / 2
        self.gram[pairs] += _mirrored(counts.gram)

    def add(self, other: Tally) -> None:
        """Add another tally's counts to this one's."""
        self.tensors += other.tensors
        for field in ("size", "kept", "mass", "mass_kept", "mass_agreed", "both", "conflict", "gram"):
            getattr(self, field)[...] += getattr(other, field)

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
