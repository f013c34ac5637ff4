"""The DAG as text, dot, mermaid or JSON: targets and what they need, or action by action."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

from amybuild.plan.plan import Action


def edges(actions: Mapping[str, Action], by_action: bool) -> dict[str, list[str]]:
    """name -> what it needs, in topological order; memory nodes are written ``memory:KEY``."""
    found: dict[str, list[str]] = {}
    for id, action in actions.items():
        name = id if by_action else action.target
        needs = found.setdefault(name, [])
        for need in action.needs:
            other = need if by_action else actions[need].target
            if other != name and other not in needs:
                needs.append(other)
        nodes = [f"memory:{node.key}" for node in action.nodes]
        if len(nodes) > 4:
            nodes = [f"memory:({len(nodes)} nodes)"]
        needs.extend(node for node in nodes if node not in needs)
    return found


def render(actions: Mapping[str, Action], form: str, by_action: bool, product: Iterable[str] = ()) -> str:
    """The graph in one of the forms of ``amybuild graph --format``. `product`: the actions the product is made of."""
    graph = edges(actions, by_action)
    if "persona" in graph:
        parts = [actions[id].target for id in product if id in actions]
        graph["persona"] += [part for part in parts if part not in (*graph["persona"], "persona")]
    if form == "json":
        pairs = [[b, a] for a, needs in graph.items() for b in needs]
        return json.dumps({"schema": 1, "nodes": list(graph), "edges": pairs}, indent=1)
    if form == "dot":
        names = [f"  {_dot(name)};" for name in graph]
        rows = [*names, *(f"  {_dot(b)} -> {_dot(a)};" for a, needs in graph.items() for b in needs)]
        return "\n".join(["digraph persona {", "  rankdir=LR;", "  node [shape=box];", *rows, "}"])
    if form == "mermaid":
        all_names = dict.fromkeys([*graph, *(b for needs in graph.values() for b in needs)])
        ids = {name: f"n{i}" for i, name in enumerate(all_names)}
        rows = ['  {}["{}"]'.format(ids[name], name.replace('"', "#quot;")) for name in all_names]
        rows += [f"  {ids[b]} --> {ids[a]}" for a, needs in graph.items() for b in needs]
        return "\n".join(["graph LR", *rows])
    width = max(map(len, graph), default=0)
    return "\n".join(f"{name:<{width}}  <- {', '.join(needs)}" if needs else name for name, needs in graph.items())


def _dot(name: str) -> str:
    escaped = name.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
