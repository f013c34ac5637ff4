"""Why an action is stale: its manifest against the one of its last run, and the way to the root cause."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from amybuild.plan.change import Cause, Change, differences, gather, phrase
from amybuild.plan.key import Component
from amybuild.plan.plan import Decision, KnownResult, Plan, State

Last = tuple[str, KnownResult | None] | None  # the key of an action's last run here, and its record if it is there


@dataclass(frozen=True)
class ActionReason:
    """The state of one action in words: up-to-date | stale | unknown | missing."""

    id: str
    state: str
    key: str | None
    reason: str
    changes: tuple[Change, ...] = ()
    cost: float | None = None  # seconds it took last time; 0 when the result waits in a cache
    causes: tuple[str, ...] = ()  # the actions at the root
    chain: tuple[str, ...] = ()  # the shortest way to one of them: this action first, the root last
    runs: bool = False  # it will run for certain; else, unless it is up to date or waits, it may
    place: str | None = None  # where its result waits: "here" or "shared"
    record: KnownResult | None = None  # of its last run, when it is up to date
    components: tuple[Component, ...] = ()
    behind: tuple[str, ...] = ()  # the inputs through which the causes reach it


@dataclass(frozen=True)
class ProductState:
    """What lies in the product's folder, where it is not what the results say."""

    folder: str
    holds: str | None  # the build that was put there last, None for nothing
    changed: tuple[str, ...] = ()  # files that are not as they were put there


@dataclass
class Explanation:
    """One reason per action, in topological order, and the targets they belong to."""

    actions: dict[str, ActionReason] = field(default_factory=dict)
    targets: dict[str, list[str]] = field(default_factory=dict)
    needs: dict[str, Mapping[str, str]] = field(default_factory=dict)  # action -> role -> the action that makes it
    product: ProductState | None = None

    @property
    def up_to_date(self) -> bool:
        return self.product is None and all(a.state == "up-to-date" for a in self.actions.values())

    def target_state(self, target: str) -> str:
        """The worst state of a target's actions; a root cause of its own counts before an unknown one."""
        states = [self.actions[id].state for id in self.targets[target]]
        return next((s for s in ("missing", "stale", "unknown") if s in states), "up-to-date")

    def target_causes(self, target: str) -> list[str]:
        return list(dict.fromkeys(cause for id in self.targets[target] for cause in self.actions[id].causes))

    def target_cost(self, target: str) -> float | None:
        """Seconds that the target's own actions take if all of them run; None when there is no telling."""
        costs = [self.actions[id].cost for id in self.targets[target] if self.actions[id].state != "up-to-date"]
        known = [cost for cost in costs if cost is not None]
        return sum(known) if known or not costs else None

    def chain(self, target: str, cause: str) -> tuple[str, ...]:
        """The shortest way from an action of `target` to the action `cause` at the root of it."""
        ways: list[tuple[str, ...]] = [(id,) for id in self.targets[target] if cause in self.actions[id].causes]
        seen: set[str] = set()
        for way in ways:  # it grows: breadth first
            if way[-1] == cause:
                return way
            for by in self.actions[way[-1]].behind:
                if by not in seen and cause in self.actions[by].causes:
                    seen.add(by)
                    ways.append((*way, by))
        return ()

    def causes(self) -> list[Cause]:
        """What everything that is not up to date goes back to, each said once."""
        roots = [a for a in self.actions.values() if a.id in a.causes]
        changed = {a.id: a.changes for a in roots if a.changes}
        plain: dict[str, list[str]] = {}
        for a in roots:
            if not a.changes:
                target = a.id.rpartition("/")[0]
                new = all(self.actions[id].state == "missing" for id in self.targets[target])
                plain.setdefault(f"new target {target}" if new else a.reason.partition(";")[0], []).append(a.id)
        told = [Cause(text, tuple(ids), bare=not text.startswith("new")) for text, ids in plain.items()]
        return [*told, *gather(changed, self.needs)]


def explain(plan: Plan, last: Callable[[str], Last]) -> Explanation:
    """Explain every decision of `plan`. `last(action)` gives the key and the record of its last run here, if any."""
    result = Explanation()
    for id, decision in plan.decisions.items():
        result.targets.setdefault(decision.action.target, []).append(id)
        result.needs[id] = decision.action.inputs
        result.actions[id] = _one(decision, last(id), plan, result)
    return result


