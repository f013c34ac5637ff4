"""Which memories are in the weights, and what changed in the memory since the last build, with the targets it touches.

A node is *learned* at a version when a task vector that is linked into the last build was made from that version, by a
target whose gates passed. Readouts and steering vectors read nodes as well; what they make is no part of the weights.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from amybuild.cache.actions import ActionCache, Record
from amybuild.cache.history import BuildRecord
from amybuild.errors import InputError
from amybuild.graph.analyze import analyze
from amybuild.memory.address import is_server
from amybuild.memory.graph import MemoryGraph, read_graph
from amybuild.memory.node import cut
from amybuild.personafile.load import load
from amybuild.personafile.schema import Persona
from amybuild.snapshots import Ask, Recalled, recall
from amybuild.versions import open_cache

Read = Mapping[str, str]  # what a target reads: a node's key, or key#section -> digest
Pins = Mapping[str, tuple[str, str]]


@dataclass(frozen=True)
class Learned:
    """A node against the weights. `state`: new | learned | edited | removed (from the memory, and still learned).

    `learned_by`: the linked targets that learned it. `read_by`: those that read it now, whatever they make of it."""

    key: str
    state: str
    learned_by: tuple[str, ...] = ()
    read_by: tuple[str, ...] = ()


@dataclass(frozen=True)
class Changed:
    """A node against the last build. `state`: added | removed | edited, or read | unread: unchanged, and a target
    begins or ceases to read it. `targets`: those that it makes stale."""

    key: str
    state: str
    targets: tuple[str, ...] = ()


@dataclass(frozen=True)
class Look:
    """A project's memory beside its last build. `index`: the digests of all nodes at that build (None: not known).

    `reads`: what each target reads now; `error` says why that cannot be told, then it is what it read at that build."""

    graph: MemoryGraph
    recalled: Recalled | None
    build: BuildRecord | None
    index: Read | None
    before: Mapping[str, Read]
    fed: Mapping[str, Read]
    reads: Mapping[str, Read]
    error: InputError | None


def look(file: Path) -> Look:
    """Read the memory as it is (of a server: what it said last) and what the last build says. Runs nothing."""
    persona = load(file)
    store, history = open_cache(persona.root, persona.cache)
    cache = ActionCache(store)
    recalled = recall(persona, cache, history, Ask.NEVER, time.time()) if is_server(persona.graph) else None
    graph = recalled.graph if recalled else read_graph(persona.graph, persona.root)
    build = history.last()
    records = {id: found for id, (key, _) in build.actions.items() if (found := cache.record(key))} if build else {}
    before = _reads((id, _components(record, "node")) for id, record in records.items())
    reads, error = _now(persona, graph, before)
    return Look(graph, recalled, build, history.nodes(), before, fed(records), reads, error)


def _now(
    persona: Persona, graph: MemoryGraph, before: Mapping[str, Read]
) -> tuple[Mapping[str, Read], InputError | None]:
    try:
        actions = analyze(persona, graph, lambda path: "").actions.values()
    except InputError as error:  # a target's node is gone: just what is to be shown
        return before, error
    return _reads((action.id, [(node.key, node.digest) for node in action.nodes]) for action in actions), None


def _reads(actions: Iterable[tuple[str, Iterable[tuple[str, str]]]]) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for id, nodes in actions:
        found.setdefault(id.rpartition("/")[0], {}).update(nodes)
    return {target: nodes for target, nodes in found.items() if nodes}


def _components(record: Record, kind: str) -> list[tuple[str, str]]:
    return [(name, value) for one, name, value in record.manifest if one == kind]


def fed(records: Mapping[str, Record]) -> dict[str, dict[str, str]]:
    """Target -> the nodes that its vector was made from, for each vector that a build linked.

    The manifests tell: of the link which vectors, of each of those what it was made from, down to the nodes."""
    makers: dict[str, list[Record]] = {}
    for record in records.values():
        makers.setdefault(record.output, []).append(record)
    found: dict[str, dict[str, str]] = {}
    link = records.get("checkpoint/link")
    for role, output in _components(link, "input") if link else ():
        kind, _, name = role.partition(".")
        if kind == "vector":
            found[f"task.{name}"] = _behind(output, makers)
    return found


def _behind(output: str, makers: Mapping[str, list[Record]]) -> dict[str, str]:
    nodes: dict[str, str] = {}
    seen: set[str] = set()
    stack = [output]
    while stack:
        for record in makers.get(stack.pop(), ()):
            if record.key not in seen:
                seen.add(record.key)
                nodes.update(_components(record, "node"))
                stack += [value for _, value in _components(record, "input")]
    return nodes


# status


def status(seen: Look) -> list[Learned]:
    """Every node of the memory, and every learned one that is gone, by key."""
    whose = _Names(seen.graph)
    learned: dict[str, dict[str, bool]] = {}  # node -> target -> whether it learned the present version
    for target, nodes in seen.fed.items():
        for name, digest in nodes.items():
            row = learned.setdefault(whose.node(name), {})
            row[target] = row.get(target, True) and whose.digest(name) == digest
    read: dict[str, set[str]] = {}
    for target, nodes in seen.reads.items():
        for name in nodes:
            read.setdefault(whose.node(name), set()).add(target)
    rows = []
    for key in sorted({*seen.graph.index, *learned}):
        by = learned.get(key, {})
        state = "new" if not by else "learned" if all(by.values()) else "edited"
        state = state if key in seen.graph.index else "removed"
        rows.append(Learned(key, state, tuple(sorted(by)), tuple(sorted(read.get(key, ())))))
    return rows


class _Names:
    """What targets call nodes and sections of nodes, against a graph."""

    def __init__(self, graph: MemoryGraph, *more: Iterable[str]) -> None:
        self.graph = graph
        self.known = {*graph.index, *(key for keys in more for key in keys)}

    def node(self, name: str) -> str:
        """The node of ``key`` or ``key#section`` (a key may hold a # of its own)."""
        whole = name.partition("#")[0]
        return whole if name not in self.known and whole in self.known else name

    def digest(self, name: str) -> str | None:
        """The digest of what a name stands for now, None when it is gone."""
        if name in self.graph.index:
            return self.graph.index[name].digest
        key, mark, part = name.partition("#")
        if not mark or key not in self.graph.index:
            return None
        try:
            return cut(self.graph.nodes[key], part).digest
        except InputError:
            return None


