"""The table of estimators: from activations with and without a concept to a direction, one row each with its paper."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from amybuild.readout.table import Rows, Table

Marks = NDArray[np.int8]

SHRINKAGES = (0.5, 0.9, 0.98)  # what "auto" tries where an estimator has a shrinkage
NUISANCE = 0.5  # share of the neutral variance whose components are projected out


@dataclass(frozen=True)
class Side:
    """What a direction is found on: `rows` [n, hidden] and `marks` [n, concepts], 1 with, -1 without, 0 unknown.

    `nuisance` [k, hidden] are orthonormal directions in which neutral text varies (none: shape [0, hidden]).
    """

    rows: Table
    marks: Marks
    nuisance: Rows

    @cached_property
    def counts(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """How many texts are with and without each concept, [concepts] each."""
        return (self.marks > 0).sum(0), (self.marks < 0).sum(0)

    @cached_property
    def usable(self) -> NDArray[np.bool_]:
        """Per concept whether there are texts with it and texts without."""
        return np.asarray((self.counts[0] > 0) & (self.counts[1] > 0))

    @cached_property
    def sums(self) -> tuple[Rows, Rows, Rows]:
        """The sums of all rows [hidden], of those with and of those without each concept [concepts, hidden]."""
        count = self.marks.shape[1]
        found = self.rows.weighed(np.column_stack([np.ones(len(self.rows)), self.marks > 0, self.marks < 0]))
        return found[0], found[1 : count + 1], found[count + 1 :]

    @cached_property
    def means(self) -> tuple[Rows, Rows]:
        """Of the rows with and without each concept, [concepts, hidden] each; zero where there are none."""
        (with_it, without), (_, good, bad) = self.counts, self.sums
        return good / np.maximum(with_it, 1)[:, None], bad / np.maximum(without, 1)[:, None]

    @cached_property
    def differences(self) -> Rows:
        """mean(with) - mean(without) per concept, [concepts, hidden]; zero where one side is empty."""
        found: Rows = np.where(self.usable[:, None], self.means[0] - self.means[1], 0.0)
        return found

    @cached_property
    def spectrum(self) -> tuple[Rows, Rows]:
        """Eigenvalues [r] of the covariance of all rows and their eigenvectors [r, hidden], zero ones left out."""
        n = len(self.rows)
        return self.rows.spectrum(self.sums[0] / n, np.full(n, 1.0 / n))

    def balanced(self, concept: int) -> tuple[Rows, Rows]:
        """As `spectrum`, of one concept's labelled rows around the midpoint of its means, each side weighing a half."""
        y = self.marks[:, concept]
        weights: Rows = np.where(y > 0, 0.5 / self.counts[0][concept], 0.5 / self.counts[1][concept])
        return self.rows[y != 0].spectrum((self.means[0] + self.means[1])[concept] / 2, weights[y != 0])


@dataclass(frozen=True)
class Estimator:
    """A row of the table; `find` returns [concepts, hidden] in the space of the rows, of any length."""

    name: str
    find: Callable[[Side, float], Any]
    paper: str
    shrinks: bool = False  # its second argument matters
    tried: bool = False  # among what "auto" chooses from: good at reading somewhere, and quick


def mean(side: Side, _: float) -> Rows:
    """The difference of the means."""
    return side.differences


def neutral(side: Side, _: float) -> Rows:
    """The difference of the means without the directions in which neutral text varies most."""
    found: Rows = side.differences - side.differences @ side.nuisance.T @ side.nuisance
    return found


def lda(side: Side, shrinkage: float) -> Rows:
    """The difference of the means, whitened by (1 - s) covariance + s (its mean eigenvalue) identity."""
    return _whitened(side.differences, side.spectrum, shrinkage)


def linear(side: Side, shrinkage: float) -> Rows:
    """Ridge regression of the label, both sides weighing the same; the penalty as in `lda`."""

    def one(concept: int) -> Rows:
        found: Rows = _whitened(side.differences[[concept]], side.balanced(concept), shrinkage)[0]
        return found

    return _each(side, one)


def partial(side: Side, _: float) -> Rows:
    """Regression of the activations on all concepts' labels at once: what each adds when the others are held fixed."""
    y = side.marks.astype(float)
    design = np.column_stack([np.ones(len(y)), y])
    penalty = np.eye(design.shape[1])
    penalty[0, 0] = 0.0
    whole, with_it, without = side.sums
    moments = np.concatenate([whole[None], with_it - without])
    found: Rows = 2.0 * np.linalg.solve(design.T @ design + 0.5 * penalty, moments)[1:]
    return found


def pca(side: Side, _: float) -> Rows:
    """The first principal component of both sides around the midpoint of their means, towards the positives."""

    def one(concept: int) -> Rows:
        _, vectors = side.balanced(concept)
        first: Rows = vectors[-1] if len(vectors) else side.differences[concept]
        return first if side.differences[concept] @ first >= 0 else -first

    return _each(side, one)


