"""Runs what the cache cannot answer: scheduler and executor, joined to a project, and the summary of what they did."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from amybuild.cache.disk import remove_tree
from amybuild.errors import AmyError, CacheDamage, CheckError
from amybuild.events import Event, Sink, one_at_a_time
from amybuild.graph.rules import RULES
from amybuild.perform import host, run_job
from amybuild.value import field, value

if TYPE_CHECKING:
    from amybuild.cache.actions import ActionCache, Record
    from amybuild.cache.memo import Memo
    from amybuild.cache.store import Store
    from amybuild.execute.job import Job
    from amybuild.execute.scheduler import Outcome
    from amybuild.plan.plan import Action, Identity


class Asked(Protocol):
    """What the command line says of how to run."""

    @property
    def jobs(self) -> int: ...
    @property
    def keep_going(self) -> bool: ...
    @property
    def check(self) -> bool: ...
    @property
    def memory(self) -> int | None: ...


class Work(Protocol):
    """A selection of actions, in topological order, and where their results are."""

    @property
    def options(self) -> Asked: ...
    @property
    def store(self) -> Store: ...
    @property
    def cache(self) -> ActionCache: ...
    @property
    def memo(self) -> Memo: ...
    @property
    def actions(self) -> Mapping[str, Action]: ...
    @property
    def identity(self) -> Identity: ...
    @property
    def forced(self) -> frozenset[str]: ...
    def code_is(self, rule: str, code: Mapping[str, str]) -> bool: ...


@value(frozen=False)
class Summary:
    """What a build did, for people and for ``--json``."""

    persona: str
    ran: list[str] = field(default_factory=list)
    hits: list[str] = field(default_factory=list)
    unnamed: int = 0  # how many more were reused
    failed: dict[str, AmyError] = field(default_factory=dict)
    blocked: list[str] = field(default_factory=list)
    build: str | None = None
    product: Path | None = None
    published: bool = False
    restored: list[str] = field(default_factory=list)  # product files that were not as they were put there
    saved: float = 0.0  # seconds that the reused actions took when they ran
    info: Mapping[str, Any] | None = None
    keys: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @property
    def reused(self) -> int:
        return len(self.hits) + self.unnamed


def execute(
    work: Work,
    summary: Summary,
    sink: Sink,
    records: dict[str, Record],
    held: Callable[[], Mapping[str, Record]] = dict,
) -> None:
    """Run what the cache cannot answer; `records` has what came of it, also when it ends early.

    `held` is asked once the store is open: the results of a plan made just now, which are not looked up anew."""

    from amybuild.execute.job import Kind
    from amybuild.execute.local import LocalExecutor
    from amybuild.execute.resources import Capacity
    from amybuild.execute.scheduler import Scheduler

    shown = one_at_a_time(sink)

    def told(event: Event) -> None:
        again = event.kind == "failed" and event.fields.get("class") == Kind.LOST.value  # no failure: see the rounds
        shown(Event("note", fields={"text": f"{event.action}: {event.fields['error']}"}) if again else event)

    def perform(job: Job, inputs: Mapping[str, Path], out: Path, progress: Callable[..., None]) -> None:
        # what has a result is made again as a whole, to be compared with it: not from where some run was stopped, and
        # not from what one remembered
        again = work.cache.record(job.key) is not None
        unfinished = None if again else work.store.root / "checkpoints" / job.key
        run_job(job, inputs, out, progress, None if again else work.store.root / "memo", unfinished)

    options = work.options
    executor = LocalExecutor(
        work.store,
        perform,
        jobs=options.jobs,
        progress=lambda id, done, total, more: told(Event("progress", id, {"done": done, "total": total, **more})),
        host=host,
        source_digest=lambda path: work.memo.digest_path(path),
    )
    scheduler = Scheduler(
        work.store,
        work.cache,
        executor,
        told,
        jobs=options.jobs,
        capacity=Capacity({} if options.memory is None else {"memory": options.memory}),
        needs=lambda action: {**RULES[action.rule].resources, **action.resources},
        keep_going=options.keep_going,
        compare=options.check,
        code_is=work.code_is,
    )
    work.store.begin()  # what a lookup finds from here on stays until the build is in the history
    hits = held()
    ran = summary.ran  # of earlier rounds
    try:
        for _ in range(len(work.actions) + 1):
            outcome = scheduler.run(work.actions, work.identity, work.forced - set(ran), hits)
            ran += [id for id in outcome.ran if id not in ran]
            if not any(isinstance(error, CacheDamage) for error in outcome.failed.values()):
                break
            hits = {}  # an input was found gone when it was needed: now its action is a miss, and runs
    finally:
        executor.close()
        records |= scheduler.outcome.records
        for id in scheduler.outcome.ran:
            remove_tree(work.store.root / "checkpoints" / records[id].key)
    summary.hits = [id for id in outcome.hits if id not in ran]
    summary.failed, summary.blocked = outcome.failed, outcome.blocked
    if options.check:
        _compare(work, outcome, sink)


def _compare(work: Work, outcome: Outcome, sink: Sink) -> None:
    """Say how far the results of a check lie from the cached ones; `CheckError` when one does."""
    from amybuild.execute.compare import compare

    def files(record: Record) -> dict[str, Path]:
        folder = work.store.view(record.output, work.store.scratch() / "tree")
        return {p.relative_to(folder).as_posix(): p.resolve() for p in folder.rglob("*") if p.is_file()}

    if outcome.alone:
        some = ", ".join(outcome.alone[:3]) + (f" and {len(outcome.alone) - 3} more" if len(outcome.alone) > 3 else "")
        sink(Event("note", fields={"text": f"nothing in the cache to compare with: {some}"}))
    for id, (cached, new) in outcome.differs.items():
        hosts = {"old": dict(cached.host), "new": dict(new.host)}
        sink(Event("differs", id, {"files": compare(files(cached), files(new)), "hosts": hosts}))
    if outcome.differs:
        names = ", ".join(outcome.differs)
        remedy = "the cached results stay; DESIGN.md, What is bit-exact, says when this is to be expected"
        raise CheckError(f"another result than the cached one: {names}", remedy=remedy)
