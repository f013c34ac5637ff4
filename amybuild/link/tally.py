"""What the link did, counted: densities, surviving mass, sign conflicts, norms and cosines, per layer and overall."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

    from amybuild.link.factors import LowRank

_LAYER = re.compile(r"\.(\d+)\.")
_DIGITS = 6  # sums of float32 blocks agree to more digits than these whatever the number of threads


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

    def add_block(self, who: Sequence[int], deltas: Tensor, weighted: Tensor, merged: Tensor, alphas: Tensor) -> None:
        """Count one block: deltas (untrimmed) and weighted (trimmed) float32 [n, …], merged […], alphas [n]."""
        n = len(who)
        flat = weighted.view(n, -1)
        signs = flat.sign()
        present = signs.abs()
        agreed = (flat * merged.view(1, -1).sign()).clamp_(min=0.0)
        both = _f64(present @ present.T)
        rows = np.asarray(who)
        self.size[rows] += flat.shape[1]
        self.kept[rows] += _f64(present.sum(1))
        self.mass[rows] += _f64(deltas.view(n, -1).abs().sum(1) * alphas.abs())
        self.mass_kept[rows] += _f64(flat.abs().sum(1))
        self.mass_agreed[rows] += _f64(agreed.sum(1))
        self.both[np.ix_(rows, rows)] += both
        # same signs minus opposite ones = signs @ signs.T
        self.conflict[np.ix_(rows, rows)] += (both - _f64(signs @ signs.T)) / 2

    def add_factors(self, who: Sequence[int], deltas: Sequence[LowRank]) -> None:
        """Count one tensor's inner products, from the factors: <B A, D C> = sum((B^T D) * (A C^T)), in float64."""
        left = torch.cat([d.left.double() * d.scale for d in deltas], 1)
        right = torch.cat([d.right.double() for d in deltas], 0)
        cells = ((left.T @ left) * (right @ right.T)).numpy()
        edges = np.cumsum([0, *(d.left.shape[1] for d in deltas)])[:-1]
        gram = np.add.reduceat(np.add.reduceat(cells, edges, 0), edges, 1)
        self.gram[np.ix_(np.asarray(who), np.asarray(who))] += gram
        self.tensors += 1

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
    def conflicts(self) -> NDArray[np.float64]:
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


def layer_of(weight: str) -> str:
    """The block a weight belongs to: the first number in its name (`model.layers.7.mlp.up_proj.weight` -> "7")."""
    match = _LAYER.search(weight)
    return match[1] if match else "other"


def _share(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.divide(part, whole, out=np.zeros_like(part), where=whole != 0)


def _f64(values: Tensor) -> NDArray[np.float64]:
    array: NDArray[np.float64] = values.double().numpy()
    return array


def _round(value: float) -> float:
    return float(f"{float(value):.{_DIGITS}g}") + 0.0
