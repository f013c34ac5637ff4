"""What a running build relies on, said where a collection looks: the room of its process, and the lock between the two.

The argument that a live object is never collected:

* Nothing is removed from a cache but under the exclusive lock (`guard`), and whoever removes reads, under that same
  lock, what every living process holds (`living`) and what history keeps. Objects, trees and records held are let be.
* A process that is going to rely on a result checks that it is whole and writes it down in its room under the shared
  lock. So a removal comes either before the check, which then fails (a miss, and the action runs), or after the note.
* New results go in under the shared lock too, noted before the first file is moved: an object that was there already
  and is not written again cannot go between the look and the note.
* A room is opened and given back under the shared lock, and given back after history names the build: at every moment
  at which the exclusive lock can be had, one of the two speaks for its results.
* The lock's file grows by a byte (a hole, which needs no room on a full disk) with every exclusive lock. So who looked
  at the results and then, under the shared lock, finds the file as it was before that look, need not look again.
* A room is a file lock. The system drops it with its process, so a killed build holds nothing and needs no unlocking.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from amybuild.cache.disk import disk_errors, fresh, remove_tree, sweep_parts
from amybuild.kept import REMOVALS


@contextlib.contextmanager
def guard(root: Path, *, exclusive: bool = False) -> Iterator[None]:
    """Hold the cache's lock: shared by those who use and add, exclusive for who removes. Short, never while waiting."""
    with disk_errors(root):
        root.mkdir(parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        try:
            handle = os.open(root / REMOVALS, flags, 0o666)
        except IsADirectoryError:  # damage
            remove_tree(root / REMOVALS)
            handle = os.open(root / REMOVALS, flags, 0o666)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH)
        if exclusive:
            with disk_errors(root):
                os.ftruncate(handle, os.fstat(handle).st_size + 1)
        yield
    finally:
        os.close(handle)


class Room:
    """A folder for one process's unfinished files, and beside it a locked file of what the process relies on."""

    def __init__(self, root: Path) -> None:
        base = root / "tmp"
        with disk_errors(base):
            base.mkdir(parents=True, exist_ok=True)
        self.root = root
        with guard(root):
            sweep(base)
            while True:
                self.path = base / f"{os.getpid()}-{fresh()}"
                flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
                self._handle = os.open(f"{self.path}.lock", flags, 0o644)
                fcntl.flock(self._handle, fcntl.LOCK_EX)
                if os.fstat(self._handle).st_nlink:  # else another one's sweep came between the two calls
                    break
                os.close(self._handle)
            try:
                os.mkdir(self.path)
            except BaseException:
                os.unlink(f"{self.path}.lock")
                os.close(self._handle)
                raise

    def note(self, line: str) -> None:
        """Write down one thing that this process relies on (under `guard`)."""
        data = f"{line}\n".encode()
        while data:
            data = data[os.write(self._handle, data) :]

    def close(self) -> None:
        """Give it back: from here on history alone speaks for what was made."""
        try:
            with guard(self.root):
                remove_tree(self.path)
                Path(f"{self.path}.lock").unlink(missing_ok=True)
        finally:
            os.close(self._handle)  # on a disk that takes nothing any more the next build sweeps the rest


def _claim(lock: Path) -> int | None:
    """The handle of a dead process's lock, now ours; None when its process lives or it is somebody else's."""
    try:
        handle = os.open(lock, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        return None
    return handle


def sweep(base: Path) -> None:
    """Remove the rooms and half-written files of processes that are gone (killed ones, power loss)."""
    for room in [path for path in base.iterdir() if path.is_dir()]:
        if not Path(f"{room}.lock").exists():  # the lock is there before its room and until after it
            remove_tree(room)
    for lock in base.glob("*.lock"):
        handle = _claim(lock)
        if handle is not None:
            remove_tree(lock.with_suffix(""))
            lock.unlink(missing_ok=True)
            os.close(handle)
    sweep_parts(base)


def abandoned(root: Path) -> list[Path]:
    """The rooms that no living process has: what the next build sweeps."""
    left = []
    for room in sorted(path for path in (root / "tmp").glob("*") if path.is_dir()):
        lock = Path(f"{room}.lock")
        handle = _claim(lock)
        if handle is not None:
            os.close(handle)
        if handle is not None or not lock.exists():
            left.append(room)
    return left


def living(root: Path) -> list[str]:
    """Every note of every process that lives; to be asked under the exclusive `guard`."""
    notes: list[str] = []
    for lock in (root / "tmp").glob("*.lock"):
        handle = _claim(lock)
        if handle is not None:
            os.close(handle)
            continue
        with contextlib.suppress(OSError):
            notes += lock.read_text(encoding="ascii").split("\n")
    return notes
