"""The example files that actions hand to each other: JSON lines in, token rows out, canonical JSON back."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
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
    """One held-out case: the wanted reply to a context, and the rejected one where there is one."""

    wanted: Encoded
    rejected: Encoded | None
    counter: bool


def read_pairs(
    file: Path, tokenizer: Any, *, max_tokens: int = 512, form: Callable[..., Encoded] = encode
) -> list[Pair]:
    """The lines that have a rejected reply, as pairs; all lines, without one, where none has (a chat). `form` writes a
    dialogue as ids: `encode`, or another function like it."""
    lines = read_lines(file)
    paired = [row for row in lines if row.get("rejected")]

    def encoded(row: Mapping[str, Any], reply: str) -> Encoded:
        return form(tokenizer, row["id"], row["messages"], row[reply], max_tokens=max_tokens)

    return [
        Pair(
            encoded(row, "continuation"),
            encoded(row, "rejected") if paired else None,
            bool(row.get("counter")),
        )
        for row in paired or lines
    ]


def margins(base: Loaded, pairs: list[Pair]) -> dict[str, float | None]:
    """Mean of log p(wanted) - log p(rejected), each per token (nats): over all pairs, over the behaviour's own cases,
    over its counter cases (None where there are none), and the mean log p per token of each side.
    """
    others = [pair.rejected for pair in pairs if pair.rejected is not None]  # all have one, or none
    scores = reply_scores(base, [pair.wanted for pair in pairs] + others)
    wanted = [score.per_token for score in scores[: len(pairs)]]
    rejected = [score.per_token for score in scores[len(pairs) :]]
    gaps = [(w - r, pair.counter) for w, r, pair in zip(wanted, rejected, pairs, strict=False)]
    return {
        "margin": _mean(gap for gap, _ in gaps),
        "margin_behaviour": _mean(gap for gap, counter in gaps if not counter),
        "margin_counter": _mean(gap for gap, counter in gaps if counter),
        "logp_continuation": _mean(wanted),
        "logp_rejected": _mean(rejected),
    }


def measure(found: Mapping[str, float | None]) -> float:
    """What of `margins` a behaviour is measured by, nats per token: the margin, or log p of the wanted replies where
    none is rejected."""
    margin, wanted = found["margin"], found["logp_continuation"]
    value = wanted if margin is None else margin
    if value is None:
        raise ActionError("nothing was measured", where="held-out examples", remedy="build it again")
    return value


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
