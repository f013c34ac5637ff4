"""The training loop: batches, rate, optimiser, checkpoints; every random number is a function of seed and step."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, fields
from typing import Any

from amybuild.errors import ActionError, InputError, Interrupted
from amybuild.model.checkpoint import Checkpoints
from amybuild.model.drift import Kept, Watch
from amybuild.model.frozen import contexts
from amybuild.model.load import Loaded
from amybuild.model.losses import PREFERENCES, Data, Objective
from amybuild.model.optim import OPTIMIZERS, Optimizer, state_bytes
from amybuild.model.saving import saving
from amybuild.model.score import PART_TOKENS
from amybuild.model.tokens import Encoded

SCHEDULES = ("linear", "cosine", "constant")


@dataclass(frozen=True)
class Settings:
    """What a recipe says about the loop. lr is the peak; warmup a share of the steps; loss and KL in nats per token."""

    steps: int = 24
    batch: int = 8
    replay_batch: int = 4
    nll_weight: float = 1.0
    kl_weight: float = 1.0
    preference: str = "simpo"
    margin_weight: float = 0.0
    margin_beta: float = 3.0
    distill_weight: float = 0.0
    tokens_per_pass: int = PART_TOKENS
    context_frozen: bool = False
    top_layers: int = 0
    activation_checkpointing: bool = False
    optimizer: str = "adamw"
    apollo_rank: int = 128
    apollo_refresh: int = 200
    apollo_scale: float = 1.0
    apollo_growth: float = 1.01
    lr: float = 5e-4
    warmup: float = 0.1
    schedule: str = "linear"
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.99
    clip: float = 1.0
    explode: float = 30.0
    watch_every: int = 0
    max_drift: float = 0.02

    @classmethod
    def of(cls, params: Mapping[str, Any]) -> Settings:
        """From recipe fields; InputError names the field that has the wrong type or range. Other keys are not ours."""
        given: dict[str, Any] = {}
        for field in fields(cls):
            if field.name in params:
                given[field.name] = checked(params, field.name, type(field.default))
        found = cls(**given)
        tables = {"schedule": SCHEDULES, "optimizer": tuple(OPTIMIZERS), "preference": tuple(PREFERENCES)}
        for name, known in tables.items():
            if getattr(found, name) not in known:
                what = f"unknown {name} {getattr(found, name)!r}"
                raise InputError(what, where=name, remedy=f"one of {', '.join(known)}")
        least = {"steps": 1, "batch": 1, "replay_batch": 0, "warmup": 0, "clip": 0, "tokens_per_pass": 16}
        least |= {"top_layers": 0, "watch_every": 0}
        least |= {f"{term}_weight": 0 for term in ("nll", "kl", "margin", "distill")}
        least |= {"apollo_rank": 1, "apollo_refresh": 1, "apollo_growth": 0}
        for name, low in least.items():
            if getattr(found, name) < low:
                raise InputError(f"{getattr(found, name)} is too small", where=name, remedy=f"at least {low}")
        if found.context_frozen and found.top_layers:
            what = "a frozen context is run through all blocks"
            raise InputError(what, where="top_layers", remedy="set it to 0, or context_frozen = false")
        for name in ("lr", "max_drift"):
            if getattr(found, name) <= 0:
                raise InputError(f"{getattr(found, name)} is too small", where=name, remedy="above 0")
        return found


def checked(params: Mapping[str, Any], name: str, kind: Any, default: Any = None) -> Any:
    """params[name] as bool, int, float or str; InputError names the field when it is something else."""
    value = params.get(name, default)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
        raise InputError(f"expected {kind.__name__}, found {value!r}", where=name, remedy="see the recipe's comments")
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{value!r} is not a finite number", where=name, remedy="use a plain number")
    return value


def rate(settings: Settings, step: int) -> float:
    """Learning rate of step 0, 1, …: a linear warmup to the peak, then the schedule's way down, never 0."""
    warm = round(settings.warmup * settings.steps)
    if step < warm:
        return settings.lr * (step + 1) / (warm + 1)
    left = (settings.steps - step) / max(settings.steps - warm, 1)
    if settings.schedule == "linear":
        return settings.lr * left
    if settings.schedule == "cosine":
        return settings.lr * 0.5 * (1 - math.cos(math.pi * left))
    return settings.lr


