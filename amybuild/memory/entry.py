"""`Entry`: what a graph keeps in memory of a node, all but its text."""

# no `annotations` from __future__: NamedTuple compiles each annotation that is a text, longer than an edit takes
import marshal
from typing import NamedTuple

from amybuild.memory.emotion import split_tags
from amybuild.memory.node import Node


class Entry(NamedTuple):
    """A node without its text. `links` are ``(target, strength, kind)``, `length` counts characters of the content and
    `emotion` is the highest score of its emotion tags (0..10, None without tags)."""

    key: str
    digest: str
    type: str
    weight: float
    created: str | None
    provenance: str | None
    version: int
    links: tuple[tuple[str, float, str], ...]
    length: int
    emotion: float | None


def entry_of(node: Node) -> Entry:
    """The entry of a node."""
    return Entry(
        node.key,
        node.digest,
        node.type,
        node.weight,
        node.created,
        node.provenance,
        node.version,
        tuple((one.target, one.strength, one.kind) for one in node.links),
        len(node.content),
        max(split_tags(node.content)[1].values(), default=None),
    )


def unpacked(key: str, digest: bytes, data: bytes) -> Entry:
    """The entry that `Bare.entry` packed."""
    return Entry(key, digest.hex(), *marshal.loads(data))
