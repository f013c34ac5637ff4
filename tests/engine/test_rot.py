"""Every kind of file in the cache, damaged in every way: a sample by default, more with `pytest -m nightly`."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.engine import rot


def test_rot_changes_no_result_and_costs_no_training(ram: Path) -> None:
    count, wrong = rot.harm_all(ram, seed=random.randrange(10**6), few=1, share=0.03)
    assert not wrong, f"{len(wrong)} of {count}: {wrong[0]}"
    assert count > 20


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(2))
def test_much_rot_changes_no_result_and_costs_no_training(ram: Path, seed: int) -> None:
    count, wrong = rot.harm_all(ram, seed, few=8, share=0.2)
    assert not wrong, f"{len(wrong)} of {count}: {wrong[:5]}"


def test_an_object_that_changed_but_kept_its_size_is_noticed(ram: Path) -> None:
    assert rot.detects_flips(ram)


def test_damages_are_many_and_differ() -> None:
    data = b'{"schema":1,"a":{"b":[1,2,"x"]},"c":"text"}'
    found = list(rot.damages(data, random.Random(0), 6))
    assert len({one.data for one in found}) > 20
    assert all(one.data != data for one in found)
    assert any(one.data and one.data.startswith(b'{"schema"') and b"[]" in one.data for one in found)
