"""The links of a graph as an undirected net: who is a neighbour of whom, how strongly, and what spreads along them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from amybuild.memory.entry import Entry
from amybuild.memory.node import split_key

Net = Mapping[str, Mapping[str, float]]  # key -> its neighbours, each with the strength of the strongest link


def net_of(index: Mapping[str, Entry]) -> Net:
    """The net of all links between nodes that are there. A link to a section is one to its node; of several links
    between two nodes, in whatever direction, the strongest counts."""
    found: defaultdict[str, dict[str, float]] = defaultdict(dict)
    for key, entry in index.items():
        if not entry.links:
            continue
        near = found[key]
        for target, strength, _ in entry.links:
            other = target if target in index else _owner(target)
            if other in index and other != key and strength > near.get(other, 0.0):
                near[other] = found[other][key] = strength
    return dict(found)


def _owner(target: str) -> str:
    """The node that a link's target names, less its section (a target was checked when it was read)."""
    return split_key(target)[0]


def dangling(index: Mapping[str, Entry], nodes: Mapping[str, object]) -> list[tuple[str, str]]:
    """``(key, target)`` of every link in `index` to what is none of the `nodes`, in the order of the index."""
    targets = {target for entry in index.values() for target, _, _ in entry.links}
    lost = {target for target in targets - nodes.keys() if _owner(target) not in nodes}
    if not lost:
        return []
    return [(key, target) for key, entry in index.items() for target, _, _ in entry.links if target in lost]


def spread(net: Net, seeds: Mapping[str, float], max_hops: int, edge_decay: float, least: float) -> dict[str, float]:
    """Activation spreads from `seeds` (key -> score) along links: each hop multiplies by the link's strength and by
    `edge_decay`; a node has the activation of the best path of at most `max_hops`, and below `least` nothing goes on.

    Seeds keep at least their score, so every seed is in the result. The order is by activation, then key.
    """
    best = dict(seeds)
    front, known = best, best.get
    for _ in range(max_hops):
        reached: dict[str, float] = {}
        for key, score in front.items():
            for other, strength in net[key].items() if key in net else ():
                activation = score * strength * edge_decay
                if activation >= least and activation > known(other, 0.0) and activation > reached.get(other, 0.0):
                    reached[other] = activation
        if not reached:
            break
        best |= reached
        front = reached
    return dict(sorted(best.items(), key=lambda one: (-one[1], one[0])))
