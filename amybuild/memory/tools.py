"""The original project's memory tools (`memory_query`, `memory_render`, `memory_links`): plain text, read as nodes.

What the tools write was never specified, and their pages show it in parts only. So everything here is read leniently,
and what cannot be told apart is refused rather than guessed.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator

from amybuild.errors import InputError
from amybuild.memory.mcp import Server
from amybuild.memory.node import MAX_BYTES, Link, Node, check_key, clean

NEEDED = frozenset({"memory_query", "memory_render"})
_LINKS = "memory_links"
_TYPES = ("episodic", "daily", "weekly", "monthly")  # every other node is semantic
_TOGETHER = 16  # questions on their way at once
_KINDS = ("link", "auto", "derived", "causes", "cause")

_MARK = re.compile(r"^\s*(?:[-*+•]|→|←|<->|<-|->|\d+[.)])\s+")
_TICKED = re.compile(r"`(?:[\w-]+ render )?([^`]+)`")
_NUMBER = re.compile(r"(?<![\w.#/-])(?:0?\.\d+|1(?:\.0+)?)(?![\w.#/-])")
_COUNT = re.compile(r"\(?\d+ (?:nodes?|results?|keys?|match(?:es)?|memories)\b.*", re.IGNORECASE)
_HEADER = re.compile(r"[#*\s]*(?:links?|neighbou?rs?|linked|related|see also)\b[^.]{0,40}", re.IGNORECASE)
_RULE = re.compile(r"\s*(?:-{3,}|\*{3,}|_{3,})\s*")


async def read(server: Server) -> tuple[list[Node], tuple[str, ...]]:
    """All nodes of a connected server, and what is odd about them."""
    import anyio

    keys = await _keys(server, "all")
    if not keys:
        raise server.bad("memory_query 'all' names no node", "check what the server keeps")
    types = {key: kind for kind in _TYPES for key in await _keys(server, f"all | type:{kind}", optional=True)}
    found: dict[str, Node] = {}
    waiting = iter(keys)

    async def work() -> None:
        for key in waiting:  # of all of them: whoever is free takes the next
            found[key] = await _node(server, key, types.get(key, "semantic"))

    async with anyio.create_task_group() as group:
        for _ in range(_TOGETHER):
            group.start_soon(work)
    warnings = () if types else ("the server tells no types: every node counts as semantic",)
    return [found[key] for key in keys], warnings


async def _keys(server: Server, query: str, optional: bool = False) -> list[str]:
    arguments = server.tools["memory_query"]
    name = next((one for one in ("query", "expr", "expression", "q") if one in arguments), "query")
    more = {"format": "compact"} if "format" in arguments else {}
    answer = await server.call("memory_query", **{name: query}, **more)
    if _refused(answer.text) or answer.failed:
        if optional:
            return []
        raise server.bad("memory_query refuses 'all'")
    try:
        found = keys_in(answer.text)
    except InputError as error:
        raise server.bad(f"memory_query: {error.what}") from None
    if len(found) > server.limits.nodes:
        raise server.bad(f"more than {server.limits.nodes} nodes")
    return found


async def _node(server: Server, key: str, kind: str) -> Node:
    told = await server.call("memory_render", key=key)
    if told.failed or _refused(told.text):
        raise server.bad(f"the server names a node and does not render it: '{key}'")
    if len(told.text) > MAX_BYTES:
        raise server.bad(f"'{key}' is larger than {MAX_BYTES >> 20} MiB", "split it into several nodes")
    links: list[Link] | None = None
    if _LINKS in server.tools:
        answer = await server.call(_LINKS, key=key)
        links = None if answer.failed or _refused(answer.text) else links_in(answer.text)
    try:
        content, footer = split_footer(clean(told.text), None if links is None else {link.target for link in links})
        return Node(key, kind, content, tuple(footer if links is None else links))
    except InputError as error:
        raise server.bad(f"'{key}': {error.what}", error.remedy or "mend it in the server's memory") from None


def _refused(text: str) -> bool:
    return text.startswith("Error:")


def keys_in(text: str) -> list[str]:
    """The keys that a listing names, one a line, in its order: bare, in bullets, in backticks, scores behind.

    Headings and lines that count are no keys. Raises `InputError` at a line that begins with nothing like a key, and
    at a key that is named twice.
    """
    found: dict[str, None] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        bare = _MARK.sub("", line, count=1).strip()
        if not bare or bare.endswith(":") or bare[0] in "#(" or _COUNT.fullmatch(bare) or _RULE.fullmatch(bare):
            continue
        key = _key(bare)
        if key is None:
            raise InputError(f"line {number} names no node")
        if key in found:
            raise InputError(f"'{key}' is there twice")
        found[key] = None
    return list(found)


def _key(bare: str) -> str | None:
    ticked = _TICKED.match(bare)
    word = ticked[1] if ticked else bare.split("\t")[0].split()[0].rstrip(",;")
    try:
        check_key(word)
    except InputError:
        return None
    return word.removesuffix(".md")


def links_in(text: str) -> list[Link]:
    """The links of a node as a text names them: a key and, in any place beside it, a strength and a kind. Lines without
    a strength are no links. One edge per neighbour: the strongest, and of those the first."""
    found: dict[str, Link] = {}
    for link in _links(text.split("\n")):
        if link is not None and (link.target not in found or found[link.target].strength < link.strength):
            found[link.target] = link
    return list(found.values())


def _links(lines: Iterable[str]) -> Iterator[Link | None]:
    for line in lines:
        yield _link(line)


def _link(line: str) -> Link | None:
    bare = _MARK.sub("", line, count=1).strip()
    number = _NUMBER.search(bare)
    strength = float(number[0]) if number else 0.0
    if number is None or strength < 0.01:
        return None
    rest = f"{bare[: number.start()]} {bare[number.end() :]}"
    ticked = _TICKED.search(rest)
    words = [ticked[1]] if ticked else [word.strip("()[],;:→←") for word in rest.split()]
    names = [word for word in words if word and word not in ("->", "<-", "<->", "strength", *_KINDS)]
    kind = next((word for word in re.findall(r"\w+", rest.lower()) if word in _KINDS), "link")
    try:
        return Link(names[0].removesuffix(".md"), strength, kind) if names else None
    except InputError:
        return None


def split_footer(text: str, neighbours: Collection[str] | None) -> tuple[str, list[Link]]:
    """A rendered node without the block of links at its end, and what those are.

    A block is a heading such as ``Links:`` with nothing but links below it, a rule before it or not. With `neighbours`,
    a block that names another node is the memory's own text and stays. Blank lines at the end go.
    """
    lines = text.rstrip().split("\n")
    links: list[Link] = []
    for at in range(len(lines) - 1, -1, -1):
        line = lines[at]
        link = _link(line)
        if link is not None:
            links.append(link)
        elif (
            links and _HEADER.fullmatch(line) and (neighbours is None or {one.target for one in links} <= {*neighbours})
        ):
            above = "\n".join(lines[:at]).rstrip()
            body, _, last = above.rpartition("\n")
            return (body.rstrip() if _RULE.fullmatch(last) else above), links[::-1]
        elif line.strip():
            break
    return "\n".join(lines), []
