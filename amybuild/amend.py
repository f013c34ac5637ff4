"""The account of a build, amended: after an edit that changed no result only digests, times and few rows differ in it.

Each function takes a document as it was written and makes it what it would be if it were written now, byte for byte and
in place, in a fraction of the time. What does not stand in it as often as it must is `Unlike`: it is written anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from amybuild.cache.disk import opened, sealed
from amybuild.digest import canonical, digest_bytes
from amybuild.product import encode
from amybuild.provenance import byproduct

Pair = tuple[str, str]  # old, new
Key = tuple[str, str, int]  # old, new, and of how many actions it is the key


class Unlike(Exception):
    """A document is not what it must be to be amended."""


def swap(text: bytearray, old: str | bytes, new: str | bytes, times: int = 1) -> None:
    """Put `new` in the place of `old`, which stands in `text` `times` times."""
    before, after = (one.encode() if isinstance(one, str) else one for one in (old, new))
    places, at = [], text.find(before)
    while at >= 0:
        places.append(at)
        at = text.find(before, at + len(before))
    if len(places) != times:
        raise Unlike
    for at in reversed(places):
        text[at : at + len(before)] = after


def amend_map(text: bytearray, keys: Iterable[Key], graph: Pair) -> None:
    """persona.json: other keys of actions, another digest of the memory graph."""
    for old, new, actions in keys:
        swap(text, f'"{old}"', f'"{new}"', actions)
    swap(text, graph[0], graph[1])


def amend_record(
    data: bytes, keys: Iterable[Key], graph: Pair, product: tuple[Pair, Pair], times: Pair
) -> tuple[bytes, str]:
    """A build record, and the digest of the link map in it. `product`: that one's old and new (key, output)."""
    whole = opened(data)
    if whole is None:
        raise Unlike
    text = bytearray(whole)
    for old, new, actions in keys:
        swap(text, f'"{old}"', f'"{new}"', 2 * actions)  # in its own table of actions, and in the link map's
    swap(text, graph[0], graph[1], 2)
    was, now = (b'"persona/product":' + canonical(pair) for pair in product)
    swap(text, was, now)
    was, now = (canonical({"schema": 1, "time": one})[1:-1] for one in times)
    swap(text, was, now)
    begin = text.find(b',"info":{') + len(b',"info":')
    end = text.rfind(b'},"persona":', begin) + 1
    if not len(b',"info":') <= begin < end:
        raise Unlike
    return sealed(bytes(text)), digest_bytes(b"info\0" + text[begin:end])


def amend_provenance(
    text: bytearray,
    graph: Pair,
    rows: Iterable[tuple[Mapping[str, Any], Mapping[str, Any]]],
    metadata: tuple[Mapping[str, Any], Mapping[str, Any]],
    files: Mapping[str, Pair],
) -> None:
    """provenance.json: other rows (old and new, see `provenance.statement`), other times, another sha256 of files."""
    swap(text, graph[0], graph[1])
    for old, new in rows:
        swap(text, encode(byproduct(old)), encode(byproduct(new)))
    was, now = (f'"metadata": {encode(one)}' for one in metadata)
    swap(text, was, now)
    for name, pair in files.items():
        was, now = (encode({"name": name, "digest": {"sha256": digest}}) for digest in pair)
        swap(text, was, now)
