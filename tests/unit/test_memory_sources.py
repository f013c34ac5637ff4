"""parse -> write -> parse is the identity for every source of memory nodes, and no text makes a parser stumble."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from amybuild.errors import InputError
from amybuild.memory import knowledge, tools
from amybuild.memory.graph import read_graph
from amybuild.memory.jsonl import write_jsonl
from amybuild.memory.node import Link, Node, clean
from amybuild.memory.reading import Reading
from amybuild.memory.snapshot import pack, shelve_files
from amybuild.memory.write import write_folder
from tests.servers.original import neighbours, render

# other processes may hold the machine: no example is a failure for being slow
SLOWLY = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
TEXT = st.text(max_size=60).map(clean)
MARKS = [
    "",
    "+++",
    "---",
    "Links:",
    "## Links",
    "joy:9",
    "```dialogue",
    "- `a` 0.5",
    "(0.50) b",
    "\ufeffx",
    '"',
    "\x7f",
]
LINES = st.lists(st.sampled_from(MARKS) | TEXT, max_size=5).map("\n".join).map(clean)
NAME = st.text(st.characters(codec="utf-8", exclude_categories=("Cs",)), min_size=1, max_size=12)


def is_key(text: str) -> bool:
    try:
        Node(text)
        Link(text)
    except InputError:
        return False
    return True


PART = st.text(st.characters(categories=("L", "N", "P", "S"), exclude_characters="/"), min_size=1, max_size=12)
KEY = (
    st.lists(PART | st.sampled_from(["README", "_a", "a.md", "c#1"]), min_size=1, max_size=2)
    .map("/".join)
    .filter(is_key)
)
STRENGTH = st.floats(0.01, 1.0)


@st.composite
def nodes(draw: st.DrawFn, key: st.SearchStrategy[str] = KEY, links: bool = True) -> Node:
    return Node(
        key=draw(key),
        type=draw(st.sampled_from(["semantic", "episodic"]) | NAME),
        content=draw(LINES),
        links=tuple(draw(st.lists(st.builds(Link, KEY, STRENGTH, NAME), max_size=3))) if links else (),
        weight=draw(st.floats(0, 1e9)),
        created=draw(st.none() | st.just("2025-03-14") | TEXT),
        provenance=draw(st.none() | TEXT),
        version=draw(st.integers(0, 2**40)),
        examples=draw(st.none() | LINES),
    )


def by_key(found: Iterable[Node]) -> list[Node]:
    return sorted({node.key: node for node in found}.values(), key=lambda node: node.key)


def parsed(files: dict[str, bytes], source: str) -> list[Node]:
    with tempfile.TemporaryDirectory() as name:
        for path, data in files.items():
            (Path(name) / path).parent.mkdir(parents=True, exist_ok=True)
            (Path(name) / path).write_bytes(data)
        return list(read_graph(source, Path(name)).nodes.values())


@given(st.lists(nodes(), min_size=1, max_size=4).map(by_key))
@SLOWLY
def test_jsonl(given_nodes: list[Node]) -> None:
    assert parsed({"n.jsonl": write_jsonl(given_nodes)}, "n.jsonl") == given_nodes


@given(st.lists(nodes(), max_size=4).map(by_key))
@SLOWLY
def test_a_snapshot(given_nodes: list[Node]) -> None:
    files = dict(pack({node.key: node for node in reversed(given_nodes)}))
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: os.path.join(folder, name) for name in files}
        for name, data in files.items():
            Path(paths[name]).write_bytes(data)
        found = shelve_files(paths, Reading())
        assert list(found.values()) == given_nodes
        assert dict(pack(found)) == files


@given(st.lists(nodes(), min_size=1, max_size=3).map(by_key))
@SLOWLY
def test_a_folder_of_markdown(given_nodes: list[Node]) -> None:
    writable = []
    for node in given_nodes:
        try:
            write_folder([node])
        except InputError:
            continue
        writable.append(node)
    if not writable:
        return
    files = {f"memory/{name}": data for name, data in write_folder(writable).items()}
    found = parsed(files, "memory")
    assert found == writable
    assert write_folder(found) == write_folder(writable)


@given(st.binary(max_size=200) | LINES.map(lambda text: f"+++\n{text}\n+++\n{text}".encode()))
@SLOWLY
def test_a_file_of_any_bytes_is_a_node_or_refused(data: bytes) -> None:
    try:
        (node,) = parsed({"memory/a.md": data}, "memory")
    except InputError:
        return
    written = {f"memory/{name}": data for name, data in write_folder([node]).items()}
    assert parsed(written, "memory") == [node]


# the reference server's knowledge graph

ENTITY = st.fixed_dictionaries(
    {"name": st.text(max_size=20), "entityType": st.text(max_size=8), "observations": st.lists(st.text(max_size=30))}
)
RELATION = st.fixed_dictionaries({name: st.text(max_size=20) for name in ("from", "to", "relationType")})
GRAPH = st.fixed_dictionaries({"entities": st.lists(ENTITY, max_size=4), "relations": st.lists(RELATION, max_size=4)})
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["entities", "relations", "name", "observations", "from", "to"]), inner)
    ),
    max_leaves=12,
)


@given(GRAPH | JSON)
@SLOWLY
def test_a_knowledge_graph(graph: Any) -> None:
    try:
        found = knowledge.nodes_of(graph)
    except InputError:
        return
    assert knowledge.nodes_of(knowledge.graph_of(found)) == found


@given(st.text(min_size=1, max_size=20), st.text(min_size=1, max_size=20))
@SLOWLY
def test_entities_of_different_names_have_different_keys(one: str, other: str) -> None:
    assert unquote(knowledge.key_of(one)) == one
    assert Link(knowledge.key_of(one)).target == knowledge.key_of(one)
    assert (knowledge.key_of(one) == knowledge.key_of(other)) == (one == other)


# the original's tools

WORD = st.from_regex(r"[a-z][a-z0-9-]{0,8}(#[a-z]{1,4}-[0-9]{1,4})?", fullmatch=True)
LINK = st.builds(Link, WORD, st.integers(1, 100).map(lambda n: n / 100), st.sampled_from(["link", "auto", "derived"]))


def unique(links: list[Link]) -> tuple[Link, ...]:
    found = {link.target: link for link in links}.values()
    return tuple(sorted(found, key=lambda link: (-link.strength, link.target)))


PLAIN = LINES.map(str.rstrip)


@given(PLAIN, st.lists(LINK, max_size=4).map(unique))
@SLOWLY
def test_a_node_of_the_original_tools(content: str, links: tuple[Link, ...]) -> None:
    row = Node("a", content=content, links=links).to_json()
    text = "\n".join(f"  {link['strength']:.2f}  {link['target']} [{link['kind']}]" for link in neighbours(row))
    assert tuple(tools.links_in(text)) == links
    again, _ = tools.split_footer(clean(render(row)), {link.target for link in links})
    if content == tools.split_footer(content, {link.target for link in links})[0]:  # its own text ends in no links
        assert again == content


@given(st.lists(WORD, unique=True, max_size=5))
@SLOWLY
def test_a_listing_of_the_original_tools(keys: list[str]) -> None:
    for form in ("{}", "- {}", "* `{}`", "1. {}", "{}  (0.50)", "`{}` semantic, 7 chars", "{}\t0.3", "{}.md"):
        text = "\n".join([f"{len(keys)} nodes", "", "Keys:", *map(form.format, keys), ""])
        assert tools.keys_in(text) == keys


FORMS = (
    "- `b` (0.50)",
    "0.50 b",
    "(0.50) `poc-memory render b`",
    "b 0.5",
    "→ b (strength 0.50, link)",
    "* b: .5",
    "b.md [0.50]",
)


@pytest.mark.parametrize("line", FORMS)
def test_a_link_of_the_original_tools(line: str) -> None:
    assert tools.links_in(line) == [Link("b", 0.5)]
    assert tools.split_footer(f"Text.\n\n---\n**Links**\n{line}\n", None) == ("Text.", [Link("b", 0.5)])


@given(st.text(), st.none() | st.sets(WORD, max_size=2))
@SLOWLY
def test_no_text_makes_the_tools_reader_stumble(text: str, known: set[str] | None) -> None:
    tools.links_in(text)
    tools.split_footer(text, known)
    with contextlib.suppress(InputError):
        tools.keys_in(text)
