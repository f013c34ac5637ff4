"""The JSON of DiscordChatExporter: one channel, its messages with their authors."""

from __future__ import annotations

from typing import Any

from amybuild.errors import InputError
from amybuild.memory.chat.message import Message, tidy
from amybuild.memory.chat.when import iso

NAME = "Discord (DiscordChatExporter's JSON)"
_SAID = ("Default", "Reply", "0", "19")


def matches(value: Any) -> bool:
    """Whether a JSON value is a channel with messages that have an author."""
    messages = value.get("messages") if isinstance(value, dict) and "channel" in value else None
    return isinstance(messages, list) and all(isinstance(one, dict) and "author" in one for one in messages[:5])


def read(value: Any, where: str) -> list[Message]:
    """The messages that people wrote: no joins and pins, nothing without text, nothing of bots."""
    messages = []
    seen: set[str] = set()
    for place, one in enumerate(value["messages"], start=1):
        at = f"{where}, message {place}"
        author = one.get("author") if isinstance(one, dict) else None
        if not isinstance(author, dict):
            raise InputError("a message without an author", where=at, remedy="export the channel again")
        name = str(one.get("id"))
        if one.get("id") is not None and name in seen:
            raise InputError("an id that was there before", where=at, remedy="export the channel again")
        seen.add(name)
        sender, content = author.get("nickname") or author.get("name"), one.get("content")
        text = tidy(content) if isinstance(content, str) else ""
        if str(one.get("type", "Default")) not in _SAID or author.get("isBot") or not text:
            continue
        if not isinstance(sender, str) or not tidy(sender):
            raise InputError("an author without a name", where=at, remedy="export the channel again")
        try:
            time = iso(one["timestamp"])
        except (ValueError, TypeError, KeyError, OverflowError):
            raise InputError("a date that is none", where=at, remedy="export the channel again") from None
        messages.append(Message(tidy(sender), text, time))
    return messages
