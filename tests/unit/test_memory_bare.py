"""The short ways through a large memory, nodes without objects and front matter by patterns, lead where the long do."""

from __future__ import annotations

import datetime
import json
from typing import Any

import pytest
import tomli
from hypothesis import given, settings
from hypothesis import strategies as st

from amybuild.errors import InputError
from amybuild.memory.bare import Bare, bare_from, bare_of, bare_of_json
from amybuild.memory.entry import entry_of, unpacked
from amybuild.memory.front import fields_of
from amybuild.memory.node import Node, from_fields
from tests.unit.test_memory_node import nodes

TEXTS = st.text(st.characters() | st.sampled_from('"\\/\r\n\t\x00\x7f\u2028\ud800'), max_size=12)
KEYS = st.sampled_from(["a", "a/b", "c#d", "é", "a.md#x", "", "..", " a", "a\r\nb#c\r\n", "a#\ud800"]) | TEXTS
NUMBERS = (
    st.floats() | st.integers() | st.sampled_from([0.0, -0.0, 0.01, 1, 0.5, 1e308, 1 << 62, 1 << 63, 10**400, True])
)
ODD = st.none() | st.booleans() | NUMBERS | TEXTS | st.lists(TEXTS, max_size=1)
DAYS = st.sampled_from([datetime.date(2025, 1, 2), datetime.datetime(2025, 1, 2, 3), datetime.time(1)])
LINKS = st.lists(
    KEYS
    | st.fixed_dictionaries({}, optional={"target": KEYS, "strength": NUMBERS | st.just(0.5), "kind": TEXTS | ODD})
    | ODD,
    max_size=2,
)
FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "type": TEXTS | st.just("daily"),
        "weight": NUMBERS,
        "created": TEXTS | DAYS,
        "provenance": TEXTS,
        "version": NUMBERS | st.just(3),
        "links": LINKS,
    },
) | st.dictionaries(st.sampled_from(["type", "weight", "created", "version", "links", "examples", "kind"]), ODD)


def told(make: Any, *args: Any) -> Any:
    try:
        return make(*args)
    except InputError as error:
        return (error.what, error.where, error.remedy)


def utf8(text: str) -> str:
    return text.encode(errors="ignore").decode()


def same(bare: Bare | Any, node: Node | Any) -> None:
    if not isinstance(node, Node):
        assert bare == node
        return
    assert bare.canonical() == node.canonical()
    assert unpacked(node.key, bytes.fromhex(node.digest), bare.entry()) == entry_of(node)
    again = bare.node("here", 3)
    assert (again, again.digest, again.source, again.line) == (node, node.digest, "here", 3)
    assert repr(again.links) == repr(node.links)


@given(nodes)
def test_a_node_as_a_tuple_is_that_node(node: Node) -> None:
    same(bare_from(node), node)


@settings(max_examples=400)
@given(KEYS, TEXTS, FIELDS, st.none() | TEXTS)
def test_any_fields_are_the_same_node_or_the_same_error(key: str, content: str, fields: Any, examples: Any) -> None:
    content, examples = utf8(content), examples and utf8(examples)  # from_json refuses, from_fields was never given
    node = told(lambda: from_fields(key, content, fields, examples=examples))
    same(told(bare_of, key, content, fields, examples), node)
    value = {**fields, "key": key, "content": content, "examples": examples}
    same(told(bare_of_json, value), told(Node.from_json, value))


@given(ODD | st.dictionaries(st.sampled_from(["key", "content", "examples", "type"]), ODD))
def test_any_json_is_the_same_node_or_the_same_error(value: Any) -> None:
    same(told(bare_of_json, value), told(Node.from_json, value))


def test_what_is_plain_takes_the_short_way(monkeypatch: pytest.MonkeyPatch) -> None:
    def long(*args: Any, **named: Any) -> None:
        raise AssertionError

    monkeypatch.setattr("amybuild.memory.bare.from_fields", long)
    monkeypatch.setattr("amybuild.memory.front.tomli.loads", long)
    front = 'type = "daily"\nweight = 1\ncreated = 2025-01-02\nlinks = [\n  { target = "b", strength = 0.5 },\n]'
    fields = {"type": "daily", "weight": 1, "created": datetime.date(2025, 1, 2)}
    assert fields_of(front) == {**fields, "links": [{"target": "b", "strength": 0.5}]}
    found = bare_of("a", "Täxt.", fields_of(front))
    assert found == ("a", "daily", "Täxt.", (("b", 0.5, "link"),), 1.0, "2025-01-02", None, 1, None)
    assert bare_of_json(json.loads(found.canonical())) == found


VALUES = [
    *(
        '"daily"',
        '""',
        '"a\tb"',
        '"é"',
        r'"a\"b"',
        '"a\\tb"',
        "'x'",
        '"x',
        "true",
        "0",
        "-1",
        "+1",
        "01",
        "1_0",
        "0.50",
    ),
    *("1.", ".5", "1e3", "inf", "nan", "9" * 18, "9" * 30, "0." + "1" * 50, "2025-01-02", "2025-02-31", "0000-01-01"),
    *("2025-01-02T03:04:05", "2025-01-02 03:04", "[]", "[ ]", "[,]", '["a"]', "[1]", "{ a = 1 }", "٣", "\u2028"),
    *('[{ target = "a" }]', '[{target="a",strength=1}, {target = "b", kind = "x"}]', '[{ target = "a" },,]'),
    *(
        '[\n  { target = "a", strength = 0.5 }, # no\n]',
        '[\n { target = "a", strength = 0.5 },\n\n { target = "b" }\n]',
    ),
    *('[{ target = "a", kind = "" }]', '[{ target = "a", target = "b" }]', '[{ target = "]" }]', '[{ target = "a", }]'),
    *('[{ target = "a" } { target = "b" }]', '[{\ntarget = "a" }]', '[{ target = "a", strength = .5 }]', "[[1]]"),
]
JOINS = st.sampled_from([" = ", "=", "  =  ", " =\n", "\t=", ""])
NAMES = st.sampled_from(["type", "weight", "links", "a", "A", "a-b", '"a"', "", "a.b"])
ENDS = st.sampled_from(["\n", "\n\n", " \n", " # said\n", "", "\r\n", "\t\n", " x\n"])
ROWS = st.tuples(NAMES, JOINS, st.sampled_from(VALUES), ENDS).map("".join)


def said(read: Any, front: str) -> str:
    try:
        return repr(read(front))
    except ValueError as error:
        return f"{type(error)} {error}"


@settings(max_examples=600)
@given(st.lists(ROWS | st.sampled_from(["[[links]]\n", "\n", "# x\n"]), max_size=4).map("".join))
def test_front_matter_is_what_toml_says(front: str) -> None:
    assert said(fields_of, front) == said(tomli.loads, front)


@pytest.mark.parametrize("value", VALUES)
def test_each_value_is_what_toml_says(value: str) -> None:
    for front in (f"a = {value}", f"a = {value}\nb = 1\n"):
        assert said(fields_of, front) == said(tomli.loads, front)
