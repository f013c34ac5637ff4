"""The local executor: jobs are threads of this process, so that the actions of one build share one loaded base."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Collection, Mapping
from itertools import count
from pathlib import Path
from typing import Any

from amybuild.cache.disk import remove_tree
from amybuild.cache.store import Store, disk_errors
from amybuild.errors import AmyError, CacheDamage, Interrupted
from amybuild.execute.job import Failure, Job, Kind, Result

# (job, inputs, out, progress): calls the rule's function
Runner = Callable[[Job, Mapping[str, Path], Path, Callable[..., None]], None]
# (action, done, total, further fields)
Progress = Callable[[str, int, int, Mapping[str, float | str]], None]


class LocalExecutor:
    """Runs jobs against a store on this machine. Runner, fingerprint and progress are handed in."""

    def __init__(
        self,
        store: Store,
        runner: Runner,
        *,
        jobs: int = 2,
        progress: Progress = lambda *_: None,
        host: Callable[[str], Mapping[str, Any]] = lambda _: {},
        source_digest: Callable[[Path], str] | None = None,
    ) -> None:
        self.store, self.runner = store, runner
        self.progress, self.host, self.source_digest = progress, host, source_digest
        # plain threads: a pool from the library imports logging, which takes longer than a small action does
        self._free = threading.Semaphore(max(1, jobs))
        self._jobs: dict[str, tuple[threading.Thread, threading.Event]] = {}
        self._done: dict[str, Result | Failure | Exception] = {}
        self._news = threading.Condition()
        self._numbers = count()

    def submit(self, job: Job) -> str:
        handle, stop = f"{next(self._numbers)}", threading.Event()
        thread = threading.Thread(target=self._work, args=(handle, job, stop), name=f"action {job.id}")
        self._jobs[handle] = (thread, stop)
        thread.start()
        return handle

    def _work(self, handle: str, job: Job, stop: threading.Event) -> None:
        ended: Result | Failure | Exception
        with self._free:
            try:
                ended = Failure(Kind.CANCELLED, "interrupted", job.id) if stop.is_set() else self._ended(job, stop)
            except Exception as error:  # who wants to see a traceback sees it where it is polled
                ended = error
        with self._news:
            self._done[handle] = ended
            self._news.notify_all()

    def poll(self, handles: Collection[str], timeout: float) -> dict[str, Result | Failure]:
        found: dict[str, Result | Failure] = {}
        with self._news:
            self._news.wait_for(lambda: any(handle in self._done for handle in handles), timeout)
            for handle in handles:  # again, to who was interrupted as it was told
                ended = self._done.get(handle)
                if isinstance(ended, Exception):
                    raise ended
                if ended is not None:
                    found[handle] = ended
        return found

    def cancel(self, handle: str) -> None:
        self._jobs[handle][1].set()

    def reattach(self, key: str) -> str | None:
        return None  # a thread dies with its process

    def close(self) -> None:
        """Wait for what still runs, and end the threads."""
        for _, stop in self._jobs.values():
            stop.set()
        for thread, _ in self._jobs.values():
            with contextlib.suppress(RuntimeError):  # an interrupt came before it had begun: it will see that at once
                thread.join()

    def _ended(self, job: Job, stop: threading.Event) -> Result | Failure:
        try:
            return self._perform(job, stop)
        except (Interrupted, BrokenPipeError):  # who read our progress went away: the build ends at its next event
            return Failure(Kind.CANCELLED, "interrupted", job.id)
        except Exception as error:
            if os.environ.get("AMYBUILD_TRACEBACK") and not isinstance(error, AmyError):
                raise
            return failure(error, job.id)

    def _perform(self, job: Job, stop: threading.Event) -> Result | Failure:
        began = time.monotonic()

        def progress(done: int, total: int, **fields: float | str) -> None:
            if stop.is_set():
                raise Interrupted("interrupted")
            self.progress(job.id, done, total, fields)

        room = self.store.scratch()
        try:
            with disk_errors(room):
                inputs = self._inputs(job, room)
                out = room / "out"
                out.mkdir()
            with disk_errors(out):
                self.runner(job, inputs, out, progress)
            if job.source and self.source_digest and self.source_digest(Path(job.source.path)) != job.source.digest:
                what = "it changed while it was being read, so nothing was kept"
                return Failure(Kind.ERROR, what, job.source.path, "build again")
            seconds = time.monotonic() - began
            return Result(self.store.put_tree(out), seconds, self.host(job.rule))
        finally:
            remove_tree(room)

    def _inputs(self, job: Job, room: Path) -> dict[str, Path]:
        """The job's inputs as folders: views into the store, and its nodes as one file."""
        inputs = {role: self.store.view(tree, room / "in" / role) for role, tree in job.inputs.items()}
        if job.nodes:
            folder = room / "in" / "nodes"
            folder.mkdir(parents=True)
            with open(folder / "nodes.jsonl", "wb") as file:
                for digest in job.nodes:
                    data = self.store.get_bytes(digest)
                    if data is None:
                        raise CacheDamage(f"the node {digest[:12]} is not whole in the store", remedy="build again")
                    file.write(data + b"\n")
            inputs["nodes"] = folder
        if job.source:
            inputs["source"] = Path(job.source.path)
        return inputs


def failure(error: Exception, action: str) -> Failure:
    """What a user sees of an exception."""
    if isinstance(error, AmyError):
        kind = Kind.LOST if isinstance(error, CacheDamage) else Kind.ERROR
        return Failure(kind, error.what, error.where, error.remedy)
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch's, without torch
        remedy = "a smaller batch, or a machine with more memory (resources in the recipe can ask for it)"
        return Failure(Kind.MEMORY, "out of memory", action, remedy)
    if type(error).__name__ == "SafetensorError":  # safetensors' own, without it
        remedy = "complete the model's folder (a download that broke off? git lfs pull), then build again"
        return Failure(Kind.ERROR, "a file of weights is not whole", action, remedy)
    if isinstance(error, OSError) and error.strerror:
        return Failure(Kind.ERROR, error.strerror, str(error.filename or action), "mend that and build again")
    # its message is not shown: it may quote what the action was reading
    import traceback

    frame = traceback.extract_tb(error.__traceback__)[-1]
    what = f"unexpected {type(error).__name__} in {Path(frame.filename).name}, line {frame.lineno}"
    return Failure(Kind.ERROR, what, action, "run with AMYBUILD_TRACEBACK=1 to see all of it, and report it")
