"""The tables of what was measured: a number that is not there is a dash, and an old build has no table."""

from __future__ import annotations

from typing import Any

from amybuild.report.measured import alone, crossed

FOUND: dict[str, Any] = {
    "gain": 0.25,
    "prose_gain": -0.125,
    "own_kl": 0.5,
    "neutral_kl": 0.01,
    "ppl_ratio": 1.02,
    "samples": {"repetition": 0.25, "end_of_turn": 0.5},
    "shares": [[0, 0.1], [0.25, 0.2], [0.5, 0.3], [1, 0.35]],
    "monotone": True,
}


def test_a_vector_alone() -> None:
    bent = {**FOUND, "monotone": False}
    bare = {"neutral_kl": 0.02, "ppl_ratio": 1.0, "samples": {}}
    text = alone([{"name": name, "verify": one} for name, one in (("a", FOUND), ("b", bent), ("c", bare))])
    a, b, c = text.splitlines()[1:4]
    assert a.split()[:9] == ["a", "+0.250", "-0.125", "0.500", "0.0100", "1.020", "25%", "-", "50%"]
    assert a.endswith("+0.10 < +0.20 < +0.30 < +0.35")
    assert b.endswith("+0.10, +0.20, +0.30, +0.35")
    assert c.split() == ["c", "-", "-", "-", "0.0200", "1.000", "-", "-", "-", "-"]
    assert alone([{"name": "old", "verify": {"neutral_kl": 0.01}}, {"name": "older"}]) == ""


def test_the_matrix_has_a_row_per_vector_and_a_column_per_behaviour() -> None:
    effects = {"a": {"a": 0.5, "b": -0.25}, "b": {"a": 0.125, "b": 0.25}, "sum": {"a": 0.1, "b": 0.2}}
    lines = crossed({"cross": effects, "cross_share": {"a": 0.5, "b": None}}).splitlines()
    assert lines[0].split() == ["vector", "on", "a", "b", "share"]
    assert lines[1].split() == ["a", "+0.500", "-0.250", "0.50"]
    assert lines[2].split() == ["b", "+0.125", "+0.250", "-"]
    assert lines[3].split() == ["sum", "+0.100", "+0.200", "-"]
    assert crossed({}) == crossed({"cross": {}}) == ""
