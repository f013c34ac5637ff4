"""What was measured of each vector alone, and what each does to the others, as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from amybuild.report.text import table

_COLUMNS = (  # header, where its number is, how it is written
    ("gain", ("gain",), "+.3f"),
    ("prose", ("prose_gain",), "+.3f"),
    ("own KL", ("own_kl",), ".3f"),
    ("neutral KL", ("neutral_kl",), ".4f"),
    ("perplexity", ("ppl_ratio",), ".3f"),
    ("repeats", ("samples", "repetition"), ".0%"),
    ("length", ("length_ratio",), ".2f"),
    ("ends", ("samples", "end_of_turn"), ".0%"),
)


def alone(targets: Sequence[Mapping[str, Any]]) -> str:
    """Each vector alone at the strength it is linked with; of a build that tells it."""
    rows = []
    for target in targets:
        found = target.get("verify") or {}
        if "ppl_ratio" not in found:
            continue
        rises = " < ".join(f"{value:+.2f}" for _, value in found.get("shares", ()))
        steady = rises if found.get("monotone") else rises.replace(" < ", ", ")
        rows.append([target["name"], *(_cell(found, place, form) for _, place, form in _COLUMNS), steady or "-"])
    if not rows:
        return ""
    head = ["vector alone", *(name for name, _, _ in _COLUMNS), "margin at 0, 1/4, 1/2, 1"]
    note = (
        "gain, prose: held-out margin over the base's, in the chat template and as plain prose; KL: nats per token to "
        "the base,\non its own and on neutral replies; perplexity (neutral), length: over the base's; repeats, length, "
        "ends: of greedy replies"
    )
    return f"{table(rows, head)}\n{note}"


def crossed(verification: Mapping[str, Any]) -> str:
    """The cross-effects: a row per vector, a column per behaviour; of a build that tells them."""
    effects, shares = verification.get("cross") or {}, verification.get("cross_share") or {}
    names = sorted({name for row in effects.values() for name in row})
    if not names:
        return ""
    rows = []
    for vector, row in sorted(effects.items()):
        cells = ["-" if row.get(name) is None else f"{row[name]:+.3f}" for name in names]
        share = shares.get(vector)
        rows.append([vector, *cells, "-" if share is None else f"{share:.2f}"])
    note = (
        "gain of each vector alone on each behaviour's held-out margin, nats per token; share: largest other over own"
    )
    return f"{table(rows, ['vector on', *names, 'share'])}\n{note}"


def _cell(found: Mapping[str, Any], place: Sequence[str], form: str) -> str:
    value: Any = found
    for key in place:
        value = value.get(key) if isinstance(value, Mapping) else None
    return "-" if value is None else format(value, form)
