"""From messages to examples: conversations cut at time gaps, turns joined, windows of turns before each reply."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from amybuild.digest import digest_value
from amybuild.memory.chat.message import Message
from amybuild.memory.chat.redact import Redactor, says_nothing
from amybuild.memory.example import Example, make_example

PIECE = 128  # a conversation is also cut at one message in so many


@dataclass(frozen=True)
class Windows:
    """How a chat becomes examples.

    `speaker` is who is learned, `turns` how many turns before a reply are its context, `gap` the silence in seconds
    that ends a conversation. `names` says what people are called instead, `redact` what is taken out (`redact.KINDS`).
    """

    speaker: str
    turns: int = 8
    gap: float = 6 * 3600.0
    names: Mapping[str, str] = field(default_factory=dict)
    redact: Sequence[str] = ()


@dataclass(frozen=True)
class Window:
    """An example, when its reply was written, and which conversation it is of: by digests of raw messages, so that
    neither depends on how wide the windows are or on what is redacted."""

    example: Example
    time: float | None
    reply: str
    conversation: str


def conversations(messages: Sequence[Message], gap: float) -> Iterator[list[Message]]:
    """Messages that belong together: of one room, with no silence of `gap` seconds or more and no mark between them.

    One in `PIECE` messages, chosen by its own digest, begins a new one too: a chat that never falls silent, or whose
    export tells no times, must not stand on one side of a split as a whole. What is appended to an export, or is cut
    off its beginning, moves no other cut.
    """
    current: list[Message] = []
    for one in messages:
        if current:
            last = current[-1]
            silent = one.time is not None and last.time is not None and abs(one.time - last.time) >= gap
            if one.room != last.room or silent or one.parted or int(_mark(one)[:8], 16) % PIECE == 0:
                yield current
                current = []
        current.append(one)
    if current:
        yield current


def windows(messages: Sequence[Message], how: Windows) -> tuple[list[Window], dict[str, int]]:
    """``(an example for each turn of the speaker that answers somebody, counts of what was taken out)``.

    What one person wrote in a row is one turn. The others' turns are the user's; where they are several people, each
    line says who. A context begins with a turn of theirs.
    """
    found: list[Window] = []
    counts: Counter[str] = Counter()
    rooms: dict[str, list[Message]] = {}
    for one in messages:
        rooms.setdefault(one.room, []).append(one)
    for group in rooms.values():
        others = [name for name in dict.fromkeys(one.sender for one in group) if name != how.speaker]
        redactor = Redactor(how.redact, how.names, others)
        labels = {name: _label(number, name, how, redactor) for number, name in enumerate(others, 1)}
        for talk in conversations(group, how.gap):
            found += _of(talk, how, redactor, labels if len(others) > 1 else {})
        counts += redactor.counts
    return found, dict(sorted(counts.items()))


def _of(talk: Sequence[Message], how: Windows, redactor: Redactor, labels: Mapping[str, str]) -> Iterator[Window]:
    name = _mark(talk[0])
    turns: list[tuple[str, str, Message]] = []  # who, what, the first of its messages
    for sender, group in groupby(talk, lambda one: one.sender):
        said = list(group)
        text = redactor("\n".join(one.text for one in said)).strip()
        if text:
            turns.append((sender, text, said[0]))
    for place, (sender, text, first) in enumerate(turns):
        if sender != how.speaker or says_nothing(text):
            continue
        before = turns[max(0, place - how.turns) : place]
        messages: list[tuple[str, str]] = []
        for own, some in groupby(before, lambda one: one[0] == how.speaker):
            lines = [f"{labels[who]}: {what}" if who in labels else what for who, what, _ in some]
            if not own or messages:  # a context begins with somebody else
                messages.append(("assistant" if own else "user", "\n".join(lines)))
        if messages and messages[-1][0] == "user":
            yield Window(make_example("", messages, text), first.time, _mark(first), name)


def _mark(one: Message) -> str:
    return digest_value("message", [one.sender, one.time, one.text])


def _label(number: int, name: str, how: Windows, redactor: Redactor) -> str:
    """What a speaker is called in a context. An export knows by their number whom the phone has no name for."""
    bare = how.names.get(name) or redactor(name)
    return f"Person {number}" if says_nothing(bare) else bare
