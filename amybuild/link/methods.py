"""The merge methods, one row each: which entries stay, how a sign is elected, what the sum is divided by, its paper."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from amybuild.errors import InputError, did_you_mean
from amybuild.link.matrix import MATRIX_METHODS, MatrixMethod
from amybuild.link.strength import Strengths, finite, parse_strengths
from amybuild.value import field, value

COMMON = ("method", "lambda", "alphas", "scale", "only", "depth", "device")
DEVICES = ("cpu", "cuda", "auto")
_ALWAYS = ("density", "elect")  # a Personafile has them whatever the method


@value
class Parameter:
    """One parameter of a method: its default, whether a value will do, and what to say when it will not."""

    default: Any
    fits: Callable[[Any], bool]
    wanted: str


@value
class Method:
    """A row of the method table.

    Elementwise: `thins` says which entries of each vector stay, `elects` whether those that oppose the elected sign are
    left out. `matrix`: a method of whole matrices; what is none (vectors, embeddings, heads) gets the weighted sum.
    """

    name: str
    paper: str
    thins: str = ""  # "" | trim | band | random | ranks | spread | consensus
    elects: bool = False
    matrix: MatrixMethod | None = None
    parameters: tuple[str, ...] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _one_of(*words: str) -> Parameter:
    return Parameter(words[0], lambda value: value in words, f"one of {', '.join(words)}")


PARAMETERS: Mapping[str, Parameter] = {
    "density": Parameter(0.2, lambda v: _is_number(v) and 0 < v <= 1, "a share above 0, at most 1"),
    "elect": _one_of("mass", "count"),
    "divide": _one_of("count", "weights", "none"),
    "scope": _one_of("tensor", "global"),
    "seed": Parameter(0, lambda v: isinstance(v, int) and not isinstance(v, bool), "a whole number"),
    "epsilon": Parameter(0.15, lambda v: _is_number(v) and 0 <= v < 1, "a number from 0, below 1"),
    "gamma": Parameter(0.01, lambda v: _is_number(v) and 0 <= v < 1, "a share from 0, below 1"),
    "agree": Parameter(2, lambda v: isinstance(v, int) and not isinstance(v, bool) and v >= 1, "a count from 1"),
    "need": Parameter(0.4, lambda v: _is_number(v) and v >= 0, "a number from 0"),
}

_TIES = ("density", "elect", "divide")
_ARXIV = "https://arxiv.org/abs/"
_ELEMENTWISE = (
    Method("linear", f"{_ARXIV}2212.04089"),
    Method("ties", f"{_ARXIV}2306.01708", "trim", True, parameters=(*_TIES, "scope")),
    Method("dare_linear", f"{_ARXIV}2311.03099", "random", parameters=("density", "seed")),
    Method("dare_ties", f"{_ARXIV}2311.03099", "random", True, parameters=(*_TIES, "seed")),
    Method("della_linear", f"{_ARXIV}2406.11617", "ranks", parameters=("density", "epsilon", "seed")),
    Method("della", f"{_ARXIV}2406.11617", "ranks", True, parameters=(*_TIES, "epsilon", "seed")),
    Method("breadcrumbs", f"{_ARXIV}2312.06795", "band", parameters=("density", "gamma", "scope")),
    Method("breadcrumbs_ties", f"{_ARXIV}2312.06795", "band", True, parameters=(*_TIES, "gamma", "scope")),
    Method("sce", f"{_ARXIV}2408.07990", "spread", True, parameters=("density",), defaults={"density": 1.0}),
    Method("consensus", f"{_ARXIV}2405.07813", "consensus", parameters=("agree", "need")),
)
METHODS: Mapping[str, Method] = {
    **{row.name: row for row in _ELEMENTWISE},
    **{row.name: Method(row.name, row.paper, matrix=row) for row in MATRIX_METHODS.values()},
}


@value
class Recipe:
    """How to link: the method's row, its parameters, lambda, and how strongly each vector acts where."""

    method: Method
    values: Mapping[str, Any]
    lam: float
    strengths: Strengths
    device: str = "cpu"

    @property
    def density(self) -> float:
        """The share of entries the method keeps of each vector; 1 for methods that keep all."""
        return float(self.values.get("density", 1.0))


def method_named(name: object) -> Method:
    """The row of that name; `InputError` with the known ones otherwise."""
    if isinstance(name, str) and name in METHODS:
        return METHODS[name]
    near = did_you_mean(name, METHODS) if isinstance(name, str) else None
    remedy = near or f"one of {', '.join(sorted(METHODS))}"
    raise InputError(f"unknown link method {name!r}", where="[link] method", remedy=remedy)


def parse_recipe(params: Mapping[str, Any], vectors: Sequence[str]) -> Recipe:
    """Check `{"method" = "ties", "density" = 0.2, "lambda" = 1.0, "alphas" = {name: float}, …}`.

    Every vector must have an alpha and every alpha a vector; a parameter that is not the method's is an error (but
    `density` and `elect`, which are then not used). Raises `InputError`.
    """
    method = method_named(params.get("method", "ties"))
    if method.matrix is not None:
        return _matrix_recipe(method, method.matrix, params, vectors)
    known = (*COMMON, *method.parameters, *_ALWAYS)
    for name in params:
        if name not in known:
            what = f"'{name}' is no parameter of {method.name}" if name in PARAMETERS else f"unknown key '{name}'"
            raise InputError(what, where="[link]", remedy=did_you_mean(name, known))
    values: dict[str, Any] = {}
    for name in (*method.parameters, *(name for name in _ALWAYS if name not in method.parameters)):
        row = PARAMETERS[name]
        value = params.get(name, method.defaults.get(name, row.default))
        if not row.fits(value):
            raise InputError(f"{value!r} will not do", where=f"[link] {name}", remedy=row.wanted)
        if name in method.parameters:
            values[name] = value
    _check_della(values)
    return _recipe(method, values, params, vectors)


def _matrix_recipe(method: Method, row: MatrixMethod, params: Mapping[str, Any], vectors: Sequence[str]) -> Recipe:
    ignored = {*COMMON, *_ALWAYS} - set(row.settings)
    given = {name: value for name, value in params.items() if name not in ignored}
    row.check(given)
    return _recipe(method, {**row.settings, **given}, params, vectors)


def _recipe(method: Method, values: Mapping[str, Any], params: Mapping[str, Any], vectors: Sequence[str]) -> Recipe:
    lam = finite(params.get("lambda", 1.0), "[link] lambda")
    device = params.get("device", DEVICES[0])
    if device not in DEVICES:
        raise InputError(f"{device!r} is no device", where="[link] device", remedy=f"one of {', '.join(DEVICES)}")
    return Recipe(method, values, lam, parse_strengths(params, vectors), device)


def _check_della(values: Mapping[str, Any]) -> None:
    if "epsilon" in values and values["density"] < 1:
        density, epsilon = values["density"], values["epsilon"]
        if not 0 < density - epsilon <= density + epsilon <= 1:
            raise InputError(
                f"chances from {density - epsilon:g} to {density + epsilon:g} are none",
                where="[link] epsilon",
                remedy=f"at most {min(density, 1 - density):g}, and below the density",
            )
