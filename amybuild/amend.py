"""The account of a build, amended: after an edit that changed no result only digests, times and few rows differ in it.

Each function takes a document as it was written and makes it what it would be if it were written now, byte for byte and
in place, in a fraction of the time. What does not stand in it as often as it must is `Unlike`: it is written anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from blake3 import blake3

from amybuild.cache.disk import open_in_place, seal_in_place
from amybuild.digest import canonical
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


def amend_record(text: bytearray, keys: Iterable[Key], graph: Pair, product: tuple[Pair, Pair], times: Pair) -> str:
    """A sealed build record; the digest of the link map in it comes back. `product`: that one's old and new (key,
    output)."""
    if not open_in_place(text):
        raise Unlike
    for old, new, actions in keys:
        swap(text, f'"{old}"', f'"{new}"', 2 * actions)  # in its own table of actions, and in the link map's
    swap(text, graph[0], graph[1], 2)
    was, now = (b'"persona/product":' + canonical(pair) for pair in product)
    swap(text, was, now)
    was, now = (canonical({"schema": 1, "time": one})[1:-1] for one in times)
    swap(text, was, now)
    begin = text.find(b',"info":{', text.find(graph[1].encode())) + len(b',"info":')
    end = text.rfind(b'},"persona":', begin) + 1
    if not len(b',"info":') <= begin < end:
        raise Unlike
    with memoryview(text) as whole, whole[begin:end] as info:
        digest = str(blake3(b"info\0").update(info).hexdigest())
    seal_in_place(text)
    return digest


def amend_nodes(text: bytearray, digests: Mapping[str, Pair]) -> None:
    """The sealed table of all memory nodes: another digest of some, by key."""
    if not open_in_place(text):
        raise Unlike
    for key, pair in digests.items():
        was, now = (canonical({key: digest})[1:-1] for digest in pair)
        swap(text, was, now)
    seal_in_place(text)


def amend_state(text: bytearray, keys: Mapping[str, Pair], folder: str, product: tuple[Any, Any]) -> None:
    """The state of a project: other last keys of actions, another stamp of the product in `folder`."""
    for action, pair in keys.items():
        was, now = (canonical({action: key})[1:-1] for key in pair)
        swap(text, was, now)
    was, now = (canonical({folder: stamp})[1:-1] for stamp in product)
    swap(text, was, now)


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
