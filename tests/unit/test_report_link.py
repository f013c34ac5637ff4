"""The interference report and the sweep's table, as text."""

from __future__ import annotations

from typing import Any

from amybuild.report.link import interference
from amybuild.report.sweep import sweep_table


def vector(norm: float, **conflicts: float) -> dict[str, Any]:
    shares = {"density_reached": 0.21, "mass_kept": 0.6, "mass_surviving": 0.55}
    return {"norm": norm, **shares, "sign_conflict": conflicts}


LINK: dict[str, Any] = {
    "order": ["a", "bb"],
    "alphas": {"a": 1.0, "bb": -0.5},
    "vectors": {"a": vector(0.123456, bb=0.487), "bb": vector(12.0, a=0.487)},
    "cosine": [[1.0, -0.123], [-0.123, 1.0]],
    "layers": [
        {"layer": "0", "tensors": 7, "norm": [0.1, 2.0], "mass_surviving": [0.5, 0.25], "sign_conflict": 0.4},
        {"layer": "other", "tensors": 1, "norm": [0.0, 1.0], "mass_surviving": [0.0, 1.0], "sign_conflict": 0.0},
    ],
}


def test_vectors_and_pairs() -> None:
    assert interference(LINK).splitlines() == [
        "vector  alpha  norm    density  mass kept  surviving",
        "a           1  0.1235    21.0%      60.0%      55.0%",
        "bb       -0.5      12    21.0%      60.0%      55.0%",
        "",
        "    a      bb",
        "a   .      -0.12",
        "bb  48.7%  .",
        "above the diagonal: cosine; below: opposite signs among the entries that both keep",
    ]


def test_blocks() -> None:
    lines = interference(LINK, layers=True).splitlines()
    assert "block  tensors  conflict  a          bb" in lines
    assert "    0        7     40.0%  0.1 50.0%   2 25.0%" in lines
    assert ["other", "1", "0.0%", "0", "0.0%", "1", "100.0%"] in [line.split() for line in lines]


def test_nothing_linked_and_one_vector() -> None:
    assert interference({}) == ""
    assert interference({"order": []}) == ""
    one = {**LINK, "order": ["a"], "vectors": {"a": vector(1.0)}, "cosine": [[1.0]], "layers": []}
    assert "diagonal" not in interference(one, layers=True)


def test_a_sweep_in_words() -> None:
    row: dict[str, Any] = {"retained": 0.5, "neutral_kl": 0.02, "within": True, "ran": 2, "error": None}
    rows = [
        {**row, "set": {"link.lambda": "1"}, "gains": {"x": 0.1}},
        {**row, "set": {"link.lambda": "9"}, "gains": {"x": 0.4}, "retained": None, "neutral_kl": 2.0, "within": False},
        {
            **row,
            "set": {"link.lambda": "-"},
            "gains": {},
            "retained": None,
            "neutral_kl": None,
            "within": False,
            "error": "it broke",
        },
    ]
    text = sweep_table({"settings": rows, "best": 0, "rank_by": "mean", "max_neutral_kl": 1.0})
    lines = text.splitlines()
    assert lines[1].split() == ["*", "link.lambda=1", "+0.100", "50%", "0.0200"]
    assert lines[2].split() == ["link.lambda=9", "+0.400", "-", "2.0000", "over"]
    assert lines[3].split() == ["link.lambda=-", "-", "-", "-"]
    assert "link.lambda=-: it broke" in lines
    assert lines[-1] == "* best (largest mean gain, neutral KL at most 1 (a gate)): amybuild --set link.lambda=1"
