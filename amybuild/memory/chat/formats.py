"""The table of chat formats: an export is known by its content, and a folder of exports is one chat per file."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from amybuild.errors import InputError
from amybuild.memory.chat import discord, plain, table, telegram, whatsapp
from amybuild.memory.chat.message import Message
from amybuild.memory.node import MAX_BYTES
from amybuild.memory.text import text_of

_ENDINGS = (".txt", ".json", ".csv")


@dataclass(frozen=True)
class Format:
    """One kind of export: what it is called, whether some content is one, and its messages in their order."""

    id: str
    name: str
    is_json: bool
    matches: Callable[[Any], bool]  # of a JSON value, or of the lines of a text
    read: Callable[[Any, str], list[Message]]


FORMATS: Sequence[Format] = (  # asked in this order: the plain form would take WhatsApp's dates for names
    Format("telegram", telegram.NAME, True, telegram.matches, telegram.read),
    Format("discord", discord.NAME, True, discord.matches, discord.read),
    Format("whatsapp", whatsapp.NAME, False, whatsapp.matches, whatsapp.read),
    Format("plain", plain.NAME, False, plain.matches, plain.read),
    Format("table", table.NAME, False, table.matches, table.read),
)


def read_chat(path: Path, shown: str) -> tuple[tuple[str, ...], list[Message]]:
    """``(ids of the formats, messages)`` of an export, or of a folder with several (each is a room of its own).

    `InputError` for what none of `FORMATS` is, naming them; no message quotes the export.
    """
    if not path.is_dir():
        one, messages = _read_file(path, shown)
        return (one,), messages
    kinds: set[str] = set()
    every: list[Message] = []
    for file in sorted(file for file in path.rglob("*") if file.suffix.lower() in _ENDINGS and file.is_file()):
        kind, messages = _read_file(file, f"{shown}/{file.relative_to(path).as_posix()}")
        kinds.add(kind)
        every += [replace(one, room=f"{file.name}/{one.room}") for one in messages]
    if not kinds:
        raise InputError("no export in this folder", where=shown, remedy=f"it ends in {', '.join(_ENDINGS)}")
    return tuple(sorted(kinds)), every


def _read_file(path: Path, shown: str) -> tuple[str, list[Message]]:
    text = text_of(path, shown)
    value = _json(text)
    is_json = value is not None
    if not is_json:
        value = text.split("\n")
        if (longest := max(map(len, value))) > MAX_BYTES:
            raise InputError(f"a line of {longest >> 20} MiB", where=shown, remedy="export the chat again")
    for one in FORMATS:
        if one.is_json == is_json and one.matches(value):
            return one.id, one.read(value, shown)
    tried = "; ".join(one.name for one in FORMATS)
    raise InputError("no chat export of a form that is known here", where=shown, remedy=f"tried: {tried}")


def _json(text: str) -> Any:
    """The value of a JSON text, or None (the plain form begins with a bracket too)."""
    if text.lstrip()[:1] not in ("{", "["):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
