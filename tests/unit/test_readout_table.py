"""Rows in batches: what is found is what all rows at once give, from memory or from a file, in any order of texts."""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from amybuild.actions.labelled import one_thread
from amybuild.readout import table as module
from amybuild.readout.estimators import ESTIMATORS, Candidate, Side, candidates
from amybuild.readout.split import held_out, spreads
from amybuild.readout.table import Table

ALL = [candidates(name)[0] for name in ESTIMATORS]


@pytest.fixture(autouse=True)
def single() -> Iterator[None]:
    with one_thread():
        yield


def loud(n: int, hidden: int, seed: int = 0) -> np.ndarray:
    """float32 rows far from zero, one dimension of them a hundred times as far: where sums lose digits."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((n, hidden)) + 20.0
    rows[:, 1] = 2000.0 + 5.0 * rng.standard_normal(n)
    return rows.astype(np.float32)


def side_of(rows: Table, seed: int = 0) -> Side:
    rng = np.random.default_rng(seed)
    marks = rng.choice(np.array([-1, 0, 1], np.int8), (len(rows), 3), p=[0.5, 0.1, 0.4])
    return Side(rows, marks, np.zeros((0, rows.hidden)))


@given(st.integers(0, 70), st.integers(1, 9), st.integers(1, 100), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=60)
def test_batches_are_the_rows_that_are_kept(n: int, hidden: int, batch: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((n, hidden))
    keep = rng.random(n) < 0.5
    again = rng.random(int(keep.sum())) < 0.7
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BATCH", batch)
        some = Table.of(rows)[keep]
        assert max((len(x) for _, x in some.batches()), default=0) <= batch
        for part, expected in ((some, rows[keep]), (some[again], rows[keep][again])):
            np.testing.assert_array_equal(part.whole(), expected)
            assert len(part) == len(expected)
        weights, directions = rng.standard_normal((len(some), 2)), rng.standard_normal((3, hidden))
        np.testing.assert_allclose(some.weighed(weights), weights.T @ rows[keep], atol=1e-12)
        np.testing.assert_allclose(some.times(directions), rows[keep] @ directions.T, atol=1e-12)


@pytest.mark.parametrize("n", [20, 300], ids=["fewer than wide", "more than wide"])
def test_the_spectrum_is_that_of_the_weighted_covariance(n: int) -> None:
    rows = loud(n, 30).astype(np.float64)
    weights = np.random.default_rng(1).random(n)
    centre = weights @ rows / weights.sum()
    values, vectors = Table.of(rows).spectrum(centre, weights)
    scatter = (rows - centre).T @ ((rows - centre) * weights[:, None])
    np.testing.assert_allclose((vectors.T * values) @ vectors, scatter, rtol=1e-9, atol=1e-8)
    np.testing.assert_allclose(vectors @ vectors.T, np.eye(len(values)), atol=1e-7)
    assert len(values) <= min(n, 30)


def test_mean_and_deviation_of_projections_keep_their_digits_far_from_zero() -> None:
    rows = loud(3000, 8)
    rows[:, 0] = 4000.0 + 0.25 * (np.arange(3000) % 2)
    mean, std = spreads(np.eye(8), Table.of(rows))
    assert mean[0] == pytest.approx(4000.125, rel=1e-12)
    assert std[0] == pytest.approx(0.125, rel=1e-9)


@pytest.mark.parametrize("candidate", ALL, ids=lambda one: one.name)
@pytest.mark.parametrize("n", [25, 90])
def test_a_file_read_in_batches_gives_what_memory_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, candidate: Candidate, n: int
) -> None:
    rows = loud(n, 30)
    save_file({"layer_3": rows}, tmp_path / "a.safetensors")
    path = tmp_path / "a.safetensors"
    whole = candidate.directions(side_of(Table.of(rows)))
    np.testing.assert_array_equal(candidate.directions(side_of(Table.stored(path, "layer_3"))), whole)
    monkeypatch.setattr(module, "BATCH", 16)
    batched = candidate.directions(side_of(Table.of(rows)))
    np.testing.assert_array_equal(candidate.directions(side_of(Table.stored(path, "layer_3"))), batched)
    scale = np.abs(whole).max()
    np.testing.assert_allclose(batched / scale, whole / scale, atol=1e-7)  # iterations of logistic included


@pytest.mark.parametrize("name", ["mean", "neutral", "lda", "partial", "linear", "pca"])
def test_the_order_of_texts_matters_to_rounding_only(name: str) -> None:
    side = side_of(Table.of(loud(2500, 20)))
    order = np.random.default_rng(2).permutation(2500)
    other = Side(Table.of(loud(2500, 20)[order]), side.marks[order], side.nuisance)
    one, two = (candidates(name)[0].directions(x) for x in (side, other))
    np.testing.assert_allclose(one / np.abs(one).max(), two / np.abs(one).max(), atol=1e-9)


@pytest.mark.skipif(sys.implementation.name != "cpython", reason="counts what CPython and NumPy allocate")
def test_memory_holds_a_batch_of_a_large_file(tmp_path: Path) -> None:
    n, hidden = 40_000, 64
    save_file(
        {"layer_0": np.random.default_rng(0).standard_normal((n, hidden), np.float32)}, tmp_path / "a.safetensors"
    )
    side = side_of(Table.stored(tmp_path / "a.safetensors", "layer_0"))
    fold = (np.arange(n) % 2).astype(np.int64)
    tried = [candidates(name)[0] for name in ("mean", "lda", "linear", "pca", "partial")]
    tracemalloc.start()
    scores = held_out(side.rows, side.marks, side.nuisance, fold, tried)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    told = sum(one.nbytes for one in scores)
    assert peak - told < n * hidden * 4 / 2, "half of what the rows are in the file"
