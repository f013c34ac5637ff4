"""Splits, scores and the choice of estimator and blocks: what measures is never what chose."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amybuild.readout.choose import Choice, Data, choose
from amybuild.readout.estimators import Candidate, candidates
from amybuild.readout.split import auc, aucs, folds, grouped, held_out, interval, read, resampled, units
from amybuild.readout.table import Table


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=20), st.lists(st.integers(-5, 5), min_size=1, max_size=20))
@settings(deadline=None)
def test_auc_is_the_share_of_pairs_won(good: list[int], bad: list[int]) -> None:
    wins = sum((g > b) + 0.5 * (g == b) for g in good for b in bad) / (len(good) * len(bad))
    assert auc(np.array(good, float), np.array(bad, float)) == pytest.approx(wins)


@given(st.integers(0, 60), st.integers(1, 4), st.integers(0, 10_000))
@settings(deadline=None)
def test_folds_are_even_for_every_concept_and_know_no_order(texts: int, concepts: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    marks = np.zeros((texts, concepts), np.int8)
    marks[np.arange(texts), rng.integers(0, concepts, texts)] = 1  # one concept each: then they can be even
    ids = [f"{seed}-{i}" for i in range(texts)]
    fold = folds(ids, marks)
    assert set(fold) <= set(range(5))
    for c in range(concepts):
        dealt = np.bincount(fold[marks[:, c] > 0], minlength=5)
        assert dealt.max() - dealt.min() <= 1
    order = rng.permutation(texts)
    assert (folds([ids[i] for i in order], marks[order]) == fold[order]).all()


@given(st.lists(st.integers(0, 9), min_size=1, max_size=60), st.integers(1, 3), st.integers(0, 10_000))
@settings(deadline=None)
def test_a_group_is_never_parted_and_large_ones_leave_no_fold_empty(rooms: list[int], concepts: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    marks = rng.integers(-1, 2, (len(rooms), concepts)).astype(np.int8)
    groups = [f"in {room}" for room in rooms]
    fold = folds(groups, marks)
    assert all(len({k for k, other in zip(fold, groups, strict=True) if other == one}) == 1 for one in groups)
    assert len(set(fold)) == min(5, len(set(groups))) or (marks > 0).any()
    order = rng.permutation(len(rooms))
    assert (folds([groups[i] for i in order], marks[order]) == fold[order]).all()


def test_the_group_of_a_text_is_its_commonest_setting() -> None:
    settings = [("quay",), ("quay", "tomas"), ("tomas",), ("tomas", "attic"), ("attic",), (), ("boat",), ("boat",)]
    ids = [f"t{i}" for i in range(len(settings))]
    found = grouped(ids, settings)
    assert found == ("in quay", "in tomas", "in tomas", "in tomas", "in attic", "t5", "in boat", "in boat")
    hub = [(*one, "everything") for one in settings]  # what all have in common tells none of them apart
    assert grouped(ids, hub) == (*found[:5], "in everything", *found[6:])


def test_what_a_setting_gives_away_is_not_read_as_the_concept() -> None:
    rng = np.random.default_rng(0)
    rooms = rng.integers(0, 12, 240)
    marks = np.where(np.arange(12) % 2, 1, -1)[rooms][:, None].astype(np.int8)  # a room is all joy or none of it
    rows = Table.of(rng.standard_normal((12, 40))[rooms] * 3 + rng.standard_normal((240, 40)))
    plain = np.zeros((0, 40))
    ids = tuple(f"t{i}" for i in range(240))
    alone = Data(ids, ("joy",), 1, {0: rows}, marks, {0: plain}, ids)
    found = []
    for data in (alone, replace(alone, groups=grouped(ids, [(f"room {room}",) for room in rooms]))):
        (scores,) = held_out(rows, marks, plain, data.folds(), [Candidate("lda", 0.5)])
        found.append(aucs(scores, marks)[0])
    assert found[0] > 0.95
    assert found[1] < 0.65
    single = replace(alone, groups=("in one",) * 240)
    assert (single.folds() == alone.folds()).all(), "where all are one group, they are held out by themselves"
    assert len(set(single.part(alone.folds() > 0).groups)) == 1


def test_the_interval_holds_the_auc_and_narrows_with_more_texts() -> None:
    rng = np.random.default_rng(0)
    widths = []
    for n in (10, 200):
        good, bad = rng.standard_normal((n, 1)) + 1.0, rng.standard_normal((4 * n, 1))
        low, high = interval(resampled(good, bad, seed=1)[:, 0], (0.0, 1.0))
        assert low < auc(good[:, 0], bad[:, 0]) < high
        assert (low, high) == interval(resampled(good, bad, seed=1)[:, 0], (0.0, 1.0))
        widths.append(high - low)
    assert widths[1] < widths[0] / 2
    assert interval(resampled(good[:0], bad, seed=1)[:, 0], (0.0, 1.0)) == (0.0, 1.0)


def test_two_scores_are_compared_over_the_same_resamples() -> None:
    rng = np.random.default_rng(0)
    mark = np.repeat([1.0, 0.0], (25, 100))
    shared = mark + rng.standard_normal(125)  # what both scores know
    scores = np.column_stack([shared + 0.3 * mark, shared, shared])
    good, bad = scores[:25], scores[25:]
    drawn = resampled(good, bad, seed=0)
    assert (drawn[:, 1] == drawn[:, 2]).all()
    low, _ = interval(drawn[:, 0] - drawn[:, 1], (-1.0, 1.0))
    assert low > 0, "surely better"
    assert interval(drawn[:, 0], (0.0, 1.0))[0] < auc(good[:, 1], bad[:, 1]), "which the interval alone does not say"


def noise(texts: int, hidden: int, layers: int, seed: int, planted: int | None = None) -> Data:
    rng = np.random.default_rng(seed)
    marks = np.where(rng.random((texts, 1)) < 0.4, 1, -1).astype(np.int8)
    rows = {layer: rng.standard_normal((texts, hidden)) for layer in range(layers)}
    if planted is not None:
        rows[planted][:, 0] += 3.0 * (marks[:, 0] > 0)
    ids = tuple(f"{seed}-{i}" for i in range(texts))
    plain = dict.fromkeys(rows, np.zeros((0, hidden)))
    return Data(ids, ("joy",), layers, {n: Table.of(x) for n, x in rows.items()}, marks, plain, ids)


def test_held_out_scores_know_nothing_of_the_text_they_score() -> None:
    data = noise(40, 60, 1, 0)  # more dimensions than texts: any labels can be fitted
    fold = folds(data.ids, data.marks)
    (scores,) = held_out(data.rows[0], data.marks, data.nuisance[0], fold, [Candidate("lda", 0.1)])
    here = fold == 2
    rows = Table.of(data.rows[0].whole())
    marks = data.marks.copy()
    marks[here] *= -1
    (again,) = held_out(rows, marks, data.nuisance[0], fold, [Candidate("lda", 0.1)])
    np.testing.assert_array_equal(scores[here], again[here])
    assert not np.allclose(scores[~here], again[~here])


def test_a_choice_made_inside_does_not_flatter_what_is_held_outside() -> None:
    inside, outside = [], []
    for seed in range(12):
        data = noise(40, 8, 12, seed)
        choice = choose(data, candidates("auto"), None, 1)
        inside.append(choice.table[choice.candidate][choice.best][0])
        fold = folds(data.ids, data.marks, purpose="outer")
        scores = np.full(data.marks.shape, np.nan)
        for k in range(5):
            here = fold == k
            part = choose(data.part(~here), candidates("auto"), None, 1)
            rows = data.rows[part.best]
            (found,) = held_out(rows, data.marks, data.nuisance[0], here.astype(int), [part.candidate])
            scores[here] = found[here]
        outside.append(aucs(scores, data.marks)[0])
    assert np.mean(inside) > 0.55  # the best of many draws
    assert abs(np.mean(outside) - 0.5) < 0.06


def test_the_planted_block_is_chosen_and_the_prior_bounds_the_search() -> None:
    found = choose(noise(60, 20, 10, 1, planted=6), candidates("auto"), None, 1)
    assert (found.layers, found.best) == ((6,), 6)
    early = choose(noise(60, 20, 10, 1, planted=0), candidates("auto"), None, 3)
    assert min(early.layers) >= 3
    given_layers = choose(noise(60, 20, 10, 1, planted=6), candidates("mean"), (0, 6), 1)
    assert (given_layers.layers, given_layers.best) == ((0, 6), 6)


def test_equal_blocks_are_taken_nearest_to_the_middle_of_the_prior() -> None:
    data = noise(30, 5, 10, 0)
    same = replace(data, rows=dict.fromkeys(range(10), data.rows[0]))
    found: Choice = choose(same, candidates("mean"), None, 3)
    assert (found.layers, found.best) == ((5, 6, 7), 6)


def test_scores_are_in_standard_deviations_of_the_known_texts_and_missing_without_a_direction() -> None:
    rng = np.random.default_rng(0)
    known, rows = rng.standard_normal((50, 4)) * 9, rng.standard_normal((3, 4))
    directions = units(np.stack([np.ones(4) * 5, np.zeros(4)]))
    found = read(directions, Table.of(known), Table.of(rows))
    there = known @ directions[0]
    np.testing.assert_allclose(found[:, 0], (rows @ directions[0] - there.mean()) / there.std())
    assert np.isnan(found[:, 1]).all()
    assert (
        aucs(found, np.array([[1, 1], [-1, -1], [1, -1]], np.int8)) == [auc(found[[0, 2], 0], found[[1], 0]), 0.5]
    ).all()
