"""Recipes: declarative files, checked against one table of fields per kind, overridable by the target."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amybuild.errors import InputError, did_you_mean
from amybuild.personafile.check import Table
from amybuild.personafile.gates import GATES, defaults, read_gates
from amybuild.personafile.resources import read_resources
from amybuild.personafile.schema import Recipe


@dataclass(frozen=True)
class Field:
    """One recipe field: its type, its default and what a value must satisfy."""

    kind: type
    default: Any
    ok: Callable[[Any], bool] = lambda _: True
    rule: str = ""


def at_least(low: float) -> dict[str, Any]:
    """A field's rule: not below `low`."""
    return {"ok": lambda v: v >= low, "rule": f"must be at least {low}"}


def above(low: float) -> dict[str, Any]:
    """A field's rule: more than `low`."""
    return {"ok": lambda v: v > low, "rule": f"must be more than {low}"}


def one_of(*names: str) -> dict[str, Any]:
    """A field's rule: one of `names`."""
    return {"ok": lambda v: v in names, "rule": f"must be one of {', '.join(names)}"}


def share() -> dict[str, Any]:
    """A field's rule: between 0 and 1, neither of them."""
    return {"ok": lambda v: 0 < v < 1, "rule": "must lie between 0 and 1"}


_DTYPE = one_of("float32", "bfloat16", "float16")
_DEVICE = one_of("auto", "cpu", "cuda")
_SHARE = share()
_ESTIMATORS = ("mean", "neutral", "lda", "partial", "linear", "pca", "logistic", "logistic_l1")

FIELDS: Mapping[str, Mapping[str, Field]] = {
    "task": {
        "learn": Field(str, "continuation", **one_of("continuation", "rejected")),
        "heldout": Field(float, 0.25, **_SHARE),
        "min_examples": Field(int, 8, **at_least(1)),
        "tune": Field(str, "lora", **one_of("lora", "full")),
        "rank": Field(int, 8, **at_least(1)),
        "lora_alpha": Field(float, 16.0, **above(0)),
        "rslora": Field(bool, False),
        "steps": Field(int, 24, **at_least(1)),
        "batch": Field(int, 8, **at_least(1)),
        "replay_batch": Field(int, 4, **at_least(0)),
        "context_frozen": Field(bool, False),
        "top_layers": Field(int, 0, **at_least(0)),
        "activation_checkpointing": Field(bool, False),
        "strict": Field(bool, False),
        "tokens_per_pass": Field(int, 480, **at_least(16)),
        "nll_weight": Field(float, 1.0, **at_least(0)),
        "kl_weight": Field(float, 1.0, **at_least(0)),
        "distill_weight": Field(float, 0.0, **at_least(0)),
        "teacher": Field(str, "examples", **one_of("examples", "node")),
        "teacher_examples": Field(int, 5, **at_least(0)),
        "teacher_tokens": Field(int, 1024, **at_least(16)),
        "preference": Field(str, "simpo", **one_of("simpo", "dpo")),
        "margin_weight": Field(float, 0.0, **at_least(0)),
        "margin_beta": Field(float, 3.0, **above(0)),
        "optimizer": Field(str, "adamw", **one_of("adamw", "apollo", "apollo-mini")),
        "apollo_rank": Field(int, 128, **at_least(1)),
        "apollo_refresh": Field(int, 200, **at_least(1)),
        "apollo_scale": Field(float, 1.0, **above(0)),
        "apollo_growth": Field(float, 1.01, **at_least(0)),
        "lr": Field(float, 5e-4, **above(0)),
        "schedule": Field(str, "linear", **one_of("linear", "cosine", "constant")),
        "warmup": Field(float, 0.1, ok=lambda v: 0 <= v < 1, rule="must be a share of the steps, 0 <= warmup < 1"),
        "weight_decay": Field(float, 0.0, **at_least(0)),
        "clip": Field(float, 1.0, **at_least(0)),
        "watch_every": Field(int, 0, **at_least(0)),
        "max_drift": Field(float, 0.02, **above(0)),
        "max_tokens": Field(int, 192, **at_least(16)),
        "samples": Field(int, 8, **at_least(0)),
        "sample_tokens": Field(int, 32, **at_least(1)),
        "dtype": Field(str, "float32", **_DTYPE),
        "device": Field(str, "auto", **_DEVICE),
        "shards": Field(int, 1, **at_least(1)),
        "threads": Field(int, 0, **at_least(0)),
    },
    "steer": {
        "min_score": Field(float, 8.0, **at_least(0)),
        "max_negative_mentions": Field(int, 0, **at_least(0)),
        "min_chars": Field(int, 40, **at_least(1)),
        "max_per_concept": Field(int, 500, **at_least(3)),
        "reading": Field(str, "mean", **one_of("mean", "last", "answer")),
        "max_tokens": Field(int, 256, **at_least(8)),
        "dtype": Field(str, "float32", **_DTYPE),
        "device": Field(str, "auto", **_DEVICE),
        "layers": Field(object, "auto"),
        "n_layers": Field(int, 3, **at_least(1)),
        "estimator": Field(str, "auto", **one_of("auto", *_ESTIMATORS)),
        "false_positive_rate": Field(float, 0.05, **_SHARE),
    },
}


