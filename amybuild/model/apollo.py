"""APOLLO and APOLLO-Mini: gradients scaled as Adam would, from moments of a random low-rank image of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from amybuild.model.adamw import AdamW, Knobs

_EPS = 1e-8


@dataclass(frozen=True)
class Shape:
    """What makes a member of the family (arXiv 2412.05270). rank: of the image; scale: on top of sqrt(m / rank).

    tensorwise: one factor for a whole matrix (APOLLO-Mini) instead of one per channel. refresh: steps until a new
    projection is drawn. growth: how much longer an update may be than the last one of its matrix (Fira's limiter,
    arXiv 2410.01623); 0 = no limit.
    """

    rank: int
    tensorwise: bool
    refresh: int = 200
    scale: float = 1.0
    growth: float = 1.01


class Apollo:
    """For W with m = min(shape), n = max(shape) and its gradient G as [m, n], at step t:

        R = P G                      P [rank, m] ~ N(0, 1 / rank), drawn anew every `refresh` steps
        R' = adam(R)                 the only state: two moments [rank, n], and one length
        s = |R'| / |R|               per column (channel), or over all (tensorwise)
        W -= rate * scale * sqrt(m / rank) * limited(G s)

    With sqrt(m / rank) a step is as long as Adam's on any shape, so a rate means the same for each. The moments are
    bias-corrected before the limiter sees them; without that it halves the first steps of a short training. What is
    not a matrix, or not larger than the rank, gets plain AdamW. `seed` is asked for ("projection NAME", number of the
    refresh), so no projection depends on which other parameters there are.
    """

    def __init__(
        self, parameters: Mapping[str, Any], knobs: Knobs, shape: Shape, seed: Callable[[str, int], int]
    ) -> None:
        large = {name for name, one in parameters.items() if one.dim() == 2 and min(one.shape) > shape.rank}
        self._large = {name: one for name, one in parameters.items() if name in large}
        small = {name: one for name, one in parameters.items() if name not in large}
        self._small = AdamW(small, knobs) if small else None
        self._knobs, self._shape, self._seed = knobs, shape, seed
        self._steps = 0
        self._moments: dict[str, tuple[Any, Any]] = {}
        self._lengths: dict[str, Any] = {}
        self._projections: dict[str, Any] = {}  # a function of the seed, so no state

    def step(self, rate: float) -> None:
        import torch

        if self._small:
            self._small.step(rate)
        if self._steps % self._shape.refresh == 0:
            self._projections.clear()
        self._steps += 1
        with torch.no_grad():
            for name, one in self._large.items():
                if one.grad is not None:
                    one.mul_(1 - rate * self._knobs.weight_decay)
                    update, factor = self._update(name, one.grad.float())
                    one.sub_(update.to(one.dtype), alpha=rate * factor)

    def _update(self, name: str, gradient: Any) -> tuple[Any, float]:
        """The scaled gradient in its own layout, and what it is to be multiplied with beside the rate."""
        shape, tall = self._shape, gradient.shape[0] > gradient.shape[1]
        held = gradient.T if tall else gradient
        image = self._projection(name, held) @ held
        wanted = self._adam(name, image)
        over = None if shape.tensorwise else 0
        scaling = wanted.norm(dim=over) / (image.norm(dim=over) + _EPS)
        update = held * scaling
        if shape.growth > 0:
            update = self._limited(name, update)
        return (update.T if tall else update), shape.scale * math.sqrt(held.shape[0] / shape.rank)

    def _projection(self, name: str, held: Any) -> Any:
        if name not in self._projections:
            seed = self._seed(f"projection {name}", (self._steps - 1) // self._shape.refresh)
            self._projections[name] = drawn(seed, self._shape.rank, held.shape[0]).to(held.device)
        return self._projections[name]

    def _adam(self, name: str, image: Any) -> Any:
        import torch

        beta1, beta2 = self._knobs.beta1, self._knobs.beta2
        first, second = self._moments.setdefault(name, (torch.zeros_like(image), torch.zeros_like(image)))
        first.lerp_(image, 1 - beta1)
        second.mul_(beta2).addcmul_(image, image, value=1 - beta2)
        return (first / (1 - beta1**self._steps)) / ((second / (1 - beta2**self._steps)).sqrt() + _EPS)

    def _limited(self, name: str, update: Any) -> Any:
        length = update.norm()
        last = self._lengths.get(name)
        if last is not None and bool(length > self._shape.growth * last) and bool(last > 0):
            update, length = update * (self._shape.growth * last / length), self._shape.growth * last
        self._lengths[name] = length
        return update

    def state(self) -> dict[str, Any]:
        import torch

        found = {"steps": torch.tensor(self._steps)}
        for name, (first, second) in self._moments.items():
            found |= {f"large {name}:first": first, f"large {name}:second": second}
        found |= {f"large {name}:length": length for name, length in self._lengths.items()}
        return found | ({f"small {k}": v for k, v in self._small.state().items()} if self._small else {})

    def load(self, state: Mapping[str, Any]) -> None:
        self._steps = int(state["steps"])
        self._projections.clear()
        for name, one in self._large.items():
            if f"large {name}:first" in state:
                first, second = (state[f"large {name}:{k}"].to(one.device, copy=True) for k in ("first", "second"))
                self._moments[name] = first, second
            if f"large {name}:length" in state:
                self._lengths[name] = state[f"large {name}:length"].to(one.device, copy=True)
        if self._small:
            kept = {k.removeprefix("small "): v for k, v in state.items() if k.startswith("small ")}
            self._small.load(kept)


def drawn(seed: int, rank: int, width: int) -> Any:
    """A projection: float32 [rank, width], entries N(0, 1 / rank); drawn on the CPU, so the same for every device."""
    import torch

    return torch.randn(rank, width, generator=torch.Generator().manual_seed(seed)) / math.sqrt(rank)
