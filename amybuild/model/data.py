"""The example files that actions hand to each other: JSON lines in, token rows out, canonical JSON back."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amybuild.errors import ActionError
from amybuild.model.load import Loaded
from amybuild.model.score import reply_scores
from amybuild.model.tokens import Encoded, encode


def read_lines(file: Path) -> list[dict[str, Any]]:
    """The objects of a JSON-lines file; ActionError names file and line, never their text."""
    rows: list[dict[str, Any]] = []
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ActionError(
            f"cannot be read ({error.strerror})", where=file.name, remedy="build its action again"
        ) from error
    for number, line in enumerate(lines, 1):
        try:
            rows.append(json.loads(line))
        except ValueError:
            raise ActionError("not JSON", where=f"{file.name}:{number}", remedy="build its action again") from None
    return rows


def read_replies(file: Path, tokenizer: Any, *, reply: str = "continuation", max_tokens: int = 512) -> list[Encoded]:
    """Each line's context with its `reply` field (continuation | rejected) as token rows; others are left out."""
    return [
        encode(tokenizer, row["id"], row["messages"], row[reply], max_tokens=max_tokens)
        for row in read_lines(file)
        if row.get(reply)
    ]


@dataclass(frozen=True)
class Pair:
    """One held-out case: the wanted and the rejected reply to the same context."""

    wanted: Encoded
    rejected: Encoded
    counter: bool


def read_pairs(file: Path, tokenizer: Any, *, max_tokens: int = 512) -> list[Pair]:
    """The lines that have a rejected reply, as pairs."""
    rows = [row for row in read_lines(file) if row.get("rejected")]
    return [
        Pair(
            encode(tokenizer, row["id"], row["messages"], row["continuation"], max_tokens=max_tokens),
            encode(tokenizer, row["id"], row["messages"], row["rejected"], max_tokens=max_tokens),
            bool(row.get("counter")),
        )
        for row in rows
    ]


def margins(base: Loaded, pairs: list[Pair]) -> dict[str, float | None]:
    """Mean of log p(wanted) - log p(rejected), each per token (nats): over all pairs, over the behaviour's own cases,
    over its counter cases (None where there are none), and the mean log p per token of each side.
    """
    scores = reply_scores(base, [pair.wanted for pair in pairs] + [pair.rejected for pair in pairs])
    wanted = [score.per_token for score in scores[: len(pairs)]]
    rejected = [score.per_token for score in scores[len(pairs) :]]
    gaps = [w - r for w, r in zip(wanted, rejected, strict=True)]
    return {
        "margin": _mean(gaps),
        "margin_behaviour": _mean(g for g, pair in zip(gaps, pairs, strict=True) if not pair.counter),
        "margin_counter": _mean(g for g, pair in zip(gaps, pairs, strict=True) if pair.counter),
        "logp_continuation": _mean(wanted),
        "logp_rejected": _mean(rejected),
    }


def _mean(values: Iterable[float]) -> float | None:
    found = list(values)
    return sum(found) / len(found) if found else None


def write_json(file: Path, value: Mapping[str, Any]) -> None:
    """Sorted keys, indented: the same value gives the same bytes."""
    file.write_text(json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n", encoding="utf-8")


def write_lines(file: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """One object a line, sorted keys."""
    text = "".join(json.dumps(row, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
    file.write_text(text, encoding="utf-8")
