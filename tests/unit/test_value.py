"""Value classes behave as those of `dataclasses` do, and a build after one edit does not import those."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from dataclasses import dataclass
from dataclasses import field as standard_field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amybuild.value import field, replace, value, values


@value
class Point:
    x: int
    y: int = 2
    tags: list[str] = field(default_factory=list)
    note: str = field(default="", compare=False)


@dataclass(frozen=True)
class Standard:
    x: int
    y: int = 2
    tags: list[str] = standard_field(default_factory=list)
    note: str = standard_field(default="", compare=False)


@value
class Checked:
    size: int

    def __post_init__(self) -> None:
        if self.size < 0:
            raise ValueError("negative")


@value(frozen=False)
class Open:
    number: int = 0


NAMES = ("x", "y", "tags", "note")
GIVEN = st.dictionaries(st.sampled_from((*NAMES, "z")), st.one_of(st.integers(0, 2), st.just("a")), max_size=4)


def made(cls: Any, args: list[int], named: dict[str, Any]) -> Any:
    try:
        one = cls(*args, **named)
    except TypeError:
        return None
    return [getattr(one, name) for name in NAMES]


@given(st.lists(st.integers(0, 2), max_size=5), GIVEN)
def test_what_a_constructor_takes_and_refuses_is_the_same(args: list[int], named: dict[str, Any]) -> None:
    assert made(Point, args, named) == made(Standard, args, named)


@given(GIVEN, GIVEN)
def test_equality_is_the_same(one: dict[str, Any], two: dict[str, Any]) -> None:
    points, standards = ([cls(**{"x": 1, **a}) for a in (one, two) if "z" not in a] for cls in (Point, Standard))
    assert (points[:1] == points[1:]) == (standards[:1] == standards[1:])


def test_what_is_equal_hashes_alike_and_other_classes_are_other_values() -> None:
    assert hash(Checked(3)) == hash(Checked(3))
    assert Checked(3) != Point(3)
    with pytest.raises(TypeError, match="unhashable"):
        hash(Open())


def test_a_frozen_value_stays_and_an_open_one_does_not() -> None:
    with pytest.raises(AttributeError, match=r"Point\.x cannot be changed"):
        Point(1).x = 2  # type: ignore[misc]
    with pytest.raises(AttributeError):
        del Point(1).x
    one = Open()
    one.number = 5
    assert one == Open(5)


def test_defaults_are_made_for_each_object() -> None:
    one, two = Point(1), Point(1)
    one.tags.append("a")
    assert two.tags == []


def test_a_replaced_value_is_checked_like_a_new_one() -> None:
    assert replace(Point(1, 5), x=7) == Point(7, 5)
    with pytest.raises(ValueError, match="negative"):
        replace(Checked(3), size=-1)
    assert values(Point(1, tags=["a"])) == {"x": 1, "y": 2, "tags": ["a"], "note": ""}
    assert repr(Point(1)) == "Point(x=1, y=2, tags=[], note='')"


def test_copies_and_pickles_are_equal() -> None:
    one = Point(1, 2, ["a"], "b")
    assert copy.copy(one) == copy.deepcopy(one) == pickle.loads(pickle.dumps(one)) == one


def test_what_a_build_after_an_edit_imports_needs_no_dataclasses() -> None:
    unwanted = "sorted({'inspect', 'dataclasses'} & {*sys.modules})"
    script = f"import sys, amybuild.edited, amybuild.actions.corpus; print({unwanted})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