def _one(decision: Decision, last: Last, plan: Plan, sofar: Explanation) -> ActionReason:
    if decision.manifest is None:
        return _unknown(decision, last, plan, sofar)
    action, key = decision.action, decision.manifest.key
    id, hit = action.id, decision.state is State.HIT
    record = last[1] if last else None
    if last is not None and last[0] == key and hit:
        reason = f"all {len(decision.components)} components are as they were"
        return ActionReason(id, "up-to-date", key, reason, record=record, components=decision.components)
    place = decision.place if hit else None
    cost = 0.0 if hit else record.seconds if record else None
    waits = f"the result waits in the {'cache' if place == 'here' else f'{place} store'}" if hit else ""

    def found(
        state: str, reason: str, changes: tuple[Change, ...] = (), behind: tuple[str, ...] = (), own: bool = True
    ) -> ActionReason:
        causes, chain = _way(id, own, behind, sofar)
        return ActionReason(id, state, key, reason, changes, cost, causes, chain, not hit, place, behind=behind)

    if decision.forced:
        return found("stale", "forced")
    if last is None:
        return found("missing", f"never built here; {waits}" if hit else "never built")
    if last[0] == key:
        lost = (Change("output", id, record.output if record else None, None),)
        return found("stale", "its result is no longer in the cache", lost)
    changes = differences(record.components, decision.components) if record else ()
    reason = phrase(id, changes, action.inputs) + (f"; {waits}" if hit else "")
    makers = [action.inputs[c.name] for c in changes if c.kind == "input" and c.name in action.inputs]
    behind = tuple(by for by in dict.fromkeys(makers) if sofar.actions[by].causes)
    return found("stale", reason, changes, behind, not behind or any(c.kind != "input" for c in changes))


def _unknown(decision: Decision, last: Last, plan: Plan, sofar: Explanation) -> ActionReason:
    """An action that has no key yet, because an input of it must be built first."""
    action, id = decision.action, decision.action.id
    record = last[1] if last else None
    cost = record.seconds if record else None
    # what only goes before it changes nothing in it
    behind = tuple(by for by in dict.fromkeys(action.inputs.values()) if sofar.actions[by].causes)
    first = next(by for by in action.inputs.values() if plan.decisions[by].output is None)
    changed = differences(record.components, decision.components) if record else ()
    own = tuple(c for c in changed if c.kind != "input")
    known = (own or decision.forced) and last is not None  # whatever comes out of its inputs, it is not what it was
    causes, chain = _way(id, bool(known), behind, sofar)
    if last is None:
        state, reason, own = "missing", f"never built; needs {first} first", ()
    elif known:
        state, reason = "stale", "forced" if decision.forced else phrase(id, own, action.inputs)
    else:
        state, reason = "unknown", f"shows when {first} is built"
    return ActionReason(id, state, None, reason, own, cost, causes, chain, decision.forced, behind=behind)


def _way(id: str, own: bool, behind: Iterable[str], sofar: Explanation) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """All roots behind an action, itself first when it is one, and the shortest chain to one of them."""
    before = [sofar.actions[by] for by in behind]
    causes = dict.fromkeys([*([id] if own else []), *(cause for one in before for cause in one.causes)])
    return tuple(causes), (id,) if own else (id, *min((one.chain for one in before), key=len, default=()))


_COUNTED = (
    ("node", "node", "nodes"),
    ("param", "parameter", "parameters"),
    ("base", "fact of the base", "facts of the base"),
    ("input", "input", "inputs"),
    ("code", "function", "functions"),
    ("environment", "library", "libraries"),
)


def account(components: Iterable[Component]) -> str:
    """``14 components as they were: 3 nodes, 8 parameters, code of 3 functions``."""
    counts = Counter("param" if c.kind == "recipe" else c.kind for c in components)
    told = [
        f"{'code of ' if kind == 'code' else ''}{counts[kind]} {one if counts[kind] == 1 else many}"
        for kind, one, many in _COUNTED
        if counts[kind]
    ]
    return f"{counts.total()} components as they were: {', '.join(told)}"


def as_json(explanation: Explanation) -> dict[str, object]:
    """The object of ``--explain --json`` (schema 1). Node texts are not in it, only their digests."""
    targets = []
    for target, ids in explanation.targets.items():
        actions = [
            {
                "action": a.id,
                "state": a.state,
                "key": a.key,
                "reason": account(a.components) if a.state == "up-to-date" else a.reason,
                "changes": [{"kind": c.kind, "name": c.name, "old": c.old, "new": c.new} for c in a.changes],
                "cost_s": a.cost,
                "chain": list(a.chain),
                "waits": a.place,
            }
            for a in (explanation.actions[id] for id in ids)
        ]
        targets.append(
            {
                "target": target,
                "state": explanation.target_state(target),
                "actions": actions,
                "causes": explanation.target_causes(target),
                "cost_s": explanation.target_cost(target),
            }
        )
    product = explanation.product
    return {
        "schema": 1,
        "up_to_date": explanation.up_to_date,
        "targets": targets,
        "product": product and {"folder": product.folder, "holds": product.holds, "changed": list(product.changed)},
    }
