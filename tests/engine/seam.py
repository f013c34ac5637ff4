"""Where these tests touch the engine's inner interfaces: one call to execute, one place to put another runner."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from amybuild.cache.actions import ActionCache
from amybuild.cache.memo import Memo
from amybuild.cache.store import Store
from amybuild.events import Event
from amybuild.execute.local import LocalExecutor
from amybuild.execute.scheduler import Scheduler
from amybuild.plan.plan import Action, Identity

RUNNER = "run_job"  # the function of `amybuild.running` that calls a rule's code

# (job or action, key, inputs, out, progress)
Runner = Callable[[Any, str, Mapping[str, Path], Path, Callable[..., None]], None]


def runner_of(runner: Runner) -> Callable[..., None]:
    """`runner` with the arguments that the executor hands over."""
    return lambda job, inputs, out, progress, *_: runner(job, job.key, inputs, out, progress)


def execute(
    store: Store,
    runner: Runner,
    sink: Callable[[Event], None],
    memo: Memo,
    actions: Mapping[str, Action],
    identity: Identity,
    forced: frozenset[str],
    jobs: int,
    keep: bool,
) -> tuple[Any, BaseException | None]:
    """Bring `actions` up to date; the outcome as far as it came, and what ended it early."""
    executor = LocalExecutor(store, runner_of(runner), jobs=jobs, source_digest=memo.digest_path)
    engine = Scheduler(store, ActionCache(store), executor, sink, jobs=jobs, keep_going=keep)
    ended: BaseException | None = None
    try:
        engine.run(actions, identity, forced)
    except Exception as error:
        ended = error
    executor.close()
    return engine.outcome, ended
