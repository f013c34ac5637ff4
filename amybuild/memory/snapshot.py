"""A memory graph as a few files of canonical nodes, cut by key so that an edit rewrites only one of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

from amybuild.digest import digest_bytes
from amybuild.errors import InputError
from amybuild.memory.node import Node

_FEW, _MANY = 1_000, 16_000  # nodes from which on there are 16 files, and 256


def pack(nodes: Iterable[Node]) -> dict[str, bytes]:
    """File name -> its lines (`Node.canonical`), sorted by key. The same nodes are the same bytes in any order."""
    ordered = sorted(nodes, key=lambda node: node.key)
    digits = (len(ordered) >= _FEW) + (len(ordered) >= _MANY)
    files: dict[str, list[bytes]] = {}
    for node in ordered:
        part = digest_bytes(node.key.encode())[:digits]
        files.setdefault(f"nodes-{part}.jsonl" if part else "nodes.jsonl", []).append(node.canonical())
    return {name: b"\n".join([*lines, b""]) for name, lines in files.items()}


def unpack(files: Mapping[str, bytes]) -> list[Node]:
    """The nodes that `pack` was given. Raises `InputError` for other files."""
    try:
        nodes = [Node.from_json(json.loads(line)) for data in files.values() for line in data.splitlines()]
    except (ValueError, RecursionError):
        raise InputError("a snapshot of the memory that cannot be read", remedy="amybuild memory pull") from None
    if len({node.key for node in nodes}) < len(nodes):
        raise InputError("a snapshot of the memory that holds a node twice", remedy="amybuild memory pull")
    return nodes
