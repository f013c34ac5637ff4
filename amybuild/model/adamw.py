"""AdamW over named parameters, with a state that is tensors by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Knobs:
    """beta1, beta2: the decay of the moments; weight_decay is decoupled from them."""

    beta1: float = 0.9
    beta2: float = 0.99
    weight_decay: float = 0.0


class AdamW:
    """torch's AdamW (arXiv 1711.05101)."""

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
