"""What a reader of a memory graph saw: files and folders with their stamps, and what was kept of them earlier."""

from __future__ import annotations

import marshal
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from amybuild.kept import Stamp, settled, stamp_of

Named = tuple[tuple[str, Stamp | None], ...]  # the other files that a file names, with their stamps
# what a reader keeps of a file: its stamp, what it names, and plain values of the reader's own
Row = tuple[Stamp | None, Named, Any]
# and of many files: their names, their stamps as bytes (which mostly are compared and no more), what some of them
# name, and the values of each
Rows = tuple[list[str], bytes, dict[str, Named], list[Any]]


class Reading:
    """One reading of a graph. `known` maps paths to what an earlier reading left in `rows`.

    A stamp is taken before its file is read: one that changes meanwhile is seen as changed the next time.
    """

    def __init__(self, known: Mapping[str, Any] | None = None) -> None:
        self._known = known or {}
        self._rows: dict[str, Any] = {}  # of a path: Row or Rows
        self._new: dict[str, set[str]] = {}  # of the paths of rows: the names of what was read now
        self._named: dict[str, Stamp | None] = {}  # the files that the one being read names
        self.stamps: dict[str, Stamp | None] = {}
        self.parsed = 0  # nodes that had to be read from their files

    def saw(self, path: str) -> Stamp | None:
        """Note a file or folder that is about to be read."""
        found = self.stamps[path] = self._named[path] = stamp_of(path)
        return found

    def values(self, path: str, read: Callable[..., Any], *args: Any) -> Any:
        """What a reader needs of the file `path`: as it was kept if nothing changed since, else what `read` says."""
        now = self.stamps[path] = stamp_of(path)
        self._rows[path] = row = self._row(path, "", now, self._known.get(path), read, *args)
        return row[2]

    def all_values(
        self, place: str, names: list[str], paths: Sequence[str], read: Callable[..., Any], *args: Sequence[Any]
    ) -> list[Any]:
        """`values` of many files, kept under `place`; `args` holds for each parameter of `read` a list."""
        stamps = list(map(stamp_of, paths))
        self.stamps.update(zip(paths, stamps, strict=True))
        packed = _packed(stamps)
        before: Rows = self._known.get(place, ([], b"", {}, []))
        if before[:2] == (names, packed) and not any(map(self._changed, before[2].values())):
            self._rows[place] = before
            return before[3]
        known = {name: (stamp, before[2].get(name, ()), value) for name, stamp, value in _each(before)}
        rows = [
            self._row(place, name, now, known.get(name), read, *given)
            for name, now, *given in zip(names, stamps, *args, strict=True)
        ]
        others = {name: row[1] for name, row in zip(names, rows, strict=True) if row[1]}
        values = [row[2] for row in rows]
        self._rows[place] = (names, packed, others, values)
        return values

    def _row(
        self, place: str, name: str, now: Stamp | None, row: Row | None, read: Callable[..., Any], *args: Any
    ) -> Row:
        if row is not None and row[0] == now and not self._changed(row[1]):
            return row
        self._named = {}
        value = read(*args)
        self._new.setdefault(place, set()).add(name)
        return now, tuple(self._named.items()), value

    def _changed(self, named: Named) -> bool:
        return any(self.saw(file) != was for file, was in named)

    def earlier(self, path: str) -> Any:
        """What was kept of a file that may have changed since; None when nothing was."""
        row = self._known.get(path)
        return None if row is None else row[2]

    def rows(self, began: int) -> dict[str, Any] | None:
        """What the next reading may know: the files that were settled when this one began (ns). None when that is what
        this one knew already."""
        found = dict(self._rows)
        for place, new in self._new.items():  # one that was known was settled when it was kept
            if "" not in new:
                found[place] = _without_young(found[place], new, began)
            elif not _settled(found[place][0], found[place][1], began):
                del found[place]
        found = {place: row for place, row in found.items() if row[0] != []}
        return None if found == self._known else found


def _packed(stamps: list[Stamp | None]) -> bytes:
    return marshal.dumps(stamps, 2)  # of this version the same values are the same bytes


def _each(rows: Rows) -> zip[tuple[str, Stamp | None, Any]]:
    return zip(rows[0], marshal.loads(rows[1]) if rows[1] else (), rows[3], strict=True)


def _without_young(rows: Rows, new: set[str], began: int) -> Rows:
    old = [one for one in _each(rows) if one[0] not in new or _settled(one[1], rows[2].get(one[0], ()), began)]
    if len(old) == len(rows[0]):
        return rows
    names = [name for name, _, _ in old]
    others = {name: rows[2][name] for name in names if name in rows[2]}
    return names, _packed([stamp for _, stamp, _ in old]), others, [value for _, _, value in old]


def _settled(stamp: Stamp | None, named: Named, began: int) -> bool:
    return settled(stamp, began) and all(settled(one, began) for _, one in named)
