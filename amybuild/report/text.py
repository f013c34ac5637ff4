"""Plain words and tables for what commands print: durations, tables, diffs of texts, the behaviour table."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

DIFF_LINES = 24


def amount(size: float) -> str:
    """``12 B``, ``28.0 KiB``, ``1.1 GiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


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
        numeric = text == "-" or (text[:1] in "+-0123456789" and text[-1:] in "0123456789%")
        return text.rjust(width) if numeric else text.ljust(width)

    return "\n".join("  ".join(cell(t, w) for t, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def behaviours(verification: Mapping[str, Any]) -> str:
    """The table behaviour / base / alone / in the persona, in nats per token, what each keeps of its solo gain there,
    and the neutral KL."""
    rows = []
    for name, row in verification.get("behaviours", {}).items():
        numbers = (row.get(key) for key in ("base", "alone", "persona", "gain"))
        unpaired = " (log p)" if row.get("measure") == "log p" else ""
        kept = row.get("kept")
        cells = ["-" if n is None else f"{n:+.3f}" for n in numbers]
        rows.append([name + unpaired, *cells, "-" if kept is None else f"{kept:.0%}"])
    if not rows:
        return ""
    text = table(rows, ["behaviour", "base", "alone", "in the persona", "gain", "kept"])
    kl = verification.get("neutral_kl")
    note = "held-out margin log p(wanted) - log p(unwanted), nats per token; kept: of what a vector gains alone"
    return f"{text}\n{note}" + (f"; neutral KL to the base {kl:.4f}" if kl is not None else "")


def about(seconds: float) -> str:
    """A duration as one says it before it has passed: ``about 42 min``."""
    if seconds < 0.95:
        return "under a second"
    step = next(step for limit, step in ((60, 1), (600, 10), (3600, 60), (float("inf"), 300)) if seconds < limit)
    rounded = round(seconds / step) * step
    return f"about {rounded} s" if rounded < 60 else f"about {duration(rounded).removesuffix(' 00 s')}"


def node_diff(old: bytes | None, new: bytes | None, name: str, most: int = DIFF_LINES) -> list[str]:
    """A unified diff of a node's text, `most` lines of it (for the owner's eyes: this prints memory text)."""

    before, after = (json.loads(data) if data else {} for data in (old, new))
    return text_diff(_lines(before, after), _lines(after, before), name, most)


def _lines(value: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """A node's fields and the lines of its texts. A last line without its break says so where the `other` has one."""
    texts = ("content", "examples")
    out = [f"{k}: {json.dumps(v, ensure_ascii=False)}" for k, v in sorted(value.items()) if k not in texts]
    for text, beside in ((value.get(name) or "", other.get(name) or "") for name in texts):
        out += text.removesuffix("\n").split("\n") if text else []
        if text and beside.endswith("\n") and not text.endswith("\n"):
            out.append("\\ no line break at the end")
    return out


def text_diff(old: list[str], new: list[str], name: str, most: int = DIFF_LINES) -> list[str]:
    """A unified diff of two texts with a line of context, `most` lines of it."""
    import difflib

    diff = list(difflib.unified_diff(old, new, lineterm="", n=1))[2:]  # the first two name files
    left = len(diff) - most
    shown = [_visible(line) for line in (diff if left <= 0 else diff[:most])]
    return shown if left <= 0 else [*shown, f"… {left} more lines in {name}"]


def _visible(line: str) -> str:
    """A line of a diff for a terminal: what one would obey, and blanks at the end of a changed line, as escapes."""
    import unicodedata

    end = len(line.rstrip()) if line[0] in "+-" else len(line)
    return "".join(
        (ascii(c)[1:-1] if c != " " else "\\x20")
        if place >= end or (c != "\t" and unicodedata.category(c) in ("Cc", "Zl", "Zp"))
        else c
        for place, c in enumerate(line)
    )
