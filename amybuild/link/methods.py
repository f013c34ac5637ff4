"""The merge methods, one row each: how a vector is trimmed, how a sign is elected, what the sum is divided by."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from amybuild.errors import InputError, did_you_mean
from amybuild.link.select import kept_count, kth_largest

Elect = Callable[[Tensor], Tensor]


def threshold(delta: Tensor, density: float) -> float:
    """The magnitude an entry needs to stay: the k-th largest of the tensor, k = ceil(density * n); 0 for density 1."""
    size = delta.numel()
    if density >= 1.0 or size == 0:
        return 0.0
    return kth_largest(delta.abs().flatten().numpy(), kept_count(density, size))


def trim(deltas: Tensor, thresholds: Sequence[float]) -> Tensor:
    """Zero what is smaller than its vector's threshold: float32 [n, …] -> [n, …].

    The cut is inclusive: entries equal to the threshold all stay, so the result depends on no sort order (and a tensor
    with many equal magnitudes keeps more than its density).
    """
    cut = torch.tensor(thresholds, dtype=deltas.dtype).view(-1, *[1] * (deltas.dim() - 1))
    return deltas * (deltas.abs() >= cut)


def weigh(deltas: Tensor, alphas: Sequence[float]) -> Tensor:
    """alpha_i * delta_i: float32 [n, …]."""
    return deltas * torch.tensor(alphas, dtype=deltas.dtype).view(-1, *[1] * (deltas.dim() - 1))


def elect_mass(weighted: Tensor) -> Tensor:
    """The sign (-1, 0, 1) of the sum of the weighted entries: [n, …] -> […]. An exact zero sum elects nobody."""
    return weighted.sum(0).sign_()


def elect_count(weighted: Tensor) -> Tensor:
    """The sign most of the non-zero weighted entries have: [n, …] -> […]. As many of each elect nobody."""
    return weighted.sign().sum(0).sign_()


def disjoint_mean(weighted: Tensor, elected: Tensor) -> Tensor:
    """The mean over the non-zero entries that have the elected sign, 0 where nobody does: [n, …], […] -> […].

    It divides by how many agree, not by their alphas: an alpha is an absolute strength, and one vector alone comes out
    as alpha * delta, a negative one subtracted.
    """
    agreeing = (weighted * elected).clamp_(min=0.0)  # magnitudes; times ±1 is exact
    mean = agreeing.sum(0).mul_(elected)
    return mean.div_(agreeing.sign_().sum(0).clamp_(min=1.0))


def total(weighted: Tensor, elected: Tensor | None = None) -> Tensor:
    """The plain sum over the vectors: [n, …] -> […]."""
    return weighted.sum(0)


ELECTIONS: Mapping[str, Elect] = {"mass": elect_mass, "count": elect_count}


@dataclass(frozen=True)
class Method:
    """A row of the method table."""

    name: str
    trims: bool  # per tensor, by magnitude, to the density
    elects: bool  # a sign per entry, by mass or count, over the weighted trimmed values
    divide: Callable[[Tensor, Tensor | None], Tensor]
    paper: str


def _ties_divide(weighted: Tensor, elected: Tensor | None) -> Tensor:
    assert elected is not None
    return disjoint_mean(weighted, elected)


METHODS: Mapping[str, Method] = {
    "linear": Method("linear", False, False, total, "https://arxiv.org/abs/2212.04089"),
    "ties": Method("ties", True, True, _ties_divide, "https://arxiv.org/abs/2306.01708"),
}


def method_named(name: object) -> Method:
    """The row of that name; `InputError` with the known ones otherwise."""
    if isinstance(name, str) and name in METHODS:
        return METHODS[name]
    near = did_you_mean(name, METHODS) if isinstance(name, str) else None
    remedy = near or f"one of {_listed(METHODS)}"
    raise InputError(f"unknown link method {name!r}", where="[link] method", remedy=remedy)


def election_named(name: object) -> Elect:
    """The election of that name; `InputError` with the known ones otherwise."""
    if isinstance(name, str) and name in ELECTIONS:
        return ELECTIONS[name]
    raise InputError(f"unknown election {name!r}", where="[link] elect", remedy=f"one of {_listed(ELECTIONS)}")


def combine(method: Method, elect: Elect, trimmed: Tensor, alphas: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Weigh, elect, divide: trimmed float32 [n, …] -> (weighted [n, …], merged […]); lambda is not yet in."""
    weighted = weigh(trimmed, alphas)
    return weighted, method.divide(weighted, elect(weighted) if method.elects else None)


def merge(method: Method, elect: Elect, deltas: Tensor, alphas: Sequence[float], density: float) -> Tensor:
    """One tensor merged whole: float32 [n, …] -> […]; what the linker does block by block. lambda is not yet in."""
    kept = trim(deltas, [threshold(delta, density) for delta in deltas]) if method.trims else deltas
    return combine(method, elect, kept, alphas)[1]


def _listed(names: Mapping[str, object]) -> str:
    return ", ".join(sorted(names))
