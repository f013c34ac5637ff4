"""`Shelf`: nodes that stay where they were read, each taken out when it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from amybuild.errors import InputError
from amybuild.memory.entry import Entry, entry_of, packed, unpacked
from amybuild.memory.node import Node

Kept = tuple[bytes, bytes]  # the digest and the packed entry of a node: what is known of it without its text
_HELD = 16 << 20  # characters: a graph of an ordinary size is not read from its files twice


class Shelf(Mapping[str, Node]):
    """Nodes by key, in the order of their keys. In memory is what `Kept` holds; a node itself is loaded from its place,
    and is the one that was read or an `InputError`."""

    def __init__(self, load: Callable[[str, Any], Node], source: Callable[[Any], str]) -> None:
        """`load` takes a node's key and place (as given to `put`), `source` says in words where a place is."""
        self._load = load
        self._source = source
        self._rows: dict[str, tuple[Kept, Any]] = {}
        self._held: dict[str, Node] = {}
        self._room = _HELD

    def put(self, key: str, kept: Kept, place: Any) -> None:
        """Note a node and where it is. A second one under its key is an `InputError`."""
        if key in self._rows:
            first = self._source(self._rows[key][1])
            raise InputError(
                f"a second node '{key}'", where=self._source(place), remedy=f"{first} has that key; rename"
            )
        self._rows[key] = (kept, place)

    def kept(self, node: Node) -> Kept:
        """What to `put` for a node that was just read."""
        self._room -= len(node.content) + len(node.examples or "")
        if self._room > 0:
            self._held[node.key] = node
        return bytes.fromhex(node.digest), packed(entry_of(node))

    def sort(self) -> None:
        self._rows = dict(sorted(self._rows.items()))

    def __getitem__(self, key: str) -> Node:
        (digest, _), place = self._rows[key]
        node = self._held.get(key)
        if node is None:
            node = self._load(key, place)
            if bytes.fromhex(node.digest) != digest:
                remedy = "build again when nobody writes there"
                raise InputError(
                    "the node changed while the graph was in use", where=self._source(place), remedy=remedy
                )
        return node

    def __contains__(self, key: object) -> bool:
        return key in self._rows

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def text(self, key: str) -> str:
        """The content of a node."""
        return self[key].content

    def source(self, key: str) -> str:
        """Where a node is, in words."""
        return self._source(self._rows[key][1])

    def digests(self) -> dict[str, str]:
        """The digest of every node."""
        return {key: digest.hex() for key, ((digest, _), _) in self._rows.items()}

    def index(self) -> dict[str, Entry]:
        """The entry of every node."""
        return {key: unpacked(key, digest, entry) for key, ((digest, entry), _) in self._rows.items()}
