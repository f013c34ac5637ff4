"""Memos of what is slow to find out: digests of outside files, and the code behind each rule."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from amybuild.cache.disk import seal, unseal, write_atomic
from amybuild.digest import canonical, digest_file, digest_value
from amybuild.errors import InputError
from amybuild.kept import TICK, stat_of


def stamp(path: str | os.PathLike[str]) -> list[int]:
    """What cannot stay the same when a file changes: size, mtime, ctime (which no tool can set back), inode."""
    return list(stat_of(path))


class Memo:
    """A small JSON file of answers, each under the stamp that it was found for. Losing it costs time only."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._data = self._read()
        self._changed = False

    def _read(self) -> dict[str, Any]:
        try:
            data = unseal(self.path.read_bytes())
        except OSError:
            data = None
        return data if isinstance(data, dict) else {}

    def get(self, name: str, stamp: Any, find: Callable[[], Any]) -> Any:
        """The answer kept under `name` if it was found for this `stamp` (a JSON value), else what `find` says."""
        stamp = json.loads(canonical(stamp))  # as it will be read back: a tuple is a list then
        entry = self._data.get(name)
        if isinstance(entry, list) and len(entry) == 2 and entry[0] == stamp:
            return entry[1]
        value = find()
        self._data[name] = [stamp, value]
        self._changed = True
        return value

    def save(self) -> None:
        """Keep what was found (a build calls this; a query writes nothing)."""
        if self._changed:
            write_atomic(self.path, seal(self._data), self.path.parent / "tmp")
            self._changed = False

    def digest_path(self, path: Path) -> str:
        """The digest of a file, or of a folder's files and their names."""
        try:
            return self._digest(path)
        except OSError as error:
            raise InputError(f"cannot be read: {error.strerror}", where=str(error.filename or path)) from None

    def _digest(self, path: Path) -> str:
        if path.is_file():
            now = stamp(path)
            if time.time_ns() - max(now[1:3]) < TICK:  # one more edit could leave the same stamp
                return digest_file(path)
            return str(self.get(os.fspath(path), now, lambda: digest_file(path)))
        files: Mapping[str, str] = {
            p.relative_to(path).as_posix(): self._digest(p)
            for p in sorted(path.rglob("*"))
            if p.is_file() and ".git" not in p.relative_to(path).parts
        }
        return digest_value("folder", sorted(files.items()))
