"""The two sides of a corpus: which examples are held out, and that nothing on that side was trained on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from amybuild.actions.near import near, words
from amybuild.digest import digest_value
from amybuild.errors import ActionError
from amybuild.memory.example import Example
from amybuild.value import value

LONG = 12  # words of a reply that nobody says twice by chance


@value
class Split:
    """Examples by id, each at most once; `left_out` is how many were no good for either side.

    `duplicates` were there more than once, `near` would have been held out but are too near one that is trained on.
    """

    train: tuple[Example, ...]
    held: tuple[Example, ...]
    duplicates: int
    near: int


def is_heldout(messages: Sequence[tuple[str, str]], share: float) -> bool:
    """The side of an example: a function of its context alone (case and spacing aside), so that no other example's
    coming or going moves it, an edited reply stays on its side, and two replies to one context are never parted."""
    context = [[role, " ".join(text.split()).casefold()] for role, text in messages]
    return drawn("heldout", context) < share


def drawn(purpose: str, value: object) -> float:
    """A number in [0, 1) that depends on `purpose` and `value` (plain JSON) alone."""
    return int(digest_value(purpose, value)[:12], 16) / 16.0**12


def split(sided: Iterable[tuple[Example, bool]]) -> Split:
    """The `Split` of examples that each know whether they are to be held out.

    An example's side is its own affair: one that comes or goes moves no other. It can only make a held-out one, which
    it is too near to, count no longer.
    """
    found = list(sided)
    unique = {one.id: (one, out) for one, out in reversed(found)}
    ordered = [unique[name] for name in sorted(unique)]
    train = tuple(one for one, out in ordered if not out)
    candidates = [one for one, out in ordered if out]
    close = too_near(candidates, train)
    held = tuple(one for one, bad in zip(candidates, close, strict=True) if not bad)
    check_apart(train, held)
    return Split(train, held, len(found) - len(unique), sum(close))


def too_near(some: Sequence[Example], train: Sequence[Example]) -> list[bool]:
    """For each of `some` examples whether one of its texts is near one that is trained on.

    Its texts are the last turn before the reply with the reply, wanted or rejected, and a long reply by itself. Earlier
    turns do not count: many examples may begin with one and the same page of context.
    """
    texts = [(place, text) for place, one in enumerate(some) for text in _texts(one)]
    marks = near([text for _, text in texts], [text for one in train for text in _texts(one)])
    found = {place for (place, _), mark in zip(texts, marks, strict=True) if mark}
    return [place in found for place in range(len(some))]


def check_apart(train: Iterable[Example], held: Iterable[Example]) -> None:
    """ActionError when a held-out example is also trained on, word for word (case and punctuation aside)."""
    learned = {tuple(words(text)) for one in train for text in _texts(one)}
    leaks = sorted(one.id for one in held if any(tuple(words(text)) in learned for text in _texts(one)))
    if leaks:
        raise ActionError(
            f"{len(leaks)} held-out examples are also trained on",
            where=f"example {leaks[0]}",
            remedy="this is a fault of amybuild: please report it",
        )


def _texts(one: Example) -> list[str]:
    replies = (one.continuation, *one.rejected)
    asked = one.messages[-1][1]
    return [*(f"{asked}\n{reply}" for reply in replies), *(r for r in replies if len(words(r)) >= LONG)]
