"""Nodes: round trips, digests, keys, sections."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amybuild.errors import InputError
from amybuild.memory.jsonl import read_jsonl, write_jsonl
from amybuild.memory.node import Link, Node, cut, section, split_key
from amybuild.value import values

names = st.from_regex(r"[a-z][a-z0-9-]{0,8}(/[a-z][a-z0-9-]{0,8})?", fullmatch=True)
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r"), max_size=80)
links = st.builds(Link, names, st.floats(0.01, 1.0), st.sampled_from(["link", "auto", "derived"]))
nodes = st.builds(
    Node,
    key=names,
    type=st.sampled_from(["semantic", "episodic"]),
    content=texts,
    links=st.lists(links, max_size=3).map(tuple),
    weight=st.floats(0, 10),
    created=st.none() | st.just("2025-03-14"),
    provenance=st.none() | st.just("journal"),
    version=st.integers(0, 9),
    examples=st.none() | texts,
)


@given(nodes)
def test_a_node_survives_its_json(node: Node) -> None:
    again = Node.from_json(json.loads(node.canonical()))
    assert again == node
    assert again.canonical() == node.canonical()
    assert again.digest == node.digest


@given(st.lists(nodes, min_size=1, max_size=5, unique_by=lambda node: node.key))
def test_a_jsonl_file_gives_its_nodes_back(tmp_path_factory: pytest.TempPathFactory, some: list[Node]) -> None:
    path = tmp_path_factory.mktemp("graph") / "nodes.jsonl"
    path.write_bytes(write_jsonl(some))
    again = read_jsonl(path, "nodes.jsonl")
    assert again == sorted(some, key=lambda node: node.key)
    assert write_jsonl(again) == path.read_bytes()


@given(nodes, texts)
def test_the_digest_depends_on_the_content_and_not_on_the_place(node: Node, other: str) -> None:
    moved = Node(**{**vars_of(node), "source": "elsewhere.md", "line": 7})
    assert moved.digest == node.digest
    edited = Node(**{**vars_of(node), "content": other})
    assert (edited.digest == node.digest) == (other == node.content)


def vars_of(node: Node) -> dict[str, object]:
    return values(node)


def test_line_endings_change_no_digest() -> None:
    unix = Node.from_json({"key": "a", "content": "one\ntwo\n"})
    assert Node.from_json({"key": "a", "content": "one\r\ntwo\r\n"}).digest == unix.digest


@pytest.mark.parametrize(
    ("typed", "parts"),
    [
        ("core-personality", ("core-personality", None)),
        ("core-personality#voice", ("core-personality", "voice")),
        ("core-personality.md#voice", ("core-personality", "voice")),
        ("people/tomas.md", ("people/tomas", None)),
    ],
)
def test_keys_are_split(typed: str, parts: tuple[str, str | None]) -> None:
    assert split_key(typed) == parts


@pytest.mark.parametrize("typed", ["", "#voice", "a#", "../a", "a//b", " a", "a\n", "/a", "x" * 600])
def test_what_is_no_key(typed: str) -> None:
    with pytest.raises(InputError):
        split_key(typed)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ([], "JSON object"),
        ({"content": ""}, "needs a key"),
        ({"key": "a"}, "needs its content"),
        ({"key": "a", "content": "", "wieght": 1}, "weight"),
        ({"key": "a", "content": "", "weight": True}, "weight is not a number"),
        ({"key": "a", "content": "", "weight": float("inf")}, "weight"),
        ({"key": "a", "content": "", "weight": 10**400}, "weight is too large"),
        ({"key": "a", "content": "", "version": 1.5}, "version"),
        ({"key": "a", "content": "", "version": -1}, "version"),
        ({"key": "a", "content": "", "type": ""}, "type"),
        ({"key": "a", "content": "", "created": 3}, "created"),
        ({"key": "a", "content": "", "links": "b"}, "links"),
        ({"key": "a", "content": "", "links": [3]}, "link"),
        ({"key": "a", "content": "", "links": [{"target": "b", "strength": 0}]}, "0.01"),
        ({"key": "a", "content": "", "links": [{"target": "b", "strength": 1.5}]}, "0.01"),
        ({"key": "a", "content": "", "links": [{"target": "b", "strenght": 1}]}, "strength"),
        ({"key": "a", "content": "", "links": [{"strength": 1}]}, "target"),
        ({"key": "a", "content": "", "links": [{"target": "..", "kind": "link"}]}, "in a link"),
        ({"key": "a", "content": "", "links": [{"target": "b", "kind": ""}]}, "kind"),
        ({"key": "a", "content": "\ud800"}, "surrogate"),
    ],
)
def test_a_bad_node_is_refused(value: object, says: str) -> None:
    with pytest.raises(InputError, match=says):
        Node.from_json(value)


PAGE = """\
# Core
intro
## Voice
plain
### Dialogues
```python
## boundaries
```
## My Boundaries ##
firm
# End
bye"""


def test_a_section_ends_at_a_heading_of_its_level_or_above() -> None:
    node = Node("core", content=PAGE)
    assert section(node, "voice") == "plain\n### Dialogues\n```python\n## boundaries\n```"
    assert section(node, "my-boundaries") == section(node, "My Boundaries") == "firm"


def test_a_missing_section_names_the_nearest() -> None:
    with pytest.raises(InputError, match=r"no section 'voise'\n.*did you mean 'voice'"):
        section(Node("core", content=PAGE), "voise")
    with pytest.raises(InputError, match="no '## section' at all"):
        section(Node("core", content="text"), "voice")


def test_a_doubled_section_is_refused() -> None:
    with pytest.raises(InputError, match=r"core\.md:7: section 'a' is there twice"):
        section(Node("core", content="## a\nx\n## A\ny", source="core.md", line=5), "a")


def test_a_cut_section_is_a_node_of_its_own() -> None:
    node = Node("core", content=PAGE, examples="{}", source="core.md", line=4)
    part = cut(node, "my-boundaries")
    assert (part.key, part.content, part.examples) == ("core#my-boundaries", "firm", None)
    assert part.place(1) == "core.md:13"
    other = Node("core", content=PAGE.replace("plain", "plainer"))
    assert cut(other, "my-boundaries").digest == part.digest


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "no memory nodes"),
        (b"\n \n", "no memory nodes"),
        (b'{"key":"a","content":""}\n{"key":"a","content":""}\n', r"g\.jsonl:2: a second node 'a'\n.*line 1"),
        (b'{"key":"a"\n', r"g\.jsonl:1: not JSON"),
        (b'{"key":"a","content":"\xff"}\n', r"g\.jsonl:1: not UTF-8"),
        (b"[" * 200_000, r"g\.jsonl:1: no plain JSON"),
        (b'{"key":"a","content":"","weight":' + b"9" * 5000 + b"}", r"g\.jsonl:1: "),
    ],
)
def test_a_bad_jsonl_file_names_the_line(tmp_path: object, data: bytes, says: str) -> None:
    from pathlib import Path

    path = Path(str(tmp_path)) / "g.jsonl"
    path.write_bytes(data)
    with pytest.raises(InputError, match=says):
        read_jsonl(path, "g.jsonl")
