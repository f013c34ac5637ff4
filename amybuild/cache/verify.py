"""Which objects were found whole, by the stat they had then: an object is hashed once per change of its stat."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

from amybuild.cache.disk import write_atomic
from amybuild.digest import digest_file
from amybuild.kept import TICK, Stamp, stat_of


class Verified:
    """A file of lines ``digest size mtime ctime inode``; all processes append, the last line of a digest counts.

    A torn or damaged line matches no file or has not five fields, and costs one hash. Losing it all costs one hash per
    object. Nothing is written until `save`, so a query writes nothing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known: dict[str, Stamp] | None = None
        self._new: dict[str, Stamp] = {}

    def _load(self) -> dict[str, Stamp]:
        found: dict[str, Stamp] = {}
        try:
            lines = self.path.read_bytes().split(b"\n")[:-1]  # the last one is not finished
        except OSError:
            return found
        for line in lines:
            parts = line.split()
            with contextlib.suppress(ValueError):
                digest, size, mtime, ctime, inode = parts
                found[digest.decode()] = (int(size), int(mtime), int(ctime), int(inode))
        return found

    def whole(self, digest: str, path: str, now: Stamp) -> bool:
        """Whether the file at `path`, whose stat is `now`, has the content `digest`. Raises OSError."""
        if self._known is None:
            self._known = self._load()
        if self._known.get(digest) == now:
            return True
        if digest_file(path) != digest:
            return False
        # one more change within a step of the clock could leave the same stat: such an object is hashed again
        if time.time_ns() - max(now[1], now[2]) >= TICK and stat_of(path) == now:
            self.trust(digest, now)
        return True

    def stamp(self, digest: str) -> Stamp | None:
        """The stat with which an object is known to be whole."""
        if self._known is None:
            self._known = self._load()
        return self._known.get(digest)

    def trust(self, digest: str, now: Stamp) -> None:
        """Remember that the object was whole when its stat was `now`."""
        if self._known is None:
            self._known = self._load()
        self._known[digest] = self._new[digest] = now

    def save(self) -> None:
        """Append what was found out. Failing to costs time only."""
        new, self._new = self._new, {}
        if not new:
            return
        # the empty line first: after a torn one of a killed process ours would be part of it
        data = b"\n" + _lines(new)
        with contextlib.suppress(OSError), open(self.path, "ab", buffering=0) as file:
            file.write(data)

    def compact(self, present: set[str]) -> None:
        """Keep one line for each object in `present` (a collection calls this)."""
        kept = {digest: stat for digest, stat in self._load().items() if digest in present}
        write_atomic(self.path, _lines(kept), self.path.parent / "tmp")
        self._known = kept


def _lines(stats: dict[str, Stamp]) -> bytes:
    return b"".join(b"%s %d %d %d %d\n" % (digest.encode(), *stat) for digest, stat in stats.items())
