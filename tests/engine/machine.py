"""The real engine (store, action cache, plan, executor) behind a runner that calls the pure model; also as a process.

`python -m tests.engine.machine` reads a JSON request on stdin, builds, and prints one JSON line per event.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import amybuild
from amybuild.cache.actions import ActionCache
from amybuild.cache.history import BuildRecord, History, build_hash
from amybuild.cache.memo import Memo
from amybuild.cache.store import Store
from amybuild.errors import ActionError, Interrupted
from amybuild.events import Event
from amybuild.graph.graph import Action, NodeSource, PathSource
from amybuild.plan.plan import Identity, make_plan
from tests.engine.pure import RULES, Files, World, node_bytes, param_of, produce, source_bytes
from tests.engine.seam import execute

ROOT = Path(amybuild.__file__).resolve().parent.parent


@dataclass(frozen=True)
class Ask:
    """What one build is asked for. `bad` actions fail, `interrupt` is the action during which Ctrl-C is pressed,
    `nap` is at most how many milliseconds an action sleeps."""

    targets: tuple[str, ...] = ()
    jobs: int = 2
    keep: bool = False
    bad: tuple[str, ...] = ()
    force: tuple[str, ...] = ()
    interrupt: str = ""
    nap: int = 0

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Ask:
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in data.items()})


@dataclass
class Report:
    """What one build did. `started` and `done` are what the runner and the events say, the rest is the outcome."""

    started: list[str] = field(default_factory=list)
    done: dict[str, str] = field(default_factory=dict)  # action -> key
    ran: list[str] = field(default_factory=list)
    hits: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    blocked: list[str] = field(default_factory=list)
    records: dict[str, tuple[str, str]] = field(default_factory=dict)  # action -> (key, output)
    plan: dict[str, str] = field(default_factory=dict)
    ended: str = "killed"  # "done" | "interrupted" | "killed" | "refused: …"

    def tell(self, line: Mapping[str, Any]) -> None:
        """Take in one event."""
        kind = line["event"]
        if kind == "start":
            self.started.append(line["action"])
        elif kind == "done":
            self.done[line["action"]] = line["key"]
        elif kind == "plan":
            self.plan = line["states"]
        elif kind == "end":
            self.ran, self.hits, self.failed = line["ran"], line["hits"], line["failed"]
            self.blocked, self.ended = line["blocked"], line["ended"]
            self.records = {id: (key, output) for id, (key, output) in line["records"].items()}


@contextlib.contextmanager
def no_fsync() -> Iterator[None]:
    """What fsync protects from (power loss) is not tested by killing processes; without it a history takes a tenth."""
    real = os.fsync
    os.fsync = lambda handle: None
    try:
        yield
    finally:
        os.fsync = real


class Machine:
    """A folder with a store and the source files of a world."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.store = root / "store"
        (root / "sources").mkdir(parents=True, exist_ok=True)

    def write_source(self, name: str, value: int, sneaky: bool = False) -> None:
        """Write a source file; a `sneaky` edit keeps its size and sets its mtime back."""
        path = self.root / "sources" / name
        before = path.stat() if path.exists() else None
        path.write_bytes(source_bytes(name, value))
        if sneaky and before:
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    def actions(self, world: World, targets: tuple[str, ...], memo: Memo) -> dict[str, Action]:
        found = {}
        for spec in world.closure(targets):
            nodes = []
            for name in spec.nodes:
                data = node_bytes(name, world.nodes[name])
                nodes.append(NodeSource(name, amybuild.digest.digest_bytes(data), data))
            source = None
            if spec.source:
                path = self.root / "sources" / spec.source
                source = PathSource(path, memo.digest_path(path))
            roles = {f"in{i}": need for i, need in enumerate(spec.needs)}
            params, target = param_of(spec, world), spec.id.partition("/")[0]
            found[spec.id] = Action(
                spec.id, target, spec.rule, params, roles, tuple(nodes), source=source, after=spec.after
            )
        return found

    def build(self, world: World, ask: Ask, tell: Callable[[Mapping[str, Any]], None]) -> None:
        """One build, as one process would do it; each thing that happens is told as a JSON value."""
        guard = threading.Lock()

        def say(**line: Any) -> None:
            with guard:
                tell(line)

        store = Store(self.store)
        memo = Memo(store.root / "files.json")
        actions = self.actions(world, ask.targets, memo)
        identity = Identity(
            {rule: {"f": f"{world.code[rule]}"} for rule in RULES}, {rule: {"lib": "1"} for rule in RULES}
        )
        forced = frozenset(ask.force)
        plan = make_plan(actions, identity, ActionCache(store).lookup, forced)
        say(event="plan", states={id: decision.state.value for id, decision in plan.decisions.items()})
        rng = random.Random(f"{ask.nap} {world.code}")
        ran: dict[str, str] = {}
        naps = {id: rng.random() * ask.nap / 1000 for id in actions}

        def run(action: Any, key: str, inputs: Mapping[str, Path], out: Path, progress: Callable[..., None]) -> None:
            ran[action.id] = key
            say(event="start", action=action.id)
            progress(0, 2)
            if action.id == ask.interrupt:
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.01)
            files = {role: read_files(inputs[role]) for role in action.inputs}
            nodes = (inputs["nodes"] / "nodes.jsonl").read_bytes().splitlines() if action.nodes else []
            source = inputs["source"].read_bytes() if action.source else b""
            made = list(produce(action.params, world.code[action.rule], nodes, source, files).items())
            for name, data in made[: len(made) // 2]:
                write(out, name, data)
            time.sleep(naps[action.id])
            if action.id in ask.bad:
                raise ActionError("it is bad", where=action.id, remedy="mend it")
            for name, data in made[len(made) // 2 :]:
                write(out, name, data)
            progress(2, 2)

        def sink(event: Event) -> None:
            if event.kind == "done":
                say(event="done", action=event.action, key=ran[event.action])

        try:
            outcome, error = execute(store, run, sink, memo, actions, identity, forced, ask.jobs, ask.keep)
            if not ask.targets and outcome.records.keys() == actions.keys():
                self.remember({id: (record.key, record.output) for id, record in outcome.records.items()})
        finally:
            store.close()
            memo.save()
        if error is not None and not isinstance(error, Interrupted):
            raise error
        say(
            event="end",
            ran=outcome.ran,
            hits=outcome.hits,
            failed={id: str(error) for id, error in outcome.failed.items()},
            blocked=outcome.blocked,
            records={id: [record.key, record.output] for id, record in outcome.records.items()},
            ended="interrupted" if error else "done",
        )

    def remember(self, pairs: Mapping[str, tuple[str, str]]) -> None:
        """Note a whole build, while its results are held."""
        hash = build_hash("p", {id: output for id, (_, output) in pairs.items()})
        History(self.store, self.root).add(BuildRecord(hash, "p", "2026-01-01T00:00:00", pairs, "g", "b"))

    def here(self, world: World, ask: Ask) -> Report:
        """A build in this process."""
        report = Report()
        with no_fsync():
            self.build(world, ask, report.tell)
        return report

    def spawn(self, world: World, ask: Ask) -> subprocess.Popen[str]:
        """A build in a process of its own; `listen` takes its report."""
        request = json.dumps({"root": str(self.root), "world": world.to_json(), "ask": asdict(ask)})
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.engine.machine"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert process.stdin is not None
        process.stdin.write(request + "\n")
        process.stdin.flush()
        return process

    def values(self, records: Mapping[str, tuple[str, str]]) -> dict[str, Files]:
        """What the store holds for each result, read as the next action would read it."""
        store, found = Store(self.store), {}
        try:
            for id, (_, output) in records.items():
                room = store.scratch()
                found[id] = read_files(store.view(output, room / "view"))
        finally:
            store.close()
        return found


def first_line(process: subprocess.Popen[str]) -> str:
    """The first line a process prints, and no byte more: `communicate` does not see what a file object has buffered."""
    assert process.stdout is not None
    line = b""
    while not line.endswith(b"\n") and (byte := os.read(process.stdout.fileno(), 1)):
        line += byte
    return line.decode()


def listen(process: subprocess.Popen[str]) -> Report:
    """The report of a spawned build that has ended (or was killed: what it told until then)."""
    out, err = process.communicate(timeout=120)
    report = Report()
    for line in out.splitlines():
        with contextlib.suppress(ValueError):  # a line cut short by the kill
            report.tell(json.loads(line))
    if process.returncode not in (0, -signal.SIGKILL):
        raise AssertionError(f"a build ended with {process.returncode}: {err}")
    return report


def read_files(folder: Path) -> Files:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def write(folder: Path, name: str, data: bytes) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)


def main() -> None:
    request = json.loads(sys.stdin.readline())
    machine = Machine(Path(request["root"]))

    def tell(line: Mapping[str, Any]) -> None:
        os.write(1, (json.dumps(line) + "\n").encode())  # one call: a kill cuts no line in two

    with no_fsync():
        machine.build(World.from_json(request["world"]), Ask.from_json(request["ask"]), tell)


if __name__ == "__main__":
    main()
