"""Random histories against the pure model: 100 by default, 2,000 with `pytest -m nightly`."""

from __future__ import annotations

import json
import os
import random
from dataclasses import asdict
from pathlib import Path

import pytest

from amybuild.cache import memo
from tests.engine import model, run
from tests.engine.machine import Ask
from tests.engine.pure import keys, random_world, results


@pytest.mark.parametrize("first", range(0, 100, 20))
def test_histories_hold(first: int) -> None:
    """One history in ten uses real processes: killed ones, and two at once."""
    wrong = model.explore(first, 20, steps=10, every=10)
    assert not wrong, wrong[0]


@pytest.mark.nightly
@pytest.mark.parametrize("first", range(1000, 3000, 100))
def test_two_thousand_histories_hold(first: int) -> None:
    wrong = model.explore(first, 100, steps=14, every=10)
    assert not wrong, wrong[0]


def test_a_history_is_a_function_of_its_seed() -> None:
    one, two = (model.random_history(3, 30, processes=True) for _ in range(2))
    assert one == two == json.loads(json.dumps(one))
    assert one != model.random_history(4, 30, processes=True)


def test_a_wrong_engine_is_found_and_its_history_is_made_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oracle itself: an engine whose key forgets the memory nodes must not get through."""
    from amybuild.plan import plan

    real = plan.walk
    monkeypatch.setattr(plan, "walk", lambda *rest: tuple(c for c in real(*rest) if c.kind != "node"))
    wrong = [history for seed in range(12) if model.play(history := model.random_history(seed, 12, False))]
    assert wrong
    history = model.shrink(min(wrong, key=lambda one: len(one["world"]["specs"])))
    assert 1 <= len(history["steps"]) <= 4
    assert len(history["world"]["specs"]) <= 3
    assert model.play(history)


def test_an_edit_that_keeps_size_and_mtime_is_part_of_the_histories(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that looks at size and mtime only must not get through either."""
    monkeypatch.setattr(memo, "stamp", lambda path: [(s := os.stat(path)).st_size, s.st_mtime_ns])
    assert any(model.play(model.random_history(seed, 14, False)) for seed in range(40))


def test_damage_through_a_link_of_a_killed_build_is_damage_of_what_it_leads_to(tmp_path: Path) -> None:
    """What a view left behind links to is in the store: seed 4550 wrote through one after a kill."""
    played = run.Run(tmp_path, random_world(random.Random(1)))
    played.do_build(asdict(Ask()))
    whole = next(path for path in sorted(played.machine.store.glob("objects/*/*")))
    room = played.machine.store / "tmp" / "1-0" / "in"
    room.mkdir(parents=True)
    (room / "value").symlink_to(whole)
    files = sorted(path for path in played.machine.store.rglob("*") if path.is_file())
    played.do_damage((files.index(room / "value") + 0.5) / len(files), "grow")
    assert played.do_build(asdict(Ask())).ran


def test_the_model_knows_twins_and_early_cutoff() -> None:
    worlds = [random_world(random.Random(seed)) for seed in range(200)]
    assert any(len(set(keys(world).values())) < len(world.specs) for world in worlds)
    same = 0
    for world in worlds:
        changed = world.copy()
        first = world.specs[0].id
        changed.params[first] += 1
        same += results(world)[first] == results(changed)[first] and keys(world)[first] != keys(changed)[first]
    assert same > 20
