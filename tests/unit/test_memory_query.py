"""The query language: what it selects, in which order, where its errors point, and its laws on random graphs."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amybuild.memory.graph import MemoryGraph, build_graph
from amybuild.memory.links import spread
from amybuild.memory.node import Link, Node
from amybuild.memory.query import QueryError, parse_query
from amybuild.value import replace

NODES = (
    Node("core", content="Too fast.\n## voice\nx", links=(Link("journal/j-1", 0.9), Link("journal/j-2#x", 0.4))),
    Node("journal/j-1", "episodic", "Boat\nyard.", (Link("journal/j-2", 0.3),), 0.2, "2025-03-01T10:00:00+00:00"),
    Node("journal/j-2", "episodic", "The boat yard, and boats.\n\nwarmth:9", weight=0.6, created="2025-03-14"),
    Node("journal#j-3", "daily", "Do not panic (ever).", weight=0.6, provenance="agent:x", version=3),
    Node("people/t", content="He builds.", links=(Link("core", 0.5), Link("gone")), created="some day"),
)
C, J1, J2, J3, T = (node.key for node in NODES)


def graph() -> MemoryGraph:
    return build_graph(NODES, "memory")


@pytest.mark.parametrize(
    ("query", "keys"),
    [
        ("all", [C, J3, J1, J2, T]),
        ("*", [C, J3, J1, J2, T]),
        ("key:journal/*", [J1, J2]),
        ("key:journal#j-*", [J3]),
        ("key ~ 'journal?j-*' | key != journal/j-1", [J3, J2]),
        ("all | type:episodic | weight:>0.5", [J2]),
        ("type = daily", [J3]),
        ("weight:<=0.2", [J1]),
        ("weight:0.6", [J3, J2]),
        ("match:boat yard", [J1, J2]),
        ('match:"do not" and type:daily', [J3]),
        ("match:do not panic", [J3]),
        ("match:'panic (ever)'", [J3]),
        ("type:semantic | key:journal/*", []),
        ("not type:episodic", [C, J3, T]),
        ("type:daily or type:episodic and weight:<0.5", [J3, J1]),
        ("(type:daily or type:episodic) and weight:>0.5", [J3, J2]),
        ("not (type:episodic or match:panic)", [C, T]),
        ("all | sort:weight desc | limit:2", [C, T]),
        ("sort weight asc | limit 1", [J1]),
        ("sort:created", [J2, J1, C, J3, T]),
        ("sort:timestamp asc", [J1, J2, C, J3, T]),
        ("age:<12d", [J2]),
        ("age:>1w", [J1]),
        ("all | type:episodic | age:<7d | key:journal* | sort:weight desc | limit:20", [J2]),
        ("created:2025-03", [J1, J2]),
        ("created:2025-03-01", [J1]),
        ("created:2025-W09", [J1]),  # the week of Monday, 24 February
        ("created:2025W11", [J2]),
        ("created:>2025-W09", [J2]),
        ("created:<=2025-W10 and created:2025", [J1]),
        ("created:2025-W11-5", [J2]),
        ("created:2025-W11-4", []),
        ("created:>2025-03-01", [J2]),
        ("created:>=2025 and created:<2025-03-14", [J1]),
        ("created != 2025-03-14", [J1]),
        ("emotion:>=8", [J2]),
        ("content-len:>30 or key-len:<5", [C, J2]),
        ("provenance:agent:x", [J3]),
        ("version > 1", [J3]),
        ("degree > 1 | sort degree", [C, J1, J2]),
        ("degree:0", [J3]),
        ("neighbours:core", [J1, T, J2]),
        ("neighbors:core#voice, min_strength=0.5", [J1, T]),
        ("type:episodic | neighbours core | limit:1", [J1]),
        ("key:people/* | spread, max_hops=1", [T, C]),
        ("key:people/* | spread, max_hops=2, edge_decay=1", [T, C, J1, J2]),
        ("match:panic | spread", [J3]),
    ],
)
def test_queries_select(query: str, keys: list[str]) -> None:
    assert [node.key for node in graph().select(query)] == keys


@pytest.mark.parametrize(
    ("query", "column", "says"),
    [
        ("", 1, "empty stage"),
        ("all | ", 7, "empty stage"),
        ("all || all", 6, "empty stage"),
        ("all | typ:episodic", 7, "did you mean 'type'"),
        ("all | (not  typ > 3)", 13, "did you mean 'type'"),
        ("srot:weight", 1, "did you mean 'sort'"),
        ("all |weight:>x", 14, "not a number"),
        ("weight:>1e999", 9, "not a number"),
        ("key:", 5, "'key:' needs a value"),
        ("key:''", 5, "'key:' needs a value"),
        ("(type:a", 8, "ends too early"),
        ("type:a)", 7, r"'\)' does not fit"),
        ("type:a sort:weight", 8, "does not fit here(.|\n)*put '|'"),
        ("match:boat type:a", 12, "put '|' or 'and'"),
        ("match:'boat", 7, "quote is not closed"),
        ("sort:wieght", 6, "did you mean 'weight'"),
        ("sort:weight down", 13, "asc or desc"),
        ("limit:0", 7, "1 or more"),
        ("limit:many", 7, "not a whole number"),
        ("spread, hops=3", 9, "did you mean 'max_hops'"),
        ("spread, max_hops=99", 9, r"1\.\.20"),
        ("neighbours:crone", 12, "did you mean 'core'"),
        ("age:7d", 5, "age:<7d"),
        ("age:<7", 6, "not an age"),
        ("created:>=March", 11, "not a date"),
        ("created:2025-13", 9, "not a date"),
        ("type:>a", 7, "does not compare texts"),
        ("match:>a", 8, "no meaning"),
        ("weight ~ 3", 10, "does not compare numbers"),
        ("all | not-visited:linker,7d", 7, "the graph does not hold it"),
        ("sort:priority", 6, "the graph does not hold it"),
        ("spectral,k=20", 1, "the graph does not hold it"),
        ("not " * 60 + "all", 205, "nested too deeply"),
    ],
)
def test_a_bad_query_points_at_the_column(query: str, column: int, says: str) -> None:
    with pytest.raises(QueryError, match=rf"query, column {column}: (.|\n)*{says}") as caught:
        graph().select(query)
    lines = caught.value.what.split("\n")
    assert lines[2] == " " * (column + 1) + "^"
    assert caught.value.column == column


PIECES = (
    *("key:", "type:episodic", "match:", "|", "weight", ">", "=", "~", "all", "*", "[", "x", "1", "and", "or", "not"),
    *("(", ")", "sort", ":", "limit", "spread", "neighbours", ",", "max_hops=2", "desc", "'", '"a b"', "age:<7d"),
    *("created:", "2025-02", "degree"),
)


@given(st.text(max_size=40) | st.lists(st.sampled_from(PIECES), max_size=12).map(" ".join))
def test_a_query_is_answered_or_refused(text: str) -> None:
    with contextlib.suppress(QueryError):
        parse_query(text)
        found = [node.key for node in graph().select(text)]
        assert len(found) == len(set(found))


tests = st.sampled_from(["type:episodic", "weight:>0.5", "key:journal*", "match:boat", "degree > 1", "age:<7d"])
keys = st.sampled_from(["a", "b", "c", "d/e", "d/f"])
nodes = st.lists(
    st.builds(
        Node,
        key=keys,
        type=st.sampled_from(["semantic", "episodic"]),
        content=st.sampled_from(["a boat", "nothing"]),
        links=st.lists(st.builds(Link, keys, st.floats(0.01, 1.0)), max_size=3).map(tuple),
        weight=st.floats(0, 1),
        created=st.none() | st.dates().map(str),
    ),
    min_size=1,
    unique_by=lambda node: node.key,
)


def selected(query: str, some: list[Node]) -> set[str]:
    return {node.key for node in build_graph(some).select(query)}


@given(nodes, tests, tests)
def test_boolean_laws(some: list[Node], one: str, two: str) -> None:
    a, b = selected(one, some), selected(two, some)
    assert selected(f"{one} and {two}", some) == selected(f"{one} | {two}", some) == a & b
    assert selected(f"{one} or {two}", some) == a | b
    assert selected(f"not {one}", some) == {node.key for node in some} - a
    assert selected(f"not ({one} or {two})", some) == selected(f"not {one} and not {two}", some)


@given(nodes, st.integers(1, 4), st.sampled_from(["weight", "created", "key", "degree"]))
def test_a_limit_is_the_head_of_what_is_sorted(some: list[Node], most: int, field: str) -> None:
    graph = build_graph(some)
    whole = graph.select(f"sort:{field} asc")
    assert graph.select(f"sort:{field} asc | limit:{most}") == whole[:most]
    assert build_graph(reversed(some)).select(f"sort:{field} asc") == whole  # the order of reading is no part of it
    assert {node.key for node in whole} == {node.key for node in some}


@given(nodes)
def test_neighbours_are_each_others(some: list[Node]) -> None:
    graph = build_graph(some)
    for key in graph.nodes:
        near = graph.select(f"neighbours:{key}")
        strengths = [graph.net[key][node.key] for node in near]
        assert strengths == sorted(strengths, reverse=True)
        assert key not in {node.key for node in near}
        assert all(key in {back.key for back in graph.select(f"neighbours:{node.key}")} for node in near)


@given(nodes, st.integers(1, 3), st.floats(0.1, 1.0))
def test_activation_grows_with_hops_and_never_past_its_seed(some: list[Node], hops: int, decay: float) -> None:
    net = build_graph(some).net
    seeds = {min(node.key for node in some): 1.0}
    less, more = spread(net, seeds, hops, decay, 0.001), spread(net, seeds, hops + 1, decay, 0.001)
    assert all(more[key] >= score for key, score in less.items())
    assert max(more.values()) == 1.0
    for key, score in spread(net, seeds, 1, decay, 0.001).items():
        assert key in seeds or score == pytest.approx(net[next(iter(seeds))][key] * decay)


@given(nodes, nodes, tests)
def test_one_node_that_comes_goes_or_changes(some: list[Node], others: list[Node], query: str) -> None:
    """A query without links or ages selects a node by that node alone: an edit elsewhere selects nothing else."""
    if "degree" in query or "age" in query:
        return
    before, new = {node.key: node for node in some}, others[0]
    after = before | {new.key: new}
    was, now = ({node.key: node.digest for node in build_graph(g.values()).select(query)} for g in (before, after))
    touched = new.key in was.keys() | now.keys() and was.get(new.key) != now.get(new.key)
    assert (was != now) == touched
    assert {key: d for key, d in was.items() if key != new.key} == {k: d for k, d in now.items() if k != new.key}


def test_ages_count_from_the_newest_node_and_no_clock() -> None:
    old = [replace(node, created=f"1999-01-{day:02d}") for day, node in enumerate(NODES, start=1)]
    assert selected("age:<2d", old) == {J3, T}
    assert selected("age:<2d", [replace(node, created=None) for node in NODES]) == set()


def test_what_every_steering_target_asks_needs_no_parser() -> None:
    script = "import sys; from amybuild.memory.query import parse_query as p; p('type:episodic'); p('all'); p(' * ')\n"
    script += "assert 'lark' not in sys.modules; p('type:episodic | limit:1'); assert 'lark' in sys.modules"
    root = Path(__file__).parent.parent.parent
    done = subprocess.run([sys.executable, "-c", script], cwd=root, env={**os.environ, "PYTHONPATH": str(root)})
    assert done.returncode == 0


def test_what_takes_everything_looks_at_nothing() -> None:
    assert parse_query("all | * | all") == ()
    assert len(parse_query(" | ".join([*["all"] * 3000, "limit:2", "*"]))) == 1


WORDS = ["a", "A", "aa", "s.", "K", "(9", "_", "é", "\u017f", "\u212a"]  # the last two are an s and a k in any case


@given(st.lists(st.sampled_from(WORDS), min_size=1, max_size=2), st.text("aAsSkK_9 \n\t.(é\u017f", max_size=6))
def test_a_phrase_is_found_between_words_in_any_case(words: list[str], text: str) -> None:
    """As one pattern over letters of any case says, which a search through a large memory has no time for."""
    rule = r"(?<!\w)" + r"\s+".join(map(re.escape, words)) + r"(?!\w)"
    some = build_graph([Node("a", content=text)])
    assert bool(some.keys(f'match:"{" ".join(words)}"')) == bool(re.search(rule, text, re.IGNORECASE))
