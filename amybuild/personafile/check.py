"""Typed look-ups in a TOML table that say file, table and key when something is wrong."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from amybuild.errors import InputError, did_you_mean

NAMES = {str: "a string", int: "a whole number", float: "a number", bool: "true or false", list: "a list", dict: "a table"}


def typed(value: Any, kind: type) -> Any:
    """`value` as `kind` (an int is a float too, a bool is never a number), or None when it is not one."""
    if isinstance(value, bool):
        return value if kind is bool else None
    if kind is float and isinstance(value, int):
        return float(value)
    return value if isinstance(value, kind) else None


def line_of(text: str, table: str, key: str | None) -> int | None:
    """The line of `key` in ``[table]`` of a TOML text (1-based), for messages; None when it cannot be found."""
    inside = table == ""
    header = None
    for number, line in enumerate(text.splitlines(), 1):
        found = re.match(r"\s*\[+\s*([^\]]+?)\s*\]+", line)
        if found:
            inside = found.group(1).replace(" ", "") == table
            header = number if inside else header
            continue
        if inside and key and re.match(rf"\s*[\"']?{re.escape(key)}[\"']?\s*[.=]", line):
            return number
    return header


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
                raise self.fail(f"'{key}' is missing", remedy=f"add {key} = … ({NAMES[kind]})")
            return default
        value = typed(self.data[key], kind)
        if value is None:
            raise self.fail(f"must be {NAMES[kind]}, not {self.data[key]!r}", key)
        if kind is float and value != value:
            raise self.fail("must be a number, not nan", key)
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
                raise self.fail(f"unknown key '{key}'", key, did_you_mean(key, self.taken) or f"known here: {', '.join(sorted(self.taken))}")
