"""Front matter: the fields of a node's TOML, by one pattern where it is as plain as people write it."""

from __future__ import annotations

import re
from datetime import date
from typing import Any

import tomli
from tomli import TOMLDecodeError as TOMLDecodeError

_TEXT = r'[^"\\\x00-\x08\x0a-\x1f\x7f]'  # a character of a string
_NUMBER = r"((?:0|[1-9][0-9]{0,17})(?:\.[0-9]{1,40})?)"
_VALUE = rf"""(?:"({_TEXT}*)"|([0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}})|{_NUMBER}|\[((?:[^][#"']++|"{_TEXT}*+")*+)\])"""
_field = re.compile(rf"([a-z]+) *= *{_VALUE} *(?:\n+|\Z)").match
_STRENGTH, _KIND = rf"strength *= *{_NUMBER}", rf'kind *= *"({_TEXT}+)"'
_link = re.compile(
    rf'[ \n]*\{{ *target *= *"({_TEXT}*)" *(?:, *{_STRENGTH} *)?(?:, *{_KIND} *)?\}}[ \n]*(?:,[ \n]*|\Z)'
).match


def fields_of(front: str) -> dict[str, Any]:
    """`tomli.loads`, eight times as fast on texts, numbers, days and links without escapes, comments and headers."""
    found = _plain(front)
    return tomli.loads(front) if found is None else found


def _plain(front: str) -> dict[str, Any] | None:
    fields: dict[str, Any] = {}
    at = 0
    while at < len(front):
        found = _field(front, at)
        if found is None or found[1] in fields:
            return None
        name, text, day, number, links = found.groups()
        if text is not None:
            fields[name] = text
        elif number is not None:
            fields[name] = _number(number)
        elif day is not None:
            try:
                fields[name] = date.fromisoformat(day)
            except ValueError:  # the 31st of February
                return None
        else:
            fields[name] = _links(links)
            if fields[name] is None:
                return None
        at = found.end()
    return fields


def _links(text: str) -> list[dict[str, Any]] | None:
    links, at = [], 0
    text = text.strip(" \n")
    while at < len(text):
        found = _link(text, at)
        if found is None:
            return None
        target, strength, kind = found.groups()
        links.append({"target": target})
        if strength is not None:
            links[-1]["strength"] = _number(strength)
        if kind is not None:
            links[-1]["kind"] = kind
        at = found.end()
    return links


def _number(text: str) -> float:
    return float(text) if "." in text else int(text)
