"""Labels and activations joined: the data that directions are found on and measured on, checked to belong together."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amybuild.errors import ActionError, InputError

if TYPE_CHECKING:
    from amybuild.readout.choose import Data
    from amybuild.readout.estimators import Candidate, Rows

MIN_POSITIVES = 3


@dataclass(frozen=True)
class Settings:
    """How directions are found: what the rules `vectors`, `quality` and `drift` have in common."""

    tried: tuple[Candidate, ...]
    layers: tuple[int, ...] | None  # None: the best `count` of the prior window
    count: int
    rate: float  # of false positives, where a threshold is


def settings(params: Mapping[str, Any]) -> Settings:
    """params: estimator, layers, n_layers, false_positive_rate; InputError for a value that cannot be."""
    from amybuild.readout.estimators import ESTIMATORS, candidates

    name, layers, count = params.get("estimator", "auto"), params.get("layers", "auto"), params.get("n_layers", 3)
    rate = params.get("false_positive_rate", 0.05)
    tried = candidates(name) if isinstance(name, str) else ()
    if not tried:
        known = ", ".join(["auto", *ESTIMATORS])
        raise InputError(f"unknown estimator {name!r}", where="estimator", remedy=f"one of {known}")
    if type(count) is not int or count < 1:
        raise InputError(f"{count!r} is not a number of 1 or more", where="n_layers", remedy="for example 3")
    if not isinstance(rate, float) or not 0 < rate < 1:
        raise InputError(f"{rate!r} does not lie between 0 and 1", where="false_positive_rate")
    if layers != "auto" and not (isinstance(layers, list) and layers and all(type(n) is int for n in layers)):
        raise InputError(f'must be "auto" or a list of blocks, not {layers!r}', where="layers")
    return Settings(tried, None if layers == "auto" else tuple(sorted(set(layers))), count, rate)


def chosen(manifest: Mapping[str, Any]) -> Candidate:
    """The estimator that readout.json says its directions were found by."""
    from amybuild.readout.estimators import Candidate

    return Candidate(str(manifest["estimator"]), float(manifest["shrinkage"]))


def read_labelled(labels: Path, activations: Path, wanted: Any, layers: tuple[int, ...] | None) -> tuple[Data, Any]:
    """(data at `layers`, or at all that were read; what ids.json says). `wanted` concepts: default all labelled ones.

    ActionError when the folders do not belong together, InputError for a block without activations.
    """
    import numpy as np
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    from amybuild.readout.choose import Data
    from amybuild.readout.estimators import nuisance
    from amybuild.readout.split import grouped

    try:
        lines = [json.loads(x) for x in (labels / "labels.jsonl").read_text(encoding="utf-8").splitlines() if x.strip()]
        card = labels / "card.json"
        named = json.loads(card.read_text(encoding="utf-8")).get("concepts") if card.is_file() else None
        about = json.loads((activations / "ids.json").read_text(encoding="utf-8"))
        stored = load_file(activations / "activations.safetensors")
        ids = tuple(str(name) for name in about["ids"])
        there = [int(layer) for layer in about["layers"]]
        depth, hidden = int(about["num_layers"]), int(about["hidden_size"])
        found = {str(line["id"]): dict(line["labels"]) for line in lines}
        shared = {str(line["id"]): frozenset(map(str, line.get("settings", ()))) for line in lines}
        shapes = all(stored[f"layer_{layer}"].shape == (len(ids), hidden) for layer in there)
        same = found.keys() <= set(ids) and shapes
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError):
        same = False
    if not same:
        raise ActionError("the labels and the activations do not belong together", remedy="build both again")
    if layers is not None and not set(layers) <= set(there):
        raise InputError(f"{list(layers)} are not among the blocks read", where="layers", remedy='use "auto"')
    concepts = [str(one) for one in wanted or named or sorted({c for marks in found.values() for c in marks})]
    if not concepts:
        raise ActionError("no concept is labelled", remedy="tag memories with emotions")
    marks = np.array([[int(found.get(name, {}).get(c, 0)) for c in concepts] for name in ids], dtype=np.int8)
    rows = {n: stored[f"layer_{n}"].astype(np.float64) for n in there if layers is None or n in layers}
    plain = {n: stored.get(f"neutral_{n}", np.zeros((0, hidden), np.float32)).astype(np.float64) for n in rows}
    for concept, column in zip(concepts, marks.T, strict=True):
        _enough(concept, int((column > 0).sum()), int((column < 0).sum()))
    groups = grouped(ids, [shared.get(name, frozenset()) for name in ids])
    return Data(ids, tuple(concepts), depth, rows, marks, {n: nuisance(x) for n, x in plain.items()}, groups), about


def threshold(negatives: Rows, rate: float) -> float:
    """The score that a share of `rate` of held-out negatives passes; without any, that of a normal distribution."""
    import numpy as np

    known = negatives[~np.isnan(negatives)]
    if len(known):
        return float(np.quantile(known, 1 - rate))
    from statistics import NormalDist

    return NormalDist().inv_cdf(1 - rate)


@contextmanager
def one_thread() -> Iterator[None]:
    """NumPy's and scikit-learn's libraries use one thread inside the block.

    The matrices are small, so threads cost more than they give; and sums come out the same on any number of cores.
    """
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        yield


def _enough(concept: str, good: int, bad: int) -> None:
    if good < MIN_POSITIVES or bad < 1:
        raise ActionError(
            f"{good} positive and {bad} negative texts; at least {MIN_POSITIVES} and 1 are needed",
            where=f"concept '{concept}'",
            remedy="tag more memories with it, or choose another concept",
        )
