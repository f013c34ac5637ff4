"""The scheduler: which action may start, from the plan, the cache, the locks and the resources; an executor runs it."""

from __future__ import annotations

import bisect
import contextlib
import datetime
import heapq
import time
from collections.abc import Callable, Mapping
from typing import Any

from amybuild.cache.actions import ActionCache, Record
from amybuild.cache.store import Store, disk_errors
from amybuild.errors import ActionError, AmyError, CacheDamage, Interrupted
from amybuild.events import Event, Sink
from amybuild.execute.job import Executor, Failure, Job, Kind, Result, Source
from amybuild.execute.local import failure
from amybuild.execute.resources import Capacity
from amybuild.plan.plan import Action, Decision, Identity, State, decide
from amybuild.value import field, value

_TICK = 0.5  # seconds: the main thread sees Ctrl-C at least this often while jobs run …
_LOOK = 0.1  # … and looks this often whether another build has let go of an action
_AGAIN = {Kind.PREEMPTED: 100, Kind.INFRASTRUCTURE: 3}  # how often a job is tried again when it was not its fault


@value(frozen=False)
class Outcome:
    """What a build did."""

    ran: list[str] = field(default_factory=list)
    hits: list[str] = field(default_factory=list)
    failed: dict[str, AmyError] = field(default_factory=dict)
    blocked: list[str] = field(default_factory=list)
    records: dict[str, Record] = field(default_factory=dict)
    differs: dict[str, tuple[Record, Record]] = field(default_factory=dict)  # a forced run: the cached, and the new
    alone: list[str] = field(default_factory=list)  # with `compare`: there was nothing to compare with

    @property
    def keys(self) -> dict[str, str]:
        return {id: record.key for id, record in self.records.items()}


@value(frozen=False)
class _Running:
    """An action whose job is out; this process holds the lock of its key."""

    decision: Decision
    key: str
    job: Job
    known: Record | None  # a forced run: what the cache has
    attempts: int = 0


