"""`Message`: one thing that somebody wrote in a chat, as every reader of an export gives it."""

from __future__ import annotations

from dataclasses import dataclass

_MARKS = dict.fromkeys(map(ord, "\u200e\u200f\u061c\u202a\u202b\u202c\u2066\u2067\u2069\ufeff"))  # of writing direction


@dataclass(frozen=True, slots=True)
class Message:
    """`time` is in seconds since 1970 (a time without a zone is taken as UTC), None where the export tells none.

    `room` tells the chats of one export apart. `parted`: the export itself says that something new begins here.
    """

    sender: str
    text: str
    time: float | None = None
    room: str = ""
    parted: bool = False


def tidy(text: str) -> str:
    """`text` without marks of writing direction, with no half of a surrogate pair, no space at its ends."""
    if text.isascii():
        return text.strip()
    whole = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return whole.translate(_MARKS).strip()
