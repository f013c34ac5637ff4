"""What directions are like: their cosines, what they share and confuse, how far the examples behind them agree."""

from __future__ import annotations

import numpy as np

from amybuild.readout.estimators import Marks
from amybuild.readout.split import auc
from amybuild.readout.table import Rows, Table

RIDGE = 0.01


def cosines(vectors: Rows) -> Rows:
    """[concepts, concepts] of unit rows."""
    found: Rows = vectors @ vectors.T
    return found


def redundancy(vectors: Rows) -> Rows:
    """[concepts]: the share of each unit row that a ridge regression on the other rows explains (R squared)."""
    found = np.zeros(len(vectors))
    for c in range(len(vectors)):
        others = np.delete(vectors, c, axis=0)
        weights = np.linalg.solve(others @ others.T + RIDGE * np.eye(len(others)), others @ vectors[c])
        found[c] = 1.0 - np.square(vectors[c] - weights @ others).sum()
    return found


def agreement(rows: Table, marks: Marks) -> tuple[Rows, Rows]:
    """Two numbers per concept, [concepts] each, of the differences between its positives and the negatives' mean.

    Their mean cosine with the difference of the means (arXiv 2407.12404: low means that steering will often fail), and
    the share of their first component in their sum of squares.
    """
    mean, first = np.full(marks.shape[1], np.nan), np.full(marks.shape[1], np.nan)
    for c in range(marks.shape[1]):
        good, bad = rows[marks[:, c] > 0], rows[marks[:, c] < 0]
        if not len(good) or not len(bad):
            continue
        here, there = (side.weighed(np.full((len(side), 1), 1.0 / len(side)))[0] for side in (good, bad))
        cosine = 0.0
        for _, batch in good.batches():
            lengths = np.linalg.norm(batch - there, axis=1) * np.linalg.norm(here - there)
            cosine += float(((batch - there) @ (here - there) / np.where(lengths > 0, lengths, 1.0)).sum())
        squares, _ = good.spectrum(there, np.ones(len(good)))
        mean[c], first[c] = cosine / len(good), squares[-1] / squares.sum()
    return mean, first


def confusion(scores: Rows, marks: Marks) -> Rows:
    """[label, readout]: the AUC of a readout against another concept's label, over texts that carry not its own.

    0.5: it does not see the other concept; above: it takes it for its own. The diagonal is its own AUC.
    """
    count = marks.shape[1]
    found = np.full((count, count), 0.5)
    for label in range(count):
        for readout in range(count):
            kept = ~np.isnan(scores[:, readout]) & ((marks[:, readout] <= 0) | (label == readout))
            good, bad = kept & (marks[:, label] > 0), kept & (marks[:, label] < 0)
            found[label, readout] = auc(scores[good, readout], scores[bad, readout])
    return found


def beside(scores: Rows, marks: Marks, concept: int, partner: int) -> tuple[float, int, int] | None:
    """(AUC, positives, negatives) of a concept among the texts that carry its partner; None without both sides."""
    kept = ~np.isnan(scores[:, concept]) & (marks[:, partner] > 0)
    good, bad = kept & (marks[:, concept] > 0), kept & (marks[:, concept] < 0)
    if not good.any() or not bad.any():
        return None
    return auc(scores[good, concept], scores[bad, concept]), int(good.sum()), int(bad.sum())