class Scheduler:
    """Brings a selection of actions up to date. Store, cache, executor and event sink are handed in.

    Nothing waits for anything while it holds a lock or a resource, so two builds cannot block each other for longer
    than an action takes that both need.
    """

    def __init__(
        self,
        store: Store,
        cache: ActionCache,
        executor: Executor,
        sink: Sink,
        *,
        jobs: int = 2,
        capacity: Capacity | None = None,
        needs: Callable[[Action], Mapping[str, int]] = lambda action: action.resources,
        keep_going: bool = False,
        compare: bool = False,
        code_is: Callable[[str, Mapping[str, str]], bool] = lambda rule, code: True,
        pause: float = 1.0,
    ) -> None:
        self.store, self.cache, self.executor, self.sink = store, cache, executor, sink
        self.jobs, self.capacity, self.needs = max(1, jobs), capacity or Capacity(), needs
        self.keep_going, self.compare = keep_going, compare
        self.code_is = code_is  # (rule, code): whether the rule's code is still what its key says
        self.pause = pause  # seconds before a second attempt; twice as many before each further one
        self.outcome = Outcome()

    def run(
        self,
        actions: Mapping[str, Action],
        identity: Identity,
        forced: frozenset[str] = frozenset(),
        hits: Mapping[str, Record] | None = None,
    ) -> Outcome:
        """Bring every action of a selection (in topological order) up to date. `self.outcome` grows as it goes.

        `hits`: what a plan of these actions found and the store holds since: it is not decided again."""
        self.outcome = Outcome()
        self._hits = hits or {}
        self._actions, self._identity, self._forced = actions, identity, forced
        self._place = {id: place for place, id in enumerate(actions)}
        self._unmet = {id: len(action.needs) for id, action in actions.items()}
        self._wanted_by: dict[str, list[str]] = {id: [] for id in actions}
        for id, action in actions.items():
            for need in action.needs:
                self._wanted_by[need].append(id)
        self._outputs: dict[str, str] = {}
        self._ready: list[tuple[int, str]] = []  # sorted: must run, and could as far as their inputs go
        self._decisions: dict[str, Decision] = {}  # of those
        self._elsewhere: dict[str, float] = {}  # another build holds its lock: when to look again
        self._running: dict[str, _Running] = {}  # by handle
        self._locks: dict[str, Any] = {}  # by key: all that were asked for and not let go
        self._again: list[tuple[float, str, _Running]] = []  # (when, id, what): a heap of jobs to submit once more
        try:
            self._reach([id for id, unmet in self._unmet.items() if not unmet])
            while self._ready or self._running or self._again:
                self._start()
                if self._running or self._again or self._elsewhere:
                    self._wait()
        except KeyboardInterrupt:
            raise Interrupted("interrupted", remedy="run amybuild again: finished actions are kept") from None
        finally:
            self._drain()
            for lock in self._locks.values():  # of what Ctrl-C came between
                lock.release()
        ended = self.outcome.records.keys() | self.outcome.failed.keys()
        self.outcome.blocked = [id for id in actions if id not in ended]
        for id in self.outcome.blocked:
            self.sink(Event("blocked", id))
        return self.outcome

    # what may start

    def _reach(self, ids: list[str]) -> None:
        """Decide the actions whose inputs are all there; a hit makes others reachable in turn."""
        heap = [(self._place[id], id) for id in ids]
        heapq.heapify(heap)
        while heap:
            _, id = heapq.heappop(heap)
            record = self._hits.get(id) or self._decide(id)
            for freed in self._hit(id, record) if record else ():
                heapq.heappush(heap, (self._place[freed], freed))

    def _decide(self, id: str) -> Record | None:
        """The result that the cache has of an action; None, and the action is ready, when it must run."""
        decision = decide(self._actions[id], self._outputs, self._identity, self.cache.lookup, id in self._forced)
        if decision.state is State.HIT and decision.manifest is not None:
            record = self.cache.lookup(decision.manifest.key)
            if record is not None:
                return record
        self._decisions[id] = decision
        bisect.insort(self._ready, (self._place[id], id))
        return None

    def _hit(self, id: str, record: Record) -> list[str]:
        self.outcome.hits.append(id)
        self.sink(Event("hit", id, {"seconds": record.seconds}))
        return self._finish(id, record)

    def _finish(self, id: str, record: Record) -> list[str]:
        """Keep a record; the actions that it was the last missing one for come back."""
        self.outcome.records[id] = record
        self._outputs[id] = record.output
        freed = []
        for other in self._wanted_by[id]:
            self._unmet[other] -= 1
            if not self._unmet[other]:
                freed.append(other)
        return freed

    def _start(self) -> None:
        """Start what can be: its lock is free, its resources are, and there are fewer than `jobs`."""
        while self._again and self._again[0][0] <= time.monotonic():
            one = heapq.heappop(self._again)[2]
            self._running[self.executor.submit(one.job)] = one
        hits = -1
        while hits < len(self.outcome.hits):  # a hit may have made more of them ready
            hits = len(self.outcome.hits)
            for _, id in list(self._ready):
                held = [*self._running.values(), *(one for _, _, one in self._again)]
                if self.outcome.failed and not self.keep_going:
                    self._ready.clear()
                    self._elsewhere.clear()
                    return
                if len(held) >= self.jobs:
                    return
                self._consider(id, held)

    def _consider(self, id: str, held: list[_Running]) -> None:
        decision = self._decisions[id]
        assert decision.manifest is not None
        needs = self.needs(decision.action)
        lacking = self.capacity.lacks(needs)
        if lacking is not None:
            self._fail(id, Failure(Kind.ERROR, lacking[0], id, lacking[1]))
            return
        if any(one.key == decision.manifest.key for one in held):
            return  # a twin runs: its result is this one's too
        just_looked = self._elsewhere.get(id, 0) > time.monotonic()
        if not just_looked and self.capacity.fits(needs, [one.job.resources for one in held]):
            self._begin(id, decision, needs)

    def _no_longer_ready(self, id: str) -> None:
        self._elsewhere.pop(id, None)
        if self._decisions.pop(id, None) is not None:
            del self._ready[bisect.bisect_left(self._ready, (self._place[id], id))]

    def _begin(self, id: str, decision: Decision, needs: Mapping[str, int]) -> None:
        """Take the lock of an action's key and send its job out, unless another build has it or had it."""
        assert decision.manifest is not None
        key = decision.manifest.key
        try:
            lock = self._locks[key] = self.store.lock(key)
            with disk_errors(self.store.root):
                taken = lock.acquire(wait=False)
        except Exception as error:
            self._fail(id, failure(error, id))
            return
        if not taken:
            if id not in self._elsewhere:
                self.sink(Event("wait", id, {"reason": "another build is making it"}))
            self._elsewhere[id] = time.monotonic() + _LOOK
            return
        self._no_longer_ready(id)
        known = self.cache.lookup(key)
        twin = decision.forced and any(self.outcome.records[done].key == key for done in self.outcome.ran)
        if known is not None and (twin or not decision.forced):  # another build was faster
            self._let_go(key)
            self._reach(self._hit(id, known))
            return
        previous = self.cache.record(key)
        self.sink(Event("start", id, {"expected": previous.seconds if previous else None}))
        try:
            job = self._job(decision.action, key, needs)
            handle = self.executor.reattach(key) or self.executor.submit(job)
        except Exception as error:
            self._let_go(key)
            self._fail(id, failure(error, id))
            return
        self._running[handle] = _Running(decision, key, job, known)

    def _let_go(self, key: str) -> None:
        self._locks.pop(key).release()

    def _job(self, action: Action, key: str, needs: Mapping[str, int]) -> Job:
        return Job(
            action.id,
            action.rule,
            key,
            action.params,
            {role: self._outputs[by] for role, by in action.inputs.items()},
            tuple(self.store.put_bytes(node.data) for node in action.nodes),  # they stay: explanations show old and new
            Source(str(action.source.path), action.source.digest) if action.source else None,
            needs,
        )

    # what ended

    def _wait(self) -> None:
        timeout = _LOOK if self._elsewhere else _TICK
        if self._again:
            timeout = max(0.0, min(timeout, self._again[0][0] - time.monotonic()))
        if not self._running:
            time.sleep(timeout)
            return
        for handle, ended in self.executor.poll(list(self._running), timeout).items():
            self._ended(self._running.pop(handle), ended)

    def _ended(self, one: _Running, ended: Result | Failure) -> None:
        id = one.decision.action.id
        if isinstance(ended, Failure) and one.attempts < _AGAIN.get(ended.kind, 0):
            when = time.monotonic() + min(60.0, self.pause * 2**one.attempts)
            one.attempts += 1
            self.sink(Event("note", fields={"text": f"{id}: {ended.what}; it is tried again"}))
            heapq.heappush(self._again, (when, id, one))  # its lock and its resources stay with it
            return
        try:
            if isinstance(ended, Failure):
                self._fail(id, ended)
                return
            freed = self._publish(one, ended)
        except Exception as error:
            self._fail(id, failure(error, id))
            return
        finally:
            self._let_go(one.key)
        self._reach(freed)

    def _publish(self, one: _Running, result: Result) -> list[str]:
        """Record a result, under the lock of its key. The first one for a key stays, unless it was forced anew."""
        action, manifest, known = one.decision.action, one.decision.manifest, one.known
        assert manifest is not None
        if not self.code_is(action.rule, self._identity.code[action.rule]):
            what = "amybuild's own code for it changed while it ran, so nothing was kept"
            raise ActionError(what, where=action.id, remedy="build again")
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        rows = tuple((c.kind, c.name, c.value) for c in manifest.components)
        record = Record(
            action.id, action.rule, one.key, rows, result.output, round(result.seconds, 3), now, dict(result.host)
        )
        differs = known is not None and known.output != result.output
        if known is None or (differs and not self.compare):
            self.cache.publish(record)
        if known is not None and differs:
            self.outcome.differs[action.id] = (known, record)
        if known is None and self.compare and one.decision.forced:
            self.outcome.alone.append(action.id)
        self.sink(Event("done", action.id, {"seconds": result.seconds, "differs": differs}))
        self.outcome.ran.append(action.id)
        # what comes after goes on from what the cache has: in a comparison each action is judged on the inputs it had
        return self._finish(action.id, known if known is not None and (self.compare or not differs) else record)

    def _fail(self, id: str, why: Failure) -> None:
        self._no_longer_ready(id)
        error = CacheDamage if why.kind is Kind.LOST else ActionError
        self.outcome.failed[id] = error(why.what, where=why.where, remedy=why.remedy)
        fields = {"error": why.what, "where": why.where, "remedy": why.remedy, "class": why.kind.value}
        self.sink(Event("failed", id, fields))

    def _drain(self) -> None:
        """Stop what runs, wait for it, keep what came out whole all the same, and let every lock go."""
        self._ready.clear()
        for _, _, one in self._again:
            self._let_go(one.key)
        self._again.clear()
        for handle in self._running:
            self.executor.cancel(handle)
        while self._running:
            for handle, ended in self.executor.poll(list(self._running), _TICK).items():
                one = self._running.pop(handle)
                if isinstance(ended, Result):
                    with contextlib.suppress(Exception):
                        self._publish(one, ended)
                self._let_go(one.key)
