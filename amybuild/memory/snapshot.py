"""A memory graph as a few files of canonical nodes, cut by key so that an edit rewrites only one of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import BinaryIO

from amybuild.digest import digest_bytes
from amybuild.errors import InputError
from amybuild.memory.node import Node
from amybuild.memory.reading import Reading
from amybuild.memory.shelf import Kept, Shelf

_FEW, _MANY = 1_000, 16_000  # nodes from which on there are 16 files, and 256

Place = tuple[str, int, int]  # a file, where a node's line begins in it, its bytes


def pack(nodes: Mapping[str, Node]) -> Iterator[tuple[str, bytes]]:
    """``(file name, its lines)``, one file after the other: lines (`Node.canonical`) are sorted by key. The same nodes
    are the same bytes in any order."""
    digits = (len(nodes) >= _FEW) + (len(nodes) >= _MANY)
    parts: dict[str, list[str]] = {}
    for key in sorted(nodes):
        parts.setdefault(digest_bytes(key.encode())[:digits], []).append(key)
    for part, keys in sorted(parts.items()):
        name = f"nodes-{part}.jsonl" if part else "nodes.jsonl"
        yield name, b"".join(nodes[key].canonical() + b"\n" for key in keys)


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
