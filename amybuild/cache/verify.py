"""Which objects were found whole, by the stat they had then: an object is hashed once per change of its stat."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

from amybuild.cache.disk import write_atomic
from amybuild.digest import digest_file
from amybuild.kept import TICK, Stamp, stat_of

# bytes of an object, objects, bytes of what is known: to hash so little takes less time than to read so much
_SMALL, _FEW, _MUCH = 1 << 16, 16, 1 << 18
_DIGEST = 64  # digits of a digest: a line begins with them


class Verified:
    """A file of lines ``digest size mtime ctime inode``; all processes append, the last line of a digest counts.

    A torn or damaged line matches no file or has not five fields, and costs one hash. Losing it all costs one hash per
    object. Nothing is written until `save`, so a query writes nothing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lines: dict[bytes, bytes] | None = None  # by digest, as they were read: few of many are asked for
        self._known: dict[str, Stamp] = {}  # what this process found out itself
        self._new: dict[str, Stamp] = {}  # … and did not save yet
        self._few = _FEW

    def _load(self) -> dict[bytes, bytes]:
        try:
            lines = self.path.read_bytes().split(b"\n")[:-1]  # the last one is not finished
        except OSError:
            return {}
        return {line[:_DIGEST]: line for line in lines}

    def stamp(self, digest: str) -> Stamp | None:
        """The stat with which an object is known to be whole."""
        known = self._known.get(digest)
        if known is not None:
            return known
        if self._lines is None:
            self._lines = self._load()
        return _stamp(self._lines.get(digest.encode(), b""))

    def whole(self, digest: str, path: str, now: Stamp) -> bool:
        """Whether the file at `path`, whose stat is `now`, has the content `digest`. Raises OSError."""
        if self._rather_hash(digest, now[0]) and digest_file(path) == digest:
            return True
        if self.stamp(digest) == now:
            return True
        if digest_file(path) != digest:
            return False
        # one more change within a step of the clock could leave the same stat: such an object is hashed again
        if time.time_ns() - max(now[1], now[2]) >= TICK and stat_of(path) == now:
            self.trust(digest, now)
        return True

    def _rather_hash(self, digest: str, size: int) -> bool:
        if self._lines is not None or digest in self._known or size > _SMALL or not self._few:
            return False
        self._few -= 1
        with contextlib.suppress(OSError):
            return stat_of(self.path)[0] > _MUCH
        return False

    def trust(self, digest: str, now: Stamp) -> None:
        """Remember that the object was whole when its stat was `now`."""
        self._known[digest] = self._new[digest] = now

    def save(self) -> None:
        """Append what was found out. Failing to costs time only."""
        new, self._new = self._new, {}
        if not new:
            return
        # the empty line first: after a torn one of a killed process ours would be part of it
        data = b"\n" + b"".join(b"%s %d %d %d %d\n" % (digest.encode(), *stat) for digest, stat in new.items())
        with contextlib.suppress(OSError), open(self.path, "ab", buffering=0) as file:
            file.write(data)

    def compact(self, present: set[str]) -> None:
        """Keep one line for each object in `present` (a collection calls this)."""
        found = self._load()
        kept = (line for digest in sorted(present) if _stamp(line := found.get(digest.encode(), b"")))
        write_atomic(self.path, b"".join(line + b"\n" for line in kept), self.path.parent / "tmp")
        self._lines = None


def _stamp(line: bytes) -> Stamp | None:
    """What a line says; None when it is torn or damaged."""
    try:
        _, size, mtime, ctime, inode = line.split()
        return int(size), int(mtime), int(ctime), int(inode)
    except ValueError:
        return None
