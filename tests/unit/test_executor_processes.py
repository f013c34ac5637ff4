"""Several processes on one store: each action once, nobody waits for more than it needs, the killed are replaced."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Any

import pytest

import amybuild
from amybuild.graph.graph import Action
from tests.unit.test_executor import DIAMOND, RULES, World, action, graph, model

REPOSITORY = Path(amybuild.__file__).parent.parent


def random_graph(seed: int) -> dict[str, Action]:
    """A graph of up to nine actions; graphs of other seeds have actions in common with it."""
    rng = random.Random(seed)
    rows: list[Action] = []
    for i in range(rng.randrange(2, 10)):
        needs = sorted(rng.sample(range(i), min(i, rng.randrange(3))))
        rows.append(action(f"t{i}/x", *(f"t{j}/x" for j in needs), rule=RULES[i % 3], value=rng.randrange(4)))
    return graph(*rows)


BUILDS = """
import os, random, sys
from pathlib import Path
from tests.unit.test_executor import Fake, World, model
from tests.unit.test_executor_processes import random_graph

root, seed = Path(sys.argv[1]), int(sys.argv[2])
rng = random.Random(seed)

class Logged(Fake):
    def __call__(self, job, inputs, out, progress):
        with open(root / "ran", "a") as file:
            file.write(job.key + "\\n")
        super().__call__(job, inputs, out, progress)

world = World(root / "store")
for build in range(30):
    actions = random_graph(rng.randrange(40))
    outcome = world.build(actions, Logged(nap=rng.random() * 0.01), jobs=rng.randrange(1, 5))
    assert world.values(outcome) == model(actions), build
    assert not outcome.failed and not outcome.blocked
"""


def start(code: str, *args: str) -> subprocess.Popen[str]:
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-c", code, *args]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env, cwd=REPOSITORY)


def test_four_processes_never_do_the_same_action_twice(tmp_path: Path) -> None:
    processes = [start(BUILDS, str(tmp_path), str(seed)) for seed in range(4)]
    for process in processes:
        _, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
    ran = (tmp_path / "ran").read_text().split()
    assert len(ran) == len(set(ran)) > 20


def test_killed_processes_leave_nothing_wrong_and_nothing_locked(tmp_path: Path) -> None:
    rng = random.Random(5)
    for round in range(3):
        processes = [start(BUILDS, str(tmp_path), str(10 * round + seed)) for seed in range(3)]
        time.sleep(0.5 + rng.random())
        processes[0].kill()
        for process in processes:
            _, err = process.communicate(timeout=300)
            assert process is processes[0] or process.returncode == 0, err
    world = World(tmp_path / "store")
    for seed in range(0, 40, 5):
        actions = random_graph(seed)
        assert world.values(world.build(actions)) == model(actions)
    assert list((world.root / "tmp").iterdir()) == []


HOLD = """
import json, sys, time
from pathlib import Path
from tests.unit.test_executor import DIAMOND, Fake, World
def hook(id):
    if id == sys.argv[2]:
        time.sleep(600)
def told(event):
    print(json.dumps([event.kind, event.action]), flush=True)
world = World(Path(sys.argv[1]))
world.told = told
world.build(DIAMOND, Fake(hook=hook), jobs=int(sys.argv[3]))
"""


def events_until(stream: IO[str] | None, *wanted: str) -> list[list[Any]]:
    assert stream is not None
    found: list[list[Any]] = []
    while list(wanted) not in found:
        line = stream.readline()
        assert line, found
        found.append(json.loads(line))
    return found


@pytest.mark.parametrize("jobs", [1, 2])
def test_who_waits_goes_on_with_the_rest_and_takes_over_from_a_killed_build(tmp_path: Path, jobs: int) -> None:
    root = str(tmp_path / "store")
    first = start(HOLD, root, "b/x", "1")
    events_until(first.stdout, "start", "b/x")
    second = start(HOLD, root, "nothing", str(jobs))
    told = events_until(second.stdout, "done", "c/x")
    assert ["wait", "b/x"] in told, "what the other makes takes no place from the rest"
    assert ["start", "b/x"] not in told
    killed = time.monotonic()
    first.kill()
    told = events_until(second.stdout, "done", "b/x")
    assert time.monotonic() - killed < 5
    assert [kind for kind, id in told if id == "b/x" and kind != "progress"] == ["start", "done"]
    second.communicate(timeout=60)
    first.communicate()
    assert second.returncode == 0
    world = World(Path(root))
    outcome = world.build(DIAMOND)
    assert (outcome.ran, world.values(outcome)) == ([], model(DIAMOND))
