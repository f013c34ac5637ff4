"""`MemoryGraph`: the nodes by key, looked up and selected; `read_graph` picks the reader of a source."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from amybuild.digest import digest_value
from amybuild.errors import InputError, did_you_mean
from amybuild.memory.entry import Entry, entry_of
from amybuild.memory.jsonl import shelve_jsonl
from amybuild.memory.links import Net, dangling, net_of
from amybuild.memory.markdown import read_file, read_folder
from amybuild.memory.node import Node, find_key, find_section
from amybuild.memory.reading import Reading
from amybuild.memory.shelf import Shelf
from amybuild.value import value


@value
class MemoryGraph:
    """Nodes by key, in the order of their keys. `notes` are warnings of whoever read them."""

    nodes: Mapping[str, Node]
    source: str = ""
    notes: tuple[str, ...] = ()

    @cached_property
    def digest(self) -> str:
        """Digest of all nodes, 64 hex digits."""
        return digest_value("graph", self.digests)

    @cached_property
    def digests(self) -> Mapping[str, str]:
        """The digest of every node, without a look at its text."""
        shelf = self.nodes
        return shelf.digests() if isinstance(shelf, Shelf) else {key: node.digest for key, node in shelf.items()}

    @cached_property
    def index(self) -> Mapping[str, Entry]:
        """All but the texts of the nodes, in the order of their keys."""
        shelf = self.nodes
        return shelf.index() if isinstance(shelf, Shelf) else {key: entry_of(node) for key, node in shelf.items()}

    @cached_property
    def warnings(self) -> tuple[str, ...]:
        """What is odd but harmless: `notes`, and each link to a node that is not there."""
        return (*self.notes, *(text for _, text in self.lost))

    @cached_property
    def lost(self) -> tuple[tuple[str, str], ...]:
        """The key and a warning for each link to a node that is not there."""
        shelf = self.nodes

        def place(key: str) -> str:
            return (shelf.source(key) if isinstance(shelf, Shelf) else shelf[key].source) or key

        return tuple((key, odd(place(key), target)) for key, target in dangling(self.index, self.index))

    @cached_property
    def net(self) -> Net:
        """Who is linked with whom, and how strongly."""
        return net_of(self.index)

    @cached_property
    def now(self) -> float | None:
        """The time that ages count from: when the newest node was created (seconds since 1970; None: no node says).

        So a query's answer depends on the graph alone, not on the clock: the same memory gives the same build.
        """
        from amybuild.memory.fields import instant

        return max((at for entry in self.index.values() if (at := instant(entry.created)) is not None), default=None)

    def find(self, key: str) -> tuple[str, str | None]:
        """`find_key` in this graph."""
        return find_key(self.nodes, key, self.source or None)

    def resolve(self, key: str) -> tuple[Node, str | None]:
        """The node and section that `key` addresses; both must exist."""
        name, part = self.find(key)
        node = self.nodes[name]
        if part is not None:
            find_section(node, part)
        return node, part

    def get(self, key: str) -> Node:
        """The node that `key` addresses; a section after ``#`` must exist. `InputError` with did-you-mean."""
        return self.resolve(key)[0]

    def select(self, query: str) -> tuple[Node, ...]:
        """The nodes that come out of `query`, in its order (by key, if it does not sort); may be none. See `query`."""
        return tuple(self.nodes[key] for key in self.keys(query))

    def text(self, key: str) -> str:
        """The content of a node."""
        shelf = self.nodes
        return shelf.text(key) if isinstance(shelf, Shelf) else shelf[key].content

    def keys(self, query: str) -> tuple[str, ...]:
        """The keys of the nodes that come out of `query`, in its order."""
        from amybuild.memory.query import parse_query, run_query

        return tuple(run_query(parse_query(query), self))


def odd(place: str, target: str) -> str:
    """A link to a node that is not there, in words."""
    return f"{place}: links to '{target}', which is no node"


class AskedGraph:
    """A graph that remembers which queries it was asked, what they gave, and whether it was asked in `other` ways.

    An analysis may find nodes by key and by query, and read a node to cut a section out of it: then an edit of a node
    can change it through these alone, and `edited` need not analyze again."""

    def __init__(self, graph: MemoryGraph) -> None:
        self._graph = graph
        self.nodes, self.digests, self.find = graph.nodes, graph.digests, graph.find
        self.queries: dict[str, tuple[str, ...]] = {}
        self.other = False

    def keys(self, query: str) -> tuple[str, ...]:
        found = self.queries[query] = self._graph.keys(query)
        return found

    def __getattr__(self, name: str) -> Any:
        self.other = True
        return getattr(self._graph, name)


def build_graph(nodes: Iterable[Node], source: str = "", notes: tuple[str, ...] = ()) -> MemoryGraph:
    """A graph of `nodes` (their keys differ); `notes` are warnings of whoever read them."""
    return MemoryGraph({node.key: node for node in sorted(nodes, key=lambda node: node.key)}, source, notes)


def read_node(source: str, root: Path, name: str, reading: Reading) -> Node:
    """One node of a folder that `read_graph` read, by the name of its file there: a regular one, and no link."""
    return read_file(root / source, source.rstrip("/") or "/", root, name, reading)


def read_graph(source: str, root: Path, reading: Reading | None = None) -> MemoryGraph:
    """The graph at `source` (a folder of Markdown, a ``.jsonl`` or ``.capnp`` file, relative to the project's `root`).

    `reading` knows the nodes of an earlier reading, and learns what is read now.
    """
    reading = reading or Reading()
    path = root / source
    shown = source.rstrip("/") or "/"
    if os.path.isdir(path):  # Path's own raises for a name that is too long
        return MemoryGraph(read_folder(path, shown, root, reading), shown)
    where = f"graph source '{source}'"
    if not os.path.exists(path):
        beside = os.listdir(path.parent) if os.path.isdir(path.parent) else ()
        near = did_you_mean(path.name, [name for name in beside if name != path.name])  # a link that leads nowhere
        raise InputError("no such file or folder", where=where, remedy=near or "check [graph] source")
    if not os.path.isfile(path):  # a pipe would be waited for without end
        raise InputError("not a regular file", where=where, remedy="give a folder of .md nodes or a .jsonl file")
    if path.suffix == ".jsonl":
        return MemoryGraph(shelve_jsonl(path, shown, reading), shown)
    if path.suffix == ".capnp":
        from amybuild.memory.capnp import read_log

        reading.saw(os.fspath(path))
        nodes, odd = read_log(path, shown)
        return build_graph(nodes, shown, odd)
    raise InputError("not a memory graph", where=where, remedy="give a folder of .md nodes or a .jsonl file")
