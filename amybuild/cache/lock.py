"""A lock that is a file: the system drops it with its process, so it is never stale and needs no unlocking by hand."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from amybuild.cache.disk import remove_tree


class FileLock:
    """An exclusive lock between processes, and between the threads of one. The file itself stays."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._handle: int | None = None

    @property
    def held(self) -> bool:
        return self._handle is not None

    def acquire(self, *, wait: bool = True) -> bool:
        """Take it; without `wait` at once or not at all. Whether it was taken. Raises OSError."""
        handle = self._open()
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BaseException as error:
            os.close(handle)
            if isinstance(error, BlockingIOError):
                return False
            raise
        self._handle = handle
        return True

    def _open(self) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            return os.open(self.path, flags, 0o666)
        except IsADirectoryError:  # damage
            remove_tree(self.path)
            return os.open(self.path, flags, 0o666)

    def release(self) -> None:
        """Let it go; nothing happens when it is not held."""
        handle, self._handle = self._handle, None
        if handle is not None:
            os.close(handle)

    def __enter__(self) -> FileLock:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
