"""Work ahead in a few threads: results come in order, and memory stays bounded."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
_MOST_WORKERS = 8  # the merge is bound by memory long before


def available() -> int:
    """How many threads are worth starting: the cores this process may use, 8 at most."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(_MOST_WORKERS, cores))


def in_order(
    work: Callable[[Item], Result], items: Sequence[Item], workers: int | None = None
) -> Generator[Result, None, None]:
    """work(item) for each item, in their order, computed by `workers` threads (`available()` of them by default).

    At most two items more than there are threads are in memory. Closing the generator waits for the items at work and
    drops the others.
    """
    workers = max(1, min(workers or available(), len(items)))
    pool = ThreadPoolExecutor(workers, thread_name_prefix="link")
    try:
        pending: deque[Future[Result]] = deque()
        for item in items:
            pending.append(pool.submit(work, item))
            if len(pending) > workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
