"""`Shelf`: nodes that stay where they were read, each taken out when it is asked for."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from blake3 import blake3

from amybuild.errors import InputError
from amybuild.memory.bare import Bare, bare_of_json
from amybuild.memory.entry import Entry, unpacked
from amybuild.memory.node import Node

Kept = bytes  # the digest (32 bytes) and the packed entry of a node: what is known of it without its text
_HELD = 256 << 20  # bytes of the nodes that were just read: they are not read from their files again
_MADE = 8_192  # nodes that are kept once they were asked for


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
        self._kept: dict[str, Kept] = {}
        self._places: dict[str, Any] = {}
        self._held: dict[str, tuple[bytes, int]] = {}  # canonical forms, and the lines that contents begin at
        self._room = _HELD
        self._made: dict[str, Node] = {}

    def put(self, keys: Sequence[str], kept: Sequence[Kept], places: Sequence[Any]) -> None:
        """Note nodes and where they are. A second one under its key is an `InputError`."""
        new = dict(zip(keys, places, strict=True))
        if len(new) < len(keys) or not self._places.keys().isdisjoint(new):
            self._refuse(keys, places)
        self._places |= new
        self._kept.update(zip(keys, kept, strict=True))

    def _refuse(self, keys: Sequence[str], places: Sequence[Any]) -> None:
        first = dict(self._places)
        for key, place in zip(keys, places, strict=True):
            if key in first:
                remedy = f"{self._reader.source(first[key])} has that key; rename"
                raise InputError(f"a second node '{key}'", where=self._reader.source(place), remedy=remedy)
            first[key] = place

    def kept(self, bare: Bare, line: int = 0) -> Kept:
        """What to `put` for a node that was just read."""
        form = bare.canonical()
        self._room -= len(form)
        if self._room > 0:
            self._held[bare.key] = form, line
        return blake3(form).digest() + bare.entry()

    def sort(self) -> None:
        self._kept = {key: self._kept[key] for key in sorted(self._kept)}

    def __getitem__(self, key: str) -> Node:
        node = self._made.get(key)
        if node is None:
            bare, line = self._take(key)
            node = bare.node(self.source(key), line)
            if len(self._made) < _MADE and key in self._held:
                self._made[key] = node
        return node

    def text(self, key: str) -> str:
        """The content of a node."""
        return self._take(key)[0].content

    def canonical(self, key: str) -> bytes:
        """`Node.canonical` of a node."""
        if key in self._held:
            return self._held[key][0]
        data = self._fetch(key)
        form = data.rstrip()
        if form[:1] == b"{" and blake3(form).digest() == self._kept[key][:32]:  # it lies in this form
            return form
        return self._checked(key, data)[0].canonical()

    def _take(self, key: str) -> tuple[Bare, int]:
        if key in self._held:
            form, line = self._held[key]
            return bare_of_json(json.loads(form)), line
        return self._checked(key, self._fetch(key))

    def _fetch(self, key: str) -> bytes:
        return self._reader.fetch(self._places[key])

    def _checked(self, key: str, data: bytes) -> tuple[Bare, int]:
        found = self._reader.parse(key, self._places[key], data)
        if blake3(found[0].canonical()).digest() != self._kept[key][:32]:
            what, remedy = "the node changed while the graph was in use", "build again when nobody writes there"
            raise InputError(what, where=self.source(key), remedy=remedy)
        return found

    def __contains__(self, key: object) -> bool:
        return key in self._kept

    def __iter__(self) -> Iterator[str]:
        return iter(self._kept)

    def __len__(self) -> int:
        return len(self._kept)

    def source(self, key: str) -> str:
        """Where a node is, in words."""
        return self._reader.source(self._places[key])

    def digests(self) -> dict[str, str]:
        """The digest of every node."""
        return {key: kept[:32].hex() for key, kept in self._kept.items()}

    def index(self) -> dict[str, Entry]:
        """The entry of every node."""
        return {key: unpacked(key, kept[:32], kept[32:]) for key, kept in self._kept.items()}
