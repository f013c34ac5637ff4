"""The reference memory server's knowledge graph: entities with observations and relations, as nodes with links.

https://github.com/modelcontextprotocol/servers/tree/main/src/memory
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import quote, unquote

from amybuild.errors import InputError
from amybuild.memory.mcp import Answer, Server
from amybuild.memory.node import MAX_BYTES, Link, Node, check_key, clean

TOOL = "read_graph"


async def read(server: Server) -> Callable[[], list[Node]]:
    """Ask a connected server for all of it. What comes back makes the nodes: once, and when the conversation is over,
    for as long as that lasts the libraries hold the text, which is as large as the memory."""
    answer = await server.call(TOOL)
    if answer.failed:
        raise server.bad(f"the tool {TOOL} failed")
    held = [answer]
    del answer
    return lambda: _nodes(held, server)


def _nodes(held: list[Answer], server: Server) -> list[Node]:
    answer = held.pop()
    graph, text = answer.structured, answer.text
    del answer
    if graph is None or "entities" not in graph:  # earlier versions tell it as text only
        try:
            graph = json.loads(text)
        except (ValueError, RecursionError):
            raise server.bad(f"what {TOOL} says is no JSON") from None
    del text
    try:
        return nodes_of(graph, server.limits.nodes)
    except InputError as error:
        raise server.bad(error.what, error.remedy or "mend it in the server's memory") from None


def nodes_of(graph: object, most: int = 1_000_000) -> list[Node]:
    """The nodes of a knowledge graph, ``{"entities": […], "relations": […]}``, in its order.

    An entity is a node: its name the key (`key_of`), its entityType the type, its observations the paragraphs of the
    content; a relation is a link of full strength whose kind is the relationType. The same relation said twice counts
    once. Raises `InputError` without a place, and without any text of an observation.
    """
    entities, relations = _list(graph, "entities"), _list(graph, "relations")
    if len(entities) > most:
        raise InputError(f"more than {most} entities")
    links: dict[str, dict[Link, None]] = {}
    for number, one in enumerate(relations):
        where = f"relation {number}"
        link = Link(_key(one, "to", where), kind=_text(one, "relationType", where) or "link")
        links.setdefault(_key(one, "from", where), {})[link] = None
    found: dict[str, Node] = {}
    for number, one in enumerate(entities):
        where = f"entity {number}"
        key = _key(one, "name", where)
        if key in found:
            raise InputError(f"two entities with the name '{key}'", remedy="delete one of them")
        content = _content(one, where)
        type = _text(one, "entityType", where) or "semantic"
        found[key] = Node(key, type, content, tuple(links.get(key, ())))
    return list(found.values())


def key_of(name: str) -> str:
    """The key of an entity: its name where that can be a key, else the name with its unusual characters as ``%XX``.

    Different names have different keys, and `urllib.parse.unquote` gives the name back.
    """
    try:
        check_key(name)
        if "%" not in name and "#" not in name and not name.endswith(".md"):
            return name
    except InputError:
        pass
    key = quote(name, safe=" /") if name == name.strip() and _plain_parts(name) else quote(name, safe="")
    key = key.removesuffix(".md") + "%2Emd" if key.endswith(".md") else key
    if not key.strip("."):
        key = key.replace(".", "%2E")
    check_key(key)
    return key


def _plain_parts(name: str) -> bool:
    return not any(part in ("", ".", "..") for part in name.split("/"))


def _content(entity: Any, where: str) -> str:
    observations = entity.get("observations", [])
    if not isinstance(observations, list) or not all(isinstance(one, str) for one in observations):
        raise InputError(f"{where}: observations are not a list of strings")
    content = clean("\n\n".join(observations))
    if len(content) > MAX_BYTES:
        raise InputError(f"{where}: larger than {MAX_BYTES >> 20} MiB", remedy="split it into several entities")
    return content


def _list(graph: object, name: str) -> list[Any]:
    found = graph.get(name) if isinstance(graph, Mapping) else None
    if not isinstance(found, list):
        raise InputError(f"a knowledge graph without a list of {name}")
    return found


def _text(value: object, name: str, where: str) -> str:
    text = value.get(name) if isinstance(value, Mapping) else None
    if not isinstance(text, str):
        raise InputError(f"{where}: {name} is not a string")
    return clean(text)


def _key(value: object, name: str, where: str) -> str:
    """The key of an entity that a field names."""
    try:
        return key_of(_text(value, name, where))
    except InputError as error:
        what = error.what if error.what.startswith(where) else f"{where}: {error.what}"
        raise InputError(what, remedy=error.remedy) from None


def graph_of(nodes: Iterable[Node]) -> dict[str, Any]:
    """The knowledge graph that `nodes_of` reads as these nodes, as far as it can say what is in them."""
    nodes = list(nodes)
    entities = [
        {"name": unquote(node.key), "entityType": node.type, "observations": [node.content] if node.content else []}
        for node in nodes
    ]
    relations = [
        {"from": unquote(node.key), "to": unquote(link.target), "relationType": link.kind}
        for node in nodes
        for link in node.links
    ]
    return {"entities": entities, "relations": relations}
