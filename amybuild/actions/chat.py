"""The chat rule: an export of a chat becomes a corpus of one speaker's turns, without a word of it anywhere else."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from amybuild.actions.context import ActionContext
from amybuild.actions.corpus import check_size, numbers, write
from amybuild.actions.split import drawn, split
from amybuild.errors import ActionError, did_you_mean
from amybuild.memory.chat.formats import read_chat
from amybuild.memory.chat.message import Message
from amybuild.memory.chat.windows import Window, Windows, windows

DAY = 86400.0
FEW = 20  # conversations


def run(ctx: ActionContext) -> None:
    """inputs: source (an export, or a folder of them). params: heldout, min_examples, speaker, turns, gap_hours,
    half_life_days (0: all times count alike), max_examples, names, redact. Writes what the corpus rule writes.

    A conversation is on one side as a whole: a reply that is held out is in no context that is trained on.
    """
    params = ctx.params
    heldout, least = numbers(params)
    how = Windows(
        params["speaker"], params["turns"], params["gap_hours"] * 3600.0, params["names"], tuple(params["redact"])
    )
    kinds, messages = read_chat(ctx.inputs["source"], "chat")
    ctx.progress(1, 3)
    _check_speaker(messages, how.speaker)
    found, redacted = windows(messages, how)
    ctx.progress(2, 3)
    chosen = recent(found, params["half_life_days"])
    kept = sorted(chosen, key=lambda one: drawn("kept", one.reply))[: params["max_examples"]]
    made = split((one.example, drawn("heldout", one.conversation) < heldout) for one in kept)
    check_size("chat", made, least, pairs=False)
    about = _about(kinds, messages, found, len(chosen), redacted)
    write(ctx, made, {"chat": about}, _notes(about, bool(params["half_life_days"])))


def recent(found: Sequence[Window], half_life: float) -> list[Window]:
    """The windows that still count: each with chance ``0.5 ** (age / half_life)``, its age in days before the newest.

    The draw is a function of the reply, so that one that once is forgotten stays forgotten as the chat goes on. All
    of them where `half_life` is 0 or no times are told.
    """
    newest = max((one.time for one in found if one.time is not None), default=None)
    if not half_life or newest is None:
        return list(found)
    return [
        one
        for one in found
        if one.time is None or drawn("recent", one.reply) < 0.5 ** ((newest - one.time) / DAY / half_life)
    ]


def _check_speaker(messages: Sequence[Message], speaker: str) -> None:
    people = {one.sender for one in messages}
    if speaker not in people:
        near = did_you_mean(speaker, people)  # who nearly named somebody learns nothing new; no other name is told
        raise ActionError(
            f"nobody of this name among the {len(people)} people who wrote {len(messages)} messages",
            where="speaker",
            remedy=near or "write the name as the export shows it",
        )


def _about(
    kinds: Sequence[str], messages: Sequence[Message], found: Sequence[Window], chosen: int, redacted: dict[str, int]
) -> dict[str, Any]:
    """What the card says of the export: counts and dates."""
    times = [one.time for one in messages if one.time is not None]
    ends = (min(times), max(times)) if times else ()
    days = [datetime.datetime.fromtimestamp(time, datetime.UTC).date().isoformat() for time in ends]
    return {
        "formats": list(kinds),
        "messages": len(messages),
        "people": len({one.sender for one in messages}),
        "conversations": len({one.conversation for one in found}),
        "windows": len(found),
        "forgotten": len(found) - chosen,
        "from": days[0] if days else None,
        "to": days[1] if days else None,
        "redacted": redacted,
    }


def _notes(about: Mapping[str, Any], recent_first: bool) -> Iterator[str]:
    """Warnings about the traps of chats."""
    if recent_first and about["from"] is None:
        yield "the export tells no times: no reply is older than another"
    if about["conversations"] < FEW:
        yield f"only {about['conversations']} conversations, each on one side as a whole: the sides are coarse"
