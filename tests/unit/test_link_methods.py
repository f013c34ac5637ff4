"""Laws of the merge methods against a small float64 reference."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from amybuild.errors import InputError
from amybuild.link.methods import METHODS, elect_count, elect_mass, election_named, merge, method_named, threshold, trim
from amybuild.link.select import kept_count, kth_largest

TIES, LINEAR = METHODS["ties"], METHODS["linear"]
# eighths up to 8: sums and products of them are exact in float32, so that laws hold to the bit
EIGHTH = st.integers(-64, 64).map(lambda i: i / 8)
ALPHA = st.sampled_from([-2.0, -1.0, -0.5, 0.0, 0.25, 0.5, 1.0, 2.0])
DENSITY = st.sampled_from([0.01, 0.2, 0.5, 0.75, 1.0])


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[list[float]], list[float], float]:
    n = draw(st.integers(1, 4))
    size = draw(st.sampled_from([1, 2, 3, 7, 64]))
    rows = draw(st.lists(st.lists(EIGHTH, min_size=size, max_size=size), min_size=n, max_size=n))
    return rows, draw(st.lists(ALPHA, min_size=n, max_size=n)), draw(DENSITY)


def reference(
    rows: Sequence[Sequence[float]], alphas: Sequence[float], density: float, elect: str
) -> NDArray[np.float64]:
    """TIES, entry by entry, in float64 and plain Python."""
    size = len(rows[0])
    k = max(1, math.ceil(round(density * size, 9)))
    kept = []
    for row in rows:
        cut = sorted((abs(v) for v in row), reverse=True)[k - 1]
        kept.append([v if abs(v) >= cut else 0.0 for v in row])
    out = np.zeros(size)
    for place in range(size):
        weighted = [alpha * row[place] for alpha, row in zip(alphas, kept, strict=True)]
        vote = sum(weighted) if elect == "mass" else float(np.sign(weighted).sum())
        agree = [value for value in weighted if value * vote > 0]
        out[place] = sum(agree) / len(agree) if agree else 0.0
    return out


def ties(rows: Sequence[Sequence[float]], alphas: Sequence[float], density: float, elect: str = "mass") -> torch.Tensor:
    return merge(TIES, election_named(elect), torch.tensor(rows, dtype=torch.float32), alphas, density)


@given(cases(), st.sampled_from(["mass", "count"]))
@settings(deadline=None, max_examples=200)
def test_ties_is_the_reference(case: tuple[list[list[float]], list[float], float], elect: str) -> None:
    rows, alphas, density = case
    found, expected = ties(rows, alphas, density, elect), reference(rows, alphas, density, elect)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6)


@given(cases(), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_order_of_vectors_does_not_matter(case: tuple[list[list[float]], list[float], float], random: object) -> None:
    rows, alphas, density = case
    order = list(range(len(rows)))
    random.shuffle(order)  # type: ignore[attr-defined]
    assert torch.equal(ties(rows, alphas, density), ties([rows[i] for i in order], [alphas[i] for i in order], density))


@given(cases())
@settings(deadline=None)
def test_one_vector_at_density_one_is_alpha_tau(case: tuple[list[list[float]], list[float], float]) -> None:
    rows, alphas, _ = case
    tau = torch.tensor(rows[:1])
    assert torch.equal(ties(rows[:1], alphas[:1], 1.0), alphas[0] * tau[0])


@given(cases())
@settings(deadline=None)
def test_negating_every_alpha_negates_the_result(case: tuple[list[list[float]], list[float], float]) -> None:
    rows, alphas, density = case
    assert torch.equal(ties(rows, [-a for a in alphas], density), -ties(rows, alphas, density))


@given(cases())
@settings(deadline=None)
def test_a_vector_at_alpha_zero_is_as_if_absent(case: tuple[list[list[float]], list[float], float]) -> None:
    rows, alphas, density = case
    assert torch.equal(ties([*rows, rows[0]], [*alphas, 0.0], density), ties(rows, alphas, density))


@given(cases())
@settings(deadline=None)
def test_linear_is_the_weighted_sum(case: tuple[list[list[float]], list[float], float]) -> None:
    rows, alphas, density = case
    found = merge(LINEAR, elect_mass, torch.tensor(rows), alphas, density)
    np.testing.assert_allclose(found.numpy(), np.array(alphas) @ np.array(rows))


def test_a_lone_negative_vector_is_subtracted() -> None:
    assert ties([[1.0, -2.0, 4.0]], [-1.0], 1.0).tolist() == [-1.0, 2.0, -4.0]


def test_conflict_goes_to_the_greater_mass_or_the_greater_number() -> None:
    rows, alphas = [[5.0], [-1.0], [-2.0]], [1.0, 1.0, 1.0]
    assert ties(rows, alphas, 1.0, "mass").tolist() == [5.0]
    assert ties(rows, alphas, 1.0, "count").tolist() == [-1.5]


def test_alphas_count_in_the_election_but_not_in_the_divisor() -> None:
    assert ties([[1.0], [-1.0]], [1.0, 0.5], 1.0).tolist() == [1.0]
    assert ties([[1.0], [1.0]], [1.0, 0.5], 1.0).tolist() == [0.75]


def test_an_exact_tie_changes_nothing() -> None:
    assert ties([[2.0], [-2.0]], [1.0, 1.0], 1.0).tolist() == [0.0]
    assert elect_count(torch.tensor([[3.0], [-1.0]])).tolist() == [0.0]


@pytest.mark.parametrize("size", [1, 2, 3, 64])
@pytest.mark.parametrize("density", [1e-9, 0.2, 0.5, 0.999, 1.0])
def test_density_keeps_ceil_entries_and_at_least_one(size: int, density: float) -> None:
    delta = torch.arange(1.0, size + 1)
    kept = trim(delta[None], [threshold(delta, density)])[0]
    assert int((kept != 0).sum()) == max(1, math.ceil(density * size)) == kept_count(density, size)


def test_the_cut_keeps_all_equal_magnitudes() -> None:
    delta = torch.tensor([1.0, -1.0, 1.0, 0.5])
    assert trim(delta[None], [threshold(delta, 0.25)])[0].tolist() == [1.0, -1.0, 1.0, 0.0]


def test_kept_count_survives_float_products() -> None:
    assert kept_count(0.07, 100) == 7
    assert kept_count(0.29, 100) == 29
    assert kept_count(0.5, 0) == 0


@given(st.integers(0, 2**32 - 1), st.floats(1e-4, 1.0), st.sampled_from(["normal", "few", "zeros", "sorted", "ramp"]))
@settings(deadline=None, max_examples=60)
def test_kth_largest_is_exact(seed: int, density: float, kind: str) -> None:
    values = np.abs(np.random.default_rng(seed).standard_normal(70_001)).astype(np.float32)
    if kind == "few":
        values = np.round(values)
    if kind == "zeros":
        values[values < 3] = 0
    if kind == "sorted":
        values.sort()
    if kind == "ramp":  # what the strided sample sees is nothing like the rest
        values[::9] = 100
    k = kept_count(density, values.size)
    assert kth_largest(values.copy(), k) == np.sort(values)[-k]


def test_unknown_names_are_told() -> None:
    with pytest.raises(InputError, match="unknown link method 'tie'") as caught:
        method_named("tie")
    assert caught.value.remedy == "did you mean 'ties'?"
    with pytest.raises(InputError, match="unknown election"):
        election_named("weight")
