"""The spectral merge methods: against the oracle, by their laws, on degenerate inputs; factors or dense alike.

Which law holds where, and why not elsewhere:
* order of the vectors, weight 0 = absent, low-rank = dense, v and -v cancel: all methods.
* one vector alone gives weight * delta: all but iso_c and iso_cts, whose purpose is to flatten its spectrum.
* identical vectors merge to themselves: tsv_m (up to its rank budget) and knots; the others sum.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amybuild.errors import ActionError, InputError
from amybuild.link import spectral
from amybuild.link.delta import Delta, LowRank, dense, scaled
from tests import oracle_matrix as oracle
from tests.matrices import ALPHAS, Case, broken, cases, ordinary

Merge = Callable[[Any, Any, Any], Delta]
CLOSE = 2e-6  # of the inputs' norms: float32 factors

METHODS: dict[str, tuple[Callable[..., Delta], Callable[..., Any], dict[str, Any]]] = {
    "tsv_m": (spectral.tsv_m, oracle.tsv_m, {}),
    "iso_c": (spectral.iso_c, oracle.iso_c, {}),
    "iso_cts": (spectral.iso_cts, oracle.iso_cts, {}),
    "core_linear": (spectral.core_space, oracle.core_space, {"inner": "linear"}),
    "core_tsv_m": (spectral.core_space, oracle.core_space, {"inner": "tsv_m"}),
    "core_iso_c": (spectral.core_space, oracle.core_space, {"inner": "iso_c"}),
    "knots": (spectral.knots, oracle.knots, {}),
}
named = pytest.mark.parametrize("name", sorted(METHODS))
few = settings(deadline=None, max_examples=60)


def merge(name: str, case: Case, *, full: bool = False, **params: Any) -> Any:
    method, _, fixed = METHODS[name]
    found = method(None, case.full if full else case.low, case.alphas, **{**fixed, **params})
    assert found.shape == case.low[0].shape
    assert isinstance(found, LowRank) or full
    values = dense(found).astype(np.float64)
    assert np.isfinite(values).all()
    return values


def expected(name: str, case: Case, **params: Any) -> Any:
    _, reference, fixed = METHODS[name]
    return reference(case.arrays, case.alphas, **{**fixed, **params})


def near(found: Any, wanted: Any, case: Case) -> None:
    assert np.linalg.norm(found - wanted) <= CLOSE * case.size


@named
@given(case=cases())
@few
def test_it_is_the_oracle_and_factors_are_as_good_as_dense(name: str, case: Case) -> None:
    wanted = expected(name, case)
    near(merge(name, case), wanted, case)
    near(merge(name, case, full=True), wanted, case)


@pytest.mark.parametrize("common", [0.0, 0.3, 0.5, 1.0])
@given(case=cases())
@few
def test_iso_cts_with_any_common_share(common: float, case: Case) -> None:
    wanted = expected("iso_cts", case, common_fraction=common)
    near(merge("iso_cts", case, common=common), wanted, case)
    near(merge("iso_cts", case, full=True, common=common), wanted, case)


@pytest.mark.parametrize("elect", ["mass", "count"])
@pytest.mark.parametrize("divide", ["count", "weights", "none"])
@given(seed=st.integers(0, 1000), alphas=st.lists(st.sampled_from(ALPHAS), min_size=3, max_size=3))
@settings(deadline=None, max_examples=20)
def test_knots_with_every_setting(elect: str, divide: str, seed: int, alphas: list[float]) -> None:
    case = ordinary(seed).with_alphas(*alphas)
    params = {"density": 0.4, "elect": elect, "divide": divide}
    near(merge("knots", case, **params), expected("knots", case, **params), case)


@named
@given(case=cases(fewest=2), data=st.data())
@few
def test_the_order_does_not_matter(name: str, case: Case, data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(len(case.low))))
    near(merge(name, case), merge(name, case.chosen(*order)), case)


@named
@given(case=cases(fewest=2))
@few
def test_weight_zero_is_absence(name: str, case: Case) -> None:
    silent = case.with_alphas(0.0, *case.alphas[1:])
    near(merge(name, silent), merge(name, case.chosen(*range(1, len(case.low)))), case)


@named
@given(case=cases(most=1), alpha=st.sampled_from(ALPHAS))
@few
def test_a_vector_and_its_negative_cancel(name: str, case: Case, alpha: float) -> None:
    both = Case([case.low[0], scaled(case.low[0], -1.0)], [alpha, alpha], case.base)
    near(merge(name, both), 0.0, both)
    near(merge(name, case.chosen(0, 0).with_alphas(alpha, -alpha)), 0.0, both)


@pytest.mark.parametrize("name", sorted(set(METHODS) - {"iso_c", "iso_cts", "core_iso_c"}))
@given(case=cases(most=1), alpha=st.sampled_from(ALPHAS))
@few
def test_one_vector_alone_is_itself_times_its_weight(name: str, case: Case, alpha: float) -> None:
    lone = case.with_alphas(alpha)
    near(merge(name, lone), alpha * case.arrays[0], lone)


@pytest.mark.parametrize("name", ["iso_c", "iso_cts", "core_iso_c"])
def test_the_isotropic_ones_keep_directions_and_nuclear_norm(name: str) -> None:
    case = ordinary(count=1)
    found, given_ = (np.linalg.svd(x, compute_uv=False)[:3] for x in (merge(name, case), case.arrays[0]))
    np.testing.assert_allclose(found, given_.mean(), rtol=1e-6)


@pytest.mark.parametrize("name", ["tsv_m", "core_tsv_m", "knots"])
def test_identical_vectors_merge_to_themselves(name: str) -> None:
    case = ordinary().chosen(0, 0, 0)
    near(merge(name, case), case.arrays[0], case)


def test_tsv_m_gives_each_vector_its_share_of_the_directions() -> None:
    case = ordinary(out=6, width=8, count=3, rank=5)  # 6 // 3 = 2 triples each, of 5
    assert np.linalg.matrix_rank(merge("tsv_m", case), tol=1e-4) == 6


def test_orthogonal_vectors_keep_their_whole_strength_in_knots() -> None:
    # each direction belongs to one vector, the others' zeros there must not be counted when dividing
    left, right = np.eye(6, dtype=np.float32), np.eye(7, dtype=np.float32)
    low = [
        LowRank(np.ascontiguousarray(left[:, i : i + 2]), right[i : i + 2] * np.float32(1 + i), 1.0) for i in (0, 2, 4)
    ]
    case = Case(low, [1.0] * 3, np.zeros((6, 7), np.float32))
    near(merge("knots", case), sum(case.arrays), case)


def test_settings_are_checked() -> None:
    case = ordinary()
    with pytest.raises(InputError, match="inner method 'ties'"):
        spectral.core_space(None, case.low, case.alphas, inner="ties")
    with pytest.raises(InputError, match="common"):
        spectral.iso_cts(None, case.low, case.alphas, common=2.0)
    with pytest.raises(InputError, match="elect"):
        spectral.knots(None, case.low, case.alphas, elect="most")


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    "method", [spectral.tsv_m, spectral.iso_c, spectral.iso_cts, spectral.core_space, spectral.knots]
)
def test_values_that_are_no_numbers_are_told(method: Any, bad: float) -> None:
    case = ordinary(count=2)
    for wrong in broken(case.low[0], bad):
        with pytest.raises(ActionError, match="not finite"):
            method(case.base, [wrong, case.low[1]], [1.0, 1.0])
        assert method(case.base, [wrong, case.low[1]], [0.0, 1.0]).shape == case.base.shape  # absent
