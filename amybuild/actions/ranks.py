"""One training in several processes, each with its part of the base: started, answered step by step, ended together."""

from __future__ import annotations

import json
import os
import queue
import selectors
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import amybuild
from amybuild.actions.context import ActionContext
from amybuild.errors import ActionError, AmyError, InputError, Interrupted
from amybuild.model.checkpoint import Checkpoints
from amybuild.model.load import release, resolve_device

_GRACE = 5.0  # seconds for the others to say what they saw, once one has failed; and for one to end by itself
_AGAIN = "build again: it goes on from its last checkpoint"


def run(ctx: ActionContext, ranks: int) -> None:
    """`train.here` in so many processes on this machine. All run the same rows, so none has to add up gradients: a
    pass costs no less than alone, but each process holds its part of the base only, and the bits are those of one.

    The first writes `ctx.out` and checkpoints. Before each step all wait for what `ctx.progress` says. A process that
    dies takes the others with it, as the end of this one does: each ends when its pipe from here does. Raises what they
    raise, ActionError for one that died.
    """
    if ctx.params.get("tune", "lora") != "lora" or ctx.params.get("top_layers"):
        what = "only factors on all blocks can be trained on a base in parts"
        raise InputError(what, where="shards", remedy='tune = "lora" and top_layers = 0, or shards = 1')
    device = resolve_device(str(ctx.params.get("device", "cpu")))
    release()  # what this process holds of a base would lie beside the parts
    if device == "cuda":
        _free_gpus(ranks)
    with tempfile.TemporaryDirectory() as room:
        team = [_Rank(ctx, rank, ranks, device, Path(room)) for rank in range(ranks)]
        try:
            _lead(ctx, team)
        finally:
            for one in team:
                one.end()


def _free_gpus(ranks: int) -> None:
    """Give back what this process keeps of GPU memory; ActionError where there are too few GPUs."""
    import torch

    there = torch.cuda.device_count()
    if there < ranks:
        what = f"{ranks} shards take as many GPUs, and {there} can be used here"
        raise ActionError(what, where="shards", remedy="at most as many shards as there are GPUs")
    torch.cuda.empty_cache()


class _Rank:
    """One of the processes, as the one that started it sees it. Both say a line of JSON at a time."""

    def __init__(self, ctx: ActionContext, rank: int, ranks: int, device: str, room: Path) -> None:
        self.name = f"process {rank} of {ranks}"
        out = ctx.out if rank == 0 else room / f"out-{rank}"
        out.mkdir(exist_ok=True)
        job = {
            **{"rank": rank, "ranks": ranks, "device": device, "meeting": str(room / "meeting"), "out": str(out)},
            **{"action": ctx.action, "key": ctx.key, "params": dict(ctx.params)},
            "inputs": {role: str(path) for role, path in ctx.inputs.items()},
            "checkpoint": str(ctx.checkpoint) if ctx.checkpoint else None,
        }
        self.process = subprocess.Popen(
            [sys.executable, "-c", f"from {__name__} import {follow.__name__}; {follow.__name__}()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None if os.environ.get("AMYBUILD_TRACEBACK") else subprocess.DEVNULL,
            env=_environment(),
            start_new_session=True,  # Ctrl-C in a terminal is for the build, which tells them
        )
        self.said: dict[str, Any] | None = None
        self.answer(job)

    def answer(self, value: Any) -> None:
        """Say a line; one that has died is heard of as it is listened to."""
        assert self.process.stdin
        with suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(value).encode() + b"\n")
            self.process.stdin.flush()

    def listen(self) -> None:
        """Take one line into `said`; a process that ended without one says how it `died`."""
        assert self.process.stdout
        line = self.process.stdout.readline()
        if line.endswith(b"\n"):
            self.said = json.loads(line)
        else:
            self.said = {"died": self._ended()}

    def _ended(self) -> int | None:
        try:
            return self.process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            return None

    def end(self) -> None:
        """The end of its pipe ends it, at once where it is not at its end anyway; what holds it up does not hold us."""
        assert self.process.stdin
        assert self.process.stdout
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        if self._ended() is None:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()


def _environment() -> dict[str, str]:
    """Ours, with this very package first on the path and nothing of the working folder on it."""
    found = dict(os.environ)
    paths = [str(Path(amybuild.__file__).parent.parent), *found.get("PYTHONPATH", "").split(os.pathsep)]
    found |= {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "PYTHONSAFEPATH": "1"}
    if sys.platform == "linux":
        found.setdefault("GLOO_SOCKET_IFNAME", "lo")  # what this machine calls itself may lead nowhere
        # blocks come and go, and glibc would keep most of what they took: half as much again was held (bench/LOG.md)
        found.setdefault("MALLOC_MMAP_THRESHOLD_", str(1 << 18))
    return found


