"""Deciding and explaining on hand-made graphs with a cache in memory; and that the two never disagree."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from amybuild.digest import digest_value
from amybuild.graph.graph import Action, NodeSource
from amybuild.plan.explain import ActionReason, Explanation, as_json, explain
from amybuild.plan.key import Component
from amybuild.plan.plan import Identity, Plan, State, decide, make_plan

IDENTITY = Identity({"fine": {"m:run": "1"}, "coarse": {"m:run": "1"}}, {"fine": {"torch": "2"}, "coarse": {}})


def action(id: str, value: int = 0, *inputs: str, rule: str = "fine", **more: Any) -> Action:
    """An action on `inputs` whose result depends on `value`: half of it only when the rule is ``coarse``."""
    roles = {f"in.{one}": one for one in inputs}
    return Action(id, id.partition("/")[0], rule, {"name": id, "value": value}, roles, **more)


def graph(*actions: Action) -> dict[str, Action]:
    return {one.id: one for one in actions}


def result_of(one: Action, outputs: Mapping[str, str]) -> str:
    """What running an action gives: a pure function of its parameters and inputs."""
    value = one.params["value"] // 2 if one.rule == "coarse" else one.params["value"]
    return digest_value("result", [value, [outputs[by] for by in one.inputs.values()], [n.digest for n in one.nodes]])


@dataclass(frozen=True)
class Known:
    """A result in the cache."""

    output: str
    seconds: float
    components: tuple[Component, ...]
    finished: str = "2026-01-01T00:00:00+00:00"


@dataclass
class World:
    """A cache and a history in memory, and the simplest executor there is."""

    cache: dict[str, Known] = field(default_factory=dict)
    last: dict[str, str] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)  # keys whose record stays and whose output was lost

    def lookup(self, key: str) -> Known | None:
        return None if key in self.gone else self.cache.get(key)

    def record(self, id: str) -> tuple[str, Known | None] | None:
        return (self.last[id], self.cache.get(self.last[id])) if id in self.last else None

    def plan(
        self, actions: Mapping[str, Action], forced: frozenset[str] = frozenset(), identity: Identity = IDENTITY
    ) -> Plan:
        return make_plan(actions, identity, self.lookup, forced)

    def explain(
        self, actions: Mapping[str, Action], forced: frozenset[str] = frozenset(), identity: Identity = IDENTITY
    ) -> dict[str, ActionReason]:
        return self.whole(actions, forced, identity).actions

    def whole(
        self, actions: Mapping[str, Action], forced: frozenset[str] = frozenset(), identity: Identity = IDENTITY
    ) -> Explanation:
        return explain(self.plan(actions, forced, identity), self.record)

    def build(
        self, actions: Mapping[str, Action], forced: frozenset[str] = frozenset(), identity: Identity = IDENTITY
    ) -> list[str]:
        """Bring everything up to date; returns what ran."""
        ran, outputs = [], dict[str, str]()
        for id, one in actions.items():
            decision = decide(one, outputs, identity, self.lookup, id in forced)
            assert decision.manifest is not None
            key = decision.manifest.key
            if decision.state is State.RUN:
                ran.append(id)
                self.cache[key] = Known(result_of(one, outputs), 1.5, decision.components)
                self.gone.discard(key)
            outputs[id] = self.cache[key].output
            self.last[id] = key
        return ran


CHAIN = graph(action("a/x"), action("b/x", 0, "a/x"), action("c/x", 0, "b/x"), action("d/x"))


def states(reasons: Mapping[str, ActionReason]) -> dict[str, str]:
    return {id: one.state for id, one in reasons.items()}


# plans


def test_nothing_is_known_at_first() -> None:
    plan = World().plan(CHAIN)
    assert [d.state for d in plan.decisions.values()] == [State.RUN, State.UNKNOWN, State.UNKNOWN, State.RUN]
    assert not plan.done
    assert plan.decisions["b/x"].manifest is None
    assert [c.kind for c in plan.decisions["b/x"].components] == ["code", "environment", "param", "param"]


def test_what_was_built_is_a_hit() -> None:
    world = World()
    assert world.build(CHAIN) == list(CHAIN)
    assert world.plan(CHAIN).done
    assert world.build(CHAIN) == []


def test_an_edit_makes_what_follows_unknown_and_nothing_else() -> None:
    world = World()
    world.build(CHAIN)
    edited = {**CHAIN, "a/x": action("a/x", 1)}
    plan = world.plan(edited)
    assert [d.state for d in plan.decisions.values()] == [State.RUN, State.UNKNOWN, State.UNKNOWN, State.HIT]
    assert world.build(edited) == ["a/x", "b/x", "c/x"]
    assert world.plan(CHAIN).done, "undoing an edit runs nothing"


def test_the_same_result_stops_there() -> None:
    world = World()
    actions = {**CHAIN, "a/x": action("a/x", 0, rule="coarse")}
    world.build(actions)
    same = {**CHAIN, "a/x": action("a/x", 1, rule="coarse")}
    assert world.plan(same).decisions["b/x"].state is State.UNKNOWN
    assert world.build(same) == ["a/x"]


def test_a_forced_action_runs_and_what_follows_waits_for_it() -> None:
    world = World()
    world.build(CHAIN)
    plan = world.plan(CHAIN, frozenset({"b/x"}))
    assert [d.state for d in plan.decisions.values()] == [State.HIT, State.RUN, State.UNKNOWN, State.HIT]
    assert world.build(CHAIN, frozenset({"b/x"})) == ["b/x"]


def test_order_only_needs_are_not_in_the_key() -> None:
    world = World()
    world.build(graph(action("a/x"), action("b/x", after=("a/x",))))
    plan = world.plan(graph(action("a/x", 1), action("b/x", after=("a/x",))))
    assert plan.decisions["b/x"].state is State.HIT


# explanations


def test_never_built() -> None:
    found = World().explain(CHAIN)
    assert set(states(found).values()) == {"missing"}
    assert found["a/x"].reason == "never built"
    assert found["c/x"].reason == "never built; needs b/x first"
    assert found["c/x"].causes == ("a/x",)
    assert found["c/x"].cost is None


def test_up_to_date_and_its_cost() -> None:
    world = World()
    world.build(CHAIN)
    whole = world.whole(CHAIN)
    assert whole.up_to_date
    assert as_json(whole)["up_to_date"] is True
    assert {one.reason for one in whole.actions.values()} == {
        "all 5 components are as they were",
        "all 4 components are as they were",
    }


def test_the_root_cause_goes_through_what_is_unknown() -> None:
    world = World()
    world.build(CHAIN)
    whole = world.whole({**CHAIN, "a/x": action("a/x", 1, origins={"value": "recipe"})})
    found = whole.actions
    assert states(found) == {"a/x": "stale", "b/x": "unknown", "c/x": "unknown", "d/x": "up-to-date"}
    assert found["a/x"].reason == "recipe value 0 -> 1"
    assert found["a/x"].cost == 1.5
    assert found["c/x"].causes == ("a/x",)
    assert found["c/x"].reason == "shows when b/x is built"
    assert found["c/x"].key is None
    assert whole.target_state("c") == "unknown"
    assert whole.target_causes("c") == ["a/x"]
    assert [t for t in whole.targets if whole.target_state(t) == "up-to-date"] == ["d"]


def test_a_result_that_waits_in_the_cache_costs_nothing() -> None:
    world = World()
    world.build(CHAIN)
    world.build({**CHAIN, "a/x": action("a/x", 1)})
    found = world.explain(CHAIN)
    assert states(found) == {"a/x": "stale", "b/x": "stale", "c/x": "stale", "d/x": "up-to-date"}
    assert found["a/x"].reason == "value 1 -> 0; the result waits in the cache"
    assert found["b/x"].reason == "new result of a/x; the result waits in the cache"
    assert {found[id].cost for id in ("a/x", "b/x", "c/x")} == {0.0}
    assert found["c/x"].causes == ("a/x",)


def test_another_project_built_it() -> None:
    world = World()
    world.build(CHAIN)
    world.last.clear()
    found = world.explain(CHAIN)
    assert set(states(found).values()) == {"missing"}
    assert "waits in the cache" in found["c/x"].reason
    assert found["c/x"].cost == 0.0


def test_own_changes_are_told_before_the_inputs_are_known() -> None:
    world = World()
    world.build(CHAIN)
    found = world.explain({**CHAIN, "a/x": action("a/x", 1), "b/x": action("b/x", 1, "a/x")})
    assert states(found) == {"a/x": "stale", "b/x": "stale", "c/x": "unknown", "d/x": "up-to-date"}
    assert found["b/x"].key is None
    assert found["b/x"].causes == ("b/x", "a/x")
    assert found["b/x"].reason == "value 0 -> 1"


def test_forced() -> None:
    world = World()
    world.build(CHAIN)
    found = world.explain(CHAIN, frozenset({"a/x", "b/x"}))
    assert found["a/x"].reason == "forced"
    assert (found["b/x"].state, found["b/x"].reason) == ("stale", "forced")
    assert found["b/x"].causes == ("b/x", "a/x")
    assert found["c/x"].causes == ("b/x", "a/x")


def test_a_lost_result_and_a_lost_record() -> None:
    world = World()
    world.build(CHAIN)
    key = world.last["a/x"]
    world.gone.add(key)
    found = world.explain(CHAIN)
    assert (found["a/x"].state, found["a/x"].reason) == ("stale", "its result is no longer in the cache")
    assert found["b/x"].state == "unknown"
    del world.cache[key]
    assert world.explain(CHAIN)["a/x"].state == "stale"
    edited = world.explain({**CHAIN, "a/x": action("a/x", 1)})
    assert edited["a/x"].reason == "the record of its last run cannot be read"


def test_unknown_names_the_input_it_waits_for() -> None:
    """Not one whose result is in the cache already, nor one that only goes before."""
    actions = graph(action("gate/x"), action("a/x"), action("b/x"), action("c/x", 0, "a/x", "b/x", after=("gate/x",)))
    world = World()
    world.build(actions)
    world.build({**actions, "a/x": action("a/x", 1)})
    edited = {**actions, "gate/x": action("gate/x", 7), "b/x": action("b/x", 7)}
    found = world.explain(edited)
    assert found["a/x"].cost == 0.0
    assert found["c/x"].reason == "shows when b/x is built"
    assert "gate/x" not in found["c/x"].causes


def test_an_order_only_need_is_no_cause() -> None:
    actions = graph(action("gate/x"), action("a/x"), action("c/x", 0, "a/x", after=("gate/x",)))
    world = World()
    world.build(actions)
    only_a = {"a/x": action("a/x", 1)}
    world.build(only_a)  # a is up to date again, its result is new to c
    found = world.explain({**actions, **only_a, "gate/x": action("gate/x", 1)})
    assert found["c/x"].reason == "new result of a/x"
    assert found["c/x"].causes == ("c/x",)


def test_code_libraries_and_nodes_are_named() -> None:
    world = World()
    nodes = (NodeSource("k", "d1", b""), NodeSource("l", "d2", b""))
    world.build(graph(action("a/x", nodes=nodes)))
    code = Identity({"fine": {"m:run": "2", "m:new": "1"}}, {"fine": {"torch": "3"}})
    found = world.explain(graph(action("a/x", nodes=nodes)), identity=code)["a/x"]
    assert found.reason == "code changed: m:run; code new: m:new; library torch 2 -> 3"
    edited = graph(action("a/x", nodes=(NodeSource("k", "other", b""), NodeSource("n", "d3", b""))))
    found = world.explain(edited)["a/x"]
    assert found.reason == "node k edited; new node n; node l gone"
    assert [(c.kind, c.name, c.old, c.new) for c in found.changes] == [
        ("node", "k", "d1", "other"),
        ("node", "l", "d2", None),
        ("node", "n", None, "d3"),
    ]


# never apart


@st.composite
def dags(draw: st.DrawFn) -> list[dict[str, Action]]:
    """One small DAG in several versions: values, rules' inputs and order-only needs vary, the names stay."""
    count = draw(st.integers(1, 6))
    shape = [draw(st.lists(st.integers(0, i - 1), max_size=3, unique=True)) if i else [] for i in range(count)]
    gates = [draw(st.lists(st.integers(0, i - 1), max_size=1)) if i else [] for i in range(count)]
    rules = [draw(st.sampled_from(["fine", "coarse"])) for _ in range(count)]

    def version() -> dict[str, Action]:
        return graph(
            *(
                action(
                    f"t{i}/x",
                    draw(st.integers(0, 3)),
                    *(f"t{j}/x" for j in shape[i]),
                    rule=rules[i],
                    after=tuple(f"t{j}/x" for j in gates[i]),
                )
                for i in range(count)
            )
        )

    return [version() for _ in range(draw(st.integers(1, 4)))]


