"""A memory graph as a few files of canonical nodes, cut by key so that an edit rewrites only one of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import BinaryIO

from amybuild.digest import digest_bytes
from amybuild.errors import InputError
from amybuild.memory.node import Node
from amybuild.memory.reading import Reading
from amybuild.memory.shelf import Kept, Shelf

_FEW, _MANY = 1_000, 16_000  # nodes from which on there are 16 files, and 256

Place = tuple[str, int, int]  # a file, where a node's line begins in it, its bytes


def pack(nodes: Iterable[Node]) -> dict[str, bytes]:
    """File name -> its lines (`Node.canonical`), sorted by key. The same nodes are the same bytes in any order."""
    ordered = sorted((node.key, node.canonical()) for node in nodes)  # not the nodes: texts would be there twice
    digits = (len(ordered) >= _FEW) + (len(ordered) >= _MANY)
    files: dict[str, list[bytes]] = {}
    for key, line in ordered:
        part = digest_bytes(key.encode())[:digits]
        files.setdefault(f"nodes-{part}.jsonl" if part else "nodes.jsonl", []).append(line)
    del ordered  # each line goes when its file is joined
    return {name: b"\n".join([*files.pop(name), b""]) for name in sorted(files)}


def shelve_files(files: Mapping[str, str], reading: Reading) -> Shelf:
    """The nodes of the files of `pack` (name -> the path where it lies), left in them.

    A file that `reading` knows is not parsed again. Raises `InputError` for other files.
    """

    def load(key: str, place: Place) -> Node:
        path, start, size = place
        with _opened(path) as file:
            file.seek(start)
            return _node(file.read(size))

    def read(path: str) -> list[tuple[str, int, int, Kept]]:
        rows, start = [], 0
        with _opened(path) as file:
            for line in file:
                node = _node(line)
                reading.parsed += 1
                rows.append((node.key, start, len(line), shelf.kept(node)))
                start += len(line)
        return rows

    shelf = Shelf(load, lambda place: "a snapshot of the memory")
    for path in files.values():
        for key, start, size, kept in reading.values(path, read, path):
            shelf.put(key, kept, (path, start, size))
    shelf.sort()
    return shelf


def _opened(path: str) -> BinaryIO:
    try:
        return open(path, "rb")
    except OSError:
        raise _unreadable() from None


def _node(line: bytes) -> Node:
    try:
        return Node.from_json(json.loads(line))
    except (ValueError, RecursionError):
        raise _unreadable() from None


def _unreadable() -> InputError:
    return InputError("a snapshot of the memory that cannot be read", remedy="amybuild memory pull")
