"""Renderings of build events: plain lines, a live display on a terminal, JSON lines."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Mapping
from typing import Any, TextIO

from amybuild.events import Event
from amybuild.report.check import differences
from amybuild.report.text import duration

_EVERY = 10.0  # seconds between two progress lines of one action, where lines stay


def _numbers(fields: Mapping[str, Any]) -> str:
    told = ("done", "total", "note")
    shown = {k: f"{v:.3f}" if isinstance(v, float) else v for k, v in fields.items() if k not in told}
    return "  ".join(f"{k} {v}" for k, v in shown.items())


def _failure(event: Event) -> list[str]:
    """A failed action in words: where, what, and the remedy below it."""
    where, remedy = event.fields.get("where"), event.fields.get("remedy")
    head = f"{where}: " if where and where != event.action else ""
    return [f"{head}{event.fields['error']}", *([f"    {remedy}"] if remedy else [])]


class Clock:
    """Time left for one action, from its own pace once it has one, else from the last run."""

    def __init__(self, expected: float | None) -> None:
        self.began = time.monotonic()
        self.expected = expected
        self.first: tuple[int, float] | None = None  # loading comes before the first step and says nothing of the pace

    def left(self, done: int, total: int) -> float | None:
        now = time.monotonic()
        spent = now - self.began
        if done and self.first is None:
            self.first = (done, now)
        if self.first is not None and done > self.first[0]:
            return (now - self.first[1]) * (total - done) / (done - self.first[0])
        return None if self.expected is None else max(0.0, self.expected - spent)


class PlainLines:
    """One line when an action starts, ends, fails; a progress line every few seconds. For pipes and logs."""

    def __init__(self, total: int, stream: TextIO | None = None) -> None:
        self.total, self.seen = total, 0
        self._over: set[str] = set()
        self.stream = stream or sys.stderr
        self.clocks: dict[str, Clock] = {}
        self.told: dict[str, float] = {}
        self.notes: dict[str, str] = {}  # what an action has to say when it ends

    def _hear(self, event: Event) -> None:
        if event.kind == "progress" and "note" in event.fields:
            self.notes[event.action] = f"  {event.fields['note']}"

    def _ended(self, action: str) -> None:
        """Count it once: what turns out to be damaged is looked up, and made, again."""
        self.seen += action not in self._over
        self._over.add(action)

    def _line(self, text: str) -> None:
        print(text, file=self.stream, flush=True)

    def _count(self) -> str:
        width = len(str(self.total))
        return f"[{self.seen:>{width}}/{self.total}]"

    def __call__(self, event: Event) -> None:
        fields, action = event.fields, event.action
        self._hear(event)
        if event.kind == "start":
            expected = fields.get("expected")
            self.clocks[action] = Clock(expected)
            self.told[action] = time.monotonic()
            self._line(f"{self._count()} {action}" + (f"  (last time {duration(expected)})" if expected else ""))
        elif event.kind == "progress":
            now = time.monotonic()
            left = self.clocks[action].left(fields["done"], fields["total"])
            if now - self.told.get(action, 0) >= _EVERY:
                self.told[action] = now
                tail = f"  {duration(left)} left" if left is not None else ""
                self._line(f"{self._count()} {action}  {fields['done']}/{fields['total']}  {_numbers(fields)}{tail}")
        elif event.kind == "done":
            self._ended(action)
            note = "  another result than before" if fields.get("differs") else ""
            note += self.notes.pop(action, "")
            self._line(f"{self._count()} {action}  done in {duration(fields['seconds'])}{note}")
        elif event.kind == "hit":
            self._ended(action)
        elif event.kind == "failed":
            self._ended(action)
            first, *more = _failure(event)
            self._line(f"{self._count()} {action}  FAILED  {first}")
            for line in more:
                self._line(line)
        elif event.kind == "wait":
            self._line(f"{self._count()} {action}  waiting: {fields['reason']}")
        elif event.kind == "note":
            self._line(f"note: {fields['text']}")
        elif event.kind == "differs":
            self._line(f"{action}: another result than the cached one")
            for line in differences(fields):
                self._line(f"    {line}")

    def close(self) -> None:
        """Nothing is held open."""


class LiveDisplay(PlainLines):
    """A line per running action (steps, loss, time left) that is redrawn in place; finished ones scroll away above."""

    def __init__(self, total: int) -> None:
        from rich.console import Console
        from rich.live import Live

        super().__init__(total)
        self.console = Console(stderr=True)
        self.running: dict[str, tuple[int, int, str]] = {}
        self.live = Live(console=self.console, get_renderable=self._table, refresh_per_second=4, transient=True)
        self.live.start()

    def _line(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False)

    def _table(self) -> Any:
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        grid = Table.grid(padding=(0, 1))
        for id, (done, total, numbers) in list(self.running.items()):
            left = self.clocks[id].left(done, total)
            spent = time.monotonic() - self.clocks[id].began
            tail = f"{duration(left)} left" if left is not None else duration(spent)
            bar = ProgressBar(total=max(total, 1), completed=done, width=20) if total else ""
            grid.add_row(f"  {id}", bar, f"{done}/{total}" if total else "", numbers, tail)
        return grid

    def __call__(self, event: Event) -> None:
        if event.kind == "start":
            self.clocks[event.action] = Clock(event.fields.get("expected"))
            self.running[event.action] = (0, 0, "")
            return
        if event.kind == "progress":
            fields = event.fields
            self._hear(event)
            self.running[event.action] = (fields["done"], fields["total"], _numbers(fields))
            return
        if event.kind in ("done", "failed", "hit"):
            self.running.pop(event.action, None)
        super().__call__(event)

    def close(self) -> None:
        """Take the live part off the screen."""
        self.live.stop()


class JsonLines:
    """One JSON object per event on stdout."""

    def __call__(self, event: Event) -> None:
        # JSON has no nan: a loss that is none is null
        fields = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in event.fields.items()}
        print(json.dumps({"event": event.kind, "action": event.action or None, **fields}, allow_nan=False), flush=True)

    def summary(self, ran: list[str], hits: list[str], failed: list[str], build: str | None, seconds: float) -> None:
        """The last line of every build."""
        fields = {"ran": ran, "hits": hits, "failed": failed, "build": build, "seconds": round(seconds, 3)}
        self(Event("summary", fields=fields))

    def close(self) -> None:
        """Nothing is held open."""


class Silent:
    """``--quiet``: failures only, and what a check found."""

    def __call__(self, event: Event) -> None:
        if event.kind == "differs":
            print("\n    ".join([f"{event.action}: another result", *differences(event.fields)]), file=sys.stderr)
        if event.kind == "failed":
            print(f"{event.action}: " + "\n".join(_failure(event)), file=sys.stderr)

    def close(self) -> None:
        """Nothing is held open."""
