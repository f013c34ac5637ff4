"""The elementwise methods, block by block as the linker runs them, against the float64 oracle and by their laws."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from amybuild.errors import InputError
from amybuild.link import kernels
from amybuild.link.delta import Dense
from amybuild.link.merge import Join, Part, random_words, row_blocks, stream
from amybuild.link.methods import METHODS, method_named, parse_recipe
from amybuild.link.scratch import Scratch
from amybuild.link.tally import Counts
from amybuild.link.tensors import Shard, Stored, Weight
from tests import oracle

Array = NDArray[Any]
SHAPES = ((1,), (7,), (3, 5), (16, 9))
ALPHA = st.sampled_from([-2.0, -1.0, -0.5, 0.0, 0.25, 0.3, 1.0, 2.0])
DENSITY = st.sampled_from([0.01, 0.2, 0.5, 0.75, 1.0])


@st.composite
def cases(draw: st.DrawFn, most: int = 4) -> tuple[list[Array], list[float], float]:
    """Differences (some of few distinct values, so that many entries tie), alphas, a density."""
    n, shape = draw(st.integers(1, most)), draw(st.sampled_from(SHAPES))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    coarse = draw(st.booleans())
    deltas = [rng.integers(-8, 9, shape) / 8 if coarse else rng.normal(size=shape) for _ in range(n)]
    return [d.astype(np.float32) for d in deltas], draw(st.lists(ALPHA, min_size=n, max_size=n)), draw(DENSITY)


def merge(
    method: str,
    deltas: Sequence[Array],
    alphas: Sequence[float],
    block: int = 20,
    names: Sequence[str] = (),
    **params: Any,
) -> Array:
    """One weight through the linker's own code, `block` entries at a time."""
    names = names or [f"v{i}" for i in range(len(deltas))]
    recipe = parse_recipe({"method": method, "alphas": dict(zip(names, alphas, strict=True)), **params}, names)
    order = sorted(range(len(names)), key=lambda i: names[i])
    parts = [Part(place, names[i], Dense(deltas[i]), alphas[i]) for place, i in enumerate(order) if alphas[i] != 0.0]
    if not parts:
        return np.zeros(deltas[0].shape)
    place = Weight(Shard(Path(), 0, ()), Stored("w", "F32", deltas[0].shape, 0, 0))
    join = Join(place, parts, recipe, [None] * len(parts))
    scratch = Scratch()
    join.prepare(scratch)
    rows = [join.block(*span, scratch, Counts(len(parts))).copy() for span in row_blocks(deltas[0].shape, block)]
    return np.concatenate(rows).reshape(deltas[0].shape)


def keep(seed: int = 0) -> oracle.Keep:
    def kept(i: int, chance: Array) -> Array:
        words = random_words(stream(seed, f"v{i}", "w"), 0, chance.size, Scratch())
        return np.asarray(words.reshape(chance.shape) < chance * 2.0**32)

    return kept


@given(cases(), st.sampled_from(["mass", "count"]), st.sampled_from(["count", "weights", "none"]))
@settings(deadline=None, max_examples=200)
def test_ties_is_the_oracle_bit_for_bit(case: Any, elect: str, divide: str) -> None:
    deltas, alphas, density = case
    deltas, alphas = deltas + deltas[:2], alphas + alphas[:2]  # up to six: more than four go another way
    found = merge("ties", deltas, alphas, density=density, elect=elect, divide=divide)
    np.testing.assert_array_equal(found, oracle.ties(deltas, alphas, density, elect, divide))


@given(cases())
@settings(deadline=None)
def test_linear_is_the_oracle_bit_for_bit(case: Any) -> None:
    deltas, alphas, _ = case
    np.testing.assert_array_equal(merge("linear", deltas, alphas), oracle.linear(deltas, alphas))


@given(cases(), st.sampled_from([0.0, 0.01, 0.3]), st.sampled_from([None, "mass", "count"]))
@settings(deadline=None)
def test_breadcrumbs_is_the_oracle_bit_for_bit(case: Any, gamma: float, elect: str | None) -> None:
    deltas, alphas, density = case
    more = {"elect": elect} if elect else {}
    found = merge("breadcrumbs_ties" if elect else "breadcrumbs", deltas, alphas, density=density, gamma=gamma, **more)
    np.testing.assert_array_equal(found, oracle.breadcrumbs(deltas, alphas, density, gamma, elect))


@given(cases(), st.sampled_from([None, "mass", "count"]), st.integers(0, 3))
@settings(deadline=None)
def test_dare_is_the_oracle(case: Any, elect: str | None, seed: int) -> None:
    deltas, alphas, density = case
    more = {"elect": elect} if elect else {}
    found = merge("dare_ties" if elect else "dare_linear", deltas, alphas, density=density, seed=seed, **more)
    wanted = oracle.dare(deltas, alphas, density, keep(seed), elect=elect)
    np.testing.assert_allclose(found, wanted, rtol=1e-13, atol=1e-15)


