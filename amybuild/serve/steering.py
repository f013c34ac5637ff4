"""Steering directions as values: for each block, what one class gap of a concept adds to the residual stream."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from amybuild.errors import InputError, did_you_mean
from amybuild.serve.files import Array, ReadoutFile, read_readout

FOLDER = "steering"
MOST = 1000.0  # class gaps; far less drowns whatever else a model has in mind


@dataclass(frozen=True)
class Direction:
    """A direction to steer along. `steps[layer]` is float32 [hidden_size], added to the output of block `layer`.

    At strength 1 all steps together move the residual stream by one class gap, the distance between the mean
    activations of texts with and without the concept: each of n blocks adds a n-th part of its own gap.
    """

    name: str
    steps: Mapping[int, Array]

    @property
    def layers(self) -> tuple[int, ...]:
        return tuple(sorted(self.steps))

    def at(self, strength: float) -> Direction:
        """The direction with `strength` as its unit; negative strengths point away from the concept."""
        if not abs(strength) <= MOST:
            told = f"a strength is a finite number of class gaps, at most {MOST:g} either way, not {strength!r:.40}"
            raise InputError(told, where=self.name)
        return replace(self, steps={layer: np.float32(strength) * step for layer, step in self.steps.items()})


def direction(readout: ReadoutFile, concept: str, name: str | None = None) -> Direction:
    """The direction of one concept of a readout: its `.steer` rows (else `.vectors`) in units of the class gap."""
    if concept not in readout.concepts:
        near = did_you_mean(concept, readout.concepts) or f"concepts here: {', '.join(readout.concepts)}"
        raise InputError(f"no concept '{concept}'", where=readout.where, remedy=near)
    row = readout.concepts.index(concept)
    rows = readout.beside.get("steer", readout.vectors)
    if "gap" not in readout.beside:
        raise InputError(
            "it does not say how far apart texts with and without a concept lie ('.gap')",
            where=readout.where,
            remedy="build it again: strengths are counted in that distance",
        )
    steps = {}
    for layer in readout.layers:
        length = float(np.linalg.norm(rows[layer][row]))
        if length == 0.0:
            raise InputError(f"the direction of '{concept}' in block {layer} is zero", where=readout.where)
        gap = float(readout.beside["gap"][layer][row]) / len(readout.layers)
        steps[layer] = np.asarray(rows[layer][row] / length * gap, dtype=np.float32)
    return Direction(name or concept, steps)


def read_steering(product: Path, names: Iterable[str] = ()) -> dict[str, Direction]:
    """The directions of a product by name: its `[steer.NAME]` targets, or only `names` of them.

    A name that is no such target may be a concept of the product's readout. `InputError` for any other.
    """
    folder = product / FOLDER
    made = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    found: dict[str, Direction] = {}
    for name in names or made:
        if name in made:
            readout = read_readout(folder / name)
            found[name] = direction(readout, readout.concepts[0], name)
        else:
            readout = read_readout(product)
            if name not in readout.concepts:
                known = (*made, *readout.concepts)
                remedy = did_you_mean(name, known) or f"known here: {', '.join(known)}"
                raise InputError(f"no steering direction '{name}'", where=str(product), remedy=remedy)
            found[name] = direction(readout, name)
    return found


def total(directions: Iterable[Direction]) -> dict[int, Array]:
    """What several directions add together: layer -> float32 [hidden_size]."""
    sums: dict[int, Array] = {}
    for one in directions:
        for layer, step in one.steps.items():
            sums[layer] = sums[layer] + step if layer in sums else step
    return sums


def random_like(one: Direction, seed: int = 0) -> Direction:
    """The control: in each block another direction, drawn at random, of the same length."""
    steps = {}
    for layer in one.layers:
        drawn = np.random.Generator(np.random.Philox([seed, layer])).standard_normal(one.steps[layer].shape)
        length = np.linalg.norm(one.steps[layer])
        steps[layer] = np.asarray(drawn / np.linalg.norm(drawn) * length, dtype=np.float32)
    return Direction(f"random:{one.name}", steps)
