"""Work ahead in a few threads: results come in order, memory stays bounded, torch's own threads stay out of it."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")
_MOST_WORKERS = 8


def in_order(work: Callable[[Item], Result], items: Sequence[Item]) -> Generator[Result, None, None]:
    """work(item) for each item, in their order, computed by as many threads as torch may use (8 at most).

    Each thread runs torch single-threaded: on blocks that fit a cache, torch's parallel loops wait on each other more
    than they work (ten times slower beside another process), and sums no longer depend on the number of threads.
    At most two items more than there are threads are in memory.
    """
    workers = max(1, min(_MOST_WORKERS, torch.get_num_threads(), len(items)))
    pool = _single_threaded(workers)
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


def _single_threaded(workers: int) -> ThreadPoolExecutor:
    # torch's thread count is per thread, but setting it also sets the default of threads that start later: set it in
    # every worker (the barrier gives each exactly one task), then put the default back
    before = torch.get_num_threads()
    barrier = threading.Barrier(workers)

    def settle() -> None:
        torch.set_num_threads(1)
        barrier.wait()

    pool = ThreadPoolExecutor(workers, thread_name_prefix="link")
    for future in [pool.submit(settle) for _ in range(workers)]:
        future.result()
    torch.set_num_threads(before)
    return pool
