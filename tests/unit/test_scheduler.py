"""The laws of the scheduler, against an executor that ends jobs in any order and fails them in any way."""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from amybuild.cache.actions import ActionCache
from amybuild.cache.lock import FileLock
from amybuild.cache.store import Store
from amybuild.errors import CacheDamage, Interrupted
from amybuild.events import Event
from amybuild.execute.job import Failure, Job, Kind, Result
from amybuild.execute.resources import Capacity
from amybuild.execute.scheduler import Scheduler
from amybuild.graph.graph import Action
from tests.unit.test_executor import IDENTITY, RULES, action, graph, model, value_of

CAPACITY = {"memory": 6, "gpu": 2}


class Dice:
    """Ends a random selection of its jobs at each poll; `submitted` and `ended` are its diary."""

    def __init__(self, store: Store, rng: random.Random, kinds: Mapping[str, list[Kind]]) -> None:
        self.store, self.rng = store, rng
        self.kinds = {id: list(all) for id, all in kinds.items()}
        self.now: dict[str, Job] = {}
        self.submitted: list[str] = []
        self.most: list[list[Job]] = []
        self.values: dict[str, str] = {}  # tree -> what is in it

    def submit(self, job: Job) -> str:
        self.submitted.append(job.id)
        handle = f"{job.id}#{len(self.submitted)}"
        assert all(tree in self.values for tree in job.inputs.values()), "an input is not there"
        self.now[handle] = job
        self.most.append(list(self.now.values()))
        return handle

    def poll(self, handles: Collection[str], timeout: float) -> dict[str, Result | Failure]:
        assert set(handles) == set(self.now)
        chosen = [handle for handle in handles if self.rng.random() < 0.5] or [sorted(handles)[0]]
        return {handle: self._end(self.now.pop(handle)) for handle in chosen}

    def _end(self, job: Job) -> Result | Failure:
        kinds = self.kinds.get(job.id, [])
        if kinds:
            return Failure(kinds.pop(0), "it went wrong", job.id)
        out = self.store.scratch() / "out"
        out.mkdir()
        text = value_of(job, [self.values[job.inputs[role]] for role in sorted(job.inputs)], [])
        (out / "value").write_text(text)
        tree = self.store.put_tree(out)
        self.values[tree] = text
        return Result(tree, 0.1)

    def cancel(self, handle: str) -> None:
        self.kinds[self.now[handle].id] = [Kind.CANCELLED]

    def reattach(self, key: str) -> str | None:
        return None


def random_actions(rng: random.Random) -> dict[str, Action]:
    rows: list[Action] = []
    for i in range(rng.randrange(1, 14)):
        needs = [f"t{j}/x" for j in sorted(rng.sample(range(i), min(i, rng.randrange(3))))]
        after = tuple(f"t{j}/x" for j in rng.sample(range(i), min(i, rng.randrange(2))))
        wants = {"memory": rng.randrange(7), "gpu": rng.randrange(3), "model": rng.randrange(2)}
        asked = {name: n for name, n in wants.items() if n and rng.random() < 0.5}
        rows.append(action(f"t{i}/x", *needs, rule=RULES[i % 3], value=rng.randrange(3), after=after, resources=asked))
    return graph(*rows)


class Watched(Store):
    """A store that remembers its locks."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.locks: list[FileLock] = []

    def lock(self, key: str) -> FileLock:
        self.locks.append(super().lock(key))
        return self.locks[-1]

    @property
    def held(self) -> int:
        return sum(lock.held for lock in self.locks)


@pytest.mark.usefixtures("no_fsync")
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10**9))
def test_whatever_happens_the_laws_hold(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    rng = random.Random(seed)
    actions = random_actions(rng)
    kinds = {id: rng.choices(list(Kind), k=rng.randrange(4)) for id in actions if rng.random() < 0.3}
    store = Watched(tmp_path_factory.mktemp("laws"))
    dice, jobs, keep_going = Dice(store, rng, kinds), rng.randrange(1, 6), rng.random() < 0.5
    told: list[Event] = []
    scheduler = Scheduler(
        store,
        ActionCache(store),
        dice,
        told.append,
        jobs=jobs,
        capacity=Capacity(CAPACITY),
        keep_going=keep_going,
        pause=0.0,
    )
    outcome = scheduler.run(actions, IDENTITY)
    records, failed, blocked = set(outcome.records), set(outcome.failed), set(outcome.blocked)
    assert records | failed | blocked == set(actions)
    assert not records & failed
    assert not (records | failed) & blocked
    assert {id: dice.values[r.output] for id, r in outcome.records.items()} == {
        id: model(actions)[id] for id in records
    }
    for id in records | failed:
        assert all(need in records for need in actions[id].needs)
    if keep_going:
        for id in blocked:
            assert any(need in failed | blocked for need in actions[id].needs), "it could have run"
    if not failed:
        assert not blocked
    for now in dice.most:
        assert len(now) <= jobs
        for name, there in {**CAPACITY, "model": 1}.items():
            assert sum(job.resources.get(name, 0) for job in now) <= there
    again = {Kind.PREEMPTED, Kind.INFRASTRUCTURE}
    for id in failed:
        assert dice.submitted.count(id) == 1 + next(i for i, kind in enumerate(kinds[id]) if kind not in again)
        last = next(kind for kind in kinds[id] if kind not in again)
        assert isinstance(outcome.failed[id], CacheDamage) == (last is Kind.LOST)
    assert not dice.now
    assert not store.held
    ends = [e.action for e in told if e.kind in ("done", "hit", "failed", "blocked")]
    assert sorted(ends) == sorted(actions), "each action's end is told once"
    store.close()


def test_ctrl_c_stops_the_jobs_keeps_what_came_out_and_frees_the_locks(tmp_path: Path) -> None:
    store = Watched(tmp_path)
    rng = random.Random(1)

    class Struck(Dice):
        def poll(self, handles: Collection[str], timeout: float) -> dict[str, Result | Failure]:
            if len(self.submitted) == 3 and not self.struck:
                self.struck = True
                raise KeyboardInterrupt
            return super().poll(handles, timeout)

        def cancel(self, handle: str) -> None:
            if self.now[handle].id != "b/x":  # this one is too far gone to stop: it ends well
                super().cancel(handle)

        struck = False

    executor = Struck(store, rng, {})
    actions = graph(action("a/x"), action("b/x"), action("c/x"), action("d/x", "a/x"))
    scheduler = Scheduler(store, ActionCache(store), executor, lambda event: None, jobs=3)
    with pytest.raises(Interrupted):
        scheduler.run(actions, IDENTITY)
    assert not executor.now
    assert set(scheduler.outcome.records) == {"b/x"}
    assert not store.held
    store.close()
