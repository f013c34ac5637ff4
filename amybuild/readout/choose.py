"""The choice of an estimator and of blocks, by held-out separation inside whatever texts it is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from amybuild.readout.estimators import Candidate, Marks
from amybuild.readout.split import aucs, folds, held_out
from amybuild.readout.table import Rows, Table

PRIOR = (0.4, 1.0)  # blocks "auto" looks at, as shares of the depth
PRIOR_CENTRE = 0.7  # breaks ties


@dataclass(frozen=True)
class Data:
    """Texts as a readout sees them: activations per block, marks per concept, directions of neutral text per block."""

    ids: tuple[str, ...]
    concepts: tuple[str, ...]
    depth: int  # blocks of the model
    rows: Mapping[int, Table]  # block -> [n, hidden]
    marks: Marks  # [n, concepts]
    nuisance: Mapping[int, Rows]  # block -> [k, hidden]
    groups: tuple[str, ...]  # of the texts: those of one group are held out together

    def part(self, keep: np.ndarray) -> Data:
        """Only the texts where `keep` [n] is true."""
        ids, groups = (tuple(x for x, kept in zip(xs, keep, strict=True) if kept) for xs in (self.ids, self.groups))
        rows = {layer: x[keep] for layer, x in self.rows.items()}
        return replace(self, ids=ids, groups=groups, rows=rows, marks=self.marks[keep])

    def folds(self, purpose: str = "outer") -> NDArray[np.int64]:
        """Which fold each text is held out in, [n]. Where all texts are one group they can only be parted."""
        return folds(self.groups if len(set(self.groups)) > 1 else self.ids, self.marks, purpose=purpose)


@dataclass(frozen=True)
class Choice:
    """What was chosen, and the cross-validated AUC [concepts] of every candidate at every block."""

    candidate: Candidate
    layers: tuple[int, ...]
    best: int  # of `layers`, the one with the highest mean AUC
    table: Mapping[Candidate, Mapping[int, Rows]]


def choose(data: Data, tried: Sequence[Candidate], layers: Sequence[int] | None, count: int) -> Choice:
    """The candidate with the highest mean AUC over concepts at its `count` best blocks, and those blocks.

    One estimator for all concepts: with tens of texts a choice per concept would be a choice of noise. `layers` None:
    the blocks of the prior window (40-100 % depth), ties to the nearest 70 %; else all of `layers` are kept.
    """
    looked_at = list(layers) if layers is not None else window(data.rows, data.depth)
    kept = len(looked_at) if layers is not None else count
    fold = data.folds("inner")
    table: dict[Candidate, dict[int, Rows]] = {candidate: {} for candidate in tried}
    for layer in looked_at:
        scores = held_out(data.rows[layer], data.marks, data.nuisance[layer], fold, tried)
        for candidate, found in zip(tried, scores, strict=True):
            table[candidate][layer] = aucs(found, data.marks)

    def ranked(candidate: Candidate) -> list[int]:
        means = {layer: round(float(found.mean()), 6) for layer, found in table[candidate].items()}
        off = {layer: abs((layer + 1) / data.depth - PRIOR_CENTRE) for layer in means}
        return sorted(means, key=lambda layer: (-means[layer], off[layer], layer))[:kept]

    def worth(candidate: Candidate) -> float:
        return round(float(np.mean([table[candidate][layer].mean() for layer in ranked(candidate)])), 6)

    best = max(tried, key=worth)  # the first of equals
    order = ranked(best)
    return Choice(best, tuple(sorted(order)), order[0], table)


def window(layers: Mapping[int, object], depth: int) -> list[int]:
    """The blocks within the prior window, or all when there are none in it."""
    inside = [layer for layer in sorted(layers) if PRIOR[0] <= (layer + 1) / depth <= PRIOR[1]]
    return inside or sorted(layers)
