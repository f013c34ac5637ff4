"""The executor with a fake runner: order, parallelism, early cutoff, force, failures, interrupts."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from amybuild.cache.actions import ActionCache
from amybuild.cache.store import Store
from amybuild.errors import ActionError, InputError, Interrupted
from amybuild.events import Event, one_at_a_time
from amybuild.execute.job import Job
from amybuild.execute.local import LocalExecutor
from amybuild.execute.scheduler import Outcome, Scheduler
from amybuild.graph.graph import Action, NodeSource, PathSource
from amybuild.plan.plan import Identity

RULES = ("light", "heavy", "other")
HEAVY = {"heavy": {"model": 1}}
IDENTITY = Identity({rule: {} for rule in RULES}, {rule: {} for rule in RULES})


def action(id: str, *inputs: str, rule: str = "light", value: Any = 0, **more: Any) -> Action:
    roles = {f"in{i}": one for i, one in enumerate(inputs)}
    return Action(id, id.partition("/")[0], rule, {"name": id, "value": value}, roles, **more)


def graph(*actions: Action) -> dict[str, Action]:
    return {one.id: one for one in actions}


class Fake:
    """A runner that writes its name, value and inputs; it keeps what ran, and how many did at once."""

    def __init__(self, bad: tuple[str, ...] = (), hook: Callable[[str], None] | None = None, nap: float = 0) -> None:
        self.bad, self.hook, self.nap = set(bad), hook, nap
        self.ran: list[str] = []
        self.lock = threading.Lock()
        self.now: set[str] = set()
        self.together: list[set[str]] = []

    def __call__(self, action: Job, inputs: Mapping[str, Path], out: Path, progress: Callable[..., None]) -> None:
        with self.lock:
            self.ran.append(action.id)
            self.now.add(action.id)
            self.together.append(set(self.now))
        try:
            progress(0, 1)
            if self.hook:
                self.hook(action.id)
            time.sleep(self.nap)
            if action.id in self.bad:
                raise InputError("it is bad", where=action.id, remedy="mend it")
            parts = [(inputs[role] / "value").read_text() for role in sorted(action.inputs)]
            nodes = (inputs["nodes"] / "nodes.jsonl").read_text().split() if action.nodes else []
            (out / "value").write_text(value_of(action, parts, nodes))
        finally:
            with self.lock:
                self.now.discard(action.id)


def value_of(action: Action | Job, inputs: list[str], nodes: list[str]) -> str:
    """The pure model of what an action makes; an even value and the odd one above it make the same."""
    return f"{action.params['name']}={action.params['value'] // 2}({','.join(inputs)}){'+'.join(nodes)}"


def model(actions: Mapping[str, Action]) -> dict[str, str]:
    found: dict[str, str] = {}
    for id, one in actions.items():
        parts = [found[one.inputs[role]] for role in sorted(one.inputs)]
        found[id] = value_of(one, parts, [n.data.decode() for n in one.nodes])
    return found


class World:
    """One store; each build gets caches of its own, as a new process would."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.events: list[Event] = []

    def told(self, event: Event) -> None:
        self.events.append(event)

    def build(
        self, actions: Mapping[str, Action], runner: Any = None, forced: tuple[str, ...] = (), **options: Any
    ) -> Outcome:
        store = Store(self.root)
        self.events = []
        jobs, told = options.pop("jobs", 2), one_at_a_time(self.told)
        executor = LocalExecutor(
            store,
            runner or Fake(),
            jobs=jobs,
            progress=lambda id, *_: told(Event("progress", id)),
            host=lambda _: {"machine": "here"},
            source_digest=options.pop("source_digest", None),
        )
        options = {"needs": lambda one: {**HEAVY.get(one.rule, {}), **one.resources}, "pause": 0.0, **options}
        scheduler = Scheduler(store, ActionCache(store), executor, told, jobs=jobs, **options)
        try:
            return scheduler.run(actions, IDENTITY, frozenset(forced))
        finally:
            executor.close()
            store.close()

    def values(self, outcome: Outcome) -> dict[str, str]:
        store = Store(self.root)
        return {id: (store.read_file(r.output, "value") or b"").decode() for id, r in outcome.records.items()}

    def kinds(self, action: str) -> list[str]:
        return [e.kind for e in self.events if e.action == action and e.kind != "progress"]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    one = World(tmp_path / "store")
    yield one
    assert list((one.root / "tmp").glob("*")) == []


