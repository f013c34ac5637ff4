"""The table of estimators: from activations with and without a concept to a direction, one row each with its paper."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.float64]
Marks = NDArray[np.int8]

SHRINKAGES = (0.5, 0.9, 0.98)  # what "auto" tries where an estimator has a shrinkage
NUISANCE = 0.5  # share of the neutral variance whose components are projected out


@dataclass(frozen=True)
class Side:
    """What a direction is found on: `rows` [n, hidden] and `marks` [n, concepts], 1 with, -1 without, 0 unknown.

    `nuisance` [k, hidden] are orthonormal directions in which neutral text varies (none: shape [0, hidden]).
    """

    rows: Rows
    marks: Marks
    nuisance: Rows

    @cached_property
    def usable(self) -> NDArray[np.bool_]:
        """Per concept whether there are texts with it and texts without."""
        return np.asarray((self.marks > 0).any(0) & (self.marks < 0).any(0))

    @cached_property
    def differences(self) -> Rows:
        """mean(with) - mean(without) per concept, [concepts, hidden]; zero where one side is empty."""
        with_it, without = (self.marks > 0).astype(float), (self.marks < 0).astype(float)
        weights = with_it / np.maximum(with_it.sum(0), 1) - without / np.maximum(without.sum(0), 1)
        found: Rows = (weights * self.usable).T @ self.rows
        return found

    @cached_property
    def centred(self) -> Rows:
        """The rows without their mean."""
        found: Rows = self.rows - self.rows.mean(0)
        return found

    @cached_property
    def spectrum(self) -> tuple[Rows, Rows]:
        """Eigenvalues [r] of the covariance of all rows and their eigenvectors [r, hidden], zero ones left out."""
        x, n = self.centred, len(self.rows)
        if n <= x.shape[1]:  # by the Gram matrix, which has the same spectrum
            values, vectors = np.linalg.eigh(x @ x.T / n)
            keep = values > values[-1] * 1e-10
            return values[keep], (vectors[:, keep] / np.sqrt(values[keep] * n)).T @ x
        values, vectors = np.linalg.eigh(x.T @ x / n)
        keep = values > values[-1] * 1e-10
        return values[keep], vectors[:, keep].T


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
    values, vectors = side.spectrum
    floor = shrinkage * values.sum() / side.rows.shape[1]
    inside = side.differences @ vectors.T
    outside = side.differences - inside @ vectors
    found: Rows = (inside / ((1 - shrinkage) * values + floor)) @ vectors + outside / floor
    return found


def linear(side: Side, shrinkage: float) -> Rows:
    """Ridge regression of the label, both sides weighing the same; the penalty as in `lda`."""

    def one(x: Rows, y: Rows) -> Rows:
        weight = np.sqrt(np.where(y > 0, 0.5 / (y > 0).sum(), 0.5 / (y < 0).sum()))
        z = (x - (weight**2) @ x) * weight[:, None]
        gram = (1 - shrinkage) * (z @ z.T)
        floor = shrinkage * np.square(z).sum() / x.shape[1]
        found: Rows = z.T @ np.linalg.solve(gram + floor * np.eye(len(x)), weight * y)
        return found

    return _each(side, one)


def partial(side: Side, _: float) -> Rows:
    """Regression of the activations on all concepts' labels at once: what each adds when the others are held fixed."""
    y = side.marks.astype(float)
    design = np.column_stack([np.ones(len(y)), y])
    penalty = np.eye(design.shape[1])
    penalty[0, 0] = 0.0
    found: Rows = 2.0 * np.linalg.solve(design.T @ design + 0.5 * penalty, design.T @ side.rows)[1:]
    return found


def pca(side: Side, _: float) -> Rows:
    """The first principal component of both sides around the midpoint of their means, towards the positives."""

    def one(x: Rows, y: Rows) -> Rows:
        good, bad = x[y > 0], x[y < 0]
        middle = (good.mean(0) + bad.mean(0)) / 2
        z = np.concatenate([(good - middle) / np.sqrt(len(good)), (bad - middle) / np.sqrt(len(bad))])
        _, vectors = np.linalg.eigh(z @ z.T)
        first: Rows = z.T @ vectors[:, -1]
        return first if (good.mean(0) - bad.mean(0)) @ first >= 0 else -first

    return _each(side, one)


def logistic(side: Side, _: float) -> Rows:
    """Logistic regression with an L2 penalty, balanced, on rows of unit mean square."""

    def one(x: Rows, y: Rows) -> Rows:
        from sklearn.linear_model import LogisticRegression

        z = x - x.mean(0)
        # an L2 penalty does not see rotations: the same problem in as many coordinates as there are rows
        basis = np.linalg.qr(z.T)[0].T
        z = z @ basis.T
        model = LogisticRegression(C=10.0, class_weight="balanced", max_iter=1000)
        found: Rows = model.fit(z / np.sqrt(np.square(z).sum(1).mean()), y).coef_[0] @ basis
        return found

    return _each(side, one)


def logistic_l1(side: Side, _: float) -> Rows:
    """Logistic regression with an L1 penalty, balanced, on standardised columns, folded back into the rows' space."""

    def one(x: Rows, y: Rows) -> Rows:
        from sklearn.linear_model import LogisticRegression

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


def nuisance(rows: Rows, share: float = NUISANCE) -> Rows:
    """The first principal components [k, hidden] that hold `share` of the variance of neutral `rows`."""
    if len(rows) < 2:
        return np.zeros((0, rows.shape[1]))
    values, vectors = Side(rows, np.zeros((len(rows), 0), np.int8), rows[:0]).spectrum
    values, vectors = values[::-1], vectors[::-1]
    held = np.cumsum(values) / values.sum()
    return vectors[: int(np.searchsorted(held, share)) + 1]


def _each(side: Side, one: Callable[[Rows, Rows], Rows]) -> Rows:
    """`one` on the labelled rows of each concept by itself."""
    found = np.zeros((side.marks.shape[1], side.rows.shape[1]))
    for c in np.flatnonzero(side.usable):
        y = side.marks[:, c]
        found[c] = one(side.rows[y != 0], y[y != 0].astype(float))
    return found