@given(cases(), st.sampled_from([None, "mass"]), st.sampled_from([0.0, 0.1, 0.15]))
@settings(deadline=None)
def test_della_is_the_oracle(case: Any, elect: str | None, epsilon: float) -> None:
    deltas, alphas, _ = case
    more = {"elect": elect} if elect else {}
    found = merge("della" if elect else "della_linear", deltas, alphas, density=0.5, epsilon=epsilon, **more)
    wanted = oracle.della(deltas, alphas, 0.5, keep(), epsilon, elect=elect)
    # what stays is rescaled in float32: where its sum is as good as zero, another sign may be elected
    sums = oracle.della(deltas, alphas, 0.5, keep(), epsilon, elect=None)
    sure = np.abs(sums) > 1e-5 if elect else np.ones(sums.shape, bool)
    np.testing.assert_allclose(found[sure], wanted[sure], rtol=1e-6, atol=1e-6)


@given(cases())
@settings(deadline=None)
def test_sce_is_the_oracle(case: Any) -> None:
    deltas, alphas, density = case
    if density < 1:  # the variance is compared in float32: it must be exact, and so no third in it
        assume(sum(alpha != 0 for alpha in alphas) != 3)
        deltas = [np.round(delta * 8) / np.float32(8) for delta in deltas]
        alphas = [round(alpha * 4) / 4 for alpha in alphas]
    found = merge("sce", deltas, alphas, density=density)
    np.testing.assert_allclose(found, oracle.sce(deltas, alphas, density), rtol=1e-12, atol=1e-14)


@given(cases(), st.integers(1, 3), st.sampled_from([0.0, 0.4, 1.0]))
@settings(deadline=None)
def test_consensus_is_the_oracle(case: Any, agree: int, need: float) -> None:
    deltas, alphas, _ = case
    np.testing.assert_array_equal(
        merge("consensus", deltas, alphas, agree=agree, need=need), oracle.consensus(deltas, alphas, agree, need)
    )


ELEMENTWISE = sorted(name for name, row in METHODS.items() if row.matrix is None)


def settings_of(method: str) -> dict[str, Any]:
    return {"density": 0.5} if "density" in METHODS[method].parameters else {}


@pytest.mark.parametrize("method", ELEMENTWISE)
@given(case=cases(), block=st.sampled_from([1, 7, 40, 1000]), random=st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=30)
def test_neither_order_nor_blocks_change_a_bit(method: str, case: Any, block: int, random: Any) -> None:
    deltas, alphas, _ = case
    names = [f"v{i}" for i in range(len(deltas))]
    order = list(range(len(deltas)))
    random.shuffle(order)
    args = [[what[i] for i in order] for what in (deltas, alphas)]
    shuffled = merge(method, *args, names=[names[i] for i in order], block=block, **settings_of(method))
    np.testing.assert_array_equal(shuffled, merge(method, deltas, alphas, **settings_of(method)))


@pytest.mark.parametrize("method", ELEMENTWISE)
@given(case=cases(most=3))
@settings(deadline=None, max_examples=30)
def test_a_vector_at_alpha_zero_is_as_if_absent(method: str, case: Any) -> None:
    deltas, alphas, _ = case
    with_it = merge(method, [*deltas, deltas[0] * 3], [*alphas, 0.0], **settings_of(method))
    np.testing.assert_array_equal(with_it, merge(method, deltas, alphas, **settings_of(method)))


@pytest.mark.parametrize("method", sorted(set(ELEMENTWISE) - {"dare_linear", "dare_ties", "della", "della_linear"}))
@given(case=cases(most=1))
@settings(deadline=None, max_examples=30)
def test_a_vector_and_its_opposite_cancel(method: str, case: Any) -> None:
    delta = case[0][0]
    assert not merge(method, [delta, -delta], [0.3, 0.3], **settings_of(method)).any()
    assert not merge(method, [delta, delta], [0.3, -0.3], **settings_of(method)).any()


@pytest.mark.parametrize("method", sorted(set(ELEMENTWISE) - {"consensus"}))
@given(case=cases(most=1), n=st.integers(1, 5))
@settings(deadline=None, max_examples=30)
def test_identical_vectors_merge_to_themselves(method: str, case: Any, n: int) -> None:
    delta = case[0][0]
    alpha = 1.0 if METHODS[method].elects else 1 / n  # those that elect divide by the number that agree
    found = merge(method, [delta] * n, [alpha] * n, density=1.0)
    np.testing.assert_allclose(found, delta.astype(np.float64), rtol=1e-15)


@given(cases())
@settings(deadline=None)
def test_negating_every_alpha_negates_the_result(case: Any) -> None:
    deltas, alphas, density = case
    found = merge("ties", deltas, [-alpha for alpha in alphas], density=density)
    np.testing.assert_array_equal(found, -merge("ties", deltas, alphas, density=density))