DIAMOND = graph(
    *(action("a/x"), action("b/x", "a/x"), action("c/x", "a/x"), action("d/x", "b/x", "c/x")),
    action("e/x", after=("d/x",)),
)


# order


@pytest.mark.parametrize("jobs", [1, 2, 8])
def test_needs_come_first_and_a_second_build_runs_nothing(world: World, jobs: int) -> None:
    fake = Fake()
    outcome = world.build(DIAMOND, fake, jobs=jobs)
    assert sorted(fake.ran) == sorted(DIAMOND)
    for id, one in DIAMOND.items():
        assert all(fake.ran.index(need) < fake.ran.index(id) for need in one.needs)
    assert world.values(outcome) == model(DIAMOND)
    assert world.kinds("d/x") == ["start", "done"]
    again = Fake()
    second = world.build(DIAMOND, again, jobs=jobs)
    assert (again.ran, second.ran, second.hits) == ([], [], list(DIAMOND))
    assert second.keys == outcome.keys
    assert world.kinds("d/x") == ["hit"]


def test_heavy_rules_run_one_at_a_time_and_light_ones_beside_them(world: World) -> None:
    actions = graph(*(action(f"h{i}/x", rule="heavy") for i in range(3)), *(action(f"l{i}/x") for i in range(3)))
    fake = Fake(nap=0.05)
    world.build(actions, fake, jobs=3)
    assert max(sum(id[0] == "h" for id in now) for now in fake.together) == 1
    assert max(len(now) for now in fake.together) == 3
    assert max(len(now) for now in fake.together if any(id[0] == "h" for id in now)) > 1


def test_light_rules_run_together_up_to_j(world: World) -> None:
    actions = graph(*(action(f"l{i}/x") for i in range(6)))
    barrier = threading.Barrier(3, timeout=10)

    def hook(id: str) -> None:
        barrier.wait()

    fake = Fake(hook=hook)
    world.build(actions, fake, jobs=3)
    assert max(len(now) for now in fake.together) == 3
    fake = Fake(nap=0.01)
    world.build(graph(*(action(f"m{i}/x") for i in range(4))), fake, jobs=1)
    assert max(len(now) for now in fake.together) == 1


def test_two_actions_with_one_key_run_once(world: World) -> None:
    twins = graph(*(Action(f"t{i}/x", f"t{i}", "light", {"name": "t", "value": 2}) for i in range(3)))
    fake = Fake(nap=0.05)
    outcome = world.build(twins, fake, jobs=3)
    assert len(fake.ran) == len(outcome.ran) == 1
    assert len(outcome.hits) == 2
    assert len({r.output for r in outcome.records.values()}) == 1
    assert not [event for event in world.events if event.kind == "wait"], "nobody else is making it"


def test_nodes_are_handed_over_and_kept(world: World) -> None:
    nodes = (NodeSource("k", "d1", b'{"key":"k"}'), NodeSource("l", "d2", b'{"key":"l"}'))
    outcome = world.build(graph(action("a/x", nodes=nodes)))
    assert world.values(outcome)["a/x"].endswith('{"key":"k"}+{"key":"l"}')


def test_a_source_that_changes_while_it_is_read_is_not_kept(world: World, tmp_path: Path) -> None:
    actions = graph(action("a/x", source=PathSource(tmp_path, "before")))
    outcome = world.build(actions, source_digest=lambda path: "after")
    assert "changed while it was being read" in outcome.failed["a/x"].what
    assert world.build(actions, source_digest=lambda path: "before").ran == ["a/x"]


# early cutoff and force


def test_the_same_result_stops_there(world: World) -> None:
    world.build(DIAMOND)
    outcome = world.build({**DIAMOND, "a/x": action("a/x", value=1)})
    assert outcome.ran == ["a/x"]
    outcome = world.build({**DIAMOND, "a/x": action("a/x", value=2)})
    assert sorted(outcome.ran) == ["a/x", "b/x", "c/x", "d/x"]
    assert world.build(DIAMOND).ran == [], "undone: it waits in the cache"


def test_a_forced_action_runs_and_a_different_result_is_told(world: World) -> None:
    first = world.build(DIAMOND)
    same = world.build(DIAMOND, forced=("a/x",))
    assert (same.ran, same.differs) == (["a/x"], {})

    def other(action: Job, inputs: Any, out: Path, progress: Any) -> None:
        (out / "value").write_text("other")

    checked = world.build(DIAMOND, other, forced=("a/x",), compare=True)
    cached, new = checked.differs["a/x"]
    assert (cached.output, new.output != cached.output) == (first.records["a/x"].output, True)
    outputs = {id: record.output for id, record in first.records.items()}
    assert {id: record.output for id, record in checked.records.items()} == outputs, (
        "what follows is judged on the inputs that it had"
    )
    assert world.values(world.build(DIAMOND))["a/x"] == "a/x=0()", "a comparison replaces nothing"
    world.build(DIAMOND, other, forced=("a/x",))
    assert world.values(world.build(DIAMOND))["a/x"] == "other"


