"""What a reader of a memory graph saw: files and folders with their stamps, and nodes known from an earlier reading."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from amybuild.kept import Stamp, settled, stamp_of
from amybuild.memory.node import Link, Node

# a node as plain values: key, source, stamp, stamps of its other files, fields, digest, canonical bytes
Row = tuple[Any, ...]


class Reading:
    """One reading of a graph. `known` maps a file's path to the row that an earlier reading left in `rows`.

    A stamp is taken before its file is read: one that changes meanwhile is seen as changed the next time.
    """

    def __init__(self, known: Mapping[str, Row] | None = None) -> None:
        self._known = known or {}
        self._rows: dict[str, Row] = {}
        self._node: dict[str, Stamp | None] = {}  # the files of the node that is being read
        self.stamps: dict[str, Stamp | None] = {}
        self.parsed = 0  # nodes that had to be read from their files

    def saw(self, path: str) -> Stamp | None:
        """Note a file or folder that is about to be read."""
        found = self.stamps[path] = self._node[path] = stamp_of(path)
        return found

    def node(self, path: str, key: str, source: str, read: Callable[[], Node]) -> Node:
        """The node in the file `path`: as it was read before if nothing changed since, else what `read` says."""
        self._node = {}
        now = self.saw(path)
        row = self._known.get(path)
        if row is not None and row[:3] == (key, source, now) and all(self.saw(f) == was for f, was in row[3].items()):
            self._rows[path] = row
            return _restored(row)
        node = read()
        self.parsed += 1
        fields = dict(node.__dict__, links=tuple((one.target, one.strength, one.kind) for one in node.links))
        more = {file: stamp for file, stamp in self._node.items() if file != path}
        self._rows[path] = (key, source, now, more, fields, node.digest, node.canonical())
        return node

    def rows(self, began: int) -> dict[str, Row] | None:
        """What the next reading may know: the nodes whose files were settled when this one began (ns). None when that
        is what this one knew already."""
        rows = {
            path: row
            for path, row in self._rows.items()
            if settled(row[2], began) and all(settled(stamp, began) for stamp in row[3].values())
        }
        return None if rows == self._known else rows


def _restored(row: Row) -> Node:
    """A node as it was when it came from its file, where it passed its checks."""
    *_, fields, digest, canonical = row
    node: Node = object.__new__(Node)
    node.__dict__.update(fields, links=tuple(map(_link, fields["links"])), digest=digest, _canonical=canonical)
    return node


def _link(values: tuple[str, float, str]) -> Link:
    link: Link = object.__new__(Link)
    for name, value in zip(("target", "strength", "kind"), values, strict=True):
        object.__setattr__(link, name, value)
    return link
