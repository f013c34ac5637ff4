"""Splits and scores: folds that part no setting, standardised held-out scores, AUC and its interval."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from amybuild.readout.estimators import Candidate, Marks, Side
from amybuild.readout.table import Rows, Table

FOLDS = 5


def grouped(ids: Sequence[str], settings: Sequence[Collection[str]]) -> tuple[str, ...]:
    """The group of each text, [n]: texts of one setting are one group, a text without any is one by itself.

    What a text shares with others beside its concept (a scenario, the people and places it is about) can give it away.
    Of several settings its commonest counts, one of more than half of all texts only where there is no other: such a
    hub would leave nothing to hold out.
    """
    count = Counter(one for each in settings for one in each)

    def of(name: str, own: Collection[str]) -> str:
        if not own:
            return name
        return "in " + max(own, key=lambda one: (2 * count[one] <= len(ids), count[one], one))

    return tuple(of(name, own) for name, own in zip(ids, settings, strict=True))


def folds(groups: Sequence[str], marks: Marks, count: int = FOLDS, purpose: str = "outer") -> NDArray[np.int64]:
    """Which fold each text is held out in, [n]: a function of groups, marks [n, concepts] and purpose only.

    Texts of one group are held out together. The groups with the rarest concept are dealt first, large before small,
    each to the fold that has fewest of its texts (Sechidis et al. 2011), so that each fold has about the same share of
    every concept.
    """
    names, member = np.unique(np.array(groups, dtype=str), return_inverse=True)
    sizes = np.bincount(member, minlength=len(names))
    positives = np.zeros((len(names), marks.shape[1]), dtype=np.int64)
    np.add.at(positives, member, marks > 0)
    drawn = [hashlib.sha256(f"{purpose}\0{name}".encode()).digest() for name in names]
    order = sorted(range(len(names)), key=lambda g: (-sizes[g], drawn[g]))
    fold = np.full(len(names), -1, dtype=np.int64)
    have = np.zeros((count, marks.shape[1] + 1), dtype=np.int64)  # positives per concept, and texts
    for c in [*np.argsort(positives.sum(0), kind="stable"), -1]:
        for g in order:
            if fold[g] < 0 and (c < 0 or positives[g, c]):
                k = min(range(count), key=lambda k: (have[k, c], have[k, -1], k))
                fold[g] = k
                have[k] += [*positives[g], sizes[g]]
    return fold[member]


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


def resampled(good: Rows, bad: Rows, seed: int, draws: int = 2000) -> Rows:
    """AUCs [draws, k] of k scores of the same texts, `good` [n, k] and `bad` [m, k]: a draw draws texts again within
    their side, the same ones for every score, so that the AUCs of one draw can be compared. No draws from nothing."""
    rng = np.random.default_rng(seed)
    found = np.empty((draws if len(good) and len(bad) else 0, good.shape[1]))
    for row in found:
        here, there = rng.integers(0, len(good), len(good)), rng.integers(0, len(bad), len(bad))
        row[:] = [auc(good[here, j], bad[there, j]) for j in range(good.shape[1])]
    return found


def interval(drawn: Rows, whole: tuple[float, float], level: float = 0.95) -> tuple[float, float]:
    """The bootstrap percentile interval of what was drawn again and again, [draws]; without draws the `whole` range."""
    if not len(drawn):
        return whole
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def units(directions: Rows) -> Rows:
    """Rows of length 1; a zero row stays zero."""
    norms = np.linalg.norm(directions, axis=1, keepdims=True)
    found: Rows = directions / np.where(norms > 0, norms, 1.0)
    return found


def read(directions: Rows, known: Table, rows: Table) -> Rows:
    """Projections of `rows` [n, hidden] in standard deviations of those of `known`, [n, concepts]; NaN without a
    direction."""
    mean, spread = spreads(directions, known)
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Rows = (rows.times(directions) - mean) / np.where(spread > 0, spread, np.nan)
    return found


def spreads(directions: Rows, rows: Table) -> tuple[Rows, Rows]:
    """Mean and standard deviation of the projections of `rows` [n, hidden] on each direction, [concepts] each."""
    centre = rows.weighed(np.full((len(rows), 1), 1.0 / len(rows)))[0]
    squares = np.zeros(len(directions))
    for _, batch in rows.batches():
        squares += np.square((batch - centre) @ directions.T).sum(0)
    found: Rows = np.sqrt(squares / len(rows))
    return directions @ centre, found


def held_out(
    rows: Table, marks: Marks, nuisance: Rows, fold: NDArray[np.int64], tried: Sequence[Candidate]
) -> list[Rows]:
    """For each candidate the scores [n, concepts] that texts get from directions found without their fold."""
    found = [np.full(marks.shape, np.nan) for _ in tried]
    for k in np.unique(fold):
        here = fold == k
        side = Side(rows[~here], marks[~here], nuisance)
        for scores, candidate in zip(found, tried, strict=True):
            scores[here] = read(units(candidate.directions(side)), side.rows, rows[here])
    return found