# diff


def diff(seen: Look) -> list[Changed]:
    """What changed in the memory since the last build, and what targets read anew, by key.

    Where no account of all nodes is left of that build, those that no target read then count as new ones.
    """
    index = seen.index if seen.index is not None else _whole(seen.before, seen.graph)
    whose = _Names(seen.graph, index)
    touched: dict[str, set[str]] = {}
    ended: set[str] = set()
    for target in {*seen.before, *seen.reads}:
        old, new = seen.before.get(target, {}), seen.reads.get(target, {})
        for name in {*old, *new}:
            # without an analysis what is read now is not known: of what was read, what changed
            now = new.get(name) if seen.error is None else whose.digest(name)
            if old.get(name) != now:
                touched.setdefault(whose.node(name), set()).add(target)
                if name not in new:
                    ended.add(whose.node(name))
    rows = []
    for key in sorted({*index, *seen.graph.index, *touched}):
        was, entry = index.get(key), seen.graph.index.get(key)
        is_now = entry.digest if entry else None
        if was != is_now or key in touched:
            state = "added" if was is None else "removed" if is_now is None else "edited"
            state = state if was != is_now else "unread" if key in ended else "read"
            rows.append(Changed(key, state, tuple(sorted(touched.get(key, ())))))
    return rows


def _whole(reads: Mapping[str, Read], graph: MemoryGraph) -> dict[str, str]:
    """Of what targets read, the whole nodes, and of nodes of which they read a section the present version."""
    names = _Names(graph)
    found: dict[str, str] = {}
    for nodes in reads.values():
        for name, digest in nodes.items():
            key = names.node(name)
            whole = digest if key == name else names.digest(key)
            if whole is not None:
                found.setdefault(key, whole)
    return found
