"""Reader for ``nodes.jsonl``: one memory node per line."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from blake3 import blake3

from amybuild.errors import InputError
from amybuild.memory.bare import Bare, bare_from, bare_of_json
from amybuild.memory.node import MAX_BYTES, Node
from amybuild.memory.reading import Reading
from amybuild.memory.shelf import Kept, Shelf
from amybuild.memory.text import object_of

Place = tuple[int, int, int]  # the number of a line, where it begins in the file, its bytes
# of a line: its digest, the number of lines and bytes before it in its block, its own bytes, and its node
Row = tuple[bytes, int, int, int, str, Kept]
Block = tuple[bytes, int, int, list[Row]]  # the digest of some lines, their bytes, how many they are, those with nodes
_BLOCK = 1 << 20  # bytes
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
    parsed: what stands before and behind the edits is known by the digests of whole blocks, and between them each line
    by its own, wherever in the file it stands now."""
    lines = _Lines(os.fspath(path), display)
    shelf = Shelf(lines)

    def parse(number: int, line: bytes) -> tuple[str, Kept]:
        reading.parsed += 1
        bare, _ = lines.parse("", (number, 0, 0), line)
        return bare.key, shelf.kept(bare)

    blocks = reading.values(lines.path, lambda: lines.blocks(reading.earlier(lines.path) or [], parse))
    number, start = 1, 0
    for _, size, count, rows in blocks:
        places = [(number + before, start + at, length) for _, before, at, length, _, _ in rows]
        shelf.put([row[4] for row in rows], [row[5] for row in rows], places)
        number, start = number + count, start + size
    if not shelf:
        raise InputError(_NONE, where=display, remedy=_REMEDY)
    shelf.sort()
    return shelf


class _Lines:
    """Takes nodes from the lines of a file."""

    def __init__(self, path: str, display: str) -> None:
        self.path, self._display = path, display

    def fetch(self, place: Place) -> bytes:
        _, start, size = place
        with self._open() as file:
            file.seek(start)
            return file.read(size)

    def parse(self, key: str, place: Place, data: bytes) -> tuple[Bare, int]:
        try:
            return bare_of_json(json.loads(data.decode("utf-8-sig"), object_pairs_hook=object_of)), 0
        except (ValueError, RecursionError, InputError):
            return bare_from(_node(data, self.source(place))), 0  # which says what is wrong

    def source(self, place: Place) -> str:
        return f"{self._display}:{place[0]}"

    def blocks(self, before: list[Block], parse: Callable[[int, bytes], tuple[str, Kept]]) -> list[Block]:
        """The blocks of the file: those of `before` that it begins and ends with, and new ones between them."""
        with self._open() as file:
            first, start, end = 0, 0, os.fstat(file.fileno()).st_size
            last = len(before)
            while first < last and (after := start + before[first][1]) <= end and _holds(file, start, before[first]):
                if after < end and not _begins_line(file, after):
                    break
                first, start = first + 1, after
            while first < last and (at := end - before[last - 1][1]) >= start and _holds(file, at, before[last - 1]):
                if at > start and not _begins_line(file, at):
                    break
                last, end = last - 1, at
            known = {row[0]: row for block in before[first:last] for row in block[3]}
            number = 1 + sum(block[2] for block in before[:first])
            file.seek(start)
            new = []
            while start < end and (block := self._block(file, number, end - start, known, parse))[1]:
                new.append(block)
                number, start = number + block[2], start + block[1]
        return [*before[:first], *new, *before[last:]]

    def _block(
        self,
        file: BinaryIO,
        number: int,
        most: int,
        known: Mapping[bytes, Row],
        parse: Callable[[int, bytes], tuple[str, Kept]],
    ) -> Block:
        lines: list[bytes] = []
        rows: list[Row] = []
        size = 0
        while size < min(most, _BLOCK) and (line := file.readline(MAX_BYTES + 1)):
            here = number + len(lines)
            if len(line) > MAX_BYTES:
                what = f"a line of more than {MAX_BYTES >> 20} MiB"
                raise InputError(what, where=f"{self._display}:{here}", remedy="split the node")
            if not line.isspace():
                mark = blake3(line).digest()
                row = known.get(mark)
                rows.append((mark, len(lines), size, len(line), *(row[4:] if row else parse(here, line))))
            lines.append(line)
            size += len(line)
        return blake3(b"".join(lines)).digest(), size, len(lines), rows

    @contextmanager
    def _open(self) -> Iterator[BinaryIO]:
        try:
            with open(self.path, "rb") as file:
                yield file
        except OSError as error:
            raise _unreadable(error, self._display) from None


def _holds(file: BinaryIO, start: int, block: Block) -> bool:
    file.seek(start)
    return blake3(file.read(block[1])).digest() == block[0]


def _begins_line(file: BinaryIO, start: int) -> bool:
    file.seek(start - 1)
    return file.read(1) == b"\n"


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