# failures


@pytest.mark.parametrize("jobs", [1, 3])
def test_a_failure_blocks_what_depends_on_it(world: World, jobs: int) -> None:
    actions = {**DIAMOND, **graph(action("z/x"), action("y/x", "z/x"))}
    outcome = world.build(actions, Fake(bad=("b/x",)), keep_going=True, jobs=jobs)
    assert set(outcome.failed) == {"b/x"}
    assert set(outcome.blocked) == {"d/x", "e/x"}
    assert set(outcome.ran) == {"a/x", "c/x", "z/x", "y/x"}
    assert world.kinds("b/x") == ["start", "failed"]
    assert world.kinds("e/x") == ["blocked"]
    failed = next(e for e in world.events if e.kind == "failed")
    assert failed.fields == {"error": "it is bad", "where": "b/x", "remedy": "mend it", "class": "error"}
    again = world.build(actions)
    assert set(again.ran) == {"b/x", "d/x", "e/x"}, "a failure is not kept, what was finished is"


def test_without_keep_going_nothing_new_starts(world: World) -> None:
    fake = Fake(bad=("a/x",))
    outcome = world.build({**graph(action("a/x")), **graph(action("z/x"))}, fake, jobs=1)
    assert (fake.ran, outcome.blocked) == (["a/x"], ["z/x"])


@pytest.mark.parametrize(
    ("error", "what"),
    [
        (ValueError("words of a memory"), "unexpected ValueError in test_executor.py, line "),
        (KeyError(), "unexpected KeyError in test_executor.py"),
        (MemoryError(), "out of memory"),
        (OSError(28, "No space left on device"), "the disk is full"),
        (OSError(5, "Input/output error"), "cannot write: Input/output error"),
        (OSError(107, "Not connected"), "Not connected"),
    ],
)
def test_any_exception_is_an_action_error(world: World, error: Exception, what: str) -> None:
    def runner(*_: Any) -> None:
        raise error

    outcome = world.build(graph(action("a/x")), runner)
    found = outcome.failed["a/x"]
    assert isinstance(found, ActionError)
    assert what in found.what
    assert "memory" not in found.what or isinstance(error, MemoryError)  # a message may quote what was read
    assert found.remedy
    assert world.build(graph(action("a/x"))).ran == ["a/x"]


def test_a_failure_outside_the_rule_is_an_action_error_too(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Store, folder: Path) -> str:
        raise OSError(75, "Value too large")

    def no_lock(self: Store, key: str) -> Any:
        raise OSError(37, "No locks available")

    for name, function in (("put_tree", broken), ("lock", no_lock)):
        with monkeypatch.context() as patch:
            patch.setattr(Store, name, function)
            outcome = world.build(graph(action("a/x")))
        assert isinstance(outcome.failed["a/x"], ActionError), name
        assert outcome.failed["a/x"].remedy


def test_an_output_that_is_no_plain_file_is_refused(world: World) -> None:
    def runner(action: Job, inputs: Any, out: Path, progress: Any) -> None:
        (out / "link").symlink_to("value")

    assert "not a plain file" in world.build(graph(action("a/x")), runner).failed["a/x"].what


def test_an_interrupt_keeps_what_is_finished(world: World) -> None:
    def hook(id: str) -> None:
        if id == "b/x":
            signal.raise_signal(signal.SIGINT)
            time.sleep(0.05)

    with pytest.raises(Interrupted) as caught:
        world.build(DIAMOND, Fake(hook=hook), jobs=1)
    assert caught.value.exit_code == 130
    assert world.build(DIAMOND).hits[0] == "a/x"


def test_an_action_stops_at_its_next_progress(world: World) -> None:
    def runner(action: Job, inputs: Any, out: Path, progress: Callable[..., None]) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        for step in range(1000):
            progress(step, 1000)
            time.sleep(0.01)

    began = time.monotonic()
    with pytest.raises(Interrupted):
        world.build(graph(action("a/x")), runner)
    assert time.monotonic() - began < 5
    assert world.build(graph(action("a/x"))).ran == ["a/x"]
