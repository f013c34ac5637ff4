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
        self._new: dict[str, dict[str, tuple[Stamp | None, Named]]] = {}  # of the paths of rows: what was read now
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
        row: Row | None = self._known.get(path)
        if row is None or row[0] != now or self._changed(row[1]):
            value = self._read(read, *args)
            row = (now, self._note(path, "", now), value)
        self._rows[path] = row
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
        known = dict(zip(before[0], zip(_unpacked(before[1]), before[3], strict=True), strict=True))
        others: dict[str, Named] = {}
        values = []
        for at, (name, now) in enumerate(zip(names, stamps, strict=True)):
            row, named = known.get(name), before[2].get(name, ())
            if row is None or row[0] != now or (named and self._changed(named)):
                values.append(self._read(read, *(column[at] for column in args)))
                named = self._note(place, name, now)
            else:
                values.append(row[1])
            if named:
                others[name] = named
        self._rows[place] = (names, packed, others, values)
        return values

    def _read(self, read: Callable[..., Any], *args: Any) -> Any:
        self._named = {}
        return read(*args)

    def _note(self, place: str, name: str, stamp: Stamp | None) -> Named:
        named = tuple(self._named.items())
        self._new.setdefault(place, {})[name] = stamp, named
        return named

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
            young = {name for name, row in new.items() if not _settled(*row, began)}
            if "" in young:
                del found[place]
            elif young:
                found[place] = _without(young, found[place])
        found = {place: row for place, row in found.items() if row[0] != []}
        return None if found == self._known else found


def _packed(stamps: list[Stamp | None]) -> bytes:
    return marshal.dumps(stamps, 2)  # of this version the same values are the same bytes


def _unpacked(stamps: bytes) -> list[Stamp | None]:
    found: list[Stamp | None] = marshal.loads(stamps) if stamps else []
    return found


def _without(young: set[str], rows: Rows) -> Rows:
    names, stamps, others, values = rows
    left = [row for row in zip(names, _unpacked(stamps), values, strict=True) if row[0] not in young]
    others = {name: named for name, named in others.items() if name not in young}
    return [name for name, _, _ in left], _packed([stamp for _, stamp, _ in left]), others, [row[2] for row in left]


def _settled(stamp: Stamp | None, named: Named, began: int) -> bool:
    return settled(stamp, began) and all(settled(one, began) for _, one in named)
