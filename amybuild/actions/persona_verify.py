"""Rule `persona_verify`: what was measured of the linked persona against its gates, with each vector's own numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from amybuild.actions.context import ActionContext
from amybuild.actions.gates import LINKED, failures, hold, known
from amybuild.actions.measured import read_measured
from amybuild.model.data import measure, write_json

MIN_KEPT = "min_kept"
NAMES = (MIN_KEPT, *(gate.name for gate in LINKED))


def run(ctx: ActionContext) -> None:
    """inputs: measure, vector.<name>… (their measure), cross where there are others to have an effect on. params:
    gates; cross: vector -> max_cross_share.

    Writes verify.json: measure.json; per behaviour what its vector reaches `alone`, `gain_alone` and `kept`, the share
    of that gain which is left in the persona; `cross`: vector -> behaviour -> gain in nats per token, its own with the
    others, and `cross_share`: the largest effect on another (either way) over the own gain. Raises ActionError with
    every gate that fails.
    """
    gates = known(ctx.params.get("gates", {}), NAMES)
    result = read_measured(ctx, "measure", "measure.json")
    roles = [role for role in ctx.inputs if role.startswith("vector.")]
    solo = {role.removeprefix("vector."): read_measured(ctx, role, "measure.json") for role in sorted(roles)}
    for name, row in result["behaviours"].items():
        if "alone" in solo.get(name, {}):
            row |= {"alone": measure(solo[name]["alone"]), "gain_alone": solo[name]["gain"]}
            row["kept"] = row["gain"] / row["gain_alone"] if row["gain_alone"] > 0 else None
    if "cross" in ctx.inputs:
        effects = read_measured(ctx, "cross", "cross.json")["effects"]
        own = {name: {name: one["gain"]} for name, one in solo.items() if "gain" in one}
        result["cross"] = {name: {**row, **own.get(name, {})} for name, row in effects.items()}
        result["cross_share"] = {name: share(effects[name], own[name][name]) for name in effects if name in own}
    found = [*failures(LINKED, result, gates), *_lost(result["behaviours"], gates.get(MIN_KEPT))]
    found += _spread(result.get("cross_share", {}), result.get("cross", {}), ctx.params.get("cross", {}))
    hold(ctx.action, found)
    write_json(ctx.out / "verify.json", {**result, "gates": dict(gates), "passed": True})
    ctx.progress(1, 1)


def share(effects: Mapping[str, float], own: float) -> float | None:
    """The largest effect on another behaviour, either way, over the own gain; None where nothing is gained."""
    return max(map(abs, effects.values()), default=0.0) / own if own > 0 else None


def _lost(behaviours: Mapping[str, Any], bound: float | None) -> list[tuple[str, str]]:
    remedy = "raise its alpha or link.lambda, or choose another link.method: amybuild sweep compares them"
    return [
        (f"{name} keeps {row['kept']:.1%} of its solo gain in the persona; the gate is {MIN_KEPT} = {bound:g}", remedy)
        for name, row in behaviours.items()
        if bound is not None and row.get("kept") is not None and not row["kept"] >= bound
    ]


def _spread(
    shares: Mapping[str, float | None], cross: Mapping[str, Mapping[str, float]], bounds: Mapping[str, float]
) -> list[tuple[str, str]]:
    remedy = "raise kl_weight or margin_weight, add counter dialogues, lower alpha"
    found = []
    for name, bound in bounds.items():
        measured = shares.get(name)
        if measured is None or measured <= bound:
            continue
        others = {other: effect for other, effect in cross[name].items() if other != name}
        worst = max(others, key=lambda other: abs(others[other]))
        said = f"{name} moves {worst} by {others[worst]:+.4f} nats per token, {measured:.2f} times its own gain"
        found.append((f"{said}; the gate is max_cross_share = {bound:g}", remedy))
    return found
