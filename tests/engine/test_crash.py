"""kill -9 at random moments: 25 by default, 300 with `pytest -m nightly`; a build after each is right and quiet."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import pytest

from tests.engine import crash, fakes
from tests.engine.machine import first_line
from tests.harness import Space


def test_kills_of_the_command_line_with_cheap_actions(ram: Path) -> None:
    seen = crash.crash_fakes(ram, seed=random.randrange(10**6), count=18)
    assert seen["within"] > 0


def test_kills_of_real_builds_that_need_no_model(ram: Path) -> None:
    assert crash.crash_texts(ram, random.randrange(10**6), 7, fakes.project) > 0


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(9))
def test_two_hundred_and_seventy_kills_of_the_command_line(ram: Path, seed: int) -> None:
    seen = crash.crash_fakes(ram, seed, count=30)
    assert seen["within"] > 5


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(3))
def test_sixty_kills_of_real_builds_that_need_no_model(ram: Path, seed: int) -> None:
    assert crash.crash_texts(ram, seed, 20, fakes.project) > 5


@pytest.mark.nightly
def test_twelve_kills_of_builds_that_train(space: Space, built: Space) -> None:
    """Real actions on the tiny model. What was whole is not made again; the result is that of the undisturbed build."""
    wanted = {p.name: p.read_bytes() for p in built.product.glob("*.safetensors")}
    rng, whole = random.Random(0), set[str]()
    import shutil

    shutil.rmtree(space.root / "cache")
    shutil.rmtree(space.root / "dist")
    for number in range(12):
        process = space.spawn("--json")
        told = first_line(process)
        time.sleep(2 + rng.random() * 6)
        process.kill()
        out, err = process.communicate()
        assert process.returncode in (0, -signal.SIGKILL), err
        done = crash.done_of(told + out)
        assert not done & whole, f"kill {number}: made again: {done & whole}"
        whole |= done
    after = space.build()
    assert not after.ran & whole
    assert {p.name: p.read_bytes() for p in space.product.glob("*.safetensors")} == wanted
