"""The memory beside the last build, as text and as JSON: what is in the weights, what changed and what it touches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from amybuild.report.text import table

if TYPE_CHECKING:
    from amybuild.learned import Changed, Learned

MOST = 40  # rows that are shown unless all are asked for
_STATES = {
    "edited": "edited since learned",
    "removed": "removed since learned",
    "learned": "learned",
    "new": "new",
}
_MARKS = {"added": "+", "edited": "~", "removed": "-", "read": ">", "unread": "<"}
_CHANGES = {
    **{state: state for state in ("added", "edited", "removed")},
    "read": "unchanged and read anew",
    "unread": "unchanged and no longer read",
}


def _count(rows: Sequence[Learned] | Sequence[Changed], words: Mapping[str, str]) -> str:
    counts = Counter(row.state for row in rows)
    return ", ".join(f"{counts[state]} {word}" for state, word in words.items() if counts[state])


def status_table(rows: Sequence[Learned], show_all: bool) -> str:
    """A line per node, those in the weights first. Without `show_all` not those that no target reads, and `MOST`."""
    chosen = [row for row in rows if show_all or row.learned_by or row.read_by]
    chosen.sort(key=lambda row: (list(_STATES).index(row.state), row.key))
    shown = chosen if show_all else chosen[:MOST]
    lines = [(row.key, _STATES[row.state], _told(row)) for row in shown]
    parts = [table(lines, ("node", "state", "targets"))] if lines else []
    left = len(rows) - len(shown)
    if left:
        parts.append(f"… and {left} more, which --all shows")
    return "\n".join(parts)


def _told(row: Learned) -> str:
    reads = [target for target in row.read_by if target not in row.learned_by]
    told = ", ".join(row.learned_by)
    if reads:
        told += f"{'; ' if told else ''}read by {', '.join(reads)}"
    return told or "no target reads it"


def status_line(rows: Sequence[Learned], build: str) -> str:
    if not rows:
        return "no memory"
    return f"{len(rows)} nodes: {_count(rows, _STATES)}; {f'build {build[:12]}' if build else 'nothing was built yet'}"


def status_json(rows: Sequence[Learned], build: str, read: str | None) -> dict[str, Any]:
    nodes = [
        {"key": r.key, "state": r.state, "learned_by": list(r.learned_by), "read_by": list(r.read_by)} for r in rows
    ]
    return {"schema": 1, "build": build, "read": read, "nodes": nodes}


def diff_table(rows: Sequence[Changed], show_all: bool) -> str:
    """A line per node that changed, those that touch a target first."""
    ordered = sorted(rows, key=lambda row: (not row.targets, row.key))
    shown = ordered if show_all else ordered[:MOST]
    width = max((len(row.key) for row in shown), default=0)
    lines = [f"{_MARKS[row.state]} {row.key:<{width}}  {', '.join(row.targets) or 'no target'}" for row in shown]
    if len(shown) < len(rows):
        lines.append(f"… and {len(rows) - len(shown)} more, which --all shows")
    return "\n".join(lines)


def diff_line(rows: Sequence[Changed], build: str) -> str:
    since = f"since build {build[:12]}" if build else "and nothing was built yet"
    return f"{_count(rows, _CHANGES) or 'nothing changed'} {since}"


def diff_json(rows: Sequence[Changed], build: str, read: str | None, error: str | None) -> dict[str, Any]:
    nodes = [{"key": r.key, "state": r.state, "targets": list(r.targets)} for r in rows]
    return {"schema": 1, "build": build, "read": read, "error": error, "nodes": nodes}
