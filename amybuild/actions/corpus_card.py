"""The card of a corpus: how much of what there is, and which known traps it is near; counts and warnings, no text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from amybuild.actions.near import words
from amybuild.actions.split import Split

FEW_PAIRS = 4
RATIO = (0.6, 1.6)  # outside, a margin per token measures length and style more than behaviour
MOST = 0.9  # of a side's replies: a shared ending is then what is learned first


def card(split: Split, more: Mapping[str, Any] | None = None, notes: Iterable[str] = ()) -> dict[str, Any]:
    """Counts, lengths in characters and warnings; `more` and `notes` are what only the source of the examples knows."""
    train, held = split.train, split.held
    every = [*train, *held]
    pairs = [(len(one.continuation), len(one.rejected[0])) for one in every if one.rejected]
    ratio = round(sum(a for a, _ in pairs) / sum(b for _, b in pairs), 4) if pairs else None
    return {
        "train": len(train),
        "heldout": len(held),
        "counter": sum(one.counter for one in every),
        "with_rejected": len(pairs),
        "heldout_counter": sum(one.counter for one in held),
        "heldout_pairs": sum(bool(one.rejected) for one in held),
        "duplicates": split.duplicates,
        "near": split.near,
        "nodes": dict(Counter(one.node for one in every if one.node)),
        "turns": lengths([len(one.messages) for one in every]),
        "characters": {
            "context": lengths([sum(len(text) for _, text in one.messages) for one in every]),
            "continuation": lengths([len(one.continuation) for one in every]),
            "rejected": lengths([length for _, length in pairs]),
        },
        "length_ratio": ratio,
        "warnings": [*notes, *warnings(split, ratio)],
        **(more or {}),
    }


def warnings(split: Split, ratio: float | None) -> list[str]:
    """Which known traps a corpus is near. `ratio`: characters of wanted replies to those of rejected ones."""
    train, held = split.train, split.held
    every = [*train, *held]
    found = []
    if ratio is not None:
        if not RATIO[0] <= ratio <= RATIO[1]:
            found.append(f"continuations are {ratio:g} times as long as rejected ones: a margin would measure length")
        if (few := sum(bool(one.rejected) for one in held)) < FEW_PAIRS:
            found.append(f"only {few} held-out pairs: a margin over them is coarse (write more, or raise 'heldout')")
        if not any(one.counter for one in every):
            found.append("no counter cases: nothing says where the behaviour should not show")
    if split.duplicates:
        found.append(f"{split.duplicates} examples are there more than once and count once")
    if split.near:
        found.append(f"{split.near} examples are too near trained ones to be held out, and are left out")
    learned = {one.continuation for one in train}
    if leaks := sum(one.continuation in learned for one in held):
        found.append(f"{leaks} held-out replies, short ones, are also trained on in another context")
    for name, replies in (
        ("continuations", [one.continuation for one in every]),
        ("rejected replies", [one.rejected[0] for one in every if one.rejected]),
    ):
        if (share := same_ending(replies)) >= MOST:
            found.append(f"{share:.0%} of the {name} end in the same word: that is what would be learned")
    return found


def same_ending(texts: Sequence[str]) -> float:
    """The share of texts that end in the word which most of them end in; 0 for fewer than three texts.

    The last word says more than the last sign: nearly all sentences end in a full stop.
    """
    endings = Counter((words(text) or [text.strip()])[-1] for text in texts)
    return max(endings.values()) / len(texts) if len(texts) > 2 else 0.0


def lengths(values: Sequence[int]) -> dict[str, float] | None:
    """Smallest, median and largest of some counts."""
    if not values:
        return None
    ranked, half = sorted(values), len(values) // 2
    # not by `statistics`: with what it imports it takes longer than the corpus does
    median = ranked[half] if len(values) % 2 else (ranked[half - 1] + ranked[half]) / 2
    return {"min": ranked[0], "median": median, "max": ranked[-1], "sum": sum(values)}