def logistic(side: Side, _: float) -> Rows:
    """Logistic regression with an L2 penalty, balanced, on rows of unit mean square; takes all rows at once."""

    def one(concept: int) -> Rows:
        from sklearn.linear_model import LogisticRegression

        x, y = _labelled(side, concept)
        z = x - x.mean(0)
        # an L2 penalty does not see rotations: the same problem in as many coordinates as there are rows
        basis = np.linalg.qr(z.T)[0].T
        z = z @ basis.T
        model = LogisticRegression(C=10.0, class_weight="balanced", max_iter=1000)
        found: Rows = model.fit(z / np.sqrt(np.square(z).sum(1).mean()), y).coef_[0] @ basis
        return found

    return _each(side, one)


def logistic_l1(side: Side, _: float) -> Rows:
    """Logistic regression with an L1 penalty, balanced, on standardised columns, folded back; all rows at once."""

    def one(concept: int) -> Rows:
        from sklearn.linear_model import LogisticRegression

        x, y = _labelled(side, concept)
        scale = x.std(0) + 1e-9
        model = LogisticRegression(
            C=1.0, l1_ratio=1.0, solver="liblinear", class_weight="balanced", max_iter=1000, random_state=0
        )
        found: Rows = model.fit((x - x.mean(0)) / scale, y).coef_[0] / scale
        return found

    return _each(side, one)


ESTIMATORS: Mapping[str, Estimator] = {
    row.name: row
    for row in (
        Estimator("mean", mean, "arXiv 2312.06681", tried=True),
        Estimator("neutral", neutral, "arXiv 2604.07729", tried=True),
        Estimator("lda", lda, "doi 10.1016/S0047-259X(03)00096-4", shrinks=True, tried=True),
        Estimator("partial", partial, "multi-label regression (bench/LOG.md)", tried=True),
        Estimator("linear", linear, "doi 10.1080/00401706.1970.10488634", shrinks=True),
        Estimator("pca", pca, "arXiv 2310.01405"),
        Estimator("logistic", logistic, "arXiv 1610.01644"),
        Estimator("logistic_l1", logistic_l1, "doi 10.1111/j.2517-6161.1996.tb02080.x"),
    )
}


@dataclass(frozen=True)
class Candidate:
    """An estimator with its shrinkage, if it has one."""

    name: str
    shrinkage: float = 0.0

    def directions(self, side: Side) -> Rows:
        """[concepts, hidden], of any length; a zero row where a side is empty."""
        found: Rows = ESTIMATORS[self.name].find(side, self.shrinkage)
        return np.where(side.usable[:, None], found, 0.0)

    @property
    def label(self) -> str:
        """`lda 0.9`, `mean`."""
        return f"{self.name} {self.shrinkage:g}" if ESTIMATORS[self.name].shrinks else self.name


def candidates(name: str) -> tuple[Candidate, ...]:
    """What is tried for the name of an estimator: itself with each shrinkage; for "auto" all quick ones."""
    rows = [row for row in ESTIMATORS.values() if row.name == name or (name == "auto" and row.tried)]
    return tuple(Candidate(row.name, s) for row in rows for s in (SHRINKAGES if row.shrinks else (0.0,)))


def nuisance(rows: Table, share: float = NUISANCE) -> Rows:
    """The first principal components [k, hidden] that hold `share` of the variance of neutral `rows`."""
    if len(rows) < 2:
        return np.zeros((0, rows.hidden))
    values, vectors = Side(rows, np.zeros((len(rows), 0), np.int8), np.zeros((0, rows.hidden))).spectrum
    values, vectors = values[::-1], vectors[::-1]
    held = np.cumsum(values) / values.sum()
    return vectors[: int(np.searchsorted(held, share)) + 1]


def _whitened(differences: Rows, spectrum: tuple[Rows, Rows], shrinkage: float) -> Rows:
    """`differences` [k, hidden] by the inverse of (1 - s) covariance + s (its mean eigenvalue) identity."""
    values, vectors = spectrum
    floor = shrinkage * values.sum() / differences.shape[1]
    inside = differences @ vectors.T
    outside = differences - inside @ vectors
    found: Rows = (inside / ((1 - shrinkage) * values + floor)) @ vectors + outside / floor
    return found


def _each(side: Side, one: Callable[[int], Rows]) -> Rows:
    """`one` of each concept by itself."""
    found = np.zeros((side.marks.shape[1], side.rows.hidden))
    for c in np.flatnonzero(side.usable):
        found[c] = one(int(c))
    return found


def _labelled(side: Side, concept: int) -> tuple[Rows, Rows]:
    """The rows of one concept's labelled texts, and their labels, 1 or -1."""
    y = side.marks[:, concept]
    return side.rows[y != 0].whole(), y[y != 0].astype(float)
