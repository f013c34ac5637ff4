"""The keys of a task that learns from a chat export: which chat, whose turns, and how it is cut."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from amybuild.errors import did_you_mean
from amybuild.personafile.check import Table
from amybuild.personafile.recipe import Field, above, at_least
from amybuild.personafile.schema import Chat

REDACT = ("phones", "emails", "handles", "urls", "names")
FIELDS: Mapping[str, Field] = {
    "turns": Field(int, 8, **at_least(1)),
    "gap_hours": Field(float, 6.0, **above(0)),
    "half_life_days": Field(float, 0.0, **at_least(0)),
    "max_examples": Field(int, 1000, **at_least(8)),
}
KEYS = ("speaker", *FIELDS, "names", "redact")


def read_chat(table: Table) -> Chat | None:
    """The chat of a ``[task.x]``, or None; `InputError` for a key that only a chat has where there is none."""
    path = table.take("chat", str)
    if path is None:
        for key in KEYS:
            if key in table.data:
                raise table.fail(f"'{key}' is for a task with a chat", key, 'add chat = "exports/…", or remove it')
        return None
    speaker = table.take("speaker", str, required=True)
    if not speaker.strip():
        raise table.fail("names nobody", "speaker", "write the name as the export shows it")
    numbers = {name: table.within(name, one.kind, one.default, one.ok, one.rule) for name, one in FIELDS.items()}
    return Chat(path, speaker.strip(), **numbers, names=_names(table), redact=_redact(table))


def _names(table: Table) -> dict[str, str]:
    """``names = { "Ann Lee" = "A." }``: what people are called instead, as who speaks and in what is said."""
    names: dict[str, Any] = dict(table.take("names", dict, {}))
    for old, new in names.items():
        if not old.strip() or not isinstance(new, str) or not new.strip():
            raise table.fail("must give each name another one", "names", 'write { "Ann Lee" = "A." }')
    return names


def _redact(table: Table) -> tuple[str, ...]:
    """``redact``: a list of kinds; all contact data where nothing is said, since who wrote it was not asked."""
    if "redact" not in table.data:
        return tuple(one for one in REDACT if one != "names")
    kinds = table.strings("redact")
    for one in kinds:
        if one not in REDACT:
            known = f"known: {', '.join(REDACT)}"
            raise table.fail(f"'{one}' is nothing that can be taken out", "redact", did_you_mean(one, REDACT) or known)
    return tuple(sorted(set(kinds)))
