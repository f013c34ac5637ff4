"""How strongly each vector acts on each weight: its alpha, factors by glob, and one factor by depth."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from amybuild.errors import InputError, did_you_mean
from amybuild.value import value

_LAYER = re.compile(r"(?:^|\.)(\d+)\.")


def layer_of(weight: str) -> str:
    """The block a weight belongs to: the first number in its name (`model.layers.7.mlp.up_proj.weight` -> "7")."""
    match = _LAYER.search(weight)
    return match[1] if match else "other"


@value
class Scale:
    """`{match = "*.mlp.*", factor = 0.5, vector = "name"}`: a factor where the glob matches, for one vector or all."""

    match: str
    factor: float
    vector: str | None = None


@value
class Depth:
    """LiNeS (arXiv 2410.17146): a factor on what is merged, linear in the block's index from `first` to `last`.

    Weights outside the blocks have `first`.
    """

    first: float
    last: float

    def factor(self, weight: str, layers: int) -> float:
        """The factor of one weight in a model of `layers` blocks."""
        layer = layer_of(weight)
        share = min(1.0, int(layer) / (layers - 1)) if layer.isdigit() and layers > 1 else 0.0
        return self.first + (self.last - self.first) * share


@value
class Strengths:
    """alpha per vector; `scale`: the first entry that matches counts; `only`: globs of the weights that may change."""

    alphas: Mapping[str, float]
    scale: tuple[Scale, ...] = ()
    only: tuple[str, ...] = ()
    depth: Depth | None = None

    def of(self, vector: str, weight: str) -> float:
        """What the vector's difference is multiplied with on this weight; 0 leaves it out."""
        if self.only and not any(fnmatchcase(weight, glob) for glob in self.only):
            return 0.0
        for entry in self.scale:
            if entry.vector in (None, vector) and fnmatchcase(weight, entry.match):
                return self.alphas[vector] * entry.factor
        return self.alphas[vector]

    def check(self, touched: Mapping[str, Iterable[str]]) -> None:
        """Raise `InputError` for a glob that matches no weight its vectors change; `touched`: weights by vector."""
        every = sorted({weight for weights in touched.values() for weight in weights})
        for glob in self.only:
            _must_match(glob, every, "[link] only")
        for entry in self.scale:
            _must_match(entry.match, every if entry.vector is None else touched[entry.vector], "[link] scale")


def parse_strengths(params: Mapping[str, Any], vectors: Sequence[str]) -> Strengths:
    """Check `alphas` (one for every vector), `scale`, `only` and `depth`. Raises `InputError`."""
    alphas = params.get("alphas", {})
    if not isinstance(alphas, Mapping) or set(alphas) != set(vectors):
        raise InputError("the alphas and the vectors do not have the same names", where="[link] alphas")
    only = params.get("only", ())
    if not isinstance(only, Sequence) or isinstance(only, str) or not all(isinstance(glob, str) for glob in only):
        raise InputError("not a list of globs", where="[link] only", remedy='as in only = ["*.mlp.*"]')
    entries = params.get("scale", ())
    if not isinstance(entries, Sequence) or isinstance(entries, str):
        raise InputError("not a list", where="[link] scale", remedy='as in [{ match = "*.mlp.*", factor = 0.5 }]')
    return Strengths(
        {name: finite(alphas[name], f"alpha of {name}") for name in sorted(alphas)},
        tuple(_scale(entry, vectors) for entry in entries),
        tuple(only),
        _depth(params.get("depth")),
    )


def finite(value: object, where: str) -> float:
    """A finite number as float, or `InputError`."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < float("inf"):
        raise InputError("not a finite number", where=where)
    return float(value)


def _scale(entry: object, vectors: Sequence[str]) -> Scale:
    where = "[link] scale"
    keys = ("match", "factor", "vector")
    if not isinstance(entry, Mapping) or not set(entry) <= set(keys) or not isinstance(entry.get("match"), str):
        raise InputError(f"{entry!r} has not the form {{match, factor, vector?}}", where=where)
    vector = entry.get("vector")
    if vector is not None and vector not in vectors:
        near = did_you_mean(str(vector), vectors)
        raise InputError(f"no vector '{vector}'", where=where, remedy=near)
    return Scale(entry["match"], finite(entry.get("factor"), f"{where} factor"), vector)


def _depth(value: object) -> Depth | None:
    if value is None:
        return None
    if not isinstance(value, Mapping) or set(value) != {"first", "last"}:
        raise InputError(f"{value!r} has not the form {{first, last}}", where="[link] depth")
    return Depth(*(finite(value[key], f"[link] depth.{key}") for key in ("first", "last")))


def _must_match(glob: str, weights: Iterable[str], where: str) -> None:
    known = list(weights)
    if known and not any(fnmatchcase(weight, glob) for weight in known):
        example = f"weights are named as '{known[len(known) // 2]}'"
        raise InputError(f"'{glob}' matches no weight that is linked", where=where, remedy=example)
