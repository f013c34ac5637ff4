"""The query form of today: filters joined by ``|`` (``type:episodic | key:journal/* | weight:>0.5``)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

from amybuild.errors import InputError, did_you_mean
from amybuild.memory.node import Node

Filter = Callable[[Node], bool]


def parse_query(text: str) -> tuple[Filter, ...]:
    """The filters of `text`; a node is selected when it passes all. An `InputError` points at the column (1-based)."""
    filters: list[Filter] = []
    start = 0
    for stage in text.split("|"):
        column = start + len(stage) - len(stage.lstrip()) + 1
        filters.append(_stage(text, stage.strip(), column))
        start += len(stage) + 1
    return tuple(filters)


def _stage(text: str, stage: str, column: int) -> Filter:
    if stage in ("all", "*"):
        return lambda node: True
    name, colon, value = stage.partition(":")
    if name in _FILTERS and colon:
        at = column + len(name) + 1
        if not value.strip():
            _fail(text, at, f"'{name}:' needs a value", _FORMS)
        return _FILTERS[name](text, value, at)
    if not stage:
        _fail(text, column, "an empty stage", _FORMS)
    _fail(text, column, f"'{stage}' is no filter", did_you_mean(name, (*_FILTERS, "all")) or _FORMS)


def _key(text: str, value: str, column: int) -> Filter:
    import re
    from fnmatch import translate

    pattern = re.compile(translate(value.strip()))
    return lambda node: pattern.match(node.key) is not None


def _type(text: str, value: str, column: int) -> Filter:
    name = value.strip()
    return lambda node: node.type == name


def _match(text: str, value: str, column: int) -> Filter:
    import re

    words = r"\s+".join(re.escape(word) for word in value.split())
    pattern = re.compile(rf"(?<!\w){words}(?!\w)", re.IGNORECASE)
    return lambda node: pattern.search(node.content) is not None


_COMPARE: dict[str, Callable[[float, float], bool]] = {
    ">=": lambda a, b: a >= b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    "<": lambda a, b: a < b,
    "=": lambda a, b: a == b,
}


def _weight(text: str, value: str, column: int) -> Filter:
    bare = value.lstrip()
    sign = next((one for one in _COMPARE if bare.startswith(one)), "")
    column += len(value) - len(bare) + len(sign)
    try:
        limit = float(bare[len(sign) :])
    except ValueError:
        _fail(text, column, "not a number", "write weight:>0.5 (or >=, <, <=, =)")
    compare = _COMPARE[sign or "="]
    return lambda node: compare(node.weight, limit)


_FILTERS: dict[str, Callable[[str, str, int], Filter]] = {
    "key": _key,
    "type": _type,
    "match": _match,
    "weight": _weight,
}
_FORMS = "filters: all, key:GLOB, type:NAME, match:WORD, weight:>0.5, joined by '|'"


def _fail(text: str, column: int, what: str, remedy: str) -> NoReturn:
    one_line = "".join(char if char.isprintable() else " " for char in text)
    pointer = " " * (column - 1) + "^"
    raise InputError(f"{what}\n  {one_line}\n  {pointer}", where=f"query, column {column}", remedy=remedy)
