"""Reader for `nodes.capnp`, the original project's append-only log: the last version of every node that lives.

The log is a row of messages in Cap'n Proto's stream framing, one node each. Relations are kept in a log of their own
of whose fields two are known, so it is never guessed at: nodes from a log have no links, and that is told.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from amybuild.errors import InputError
from amybuild.memory.node import MAX_BYTES, Node, clean

_TYPES = ("episodic", "daily", "weekly", "semantic", "monthly")  # by the schema's NodeType
_FIELDS = ("version", "timestamp", "key", "content", "weight", "deleted", "created", "createdAt", "provenance")
_RELATIONS = "relations.capnp"
_SOCKET = 'the memory\'s own server tells them: [graph] source = "unix:…/mcp.sock"'
_SEGMENTS = 512  # in one message: the format's own reader takes no more
_YEAR_3000 = 32_503_680_000  # a time beyond is the bits of a float


def read_log(path: Path, display: str) -> tuple[list[Node], tuple[str, ...]]:
    """The nodes of a log in the order of their first appearance, and what is odd about them.

    A message that breaks off at the end is what a crash leaves: it is told and left out. Anything else that is no log
    is an `InputError`, and so is a log without a living node.
    """
    if path.name == _RELATIONS:
        raise InputError("a log of relations, whose layout is not known in full", where=display, remedy=_SOCKET)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", where=display, remedy="check the path") from None
    warnings: list[str] = []
    if path.with_name(_RELATIONS).exists():
        warnings.append(f"{display}: the links in {_RELATIONS} are not read; {_SOCKET}")
    latest: dict[bytes, Any] = {}
    for start, message in _messages(data, display, warnings):
        one = _decoded(message, f"{display}, byte {start}")
        held = latest.get(one["uuid"])
        if held is None or one["version"] >= held["version"]:
            latest[one["uuid"]] = one
    found: dict[str, tuple[int, Node]] = {}
    for one in latest.values():
        if one["deleted"]:
            continue
        node, when = _node(one, display), _seconds(one["timestamp"])
        if node.key in found:
            warnings.append(f"{display}: '{node.key}' is there twice; the newer one counts")
        if node.key not in found or when >= found[node.key][0]:
            found[node.key] = (when, node)
    if not found:
        raise InputError("no memory nodes here", where=display, remedy="the log holds no node that lives")
    return [node for _, node in found.values()], tuple(warnings)


def _messages(data: bytes, display: str, warnings: list[str]) -> Iterator[tuple[int, bytes]]:
    """``(offset, bytes)`` of each whole message. https://capnproto.org/encoding.html#serialization-over-a-stream"""
    at = 0
    while at < len(data):
        end = _end(data, at)
        if end is None:
            warnings.append(f"{display}: breaks off in the message at byte {at}; the nodes before it count")
            return
        if end < 0 or end - at > 2 * MAX_BYTES:
            remedy = "the log is damaged from there on"
            raise InputError(f"no Cap'n Proto message at byte {at}", where=display, remedy=remedy)
        yield at, data[at:end]
        at = end


def _end(data: bytes, at: int) -> int | None:
    """Where the message at `at` ends; None beyond the end of the data, -1 when there is none."""
    if at + 4 > len(data):
        return None
    count = struct.unpack_from("<I", data, at)[0] + 1
    if count > _SEGMENTS:
        return -1
    table = 4 + 4 * count
    table += table % 8
    if at + table > len(data):
        return None
    words = sum(struct.unpack_from(f"<{count}I", data, at + 4))
    end = at + table + 8 * words
    if 8 * words > 2 * MAX_BYTES or not words:
        return -1
    return end if end <= len(data) else None


def _decoded(message: bytes, where: str) -> dict[str, Any]:
    """The fields of one node that are used here, as plain values."""
    schema, capnp = _schema()
    try:
        with schema.ContentNode.from_bytes(message, traversal_limit_in_words=1 << 22) as one:
            fields = {name: getattr(one, name) for name in _FIELDS}
            fields |= {"uuid": bytes(one.uuid), "type": one.nodeType.raw, "old": _name(schema, one.provenanceOld.raw)}
            if len(fields["uuid"]) != 16:
                raise ValueError("no uuid")
            return fields
    except (capnp.KjException, ValueError, UnicodeDecodeError):
        remedy = "the log is damaged there, or of another kind"
        raise InputError("no memory node in this message", where=where, remedy=remedy) from None


def _name(schema: Any, number: int) -> str:
    """The label of an old provenance; '' of one that came later than the schema here."""
    return next((str(name) for name, raw in schema.Provenance.schema.enumerants.items() if raw == number), "")


@lru_cache(maxsize=1)
def _schema() -> tuple[Any, Any]:
    try:
        import capnp
    except ImportError:
        remedy = "pip install 'amybuild[capnp]'"
        raise InputError("a Cap'n Proto log needs the package pycapnp", remedy=remedy) from None
    capnp.remove_import_hook()
    return capnp.load(str(Path(__file__).with_name("memory.capnp"))), capnp


def _seconds(timestamp: int) -> int:
    """Unix seconds of a timestamp, which in older logs is a float's bits."""
    if 0 <= timestamp < _YEAR_3000:
        return timestamp
    value = struct.unpack("<d", struct.pack("<q", timestamp))[0]
    return int(value) if 0 <= value < _YEAR_3000 else 0


def _node(one: dict[str, Any], display: str) -> Node:
    import datetime

    key = one["key"].removesuffix(".md").replace(".md#", "#", 1)
    born = _seconds(one["createdAt"])
    created = datetime.datetime.fromtimestamp(born, datetime.UTC).date().isoformat() if born else one["created"] or None
    try:
        return Node(
            key=clean(key),
            type=_TYPES[one["type"]] if one["type"] < len(_TYPES) else "semantic",
            content=clean(one["content"]),
            weight=_short(one["weight"]),
            created=created,
            provenance=one["provenance"] or one["old"] or None,
            version=one["version"],
            source=f"{display}:{key}",
        )
    except InputError as error:
        raise InputError(error.what, where=f"{display}, node '{key[:80]}'", remedy=error.remedy) from None


def _short(value: float) -> float:
    """The shortest decimal that is the same 32-bit float: 0.7, not 0.699999988079071."""
    for digits in range(1, 10):
        near = float(f"{value:.{digits}g}")
        if struct.pack("<f", near) == struct.pack("<f", value):
            return near
    return value
