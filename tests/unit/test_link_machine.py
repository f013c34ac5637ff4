"""Loops as machine code: what they compute is what their Python says, kept code is found again, damage is not run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from amybuild.link.machine import Loop, compiled

STEP = 3.0


@compiled()
def raised(value: Any) -> Any:
    return value + STEP


def add_steps(values: Any, times: Any, out: Any) -> None:
    for i in range(values.shape[0]):
        for j in range(values.shape[1]):
            out[i, j] = raised(values[i, j]) * times


def allocates(values: Any) -> None:
    values[:] = np.sort(values)


KINDS = ("f4[:,:]", "f8", "f8[:,:]")
RUN = """
import sys
import numpy as np
from tests.unit.test_link_machine import KINDS, add_steps
from amybuild.link.machine import Loop
out = np.empty((2, 2))
Loop(add_steps, KINDS)(np.ones((2, 2), np.float32), 2.0, out)
print(out.tolist(), "numba" in sys.modules)
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "code"))
    return tmp_path / "code"


def run() -> list[list[float]]:
    out = np.empty((2, 3))
    Loop(add_steps, KINDS)(np.arange(6, dtype=np.float32).reshape(2, 3), 2.0, out)
    return out.tolist()


WANTED = [[6.0, 8.0, 10.0], [12.0, 14.0, 16.0]]


def test_kept_code_is_found_again_without_numba_and_damage_is_not_run(place: Path) -> None:
    assert run() == WANTED
    (kept,) = place.iterdir()
    for numba in (False, True):  # found; damaged, so compiled once more
        out = subprocess.run([sys.executable, "-c", RUN], capture_output=True, text=True, check=True).stdout
        assert out.split() == ["[[8.0,", "8.0],", "[8.0,", "8.0]]", str(numba)]
        kept.write_bytes(kept.read_bytes()[:-9] + b"\0" * 9)


def test_a_changed_constant_is_another_loop(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run() == WANTED
    monkeypatch.setitem(add_steps.__globals__, "STEP", 4.0)
    assert run() == [[value + 2.0 for value in row] for row in WANTED]
    assert len(list(place.iterdir())) == 2


def test_arguments_of_another_kind_are_refused(place: Path) -> None:
    loop, out = Loop(add_steps, KINDS), np.empty((2, 3))
    for wrong in (np.ones((2, 3)), np.ones(6, np.float32), np.ones((3, 2), np.float32).T):
        with pytest.raises(TypeError, match="add_steps"):
            loop(wrong, 2.0, out)


def test_a_loop_that_is_more_than_a_loop_is_refused(place: Path) -> None:
    with pytest.raises(RuntimeError, match="allocates"):
        Loop(allocates, ("f4[:]",))(np.ones(3, np.float32))
    assert not place.exists()


def test_without_a_place_it_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", "/dev/null/nowhere")
    assert run() == WANTED
