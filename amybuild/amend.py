"""The account of a build, amended: after an edit that changed no result only digests, times and few rows differ in it.

Each function takes a document as it was written and gives it as it would be written now, byte for byte, in a fraction
of the time. What does not stand in it as often as it must is `Unlike`, and then the account is written anew.
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


def swap(text: bytes, old: str | bytes, new: str | bytes, times: int = 1) -> bytes:
    """`text` with `new` for `old`, which stands in it `times` times."""
    before, after = (one.encode() if isinstance(one, str) else one for one in (old, new))
    if text.count(before) != times:
        raise Unlike
    return text.replace(before, after)


def amend_map(text: bytes, keys: Iterable[Key], graph: Pair) -> bytes:
    """persona.json: other keys of actions, another digest of the memory graph."""
    for old, new, actions in keys:
        text = swap(text, f'"{old}"', f'"{new}"', actions)
    return swap(text, graph[0], graph[1])


def amend_record(
    data: bytes, keys: Iterable[Key], graph: Pair, product: tuple[Pair, Pair], times: Pair
) -> tuple[bytes, str]:
    """A build record, and the digest of the link map in it. `product`: that one's old and new (key, output)."""
    text = opened(data)
    if text is None:
        raise Unlike
    for old, new, actions in keys:
        text = swap(text, f'"{old}"', f'"{new}"', 2 * actions)  # in its own table of actions, and in the link map's
    text = swap(text, graph[0], graph[1], 2)
    was, now = (b'"persona/product":' + canonical(pair) for pair in product)
    text = swap(text, was, now)
    was, now = (canonical({"schema": 1, "time": one})[1:-1] for one in times)
    text = swap(text, was, now)
    begin = text.find(b',"info":{') + len(b',"info":')
    end = text.rfind(b'},"persona":', begin) + 1
    if not len(b',"info":') <= begin < end:
        raise Unlike
    return sealed(text), digest_bytes(b"info\0" + text[begin:end])


def amend_provenance(
    text: bytes,
    graph: Pair,
    rows: Iterable[tuple[Mapping[str, Any], Mapping[str, Any]]],
    metadata: tuple[Mapping[str, Any], Mapping[str, Any]],
    files: Mapping[str, Pair],
) -> bytes:
    """provenance.json: other rows (old and new, see `provenance.statement`), other times, another sha256 of files."""
    text = swap(text, graph[0], graph[1])
    for old, new in rows:
        text = swap(text, encode(byproduct(old)), encode(byproduct(new)))
    was, now = (f'"metadata": {encode(one)}' for one in metadata)
    text = swap(text, was, now)
    for name, pair in files.items():
        was, now = (encode({"name": name, "digest": {"sha256": digest}}) for digest in pair)
        text = swap(text, was, now)
    return text
