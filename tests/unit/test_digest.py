"""Laws of the canonical encoding and of digests over it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amybuild.digest import canonical, digest_bytes, digest_file, digest_value
from amybuild.errors import InputError

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
values = st.recursive(
    scalars | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


def shuffled(value: Any) -> Any:
    """The same JSON value with its keys in the opposite order."""
    if isinstance(value, dict):
        return {key: shuffled(value[key]) for key in reversed(list(value))}
    return [shuffled(one) for one in value] if isinstance(value, list) else value


def kind_of(value: Any) -> Any:
    """A value with its types, so that 1, 1.0 and True differ, and 0.0 from -0.0."""
    if isinstance(value, dict):
        return {key: kind_of(one) for key, one in value.items()}
    return [kind_of(one) for one in value] if isinstance(value, list) else repr(value)


@given(values)
def test_the_order_of_keys_changes_nothing(value: Any) -> None:
    assert canonical(value) == canonical(shuffled(value))


@given(values)
def test_canonical_bytes_read_back_and_are_a_fixed_point(value: Any) -> None:
    again = json.loads(canonical(value))
    assert kind_of(again) == kind_of(value)
    assert canonical(again) == canonical(value)


@given(values, values)
def test_different_values_differ(a: Any, b: Any) -> None:
    assert (canonical(a) == canonical(b)) == (kind_of(a) == kind_of(b))


def test_a_whole_float_is_not_an_integer_nor_a_truth_value() -> None:
    assert len({digest_value("x", one) for one in (1, 1.0, True, "1", [1], None)}) == 6


@given(values)
def test_kinds_never_share_a_pre_image(value: Any) -> None:
    assert digest_value("a", value) != digest_value("b", value)


@pytest.mark.parametrize(
    "value",
    [float("nan"), float("inf"), {"a": [float("-inf")]}, {1, 2}, b"x", object(), "\ud800", {"a": 1, 2: 3}],
)
def test_what_is_no_plain_value_is_refused(value: Any) -> None:
    with pytest.raises(InputError):
        canonical(value)


def test_what_holds_itself_or_is_very_deep_is_refused() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    loop: list[Any] = []
    loop.append(loop)
    for value in (deep, loop):
        with pytest.raises(InputError):
            canonical(value)


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1])
def test_a_file_has_the_digest_of_its_bytes(tmp_path: Path, size: int) -> None:
    data = bytes(range(256)) * (size // 256 + 1)
    (tmp_path / "f").write_bytes(data[:size])
    assert digest_file(tmp_path / "f") == digest_bytes(data[:size])
