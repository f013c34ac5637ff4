"""Nodes as a folder of Markdown files, the way `markdown.read_folder` reads them back."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable, Iterator

from amybuild.errors import InputError
from amybuild.memory.node import Link, Node

_LONGEST = 255  # bytes of a file's name


def write_folder(nodes: Iterable[Node]) -> dict[str, bytes]:
    """File name -> content. A node whose key cannot be the name of a file that is read as a node is an `InputError`."""
    files: dict[str, bytes] = {}
    for node in nodes:
        _check_name(node.key)
        files[f"{node.key}.md"] = _bytes(write_node(node))
        if node.examples is not None:
            files[f"{node.key}.examples.jsonl"] = _bytes(node.examples)
    return files


def _bytes(text: str) -> bytes:
    """UTF-8. A reader takes one byte order mark off the front, so a text that has one gets another."""
    return text.encode("utf-8-sig" if text.startswith("\ufeff") else "utf-8")


def write_node(node: Node) -> str:
    """The text of a node's file: front matter where it says more than the defaults, then the content."""
    front = list(_front(node))
    if not front and not node.content.startswith("+++"):
        return node.content
    return "\n".join(["+++", *front, "+++", node.content])


def _front(node: Node) -> Iterator[str]:
    plain = Node(node.key)
    for name in ("type", "created", "provenance"):
        value = getattr(node, name)
        if value != getattr(plain, name):
            yield f"{name} = {_quoted(value)}"
    for name in ("weight", "version"):
        value = getattr(node, name)
        if value != getattr(plain, name):
            yield f"{name} = {value!r}"
    if node.links:
        yield f"links = [{', '.join(map(_link, node.links))}]"
    if node.examples is not None:
        yield f"examples = {_quoted(node.key.rpartition('/')[2] + '.examples.jsonl')}"


def _link(link: Link) -> str:
    fields = [f"target = {_quoted(link.target)}", f"strength = {link.strength!r}"]
    if link.kind != "link":
        fields.append(f"kind = {_quoted(link.kind)}")
    return f"{{ {', '.join(fields)} }}"


def _quoted(text: str) -> str:
    """A TOML string: JSON's form is one, but for DEL."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _check_name(key: str) -> None:
    *folders, last = key.split("/")
    bad = (
        "#" in key
        or key != unicodedata.normalize("NFC", key)
        or any(part[0] in "._" or len(part.encode()) > _LONGEST - len(".examples.jsonl") for part in (*folders, last))
        or any(part.endswith(".md") for part in folders)
        or last.lower() == "readme"
    )
    if bad:
        what = f"the node '{key[:80]}' cannot be a Markdown file of that name"
        raise InputError(what, remedy="write a .jsonl file instead: it holds any key")
