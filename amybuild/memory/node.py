"""The values of a memory graph: `Link` and `Node`, their canonical bytes and digest, keys and sections."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from amybuild.digest import canonical, digest_bytes
from amybuild.errors import InputError, did_you_mean
from amybuild.memory.outline import Section, sections, slug
from amybuild.value import field, replace, value

MAX_BYTES = 16 << 20  # of one node: more is a mistake (or an attack), not a memory
FIELDS = ("type", "weight", "created", "provenance", "version", "links", "examples")
_LINK_FIELDS = ("target", "strength", "kind")


@value
class Link:
    """A directed link to another node's key (a section may follow). `strength` lies in 0.01..1.0."""

    target: str
    strength: float = 1.0
    kind: str = "link"

    def __post_init__(self) -> None:
        split_key(self.target)
        if not 0.01 <= self.strength <= 1.0:
            raise InputError(f"strength {self.strength:g} is not in 0.01..1.0")
        if not self.kind:
            raise InputError("a link's kind is empty", remedy='leave it out for "link"')


@value
class Node:
    """One memory. `examples` is the raw text of its JSONL examples file.

    `source` (display path) and `line` (where `content` starts in that file, 0 = not line by line in a file) say where
    the node was read; they are no part of its JSON, its digest or its equality: moving a graph changes nothing.
    """

    key: str
    type: str = "semantic"
    content: str = ""
    links: tuple[Link, ...] = ()
    weight: float = 1.0
    created: str | None = None
    provenance: str | None = None
    version: int = 1
    examples: str | None = None
    source: str = field(default="", compare=False)
    line: int = field(default=0, compare=False)

    def __post_init__(self) -> None:
        check_key(self.key)
        if not self.type:
            raise InputError("the type is empty", remedy='leave it out for "semantic"')
        if not (math.isfinite(self.weight) and self.weight >= 0):
            raise InputError("the weight is not a number of 0 or more")
        if self.version < 0:
            raise InputError("the version is negative")

    def to_json(self) -> dict[str, Any]:
        """A JSON value that `from_json` reads back; every field is present."""
        return {
            "key": self.key,
            "type": self.type,
            "content": self.content,
            "links": [{"target": one.target, "strength": one.strength, "kind": one.kind} for one in self.links],
            "weight": self.weight,
            "created": self.created,
            "provenance": self.provenance,
            "version": self.version,
            "examples": self.examples,
        }

    @classmethod
    def from_json(cls, value: object, *, source: str = "") -> Node:
        """The node of one JSON object; `key` and `content` are required. Raises `InputError` without a place."""
        if not isinstance(value, Mapping):
            raise InputError("a node is a JSON object")
        fields = dict(value)
        key = fields.pop("key", None)
        if not isinstance(key, str):
            raise InputError("a node needs a key", remedy='add "key": "some-name"')
        content = fields.pop("content", None)
        if not isinstance(content, str):
            raise InputError("a node needs its content as a string", remedy='add "content": "…"')
        examples = _optional_text(fields.pop("examples", None), "examples")
        return from_fields(key, clean(content), fields, examples=examples, source=source)

    def canonical(self) -> bytes:
        """The one byte form of the node: a line of ``nodes.jsonl`` without its newline."""
        return canonical(self.to_json())

    @cached_property
    def digest(self) -> str:
        """Digest of `canonical`, 64 hex digits: of all that is in the node, wherever it was read."""
        return digest_bytes(self.canonical())

    def place(self, line: int) -> str:
        """Where line `line` of the content is: in the file when it is known, else in the node."""
        if self.source and self.line:
            return f"{self.source}:{self.line + line - 1}"
        return f"node {self.key}, line {line} of its text (below the front matter)"


def from_fields(
    key: str,
    content: str,
    fields: Mapping[str, Any],
    *,
    examples: str | None = None,
    source: str = "",
    line: int = 0,
) -> Node:
    """A node from decoded front matter or JSON (all of `FIELDS` but examples). Raises `InputError` without a place."""
    for name in fields:
        if name not in FIELDS:
            hint = did_you_mean(name, FIELDS) or f"known keys: {', '.join(FIELDS)}"
            raise InputError(f"unknown key '{name}'", remedy=hint)
    created = fields.get("created")
    as_date = getattr(created, "isoformat", None)  # TOML has dates of its own
    return Node(
        key=key,
        content=content,
        type=_text(fields.get("type", "semantic"), "type"),
        links=_links(fields.get("links", ())),
        weight=_number(fields.get("weight", 1.0), "weight"),
        created=_optional_text(as_date() if as_date else created, "created"),
        provenance=_optional_text(fields.get("provenance"), "provenance"),
        version=_integer(fields.get("version", 1), "version"),
        examples=examples,
        source=source,
        line=line,
    )