def test_a_lone_negative_vector_is_subtracted_at_its_strength() -> None:
    delta = np.array([1.0, -2.0, 4.0], np.float32)
    for method, divide in itertools.product(["ties", "breadcrumbs_ties"], ["count", "none"]):
        assert (
            merge(method, [delta], [-0.3], density=1.0, divide=divide).tolist() == (-0.3 * delta.astype(float)).tolist()
        )
    assert merge("ties", [delta], [-0.5], density=1.0, divide="weights").tolist() == [-1.0, 2.0, -4.0]


def test_conflict_goes_to_the_greater_mass_or_the_greater_number() -> None:
    deltas, alphas = [np.array([value], np.float32) for value in (5.0, -1.0, -2.0)], [1.0, 1.0, 1.0]
    assert merge("ties", deltas, alphas, density=1.0, elect="mass").tolist() == [5.0]
    assert merge("ties", deltas, alphas, density=1.0, elect="count").tolist() == [-1.5]


def test_masks_differ_between_vectors_weights_and_seeds_and_keep_their_share() -> None:
    words = {}
    for key in ((0, "a", "w"), (1, "a", "w"), (0, "b", "w"), (0, "a", "x")):
        words[key] = random_words(stream(*key), 0, 1 << 16, Scratch())
    for one, other in itertools.combinations(words.values(), 2):
        assert abs(np.mean((one < 2**31) == (other < 2**31)) - 0.5) < 0.01
    for row in words.values():
        assert abs(np.mean(row < 0.2 * 2**32) - 0.2) < 0.01


def test_philox_gives_the_published_words() -> None:
    # Random123's known answers for philox4x32-10; the block's number is the lower half of the counter
    for key, counter, published in (
        ((0, 0), (0, 0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        (
            (0xA4093822, 0x299F31D0),
            (0x13198A2E, 0x03707344, 0x85A308D3243F6A88),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ):
        out = np.empty(4, np.uint32)
        kernels.philox(*key, *counter, out)
        assert out.tolist() == list(published)


@given(st.integers(0, 50), st.integers(0, 50))
@settings(deadline=None)
def test_random_words_belong_to_their_places(start: int, size: int) -> None:
    key = stream(3, "v", "w")
    part, whole = random_words(key, start, size, Scratch()), random_words(key, 0, start + size, Scratch())
    np.testing.assert_array_equal(part, whole[start:])


@given(st.integers(0, 2**32), st.sampled_from(["normal", "edges", "bits"]))
@settings(deadline=None)
def test_bfloat16_is_rounded_once(seed: int, kind: str) -> None:
    """Against exact rational arithmetic: the nearest of the two neighbours, the even one in the middle."""
    rng = np.random.default_rng(seed)
    bits = rng.integers(0, 2**16, 64).astype(np.uint16)
    bits[(bits & 0x7F80) > 0x7E00] = 0x3F80  # nothing that overflows
    base = (bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    extra = rng.normal(0, 0.01, 64) * np.abs(base)
    if kind == "edges":  # just beside the middle of two neighbours, where two roundings go wrong
        extra = np.abs(base) * 2.0**-9 * (1 + rng.choice([-1, 0, 1], 64) * 2.0**-40)
    if kind == "bits":
        extra[rng.random(64) < 0.5] = 0.0
    out = np.empty_like(bits)
    kernels.add_bf16(bits, extra, 1.0, out)
    got = (out.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    exact = base + extra
    for value, mine, word in zip(exact, got, out, strict=True):
        neighbours = [np.uint32((int(word) + step & 0xFFFF) << 16).view(np.float32) for step in (-1, 1)]
        for other in neighbours:
            if np.isfinite(other) and int(word) & 0x7FFF:
                assert abs(mine - value) <= abs(float(other) - value)
                assert abs(mine - value) < abs(float(other) - value) or word % 2 == 0
    np.testing.assert_array_equal(out[extra == 0], bits[extra == 0])


def test_unknown_names_are_told() -> None:
    with pytest.raises(InputError, match="unknown link method 'tie'") as caught:
        method_named("tie")
    assert caught.value.remedy == "did you mean 'ties'?"


@pytest.mark.parametrize(
    "params",
    [
        {"method": "dare_ties", "scope": "global"},
        {"method": "dare_linear", "seed": 1.5},
        {"method": "della", "density": 0.1},
        {"method": "della", "density": 0.9, "epsilon": 0.2},
        {"method": "breadcrumbs", "gamma": 1.0},
        {"method": "consensus", "agree": 0},
        {"method": "ties", "divide": "all"},
        {"method": "ties", "scope": "layer"},
        {"method": "slerp", "t": "half"},
        {"method": "slerp", "epsilon": 0.1},
        {"depth": {"first": 1.0}},
        {"scale": [{"match": "*", "factor": "x"}]},
        {"scale": [{"match": "*", "factor": 1.0, "vector": "b"}]},
        {"scale": [{"glob": "*", "factor": 1.0}]},
        {"only": "*.mlp.*"},
    ],
)
def test_bad_parameters_are_told(params: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        parse_recipe({"alphas": {"a": 1.0}, **params}, ["a"])
