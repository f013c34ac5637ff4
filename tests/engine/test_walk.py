"""Random histories through the command line: whichever way a build takes, it leaves what one from scratch does."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.engine.walk import walk


def test_a_random_history_leaves_what_builds_from_scratch_do(ram: Path) -> None:
    ways = walk(ram, random.randrange(10**6), steps=14)
    assert ways["short"] + ways["whole"] == 14


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(20))
def test_long_random_histories_leave_what_builds_from_scratch_do(ram: Path, seed: int) -> None:
    ways = walk(ram, seed, steps=60)
    assert ways["short"] >= 5
    assert ways["whole"] >= 5
