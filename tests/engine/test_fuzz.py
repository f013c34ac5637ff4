"""Mutated input files: 1,000 and 100 nodes by default, 20,000 and 2,000 nodes with `pytest -m nightly`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.engine import fakes, fuzz
from tests.engine.machine import no_fsync


def test_mutated_files_are_accepted_or_refused_cleanly(ram: Path) -> None:
    ends, wrong = fuzz.fuzz(ram / "project", 0, 1000)
    assert not wrong, wrong[0]
    assert ends["accepted"] > 50
    assert ends["refused"] > 500


def test_mutated_nodes_are_accepted_or_refused_cleanly(ram: Path) -> None:
    ends, wrong = fuzz.fuzz(ram / "project", 0, 100, ("node",))
    assert not wrong, wrong[0]
    assert ends["accepted"] > 10
    assert ends["refused"] > 20


@pytest.mark.parametrize("count", [30, pytest.param(600, marks=pytest.mark.nightly)])
def test_builds_against_mutated_locks(ram: Path, count: int) -> None:
    with fakes.cheap(), no_fsync():
        space = fakes.project(ram / "project")
        space.build()
        wrong = fuzz.locked(space, 0, count)
    assert not wrong, wrong[0]


@pytest.mark.nightly
@pytest.mark.parametrize("first", range(20_000, 40_000, 5_000))
def test_twenty_thousand_mutated_files(ram: Path, first: int) -> None:
    _, wrong = fuzz.fuzz(ram / "project", first, 5_000)
    assert not wrong, f"{len(wrong)}: {wrong[:5]}"


@pytest.mark.nightly
def test_two_thousand_mutated_nodes(ram: Path) -> None:
    _, wrong = fuzz.fuzz(ram / "project", 20_000, 2_000, ("node",))
    assert not wrong, f"{len(wrong)}: {wrong[:5]}"


def test_mutations_are_functions_of_their_seed_and_do_change_something() -> None:
    for kind, seed_text in fuzz.SEEDS.items():
        text = seed_text()
        cases = [fuzz.case(kind, seed) for seed in range(50)]
        assert cases == [fuzz.case(kind, seed) for seed in range(50)]
        assert sum(one != text.encode() for one in cases) > 40
