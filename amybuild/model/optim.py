"""Optimisers as rows of one table: a step at a rate, and a state that is tensors by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class Knobs:
    """What an optimiser is set to. beta1, beta2: decay of the moments; weight_decay is decoupled (arXiv 1711.05101)."""

    beta1: float = 0.9
    beta2: float = 0.99
    weight_decay: float = 0.0


class Optimizer(Protocol):
    """Changes parameters in place from their `.grad`."""

    def step(self, rate: float) -> None:
        """One update at this learning rate."""

    def state(self) -> dict[str, Any]:
        """All that the next step depends on beside parameters and gradients, as tensors; empty before the first."""

    def load(self, state: Mapping[str, Any]) -> None:
        """What `state` gave: the next step has the same bits as if there had been no pause."""


class AdamW:
    """torch's AdamW (arXiv 1711.05101) over named parameters."""

    def __init__(self, parameters: Mapping[str, Any], knobs: Knobs) -> None:
        import torch

        self._named = dict(parameters)
        self._torch = torch.optim.AdamW(
            list(self._named.values()),
            betas=(knobs.beta1, knobs.beta2),
            weight_decay=knobs.weight_decay,
            foreach=True,
        )

    def step(self, rate: float) -> None:
        for group in self._torch.param_groups:
            group["lr"] = rate
        self._torch.step()

    def state(self) -> dict[str, Any]:
        held = self._torch.state
        return {f"{name}:{k}": v for name, one in self._named.items() for k, v in sorted(held.get(one, {}).items())}

    def load(self, state: Mapping[str, Any]) -> None:
        for key, value in state.items():
            name, _, kind = key.rpartition(":")
            one = self._named[name]
            # torch keeps the count of steps on the CPU
            self._torch.state[one][kind] = value.clone() if kind == "step" else value.to(one.device, copy=True)


# (parameters by name, knobs, seed of (purpose, number)) -> optimiser
Maker = Callable[[Mapping[str, Any], Knobs, Callable[[str, int], int]], Optimizer]
OPTIMIZERS: Mapping[str, Maker] = {
    "adamw": lambda parameters, knobs, seed: AdamW(parameters, knobs),
}
