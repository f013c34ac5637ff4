"""Reader for ``nodes.jsonl``: one memory node per line."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from blake3 import blake3

from amybuild.errors import InputError
from amybuild.memory.node import MAX_BYTES, Node
from amybuild.memory.reading import Reading
from amybuild.memory.shelf import Kept, Shelf
from amybuild.memory.text import object_of

Place = tuple[int, int, int]  # the number of a line, where it begins in the file, its bytes
_NONE = "no memory nodes here"
_REMEDY = 'a line is {"key": "…", "content": "…"}'


def read_jsonl(path: Path, display: str) -> list[Node]:
    """The nodes of a JSONL file in its order. A doubled key, a bad line or an empty file is an `InputError`."""
    nodes: dict[str, Node] = {}
    for (number, _, _), line in _lines(path, display):
        node = _node(line, f"{display}:{number}")
        if node.key in nodes:
            first = nodes[node.key].source.rpartition(":")[2]
            remedy = f"line {first} has that key; rename one"
            raise InputError(f"a second node '{node.key}'", where=node.source, remedy=remedy)
        nodes[node.key] = node
    if not nodes:
        raise InputError(_NONE, where=display, remedy=_REMEDY)
    return list(nodes.values())


def shelve_jsonl(path: Path, display: str, reading: Reading) -> Shelf:
    """The nodes of a JSONL file, left in it. When it changed since an earlier reading, only lines that are new are
    parsed: each is known by the digest of its bytes, wherever in the file it stands now."""
    name = os.fspath(path)

    def load(key: str, place: Place) -> Node:
        number, start, size = place
        try:
            with open(name, "rb", buffering=0) as file:
                file.seek(start)
                line = file.read(size)
        except OSError as error:
            raise _unreadable(error, display) from None
        return _node(line, f"{display}:{number}")

    def read() -> list[tuple[bytes, Place, str, Kept]]:
        known = {row[0]: row for row in reading.earlier(name) or ()}
        rows = []
        for place, line in _lines(path, display):
            mark = blake3(line).digest()
            if mark in known:
                _, _, key, kept = known[mark]
            else:
                node = _node(line, f"{display}:{place[0]}")
                reading.parsed += 1
                key, kept = node.key, shelf.kept(node)
            rows.append((mark, place, key, kept))
        return rows

    shelf = Shelf(load, lambda place: f"{display}:{place[0]}")
    for _, place, key, kept in reading.values(name, read):
        shelf.put(key, kept, place)
    if not shelf:
        raise InputError(_NONE, where=display, remedy=_REMEDY)
    shelf.sort()
    return shelf


def write_jsonl(nodes: Iterable[Node]) -> bytes:
    """The bytes of ``nodes.jsonl``: canonical lines sorted by key; `read_jsonl` gives the nodes back."""
    return b"".join(node.canonical() + b"\n" for node in sorted(nodes, key=lambda node: node.key))


def _lines(path: Path, display: str) -> Iterator[tuple[Place, bytes]]:
    """The lines that hold something, with their places."""
    start = 0
    try:
        with open(path, "rb") as file:
            for number, line in enumerate(iter(lambda: file.readline(MAX_BYTES + 1), b""), start=1):
                if len(line) > MAX_BYTES:
                    what = f"a line of more than {MAX_BYTES >> 20} MiB"
                    raise InputError(what, where=f"{display}:{number}", remedy="split the node")
                if not line.isspace():
                    yield (number, start, len(line)), line
                start += len(line)
    except OSError as error:
        raise _unreadable(error, display) from None


def _unreadable(error: OSError, display: str) -> InputError:
    return InputError(f"cannot be read: {error.strerror}", where=display, remedy="check the path")


def _node(line: bytes, where: str) -> Node:
    try:
        return Node.from_json(json.loads(line.decode("utf-8-sig"), object_pairs_hook=object_of), source=where)
    except UnicodeDecodeError:
        raise InputError("not UTF-8", where=where, remedy="save the file as UTF-8") from None
    except json.JSONDecodeError as error:
        what = f"not JSON: {error.msg} (column {error.colno})"
        raise InputError(what, where=where, remedy="one JSON object per line") from None
    except (ValueError, RecursionError):  # thousands of digits, thousands of brackets
        raise InputError("no plain JSON object", where=where, remedy="a node is one flat object") from None
    except InputError as error:
        raise InputError(error.what, where=where, remedy=error.remedy) from None
