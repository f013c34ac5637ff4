"""What a reader of a memory graph saw: files and folders with their stamps, and what was kept of them earlier."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from amybuild.kept import Stamp, settled, stamp_of

# what a reader keeps of a file: its stamp, the stamps of the other files it names, and plain values of the reader's own
Row = tuple[Stamp | None, tuple[tuple[str, Stamp | None], ...], Any]


class Reading:
    """One reading of a graph. `known` maps a file's path to the row that an earlier reading left in `rows`.

    A stamp is taken before its file is read: one that changes meanwhile is seen as changed the next time.
    """

    def __init__(self, known: Mapping[str, Row] | None = None) -> None:
        self._known = known or {}
        self._rows: dict[str, Row] = {}
        self._new: list[str] = []  # of the rows: those that are not the known ones
        self._named: dict[str, Stamp | None] = {}  # the files that the one being read names
        self.stamps: dict[str, Stamp | None] = {}
        self.parsed = 0  # nodes that had to be read from their files

    def saw(self, path: str) -> Stamp | None:
        """Note a file or folder that is about to be read."""
        found = self.stamps[path] = self._named[path] = stamp_of(path)
        return found

    def values(self, path: str, read: Callable[..., Any], *args: Any) -> Any:
        """What a reader needs of the file `path`: as it was kept if nothing changed since, else what `read` says."""
        return self.all_values([path], read, *([one] for one in args))[0]

    def all_values(self, paths: Sequence[str], read: Callable[..., Any], *args: Sequence[Any]) -> list[Any]:
        """`values` of many files; `args` holds what `read` is called with, a list for each parameter."""
        stamps = list(map(stamp_of, paths))
        self.stamps.update(zip(paths, stamps, strict=True))
        rows: list[Any] = list(map(self._known.get, paths))
        for at, (row, now) in enumerate(zip(rows, stamps, strict=True)):
            if row is None or row[0] != now or (row[1] and any(self.saw(file) != was for file, was in row[1])):
                self._named = {}
                value = read(*(column[at] for column in args))
                rows[at] = (now, tuple(self._named.items()), value)
                self._new.append(paths[at])
        self._rows.update(zip(paths, rows, strict=True))
        return [row[2] for row in rows]

    def earlier(self, path: str) -> Any:
        """What was kept of a file that may have changed since; None when nothing was."""
        row = self._known.get(path)
        return None if row is None else row[2]

    def rows(self, began: int) -> dict[str, Row] | None:
        """What the next reading may know: the files that were settled when this one began (ns). None when that is what
        this one knew already."""
        # one that was known was settled when it was kept
        young = {path for path in self._new if not _settled(self._rows[path], began)}
        rows = {path: row for path, row in self._rows.items() if path not in young} if young else self._rows
        return None if len(rows) == len(self._known) and len(young) == len(self._new) else rows


def _settled(row: Row, began: int) -> bool:
    stamp, named, _ = row
    return settled(stamp, began) and all(settled(one, began) for _, one in named)
