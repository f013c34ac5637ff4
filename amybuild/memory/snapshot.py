"""A memory graph as a few files of canonical nodes, cut by key so that an edit rewrites only one of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import BinaryIO

from amybuild.digest import digest_bytes
from amybuild.errors import InputError
from amybuild.memory.bare import Bare, bare_of_json
from amybuild.memory.node import Node
from amybuild.memory.reading import Reading
from amybuild.memory.shelf import Kept, Shelf

_FEW, _MANY = 1_000, 16_000  # nodes from which on there are 16 files, and 256

Place = tuple[str, int, int]  # a file, where a node's line begins in it, its bytes


def pack(nodes: Mapping[str, Node]) -> Iterator[tuple[str, bytes]]:
    """``(file name, its lines)``, one file after the other: lines (`Node.canonical`) are sorted by key. The same nodes
    are the same bytes in any order."""
    canonical = nodes.canonical if isinstance(nodes, Shelf) else lambda key: nodes[key].canonical()
    digits = (len(nodes) >= _FEW) + (len(nodes) >= _MANY)
    parts: dict[str, list[str]] = {}
    for key in sorted(nodes):
        parts.setdefault(digest_bytes(key.encode())[:digits], []).append(key)
    for part, keys in sorted(parts.items()):
        name = f"nodes-{part}.jsonl" if part else "nodes.jsonl"
        yield name, b"".join(line for key in keys for line in (canonical(key), b"\n"))


def shelve_files(files: Mapping[str, str], reading: Reading) -> Shelf:
    """The nodes of the files of `pack` (name -> the path where it lies), left in them.

    A file that `reading` knows is not parsed again. Raises `InputError` for other files.
    """

    def read(path: str) -> list[tuple[str, int, int, Kept]]:
        rows, start = [], 0
        with _opened(path) as file:
            for line in file:
                bare = _bare(line)
                reading.parsed += 1
                rows.append((bare.key, start, len(line), shelf.kept(bare)))
                start += len(line)
        return rows

    shelf = Shelf(_Snapshot())
    for path in files.values():
        rows = reading.values(path, read, path)
        places = [(path, start, size) for _, start, size, _ in rows]
        shelf.put([key for key, _, _, _ in rows], [kept for _, _, _, kept in rows], places)
    shelf.sort()
    return shelf


class _Snapshot:
    """Takes nodes from the files of a snapshot."""

    def fetch(self, place: Place) -> bytes:
        path, start, size = place
        with _opened(path) as file:
            file.seek(start)
            return file.read(size)

    def parse(self, key: str, place: Place, data: bytes) -> tuple[Bare, int]:
        return _bare(data), 0

    def source(self, place: Place) -> str:
        return "a snapshot of the memory"


def _opened(path: str) -> BinaryIO:
    try:
        return open(path, "rb")
    except OSError:
        raise _unreadable() from None


def _bare(line: bytes) -> Bare:
    try:
        return bare_of_json(json.loads(line))
    except (ValueError, RecursionError):
        raise _unreadable() from None


def _unreadable() -> InputError:
    return InputError("a snapshot of the memory that cannot be read", remedy="amybuild memory pull")
