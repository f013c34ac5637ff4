"""What holds for every memory graph: a source read, written and read again is the same nodes, however they are read."""

from __future__ import annotations

import contextlib
import itertools
import os
from pathlib import Path

import pytest
import tomli
from hypothesis import given, settings
from hypothesis import strategies as st

from amybuild.errors import InputError
from amybuild.memory.emotion import line_tags, split_tags
from amybuild.memory.graph import build_graph, read_graph
from amybuild.memory.jsonl import write_jsonl
from amybuild.memory.markdown import split_front_matter
from amybuild.memory.node import Link, Node
from amybuild.memory.reading import Reading
from amybuild.value import values
from tests.unit.test_memory_node import nodes

words = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r"), max_size=30)
lines = st.sampled_from(
    ["+++", "+++ ", "# x", "```dialogue", "warmth:9 clarity:10", "", "## a", "plain", "++++", "\ufeff"]
)
contents = words | st.lists(lines | words, max_size=8).map("\n".join)
graphs = st.lists(
    st.builds(lambda node, content: Node(**{**vars_of(node), "content": content, "examples": None}), nodes, contents),
    min_size=1,
    max_size=5,
    unique_by=lambda node: node.key,
)


TIMES = itertools.count(10**18)  # no two files of these tests have the same stamp, however soon one follows the other


def vars_of(node: Node) -> dict[str, object]:
    return values(node)


def as_markdown(node: Node) -> str:
    """A node as its owner would write it."""

    def quoted(text: str) -> str:
        return '"' + "".join(c if c.isprintable() and c not in '"\\' else f"\\U{ord(c):08x}" for c in text) + '"'

    rows = [f"type = {quoted(node.type)}", f"weight = {node.weight!r}", f"version = {node.version}"]
    rows += [
        f"{name} = {quoted(text)}" for name in ("created", "provenance") if (text := getattr(node, name)) is not None
    ]
    for link in node.links:
        rows += ["[[links]]", f"target = {quoted(link.target)}", f"strength = {link.strength!r}"]
        rows += [f"kind = {quoted(link.kind)}"]
    return "+++\n" + "\n".join(rows) + "\n+++\n" + node.content


def write(root: Path, some: list[Node]) -> None:
    (root / "nodes.jsonl").write_bytes(write_jsonl(some))
    for node in some:
        path = root / "memory" / f"{node.key}.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(as_markdown(node), newline="")
        os.utime(path, ns=(0, next(TIMES)))
    os.utime(root / "nodes.jsonl", ns=(0, next(TIMES)))


@settings(max_examples=50)
@given(graphs)
def test_read_write_read_is_the_identity(tmp_path_factory: pytest.TempPathFactory, some: list[Node]) -> None:
    root, other = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    write(root, some)
    graph = build_graph(some)
    for source in ("memory", "nodes.jsonl"):
        first = read_graph(source, root)
        assert dict(first.nodes) == dict(graph.nodes)
        assert (first.digest, first.index) == (graph.digest, graph.index)
        write(other, list(first.nodes.values()))
        again = read_graph(source, other)
        assert list(again.nodes.items()) == list(first.nodes.items())
        assert [node.canonical() for node in again.nodes.values()] == [
            node.canonical() for node in graph.nodes.values()
        ]
    assert (root / "nodes.jsonl").read_bytes() == (other / "nodes.jsonl").read_bytes()


@settings(max_examples=50)
@given(graphs, st.data())
def test_a_second_reading_is_a_first_one(
    tmp_path_factory: pytest.TempPathFactory, some: list[Node], data: st.DataObject
) -> None:
    """However the nodes change between two readings, and whatever the first one kept."""
    root = tmp_path_factory.mktemp("graph")
    write(root, some)
    known = {}
    for source in ("memory", "nodes.jsonl"):
        reading = Reading()
        read_graph(source, root, reading)
        known[source] = reading.rows(1 << 62)
    for path in (root / "memory").rglob("*.md"):
        if data.draw(st.booleans()):
            path.unlink()
    left = {node.key for node in some if (root / "memory" / f"{node.key}.md").exists()}
    more = [node for node in data.draw(graphs) if node.key not in left]
    write(root, [node for node in some if node.key in left] + more)
    for source in ("memory", "nodes.jsonl"):
        second, fresh = read_graph(source, root, Reading(known[source])), read_graph(source, root)
        assert list(second.nodes.items()) == list(fresh.nodes.items())
        assert (second.digest, second.index, second.warnings) == (fresh.digest, fresh.index, fresh.warnings)


@given(contents)
def test_front_matter_and_content_are_the_text(text: str) -> None:
    with contextlib.suppress(InputError):
        front, content, line = split_front_matter(text)
        assert "\n".join(text.split("\n")[line - 1 :]) == content
        assert front is not None or content == text


tags = st.from_regex(r"[a-z][a-z_]{0,7}:(10|[0-9])", fullmatch=True)


@given(contents, st.lists(st.lists(tags, min_size=1, max_size=3).map(" ".join), max_size=3))
def test_tag_lines_are_split_off_any_text(text: str, added: list[str]) -> None:
    """The parser of tag lines takes any text; what it leaves ends in no tag line, and nothing before one is lost."""
    bare, scores = split_tags(text)
    assert text.startswith(bare)
    last = bare.rsplit("\n", 1)[-1]
    assert bare == "" or (last.strip() and line_tags(last) is None)
    assert all(0 <= score <= 10 for score in scores.values())
    assert split_tags("\n".join([bare, *added]))[0] == bare
    assert split_tags(bare) == (bare, {})


def test_the_writer_of_this_test_writes_toml() -> None:
    node = Node("a", content="x", links=(Link("b", 0.5),), created="\u2028\x7f'\"\\", weight=0.1)
    assert tomli.loads(as_markdown(node).split("+++")[1])["created"] == node.created
