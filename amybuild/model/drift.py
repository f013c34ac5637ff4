"""The drift watch: how far a training has moved off its base on neutral text, and the best step inside a bound."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from amybuild.digest import digest_value
from amybuild.errors import ActionError
from amybuild.model.load import Loaded
from amybuild.model.score import neutral_kl, reply_states
from amybuild.model.tokens import Encoded

SHARE = 4  # one neutral reply in so many is watched, and never trained on

Curve = Sequence[Mapping[str, float]]


class Bounds(Protocol):
    """The fields of a recipe that a watch reads (`train.Settings`)."""

    @property
    def steps(self) -> int: ...
    @property
    def batch(self) -> int: ...
    @property
    def kl_weight(self) -> float: ...
    @property
    def watch_every(self) -> int: ...
    @property
    def max_drift(self) -> float: ...


def apart(rows: Sequence[Encoded]) -> tuple[list[Encoded], list[Encoded]]:
    """(what is watched, what is replayed) of neutral rows: which is which depends on their ids alone."""
    order = sorted(rows, key=lambda row: digest_value("watched", row.id))
    names = {row.id for row in order[: max(1, len(rows) // SHARE)]}
    return [row for row in rows if row.id in names], [row for row in rows if row.id not in names]


@dataclass(frozen=True)
class Kept:
    """Which step a watched training gave, with its drift and the one it ended at (nats per token)."""

    steps: int  # that were asked for
    done: int
    step: int
    drift: float
    last: float
    max_drift: float

    @property
    def stopped(self) -> bool:
        """Whether it ended since the bound broke."""
        return self.last > self.max_drift

    @property
    def told(self) -> str:
        """``stopped at step 11 of 14, kept step 10: drift 0.0213 over 0.02``."""
        if self.stopped:
            head = f"stopped at step {self.done} of {self.steps}, kept step {self.step}"
            return f"{head}: drift {self.last:.4f} over {self.max_drift:g}"
        return f"kept step {self.step} of {self.steps}: drift {self.drift:.4f}, at most {self.max_drift:g}"

    def as_json(self) -> dict[str, Any]:
        """For train.json."""
        return {**asdict(self), "stopped": self.stopped, "told": self.told}


def best(curve: Curve, bounds: Bounds, batches: int) -> int | None:
    """The place of the row inside the bound at which the behaviour was learned best, of two alike the later one.

    Learned: the mean loss of the last pass (so many batches), without the term that holds the model near its base. A
    batch is a few dialogues, and its loss says more about them than about the step; a pass has each dialogue once.
    """

    def learned(place: int) -> float:
        last = curve[max(0, place + 1 - batches) : place + 1]
        return sum(row["loss"] - bounds.kl_weight * row["kl"] for row in last) / len(last)

    inside = [place for place, row in enumerate(curve) if row.get("drift", math.inf) <= bounds.max_drift]
    return min(inside, key=lambda place: (learned(place), -place), default=None)


class Watch:
    """KL(base || model) on rows that nothing is trained on, every `watch_every` steps and after the last.

    It is that of the vector at strength 1, whatever it is linked with. What a watch knows stands in the curve's rows,
    but for the parameters of the best step: with both a training goes on as if nothing had stopped it.
    """

    def __init__(self, base: Loaded, rows: Sequence[Encoded], bounds: Bounds, batches: int) -> None:
        """Call it while the model is the base still. batches: how many are one pass over what is learned from."""
        self._base, self._rows, self._bounds, self._batches = base, rows, bounds, batches
        self._states = reply_states(base, rows)
        self.best: dict[str, Any] = {}  # parameters by name

    def look(self, curve: list[dict[str, float]], parameters: Mapping[str, Any]) -> None:
        """After a step: put `drift` into its row when it is due, and take a copy of the parameters if it is the best.

        ActionError when the bound is broken and no step was inside.
        """
        bounds, step = self._bounds, len(curve)
        if step % bounds.watch_every and step < bounds.steps:
            return
        drift = curve[-1]["drift"] = neutral_kl(self._base, self._rows, self._states)
        place = best(curve, bounds, self._batches)
        if not math.isfinite(drift) or place is None:
            found = f"at step {step} of {bounds.steps} it is {drift:.4f} nats per token from the base on neutral text"
            raise ActionError(
                f"{found}, and no step before was within max_drift = {bounds.max_drift:g}",
                where="training",
                remedy="lower lr, raise warmup, kl_weight or replay_batch, watch more often, or raise max_drift",
            )
        if place == step - 1:
            self.best = {name: parameter.detach().clone() for name, parameter in parameters.items()}

    def broken(self, curve: Curve) -> bool:
        """Whether the newest look found too much."""
        return bool(curve) and curve[-1].get("drift", 0.0) > self._bounds.max_drift

    def keep(self, curve: Curve, parameters: Mapping[str, Any]) -> Kept:
        """Give the parameters the values of the best step."""
        import torch

        place = best(curve, self._bounds, self._batches)
        assert place is not None  # `look` saw to that
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(self.best[name])
        drifts = curve[place]["drift"], curve[-1]["drift"]
        return Kept(self._bounds.steps, len(curve), place + 1, *drifts, self._bounds.max_drift)
