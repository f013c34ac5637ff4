"""Renderings: durations, tables, diffs, graphs in every form, and events as lines or JSON."""

from __future__ import annotations

import io
import json
import re

import pytest

from amybuild.digest import canonical
from amybuild.events import Event
from amybuild.graph.graph import Action, NodeSource
from amybuild.plan.explain import ActionReason, Change, Explanation
from amybuild.report import builds
from amybuild.report.dag import render
from amybuild.report.progress import Clock, JsonLines, LiveDisplay, PlainLines, Silent
from amybuild.report.text import behaviours, duration, explanation, node_diff, table


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


def test_a_long_node_diff_is_cut() -> None:
    diff = node_diff(None, node("\n".join(f"line {i}" for i in range(100))), "k")
    assert len(diff) == 25
    assert diff[-1].endswith("more lines in k")


def test_an_explanation_names_the_root_first() -> None:
    change, roots = Change("node", "k", "old", "new"), ("t/corpus",)
    found = Explanation(
        {
            "t/corpus": ActionReason("t/corpus", "stale", "1", "node edited: k", (change,), 0.5, roots),
            "t/train": ActionReason("t/train", "unknown", None, "shows when t/corpus is built", (), 60.0, roots),
            "u/link": ActionReason("u/link", "stale", "2", "new result of x", (), 0.0, roots),
            "v/x": ActionReason("v/x", "up-to-date", "3", "all is as it was"),
        },
        {"t": ["t/corpus", "t/train"], "u": ["u/link"], "v": ["v/x"]},
    )
    texts = {"old": node("before"), "new": node("after")}
    lines = explanation(found, texts.get).splitlines()
    assert lines[0] == "t/corpus: node edited: k"
    assert [line.strip() for line in lines[1:5] if line.strip()[0] in "+-"] == ["-before", "+after"]
    assert "t: stale" in lines
    assert "u: stale, because of t/corpus" in lines
    assert any("train" in line and "last time 1 min 00 s" in line for line in lines)
    assert any("link" in line and "from the cache" in line for line in lines)
    assert "up to date: v" in lines
    assert lines[-1].startswith("a build takes about 1 min 00 s")
    assert "all is as it was" in explanation(found, texts.get, show_all=True)


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
    found = json.loads(render(GRAPH, "json", by_action=False))
    assert found["nodes"] == ["task.x-", "readout", "checkpoint", "alone-"]
    assert ["task.x-", "checkpoint"] in found["edges"]
    assert ["readout", "checkpoint"] in found["edges"]
    assert ['memory:say "hi"', "task.x-"] in found["edges"]
    assert ["memory:(5 nodes)", "readout"] in found["edges"]
    by_action = json.loads(render(GRAPH, "json", by_action=True))
    assert ["task.x-/corpus", "task.x-/train"] in by_action["edges"]


def test_the_graph_as_text_keeps_names_whole() -> None:
    lines = render(GRAPH, "text", by_action=False).splitlines()
    assert "alone-" in lines
    assert re.fullmatch(r"checkpoint +<- task\.x-, readout", lines[2])


def test_the_graph_as_dot_and_mermaid_quotes_names() -> None:
    dot = render(GRAPH, "dot", by_action=False)
    assert '  "memory:say \\"hi\\"" -> "task.x-";' in dot
    assert '  "alone-";' in dot
    mermaid = render(GRAPH, "mermaid", by_action=False)
    assert '["memory:say #quot;hi#quot;"]' in mermaid
    ids = set(re.findall(r"^  (n\d+)\[", mermaid, re.M))
    assert set(re.findall(r"n\d+", " ".join(re.findall(r"^  n\d+ --> n\d+$", mermaid, re.M)))) <= ids
    assert len(ids) == 6


# events

