"""The action key: every component counts, once, and nothing else does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amybuild.graph.graph import Action, NodeSource, PathSource
from amybuild.plan.key import components_from_json, manifest, walk
from amybuild.value import replace

ACTION = Action(
    "task.x/train",
    "task.x",
    "train",
    {"steps": 3, "alphas": {"a": 1.0, "b": -0.5}, "none": {}},
    {"base": "base.b/import", "corpus": "task.x/corpus"},
    (NodeSource("k", "d1", b"one"), NodeSource("l", "d2", b"two")),
    PathSource(Path("/somewhere"), "d3"),
    {"steps": "recipe"},
)
OUTPUTS = {"base.b/import": "o1", "task.x/corpus": "o2"}
CODE = {"m:f": "c1", "m:g": "c2"}
LIBRARIES = {"torch": "2"}


def key(action: Action = ACTION, outputs: Any = OUTPUTS, code: Any = CODE, libraries: Any = LIBRARIES) -> str:
    return manifest(action.rule, walk(action, outputs, code, libraries)).key


def changed(**fields: Any) -> Action:
    return replace(ACTION, **fields)


def test_every_component_counts() -> None:
    keys = [
        key(),
        key(changed(rule="verify")),
        key(changed(params={**ACTION.params, "steps": 4})),
        key(changed(params={**ACTION.params, "steps": 3.0})),
        key(changed(params={**ACTION.params, "steps": "3"})),
        key(changed(params={**ACTION.params, "more": None})),
        key(changed(params={**ACTION.params, "alphas": {"a": 1.0, "b": -0.25}})),
        key(changed(params={**ACTION.params, "alphas": {"a": 1.0}})),
        key(changed(params={**ACTION.params, "alphas": {}})),
        key(changed(nodes=(NodeSource("k", "d1", b""), NodeSource("l", "other", b"")))),
        key(changed(nodes=(NodeSource("k", "d2", b""), NodeSource("l", "d1", b"")))),
        key(changed(nodes=ACTION.nodes[:1])),
        key(changed(source=PathSource(Path("/somewhere"), "other"))),
        key(changed(source=None)),
        key(changed(inputs={"base": "task.x/corpus", "corpus": "base.b/import"})),
        key(outputs={**OUTPUTS, "task.x/corpus": "other"}),
        key(code={**CODE, "m:g": "other"}),
        key(code={"m:f": "c1"}),
        key(libraries={"torch": "3"}),
    ]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize(
    "fields",
    [
        {"id": "task.y/train", "target": "task.y"},
        {"origins": {"steps": "param"}},
        {"origins": {}},
        {"after": ("base.b/import",)},
        {"params": dict(reversed(list(ACTION.params.items())))},
        {"nodes": ACTION.nodes[::-1]},
        {"nodes": (NodeSource("k", "d1", b"x"), NodeSource("l", "d2", b"y"))},
        {"source": PathSource(Path("/elsewhere"), "d3")},
    ],
    ids=str,
)
def test_names_places_orders_and_origins_do_not_count(fields: dict[str, Any]) -> None:
    assert key(changed(**fields)) == key()


def test_a_producer_is_known_by_its_result() -> None:
    renamed = changed(inputs={"base": "b", "corpus": "c"})
    assert key(renamed, {"b": "o1", "c": "o2"}) == key()


@given(st.permutations(list(CODE.items())), st.permutations(list(OUTPUTS.items())))
def test_the_order_of_what_is_known_does_not_count(code: list[Any], outputs: list[Any]) -> None:
    assert key(code=dict(code), outputs=dict(outputs)) == key()


def test_components_are_sorted_unique_and_read_back() -> None:
    parts = walk(ACTION, OUTPUTS, CODE, LIBRARIES)
    assert list(parts) == sorted(parts, key=lambda c: (c.kind, c.name))
    assert len({(c.kind, c.name) for c in parts}) == len(parts)
    assert components_from_json(manifest("train", parts).as_json()) == parts
    assert {c.name for c in parts if c.kind == "param"} == {"alphas.a", "alphas.b", "none"}
    assert [c.name for c in parts if c.kind == "recipe"] == ["steps"]


def test_inputs_that_are_not_known_yet_are_left_out() -> None:
    assert [c.name for c in walk(ACTION, {"base.b/import": "o1"}, CODE, LIBRARIES) if c.kind == "input"] == ["base"]
