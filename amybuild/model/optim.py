"""The table of optimisers: a step at a rate, and a state that is tensors by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from amybuild.model.adamw import AdamW, Knobs
from amybuild.model.apollo import Apollo, Shape


class Optimizer(Protocol):
    """Changes parameters in place from their `.grad`."""

    def step(self, rate: float) -> None:
        """One update at this learning rate."""

    def state(self) -> dict[str, Any]:
        """All that the next step depends on beside parameters and gradients, as tensors; empty before the first."""

    def load(self, state: Mapping[str, Any]) -> None:
        """What `state` gave: the next step has the same bits as if there had been no pause."""


class Wanted(Protocol):
    """The fields of a recipe that optimisers read (`train.Settings`); `Knobs` and `Shape` say what they mean."""

    @property
    def beta1(self) -> float: ...
    @property
    def beta2(self) -> float: ...
    @property
    def weight_decay(self) -> float: ...
    @property
    def apollo_rank(self) -> int: ...
    @property
    def apollo_refresh(self) -> int: ...
    @property
    def apollo_scale(self) -> float: ...
    @property
    def apollo_growth(self) -> float: ...


# of parameters by name, what is wanted, and the seed of (purpose, number)
Maker = Callable[[Mapping[str, Any], Wanted, Callable[[str, int], int]], Optimizer]


def _knobs(wanted: Wanted) -> Knobs:
    return Knobs(wanted.beta1, wanted.beta2, wanted.weight_decay)


def _shape(wanted: Wanted, rank: int, tensorwise: bool) -> Shape:
    return Shape(rank, tensorwise, wanted.apollo_refresh, wanted.apollo_scale, wanted.apollo_growth)


OPTIMIZERS: Mapping[str, Maker] = {
    "adamw": lambda parameters, wanted, seed: AdamW(parameters, _knobs(wanted)),
    "apollo": lambda parameters, wanted, seed: Apollo(
        parameters, _knobs(wanted), _shape(wanted, wanted.apollo_rank, False), seed
    ),
    "apollo-mini": lambda parameters, wanted, seed: Apollo(parameters, _knobs(wanted), _shape(wanted, 1, True), seed),
}


def state_bytes(optimizer: Optimizer) -> int:
    """How much an optimiser's state takes."""
    return sum(tensor.numel() * tensor.element_size() for tensor in optimizer.state().values())
