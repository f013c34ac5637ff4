"""The table of a sweep: what each setting gains per behaviour, what it keeps, and which one is best."""

from __future__ import annotations

from collections.abc import Mapping
from shlex import quote
from typing import Any

from amybuild.report.text import table


def sweep_table(result: Mapping[str, Any]) -> str:
    """`amybuild sweep` for people, from its JSON; the best setting has a star and is named below, with the rule."""
    rows, names = result["settings"], list(dict.fromkeys(name for row in result["settings"] for name in row["gains"]))
    lines = []
    for number, row in enumerate(rows):
        gains = [_number(row["gains"].get(name), "+.3f") for name in names]
        share = "-" if row["retained"] is None else f"{row['retained']:.0%}"
        kl = _number(row["neutral_kl"], ".4f") + ("" if row["within"] or row["error"] else " over")
        star = "*" if number == result["best"] else ""
        lines.append([star, label(row), *gains, share, kl])
    text = table(lines, ["", "setting", *names, "retained", "neutral KL"])
    errors = [f"{label(row)}: {row['error']}" for row in rows if row["error"]]
    notes = [
        "gains: held-out margin over the base's, nats per token; retained: their mean share of what the vectors gain "
        "alone as declared"
    ]
    rule = f"largest {'smallest' if result['rank_by'] == 'min' else 'mean'} gain"
    if result["max_neutral_kl"] is not None:
        rule += f", neutral KL at most {result['max_neutral_kl']:g} (a gate)"
    if result["best"] is None:
        notes.append(f"no best setting ({rule})")
    else:
        flags = " ".join(f"--set {quote(f'{key}={value}')}" for key, value in rows[result["best"]]["set"].items())
        notes.append(f"* best ({rule}): amybuild {flags}")
    return "\n".join([text, *errors, *notes])


def label(row: Mapping[str, Any]) -> str:
    """A setting in words."""
    return " ".join(f"{key}={value}" for key, value in row["set"].items())


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