def choice(lengths: Sequence[int], batch: int, seed: int, step: int) -> list[int]:
    """Indices of batch `step`: each pass over the data takes every row once, rows of like length together."""
    if not lengths or batch < 1:
        return []
    cuts = math.ceil(len(lengths) / batch)
    turn, place = divmod(step, cuts)

    def draw(what: str, i: int) -> float:
        key = hashlib.sha256(f"{seed}\0{what}\0{turn}\0{i}".encode()).digest()
        return int.from_bytes(key[:8], "big") / 2**64

    order = sorted(range(len(lengths)), key=lambda i: (lengths[i] * (1 + 0.5 * draw("row", i)), i))
    groups = [order[len(order) * k // cuts : len(order) * (k + 1) // cuts] for k in range(cuts)]
    return sorted(groups, key=lambda group: draw("group", group[0]))[place]


def train(
    base: Loaded,
    parameters: Mapping[str, Any],
    data: Data,
    settings: Settings,
    seed: Callable[[str, int], int],
    progress: Callable[..., None],
    checkpoints: Checkpoints | None = None,
) -> Trained:
    """Train the parameters in place, see `Objective` for the loss; watched, see `Watch`, they end as the step it keeps.

    parameters: by name, in the order of their names; base.model with them as they are now is the base itself. seed: of
    (purpose, number). checkpoints: where to go on from, and what to save to meanwhile and when `progress` raises
    Interrupted; the bits are those of a training without a pause. Raises ActionError when the loss stops being a number
    or exceeds `explode`, naming the step and the batch.
    """
    objective = Objective(base, data, settings)
    optimizer = OPTIMIZERS[settings.optimizer](parameters, settings, seed)
    # with a frozen context, all replies to it belong into one step: so a batch counts contexts then
    units = contexts(data.rows) if settings.context_frozen else [[place] for place in range(len(data.rows))]
    lengths = [max(len(data.rows[place].ids) for place in unit) for unit in units]
    neutral_lengths = [len(row.ids) for row in data.replay]
    passes = math.ceil(len(units) / settings.batch)
    watch = Watch(base, data.watched, settings, passes) if settings.watch_every else None
    curve = _resume(checkpoints, parameters, optimizer, watch) if checkpoints else []
    for step in range(len(curve), settings.steps):
        if watch and watch.broken(curve):
            break
        for parameter in parameters.values():
            parameter.grad = None
        drawn = choice(lengths, settings.batch, seed("order", 0), step)
        chosen = [data.rows[place] for i in drawn for place in units[i]]
        neutral = choice(neutral_lengths, objective.replayed, seed("replay", 0), step)
        with saving(base.model) if settings.activation_checkpointing else nullcontext():
            found = objective.backward(chosen, neutral)
        norm = _clipped(parameters, settings, found["loss"], step, chosen)
        optimizer.step(rate(settings, step))
        curve.append({"step": step + 1, **found, "grad_norm": norm, "lr": rate(settings, step)})
        if watch:
            watch.look(curve, parameters)
        stopped: Interrupted | None = None
        try:
            progress(step + 1, settings.steps, **{name: curve[-1][name] for name in _SHOWN if name in curve[-1]})
        except Interrupted as error:
            stopped = error
        if checkpoints and (stopped or checkpoints.due()):
            checkpoints.save(step + 1, _tensors(parameters, optimizer, watch), {"curve": curve})
        if stopped:
            raise stopped
    kept = watch.keep(curve, parameters) if watch else None
    if kept and kept.stopped:
        with suppress(Interrupted):  # it is done: to end here would only lose it
            progress(len(curve), settings.steps, note=kept.told)
    return Trained(curve, state_bytes(optimizer), kept)


@dataclass(frozen=True)
class Trained:
    """What a training did: its curve, one row per step (loss, nll, preference, kl, …; drift where it was measured), its
    optimiser's bytes, and which step it gave when it was watched (None: the last)."""

    curve: list[dict[str, float]]
    state_bytes: int
    kept: Kept | None = None


_SHOWN = ("loss", "drift")
_OWN, _STATE, _BEST = "parameter ", "state ", "best "


def _tensors(parameters: Mapping[str, Any], optimizer: Optimizer, watch: Watch | None) -> dict[str, Any]:
    """All that the next step, and which one is kept, depends on, by name."""
    held = {_STATE + name: tensor for name, tensor in optimizer.state().items()}
    held |= {_BEST + name: tensor for name, tensor in watch.best.items()} if watch else {}
    return held | {_OWN + name: parameter for name, parameter in parameters.items()}


def _resume(
    checkpoints: Checkpoints, parameters: Mapping[str, Any], optimizer: Optimizer, watch: Watch | None
) -> list[dict[str, float]]:
    """Put parameters, optimiser and watch where the newest checkpoint left them; returns the curve so far."""
    import torch

    found = checkpoints.newest()
    if found is None or {name for name in found.tensors if name.startswith(_OWN)} != {_OWN + n for n in parameters}:
        return []
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(found.tensors[_OWN + name])

    def told(kind: str) -> dict[str, Any]:
        return {name.removeprefix(kind): one for name, one in found.tensors.items() if name.startswith(kind)}

    optimizer.load(told(_STATE))
    if watch:
        watch.best = {name: one.to(parameters[name].device) for name, one in told(_BEST).items()}
    return list(found.told["curve"])


def _clipped(
    parameters: Mapping[str, Any], settings: Settings, loss: float, step: int, batch: Sequence[Encoded]
) -> float:
    """The gradient's norm before it is cut to `clip`; ActionError when it or the loss is no sound number."""
    import torch

    norm = float(torch.nn.utils.clip_grad_norm_(list(parameters.values()), settings.clip or math.inf))
    if math.isfinite(loss) and math.isfinite(norm) and loss <= settings.explode:
        return norm
    names = ", ".join(dict.fromkeys(row.id for row in batch))
    raise ActionError(
        f"the loss is {loss:.3g} at step {step + 1} of {settings.steps} (gradient norm {norm:.3g}), on {names}",
        where="training",
        remedy="lower lr, or raise warmup, in the recipe or the target's table; or look at those examples",
    )
