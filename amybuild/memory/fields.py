"""What a query can ask of a node: the table of fields, and how each is compared."""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import translate
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from amybuild.errors import InputError
from amybuild.memory.entry import Entry

if TYPE_CHECKING:
    from amybuild.memory.graph import MemoryGraph

Value = Callable[["MemoryGraph", Entry], Any]  # of a node in its graph; None: it has none
Test = Callable[["MemoryGraph", Entry], bool]
DAY = 86400.0
_UNITS = {"h": DAY / 24, "d": DAY, "w": 7 * DAY, "y": 365 * DAY}
_ORDER: Mapping[str, Callable[[Any, Any], bool]] = {
    ">=": lambda a, b: a >= b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    "<": lambda a, b: a < b,
    "=": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
}


@dataclass(frozen=True)
class Field:
    """A row of the table: how to get the value, how to compare it, and an example for messages."""

    value: Value
    compare: Callable[[Value, str, str], Test]  # value, operator (empty after a bare colon), what is typed
    example: str


@lru_cache(maxsize=1 << 16)  # many nodes share a day
def instant(text: str | None) -> float | None:
    """Seconds since 1970 of an ISO date or time (UTC where it names no zone); None for anything else."""
    try:
        when = datetime.datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return (when if when.tzinfo else when.replace(tzinfo=datetime.UTC)).timestamp()


def _text(value: Value, sign: str, typed: str) -> Test:
    if sign == "~":
        return _glob(value, sign, typed)
    if sign in ("", "=", "!="):
        return lambda graph, node: (value(graph, node) == typed) is (sign != "!=")
    raise InputError(f"'{sign}' does not compare texts", remedy="texts: =, != and ~ (a glob)")


def _glob(value: Value, sign: str, typed: str) -> Test:
    if sign not in ("", "~"):
        return _text(value, sign, typed)
    fits = re.compile(translate(typed)).match
    return lambda graph, node: fits(value(graph, node) or "") is not None


def _number(value: Value, sign: str, typed: str) -> Test:
    try:
        limit = float(typed)
    except ValueError:
        limit = math.nan
    if not math.isfinite(limit) or sign == "~":
        raise InputError("not a number" if sign != "~" else "'~' does not compare numbers", remedy=_SIGNS)
    return _ordered(value, sign or "=", limit)


def _ordered(value: Value, sign: str, limit: float) -> Test:
    holds = _ORDER[sign]

    def test(graph: MemoryGraph, node: Entry) -> bool:
        found = value(graph, node)
        return found is not None and holds(found, limit)

    return test


def _age(value: Value, sign: str, typed: str) -> Test:
    found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)\s*([hdwy])", typed)
    if sign not in ("<", "<=", ">", ">=") or not found:
        raise InputError("not an age", remedy="write age:<7d (or >, <=, >=; h, d, w, y)")
    return _ordered(value, sign, float(found[1]) * _UNITS[found[2]])


def _date(value: Value, sign: str, typed: str) -> Test:
    """A day, week, month or year is the whole of it: ``created:2025-03`` is all of March, ``>2025-03`` from April."""
    if sign == "~" or (span := _span(typed)) is None:
        raise InputError("not a date", remedy="write created:>=2025-03-14 (or 2025-03, 2025; <, <=, >)")
    first, end = span
    if sign in ("", "=", "!="):
        inside = (sign != "!=",)
        return lambda graph, node: (when := value(graph, node)) is not None and (first <= when < end) in inside
    return _ordered(value, "<" if sign[0] == "<" else ">=", first if sign in ("<", ">=") else end)


def _span(typed: str) -> tuple[float, float] | None:
    """The first second of a year, month, week, day or instant, and the first one after it."""
    try:
        if found := re.fullmatch(r"(\d{4})(?:-(\d\d))?", typed, re.ASCII):
            year, month = int(found[1]), int(found[2] or 1)
            first = datetime.datetime(year, month, 1, tzinfo=datetime.UTC)
            years, after = divmod(year * 12 + month if found[2] else year * 12 + 12, 12)
            return first.timestamp(), datetime.datetime(years, after + 1, 1, tzinfo=datetime.UTC).timestamp()
    except ValueError:
        return None
    when = instant(typed)
    if when is None:
        return None
    if re.fullmatch(r"\d{4}-?W\d\d", typed, re.ASCII):
        return when, when + 7 * DAY
    return when, when + DAY if re.fullmatch(r"[\dW-]+", typed) else math.nextafter(when, math.inf)


def _phrase(value: Value, sign: str, typed: str) -> Test:
    if sign:
        raise InputError(f"'{sign}' has no meaning here", remedy="write match:word or match:several words")
    words = r"\s+".join(map(re.escape, typed.split()))
    found = re.compile(rf"(?<!\w){words}(?!\w)", re.IGNORECASE).search
    if not typed.isascii():
        return lambda graph, node: found(value(graph, node)) is not None
    # ten times as fast: a pattern that begins with plain letters is looked for as they are
    begin, *rest = map(re.escape, typed.lower().split())
    plain = re.compile(r"\s+".join((rf"{begin}(?<!\w{begin})", *rest)) + r"(?!\w)").search

    def test(graph: MemoryGraph, node: Entry) -> bool:
        text = value(graph, node)
        return (plain(text.lower()) if text.isascii() else found(text)) is not None

    return test


def _seconds_old(graph: MemoryGraph, node: Entry) -> float | None:
    when = instant(node.created)
    return None if when is None or graph.now is None else graph.now - when


_SIGNS = "write weight:>0.5 (or >=, <, <=, =, !=)"
FIELDS: Mapping[str, Field] = {
    "key": Field(lambda graph, node: node.key, _glob, "key:journal/*"),
    "type": Field(lambda graph, node: node.type, _text, "type:episodic"),
    "provenance": Field(lambda graph, node: node.provenance, _text, "provenance:journal"),
    "match": Field(lambda graph, node: graph.text(node.key), _phrase, "match:boat yard"),
    "weight": Field(lambda graph, node: node.weight, _number, "weight:>0.5"),
    "version": Field(lambda graph, node: node.version, _number, "version:>1"),
    "degree": Field(lambda graph, node: len(graph.net.get(node.key, ())), _number, "degree:>5"),
    "emotion": Field(lambda graph, node: node.emotion, _number, "emotion:>=8"),
    "key-len": Field(lambda graph, node: len(node.key), _number, "key-len:>=60"),
    "content-len": Field(lambda graph, node: node.length, _number, "content-len:>1000"),
    "created": Field(lambda graph, node: instant(node.created), _date, "created:>=2025-03"),
    "age": Field(_seconds_old, _age, "age:<7d"),
}
SORTABLE = tuple(name for name in FIELDS if name != "match")
# what the original's queries know and a graph does not hold
ELSEWHERE = ("visited", "not-visited", "community", "priority", "spectral", "confluence", "geodesic", "manifold")
