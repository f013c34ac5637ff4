"""Typed look-ups in a TOML table that say file, table and key when something is wrong."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from amybuild.errors import InputError, did_you_mean

NAMES = {
    **{str: "a string", int: "a whole number", float: "a number"},
    **{bool: "true or false", list: "a list", dict: "a table"},
}


def typed(value: Any, kind: type) -> Any:
    """`value` as `kind` (an int is a float too, a bool is never a number), or None when it is not one."""
    if isinstance(value, bool):
        return value if kind is bool else None
    if kind is float and isinstance(value, int):
        return float(value) if abs(value) < 1 << 1000 else None
    return value if isinstance(value, kind) else None


@dataclass
class _Outline:
    """Where the tables of a TOML text are. Made once per text: a Personafile of thousands of tables asks for each."""

    blocks: dict[str, list[list[tuple[int, str]]]]  # table -> its parts, each the header's line and those below it
    first: dict[str, int]  # "a" and "a.b" for each [a.b…] -> the line of the first such header


@lru_cache(maxsize=4)
def _outline(text: str) -> _Outline:
    lines: list[tuple[int, str]] = [(0, "")]
    blocks, first = {"": [lines]}, dict[str, int]()
    for number, line in enumerate(text.splitlines(), 1):
        found = _HEADER.match(line)
        name = _NOT_NAME.sub("", found.group(1)) if found else ""
        if found and not _is_items(name):
            lines = []
            blocks.setdefault(name, []).append(lines)
            parts = name.split(".")
            for count in range(1, len(parts) + 1):
                first.setdefault(".".join(parts[:count]), number)
        lines.append((number, line))
    return _Outline(blocks, first)


_HEADER = re.compile(r"\s*\[+\s*([^\[\]]+?)\s*\]+\s*(#|$)")
_NOT_NAME = re.compile(r"[\"'\s]")


def line_of(text: str, table: str, key: str | None) -> int | None:
    """The line of `key` in ``[table]`` of a TOML text (1-based), for messages; None when it cannot be found.

    A key may head a table of its own, and a table may be written inline: then the line where that begins.
    """
    outline = _outline(text)
    blocks = outline.blocks.get(table, [])
    if key:
        assigned = re.compile(rf"\s*[\"']?{re.escape(key)}[\"']?\s*[.=]")
        for lines in blocks:
            for number, line in lines[1:]:
                if assigned.match(line):
                    return number
        inner = outline.first.get(f"{table}.{key}" if table else key)
        if inner:
            return inner
    if blocks and blocks[-1][0][0]:
        return blocks[-1][0][0]
    above, _, last = table.rpartition(".")
    return line_of(text, above, last) if last else None


def _is_items(name: str) -> bool:
    """Whether what stands between brackets is a row of an array, not the name of a table."""
    return "," in name or name.replace(".", "").isdigit()


@dataclass
class Table:
    """One table of a TOML file. `take` looks a key up; `done` refuses what nobody took."""

    data: Mapping[str, Any]
    file: str
    path: str
    text: str = ""
    taken: set[str] = field(default_factory=set)

    def at(self, key: str | None = None) -> str:
        line = line_of(self.text, self.path, key)
        place = self.file + (f":{line}" if line else "")
        table = f"[{self.path}]" if self.path else ""
        return " ".join(part for part in (place, table, key or "") if part)

    def fail(self, what: str, key: str | None = None, remedy: str | None = None) -> InputError:
        return InputError(what, where=self.at(key), remedy=remedy)

    def take(self, key: str, kind: type, default: Any = None, *, required: bool = False) -> Any:
        self.taken.add(key)
        if key not in self.data:
            if required:
                table = ".".join(part for part in (self.path, key) if part)
                how = f"a table [{table}]" if kind is dict else f"{key} = … ({NAMES[kind]})"
                raise self.fail(f"'{key}' is missing", remedy=f"add {how}")
            return default
        value = typed(self.data[key], kind)
        if value is None:
            raise self.fail(f"must be {NAMES[kind]}, not {self.data[key]!r:.60}", key)
        if kind is float and not math.isfinite(value):
            raise self.fail(f"must be a finite number, not {value}", key)
        if kind is str and "\0" in value:
            raise self.fail("must not hold a zero byte", key)
        return value

    def within(self, key: str, kind: type, default: Any, ok: Callable[[Any], bool], rule: str) -> Any:
        """`take` a value that must satisfy `ok`; `rule` says so in words."""
        value = self.take(key, kind, default)
        if not ok(value):
            raise self.fail(f"{rule}, not {value!r:.60}", key)
        return value

    def one_of(self, key: str, options: Iterable[str], default: str) -> str:
        value = self.take(key, str, default)
        known = list(options)
        if value not in known:
            raise self.fail(f"'{value}' is none of {', '.join(known)}", key, did_you_mean(value, known))
        return str(value)

    def strings(self, key: str) -> tuple[str, ...]:
        values = self.take(key, list, [])
        if not all(isinstance(v, str) for v in values):
            raise self.fail("must be a list of strings", key)
        return tuple(values)

    def child(self, key: str, *, required: bool = False) -> Table:
        data = self.take(key, dict, {}, required=required)
        return Table(data, self.file, f"{self.path}.{key}" if self.path else key, self.text)

    def done(self) -> None:
        for key in self.data:
            if key not in self.taken:
                known = f"known here: {', '.join(sorted(self.taken))}"
                raise self.fail(f"unknown key '{key}'", key, did_you_mean(key, self.taken) or known)