def _lead(ctx: ActionContext, team: Sequence[_Rank]) -> None:
    """Answer the steps of all at once until all are done."""
    stopped: Interrupted | None = None
    with selectors.DefaultSelector() as selector:
        for one in team:
            assert one.process.stdout
            selector.register(one.process.stdout, selectors.EVENT_READ, one)
        while True:
            _hear(selector)
            if any("step" not in one.said and "ended" not in one.said for one in team if one.said):
                _hear_out(selector, team)
                raise _blame(ctx, [one for one in team if one.said])
            said = [one.said for one in team if one.said]
            if len(said) < len(team):
                continue
            if all("ended" in one for one in said):
                if stopped and any(one["ended"] == "stopped" for one in said):
                    raise stopped
                return
            done, total, told = said[0]["step"]  # all are at the same: they do the same
            try:
                ctx.progress(done, total, **told)
            except Interrupted as error:
                stopped = error
            for one in team:
                one.said = None
                one.answer("stop" if stopped else "go")


def _hear(selector: selectors.BaseSelector, timeout: float | None = None) -> bool:
    """Listen to those that say something; a process that waits for an answer is silent."""
    ready = selector.select(timeout)
    for key, _ in ready:
        key.data.listen()
        if "step" not in key.data.said:  # its last line
            selector.unregister(key.fileobj)
    return bool(ready)


def _hear_out(selector: selectors.BaseSelector, team: Sequence[_Rank]) -> None:
    """Wait a little for what the others have to say: who fails for lack of another may be heard first."""
    while any(one.said is None for one in team) and _hear(selector, _GRACE):
        pass


def _blame(ctx: ActionContext, heard: Sequence[_Rank]) -> Exception:
    """Why the training failed: what is wrong with the work, else who was killed, else who broke before others did."""
    saids = [(one.name, one.said or {}) for one in heard]
    for _, said in saids:
        if "error" in said:
            kind, what, where, remedy = said["error"]
            return {"InputError": InputError}.get(kind, ActionError)(what, where=where, remedy=remedy)
    for _, said in saids:
        if "memory" in said:
            return MemoryError()
    for name, said in saids:
        code = said.get("died")
        if code is not None:
            how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
            remedy = f"{_AGAIN}; if the system killed it, it was short of memory"
            return ActionError(f"{name} of this training was ended {how}", where=ctx.action, remedy=remedy)
    for kind in ("broke", "lost"):
        for name, said in saids:
            if kind in said:
                remedy = "run with AMYBUILD_TRACEBACK=1 to see all of it, and report it"
                return ActionError(f"{name} of this training: {said[kind]}", where=ctx.action, remedy=remedy)
    return ActionError("a process of this training closed its pipe", where=ctx.action, remedy=_AGAIN)


class _Following(Checkpoints):
    """Goes on from where the first process's checkpoints say, and leaves saving to that."""

    def due(self) -> bool:
        return False

    def save(self, step: int, tensors: Mapping[str, Any], told: Mapping[str, Any]) -> None:
        pass


def follow() -> None:
    """What one of the processes runs: its job is the first line of its input."""
    voice = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # libraries that print do it elsewhere
    heard: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_hold, args=(heard,), daemon=True).start()

    def say(**said: Any) -> None:
        voice.write(json.dumps(said) + "\n")
        voice.flush()

    def progress(done: int, total: int, **told: float | str) -> None:
        say(step=[done, total, told])
        if heard.get() == "stop":
            raise Interrupted("interrupted")

    try:
        _work(heard.get(), progress)
        say(ended="done")
    except Interrupted:
        say(ended="stopped")
    except AmyError as error:
        say(error=[type(error).__name__, error.what, error.where, error.remedy])
    except Exception as error:
        if os.environ.get("AMYBUILD_TRACEBACK"):
            traceback.print_exc()
        if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
            say(memory=True)
        else:
            # its message is not shown: it may quote what the training was reading
            frame = traceback.extract_tb(error.__traceback__)[-1]
            what = f"unexpected {type(error).__name__} in {Path(frame.filename).name}, line {frame.lineno}"
            say(**{"lost" if _of_the_others(error) else "broke": what})
    finally:
        voice.close()
        os._exit(0)  # a library that waits for processes that are gone, on its way out, would wait long


def _hold(heard: queue.SimpleQueue[Any]) -> None:
    """Hand on what is said to this process; when nobody is there to say more, end it."""
    for line in sys.stdin:
        heard.put(json.loads(line))
    os._exit(1)


def _of_the_others(error: Exception) -> bool:
    """Whether an exception says that another process is gone."""
    from torch import distributed

    return isinstance(error, distributed.DistError) or "gloo" in str(error)


def _work(job: Mapping[str, Any], progress: Any) -> None:
    import torch

    from amybuild.actions.train import here
    from amybuild.model.shard import join, leave, load_part

    rank, ranks = int(job["rank"]), int(job["ranks"])
    torch.set_num_threads(max(1, torch.get_num_threads() // ranks))  # where the recipe leaves it open
    join(rank, ranks, job["device"], Path(job["meeting"]))
    inputs = {role: Path(path) for role, path in job["inputs"].items()}
    ctx = ActionContext(job["action"], job["key"], job["params"], inputs, Path(job["out"]), progress)
    folder = Path(job["checkpoint"]) if job["checkpoint"] else None
    keep = None if folder is None else Checkpoints(folder) if rank == 0 else _Following(folder)
    here(ctx, keep, load_part)
    leave()
