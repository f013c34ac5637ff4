"""Why an action is stale: its manifest against the one of its last run, root cause first."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from amybuild.plan.key import Component
from amybuild.plan.plan import Decision, KnownResult, Plan, State


@dataclass(frozen=True)
class Change:
    """One component that differs. None means that it was not there, or is not there any more."""

    kind: str
    name: str
    old: str | None
    new: str | None


@dataclass(frozen=True)
class ActionReason:
    """The state of one action in words: up-to-date | stale | unknown | missing."""

    id: str
    state: str
    key: str | None
    reason: str
    changes: tuple[Change, ...] = ()
    cost: float | None = None  # seconds it took last time; 0 when the result waits in the cache
    causes: tuple[str, ...] = ()  # the actions at the root


@dataclass
class Explanation:
    """One reason per action, in topological order, and the targets they belong to."""

    actions: dict[str, ActionReason] = field(default_factory=dict)
    targets: dict[str, list[str]] = field(default_factory=dict)

    @property
    def up_to_date(self) -> bool:
        return all(a.state == "up-to-date" for a in self.actions.values())

    def target_state(self, target: str) -> str:
        """The worst state of a target's actions; a root cause of its own counts before an unknown one."""
        states = [self.actions[id].state for id in self.targets[target]]
        return next((s for s in ("missing", "stale", "unknown") if s in states), "up-to-date")

    def target_causes(self, target: str) -> list[str]:
        return list(dict.fromkeys(cause for id in self.targets[target] for cause in self.actions[id].causes))


def differences(old: tuple[Component, ...], new: tuple[Component, ...]) -> tuple[Change, ...]:
    """The components that differ between two manifests, nodes first, then parameters, then code and versions."""
    before = {(_kin(c.kind), c.name): c for c in old}
    after = {(_kin(c.kind), c.name): c for c in new}
    changes = []
    for id in sorted(before.keys() | after.keys()):
        a, b = before.get(id), after.get(id)
        if a is None or b is None or a.value != b.value:
            shown = b or a
            assert shown is not None
            changes.append(Change(shown.kind, shown.name, a and a.value, b and b.value))
    order = ["node", "recipe", "param", "base", "input", "code", "environment"]
    return tuple(sorted(changes, key=lambda c: (order.index(c.kind) if c.kind in order else 9, c.name)))


def _kin(kind: str) -> str:
    return "param" if kind == "recipe" else kind


def phrase(changes: tuple[Change, ...], needs: Mapping[str, str]) -> str:
    """A sentence for what changed. `needs` maps input roles to the actions that make them."""
    parts = []
    nodes = [c for c in changes if c.kind == "node"]
    for verb, chosen in (
        ("edited", [c for c in nodes if c.old and c.new]),
        ("new", [c for c in nodes if not c.old]),
        ("gone", [c for c in nodes if not c.new]),
    ):
        if chosen:
            names = ", ".join(c.name for c in chosen[:3]) + (f" and {len(chosen) - 3} more" if len(chosen) > 3 else "")
            parts.append(f"{'node' if len(chosen) == 1 else 'nodes'} {verb}: {names}")
    for kind, word in (("recipe", "recipe"), ("param", ""), ("base", "base"), ("environment", "library")):
        for change in [c for c in changes if c.kind == kind]:
            old, new = change.old or "unset", change.new or "unset"
            if len(old) + len(new) > 60:
                parts.append(f"{word} {change.name} changed".strip())
            else:
                parts.append(f"{word} {change.name} {old} -> {new}".strip())
    inputs = [needs.get(c.name, c.name) for c in changes if c.kind == "input"]
    if inputs:
        parts.append(f"new result of {', '.join(inputs[:3])}{f' and {len(inputs) - 3} more' if len(inputs) > 3 else ''}")
    code = [c.name.split(":")[-1] for c in changes if c.kind == "code"]
    if code:
        parts.append(f"code changed: {', '.join(code[:4])}{f' and {len(code) - 4} more' if len(code) > 4 else ''}")
    return "; ".join(parts) or "the record of its last run cannot be read"


def explain(
    plan: Plan,
    last: Callable[[str], tuple[str, KnownResult | None] | None],
) -> Explanation:
    """Explain every decision of `plan`. `last(action)` gives the key and the record of its last run here, if any."""
    result = Explanation()
    for id, decision in plan.decisions.items():
        result.targets.setdefault(decision.action.target, []).append(id)
        result.actions[id] = _one(decision, last(id), result)
    return result


def _one(decision: Decision, last: tuple[str, KnownResult | None] | None, sofar: Explanation) -> ActionReason:
    action = decision.action
    id = action.id
    key = decision.manifest.key if decision.manifest else None
    record = last[1] if last else None
    cost = record.seconds if record else None
    blockers = [sofar.actions[need] for need in action.needs if sofar.actions[need].state != "up-to-date"]
    causes = tuple(dict.fromkeys(cause for blocker in blockers for cause in blocker.causes))
    if decision.state is State.UNKNOWN:
        first = next(b for b in blockers if b.state in ("stale", "missing", "unknown"))
        if last is None:
            return ActionReason(id, "missing", None, f"never built; needs {first.id} first", cost=cost, causes=causes)
        own = differences(record.components, decision.components) if record else ()
        own = tuple(c for c in own if c.kind != "input")
        if own:  # whatever comes out of its inputs, it is not what it was
            return ActionReason(id, "stale", None, phrase(own, action.inputs), own, cost, (id, *causes))
        return ActionReason(id, "unknown", None, f"shows when {first.id} is built", cost=cost, causes=causes)
    assert decision.manifest is not None
    if decision.forced:
        return ActionReason(id, "stale", key, "forced", cost=cost, causes=(id,))
    if decision.state is State.HIT and last is not None and last[0] == key:
        return ActionReason(id, "up-to-date", key, f"all {len(decision.manifest.components)} components are as they were")
    if last is None:
        if decision.state is State.HIT:
            return ActionReason(id, "missing", key, "never built here, but its result waits in the cache", cost=0.0, causes=(id,))
        return ActionReason(id, "missing", key, "never built", cost=cost, causes=(id,))
    if last[0] == key:
        return ActionReason(id, "stale", key, "its result is no longer in the cache", cost=cost, causes=(id,))
    changes = differences(record.components, decision.manifest.components) if record else ()
    reason = phrase(changes, action.inputs)
    only_inputs = bool(changes) and all(c.kind == "input" for c in changes)
    roots = causes if only_inputs and causes else (id,)
    if decision.state is State.HIT:
        return ActionReason(id, "stale", key, f"{reason}; the result waits in the cache", changes, 0.0, roots)
    return ActionReason(id, "stale", key, reason, changes, cost, roots)


def as_json(explanation: Explanation) -> dict[str, object]:
    """The object of ``--explain --json`` (schema 1). Node texts are not in it, only their digests."""
    targets = []
    for target, ids in explanation.targets.items():
        actions = [
            {
                "action": a.id,
                "state": a.state,
                "key": a.key,
                "reason": a.reason,
                "changes": [{"kind": c.kind, "name": c.name, "old": c.old, "new": c.new} for c in a.changes],
                "cost_s": a.cost,
            }
            for a in (explanation.actions[id] for id in ids)
        ]
        targets.append(
            {
                "target": target,
                "state": explanation.target_state(target),
                "actions": actions,
                "causes": explanation.target_causes(target),
            }
        )
    return {"schema": 1, "up_to_date": explanation.up_to_date, "targets": targets}


__all__ = ["ActionReason", "Change", "Explanation", "as_json", "differences", "explain", "phrase"]
