"""The executor interface: an executor of other processes behind it, failure classes, and nothing but JSON between."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import pytest

import amybuild
from amybuild.cache.actions import ActionCache
from amybuild.cache.store import Store
from amybuild.errors import ActionError
from amybuild.events import Event
from amybuild.execute.job import Failure, Job, Kind, Result, Source
from amybuild.execute.local import LocalExecutor
from amybuild.execute.scheduler import Outcome, Scheduler
from amybuild.graph.graph import NodeSource
from tests.unit.test_executor import DIAMOND, IDENTITY, Fake, World, action, graph, model

REPOSITORY = Path(amybuild.__file__).parent.parent
WORKER = """
import json, sys, time
from pathlib import Path
from amybuild.cache.store import Store
from amybuild.execute.job import Job
from amybuild.execute.local import LocalExecutor
from tests.unit.test_executor import Fake

queue, root, key = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
job = Job.from_json(json.loads((queue / f"{key}.job").read_text()))

def hook(id):
    with open(queue / "ran", "a") as file:
        file.write(id + "\\n")
    while (queue / "hold").exists() and id == "b/x":
        time.sleep(0.02)

store = Store(root)
executor = LocalExecutor(store, Fake(hook=hook), host=lambda _: {"machine": "there"})
handle = executor.submit(job)
result = executor.poll([handle], 60)[handle]
executor.close()
store.close()
(queue / f"{key}.tmp").write_text(json.dumps([result.output, result.seconds, dict(result.host)]))
(queue / f"{key}.tmp").rename(queue / f"{key}.done")
"""


class Cluster:
    """An executor of detached processes: all it shares with who submits is a store and a folder of small files."""

    def __init__(self, queue: Path, root: Path) -> None:
        self.queue, self.root = queue, root
        queue.mkdir(exist_ok=True)

    def submit(self, job: Job) -> str:
        text = json.dumps(job.as_json())
        assert len(text) < 1000
        (self.queue / f"{job.key}.job").write_text(text)
        command = [sys.executable, "-c", WORKER, str(self.queue), str(self.root), job.key]
        env = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
        process = subprocess.Popen(command, env=env, cwd=REPOSITORY, start_new_session=True)
        (self.queue / f"{job.key}.pid").write_text(str(process.pid))
        return job.key

    def poll(self, handles: Collection[str], timeout: float) -> dict[str, Result | Failure]:
        end = time.monotonic() + timeout
        while True:
            done = [handle for handle in handles if (self.queue / f"{handle}.done").exists()]
            if done or time.monotonic() > end:
                break
            time.sleep(0.02)
        found: dict[str, Result | Failure] = {}
        for handle in done:
            found[handle] = Result(*json.loads((self.queue / f"{handle}.done").read_text()))
            (self.queue / f"{handle}.job").unlink()
        return found

    def cancel(self, handle: str) -> None:
        os.kill(int((self.queue / f"{handle}.pid").read_text()), signal.SIGKILL)

    def reattach(self, key: str) -> str | None:
        return key if (self.queue / f"{key}.job").exists() else None

    @property
    def ran(self) -> list[str]:
        return (self.queue / "ran").read_text().split()


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "store")


def schedule(world: World, executor: Any, actions: Any = DIAMOND, **options: Any) -> Outcome:
    store = Store(world.root)
    scheduler = Scheduler(store, ActionCache(store), executor, world.told, pause=0.0, **options)
    return scheduler.run(actions, IDENTITY)


def test_a_job_survives_a_journey_through_json() -> None:
    job = Job("a/x", "light", "k", {"b": [1, 2.5, None]}, {"in": "d"}, ("n", "m"), Source("/p", "d"), {"gpu": 1})
    assert Job.from_json(json.loads(json.dumps(job.as_json()))) == job
    plain = Job("a/x", "light", "k", {})
    assert Job.from_json(json.loads(json.dumps(plain.as_json()))) == plain


def test_processes_behind_the_interface_build_the_same(world: World, tmp_path: Path) -> None:
    nodes = (NodeSource("k", "d1", b'{"key":"k"}'),)
    actions = graph(action("a/x", nodes=nodes), action("b/x", "a/x"), action("c/x", "a/x"), action("d/x", "b/x", "c/x"))
    cluster = Cluster(tmp_path / "queue", world.root)
    outcome = schedule(world, cluster, actions)
    assert world.values(outcome) == model(actions)
    assert sorted(cluster.ran) == sorted(actions)
    assert outcome.records["a/x"].host == {"machine": "there"}
    assert schedule(world, cluster, actions).ran == []


CONTROLLER = """
import sys
from pathlib import Path
from tests.unit.test_executor import World
from tests.unit.test_executor_interface import Cluster, schedule
world = World(Path(sys.argv[2]))
schedule(world, Cluster(Path(sys.argv[1]), world.root))
"""


def test_a_build_goes_on_with_the_jobs_of_a_killed_one(world: World, tmp_path: Path) -> None:
    queue = tmp_path / "queue"
    cluster = Cluster(queue, world.root)
    (queue / "hold").touch()
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-c", CONTROLLER, str(queue), str(world.root)]
    first = subprocess.Popen(command, env=env, cwd=REPOSITORY)
    deadline = time.monotonic() + 60
    while not (queue / "ran").exists() or "b/x" not in cluster.ran:
        assert time.monotonic() < deadline
        assert first.poll() is None
        time.sleep(0.02)
    first.kill()
    first.wait()
    (queue / "hold").unlink()
    outcome = schedule(world, cluster)
    assert world.values(outcome) == model(DIAMOND)
    assert sorted(cluster.ran) == sorted(DIAMOND), "what ran on was not started again"
    assert "b/x" in outcome.ran


class Script:
    """An executor that fails as it is told, and else does nothing but make a tree."""

    def __init__(self, store: Store, *kinds: Kind) -> None:
        self.store, self.kinds = store, list(kinds)
        self.submitted = 0

    def submit(self, job: Job) -> str:
        self.submitted += 1
        return str(self.submitted)

    def poll(self, handles: Collection[str], timeout: float) -> Mapping[str, Result | Failure]:
        if self.kinds:
            return dict.fromkeys(handles, Failure(self.kinds.pop(0), "it went wrong"))
        out = self.store.scratch() / "out"
        out.mkdir()
        (out / "value").write_text("made")
        return dict.fromkeys(handles, Result(self.store.put_tree(out), 0.1))

    def cancel(self, handle: str) -> None: ...

    def reattach(self, key: str) -> str | None:
        return None


@pytest.mark.parametrize(
    ("kinds", "works", "attempts"),
    [
        ([Kind.PREEMPTED] * 20, True, 21),
        ([Kind.INFRASTRUCTURE] * 3, True, 4),
        ([Kind.INFRASTRUCTURE] * 9, False, 4),
        ([Kind.ERROR], False, 1),
        ([Kind.MEMORY], False, 1),
        ([Kind.TIMEOUT], False, 1),
    ],
)
def test_only_what_is_no_fault_of_the_job_is_tried_again(
    world: World, kinds: list[Kind], works: bool, attempts: int
) -> None:
    store = Store(world.root)
    executor = Script(store, *kinds)
    outcome = schedule(world, executor, graph(action("a/x"), action("b/x", "a/x")), jobs=1)
    assert executor.submitted == attempts + works
    assert set(outcome.records) == ({"a/x", "b/x"} if works else set())
    if not works:
        assert isinstance(outcome.failed["a/x"], ActionError)
        assert next(e for e in world.events if e.kind == "failed").fields["class"] == kinds[0].value
        assert outcome.blocked == ["b/x"]
    store.close()


def test_an_executor_that_refuses_a_job_fails_the_action_and_frees_its_lock(world: World) -> None:
    class Refusing(Script):
        def submit(self, job: Job) -> str:
            raise ActionError("no such queue", remedy="name another")

    outcome = schedule(world, Refusing(Store(world.root)), graph(action("a/x")))
    assert outcome.failed["a/x"].what == "no such queue"
    assert world.build(graph(action("a/x"))).ran == ["a/x"]


def test_a_reader_that_went_away_ends_the_build(world: World) -> None:
    def gone(event: Event) -> None:
        if event.kind in ("progress", "failed", "done"):
            raise BrokenPipeError

    world.told = gone  # type: ignore[method-assign]
    with pytest.raises(BrokenPipeError):
        world.build(DIAMOND, Fake())


def test_what_was_told_is_told_again_to_who_was_interrupted_meanwhile(tmp_path: Path) -> None:
    """Ctrl-C between a poll and what comes of it must not make the clean-up fail (found by a random history)."""
    store = Store(tmp_path)
    executor = LocalExecutor(store, lambda job, inputs, out, progress: None)
    handle = executor.submit(Job("a/x", "light", "k", {}))
    first = executor.poll([handle], 10)
    executor.cancel(handle)
    assert executor.poll([handle], 10) == first
    executor.close()
    store.close()


def test_an_interrupt_before_a_thread_has_begun_is_only_an_interrupt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, runner = Store(tmp_path), Fake()
    executor = LocalExecutor(store, runner)
    late: list[threading.Thread] = []

    def interrupted(thread: threading.Thread) -> None:
        late.append(thread)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", interrupted)
        with pytest.raises(KeyboardInterrupt):
            executor.submit(Job("a/x", "light", "k", {}))
    executor.close()
    late[0].start()  # the system was slow to begin it
    late[0].join()
    assert runner.ran == []
    store.close()
