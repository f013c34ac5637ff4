"""The local executor: runs what the plan cannot answer, one process, several threads, nothing half-done left behind."""

from __future__ import annotations

import datetime
import os
import shutil
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import Timeout

from amybuild.cache.actions import ActionCache, Record
from amybuild.cache.store import Store, disk_errors
from amybuild.errors import ActionError, AmyError, Interrupted
from amybuild.events import Event, Sink
from amybuild.plan.plan import Action, Decision, Identity, State, decide

# (action, key, inputs, out, progress): calls the rule's function
Runner = Callable[[Action, str, Mapping[str, Path], Path, Callable[..., None]], None]


@dataclass(frozen=True)
class Done:
    """One action's way to its record: it ran here (`ran`), or another process had just made it."""

    record: Record
    ran: bool
    instead_of: str | None = None  # a forced run that came out differently: the cached output


@dataclass
class Outcome:
    """What a build did."""

    ran: list[str] = field(default_factory=list)
    hits: list[str] = field(default_factory=list)
    failed: dict[str, AmyError] = field(default_factory=dict)
    blocked: list[str] = field(default_factory=list)
    records: dict[str, Record] = field(default_factory=dict)
    differs: dict[str, tuple[str, str]] = field(default_factory=dict)  # a forced run: cached and new output

    @property
    def keys(self) -> dict[str, str]:
        return {id: record.key for id, record in self.records.items()}