def clean(text: str) -> str:
    """`text` with line feeds only, so that a checkout's line endings change no digest. Refuses what is not UTF-8."""
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise InputError("the text holds half a surrogate pair", remedy="write it as valid UTF-8") from None
    return text.replace("\r\n", "\n") if "\r" in text else text


def check_key(key: str) -> None:
    """Raises `InputError` unless `key` can name a node (and safely a file)."""
    bad = (
        not key
        or len(key) > 512
        or key != key.strip()
        or not key.isprintable()
        or any(part in ("", ".", "..") for part in key.split("/"))
    )
    if bad:
        raise InputError(
            f"{key[:80]!a} is not a key",
            remedy="a key is printable text such as 'people/tomas': no empty part, no '..', no space at its ends",
        )


def split_key(key: str) -> tuple[str, str | None]:
    """``core-personality.md#voice`` -> ``("core-personality", "voice")``; without ``#`` the section is None."""
    name, mark, part = key.partition("#")
    name = name.removesuffix(".md")
    check_key(name)
    if mark and not part.strip():
        raise InputError(f"'{key}' names no section after '#'", remedy=f"write '{name}' or '{name}#section'")
    return name, (part.strip() if mark else None)


def find_key(nodes: Mapping[str, Node], key: str, where: str | None = None) -> tuple[str, str | None]:
    """The key of the node in `nodes` and the section that `key` addresses (a node of exactly that name comes first).

    The node must exist; whether the section does, `find_section` knows. `where` the nodes are is for the message."""
    if key in nodes:
        return key, None
    name, part = split_key(key)
    if name not in nodes:
        hint = did_you_mean(name, nodes) or f"there are {len(nodes)}; a key is a path without .md"
        raise InputError(f"no memory node '{name}'", where=where, remedy=hint)
    return name, part


def find_section(node: Node, name: str) -> Section:
    """The section of `node` under ``## name`` (to the next heading of level 1 or 2) and its first line."""
    found = sections(node.content)
    hits = [part for title, part in found if title == slug(name)]
    if len(hits) == 1:
        return hits[0]
    where = node.source or f"node {node.key}"
    if hits:
        raise InputError(f"section '{name}' is there twice", where=node.place(hits[1].line - 1), remedy="rename one")
    known = sorted({title for title, _ in found})
    listed = f"its sections: {', '.join(known)}" if known else "it has no '## section' at all"
    raise InputError(f"no section '{name}'", where=where, remedy=did_you_mean(slug(name), known) or listed)


def section(node: Node, name: str) -> str:
    """The Markdown under ``## name``. A missing or doubled section is an `InputError`."""
    return find_section(node, name).text


def cut(node: Node, name: str) -> Node:
    """The section as a node of its own, ``key#name``; the examples file belongs to the whole node and stays there."""
    part = find_section(node, name)
    line = node.line + part.line - 1 if node.line else 0
    return replace(node, key=f"{node.key}#{name}", content=part.text, examples=None, line=line)


def _links(value: object) -> tuple[Link, ...]:
    if not isinstance(value, list | tuple):
        raise InputError("links is not a list", remedy='write links = [{ target = "key", strength = 0.8 }]')
    return tuple(_link(one) for one in value)


def _link(value: object) -> Link:
    if isinstance(value, str):
        value = {"target": value}
    if not isinstance(value, Mapping):
        raise InputError("a link is not a table", remedy='write { target = "key", strength = 0.8 }')
    for name in value:
        if name not in _LINK_FIELDS:
            hint = did_you_mean(name, _LINK_FIELDS) or f"known keys: {', '.join(_LINK_FIELDS)}"
            raise InputError(f"unknown key '{name}' in a link", remedy=hint)
    target = _text(value.get("target"), "a link's target")
    strength = _number(value.get("strength", 1.0), "a link's strength")
    kind = _text(value.get("kind", "link"), "a link's kind")
    try:
        return Link(target, strength, kind)
    except InputError as error:
        raise InputError(f"in a link: {error.what}", remedy=error.remedy) from None


def _text(value: object, name: str) -> str:
    if not isinstance(value, str):
        raise InputError(f"{name} is not a string")
    return clean(value)


def _optional_text(value: object, name: str) -> str | None:
    return None if value is None else _text(value, name)


def _number(value: object, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"{name} is not a number")
    try:
        return float(value)
    except OverflowError:
        raise InputError(f"{name} is too large") from None


def _integer(value: object, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise InputError(f"{name} is not a whole number")
    if value.bit_length() > 63:  # TOML's hexadecimal numbers have any length, JSON's decimal ones do not
        raise InputError(f"{name} is too large")
    return value
