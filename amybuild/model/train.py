"""The training loop: NLL on replies, a margin over rejected ones, KL to the base on neutral text; deterministic."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from amybuild.errors import ActionError, InputError, Interrupted
from amybuild.model.checkpoint import Checkpoints
from amybuild.model.load import Loaded
from amybuild.model.optim import OPTIMIZERS, Knobs, Optimizer
from amybuild.model.pack import batches
from amybuild.model.score import PART_TOKENS, kl_per_token, logits_of, reply_logits, reply_states
from amybuild.model.tokens import Encoded

SCHEDULES = ("linear", "cosine", "constant")


@dataclass(frozen=True)
class Settings:
    """What a recipe says about the loop. lr is the peak; warmup a share of the steps; loss and KL in nats per token."""

    steps: int = 24
    batch: int = 8
    replay_batch: int = 4
    kl_weight: float = 1.0
    margin_weight: float = 0.0
    margin_beta: float = 3.0
    lr: float = 5e-4
    warmup: float = 0.1
    schedule: str = "linear"
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.99
    clip: float = 1.0
    explode: float = 30.0

    @classmethod
    def of(cls, params: Mapping[str, Any]) -> Settings:
        """From recipe fields; InputError names the field that has the wrong type or range. Other keys are not ours."""
        given: dict[str, Any] = {}
        for field in fields(cls):
            if field.name in params:
                given[field.name] = checked(params, field.name, type(field.default))
        found = cls(**given)
        if found.schedule not in SCHEDULES:
            raise InputError(
                f"unknown schedule {found.schedule!r}", where="schedule", remedy=f"one of {', '.join(SCHEDULES)}"
            )
        least = {"steps": 1, "batch": 1, "replay_batch": 0, "kl_weight": 0, "margin_weight": 0, "warmup": 0, "clip": 0}
        for name, low in least.items():
            if getattr(found, name) < low:
                raise InputError(f"{getattr(found, name)} is too small", where=name, remedy=f"at least {low}")
        if found.lr <= 0:
            raise InputError(f"{found.lr} is too small", where="lr", remedy="above 0")
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
    rows: Sequence[Encoded],
    others: Mapping[str, Encoded],
    replay: Sequence[Encoded],
    settings: Settings,
    seed: Callable[[str, int], int],
    progress: Callable[..., None],
    checkpoints: Checkpoints | None = None,
) -> list[dict[str, float]]:
    """Train the parameters in place; returns the curve, one row per step (loss, nll, preference, kl, …).

    parameters: by name, in the order of their names; base.model with them as they are now is the base itself. others:
    by the id of a row, the reply that its own is preferred to; for these margin_weight * -log sigmoid(margin_beta *
    gap) is added, gap = the difference of their mean log p per token (SimPO, arXiv 2405.14734). replay: neutral
    replies; on these the loss is kl_weight * KL(base || model), which is what keeps a vector narrow (mixing in other
    text alone does not). seed: of (purpose, number). checkpoints: where to go on from, and what to save to meanwhile
    and when `progress` raises Interrupted; the bits are those of a training without a pause. Raises ActionError when
    the loss stops being a number or exceeds `explode`, naming the step and the batch.
    """
    replayed = settings.replay_batch if settings.kl_weight > 0 and replay else 0
    states = reply_states(base, replay) if replayed else []  # nothing is learned yet: these are the base's own
    knobs = Knobs(settings.beta1, settings.beta2, settings.weight_decay)
    optimizer = OPTIMIZERS["adamw"](parameters, knobs, seed)
    curve = _resume(checkpoints, parameters, optimizer) if checkpoints else []
    for step in range(len(curve), settings.steps):
        for parameter in parameters.values():
            parameter.grad = None
        chosen = [rows[i] for i in choice([len(r.ids) for r in rows], settings.batch, seed("order", 0), step)]
        nll, preference = _replies(base, chosen, others if settings.margin_weight > 0 else {}, settings)
        kl = 0.0
        if replayed:
            drawn = choice([len(r.ids) for r in replay], replayed, seed("replay", 0), step)
            kl = _kl(base, [replay[i] for i in drawn], [states[i] for i in drawn], settings.kl_weight)
        loss = nll + settings.margin_weight * preference + settings.kl_weight * kl
        norm = _clipped(parameters, settings, loss, step, chosen)
        optimizer.step(rate(settings, step))
        row = {"step": step + 1, "loss": loss, "nll": nll, "preference": preference, "kl": kl}
        curve.append({**row, "grad_norm": norm, "lr": rate(settings, step)})
        stopped: Interrupted | None = None
        try:
            progress(step + 1, settings.steps, loss=loss)
        except Interrupted as found:
            stopped = found
        if checkpoints and (stopped or checkpoints.due()):
            checkpoints.save(step + 1, _tensors(parameters, optimizer), {"curve": curve})
        if stopped:
            raise stopped
    return curve


_OWN, _STATE = "parameter ", "state "


def _tensors(parameters: Mapping[str, Any], optimizer: Optimizer) -> dict[str, Any]:
    """All that the next step depends on, by name."""
    held = {_STATE + name: tensor for name, tensor in optimizer.state().items()}
    return held | {_OWN + name: parameter for name, parameter in parameters.items()}


def _resume(checkpoints: Checkpoints, parameters: Mapping[str, Any], optimizer: Optimizer) -> list[dict[str, float]]:
    """Put parameters and optimiser where the newest checkpoint left them; returns the curve so far."""
    import torch

    found = checkpoints.newest()
    if found is None or {name for name in found.tensors if name.startswith(_OWN)} != {_OWN + n for n in parameters}:
        return []
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(found.tensors[_OWN + name])
    state = {name.removeprefix(_STATE): tensor for name, tensor in found.tensors.items() if name.startswith(_STATE)}
    optimizer.load(state)
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


def _replies(
    base: Loaded, rows: Sequence[Encoded], others: Mapping[str, Encoded], settings: Settings
) -> tuple[float, float]:
    """Backward of the mean NLL per reply token and of the weighted preference; returns both, unweighted."""
    import torch

    nll, preference, tokens = 0.0, 0.0, sum(len(row.labels) for row in rows)
    paired = sum(row.id in others for row in rows)
    # both replies of a pair must be in one pass, and share its context there
    for part in batches(base, rows, PART_TOKENS * 2 // 3 if paired else PART_TOKENS):
        chosen = [rows[i] for i in part]
        rivals = [others[row.id] for row in chosen if row.id in others]
        logits, targets, _ = reply_logits(base, [*chosen, *rivals])
        logp = -torch.nn.functional.cross_entropy(logits, targets, reduction="none")
        replies = torch.split(logp, [len(row.labels) for row in [*chosen, *rivals]])
        loss = first = -torch.cat(replies[: len(chosen)]).sum() / tokens
        if rivals:
            own = [mine.mean() for row, mine in zip(chosen, replies, strict=False) if row.id in others]
            gaps = torch.stack(own) - torch.stack([rival.mean() for rival in replies[len(chosen) :]])
            second = torch.nn.functional.softplus(-settings.margin_beta * gaps).sum() / paired
            loss = first + settings.margin_weight * second
            preference += float(second.detach())
        loss.backward()  # type: ignore[no-untyped-call]
        nll += float(first.detach())
    return nll, preference


def _kl(base: Loaded, rows: Sequence[Encoded], states: Sequence[Any], weight: float) -> float:
    """Backward of weight * mean KL(base || model) per reply token; returns the KL."""
    import torch

    total, count = 0.0, sum(len(row.labels) for row in rows)
    for part in batches(base, rows, PART_TOKENS):
        reference = logits_of(base.model, torch.cat([states[i] for i in part]))
        logits, _, _ = reply_logits(base, [rows[i] for i in part])
        kl = kl_per_token(reference, logits).sum() / count
        (weight * kl).backward()
        total += float(kl.detach())
    return total
