"""WhatsApp's text export, of Android and of iOS, with the dates and digits of many countries."""

from __future__ import annotations

import re
from collections.abc import Sequence

from amybuild.memory.chat.message import Message, tidy
from amybuild.memory.chat.when import HALF, Stamp, hours, seconds

NAME = "WhatsApp (text, Android or iOS)"
_TURN = "[\u200e\u200f\u061c\u202a-\u202c\u2066-\u2069]*"  # marks of writing direction, between any two signs of a date
_WHEN = (
    rf"(\d{{1,4}}){_TURN}[./-]{_TURN}\s?(\d{{1,2}}){_TURN}[./-]{_TURN}\s?(\d{{1,4}}){_TURN}\.?[,\u060c]?{_TURN}\s+{_TURN}"
    rf"(?:({HALF})\s*|\w{{1,3}}\s)?(\d{{1,2}})[:.](\d{{2}})(?:[:.](\d{{2}}))?{_TURN}(?:\s*({HALF}))?{_TURN}"
)
_BEGIN = re.compile(rf"(?:\[{_TURN}{_WHEN}\]\s?|{_WHEN}\s+[-\u2013]{_TURN}\s)(.*)", re.DOTALL)
_SENDER = re.compile(
    r"([^:\"\u201c\u201d\u201e\u00ab\u00bb\n]{1,120}?):(?: (.*)|$)", re.DOTALL
)  # quotes: a new subject
_EDITED = re.compile(r"(?:\u200e<[^<>\n]+>|<This message was edited>)\s*\Z")
_NOT_SAID = re.compile(r"<[^<>\n]{3,80}>|null")  # <Media omitted> in any language, <attached: …>
_FILE = re.compile(r"\S{1,160}\.[A-Za-z0-9]{2,5} \([^()\n]{3,60}\)(?:\n|\Z)")  # IMG-1.jpg (file attached)
_DELETED = re.compile(
    r"(?:This message was deleted|You deleted this message|Diese Nachricht wurde gelöscht|"
    r"Du hast diese Nachricht gelöscht|Ce message a été supprimé|Se eliminó este mensaje|Mensagem apagada|"
    r"Questo messaggio è stato eliminato|تم حذف هذه الرسالة|이 메시지는 삭제되었습니다|"
    r"このメッセージは削除されました|Waiting for this message\. This may take a while)\.?"
)


def matches(lines: Sequence[str]) -> bool:
    """Whether the first line that is not empty begins with a date as WhatsApp writes it."""
    first = next((line for line in lines if line.strip()), "")
    return _BEGIN.match(_bare(first)) is not None


def read(lines: Sequence[str], where: str) -> list[Message]:
    """The messages: system lines, media that were left out and deleted messages are none."""
    found: list[tuple[Stamp, list[str]]] = []
    for line in lines:
        begin = _BEGIN.match(_bare(line))
        if begin is None:
            if found:
                found[-1][1].append(line)
            continue
        *numbers, rest = begin.groups()
        a, b, c, before, hour, minute, second, after = numbers[:8] if numbers[0] else numbers[8:]
        half = before or after
        clock = (hours(int(hour), half), int(minute), int(second or 0))
        found.append((((int(a), int(b), int(c)), clock, bool(half) and half.isascii()), [rest]))
    times = seconds([stamp for stamp, _ in found], where)
    messages = []
    for time, (_, parts) in zip(times, found, strict=True):
        said = _SENDER.match("\n".join(parts))
        text = _said(said[2] or "") if said else ""
        sender = tidy(said[1]).removeprefix("~").strip() if said else ""
        if sender and text:
            messages.append(Message(sender, text, time))
    return messages


def _bare(line: str) -> str:
    return line.lstrip("\u200e\u200f\u061c\u202a\u202b\u202c\ufeff")


def _said(text: str) -> str:
    """What somebody wrote; nothing for what the app put there (on iOS that begins with a mark of direction)."""
    if text.startswith("\u200e"):
        return ""
    text = tidy(_EDITED.sub("", text))
    if _NOT_SAID.fullmatch(text) or _DELETED.fullmatch(text):
        return ""
    return _FILE.sub("", text, count=1).strip() if _FILE.match(text) else text
