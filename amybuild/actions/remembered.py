"""What pure functions gave, remembered between builds: a small file each, below a folder that may be emptied."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

from amybuild.digest import digest_bytes, digest_value


class Remembered:
    """Bytes of one `kind` by what they were made from, below `folder` (None: nothing is kept).

    A file holds a digest and the bytes. What cannot be read is not known; what cannot be written is lost. `prune`
    keeps the files used last, `most` bytes of them.
    """

    def __init__(self, folder: Path | None, kind: str, most: int) -> None:
        self._folder = folder
        self._kind = kind
        self._most = most

    def _path(self, behind: Any) -> Path | None:
        if self._folder is None:
            return None
        name = digest_value(self._kind, behind)
        return self._folder / name[:2] / name

    def get(self, behind: Any) -> bytes | None:
        """The bytes made from `behind` (a JSON value), or None."""
        path = self._path(behind)
        try:
            if path is None:
                return None
            check, _, body = path.read_bytes().partition(b"\n")
            if check.decode() != digest_bytes(body):
                return None
            os.utime(path)  # the files that were used last stay longest
            return body
        except (OSError, ValueError):
            return None

    def put(self, behind: Any, body: bytes) -> None:
        """Keep bytes: written beside, then renamed."""
        path = self._path(behind)
        if path is None:
            return
        beside = path.with_suffix(f".{os.getpid()}.tmp")
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            beside.write_bytes(digest_bytes(body).encode() + b"\n" + body)
            os.replace(beside, path)

    def prune(self) -> None:
        """Drop the files that were not used for longest, until the others fit."""
        if self._folder is None:
            return
        with contextlib.suppress(OSError):
            files = [(entry.stat(), entry.path) for room in os.scandir(self._folder) for entry in os.scandir(room)]
            room = self._most
            for stat, path in sorted(files, key=lambda file: -file[0].st_mtime_ns):
                room -= stat.st_size
                if room < 0:
                    os.unlink(path)