EVENTS = [
    Event("hit", "a/x", {"seconds": 1.0}),
    Event("start", "b/x", {"expected": 12.0}),
    Event("progress", "b/x", {"done": 1, "total": 3, "loss": 0.5}),
    Event("done", "b/x", {"seconds": 0.5, "differs": False}),
    Event("wait", "c/x", {"reason": "another build is making it"}),
    Event("start", "c/x", {"expected": None}),
    Event("failed", "c/x", {"error": "it is bad", "where": "task.c", "remedy": "mend it"}),
    Event("blocked", "d/x"),
    Event("note", fields={"text": "restored"}),
]


def test_plain_lines() -> None:
    stream = io.StringIO()
    sink = PlainLines(4, stream)
    for event in EVENTS:
        sink(event)
    sink.close()
    assert stream.getvalue().splitlines() == [
        "[1/4] b/x  (last time 12 s)",
        "[2/4] b/x  done in 0.5 s",
        "[2/4] c/x  waiting: another build is making it",
        "[2/4] c/x",
        "[3/4] c/x  FAILED  task.c: it is bad",
        "    mend it",
        "note: restored",
    ]


def test_a_progress_line_comes_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    stream = io.StringIO()
    sink = PlainLines(1, stream)
    sink(Event("start", "a/x", {"expected": None}))
    for step in range(1, 31):
        now[0] += 1
        sink(Event("progress", "a/x", {"done": step, "total": 60, "loss": 0.25}))
    lines = stream.getvalue().splitlines()
    assert len(lines) == 4
    assert lines[1] == "[0/1] a/x  10/60  loss 0.250  50 s left"


def test_time_left_comes_from_the_last_run_until_there_is_a_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    clock = Clock(30.0)
    now[0] = 10.0
    assert clock.left(0, 5) == 20.0
    assert clock.left(1, 5) == 20.0  # one step says when it began, not how long it takes
    now[0] = 14.0
    assert clock.left(3, 5) == 4.0
    now[0] = 40.0
    assert Clock(30.0).left(0, 5) == 30.0
    assert Clock(None).left(0, 0) is None


def test_json_lines_are_json(capsys: pytest.CaptureFixture[str]) -> None:
    sink = JsonLines()
    for event in [*EVENTS, Event("progress", "b/x", {"done": 2, "total": 3, "loss": float("nan")})]:
        sink(event)
    sink.close()

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    lines = [json.loads(line, parse_constant=refuse) for line in capsys.readouterr().out.splitlines()]
    assert [line["event"] for line in lines] == [*(event.kind for event in EVENTS), "progress"]
    assert lines[-1]["loss"] is None
    assert lines[-2] == {"event": "note", "action": None, "text": "restored"}


def test_quiet_says_failures_with_their_remedy(capsys: pytest.CaptureFixture[str]) -> None:
    for event in EVENTS:
        Silent()(event)
    assert capsys.readouterr().err == "c/x: task.c: it is bad\n    mend it\n"


def test_the_live_display_ends_with_the_same_lines(capsys: pytest.CaptureFixture[str]) -> None:
    sink = LiveDisplay(4)
    for event in EVENTS:
        sink(event)
    assert sink.running == {}
    sink.running["b/x"] = (1, 3, "loss 0.5")
    assert sink._table().row_count == 1
    sink.close()
    text = capsys.readouterr().err
    assert "b/x  done in 0.5 s" in text
    assert "mend it" in text


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
    change = {"kind": "param", "name": "alpha", "old": "1.0", "new": "0.5"}
    node = {"kind": "node", "name": "k", "old": "d1", "new": "d2"}
    result = {
        "a": "a" * 64,
        "b": "b" * 64,
        "actions": {
            "t/corpus": {"same_output": True, "changes": [node]},
            "t/verify": {"same_output": False, "changes": [change]},
            "u/link": {"same_output": False, "changes": []},
            "v/x": {"only_in": "bbbb"},
        },
        "verification": {},
    }
    assert builds.difference(result).splitlines() == [
        "aaaaaaaaaaaa -> bbbbbbbbbbbb",
        "t/corpus: node k (same result)",
        "t/verify: param alpha 1.0 -> 0.5",
        "u/link: input its inputs",
        "v/x: only in bbbb",
    ]
    assert builds.difference({**result, "actions": {}}).endswith("the same build")
