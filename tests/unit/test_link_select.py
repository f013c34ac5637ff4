"""Exact selection: the k-th largest magnitude, whatever the data, the kind of difference, and the blocks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amybuild.link import select
from amybuild.link.delta import Delta, Dense, Difference, LowRank, Sum, dense
from amybuild.link.select import kept_count, kth_largest
from amybuild.link.tensors import Weight, read_shards
from tests import checkpoints as files


def check(deltas: list[Delta], density: float) -> None:
    values = np.abs(np.concatenate([dense(delta).reshape(-1) for delta in deltas]))
    k = kept_count(density, values.size)
    assert kth_largest(deltas, k) == np.partition(values, values.size - k)[values.size - k]


KINDS = ["normal", "few", "zeros", "sorted", "ramp", "mixed", "tiny", "steep"]


@given(st.integers(0, 2**32 - 1), st.floats(1e-4, 1.0), st.sampled_from(KINDS))
@settings(deadline=None, max_examples=80)
def test_it_is_the_partitions(seed: int, density: float, kind: str) -> None:
    rng = np.random.default_rng(seed)
    values = rng.standard_normal(70_001).astype(np.float32)
    if kind == "few":
        values = np.round(values)
    if kind == "zeros":
        values[np.abs(values) < 3] = 0
    if kind == "sorted":
        values.sort()
    if kind == "ramp":  # what the strided sample sees is nothing like the rest
        values[::9] = 100
    if kind == "mixed":
        values[::2] = np.round(values[::2] * 4) / 4
    if kind == "tiny":
        values *= np.float32(1e-40)
    if kind == "steep":
        values = np.exp(values * 15).astype(np.float32)
    check([Dense(values)], density)


@pytest.mark.parametrize("density", [1e-6, 0.05, 0.2, 0.9, 1.0])
def test_over_checkpoints_factors_and_sums(tmp_path: Path, density: float) -> None:
    rng = np.random.default_rng(0)
    base = rng.normal(0, 0.02, (300, 400))
    tuned = base + rng.normal(0, 4e-4, base.shape)
    both: list[Any] = []
    for name, values in (("base", base), ("tuned", tuned)):
        folder = files.write_folder(tmp_path / name, {"w": ("BF16", files.stored(values, "BF16"))})
        shard = read_shards(folder)[0]
        both.append(Weight(shard, shard.tensors[0]))
    sixteen = Difference(both[1], both[0])
    low = LowRank(*(rng.normal(size=shape).astype(np.float32) for shape in ((300, 5), (5, 400))), 1e-4)
    for deltas in ([sixteen], [low], [Sum((sixteen, low))], [sixteen, low]):
        check(deltas, density)


@given(st.integers(0, 2**32 - 1), st.floats(1e-4, 1.0))
@settings(deadline=None, max_examples=20)
def test_the_bits_alone_find_it(seed: int, density: float) -> None:
    values = np.random.default_rng(seed).standard_normal(40_000).astype(np.float32)
    k = kept_count(density, values.size)
    assert select._by_bits([Dense(values)], k) == np.sort(np.abs(values))[-k]


def test_a_density_keeps_at_least_one() -> None:
    assert [kept_count(density, 100) for density in (1e-9, 0.2, 0.999, 1.0)] == [1, 20, 99, 100]
    assert kept_count(0.5, 0) == 0
