"""JSONL examples, one a line: a context and its reply, or a whole conversation."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from amybuild.errors import InputError, did_you_mean
from amybuild.memory.example import Example, Place, Turn, bad, checked
from amybuild.memory.node import clean
from amybuild.memory.text import object_of

_SHAPES = '{"id","context","continuation","rejected"?,"reason"?,"counter"?} or {"messages":[…],"rejected"?,"counter"?}'
_KEYS = ("id", "context", "messages", "continuation", "rejected", "reason", "counter")


def read_lines(key: str, lines: Iterable[str], place: Place) -> list[Example]:
    """The examples of JSON lines: a context as text or as messages with its reply, or messages that end with it.

    Bad lines, and an ``id`` that an earlier line has, are `InputError`s with the place, without text.
    """
    found: list[Example] = []
    named: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line, object_pairs_hook=object_of)
        except (ValueError, RecursionError):
            raise bad(place(number), "not JSON", f"a line is {_SHAPES}") from None
        except InputError:
            raise bad(place(number), "a key stands there twice", "remove one of the two") from None
        found.append(_json_example(key, place, number, value))
        name = value.get("id")
        if name is not None and named.setdefault(str(name), number) != number:
            raise bad(place(number), "an id that was there before", f"line {named[str(name)]} has it; change one")
    return found


def _json_example(key: str, place: Place, at: int, value: Any) -> Example:
    where = place(at)
    if not isinstance(value, Mapping):
        raise bad(where, "not a JSON object", f"a line is {_SHAPES}")
    for name in value:
        if name not in _KEYS:
            raise bad(where, f"unknown key {name[:40]!a}", did_you_mean(name, _KEYS) or f"a line is {_SHAPES}")
    if ("messages" in value) == ("context" in value):
        raise bad(where, "neither or both of 'context' and 'messages'", f"a line is {_SHAPES}")
    counter = value.get("counter", False)
    if not isinstance(counter, bool):
        raise bad(where, "'counter' is not true or false", "remove it or write true")
    given = value.get("rejected")
    several = given if isinstance(given, list) else [] if given is None else [given]
    rejected = [_said(where, one) for one in several]
    if "messages" in value:
        if "continuation" in value:
            raise bad(where, "both 'messages' and 'continuation'", "the last message is the continuation")
        turns = _messages(where, at, value["messages"])
        if not turns or turns[-1][1] != "assistant":
            raise bad(where, "the last message is not the assistant's", "end with the reply that is learned")
        return checked(key, place, turns[:-1], turns[-1], rejected, counter)
    context = value["context"]
    turns = [(at, "user", _said(where, context))] if isinstance(context, str) else _messages(where, at, context)
    reply = (at, "assistant", _said(where, value.get("continuation")))
    return checked(key, place, turns, reply, rejected, counter)


def _messages(where: str, at: int, value: object) -> list[Turn]:
    if not isinstance(value, list):
        raise bad(where, "not a list of messages", 'a message is {"role": "user", "content": "…"}')
    turns: list[Turn] = []
    for one in value:
        role = one.get("role") if isinstance(one, Mapping) else None
        if role not in ("system", "user", "assistant"):
            raise bad(where, "a message without a known role", "roles: system, user, assistant")
        turns.append((at, str(role), _said(where, one.get("content"))))
    return turns


def _said(where: str, value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise bad(where, "an empty or missing text", f"a line is {_SHAPES}")
    try:
        return clean(value).strip()
    except InputError as error:
        raise bad(where, error.what, error.remedy or "") from None
