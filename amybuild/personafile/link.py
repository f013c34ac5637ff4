"""The table [link]: which methods there are, which parameters each takes, and what their values must satisfy.

No defaults stand here: a parameter that nobody states is the linker's own affair, and in no key. The linker checks
again, by its own table; a test holds the two together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from amybuild.personafile.check import Table
from amybuild.personafile.recipe import Field, at_least, one_of

_FULL: dict[str, Any] = {"ok": lambda v: 0 <= v <= 1, "rule": "must lie in [0, 1]"}
_BELOW: dict[str, Any] = {"ok": lambda v: 0 <= v < 1, "rule": "must lie in [0, 1)"}

PARAMETERS: Mapping[str, Field] = {
    "density": Field(float, None, ok=lambda v: 0 < v <= 1, rule="must lie in (0, 1]"),
    "elect": Field(str, None, **one_of("mass", "count")),
    "divide": Field(str, None, **one_of("count", "weights", "none")),
    "scope": Field(str, None, **one_of("tensor", "global")),
    "seed": Field(int, None),
    "epsilon": Field(float, None, **_BELOW),
    "gamma": Field(float, None, **_BELOW),
    "agree": Field(int, None, **at_least(1)),
    "need": Field(float, None, **at_least(0)),
    "t": Field(float, None, **_FULL),
    "per_row": Field(bool, None),
    "of_deltas": Field(bool, None),
    "common": Field(float, None, **_FULL),
    "inner": Field(str, None, **one_of("tsv_m", "iso_c", "linear")),
    "adapter_rank": Field(int, None, **at_least(1)),
    "device": Field(str, None, **one_of("cpu", "cuda", "auto")),
}
_TIES = ("density", "elect", "divide")
METHODS: Mapping[str, tuple[str, ...]] = {  # method -> its own parameters; `ANY` and `SHAPED` go with every one
    "linear": (),
    "ties": (*_TIES, "scope"),
    "dare_linear": ("density", "seed"),
    "dare_ties": (*_TIES, "seed"),
    "della_linear": ("density", "epsilon", "seed"),
    "della": (*_TIES, "epsilon", "seed"),
    "breadcrumbs": ("density", "gamma", "scope"),
    "breadcrumbs_ties": (*_TIES, "gamma", "scope"),
    "sce": ("density",),
    "consensus": ("agree", "need"),
    "model_stock": ("per_row",),
    "slerp": ("t", "per_row"),
    "nuslerp": ("t", "per_row"),
    "karcher": ("of_deltas",),
    "core_space": ("inner",),
    "tsv_m": (),
    "iso_c": (),
    "iso_cts": ("common",),
    "knots": _TIES,
}
ANY = ("adapter_rank", "device")


def read_link(table: Table) -> tuple[str, float, dict[str, Any]]:
    """(method, lambda, the parameters that are stated) of [link]; InputError for what the method does not take."""
    method = table.one_of("method", METHODS, "ties")
    lam = table.take("lambda", float, 1.0)
    takes = (*METHODS[method], *ANY)
    stated: dict[str, Any] = {}
    for name, spec in PARAMETERS.items():
        if name not in table.data:
            continue
        if name not in takes:
            remedy = (
                f"method {method} takes {', '.join((*takes, *SHAPED))}; --set link.{name}= takes it out of a variant"
            )
            raise table.fail(f"'{name}' is no parameter of {method}", name, remedy)
        stated[name] = table.within(name, spec.kind, None, spec.ok, spec.rule)
    for name, read in SHAPED.items():
        if name in table.data:
            stated[name] = read(table, name)
    table.taken.update((*takes, *SHAPED))
    table.done()
    return method, lam, stated


def read_scale(table: Table, key: str) -> list[dict[str, Any]]:
    """``scale = [{ match = "*.mlp.*", factor = 0.5 }, …]``: the factor of the tensors whose name matches a glob."""
    rows = []
    for number, entry in enumerate(table.take(key, list, [])):
        if not isinstance(entry, dict):
            raise table.fail("must be a list of tables", key, 'write { match = "*.mlp.*", factor = 0.5 }')
        row = Table(entry, table.file, f"{table.path}.{key}[{number}]", table.text)
        match = row.take("match", str, required=True)
        rows.append({"match": _glob(table, key, match), "factor": row.take("factor", float, required=True)})
        row.done()
    return rows


def _only(table: Table, key: str) -> list[str]:
    """``only = ["model.layers.*"]``: tensors that match none of these globs stay the base's."""
    globs = table.strings(key)
    if not globs:
        raise table.fail("names no tensors", key, "leave the key out to link all of them")
    return [_glob(table, key, glob) for glob in globs]


def _depth(table: Table, key: str) -> dict[str, float]:
    """``depth = { first = 0.5, last = 1.0 }``: factors of the first and the last block (LiNeS, arXiv 2410.17146)."""
    row = table.child(key)
    found = {name: row.take(name, float, required=True) for name in ("first", "last")}
    row.done()
    return found


def _glob(table: Table, key: str, glob: Any) -> str:
    if not isinstance(glob, str) or not glob.strip():
        raise table.fail("a glob must not be empty", key, 'for example "*.mlp.*"')
    return glob


SHAPED: Mapping[str, Callable[[Table, str], Any]] = {"depth": _depth, "only": _only, "scale": read_scale}
