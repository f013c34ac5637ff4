"""Telegram Desktop's JSON export (``result.json``), of one chat or of a whole account."""

from __future__ import annotations

from typing import Any

from amybuild.errors import InputError
from amybuild.memory.chat.message import Message, tidy
from amybuild.memory.chat.when import iso, unix

NAME = "Telegram (JSON)"


def matches(value: Any) -> bool:
    """Whether a JSON value is a chat, or a list of chats, with messages that have a type and a date."""
    rooms = _rooms(value)
    some = [one for room in rooms for one in room["messages"][:5]]
    return bool(some) and all(isinstance(one, dict) and "type" in one and "date" in one for one in some)


def read(value: Any, where: str) -> list[Message]:
    """The messages that people wrote here themselves: nothing forwarded, no service messages, no bots' answers."""
    messages = []
    for number, room in enumerate(_rooms(value)):
        seen: set[Any] = set()
        for place, one in enumerate(room["messages"], start=1):
            at = f"{where}, message {place}"
            if not isinstance(one, dict):
                raise InputError("not a message", where=at, remedy="export the chat again")
            name = one.get("id")
            if isinstance(name, int | str):
                if name in seen:
                    raise InputError("an id that was there before", where=at, remedy="export the chat again")
                seen.add(name)
            sender, text = one.get("from"), tidy(_text(one.get("text")))
            if one.get("type") != "message" or not isinstance(sender, str) or not tidy(sender) or not text:
                continue
            if one.get("forwarded_from") or one.get("via_bot"):
                continue
            messages.append(Message(tidy(sender), text, _time(one, at), str(number)))
    return messages


def _rooms(value: Any) -> list[dict[str, Any]]:
    if not isinstance(value, dict):
        return []
    chats = value.get("chats")
    listed = chats.get("list") if isinstance(chats, dict) else [value]
    rooms = listed if isinstance(listed, list) else []
    return [room for room in rooms if isinstance(room, dict) and isinstance(room.get("messages"), list)]


def _text(value: Any) -> str:
    """A text is a string, or a list of strings and of pieces such as links with a ``text``."""
    pieces = value if isinstance(value, list) else [value]
    said = (one.get("text") if isinstance(one, dict) else one for one in pieces)
    return "".join(one for one in said if isinstance(one, str))


def _time(one: dict[str, Any], where: str) -> float:
    try:
        if "date_unixtime" in one:
            return unix(int(one["date_unixtime"]))
        return iso(one["date"])
    except (ValueError, TypeError, OverflowError):
        raise InputError("a date that is none", where=where, remedy="export the chat again") from None
