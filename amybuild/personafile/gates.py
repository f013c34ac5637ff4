"""Gates as they are written: in a recipe the bounds of one vector, in the Personafile those of the linked persona."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from amybuild.personafile.check import Table


@dataclass(frozen=True)
class Bound:
    """One gate: what a value may be, and its default (None: there is no such gate unless it is set)."""

    default: float | None = None
    kind: type = float
    ok: Callable[[Any], bool] = lambda _: True
    rule: str = ""


_NOT_NEGATIVE: dict[str, Any] = {"ok": lambda v: v >= 0, "rule": "must be at least 0"}
_SHARE: dict[str, Any] = {"ok": lambda v: 0 <= v <= 1, "rule": "must lie between 0 and 1"}

GATES: Mapping[str, Mapping[str, Bound]] = {
    "task": {
        "min_margin_gain": Bound(0.0),
        "monotone": Bound(kind=bool),
        "min_prose_gain": Bound(),
        "max_neutral_kl": Bound(1.0),
        "max_ppl_ratio": Bound(**_NOT_NEGATIVE),
        "max_own_kl": Bound(**_NOT_NEGATIVE),
        "max_cross_share": Bound(**_NOT_NEGATIVE),
        "max_repetition": Bound(**_SHARE),
        "min_length_ratio": Bound(**_NOT_NEGATIVE),
        "max_length_ratio": Bound(**_NOT_NEGATIVE),
        "min_end_of_turn": Bound(**_SHARE),
    },
    "steer": {},
    "persona": {"min_kept": Bound(), "max_neutral_kl": Bound(**_NOT_NEGATIVE), "max_ppl_ratio": Bound(**_NOT_NEGATIVE)},
}


def defaults(kind: str) -> dict[str, Any]:
    """The gates that are there unless others are set."""
    return {name: bound.default for name, bound in GATES[kind].items() if bound.default is not None}


def read_gates(table: Table, kind: str) -> dict[str, Any]:
    """The `gates` in `table`."""
    gates, known = table.child("gates"), GATES[kind]
    found = {
        name: gates.within(name, bound.kind, bound.default, bound.ok, bound.rule)
        for name, bound in known.items()
        if name in gates.data
    }
    gates.taken.update(known)
    gates.done()
    return found
