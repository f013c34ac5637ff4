"""Two builds on one store, a killed one, and random histories of edits and failures against the pure model."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import amybuild
from amybuild.execute.scheduler import Outcome
from amybuild.graph.graph import Action
from tests.unit.test_executor import DIAMOND, RULES, Fake, World, action, graph, model


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "store")


def test_two_builds_at_once_run_each_action_once(world: World) -> None:
    fakes = [Fake(nap=0.02), Fake(nap=0.02)]
    outcomes: dict[int, Outcome] = {}
    worlds = [World(world.root), World(world.root)]

    def go(i: int) -> None:
        outcomes[i] = worlds[i].build(DIAMOND, fakes[i])

    threads = [threading.Thread(target=go, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(fakes[0].ran + fakes[1].ran) == sorted(DIAMOND)
    assert sorted(outcomes[0].ran + outcomes[1].ran) == sorted(DIAMOND)
    for outcome in outcomes.values():
        assert world.values(outcome) == model(DIAMOND)


def test_who_waits_says_so_and_then_hits(world: World) -> None:
    release = threading.Event()
    first, second = World(world.root), World(world.root)
    one = graph(action("a/x"))
    started = threading.Event()

    def hook(id: str) -> None:
        started.set()
        assert release.wait(10)

    holding = threading.Thread(target=first.build, args=(one, Fake(hook=hook)))
    holding.start()
    assert started.wait(10)
    fake = Fake()
    waiting = threading.Thread(target=second.build, args=(one, fake))
    waiting.start()
    deadline = time.monotonic() + 10
    while "wait" not in second.kinds("a/x") and time.monotonic() < deadline:
        time.sleep(0.02)
    release.set()
    holding.join()
    waiting.join()
    assert second.kinds("a/x") == ["wait", "hit"]
    assert fake.ran == []


CHILD = """
import sys, time
from pathlib import Path
from tests.unit.test_executor import DIAMOND, Fake, World
def hook(id):
    print(id, flush=True)
    if id == "b/x":
        time.sleep(60)
World(Path(sys.argv[1])).build(DIAMOND, Fake(hook=hook), jobs=1)
"""


def test_what_a_killed_build_held_is_free_and_what_it_finished_is_kept(world: World) -> None:
    root = Path(amybuild.__file__).parent.parent
    env = {**os.environ, "PYTHONPATH": str(root)}
    command = [sys.executable, "-c", CHILD, str(world.root)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env, cwd=root)
    assert process.stdout is not None
    assert [process.stdout.readline() for _ in range(2)] == ["a/x\n", "b/x\n"]
    process.kill()
    process.communicate()
    began = time.monotonic()
    outcome = world.build(DIAMOND)
    assert time.monotonic() - began < 5
    assert outcome.hits == ["a/x"]
    assert world.values(outcome) == model(DIAMOND)


# random histories


def version(rng: random.Random, shape: list[list[int]]) -> dict[str, Action]:
    return graph(
        *(
            action(f"t{i}/x", *(f"t{j}/x" for j in needs), rule=RULES[i % 3], value=rng.randrange(4))
            for i, needs in enumerate(shape)
        )
    )


@pytest.mark.usefixtures("no_fsync")
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10**9))
def test_random_builds_with_failures_make_what_the_model_says(
    tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    rng = random.Random(seed)
    world = World(tmp_path_factory.mktemp("stress"))
    count = rng.randrange(1, 9)
    shape = [sorted(rng.sample(range(i), min(i, rng.randrange(3)))) for i in range(count)]
    for _ in range(4):
        actions = version(rng, shape)
        bad = tuple(id for id in actions if rng.random() < 0.15)
        fake = Fake(bad=bad)
        outcome = world.build(actions, fake, jobs=rng.randrange(1, 5), keep_going=rng.random() < 0.5)
        expected = model(actions)
        assert world.values(outcome) == {id: expected[id] for id in outcome.records}
        assert set(outcome.failed) <= set(bad)
        assert set(outcome.records) | set(outcome.failed) | set(outcome.blocked) == set(actions)
        assert len(fake.ran) == len(set(fake.ran))
        for id in outcome.records:
            assert all(need in outcome.records for need in actions[id].needs)
        whole = world.build(actions, jobs=rng.randrange(1, 5))
        assert world.values(whole) == expected
        assert not set(whole.ran) & set(outcome.records), "what a failed build finished is kept"
        assert world.build(actions).ran == []
