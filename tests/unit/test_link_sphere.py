"""The methods of angles: against the oracle, by their laws, on degenerate inputs; factors or dense alike.

Which law holds where, and why not elsewhere:
* weight 0 = absent, low-rank = dense, one vector alone is weight * delta, identical vectors merge to themselves: all.
* order of the vectors: karcher and model_stock; the arcs have a first and a second end (order turns t into 1 - t).
* v and -v cancel: model_stock, and karcher and the arcs (t = 1/2) of differences. On full weights the middle of
  base + v and base - v is the base again only up to its length: points on a sphere are averaged, not added.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from amybuild.errors import ActionError, InputError
from amybuild.link import sphere
from amybuild.link.delta import Delta, LowRank, dense
from tests import oracle_matrix as oracle
from tests.matrices import ALPHAS, Case, broken, cases, ordinary

CLOSE = 2e-6  # of the inputs' norms: float32 results
few = settings(deadline=None, max_examples=60)
shares = st.sampled_from([0.0, 0.3, 0.5, 1.0])


def values(found: Delta, case: Case) -> Any:
    assert found.shape == case.base.shape
    result = dense(found).astype(np.float64)
    assert np.isfinite(result).all()
    return result


def near(found: Any, wanted: Any, case: Case, *, base: bool = False) -> None:
    assert np.linalg.norm(found - wanted) <= CLOSE * (case.size + (float(np.linalg.norm(case.base)) if base else 0.0))


def two(case: Case) -> Case:
    return case.chosen(0, 1)


def gathered(case: Case, base: Any) -> bool:
    """Whether the points lie within 90 degrees of each other: there the Karcher mean is one, and soon found."""
    points = [base.ravel() + a * x.ravel() for a, x in zip(case.alphas, case.arrays, strict=True) if a != 0]
    norms = [float(np.linalg.norm(x)) for x in points]
    return all(points[i] @ points[j] >= 0 for i in range(len(points)) for j in range(i) if norms[i] * norms[j] > 0)


@given(case=cases(fewest=2), t=shares, per_row=st.booleans())
@few
def test_slerp_is_the_oracle(case: Case, t: float, per_row: bool) -> None:
    case = two(case)
    wanted = oracle.slerp(case.base, case.arrays, case.alphas, t, per_row)
    for deltas in (case.low, case.full):
        near(values(sphere.slerp(case.base, deltas, case.alphas, t=t, per_row=per_row), case), wanted, case, base=True)


@given(case=cases(fewest=2), t=shares, per_row=st.booleans())
@few
def test_nuslerp_is_the_oracle(case: Case, t: float, per_row: bool) -> None:
    case = two(case)
    wanted = oracle.nuslerp(case.arrays, case.alphas, t, per_row)
    for deltas in (case.low, case.full):
        found = sphere.nuslerp(case.base, deltas, case.alphas, t=t, per_row=per_row)
        assert isinstance(found, LowRank) or deltas != case.low
        near(values(found, case), wanted, case)


@given(case=cases(), of_deltas=st.booleans())
@few
def test_karcher_is_the_oracle(case: Case, of_deltas: bool) -> None:
    base = 20 * case.base
    assume(gathered(case, 0 * base if of_deltas else base))
    wanted = oracle.karcher(None if of_deltas else base, case.arrays, case.alphas)
    for deltas in (case.low, case.full):
        found = values(sphere.karcher(base, deltas, case.alphas, of_deltas=of_deltas), case)
        assert np.linalg.norm(found - wanted) <= CLOSE * (case.size + float(np.linalg.norm(base)))


@given(case=cases(), of_deltas=st.booleans())
@few
def test_karcher_is_finite_where_the_mean_is_not_one(case: Case, of_deltas: bool) -> None:
    for deltas in (case.low, case.full):
        found = values(sphere.karcher(case.base, deltas, case.alphas, of_deltas=of_deltas), case)
        assert np.linalg.norm(found) <= 1.001 * case.size + 2.001 * float(np.linalg.norm(case.base))


@given(case=cases(), per_row=st.booleans())
@few
def test_model_stock_is_the_oracle(case: Case, per_row: bool) -> None:
    wanted = oracle.model_stock(case.arrays, case.alphas, per_row)
    for deltas in (case.low, case.full):
        near(values(sphere.model_stock(case.base, deltas, case.alphas, per_row=per_row), case), wanted, case)


@given(case=cases(fewest=2), data=st.data())
@few
def test_the_order_does_not_matter_to_means(case: Case, data: st.DataObject) -> None:
    other, base = case.chosen(*data.draw(st.permutations(range(len(case.low))))), 20 * case.base
    one, same = (values(sphere.model_stock(base, c.low, c.alphas), c) for c in (case, other))
    near(one, same, case)
    assume(gathered(case, base))
    one, same = (values(sphere.karcher(base, c.low, c.alphas), c) for c in (case, other))
    assert np.linalg.norm(one - same) <= CLOSE * (case.size + float(np.linalg.norm(base)))


@given(case=cases(fewest=2), t=shares)
@few
def test_the_order_turns_an_arc_round(case: Case, t: float) -> None:
    case, other = case.chosen(0, 1), case.chosen(1, 0)
    for method in (sphere.slerp, sphere.nuslerp):
        there = values(method(case.base, case.low, case.alphas, t=t), case)
        near(there, values(method(case.base, other.low, other.alphas, t=1 - t), case), case, base=True)


@pytest.mark.parametrize("method", [sphere.slerp, sphere.nuslerp, sphere.karcher, sphere.model_stock])
@given(case=cases(fewest=2), alpha=st.sampled_from(ALPHAS))
@few
def test_weight_zero_is_absence_and_one_alone_is_itself(method: Any, case: Case, alpha: float) -> None:
    case = two(case).with_alphas(0.0, alpha)
    near(values(method(case.base, case.low, case.alphas), case), alpha * case.arrays[1], case)
    near(values(method(case.base, case.low[1:], [alpha]), case), alpha * case.arrays[1], case)


@pytest.mark.parametrize("method", [sphere.slerp, sphere.nuslerp, sphere.karcher, sphere.model_stock])
@given(case=cases(most=1))
@few
def test_identical_vectors_merge_to_themselves(method: Any, case: Case) -> None:
    case = case.chosen(0, 0).with_alphas(1.5, 1.5)
    near(values(method(case.base, case.low, case.alphas), case), 1.5 * case.arrays[0], case, base=True)


@given(case=cases(most=1))
@few
def test_opposite_differences_cancel(case: Case) -> None:
    case = case.chosen(0, 0).with_alphas(1.0, -1.0)
    assert not values(sphere.model_stock(case.base, case.low, case.alphas), case).any()
    near(values(sphere.nuslerp(case.base, case.low, case.alphas), case), 0.0, case)
    near(values(sphere.karcher(case.base, case.low, case.alphas, of_deltas=True), case), 0.0, case)


def test_an_arc_ends_where_it_should_and_keeps_the_length() -> None:
    case = ordinary(count=2)
    a, b = (dense(delta).astype(np.float64) for delta in case.low)
    for t, wanted in ((0.0, a), (1.0, b)):
        near(values(sphere.nuslerp(None, case.low, [1.0, 1.0], t=t), case), wanted, case)
    unit = [LowRank(d.left, d.right, d.scale / float(np.linalg.norm(dense(d)))) for d in case.low]
    middle = values(sphere.nuslerp(None, unit, [1.0, 1.0], t=0.3), case)
    assert np.linalg.norm(middle) == pytest.approx(1.0, abs=1e-6)


def test_karcher_has_no_pull_left_and_the_mean_length() -> None:
    case = ordinary(count=4)
    flat = [dense(delta).astype(np.float64).ravel() for delta in case.low]
    mean = values(sphere.karcher(None, case.low, [1.0] * 4), case).ravel()
    assert np.linalg.norm(mean) == pytest.approx(np.mean([np.linalg.norm(x) for x in flat]), rel=1e-6)
    direction = mean / np.linalg.norm(mean)
    pull = np.zeros_like(direction)
    for unit in (x / np.linalg.norm(x) for x in flat):
        cosine = float(direction @ unit)
        pull += np.arccos(cosine) / np.sqrt(1 - cosine**2) * (unit - cosine * direction)
    assert np.linalg.norm(pull) < 1e-5


def test_model_stock_goes_less_far_the_less_the_vectors_agree() -> None:
    e = np.eye(3, dtype=np.float32)
    one, other = LowRank(e[:, :1].copy(), e[:1]), LowRank(e[:, 1:2].copy(), e[:1])
    case = Case([one, other], [1.0, 1.0], np.zeros((3, 3), np.float32))
    assert not values(sphere.model_stock(None, [one, other], [1.0, 1.0]), case).any()  # orthogonal: the base
    both = LowRank(e[:, :1] + e[:, 1:2], e[:1], 1.0)  # 45 degrees from the first: t = 2c / (1 + c)
    cosine = 0.5**0.5
    wanted = 2 * cosine / (1 + cosine) * (dense(one) + dense(both)) / 2
    near(values(sphere.model_stock(None, [one, both], [1.0, 1.0]), case), wanted, case)


def test_full_weights_stream_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    case = ordinary(count=3)
    whole = [values(sphere.karcher(case.base, d, case.alphas), case) for d in (case.low, case.full)]
    monkeypatch.setattr(sphere, "_BLOCK", 20)
    for deltas, wanted in zip((case.low, case.full), whole, strict=True):
        near(values(sphere.karcher(case.base, deltas, case.alphas), case), wanted, case)


def test_arcs_join_two() -> None:
    case = ordinary(count=3)
    for method in (sphere.slerp, sphere.nuslerp):
        with pytest.raises(InputError, match="joins two vectors, not 3"):
            method(case.base, case.low, case.alphas)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("method", [sphere.slerp, sphere.nuslerp, sphere.karcher, sphere.model_stock])
def test_values_that_are_no_numbers_are_told(method: Any, bad: float) -> None:
    case = ordinary(count=2)
    for wrong in broken(case.low[0], bad):
        with pytest.raises(ActionError, match="not finite"):
            method(case.base, [wrong, case.low[1]], [1.0, 1.0])
        assert method(case.base, [wrong, case.low[1]], [0.0, 1.0]).shape == case.base.shape  # absent
