"""Chats as tables: the CSV files that exporters of Signal and iMessage write, columns known by their names."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence

from amybuild.errors import InputError
from amybuild.memory.chat.message import Message, tidy
from amybuild.memory.chat.when import Stamp, hours, iso, seconds, unix

NAME = "Signal or iMessage (CSV with columns for date, sender and text)"
ME = "Me"  # who sent what is marked as outgoing and names no sender
_COLUMNS: Mapping[str, tuple[str, ...]] = {
    "text": ("text", "body", "message", "content", "message text"),
    "sender": ("sender name", "sender", "from", "author", "name", "contact", "sender id", "address", "number"),
    "time": ("message date", "date", "timestamp", "datetime", "date sent", "sent at", "sent", "time"),
    "way": ("type", "direction", "is from me", "from me", "outgoing"),
    "room": ("chat session", "conversation", "chat", "thread", "thread id", "chat id", "group"),
}
_OUT = ("outgoing", "sent", "out", "1", "true", "yes", "from me")
_WHEN = re.compile(
    r"(\d{1,4})[./-](\d{1,2})[./-](\d{1,4}),?\s+(\d{1,2}):(\d{2})(?::(\d{2}))?(?:\s*([AaPp]\.?[Mm]\.?))?\Z"
)


def matches(lines: Sequence[str]) -> bool:
    """Whether the first line names at least a text, a sender (or a direction) and a time."""
    columns = _columns(lines)
    return "text" in columns and "time" in columns and bool({"sender", "way"} & columns.keys())


def read(lines: Sequence[str], where: str) -> list[Message]:
    """The messages in the order of their times, chat by chat; rows without text (notices, pictures) are none."""
    columns = _columns(lines)
    rows = csv.reader((line + "\n" for line in lines), delimiter=_delimiter(lines[0]), strict=True)
    found: list[tuple[str, str, str, str]] = []
    try:
        next(rows)
        for row in rows:
            said = {name: tidy(row[at]) if at < len(row) else "" for name, at in columns.items()}
            own = said.get("way", "").casefold() in _OUT
            sender = said.get("sender", "") or (ME if own else "")
            if said["text"] and sender and said.get("way", "").casefold() != "notification":
                found.append((sender, said["text"], said["time"], said.get("room", "")))
    except csv.Error:
        raise InputError("no whole CSV row", where=f"{where}:{rows.line_num}", remedy="export the chat again") from None
    times = _times([time for _, _, time, _ in found], where)
    messages = [Message(who, text, time, room) for (who, text, _, room), time in zip(found, times, strict=True)]
    return sorted(messages, key=lambda one: (one.room, one.time or 0.0))


def _delimiter(head: str) -> str:
    return max(",;\t", key=head.count)


def _columns(lines: Sequence[str]) -> dict[str, int]:
    """What is in which column; of several that fit, the name that stands first in `_COLUMNS`."""
    if not lines or len(lines[0]) > 10_000:
        return {}
    try:
        row = next(csv.reader([lines[0]], delimiter=_delimiter(lines[0])), [])
    except csv.Error:
        return {}
    head = [" ".join(re.split(r"[\s_-]+", cell.strip().casefold())) for cell in row]
    places = {name: next((head.index(one) for one in known if one in head), -1) for name, known in _COLUMNS.items()}
    return {name: place for name, place in places.items() if place >= 0}


def _times(texts: Sequence[str], where: str) -> list[float]:
    """Times as numbers (seconds or milliseconds since 1970), as ISO dates, or as a country writes them."""
    try:
        if all(re.fullmatch(r"\d{9,13}(?:\.\d+)?", text) for text in texts):
            return [unix(float(text) / (1000 if float(text) > 1e11 else 1)) for text in texts]
        stamps: list[Stamp] = []
        for text in texts:
            found = _WHEN.match(text)
            if found is None:
                return [iso(text) for text in texts]
            a, b, c, hour, minute, second, half = found.groups()
            clock = (hours(int(hour), half), int(minute), int(second or 0))
            stamps.append(((int(a), int(b), int(c)), clock, bool(half)))
    except (ValueError, OverflowError):
        raise InputError("dates that are none", where=where, remedy="export the chat again") from None
    return seconds(stamps, where)
