"""`Shelf`: nodes that stay where they were read, each taken out when it is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from blake3 import blake3

from amybuild.errors import InputError
from amybuild.memory.bare import Bare
from amybuild.memory.entry import Entry, unpacked
from amybuild.memory.node import Node

Kept = tuple[bytes, bytes]  # the digest and the packed entry of a node: what is known of it without its text
_HELD = 16 << 20  # characters: a graph of an ordinary size is not read from its files twice


class Reader(Protocol):
    """How nodes are taken from their places, which are values of the reader's own."""

    def fetch(self, place: Any) -> bytes:
        """The bytes of a node."""

    def parse(self, key: str, place: Any, data: bytes) -> tuple[Bare, int]:
        """The node of these bytes, and the line that its content begins at (0: it has none)."""

    def source(self, place: Any) -> str:
        """Where that is, in words."""


class Shelf(Mapping[str, Node]):
    """Nodes by key, in the order of their keys. In memory is what `Kept` holds; a node itself is loaded from its place,
    and is the one that was read or an `InputError`."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._rows: dict[str, tuple[Kept, Any]] = {}
        self._held: dict[str, tuple[Bare, int]] = {}
        self._nodes: dict[str, Node] = {}  # made of those that are held
        self._room = _HELD

    def put(self, keys: Sequence[str], kept: Sequence[Kept], places: Sequence[Any]) -> None:
        """Note nodes and where they are. A second one under its key is an `InputError`."""
        rows = dict(zip(keys, zip(kept, places, strict=True), strict=True))
        if len(rows) < len(keys) or not self._rows.keys().isdisjoint(rows):
            self._refuse(keys, places)
        self._rows |= rows

    def _refuse(self, keys: Sequence[str], places: Sequence[Any]) -> None:
        first = {key: place for key, (_, place) in self._rows.items()}
        for key, place in zip(keys, places, strict=True):
            if key in first:
                remedy = f"{self._reader.source(first[key])} has that key; rename"
                raise InputError(f"a second node '{key}'", where=self._reader.source(place), remedy=remedy)
            first[key] = place

    def kept(self, bare: Bare, line: int = 0) -> Kept:
        """What to `put` for a node that was just read."""
        self._room -= len(bare.content) + len(bare.examples or "")
        if self._room > 0:
            self._held[bare.key] = bare, line
        return blake3(bare.canonical()).digest(), bare.entry()

    def sort(self) -> None:
        self._rows = {key: self._rows[key] for key in sorted(self._rows)}

    def __getitem__(self, key: str) -> Node:
        node = self._nodes.get(key)
        if node is None:
            bare, line = self._take(key)
            node = bare.node(self.source(key), line)
            if key in self._held:
                self._nodes[key] = node
        return node

    def text(self, key: str) -> str:
        """The content of a node."""
        return self._take(key)[0].content

    def canonical(self, key: str) -> bytes:
        """`Node.canonical` of a node."""
        if key not in self._held:
            (digest, _), place = self._rows[key]
            data = self._reader.fetch(place).rstrip()
            if data[:1] == b"{" and blake3(data).digest() == digest:  # it is kept in this form
                return data
        return self._take(key)[0].canonical()

    def _take(self, key: str) -> tuple[Bare, int]:
        found = self._held.get(key)
        if found is None:
            (digest, _), place = self._rows[key]
            found = self._reader.parse(key, place, self._reader.fetch(place))
            if blake3(found[0].canonical()).digest() != digest:
                what, remedy = "the node changed while the graph was in use", "build again when nobody writes there"
                raise InputError(what, where=self._reader.source(place), remedy=remedy)
        return found

    def __contains__(self, key: object) -> bool:
        return key in self._rows

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def source(self, key: str) -> str:
        """Where a node is, in words."""
        return self._reader.source(self._rows[key][1])

    def digests(self) -> dict[str, str]:
        """The digest of every node."""
        return {key: digest.hex() for key, ((digest, _), _) in self._rows.items()}

    def index(self) -> dict[str, Entry]:
        """The entry of every node."""
        return {key: unpacked(key, digest, entry) for key, ((digest, entry), _) in self._rows.items()}
