"""The estimators by their laws: a planted direction is found, from unpaired texts, in any order, wherever zero is."""

from __future__ import annotations

import numpy as np
import pytest

from amybuild.readout.estimators import ESTIMATORS, Candidate, Side, candidates, nuisance
from amybuild.readout.table import Rows, Table

HIDDEN = 40
ALL = [candidates(name)[0] for name in ESTIMATORS]


def make(n: int = 120, *, loud: float = 0.0, seed: int = 0) -> Side:
    """Two concepts, planted along axes 0 and 1, of unequal sides; `loud` noise along axis 2, and a large constant."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((n, HIDDEN))
    marks = np.where(rng.random((n, 2)) < 0.3, 1, -1).astype(np.int8)
    rows[:, 0] += 4.0 * (marks[:, 0] > 0)
    rows[:, 1] += 4.0 * (marks[:, 1] > 0)
    rows[:, 2] += loud * rng.standard_normal(n)
    rows[:, 3] += 100.0
    plain = rng.standard_normal((60, HIDDEN))
    plain[:, 2] += 30.0 * rng.standard_normal(60)
    return Side(Table.of(rows), marks, nuisance(Table.of(plain)))


def cosines(found: Rows) -> Rows:
    """Of each concept's direction with the axis it was planted on."""
    return np.array([found[c, c] / np.linalg.norm(found[c]) for c in range(2)])


@pytest.mark.parametrize("candidate", ALL, ids=lambda one: one.name)
def test_what_was_planted_is_found_with_its_sign(candidate: Candidate) -> None:
    assert (cosines(candidate.directions(make())) > 0.8).all()


@pytest.mark.parametrize("candidate", ALL, ids=lambda one: one.name)
def test_order_and_a_common_shift_do_not_matter(candidate: Candidate) -> None:
    side = make()
    order = np.random.default_rng(1).permutation(len(side.rows))
    one = candidate.directions(side)
    other = candidate.directions(Side(Table.of(side.rows.whole()[order] + 7.0), side.marks[order], side.nuisance))
    for a, b in zip(one, other, strict=True):
        assert a @ b / (np.linalg.norm(a) * np.linalg.norm(b)) > 0.999


@pytest.mark.parametrize("candidate", ALL, ids=lambda one: one.name)
def test_a_concept_without_a_side_has_no_direction_and_the_others_keep_theirs(candidate: Candidate) -> None:
    side = make()
    marks = side.marks.copy()
    marks[marks[:, 0] < 0, 0] = 0
    found = candidate.directions(Side(side.rows, marks, side.nuisance))
    assert not found[0].any()
    assert found[1, 1] / np.linalg.norm(found[1]) > 0.8


def test_unlabelled_texts_are_on_no_side() -> None:
    side = make()
    marks = side.marks.copy()
    marks[:20] = 0
    found = Candidate("mean").directions(Side(side.rows, marks, side.nuisance))
    part = side.rows.whole()[20:]
    for c in range(2):
        y = marks[20:, c]
        np.testing.assert_allclose(found[c], part[y > 0].mean(0) - part[y < 0].mean(0), atol=1e-12)


def test_whitening_and_neutral_components_take_a_loud_direction_out() -> None:
    side = make(60, loud=30.0)
    quiet = {name: cosines(Candidate(name, 0.1).directions(side)).min() for name in ("mean", "neutral", "lda")}
    assert quiet["neutral"] > 0.8 > quiet["mean"]
    assert quiet["lda"] > 0.8
    assert np.abs(Candidate("neutral").directions(side) @ side.nuisance.T).max() < 1e-9


def test_lda_is_the_shrunken_covariance_inverted_and_linear_its_regression() -> None:
    side = make(30)  # fewer texts than dimensions
    covariance = np.cov(side.rows.whole().T, bias=True)
    shrunk = 0.4 * covariance + 0.6 * np.trace(covariance) / HIDDEN * np.eye(HIDDEN)
    expected = np.linalg.solve(shrunk, side.differences.T).T
    np.testing.assert_allclose(Candidate("lda", 0.6).directions(side), expected, rtol=1e-6, atol=1e-9)
    many = make(300)
    np.testing.assert_allclose(
        Candidate("lda", 0.6).directions(many),
        np.linalg.solve(
            0.4 * np.cov(many.rows.whole().T, bias=True)
            + 0.6 * np.trace(np.cov(many.rows.whole().T, bias=True)) / HIDDEN * np.eye(HIDDEN),
            many.differences.T,
        ).T,
        rtol=1e-6,
        atol=1e-9,
    )


def test_partial_holds_a_co_occurring_concept_fixed() -> None:
    rng = np.random.default_rng(3)
    marks = np.where(rng.random((400, 2)) < 0.5, 1, -1).astype(np.int8)
    follows = rng.random(400) < 0.8
    marks[follows, 1] = marks[follows, 0]
    rows = rng.standard_normal((400, HIDDEN))
    rows[:, 0] += 2.0 * marks[:, 0]
    rows[:, 1] += 2.0 * marks[:, 1]
    side = Side(Table.of(rows), marks, rows[:0])
    mixed, parted = (Candidate(name).directions(side)[0] for name in ("mean", "partial"))
    assert mixed[1] > 2.0
    assert abs(parted[1]) < 0.5 < parted[0]


def test_neutral_components_hold_half_of_the_variance_and_are_orthonormal() -> None:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((50, HIDDEN)) * np.linspace(5, 1, HIDDEN)
    found = nuisance(Table.of(rows))
    np.testing.assert_allclose(found @ found.T, np.eye(len(found)), atol=1e-9)
    centred = rows - rows.mean(0)
    held = np.square(centred @ found.T).sum() / np.square(centred).sum()
    less = np.square(centred @ found[:-1].T).sum() / np.square(centred).sum()
    assert less < 0.5 <= held
    assert nuisance(Table.of(rows[:1])).shape == (0, HIDDEN)


def test_auto_tries_the_quick_ones_with_each_shrinkage() -> None:
    assert [one.label for one in candidates("auto")] == [
        *("mean", "neutral", "lda 0.5", "lda 0.9", "lda 0.98", "partial"),
    ]
    assert [one.label for one in candidates("pca")] == ["pca"]
    assert candidates("svm") == ()
