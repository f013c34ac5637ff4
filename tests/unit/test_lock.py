"""The lock file: what is written reads back, sorted; what is damaged is a `PinError`."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from amybuild.errors import PinError
from amybuild.personafile.lock import Lock, parse, render

hexes = st.text("0123456789abcdef", min_size=8, max_size=8)
names = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
targets = st.from_regex(r"(task|steer|base)\.[A-Za-z0-9][A-Za-z0-9_-]{0,6}/(train|verify|import)", fullmatch=True)
pins = st.dictionaries(targets, st.tuples(hexes, hexes), max_size=5)
locks = st.builds(Lock, build=hexes, base=hexes, graph=hexes, actions=pins, name=names)
PINS = {"task.x/train": ("1" * 8, "2" * 8), "checkpoint/link": ("3" * 8, "4" * 8)}
LOCK = Lock("b" * 8, "a" * 8, "c" * 8, PINS, "good")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(locks)
def test_a_lock_reads_back(tmp_path: Path, lock: Lock) -> None:
    (tmp_path / "l").write_text(render(lock))
    assert parse(tmp_path / "l") == lock


def test_the_order_of_actions_does_not_show() -> None:
    turned = Lock(LOCK.build, LOCK.base, LOCK.graph, dict(reversed(list(LOCK.actions.items()))), LOCK.name)
    assert render(LOCK) == render(turned)
    headers = [line for line in render(LOCK).splitlines() if line.startswith("[target")]
    assert headers == sorted(headers)


def test_a_cut_lock_is_an_error_or_pins_less(tmp_path: Path) -> None:
    text = render(LOCK).encode()
    for length in range(len(text)):
        (tmp_path / "l").write_bytes(text[:length])
        try:
            found = parse(tmp_path / "l")
        except PinError:
            continue
        assert set(found.actions.items()) <= set(LOCK.actions.items())


@pytest.mark.parametrize(
    "text",
    [
        *("", "<<<<<<< ours\n", "[build]\n", "build = 3\n", "[build]\nschema = 1\n", "target = [1]\n"),
        render(LOCK) + '[target."y"]\nz = 3\n',
    ],
)
def test_damage_is_a_pin_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "l").write_text(text)
    with pytest.raises(PinError, match="cannot be read"):
        parse(tmp_path / "l")


def test_another_schema_and_no_lock_are_told(tmp_path: Path) -> None:
    (tmp_path / "l").write_text(render(LOCK).replace("schema = 1", "schema = 2"))
    with pytest.raises(PinError, match="schema 2"):
        parse(tmp_path / "l")
    with pytest.raises(PinError, match="there is no lock"):
        parse(tmp_path / "none")
