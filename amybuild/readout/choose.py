"""The choice of an estimator and of blocks, by held-out separation inside whatever texts it is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from amybuild.readout.estimators import Candidate, Marks, Rows
from amybuild.readout.split import aucs, folds, held_out

PRIOR = (0.4, 1.0)  # blocks "auto" looks at, as shares of the depth
PRIOR_CENTRE = 0.7  # breaks ties


@dataclass(frozen=True)
class Data:
    """Texts as a readout sees them: activations per block, marks per concept, directions of neutral text per block."""

    ids: tuple[str, ...]
    concepts: tuple[str, ...]
    depth: int  # blocks of the model
    rows: Mapping[int, Rows]  # block -> float64 [n, hidden]
    marks: Marks  # [n, concepts]
    nuisance: Mapping[int, Rows]  # block -> [k, hidden]

    def part(self, keep: np.ndarray) -> Data:
        """Only the texts where `keep` [n] is true."""
        ids = tuple(name for name, kept in zip(self.ids, keep, strict=True) if kept)
        rows = {layer: x[keep] for layer, x in self.rows.items()}
        return Data(ids, self.concepts, self.depth, rows, self.marks[keep], self.nuisance)


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
    fold = folds(data.ids, data.marks, purpose="inner")
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
