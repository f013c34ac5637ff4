"""Concurrent real builds with cheap actions: every action once, every product right, readers never disturbed."""

from __future__ import annotations

import json
import random
import threading
from pathlib import Path

import pytest

from tests.engine import fakes
from tests.engine.machine import no_fsync
from tests.engine.states import State, Truth, leftovers
from tests.engine.together import product, results, second
from tests.harness import Space, states


def written(root: Path) -> Space:
    space = fakes.project(root)
    State().write(space)
    return space


def test_four_builds_of_one_project_make_each_action_once(ram: Path) -> None:
    space, truth = written(ram / "project"), Truth(ram)
    done = results([fakes.spawn(space, "--json", "-j", str(1 + i), FAKES_NAP="20") for i in range(4)])
    assert set(done.values()) == {1}
    assert len(done) == fakes.ACTIONS
    assert product(space) == truth.product(State())
    assert not leftovers(space)


def test_two_projects_on_one_cache_make_each_action_once(ram: Path) -> None:
    one, truth = written(ram / "project"), Truth(ram)
    other = second(one, ram / "other")
    env = {"AMYBUILD_CACHE": str(ram / "shared"), "FAKES_NAP": "20"}
    done = results([fakes.spawn(space, "--json", **env) for space in (one, other, one, other)])
    assert set(done.values()) == {1}
    assert len(done) == fakes.ACTIONS
    assert product(one) == product(other) == truth.product(State())


def test_builds_of_different_states_on_one_cache_do_not_mix(ram: Path) -> None:
    one, truth = written(ram / "project"), Truth(ram)
    other = second(one, ram / "other")
    changed = State(alpha=1, dialogue=1, extra=1)
    changed.write(other)
    env = {"AMYBUILD_CACHE": str(ram / "shared"), "FAKES_NAP": "10"}
    done = results([fakes.spawn(space, "--json", **env) for space in (one, other, one, other)])
    assert product(one) == truth.product(State())
    assert product(other) == truth.product(changed)
    # what depends on the edits was made for each of the two, everything else once
    assert set(done.values()) == {1, 2}
    assert done["base.tiny/import"] == done["task.close/train"] == 1
    assert done["task.listen/train"] == done["checkpoint/link"] == 2


def test_edits_and_queries_while_builds_go_on(ram: Path) -> None:
    """Queries never fail and never wait; what a build publishes is a whole state, never a mixture."""
    space, truth = written(ram / "project"), Truth(ram)
    chosen = [State(), State(density=1)]
    stop, wrong = threading.Event(), list[str]()

    def ask() -> None:
        while not stop.is_set():
            process = fakes.spawn(space, "--explain", "--json")
            out, err = process.communicate(timeout=60)
            if process.returncode or not out.startswith("{"):
                wrong.append(err)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        for state in chosen:
            state.write(space)
            results([fakes.spawn(space, "--json") for _ in range(2)])
            assert product(space) == truth.product(state)
    finally:
        stop.set()
        asking.join()
    assert not wrong, wrong[0]


@pytest.mark.parametrize("seed", range(6))
def test_explain_says_before_what_the_build_does_then(ram: Path, seed: int) -> None:
    """Random edits: what explain calls stale or missing runs or waits in the cache, what it calls up to date does not
    run, and nothing else runs; undone edits run nothing."""
    rng, space, truth, state = random.Random(seed), written(ram / "project"), Truth(ram), State()
    seen = [state]
    with fakes.cheap(), no_fsync():
        for _ in range(6):
            explained = space.explain()
            told = states(explained)
            keys = {a["action"]: a["key"] for t in explained["targets"] for a in t["actions"]}
            costs = {a["action"]: a["cost_s"] for t in explained["targets"] for a in t["actions"]}
            dry = json.loads(space.run("-n", "--json").out)["actions"]
            ran = space.build().ran
            made = {keys[action] for action in ran}  # two actions with one key: one of them runs
            assert explained["up_to_date"] == all(one == "up-to-date" for one in told.values())
            for action, said in told.items():
                assert said != "up-to-date" or action not in ran, f"{action} was up to date, but ran"
                assert dry[action] != "hit" or action not in ran, f"{action} was to be reused, but ran"
                assert dry[action] != "run" or keys[action] in made, f"{action} was to run, but did not"
                assert said != "stale" or dry[action] != "run" or costs[action] != 0, f"{action} was to cost nothing"
            assert ran <= {action for action, said in told.items() if said != "up-to-date"}
            assert product(space) == truth.product(state)
            assert space.explain()["up_to_date"]
            undo = rng.random() < 0.4
            state = rng.choice(seen) if undo else state.edited(rng)
            known = state in seen
            state.write(space)
            if known:
                assert "run" not in json.loads(space.run("-n", "--json").out)["actions"].values()
            seen.append(state)
