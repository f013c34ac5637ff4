"""Splits and scores: folds that serve all concepts at once, standardised held-out scores, AUC and its interval."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from amybuild.readout.estimators import Candidate, Marks, Rows, Side

FOLDS = 5


def folds(ids: Sequence[str], marks: Marks, count: int = FOLDS, purpose: str = "outer") -> NDArray[np.int64]:
    """Which fold each text is held out in, [n]: a function of ids, marks and purpose only.

    The rarest concept's texts are dealt first, each to the fold that has fewest of them (Sechidis et al. 2011), so that
    each fold has about the same share of every concept.
    """
    order = sorted(range(len(ids)), key=lambda i: hashlib.sha256(f"{purpose}\0{ids[i]}".encode()).digest())
    fold = np.full(len(ids), -1, dtype=np.int64)
    sizes = np.zeros(count, dtype=np.int64)
    for c in [*np.argsort((marks > 0).sum(0), kind="stable"), None]:
        mine = [i for i in order if fold[i] < 0 and (c is None or marks[i, c] > 0)]
        have = sizes if c is None else np.bincount(fold[(fold >= 0) & (marks[:, c] > 0)], minlength=count)
        have = have.copy()
        for i in mine:
            k = min(range(count), key=lambda k: (have[k], sizes[k], k))
            fold[i] = k
            sizes[k] += 1
            if c is not None:
                have[k] += 1
            else:
                have = sizes
    return fold


def auc(good: Rows, bad: Rows) -> float:
    """The chance that one of `good` is above one of `bad`, ties counted half; 0.5 when a side is empty."""
    if not good.size or not bad.size:
        return 0.5
    ordered = np.sort(bad)
    below = np.searchsorted(ordered, good, "left").sum() + np.searchsorted(ordered, good, "right").sum()
    return float(below) / (2.0 * good.size * bad.size)


def aucs(scores: Rows, marks: Marks) -> Rows:
    """[concepts] of `scores` [n, concepts] against their own marks; texts without a score (NaN) are left out."""
    known = ~np.isnan(scores)
    columns = range(marks.shape[1])
    return np.array(
        [auc(scores[known[:, c] & (marks[:, c] > 0), c], scores[known[:, c] & (marks[:, c] < 0), c]) for c in columns]
    )


def interval(good: Rows, bad: Rows, seed: int, draws: int = 1000, level: float = 0.95) -> tuple[float, float]:
    """The bootstrap percentile interval of the AUC: texts are drawn again within their side."""
    if not good.size or not bad.size:
        return 0.0, 1.0
    rng = np.random.default_rng(seed)
    found = [auc(rng.choice(good, good.size), rng.choice(bad, bad.size)) for _ in range(draws)]
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def units(directions: Rows) -> Rows:
    """Rows of length 1; a zero row stays zero."""
    norms = np.linalg.norm(directions, axis=1, keepdims=True)
    found: Rows = directions / np.where(norms > 0, norms, 1.0)
    return found


def read(directions: Rows, known: Rows, rows: Rows) -> Rows:
    """Projections of `rows` [n, hidden] in standard deviations of those of `known`, [n, concepts]; NaN without a
    direction."""
    there = known @ directions.T
    spread = there.std(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Rows = (rows @ directions.T - there.mean(0)) / np.where(spread > 0, spread, np.nan)
    return found


def held_out(
    rows: Rows, marks: Marks, nuisance: Rows, fold: NDArray[np.int64], tried: Sequence[Candidate]
) -> list[Rows]:
    """For each candidate the scores [n, concepts] that texts get from directions found without their fold."""
    found = [np.full(marks.shape, np.nan) for _ in tried]
    for k in np.unique(fold):
        here = fold == k
        side = Side(rows[~here], marks[~here], nuisance)
        for scores, candidate in zip(found, tried, strict=True):
            scores[here] = read(units(candidate.directions(side)), side.rows, rows[here])
    return found
