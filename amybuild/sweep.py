"""Sweeps: many settings of the coefficients, each linked and measured as a build is; none trains or is published."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from amybuild.build import Options, Project, bring_up_to_date
from amybuild.errors import AmyError, InputError
from amybuild.events import Sink
from amybuild.plan.plan import State

MEASURE = "persona/measure"
TRAINS = ("train",)  # the rules that no sweep runs
RANKS: Mapping[str, Callable[[Sequence[float]], float]] = {"min": min, "mean": lambda gains: sum(gains) / len(gains)}


@dataclass(frozen=True)
class Setting:
    """One point of a sweep: what is set, and the project as it would be built."""

    sets: tuple[tuple[str, str], ...]  # (key, value as it was typed)
    project: Project

    @property
    def label(self) -> str:
        return " ".join(f"{key}={value}" for key, value in self.sets)


@dataclass(frozen=True)
class Measured:
    """What a setting came to. `gains` in nats per token by behaviour; `error` when it could not be built."""

    setting: Setting
    gains: Mapping[str, float]
    retained: float | None
    neutral_kl: float | None
    within: bool  # whether neutral_kl keeps the bound
    ran: int  # actions that were not in the cache
    error: AmyError | None = None


def axes_of(words: Sequence[str]) -> list[tuple[str, list[str]]]:
    """``KEY=V,V,…`` -> (key, values); commas inside brackets and quotes separate nothing."""
    axes: dict[str, list[str]] = {}
    for word in words:
        key, sign, text = word.partition("=")
        values = [value.strip() for value in _split(text)]
        if not sign or not key.strip() or not all(values):
            raise InputError(
                f"'{word}' is not KEY=VALUE,VALUE,…", where="sweep", remedy="as in link.lambda=0.8,1.0,1.2"
            )
        if key.strip() in axes:
            raise InputError(f"'{key.strip()}' is there twice", where="sweep", remedy="put all its values after one =")
        axes[key.strip()] = values
    if not axes:
        raise InputError("nothing to sweep", where="sweep", remedy="as in amybuild sweep link.lambda=0.8,1.0,1.2")
    return list(axes.items())


def _split(text: str) -> Iterator[str]:
    depth, quote, start = 0, "", 0
    for position, letter in enumerate(text):
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "\"'":
            quote = letter
        elif letter in "[{":
            depth += 1
        elif letter in "]}":
            depth -= 1
        elif letter == "," and not depth:
            yield text[start:position]
            start = position + 1
    yield text[start:]


class Sweep:
    """The settings of a sweep, all planned before the first one runs."""

    def __init__(self, options: Options, axes: Sequence[tuple[str, list[str]]], limit: int) -> None:
        count = math.prod(len(values) for _, values in axes)
        if count > limit:
            remedy = f"fewer values, or --max {count}"
            raise InputError(f"{count} settings, at most {limit} are allowed", where="sweep", remedy=remedy)
        self.declared = Project(options)
        self._refuse_training(self.declared, None)
        points = itertools.product(*([(key, value) for value in values] for key, values in axes))
        self.settings = [self._setting(options, point) for point in points]

    def _setting(self, options: Options, sets: tuple[tuple[str, str], ...]) -> Setting:
        variant = options.variant
        words = (*variant.sets, *(f"{key}={value}" for key, value in sets))
        setting = Setting(sets, Project(replace(options, variant=replace(variant, sets=words))))
        self._refuse_training(setting.project, setting)
        return setting

    def _refuse_training(self, project: Project, setting: Setting | None) -> None:
        """Select what the measurement reads, and raise `InputError` when that would train anything.

        The gates of the vectors are ordered before a link, but it does not read them: here they are left out, or each
        setting would measure every vector alone again. Who builds the best setting runs them then.
        """
        project.actions = project.graph.inputs_of(MEASURE)
        plan = project.plan()
        training = [id for id, d in plan.decisions.items() if d.action.rule in TRAINS and d.state is not State.HIT]
        if training and setting is None:
            what = f"{', '.join(training)} not built yet, and a sweep trains nothing"
            raise InputError(what, where="sweep", remedy="run amybuild first")
        if training and setting is not None:
            remedy = "sweep what the link reads: link.*, task.NAME.alpha, task.NAME.scale"
            raise InputError(f"it would train {', '.join(training)}", where=f"sweep {setting.label}", remedy=remedy)

    @property
    def bound(self) -> float:
        """The neutral KL that a setting must keep to: the persona's gate, or the smallest of the recipes' of the linked
        behaviours."""
        persona = self.declared.persona
        gates = [task.recipe.gates.get("max_neutral_kl", math.inf) for task in persona.linked()]
        return float(persona.gates.get("max_neutral_kl", min(gates, default=math.inf)))

    def alone(self) -> dict[str, float]:
        """The gain of each vector alone at its declared strength, where the cache knows it."""
        self.declared.actions = self.declared.graph.select(())
        decisions, found = self.declared.plan().decisions, dict[str, float]()
        for task in self.declared.persona.linked():
            decision = decisions[f"{task.target}/measure"]
            data = self.declared.store.read_file(decision.output, "measure.json") if decision.output else None
            gain = json.loads(data).get("gain") if data else None
            if gain is not None:
                found[task.name] = gain
        return found

    def measure(self, setting: Setting, alone: Mapping[str, float], sink: Sink) -> Measured:
        """Link and measure one setting, through the cache."""
        try:
            summary, records = bring_up_to_date(setting.project, setting.project.plan(), sink, remember=False)
            data = (
                setting.project.store.read_file(records[MEASURE].output, "measure.json") if MEASURE in records else None
            )
        finally:
            setting.project.store.close()
        if summary.failed:
            return Measured(setting, {}, None, None, False, len(summary.ran), next(iter(summary.failed.values())))
        found: dict[str, Any] = json.loads(data or b"{}")
        gains = {name: row["gain"] for name, row in found["behaviours"].items()}
        shares = [gains[name] / alone[name] for name in gains if alone.get(name, 0.0) > 0]
        retained = sum(shares) / len(shares) if shares else None
        kl = found["neutral_kl"]
        return Measured(setting, gains, retained, kl, kl <= self.bound, len(summary.ran))


def best(found: Sequence[Measured], rank_by: str) -> int | None:
    """The index of the setting with the largest minimum (or mean) gain among those within the bound; None without."""
    able = [i for i, one in enumerate(found) if one.within and one.gains]
    return max(able, key=lambda i: RANKS[rank_by](list(found[i].gains.values())), default=None)


def as_json(found: Sequence[Measured], sweep: Sweep, rank_by: str) -> dict[str, Any]:
    """The result as ``amybuild sweep --json`` prints it."""
    chosen = best(found, rank_by)
    rows = [
        {
            "set": dict(one.setting.sets),
            "gains": dict(one.gains),
            "retained": one.retained,
            "neutral_kl": one.neutral_kl,
            "within": one.within,
            "ran": one.ran,
            "error": one.error.what if one.error else None,
        }
        for one in found
    ]
    bound = None if math.isinf(sweep.bound) else sweep.bound
    return {"schema": 1, "rank_by": rank_by, "max_neutral_kl": bound, "best": chosen, "settings": rows}
