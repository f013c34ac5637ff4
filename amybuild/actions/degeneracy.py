"""What greedy replies tell of a broken model: it repeats itself, says less or more, does not come to an end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from amybuild.model.data import read_lines
from amybuild.model.generate import Reply, replies
from amybuild.model.load import Loaded
from amybuild.model.tokens import encode_prompt

GRAM = 3  # ids in a row that count as said again


def sampled(base: Loaded, inputs: Mapping[str, Path], count: int, length: int) -> dict[str, float]:
    """`account` of the model's greedy replies, of at most `length` new tokens, to `count` held-out contexts: half of
    them the behaviour's own where it has some, the others neutral prompts. Empty for a count of 0."""
    if not count:
        return {}
    own = _contexts(inputs["corpus"], (count + 1) // 2) if "corpus" in inputs else []
    asked = own + _contexts(inputs["neutral"], count - len(own))
    return account(replies(base, [encode_prompt(base.tokenizer, messages) for messages in asked], length))


def _contexts(folder: Path, count: int) -> list[Any]:
    rows = sorted(read_lines(folder / "heldout.jsonl"), key=lambda row: str(row["id"]))
    return [row["messages"] for row in rows[:count]]


def account(found: Sequence[Reply]) -> dict[str, float]:
    """`repetition`: share of the n-grams that the same reply held before; `length`: mean tokens; `end_of_turn`: share
    of the replies that came to their end."""
    grams = [[reply.ids[i : i + GRAM] for i in range(len(reply.ids) - GRAM + 1)] for reply in found]
    count = sum(map(len, grams))
    again = sum(len(row) - len(set(row)) for row in grams)
    return {
        "prompts": len(found),
        "repetition": again / count if count else 0.0,
        "length": sum(len(reply.ids) for reply in found) / len(found),
        "end_of_turn": sum(reply.ended for reply in found) / len(found),
    }