@settings(max_examples=200, deadline=None)
@given(dags(), st.data())
def test_explanation_plan_and_execution_agree(versions: list[dict[str, Action]], data: st.DataObject) -> None:
    world = World()
    for actions in versions:
        lose: bool = data.draw(st.booleans(), label="lose one result")
        if lose and world.cache:
            world.gone.add(data.draw(st.sampled_from(sorted(world.cache))))
        forced = frozenset(data.draw(st.lists(st.sampled_from(sorted(actions)), max_size=1), label="forced"))
        plan, found = world.plan(actions, forced), world.explain(actions, forced)
        whole = world.whole(actions, forced)
        roots = {id for cause in whole.causes() for id in cause.actions}
        before = dict(world.last)
        ran = set(world.build(actions, forced))
        for id, decision in plan.decisions.items():
            one = found[id]
            waits = "waits in the cache" in one.reason
            assert (decision.manifest.key if decision.manifest else None) == one.key
            assert (one.key is None) == (decision.state is State.UNKNOWN)
            if one.state == "up-to-date":
                assert decision.state is State.HIT
                assert before[id] == world.last[id]
            elif one.key is not None:
                assert waits == (decision.state is State.HIT)
            if one.state != "unknown" and one.key is not None:
                assert (id in ran) == (one.state != "up-to-date" and not waits)
            if id in forced:
                assert one.state in ("stale", "missing")
                assert id in ran
            if one.state != "up-to-date":
                assert one.causes
                assert all(found[cause].state in ("stale", "missing") for cause in one.causes)
                assert set(one.causes) <= roots
                assert (one.chain[0], one.chain[-1] in one.causes) == (id, True)
                ways = [whole.chain(id.partition("/")[0], cause) for cause in one.causes]
                assert len(one.chain) == min(map(len, ways)), "no shorter way to any root"
                for way, cause in zip(ways, one.causes, strict=True):
                    assert (way[0], way[-1]) == (id, cause)
                    assert all(b in actions[a].inputs.values() for a, b in itertools.pairwise(way))
            assert not one.runs or id in ran
            assert id not in ran or one.runs or one.key is None
            assert (one.place == "here") == waits
        assert plan.done == (not ran)
        assert all(one.state == "up-to-date" for one in world.explain(actions).values())
