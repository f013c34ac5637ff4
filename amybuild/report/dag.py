"""The graph drawn: memory nodes -> corpora -> targets -> product, or by action; as text, dot, mermaid or JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from amybuild.plan.plan import Action

_FEW = 4  # memory nodes that are drawn one by one; more that go the same way are one box
_CORPORA = ("corpus", "chat", "texts", "labels")  # rules whose examples may come from a file
_READ = ("memory", "file")  # kinds of what is not made here
_KINDS = {
    **{"memory": "memory graph", "file": "files", "corpus": "corpora"},
    **{"target": "targets", "action": "actions", "product": "product"},
}


@dataclass
class Picture:
    """Boxes by name with their kinds, each followed by what it is made of; producers come first."""

    kinds: dict[str, str] = field(default_factory=dict)
    needs: dict[str, list[str]] = field(default_factory=dict)

    def box(self, name: str, kind: str) -> str:
        self.kinds.setdefault(name, kind)
        return name

    def arrow(self, made_of: str, name: str) -> None:
        needs = self.needs.setdefault(name, [])
        if made_of != name and made_of not in needs:
            needs.append(made_of)


def picture(
    actions: Mapping[str, Action],
    by_action: bool,
    product: Iterable[str] = (),
    queries: Mapping[str, str] | None = None,
) -> Picture:
    """What is drawn of `actions`. `product`: those the product is made of; `queries`: what targets ask for."""
    drawn = Picture()
    for id, action in actions.items():
        reads = bool(action.nodes) or action.rule in _CORPORA
        if by_action:
            name = drawn.box(id, "action")
        else:
            corpus = drawn.box(id, "corpus") if reads else None
            target = drawn.box(action.target, "product" if action.target == "persona" else "target")
            name = corpus or target
            drawn.arrow(name, target)
        for box in _sources(action, (queries or {}).get(action.target)):
            drawn.arrow(drawn.box(box, box.partition(":")[0]), name)
        for need in action.needs:
            drawn.arrow(need if by_action else actions[need].target, name)
    if "persona" in drawn.kinds and not by_action:
        for id in product:
            if id in actions:
                drawn.arrow(actions[id].target, "persona")
    return drawn


def _sources(action: Action, query: str | None) -> list[str]:
    """The boxes of what an action reads from outside: memory nodes, or a file."""
    if action.source is not None:
        chat = action.rule == "chat"  # the name of its file may be a person's
        return ["memory:(a chat)" if chat else f"file:{action.source.path.name}"]
    if len(action.nodes) <= _FEW:
        return [f"memory:{node.key}" for node in action.nodes]
    return [f"memory:{query or action.nodes[0].key + ' …'} ({len(action.nodes)} nodes)"]


def mapping(actions: Mapping[str, Action], queries: Mapping[str, str]) -> list[dict[str, object]]:
    """Which memory nodes feed which target, all of them by key, and through which corpora."""
    found: dict[str, tuple[list[str], dict[str, None]]] = {}
    for id, action in actions.items():
        if action.nodes:
            corpora, keys = found.setdefault(action.target, ([], {}))
            corpora.append(id)
            keys.update(dict.fromkeys(node.key for node in action.nodes))
    return [
        {"target": target, "query": queries.get(target), "corpora": corpora, "memory": list(keys)}
        for target, (corpora, keys) in found.items()
    ]


def render(
    actions: Mapping[str, Action],
    form: str,
    by_action: bool,
    product: Iterable[str] = (),
    queries: Mapping[str, str] | None = None,
) -> str:
    """The picture in one of the forms of ``amybuild graph --format``; see `picture`."""
    drawn = picture(actions, by_action, product, queries)
    made = [name for name, kind in drawn.kinds.items() if kind not in _READ]
    if form == "json":
        pairs = [[need, name] for name, needs in drawn.needs.items() for need in needs]
        found = {"schema": 1, "nodes": made, "edges": pairs, "kinds": drawn.kinds}
        return json.dumps({**found, "mapping": mapping(actions, queries or {})}, indent=1)
    if form == "dot":
        return _dot(drawn)
    if form == "mermaid":
        return _mermaid(drawn)
    width = max(map(len, made), default=0)
    rows = [(name, ", ".join(drawn.needs.get(name, ()))) for name in made]
    return "\n".join(f"{name:<{width}}  <- {needs}" if needs else name for name, needs in rows)


def _groups(drawn: Picture) -> list[tuple[str, str, list[str]]]:
    """``(kind, title, names)`` of each kind that is there, from the memory to the product."""
    groups = [(kind, title, [n for n, k in drawn.kinds.items() if k == kind]) for kind, title in _KINDS.items()]
    return [group for group in groups if group[2]]


def _dot(drawn: Picture) -> str:
    def quoted(name: str) -> str:
        escaped = name.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'

    rows = ["digraph persona {", "  rankdir=LR;", "  node [shape=box];"]
    for kind, title, names in _groups(drawn):
        shape = " node [shape=note];" if kind in _READ else ""
        rows.append(f"  subgraph cluster_{kind} {{ label={quoted(title)};{shape}")
        rows += [f"    {quoted(name)};" for name in names]
        rows.append("  }")
    rows += [f"  {quoted(need)} -> {quoted(name)};" for name, needs in drawn.needs.items() for need in needs]
    return "\n".join([*rows, "}"])


def _mermaid(drawn: Picture) -> str:
    def quoted(name: str) -> str:
        return name.replace('"', "#quot;").replace("<", "#lt;")  # a query's sign is else read as HTML

    ids = {name: f"n{i}" for i, name in enumerate(drawn.kinds)}
    rows = ["graph LR"]
    for kind, title, names in _groups(drawn):
        rows.append(f'  subgraph of_{kind} ["{title}"]')
        rows += [f'    {ids[name]}["{quoted(name)}"]' for name in names]
        rows.append("  end")
    return "\n".join([*rows, *(f"  {ids[b]} --> {ids[a]}" for a, needs in drawn.needs.items() for b in needs)])
