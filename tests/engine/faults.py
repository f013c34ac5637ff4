"""A disk that fails at the Nth call that changes it (or from there on), for every N, under builds of a small project.

python -m tests.engine.faults --first 1 --step 1
"""

from __future__ import annotations

import argparse
import builtins
import contextlib
import errno
import io
import os
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.engine import fakes
from tests.engine.machine import no_fsync
from tests.engine.states import State, Truth, leftovers, product_of
from tests.harness import Space

CALLS = ("fsync", "replace", "rename", "mkdir", "link", "symlink", "write", "chmod", "ftruncate")


@dataclass
class Disk:
    """Counts the calls that change what lies below `root`; the `at`-th one fails, with `stays` all after it too."""

    root: str
    at: int
    number: int
    stays: bool = False
    calls: int = 0

    hit: str = ""  # the first call that failed

    def tick(self, call: str) -> None:
        self.calls += 1
        if self.calls == self.at or (self.stays and self.calls > self.at):
            self.hit = self.hit or call
            raise OSError(self.number, os.strerror(self.number))


@contextlib.contextmanager
def failing(disk: Disk) -> Iterator[Disk]:
    """The one seam: what the standard library calls to change files goes past `disk`."""
    real_open, real_os_open = builtins.open, os.open
    real = {name: getattr(os, name) for name in CALLS}

    class Raw(io.FileIO):
        def write(self, data: Any) -> int:
            disk.tick("write")
            return super().write(data) or 0

    def below(file: object) -> bool:
        return isinstance(file, str | os.PathLike) and os.path.abspath(os.fspath(file)).startswith(disk.root)

    def opened(file: Any, mode: str = "r", buffering: int = -1, encoding: Any = None, *rest: Any, **named: Any) -> Any:
        if not set("wax+") & set(mode) or not below(file):
            return real_open(file, mode, buffering, encoding, *rest, **named)
        disk.tick("open")
        raw = Raw(file, mode.replace("b", "").replace("t", ""))
        stream: Any = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        return stream if "b" in mode else io.TextIOWrapper(stream, encoding or "utf-8")

    def os_opened(path: Any, flags: int, *rest: Any, **named: Any) -> int:
        if flags & os.O_CREAT and below(path):
            disk.tick("open")
        return real_os_open(path, flags, *rest, **named)

    def wrapped(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def ticking(*args: Any, **named: Any) -> Any:
            disk.tick(name)
            return call(*args, **named)

        return ticking

    builtins.open = io.open = opened  # type: ignore[assignment]
    os.open = os_opened  # type: ignore[assignment]
    for name in CALLS:
        setattr(os, name, wrapped(name, real[name]))
    try:
        yield disk
    finally:
        builtins.open = io.open = real_open
        os.open = real_os_open
        for name in CALLS:
            setattr(os, name, real[name])


def one(space: Space, truth: Truth, state: State, disk: Disk) -> list[str]:
    """A build on a failing disk, then one on a good disk; what went wrong."""
    told = f"{errno.errorcode[disk.number]}{' from' if disk.stays else ' at'} call {disk.at} ({state})"
    wrong: list[str] = []
    with fakes.cheap():
        try:
            with no_fsync(), failing(disk):
                first = space.run("--json", "-j", "1")
        except Exception as error:
            frames = " < ".join(
                f"{f.name}:{f.lineno}" for f in reversed(traceback.extract_tb(error.__traceback__)[-9:])
            )
            return [f"{told}: {type(error).__name__}: {error}: {frames}"]
        failed = {event["action"]: event for event in first.events if event["event"] == "failed"}
        if first.code not in (0, 1):
            wrong.append(f"{told}: exit {first.code} {first.err}")
        if first.code == 1 and not failed and len(first.err.strip().splitlines()) < 2:
            wrong.append(f"{told}: no message with a remedy: {first.err!r}")
        wrong += [f"{told}: no remedy: {event}" for event in failed.values() if not event["remedy"]]
        done = {event["action"] for event in first.events if event["event"] == "done"}
        with no_fsync():
            second = space.run("--json")
            if second.code != 0:
                return [*wrong, f"{told}: the build after it: exit {second.code} {second.err} {second.out}"]
            if done & second.ran:
                wrong.append(f"{told}: made again: {done & second.ran}")
            # a record that is in its place when syncing its folder fails is whole: it may be there, or be made again
            # and one of two actions with one key may fail where the other's result is there
            kept = {one for one in failed if one not in second.ran and not _twin_is_in(one, done)}
            if kept and disk.hit != "fsync":
                wrong.append(f"{told}: failed, but was kept: {kept}")
            if product_of(space) != truth.product(state):
                wrong.append(f"{told}: another product")
            if second.ran and leftovers(space):
                wrong.append(f"{told}: left behind {leftovers(space)}")
            if space.build().ran:
                wrong.append(f"{told}: the second build runs something")
    return wrong


def _twin_is_in(action: str, done: set[str]) -> bool:
    """Whether another target's texts or activations, which are the same action in this project, were made."""
    part = action.rpartition("/")[2]
    return part in ("texts", "activations") and any(one.endswith(f"/{part}") for one in done - {action})


def everywhere(
    root: Path, number: int, stays: bool, first: int, step: int, fresh: bool = False, most: int = 10_000
) -> tuple[int, list[str]]:
    """Fail at call `first`, `first + step` … until a build meets no failure; (how many builds failed, what is wrong).

    `fresh`: each time a project that was never built; else one in which an edit leaves a few actions to make.
    """
    truth, wrong, at, tried = Truth(root), list[str](), first, 0
    space = fakes.project(root / "project")
    with fakes.cheap(), no_fsync():
        space.build()
    while tried < most:
        state = State(density=at % 3, dialogue=at % 2, tag=at // 7 % 3)
        if fresh:
            space = fakes.project(root / f"fresh{at}" / "project")
        elif (space.root / "cache").is_dir():
            # what an earlier round made must not be found again
            shutil.rmtree(space.root / "cache")
            State(density=(at + 1) % 3, dialogue=(at + 1) % 2).write(space)
            with fakes.cheap(), no_fsync():
                space.build()
        state.write(space)
        disk = Disk(str(root), at, number, stays)
        wrong += one(space, truth, state, disk)
        if disk.calls < at:
            break
        tried += 1
        at += step
    return tried, wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--step", type=int, default=1)
    parser.add_argument("--fresh", action="store_true")
    args = parser.parse_args()
    code = 0
    for number in (errno.ENOSPC, errno.EIO):
        for stays in (False, True):
            with tempfile.TemporaryDirectory() as folder:
                count, wrong = everywhere(Path(folder), number, stays, args.first, args.step, args.fresh)
            print(f"{errno.errorcode[number]} {'from' if stays else 'at'}: {count} calls, {len(wrong)} wrong")
            for line in wrong[:12]:
                print(f"  {line[:700]}")
            code |= bool(wrong)
    return code


if __name__ == "__main__":
    sys.exit(main())
