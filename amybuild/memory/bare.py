"""`Bare`: a node as a tuple of plain values: a large memory is read so, without an object for each node and link."""

# no `annotations` from __future__: NamedTuple compiles each annotation that is a text, longer than an edit takes
import datetime
import marshal
from collections.abc import Mapping
from functools import lru_cache
from json.encoder import encode_basestring as quoted
from typing import Any, NamedTuple

from amybuild.errors import InputError
from amybuild.memory.emotion import split_tags
from amybuild.memory.node import FIELDS, Link, Node, check_key, clean, from_fields, split_key

_FIELDS = frozenset(FIELDS) - {"examples"}
_LINK = frozenset({"target", "strength", "kind"})
_NUMBERS, _TEXTS = (float, int), (str, type(None))
_LARGEST = 1e300  # of a weight; beyond it `from_fields` says what is wrong


class Bare(NamedTuple):
    """A node less where it was read. `links` are ``(target, strength, kind)``."""

    key: str
    type: str
    content: str
    links: tuple[tuple[str, float, str], ...]
    weight: float
    created: str | None
    provenance: str | None
    version: int
    examples: str | None

    def canonical(self) -> bytes:
        """`Node.canonical`."""
        links = ",".join(
            f'{{"kind":{quoted(kind)},"strength":{strength!r},"target":{quoted(target)}}}'
            for target, strength, kind in self.links
        )
        return (
            f'{{"content":{quoted(self.content)},"created":{_or_null(self.created)},'
            f'"examples":{_or_null(self.examples)},"key":{quoted(self.key)},"links":[{links}],'
            f'"provenance":{_or_null(self.provenance)},"type":{quoted(self.type)},'
            f'"version":{self.version},"weight":{self.weight!r}}}'
        ).encode()

    def node(self, source: str, line: int) -> Node:
        """The node; `source` and `line` are where it was read."""
        key, kind, content, links, weight, created, provenance, version, examples = self
        joined = tuple(Link(*one) for one in links)
        return Node(key, kind, content, joined, weight, created, provenance, version, examples, source, line)

    def entry(self) -> bytes:
        """The node's `Entry` less its key and digest, as bytes: many of them are kept and few are looked at."""
        emotion = max(split_tags(self.content)[1].values(), default=None)
        told = (self.type, self.weight, self.created, self.provenance, self.version, self.links)
        return marshal.dumps((*told, len(self.content), emotion))


def bare_of(key: str, content: str, fields: Mapping[str, Any], examples: str | None = None) -> Bare:
    """What `from_fields` makes of the same, and its errors."""
    return _plain(key, content, fields, examples) or bare_from(from_fields(key, content, fields, examples=examples))


def bare_of_json(value: Any) -> Bare:
    """What `Node.from_json` makes of the same, and its errors."""
    if value.__class__ is dict:
        fields = value.copy()
        key, content, examples = fields.pop("key", None), fields.pop("content", None), fields.pop("examples", None)
        if found := _plain(key, content, fields, examples):
            return found
    return bare_from(Node.from_json(value))


def bare_from(node: Node) -> Bare:
    """A node less where it was read."""
    links = tuple((one.target, one.strength, one.kind) for one in node.links)
    told = (node.weight, node.created, node.provenance, node.version, node.examples)
    return Bare(node.key, node.type, node.content, links, *told)


def _plain(key: Any, content: Any, fields: Mapping[str, Any], examples: Any) -> Bare | None:
    """The node of values that are as they should be; None where anything is odd, be it right or wrong."""
    get = fields.get
    kind, weight, version, links = get("type", "semantic"), get("weight", 1.0), get("version", 1), get("links", ())
    created, provenance = get("created"), get("provenance")
    if created.__class__ is datetime.date:
        created = created.isoformat()
    fine = (
        fields.keys() <= _FIELDS
        and key.__class__ is content.__class__ is kind.__class__ is str
        and created.__class__ in _TEXTS
        and provenance.__class__ in _TEXTS
        and examples.__class__ in _TEXTS
        and weight.__class__ in _NUMBERS
        and 0 <= weight <= _LARGEST
        and version.__class__ is int
        and 0 <= version < 1 << 63
        and kind
        and all(map(_tidy, (content, kind, created or "", provenance or "", examples or "")))
        and links.__class__ in (list, tuple)
        and _is_key(key)
    )
    if not fine:
        return None
    joined = []
    for link in links:
        if link.__class__ is not dict or not link.keys() <= _LINK:
            return None
        target, strength, name = link.get("target"), link.get("strength", 1.0), link.get("kind", "link")
        if not (
            target.__class__ is name.__class__ is str
            and strength.__class__ in _NUMBERS
            and 0.01 <= strength <= 1.0
            and name
            and _tidy(name)
            and _is_target(target)
        ):
            return None
        joined.append((target, float(strength), name))
    return Bare(key, kind, content, tuple(joined), float(weight), created, provenance, version, examples)


def _tidy(text: str) -> bool:
    """Whether `clean` leaves a text as it is."""
    if text.isascii():
        return "\r" not in text
    try:
        return clean(text) == text
    except InputError:
        return False


def _is_key(text: str) -> bool:
    try:
        check_key(text)
        return True
    except InputError:
        return False


@lru_cache(maxsize=1 << 16)  # many links lead to the same nodes
def _is_target(text: str) -> bool:
    try:
        split_key(text)
        return _tidy(text)
    except InputError:
        return False


def _or_null(text: str | None) -> str:
    return "null" if text is None else quoted(text)
