"""The plain form: ``[NAME] text``, further lines belong to it, a line of ``---`` parts conversations; no times."""

from __future__ import annotations

import re
from collections.abc import Sequence

from amybuild.memory.chat.message import Message, tidy

NAME = "[NAME] text"
_BEGIN = re.compile(r"\[([^\[\]\n]{1,80})\]:?(?:\s+(.*)|$)")
_PARTS = re.compile(r"\s*(?:-{3,}|\*{3,}|={3,})\s*")


def matches(lines: Sequence[str]) -> bool:
    """Whether the first line that says anything begins with a name in brackets."""
    first = next((line for line in lines if line.strip() and not _PARTS.fullmatch(line)), "")
    found = _BEGIN.match(first)
    return found is not None and any(char.isalpha() for char in found[1])


def read(lines: Sequence[str], where: str) -> list[Message]:
    """The messages in their order; `where` is of no use to a form in which every line can be read."""
    found: list[tuple[str, list[str], bool]] = []
    parted = False
    for line in lines:
        begin = _BEGIN.match(line)
        if begin:
            found.append((tidy(begin[1]), [begin[2] or ""], parted))
            parted = False
        elif _PARTS.fullmatch(line):
            parted = True
        elif found:
            found[-1][1].append(line)
    messages = [Message(sender, tidy("\n".join(parts)), parted=new) for sender, parts, new in found]
    return [one for one in messages if one.text and one.sender]
