"""What happens during a build, told as lines, as JSON or as a live table."""

from __future__ import annotations

import io
import json

import pytest

from amybuild.events import Event
from amybuild.report.progress import Clock, JsonLines, LiveDisplay, PlainLines, Silent

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


def test_an_action_that_is_made_again_is_counted_once() -> None:
    stream = io.StringIO()
    sink = PlainLines(2, stream)
    for action in ("a/x", "b/x", "a/x"):
        sink(Event("hit", action, {"seconds": 1.0}))
    sink(Event("done", "b/x", {"seconds": 0.5}))
    assert stream.getvalue() == "[2/2] b/x  done in 0.5 s\n"


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