class LocalExecutor:
    """Executes a selection of actions. Cache, runner, fingerprint and event sink are handed in."""

    def __init__(
        self,
        store: Store,
        cache: ActionCache,
        runner: Runner,
        sink: Sink,
        *,
        heavy: frozenset[str],
        jobs: int = 2,
        keep_going: bool = False,
        compare: bool = False,
        host: Callable[[], Mapping[str, Any]] = dict,
        source_digest: Callable[[Path], str] | None = None,
    ) -> None:
        self.store, self.cache, self.runner = store, cache, runner
        self._sink = sink
        self._sink_lock = threading.Lock()
        self.heavy = heavy  # rules that hold the model and all cores: one at a time
        self.jobs, self.keep_going, self.compare = max(1, jobs), keep_going, compare
        self.host, self.source_digest = host, source_digest
        self.stop = threading.Event()
        self.outcome = Outcome()

    def emit(self, kind: str, action: str = "", **fields: Any) -> None:
        with self._sink_lock:
            self._sink(Event(kind, action, fields))

    def run(self, actions: Mapping[str, Action], identity: Identity, forced: frozenset[str] = frozenset()) -> Outcome:
        """Bring every action of a selection (in topological order) up to date. `self.outcome` grows as it goes."""
        outcome = self.outcome = Outcome()
        waiting = dict(actions)
        running: dict[Future[Done], Action] = {}
        pool = ThreadPoolExecutor(self.jobs, thread_name_prefix="action")
        try:
            while waiting or running:
                self._start_ready(waiting, running, outcome, identity, forced, pool)
                if not running:
                    if waiting and not outcome.failed:
                        raise AssertionError(f"no action can start: {list(waiting)}")
                    break
                # a short timeout lets the main thread see Ctrl-C while actions run
                finished, _ = wait(running, timeout=0.5, return_when=FIRST_COMPLETED)
                for future in finished:
                    self._collect(running.pop(future), future, outcome)
        except KeyboardInterrupt:
            self.stop.set()
            raise Interrupted("interrupted", remedy="run amybuild again: finished actions are kept") from None
        finally:
            if running:
                self.stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
        outcome.blocked = list(waiting)
        for id in outcome.blocked:
            self.emit("blocked", id)
        return outcome

    def _start_ready(
        self,
        waiting: dict[str, Action],
        running: dict[Future[Done], Action],
        outcome: Outcome,
        identity: Identity,
        forced: frozenset[str],
        pool: ThreadPoolExecutor,
    ) -> None:
        if outcome.failed and not self.keep_going:
            return
        progressed = True
        while progressed:
            progressed = False
            outputs = {id: record.output for id, record in outcome.records.items()}
            for id, action in list(waiting.items()):
                if any(need not in outputs for need in action.needs):
                    continue
                busy = action.rule in self.heavy and any(a.rule in self.heavy for a in running.values())
                decision = decide(action, outputs, identity, self.cache.lookup, id in forced)
                if decision.state is State.HIT:
                    assert decision.manifest is not None
                    record = self.cache.lookup(decision.manifest.key)
                    assert record is not None
                    outcome.records[id] = record
                    outcome.hits.append(id)
                    self.emit("hit", id, seconds=record.seconds)
                elif busy or len(running) >= self.jobs:
                    continue
                else:
                    running[pool.submit(self._one, decision, outputs)] = action
                del waiting[id]
                progressed = True

    def _collect(self, action: Action, future: Future[Done], outcome: Outcome) -> None:
        try:
            done = future.result()
        except Interrupted:
            raise KeyboardInterrupt from None
        except AmyError as error:
            outcome.failed[action.id] = error
            self.emit("failed", action.id, error=error.what, where=error.where, remedy=error.remedy)
            return
        outcome.records[action.id] = done.record
        if done.instead_of:
            outcome.differs[action.id] = (done.instead_of, done.record.output)
        (outcome.ran if done.ran else outcome.hits).append(action.id)

    def _one(self, decision: Decision, outputs: Mapping[str, str]) -> Done:
        """`_make` with every failure as an `AmyError` (a reader of our output who went away is none)."""
        try:
            return self._make(decision, outputs)
        except (AmyError, BrokenPipeError):
            raise
        except Exception as error:
            if os.environ.get("AMYBUILD_TRACEBACK"):
                raise
            raise _expected(error, decision.action.id) from error

    def _make(self, decision: Decision, outputs: Mapping[str, str]) -> Done:
        """Run one action under the lock of its key and publish its result (index last)."""
        action, manifest = decision.action, decision.manifest
        assert manifest is not None
        lock = self.store.lock(manifest.key)
        told = False
        while True:
            if self.stop.is_set():
                raise Interrupted("interrupted")
            try:
                with disk_errors(self.store.root):
                    lock.acquire(timeout=0.5)
                break
            except Timeout:
                if not told:
                    self.emit("wait", action.id, reason="another build is making it")
                    told = True
        try:
            known = self.cache.lookup(manifest.key)
            if known is not None and not decision.forced:  # another process was faster
                self.emit("hit", action.id, seconds=known.seconds)
                return Done(known, ran=False)
            return self._run_locked(action, manifest.key, manifest.as_json(), outputs, known)
        finally:
            lock.release()

    def _run_locked(
        self, action: Action, key: str, manifest: list[list[str]], outputs: Mapping[str, str], known: Record | None
    ) -> Done:
        previous = self.cache.record(key)
        self.emit("start", action.id, expected=previous.seconds if previous else None)
        began = time.monotonic()
        room = self.store.scratch()
        try:
            with disk_errors(room):
                inputs = self._inputs(action, outputs, room)
                out = room / "out"
                out.mkdir()
            self._call(action, key, inputs, out)
            if action.source and self.source_digest and self.source_digest(action.source.path) != action.source.digest:
                what = "it changed while it was being read, so nothing was kept"
                raise ActionError(what, where=str(action.source.path), remedy="build again")
            seconds = time.monotonic() - began
            output = self.store.put_tree(out)
        finally:
            shutil.rmtree(room, ignore_errors=True)
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        rows = tuple((k, n, v) for k, n, v in manifest)
        record = Record(action.id, action.rule, key, rows, output, seconds, now, self.host())
        differs = known.output if known is not None and known.output != output else None
        if known is None or (differs and not self.compare):
            self.cache.publish(record)
        self.emit("done", action.id, seconds=seconds, differs=differs is not None)
        return Done(record, ran=True, instead_of=differs)

    def _inputs(self, action: Action, outputs: Mapping[str, str], room: Path) -> dict[str, Path]:
        inputs = {role: self.store.view(outputs[by], room / "in" / role) for role, by in action.inputs.items()}
        if action.nodes:
            folder = room / "in" / "nodes"
            folder.mkdir(parents=True)
            for node in action.nodes:
                self.store.put_bytes(node.data)  # kept so that an explanation can show old and new text
            (folder / "nodes.jsonl").write_bytes(b"".join(node.data + b"\n" for node in action.nodes))
            inputs["nodes"] = folder
        if action.source:
            inputs["source"] = action.source.path
        return inputs

    def _call(self, action: Action, key: str, inputs: Mapping[str, Path], out: Path) -> None:
        def progress(done: int, total: int, **fields: float | str) -> None:
            if self.stop.is_set():
                raise Interrupted("interrupted")
            self.emit("progress", action.id, done=done, total=total, **fields)

        with disk_errors(out):
            self.runner(action, key, inputs, out, progress)


def _expected(error: Exception, action: str) -> ActionError:
    """What a user sees of an exception that nobody turned into an `AmyError`."""
    if isinstance(error, MemoryError):
        return ActionError("out of memory", where=action, remedy="a smaller batch, or a machine with more memory")
    if isinstance(error, OSError) and error.strerror:
        return ActionError(error.strerror, where=str(error.filename or action), remedy="mend that and build again")
    # its message is not shown: it may quote what the action was reading
    frame = traceback.extract_tb(error.__traceback__)[-1]
    what = f"unexpected {type(error).__name__} in {Path(frame.filename).name}, line {frame.lineno}"
    remedy = "run with AMYBUILD_TRACEBACK=1 to see all of it, and report it"
    return ActionError(what, where=action, remedy=remedy)
