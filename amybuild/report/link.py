"""The interference report of a link: what each vector keeps, and where vectors pull against each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from amybuild.report.text import table


def interference(link: Mapping[str, Any], layers: bool = False) -> str:
    """persona.json's `link` in words: per vector its norm, density reached and surviving mass, then what each pair
    shares; with `layers` the same per block. Empty where nothing was linked."""
    names = link.get("order") or []
    if not names:
        return ""
    parts = [_vectors(link, names)]
    if len(names) > 1:
        parts.append(_pairs(link, names))
    if layers and link.get("layers"):
        parts.append(_layers(link, names))
    return "\n\n".join(parts)


def _vectors(link: Mapping[str, Any], names: Sequence[str]) -> str:
    rows = []
    for name in names:
        found = link["vectors"][name]
        shares = (found["density_reached"], found["mass_kept"], found["mass_surviving"])
        rows.append([name, f"{link['alphas'][name]:g}", f"{found['norm']:.4g}", *map(_share, shares)])
    return table(rows, ["vector", "alpha", "norm", "density", "mass kept", "surviving"])


def _pairs(link: Mapping[str, Any], names: Sequence[str]) -> str:
    """One square: cosines above the diagonal, sign conflicts below it."""
    rows = []
    for i, name in enumerate(names):
        cells = [
            "."
            if i == j
            else f"{link['cosine'][i][j]:+.2f}"
            if j > i
            else _share(link["vectors"][name]["sign_conflict"][other])
            for j, other in enumerate(names)
        ]
        rows.append([name, *cells])
    note = "above the diagonal: cosine; below: opposite signs among the entries that both keep"
    return table(rows, ["", *names]) + "\n" + note


def _layers(link: Mapping[str, Any], names: Sequence[str]) -> str:
    rows = []
    for row in link["layers"]:
        cells = [f"{norm:.3g} {_share(left)}" for norm, left in zip(row["norm"], row["mass_surviving"], strict=True)]
        rows.append([row["layer"], str(row["tensors"]), _share(row["sign_conflict"]), *cells])
    text = table(rows, ["block", "tensors", "conflict", *names])
    return f"{text}\nper vector: norm, and the share of its mass that survives"


def _share(value: float) -> str:
    return f"{value:.1%}"
