"""Plain words and tables for what commands print: durations, explanations, builds, the behaviour table."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from amybuild.plan.explain import ActionReason, Explanation, as_json

_DIFF_LINES = 24


def duration(seconds: float) -> str:
    """``0.3 s``, ``41 s``, ``2 min 05 s``, ``1 h 12 min``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if round(seconds) < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def table(rows: Iterable[Iterable[str]], header: Iterable[str]) -> str:
    """Columns padded to their widest cell; numbers (and what looks like one) to the right."""
    lines = [list(header), *(list(row) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]

    def cell(text: str, width: int) -> str:
        numeric = text[:1] in "+-0123456789" and text[-1:] in "0123456789%"
        return text.rjust(width) if numeric else text.ljust(width)

    return "\n".join("  ".join(cell(t, w) for t, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def behaviours(verification: Mapping[str, Any]) -> str:
    """The table behaviour / base / alone / in the persona, in nats per token, and the neutral KL."""
    rows = []
    for name, row in verification.get("behaviours", {}).items():
        numbers = (row.get(key) for key in ("base", "alone", "persona", "gain"))
        rows.append([name, *("-" if n is None else f"{n:+.3f}" for n in numbers)])
    if not rows:
        return ""
    text = table(rows, ["behaviour", "base", "alone", "in the persona", "gain"])
    kl = verification.get("neutral_kl")
    note = "held-out margin log p(wanted) - log p(unwanted), nats per token"
    return f"{text}\n{note}" + (f"; neutral KL to the base {kl:.4f}" if kl is not None else "")


def node_diff(old: bytes | None, new: bytes | None, name: str) -> list[str]:
    """A short unified diff of a node's text (for the owner's eyes: this prints memory text)."""

    def lines(data: bytes | None) -> list[str]:
        if data is None:
            return []
        value = json.loads(data)
        fields = sorted(value.items())
        rest = [f"{k}: {json.dumps(v, ensure_ascii=False)}" for k, v in fields if k not in ("content", "examples")]
        return [*rest, *value.get("content", "").splitlines(), *(value.get("examples") or "").splitlines()]

    diff = list(difflib.unified_diff(lines(old), lines(new), lineterm="", n=1))[2:]  # the first two name files
    left = len(diff) - _DIFF_LINES
    return diff if left <= 0 else [*diff[:_DIFF_LINES], f"… {left} more lines in {name}"]


def explanation(result: Explanation, text_of: Callable[[str], bytes | None], show_all: bool = False) -> str:
    """``--explain`` for people: targets that are up to date on one line, the others with their root cause first."""
    stale = [t for t in result.targets if result.target_state(t) != "up-to-date"]
    fine = [t for t in result.targets if t not in stale]
    out: list[str] = []
    roots = [a for a in result.actions.values() if a.state != "up-to-date" and a.id in a.causes]
    out.extend(_root(a, text_of) for a in roots if a.state == "stale")
    if out:
        out.append("")
    for target in stale:
        if all(result.actions[id].state == "missing" for id in result.targets[target]):
            out.append(f"{target}: never built")
            continue
        state = result.target_state(target)
        because = [c for c in result.target_causes(target) if not c.startswith(f"{target}/")]
        more = f" and {len(because) - 3} more" if len(because) > 3 else ""
        tail = f", because of {', '.join(because[:3])}{more}" if because else ""
        out.append(f"{target}: {state}{tail}")
        for id in result.targets[target]:
            one = result.actions[id]
            if one.state != "up-to-date":
                out.append(f"  {id.rpartition('/')[2]:<12} {one.reason}{_cost(one.cost)}")
    if fine and show_all:
        for target in fine:
            out.append(f"{target}: up to date")
            out.extend(f"  {id.rpartition('/')[2]:<12} {result.actions[id].reason}" for id in result.targets[target])
    elif fine:
        out.append(f"up to date: {', '.join(fine)}")
    total = sum(a.cost or 0 for a in result.actions.values() if a.state != "up-to-date")
    if total:
        out.append(f"a build takes about {duration(total)} if everything named here has to run")
    return "\n".join(out)


def _cost(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f"  (last time {duration(seconds)})" if seconds else "  (no time: from the cache)"


def _root(one: ActionReason, text_of: Callable[[str], bytes | None]) -> str:
    lines = [f"{one.id}: {one.reason}"]
    for change in one.changes:
        if change.kind == "node" and change.old and change.new:
            old, new = text_of(change.old), text_of(change.new)
            if old is not None:
                lines += [f"    {line}" for line in node_diff(old, new, change.name)]
    return "\n".join(lines)


def explanation_json(result: Explanation) -> str:
    """``--explain --json``."""
    return json.dumps(as_json(result), indent=1)
