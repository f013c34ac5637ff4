"""Why an action is stale: its manifest against the one of its last run, root cause first."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
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
            changes.append(Change(shown.kind, shown.name, a.value if a else None, b.value if b else None))
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
            word = "node" if len(chosen) == 1 else "nodes"
            parts.append(f"{word} {verb}: {_some([c.name for c in chosen], 3)}")
    for kind, word in (("recipe", "recipe"), ("param", ""), ("base", "base"), ("environment", "library")):
        for change in [c for c in changes if c.kind == kind]:
            old, new = change.old or "unset", change.new or "unset"
            if len(old) + len(new) > 60:
                parts.append(f"{word} {change.name} changed".strip())
            else:
                parts.append(f"{word} {change.name} {old} -> {new}".strip())
    inputs = [needs.get(c.name, c.name) for c in changes if c.kind == "input"]
    if inputs:
        parts.append(f"new result of {_some(inputs, 3)}")
    code = [c.name.split(":")[-1] for c in changes if c.kind == "code"]
    if code:
        parts.append(f"code changed: {_some(code, 4)}")
    return "; ".join(parts) or "the record of its last run cannot be read"


def _some(names: list[str], most: int) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def explain(
    plan: Plan,
    last: Callable[[str], tuple[str, KnownResult | None] | None],
) -> Explanation:
    """Explain every decision of `plan`. `last(action)` gives the key and the record of its last run here, if any."""
    result = Explanation()
    for id, decision in plan.decisions.items():
        result.targets.setdefault(decision.action.target, []).append(id)
        result.actions[id] = _one(decision, last(id), plan, result)
    return result


def _one(
    decision: Decision, last: tuple[str, KnownResult | None] | None, plan: Plan, sofar: Explanation
) -> ActionReason:
    if decision.manifest is None:
        return _unknown(decision, last, plan, sofar)
    action, key = decision.action, decision.manifest.key
    id, hit = action.id, decision.state is State.HIT
    record = last[1] if last else None
    cost = 0.0 if hit else record.seconds if record else None
    if decision.forced:
        return ActionReason(id, "stale", key, "forced", cost=cost, causes=(id,))
    if last is None:
        reason = "never built here, but its result waits in the cache" if hit else "never built"
        return ActionReason(id, "missing", key, reason, cost=cost, causes=(id,))
    if last[0] == key and hit:
        reason = f"all {len(decision.components)} components are as they were"
        return ActionReason(id, "up-to-date", key, reason)
    if last[0] == key:
        return ActionReason(id, "stale", key, "its result is no longer in the cache", cost=cost, causes=(id,))
    changes = differences(record.components, decision.components) if record else ()
    reason = phrase(changes, action.inputs) + ("; the result waits in the cache" if hit else "")
    roots: tuple[str, ...] = (id,)
    if changes and all(c.kind == "input" for c in changes):
        roots = _causes((action.inputs[c.name] for c in changes if c.name in action.inputs), sofar) or roots
    return ActionReason(id, "stale", key, reason, changes, cost, roots)


def _unknown(
    decision: Decision, last: tuple[str, KnownResult | None] | None, plan: Plan, sofar: Explanation
) -> ActionReason:
    """An action that has no key yet, because an input of it must be built first."""
    action, id = decision.action, decision.action.id
    record = last[1] if last else None
    cost = record.seconds if record else None
    causes = _causes(action.inputs.values(), sofar)  # what only goes before it changes nothing in it
    first = next(by for by in action.inputs.values() if plan.decisions[by].output is None)
    if last is None:
        return ActionReason(id, "missing", None, f"never built; needs {first} first", cost=cost, causes=causes)
    changed = differences(record.components, decision.components) if record else ()
    own = tuple(c for c in changed if c.kind != "input")
    if own or decision.forced:  # whatever comes out of its inputs, it is not what it was
        reason = "forced" if decision.forced else phrase(own, action.inputs)
        return ActionReason(id, "stale", None, reason, own, cost, (id, *causes))
    return ActionReason(id, "unknown", None, f"shows when {first} is built", cost=cost, causes=causes)


def _causes(needs: Iterable[str], sofar: Explanation) -> tuple[str, ...]:
    """The roots behind those of `needs` that are not up to date."""
    return tuple(dict.fromkeys(cause for need in needs for cause in sofar.actions[need].causes))


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
