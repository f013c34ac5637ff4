"""Resources: what recipes ask for, what a machine has, and that the scheduler never gives out more."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amybuild.errors import InputError
from amybuild.execute.resources import Capacity, free_memory, visible_gpus
from amybuild.graph.rules import RULES
from amybuild.personafile.check import Table
from amybuild.personafile.resources import bytes_of, read_resources
from tests.unit.test_executor import Fake, World, action, graph

G = 1 << 30


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "store")


@pytest.mark.parametrize(
    ("text", "size"),
    [
        *(("12G", 12 * G), ("1.5g", 3 * G // 2), ("64 MiB", 64 << 20), ("8gb", 8 * G), ("4096", 4096), ("2K", 2048)),
        *(("", None), ("G", None), ("-1G", None), ("12X", None), ("1e3", None), ("0", None), ("٣G", None)),
        ("9" * 400, None),
    ],
)
def test_sizes(text: str, size: int | None) -> None:
    assert bytes_of(text) == size


@given(st.text())
def test_any_text_is_a_size_or_none(text: str) -> None:
    assert bytes_of(text) is None or bytes_of(text) > 0  # type: ignore[operator]


def test_a_recipe_says_what_it_needs() -> None:
    table = Table({"resources": {"gpu": 1, "memory": "12G"}}, "recipes/a.toml", "")
    assert read_resources(table) == {"gpu": 1, "memory": 12 * G}
    assert read_resources(Table({}, "f", "")) == {}


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"memry": "1G"}, "did you mean 'memory'?"),
        ({"memory": "much"}, "is no size"),
        ({"memory": 12}, "must be a string"),
        ({"gpu": -1}, "must be at least 0"),
        ({"gpu": True}, "must be a whole number"),
        ("12G", "must be a table"),
    ],
)
def test_what_makes_no_sense_is_an_error(value: object, words: str) -> None:
    with pytest.raises(InputError) as caught:
        read_resources(Table({"resources": value}, "recipes/a.toml", ""))
    assert words in str(caught.value)
    assert "recipes/a.toml" in str(caught.value)


@pytest.mark.parametrize(
    ("chosen", "devices", "seen"),
    [
        *((None, 0, 0), (None, 2, 2), ("0", 0, 0), ("0,1", 4, 2), ("", 4, 0), ("-1", 4, 0), ("0,-1,1", 4, 1)),
        *(("7", 4, 0), ("1,9,0", 4, 1), ("GPU-1f3a", 4, 1), ("MIG-a, MIG-b", 1, 2), ("none", 2, 0)),
    ],
)
def test_gpus_are_counted_as_cuda_does(chosen: str | None, devices: int, seen: int) -> None:
    environ = {} if chosen is None else {"CUDA_VISIBLE_DEVICES": chosen}
    assert visible_gpus(environ, devices) == seen


def test_this_machine_has_memory() -> None:
    assert 1 << 26 < free_memory() < 1 << 50


def most(together: list[set[str]], of: Callable[[str], int]) -> int:
    return max(sum(of(id) for id in now) for now in together)


def test_memory_and_gpus_are_never_given_out_twice(world: World) -> None:
    needs: Mapping[str, Mapping[str, int]] = {
        **{f"m{i}/x": {"memory": (i + 1) * G} for i in range(5)},
        **{f"g{i}/x": {"gpu": 1 + i % 2} for i in range(4)},
        **{f"l{i}/x": {} for i in range(4)},
    }
    actions = graph(*(action(id, resources=one) for id, one in needs.items()))
    fake = Fake(nap=0.02)
    capacity = Capacity({"memory": 6 * G, "gpu": 2})
    outcome = world.build(actions, fake, jobs=8, capacity=capacity)
    assert sorted(outcome.ran) == sorted(needs)
    for name, there in (("memory", 6 * G), ("gpu", 2)):
        used = most(fake.together, lambda id, name=name: needs[id].get(name, 0))  # type: ignore[misc]
        assert 0 < used <= there
    assert most(fake.together, lambda id: "memory" in needs[id]) > 1, "what fits runs together"


@pytest.mark.parametrize(
    ("needs", "words"),
    [
        ({"gpu": 1}, "needs 1 GPU, and none can be seen here"),
        ({"memory": 9 * G}, "needs 9.0 GiB of memory, and 8.0 GiB are free here"),
        ({"model": 2}, "needs 2 x model, and there is 1"),
        ({"hammer": 1}, "needs 1 x hammer, and there is 0"),
    ],
)
def test_what_can_never_start_fails_before_it_starts(world: World, needs: Mapping[str, int], words: str) -> None:
    fake = Fake()
    actions = graph(action("a/x", resources=needs), action("b/x", "a/x"), action("z/x"))
    capacity = Capacity({"gpu": 0, "memory": 8 * G})
    outcome = world.build(actions, fake, keep_going=True, capacity=capacity)
    assert words in outcome.failed["a/x"].what
    assert (fake.ran, outcome.blocked) == (["z/x"], ["b/x"])
    assert "start" not in world.kinds("a/x")


def test_what_is_cached_needs_nothing(world: World) -> None:
    world.build(graph(action("a/x")))
    again = graph(action("a/x", resources={"gpu": 8}))
    assert world.build(again, capacity=Capacity({"gpu": 0})).hits == ["a/x"], "resources are no part of the key"


def test_rules_that_hold_the_model_share_one() -> None:
    assert RULES["train"].resources == RULES["link"].resources == {"model": 1}
    assert not RULES["corpus"].resources
