"""Labels and activations joined: the data that directions are found on and measured on, checked to belong together."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amybuild.errors import ActionError, InputError

if TYPE_CHECKING:
    from amybuild.readout.choose import Data
    from amybuild.readout.estimators import Candidate
    from amybuild.readout.table import Rows, Table

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
    from safetensors import SafetensorError

    from amybuild.readout.choose import Data
    from amybuild.readout.estimators import nuisance
    from amybuild.readout.split import grouped
    from amybuild.readout.table import Table

    stored = activations / "activations.safetensors"
    try:
        about = json.loads((activations / "ids.json").read_text(encoding="utf-8"))
        ids = tuple(str(name) for name in about["ids"])
        there = [int(layer) for layer in about["layers"]]
        depth, hidden = int(about["num_layers"]), int(about["hidden_size"])
        read = [layer for layer in there if layers is None or layer in layers]
        rows = {layer: Table.stored(stored, f"layer_{layer}") for layer in read}
        concepts, marks, settings = _marks(labels, {name: place for place, name in enumerate(ids)}, wanted)
        same = all((len(table), table.hidden) == (len(ids), hidden) for table in rows.values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError):
        same = False
    if not same:
        raise ActionError("the labels and the activations do not belong together", remedy="build both again")
    if layers is not None and not set(layers) <= set(there):
        raise InputError(f"{list(layers)} are not among the blocks read", where="layers", remedy='use "auto"')
    if not concepts:
        raise ActionError("no concept is labelled", remedy="tag memories with emotions")
    for concept, column in zip(concepts, marks.T, strict=True):
        _enough(concept, int((column > 0).sum()), int((column < 0).sum()))
    neutral = _neutral(stored, hidden)
    plain = {layer: nuisance(neutral(layer)) for layer in rows}
    return Data(ids, tuple(concepts), depth, rows, marks, plain, grouped(ids, settings)), about


def _marks(labels: Path, place: Mapping[str, int], wanted: Any) -> tuple[list[str], Any, list[frozenset[str]]]:
    """(concepts, int8 [n, concepts], the settings of each text) of a folder of labels, a line at a time; KeyError for a
    text that has no `place`."""
    import numpy as np

    def lines() -> Iterator[Any]:
        with (labels / "labels.jsonl").open(encoding="utf-8") as file:
            yield from (json.loads(line) for line in file if line.strip())

    card = labels / "card.json"
    named = json.loads(card.read_text(encoding="utf-8")).get("concepts") if card.is_file() else None
    concepts = list(map(str, wanted or named or sorted({one for line in lines() for one in line["labels"]})))
    marks = np.zeros((len(place), len(concepts)), dtype=np.int8)
    settings = [frozenset[str]()] * len(place)
    for line in lines():
        row = place[str(line["id"])]
        marks[row] = [int(line["labels"].get(concept, 0)) for concept in concepts]
        settings[row] = frozenset(map(str, line.get("settings", ())))
    return concepts, marks, settings


def _neutral(stored: Path, hidden: int) -> Callable[[int], Table]:
    """What gives the rows of neutral text at a block: none where none was read."""
    import numpy as np
    from safetensors import safe_open

    from amybuild.readout.table import Table

    with safe_open(stored, "np") as file:
        names = set(file.keys())
    nothing = Table.of(np.zeros((0, hidden)))
    return lambda layer: Table.stored(stored, f"neutral_{layer}") if f"neutral_{layer}" in names else nothing


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
