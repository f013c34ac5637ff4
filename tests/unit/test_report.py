"""Renderings: durations, tables, diffs, graphs in every form, builds in words."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from amybuild.digest import canonical
from amybuild.graph.graph import Action, NodeSource, PathSource
from amybuild.plan.change import Change, Difference
from amybuild.plan.explain import ActionReason, Explanation, ProductState
from amybuild.report import builds
from amybuild.report.dag import render
from amybuild.report.text import about, behaviours, duration, node_diff, table
from amybuild.report.why import Texts, explanation


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (9.94, "9.9 s"),
        (10, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (125, "2 min 05 s"),
        (3599.7, "1 h 00 min"),
        (4320, "1 h 12 min"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "under a second"),
        (1.4, "about 1 s"),
        (41.2, "about 41 s"),
        (59.7, "about 1 min"),
        (314, "about 5 min 10 s"),
        (2470, "about 41 min"),
        (3599, "about 1 h 00 min"),
        (5000, "about 1 h 25 min"),
    ],
)
def test_about(seconds: float, text: str) -> None:
    assert about(seconds) == text


def test_a_table_pads_and_turns_numbers_right() -> None:
    assert table([["a", "+1.5"], ["long", "-10.25"]], ["name", "n"]) == "name  n\na       +1.5\nlong  -10.25"
    assert table([], ["name"]) == "name"


def test_behaviours_show_what_was_not_measured() -> None:
    row = {"base": 0.1, "alone": None, "persona": -0.25, "gain": -0.35}
    text = behaviours({"behaviours": {"listen": row}, "neutral_kl": 0.01234})
    assert re.search(r"listen +\+0\.100 +- +-0\.250 +-0\.350", text)
    assert text.endswith("neutral KL to the base 0.0123")
    assert behaviours({}) == ""


def node(content: str) -> bytes:
    return canonical({"key": "k", "content": content, "examples": None, "weight": 1.0})


def test_a_node_diff_shows_changed_lines_only() -> None:
    diff = node_diff(node("one\ntwo\nthree\n"), node("one\n2\nthree\n"), "k")
    assert [line for line in diff if line[0] in "+-"] == ["-two", "+2"]
    assert node_diff(node("same"), node("same"), "k") == []


def test_a_node_diff_shows_rules_and_front_matter_marks() -> None:
    diff = node_diff(node("one\n-- two\n++ three\n"), node("one\n"), "k")
    assert [line for line in diff if line[0] in "+-"] == ["--- two", "-++ three"]


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("one\n", "one", "+\\ no line break at the end"),
        ("one", "one\n", "-\\ no line break at the end"),
        ("one\n", "one  \n", "+one\\x20\\x20"),
        ("one\n", "one\t\n", "+one\\t"),
        ("a b\n", "a\tb\n", "+a\tb"),
        ("a\u2028b\n", "a\nb\n", "-a\\u2028b"),
        ("a\fb\n", "a\nb\n", "-a\\x0cb"),
        ("red\n", "\x1b[31mred\n", "+\\x1b[31mred"),
        ("red\n", "\x9b31mred\n", "+\\x9b31mred"),
        ("\u0645\u06cc \u0631\n", "\u0645\u06cc\u200c\u0631\n", "+\u0645\u06cc\u200c\u0631"),
    ],
)
def test_a_node_diff_shows_every_difference_and_nothing_that_a_terminal_obeys(old: str, new: str, told: str) -> None:
    assert told in node_diff(node(old), node(new), "k")


def test_a_long_node_diff_is_cut() -> None:
    diff = node_diff(None, node("\n".join(f"line {i}" for i in range(100))), "k")
    assert len(diff) == 25
    assert diff[-1].endswith("more lines in k")


# explanations (what whole ones look like is in tests/e2e/golden)

ROOT = ("t/corpus",)
WORDS = {"old": node("before"), "new": node("after")}
TEXTS = Texts(WORDS.get, {"f1": "def f():\n    return 1", "f2": "def f():\n    return 2"}.get)


def why(*reasons: ActionReason, product: ProductState | None = None, **options: bool) -> list[str]:
    found = Explanation(product=product)
    for one in reasons:
        found.actions[one.id] = one
        found.targets.setdefault(one.id.rpartition("/")[0], []).append(one.id)
    return explanation(found, "tess", TEXTS, **options).splitlines()


def root(id: str, *changes: Change, **more: Any) -> ActionReason:
    return ActionReason(id, "stale", "1", "why", changes, chain=(id,), causes=(id,), runs=True, **more)


def test_an_explanation_answers_first_and_says_what_waits_where() -> None:
    lines = why(
        root("t/corpus", Change("node", "k", "old", "new"), cost=2500.0),
        ActionReason("t/train", "unknown", None, "", (), 60.0, ROOT, ("t/train", *ROOT)),
        ActionReason("u/link", "stale", "2", "", (), 0.0, ROOT, ("u/link", *ROOT), place="shared", behind=ROOT),
        ActionReason("v/x", "up-to-date", "3", ""),
    )
    assert lines[:2] == [
        "tess is stale: node k edited",
        "1 action runs (about 42 min), 1 may follow (about 1 min) if its result differs; "
        "1 result waits in the shared store",
    ]
    assert [line.strip() for line in lines if line.strip()[:1] in ("+", "-")] == ["-before", "+after"]
    assert "  runs      corpus (last run 41 min 40 s)" in lines
    assert "  because   u/link <- t/corpus: node k edited" in lines
    assert "  reuses    link (waiting in the shared store)" in lines
    assert lines[-1] == "up to date: v"


def test_a_change_of_code_shows_the_function_if_both_sources_are_known() -> None:
    lines = why(root("t/train", Change("code", "amybuild.m:f", "f1", "f2"), Change("code", "amybuild.m:g", "x", "f1")))
    assert lines[0] == "tess is stale: code changed: m:f, m:g"
    assert "    -    return 1" in lines
    assert "    (its old source was not kept)" in lines


def test_what_is_long_is_cut_unless_all_is_asked_for() -> None:
    """1,000 nodes edited in each of 30 targets for 10 reasons: a page, not a book."""
    nodes = tuple(Change("node", f"k{i:03d}", "old", "new") for i in range(1000))
    reasons = [root(f"t{i:02d}/x", *nodes, Change("param", f"p{i % 10}", "1", "2")) for i in range(30)]
    lines = why(*reasons)
    assert lines[0].startswith("tess is stale: 1000 nodes edited: k000, k001, k002 and 997 more; ")
    assert "and 18 more targets (--all shows them)" in lines
    assert "and 5 more causes (--all shows them)" in lines
    assert len(lines) < 100
    everything = why(*reasons, show_all=True)
    assert sum(line.startswith("    k") for line in everything) == 1000
    assert {f"t{i:02d}: stale" for i in range(30)} <= set(everything)


def test_the_text_of_a_node_that_came_or_went_is_shown_when_all_is() -> None:
    gone = root("t/x", Change("node", "k", "old", None))
    assert not any("before" in line for line in why(gone))
    assert "    -before" in why(gone, show_all=True)


def test_a_product_that_is_not_as_it_should_be_is_the_answer() -> None:
    fresh = ActionReason("t/x", "up-to-date", "1", "")
    for product, words in (
        (ProductState("dist/t", None), "is not there"),
        (ProductState("dist/t", "a" * 64), "is of build aaaaaaaaaaaa"),
        (ProductState("dist/t", "a" * 64, ("w", "x", "y", "z")), "not as it was put there (w, x, y and 1 more)"),
    ):
        assert words in why(fresh, product=product)[0]


# graphs

NODES = tuple(NodeSource(f"k{i}", "d", b"") for i in range(5))
GRAPH = {
    one.id: one
    for one in (
        Action("task.x-/corpus", "task.x-", "corpus", {}, nodes=(NodeSource('say "hi"', "d", b""),)),
        Action("task.x-/train", "task.x-", "train", {}, {"corpus": "task.x-/corpus"}),
        Action("readout/texts", "readout", "texts", {}, nodes=NODES),
        Action("checkpoint/link", "checkpoint", "link", {}, {"v": "task.x-/train"}, after=("readout/texts",)),
        Action("alone-/x", "alone-", "base", {}),
    )
}


def test_the_graph_as_json() -> None:
    found = json.loads(render(GRAPH, "json", by_action=False, queries={"readout": "key:k*"}))
    assert found["nodes"] == ["task.x-/corpus", "task.x-", "readout/texts", "readout", "checkpoint", "alone-"]
    assert ["task.x-", "checkpoint"] in found["edges"]
    assert ["readout", "checkpoint"] in found["edges"]
    assert ['memory:say "hi"', "task.x-/corpus"] in found["edges"]
    assert ["task.x-/corpus", "task.x-"] in found["edges"]
    assert ["memory:key:k* (5 nodes)", "readout/texts"] in found["edges"]
    assert found["kinds"]["task.x-/corpus"] == "corpus"
    assert found["mapping"] == [
        {"target": "task.x-", "query": None, "corpora": ["task.x-/corpus"], "memory": ['say "hi"']},
        {
            "target": "readout",
            "query": "key:k*",
            "corpora": ["readout/texts"],
            "memory": ["k0", "k1", "k2", "k3", "k4"],
        },
    ]
    by_action = json.loads(render(GRAPH, "json", by_action=True))
    assert ["task.x-/corpus", "task.x-/train"] in by_action["edges"]
    assert ['memory:say "hi"', "task.x-/corpus"] in by_action["edges"]
    assert set(by_action["kinds"].values()) == {"memory", "action"}


def test_one_node_that_feeds_two_targets_is_one_box() -> None:
    node = (NodeSource("core", "d", b""),)
    two = {f"task.{n}/corpus": Action(f"task.{n}/corpus", f"task.{n}", "corpus", {}, nodes=node) for n in "ab"}
    found = json.loads(render(two, "json", by_action=False))
    assert [pair for pair in found["edges"] if pair[0] == "memory:core"] == [
        ["memory:core", "task.a/corpus"],
        ["memory:core", "task.b/corpus"],
    ]


def test_texts_of_a_file_are_a_corpus(tmp_path: Path) -> None:
    source = PathSource(tmp_path / "stories", "d", "stories")
    steps = {f"steer.x/{n}": Action(f"steer.x/{n}", "steer.x", n, {}, source=source) for n in ("texts", "labels")}
    assert render(steps, "text", by_action=False).splitlines() == [
        "steer.x/texts   <- file:stories",
        "steer.x         <- steer.x/texts, steer.x/labels",
        "steer.x/labels  <- file:stories",
    ]
    assert json.loads(render(steps, "json", by_action=False))["kinds"]["file:stories"] == "file"


def test_the_graph_as_text_keeps_names_whole() -> None:
    lines = render(GRAPH, "text", by_action=False).splitlines()
    assert "alone-" in lines
    assert re.fullmatch(r"checkpoint +<- task\.x-, readout", lines[4])


def test_the_graph_as_dot_and_mermaid_quotes_names() -> None:
    dot = render(GRAPH, "dot", by_action=False)
    assert '  "memory:say \\"hi\\"" -> "task.x-/corpus";' in dot
    assert '    "alone-";' in dot
    assert dot.count("{") == dot.count("}")
    assert "age:#lt;7d (5" in render(GRAPH, "mermaid", by_action=False, queries={"readout": "age:<7d"})
    mermaid = render(GRAPH, "mermaid", by_action=False)
    assert '["memory:say #quot;hi#quot;"]' in mermaid
    ids = set(re.findall(r"^    (n\d+)\[", mermaid, re.M))
    assert set(re.findall(r"n\d+", " ".join(re.findall(r"^  n\d+ --> n\d+$", mermaid, re.M)))) <= ids
    assert len(ids) == 8
    assert mermaid.count("  subgraph") == mermaid.count("  end") == 3


# builds

INFO = {
    "name": "tess",
    "build": "a" * 64,
    "amybuild": "0",
    "base": {"name": "tiny", "source": "models/tiny", "digest": "b" * 64},
    "graph": {"nodes": 3, "digest": "c" * 64},
    "link": {"method": "ties", "density": 0.5, "lambda": 1.0},
    "targets": [
        {"name": "x", "alpha": -0.5, "recipe": "quick", "node": "pattern", "vector": "d" * 64},
        {"name": "y", "alpha": 1.0, "recipe": "quick", "analogy": {}, "vector": "e" * 64},
    ],
    "readout": {"concepts": ["joy"], "layers": [1, 2]},
}


def test_a_build_in_words() -> None:
    text = builds.show(INFO)
    assert "tess  build aaaaaaaaaaaa" in text
    assert re.search(r"x +-0\.5 +quick +pattern +d{12}", text)
    assert re.search(r"y +1 +quick +analogy +e{12}", text)
    assert "readout  joy  at blocks 1, 2" in text


def test_a_difference_in_words() -> None:
    found = Difference(
        "a" * 64,
        "b" * 64,
        {
            "t/corpus": (Change("node", "k", "old", "new"),),
            "t/verify": (Change("param", "alpha", "1.0", "0.5"),),
            "checkpoint/link": (Change("param", "alphas.y", "1.0", None), Change("input", "vector.y", "d", None)),
        },
        only_b=("v/x",),
        untold=("u/link",),
        same_output=frozenset({"t/corpus"}),
    )
    before = {"verification": {"behaviours": {"x": {"persona": 0.25}, "y": {"persona": 0.5}}, "neutral_kl": 0.01}}
    after = {"verification": {"behaviours": {"x": {"persona": -0.5}}, "neutral_kl": 0.0125}}
    lines = builds.difference(found, before, after, TEXTS, stat=False, show_all=False).splitlines()
    assert lines == [
        "aaaaaaaaaaaa -> bbbbbbbbbbbb",
        "",
        "node k edited  (t/corpus)",
        "    @@ -2,2 +2,2 @@",
        "     weight: 1.0",
        "    -before",
        "    +after",
        "t alpha 1.0 -> 0.5  (t/verify)",
        "task.y no longer linked  (checkpoint/link)",
        "",
        "only in bbbbbbbbbbbb: v/x",
        "",
        "u/link: the account of one of the two is no longer in the cache",
        "",
        "the same result all the same: t/corpus",
        "",
        "in the persona  aaaaaaaa  bbbbbbbb  difference",
        "x                 +0.250    -0.500      -0.750",
        "y                 +0.500         -           -",
        "neutral KL        0.0100    0.0125     +0.0025",
    ]
    stat = builds.difference(found, before, after, TEXTS, stat=True, show_all=False)
    assert "node k edited" in stat
    assert "after" not in stat
    assert builds.words(found) == "node k edited; t alpha 1.0 -> 0.5; task.y no longer linked; and 1 more"
    data = builds.difference_json(found, before, after)
    assert data["actions"]["v/x"] == {"only_in": "b" * 12}
    assert data["actions"]["u/link"] == {"same_output": False, "changes": []}


def test_no_difference_and_one_without_a_reason() -> None:
    same = Difference("a" * 64, "a" * 64, {})
    assert builds.difference(same, {}, {}, TEXTS, stat=False, show_all=False).endswith("the same build")
    forced = Difference("a" * 64, "b" * 64, {"t/train": ()})
    assert builds.words(forced) == "the same inputs, another result"
    assert "another result  (t/train)" in builds.difference(forced, {}, {}, TEXTS, stat=False, show_all=False)