def _layers(table: Table) -> Any:
    """``layers = "auto"`` or a list of block indices (0-based)."""
    value = table.data["layers"]
    table.taken.add("layers")
    if value == "auto":
        return value
    if isinstance(value, list) and value and all(type(v) is int and v >= 0 for v in value):
        return sorted(set(value))
    raise table.fail('must be "auto" or a list of block indices, 0-based', "layers")


def _read(table: Table, kind: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, spec in FIELDS[kind].items():
        if name not in table.data:
            continue
        if name == "layers":
            found[name] = _layers(table)
            continue
        found[name] = table.within(name, spec.kind, spec.default, spec.ok, spec.rule)
    return found


def _check_shards(fields: Mapping[str, Any], target: Table, name: str) -> None:
    """Refuse what a base in parts cannot do, before anything runs."""
    if fields.get("shards", 1) == 1:
        return
    for key, fits, remedy in (
        ("device", fields["device"] != "auto", 'say device = "cuda" (a GPU for each) or "cpu"'),
        ("tune", fields["tune"] == "lora", 'tune = "lora", or shards = 1'),
        ("top_layers", not fields["top_layers"], "top_layers = 0, or shards = 1"),
    ):
        if not fits:
            what = f"shards = {fields['shards']} does not go with {key} = {fields[key]!r} (recipe '{name}')"
            raise target.fail(what, key if key in target.data else "recipe", remedy)


class RecipeBook:
    """The recipes of a project: ``recipes/*.toml``, named by file stem, each read once."""

    def __init__(self, folder: Path, load: Callable[[Path], tuple[dict[str, Any], str]]) -> None:
        self.folder = folder
        self._load = load
        self.texts: dict[str, str] = {}  # of those that were read, by "recipes/NAME.toml"
        self._read: dict[str, tuple[str, dict[str, Any], dict[str, Any], dict[str, int]]] = {}

    def _names(self) -> list[str]:
        return sorted(p.stem for p in self.folder.glob("*.toml")) if self.folder.is_dir() else []

    def _get(self, name: str, where: str) -> tuple[str, dict[str, Any], dict[str, Any], dict[str, int]]:
        if name in self._read:
            return self._read[name]
        path = self.folder / f"{name}.toml"
        if name not in self._names():
            remedy = did_you_mean(name, self._names()) or f"recipes here: {', '.join(self._names()) or 'none'}"
            raise InputError(f"no recipe '{name}' in {self.folder.name}/", where=where, remedy=remedy)
        place = f"{self.folder.name}/{path.name}"
        try:
            data, text = self._load(path)
        except InputError as error:
            raise InputError(error.what, where=place, remedy=error.remedy) from None
        self.texts[f"recipes/{path.name}"] = text
        table = Table(data, place, "", text)
        if "kind" not in data:
            raise table.fail("'kind' is missing", remedy=" or ".join(f'kind = "{one}"' for one in FIELDS))
        kind = table.one_of("kind", FIELDS, "")
        table.taken.update(FIELDS[kind])
        table.take("description", str)
        entry = (kind, _read(table, kind), read_gates(table, kind), read_resources(table))
        table.done()
        self._read[name] = entry
        return entry

    def resolve(self, name: str, kind: str, target: Table) -> Recipe:
        """The recipe `name` with the overrides that stand in the target's own table."""
        found, fields, gates, resources = self._get(name, target.at("recipe"))
        if found != kind:
            raise target.fail(f"recipe '{name}' is for {found} targets, not {kind}", "recipe")
        own = _read(target, kind)
        target.taken.update(FIELDS[kind])
        own_gates = read_gates(target, kind)
        plain = {key: spec.default for key, spec in FIELDS[kind].items()}
        origins = {key: "param" if key in own else "recipe" for key in plain}
        origins |= {f"gates.{key}": "param" if key in own_gates else "recipe" for key in GATES[kind]}
        whole = {**plain, **fields, **own}
        _check_shards(whole, target, name)
        return Recipe(
            name,
            whole,
            {**defaults(kind), **gates, **own_gates},
            origins,
            {**resources, **read_resources(target)},
        )
