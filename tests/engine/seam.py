"""Where these tests touch the engine's inner interfaces: one call to execute, one place to put another runner."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from amybuild.cache.actions import ActionCache
from amybuild.cache.memo import Memo
from amybuild.cache.store import Store
from amybuild.events import Event
from amybuild.execute.local import LocalExecutor
from amybuild.plan.plan import Action, Identity

SPLIT = importlib.util.find_spec("amybuild.execute.scheduler") is not None  # executor and scheduler are two things
RUNNER = "run_job" if SPLIT else "run_action"  # the function of `amybuild.build` that calls a rule's code
SWEPT = importlib.util.find_spec("amybuild.cache.disk") is not None  # what a killed writer left is removed

# (job or action, key, inputs, out, progress)
Runner = Callable[[Any, str, Mapping[str, Path], Path, Callable[..., None]], None]


def runner_of(runner: Runner) -> Callable[..., None]:
    """`runner` with the arguments that the executor hands over."""
    if SPLIT:
        return lambda job, inputs, out, progress: runner(job, job.key, inputs, out, progress)
    return runner


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
    if SPLIT:
        from amybuild.execute.scheduler import Scheduler

        executor: Any = LocalExecutor(store, runner_of(runner), jobs=jobs, source_digest=memo.digest_path)
        engine: Any = Scheduler(store, ActionCache(store), executor, sink, jobs=jobs, keep_going=keep)
    else:
        executor = None
        engine = LocalExecutor(
            store,
            ActionCache(store),
            runner,
            sink,
            heavy=frozenset({"heavy"}),
            jobs=jobs,
            keep_going=keep,
            source_digest=memo.digest_path,
        )
    ended: BaseException | None = None
    try:
        engine.run(actions, identity, forced)
    except Exception as error:
        ended = error
    if executor is not None:
        executor.close()
    return engine.outcome, ended
