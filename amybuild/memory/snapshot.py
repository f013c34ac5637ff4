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
    ordered = sorted((node.key, node.canonical()) for node in nodes)  # not the nodes: texts would be there twice
    digits = (len(ordered) >= _FEW) + (len(ordered) >= _MANY)
    files: dict[str, bytearray] = {}
    for key, line in ordered:
        part = digest_bytes(key.encode())[:digits]
        file = files.setdefault(f"nodes-{part}.jsonl" if part else "nodes.jsonl", bytearray())
        file += line
        file += b"\n"
    return {name: bytes(file) for name, file in files.items()}


def unpack(files: Mapping[str, bytes]) -> list[Node]:
    """The nodes that `pack` was given. Raises `InputError` for other files."""
    try:
        nodes = [Node.from_json(json.loads(line)) for data in files.values() for line in data.splitlines()]
    except (ValueError, RecursionError):
        raise InputError("a snapshot of the memory that cannot be read", remedy="amybuild memory pull") from None
    if len({node.key for node in nodes}) < len(nodes):
        raise InputError("a snapshot of the memory that holds a node twice", remedy="amybuild memory pull")
    return nodes
