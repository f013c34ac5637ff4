"""Reader for ``nodes.jsonl``: one memory node per line."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from amybuild.errors import InputError
from amybuild.memory.node import MAX_BYTES, Node


def read_jsonl(path: Path, display: str) -> list[Node]:
    """The nodes of a JSONL file in its order. A doubled key, a bad line or an empty file is an `InputError`."""
    try:
        with open(path, "rb") as file:
            nodes = _nodes(iter(lambda: file.readline(MAX_BYTES + 1), b""), display)
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", where=display, remedy="check the path") from None
    if not nodes:
        raise InputError("no memory nodes here", where=display, remedy='a line is {"key": "…", "content": "…"}')
    return nodes


def write_jsonl(nodes: Iterable[Node]) -> bytes:
    """The bytes of ``nodes.jsonl``: canonical lines sorted by key; `read_jsonl` gives the nodes back."""
    return b"".join(node.canonical() + b"\n" for node in sorted(nodes, key=lambda node: node.key))


def _nodes(lines: Iterable[bytes], display: str) -> list[Node]:
    seen: dict[str, int] = {}
    nodes: list[Node] = []
    for number, line in enumerate(lines, start=1):
        where = f"{display}:{number}"
        if len(line) > MAX_BYTES:
            raise InputError(f"a line of more than {MAX_BYTES >> 20} MiB", where=where, remedy="split the node")
        if line.isspace():
            continue
        try:
            node = Node.from_json(json.loads(line.decode("utf-8-sig")), source=where)
        except UnicodeDecodeError:
            raise InputError("not UTF-8", where=where, remedy="save the file as UTF-8") from None
        except json.JSONDecodeError as error:
            raise InputError(
                f"not JSON: {error.msg} (column {error.colno})", where=where, remedy="one JSON object per line"
            ) from None
        except (ValueError, RecursionError):  # thousands of digits, thousands of brackets
            raise InputError("no plain JSON object", where=where, remedy="a node is one flat object") from None
        except InputError as error:
            raise InputError(error.what, where=where, remedy=error.remedy) from None
        if node.key in seen:
            raise InputError(
                f"a second node '{node.key}'", where=where, remedy=f"line {seen[node.key]} has that key; rename one"
            )
        seen[node.key] = number
        nodes.append(node)
    return nodes
