"""The teacher of a context distillation: the base itself, with examples or the pattern's own text in its context."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from amybuild.errors import ActionError
from amybuild.model.tokens import Encoded, encode


def teachers(
    tokenizer: Any,
    lines: Sequence[Mapping[str, Any]],
    rows: Sequence[Encoded],
    *,
    reply: str,
    examples: int,
    text: str,
    seed: int,
    max_tokens: int,
) -> dict[str, Encoded]:
    """For each of `rows` (by its id) the same reply behind what the teacher is shown first.

    text: said as a system turn, where it is not empty. examples: so many other dialogues of the corpus (`lines`), which
    ones depends on seed and row only. A context too long loses its oldest examples. ActionError when the reply has
    other tokens behind the longer context: then there is nothing to compare.
    """
    wanted = {row.id: row for row in rows}
    known = [line for line in lines if line["id"] in wanted and line.get(reply)]
    found: dict[str, Encoded] = {}
    for line in known:
        others = [one for one in known if one["id"] != line["id"]]
        shown = sorted(others, key=lambda one: _draw(seed, line["id"], one["id"]))[:examples]
        turns = [turn for one in shown for turn in _turns(one, reply)]
        own = list(line["messages"])
        system = [text] if text else []
        if own and own[0]["role"] == "system":
            system.append(own.pop(0)["content"])
        head = [{"role": "system", "content": "\n\n".join(system)}] if system else []
        row = encode(tokenizer, line["id"], [*head, *turns, *own], line[reply], max_tokens=max_tokens)
        if row.labels != wanted[line["id"]].labels:
            what = "the reply has other tokens behind the teacher's context"
            raise ActionError(what, where=f"example {line['id']}", remedy="raise max_tokens or teacher_tokens")
        found[row.id] = row
    return found


def _turns(line: Mapping[str, Any], reply: str) -> list[Mapping[str, str]]:
    spoken = [turn for turn in line["messages"] if turn["role"] != "system"]
    return [*spoken, {"role": "assistant", "content": line[reply]}]


def _draw(seed: int, row: str, other: str) -> bytes:
    return hashlib.sha256(f"{seed}\0{row}\0{other}".encode()).digest()
