"""Trainings of the shipped persona killed at random moments: `pytest -m slow tests/real/test_kills.py`. Minutes."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.harness import ROOT

pytestmark = pytest.mark.slow

ACTION = "task.listening/train"
KILLS = 5
STEPS = 22
SMALL = {"batch": 1, "replay_batch": 1, "steps": STEPS}
# checkpoints after every step: most kills are to find one, and some are to hit while one is being written
COMMAND = """\
import sys
from amybuild.model import checkpoint
checkpoint._EVERY = checkpoint._SHARE = 0.0
from amybuild.cli import run
run()
"""


@pytest.fixture(scope="module")
def amy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the shipped project with less neutral text, which lasts long enough for its trainings."""
    project = tmp_path_factory.mktemp("kills") / "amy"
    for name in ("memory", "recipes"):
        shutil.copytree(ROOT / name, project / name)
    text = (ROOT / "Personafile.toml").read_text()
    (project / "Personafile.toml").write_text(f"{text}\n[neutral]\nprompts = 16\nmax_new_tokens = 12\n")
    return project


def start(project: Path, settings: dict[str, int], *words: str) -> subprocess.Popen[str]:
    sets = [f"--set=task.listening.{name}={value}" for name, value in settings.items()]
    command = [sys.executable, "-c", COMMAND, "-C", str(project), "--json", *sets, *words, ACTION]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)


def follow(process: subprocess.Popen[str], looks: int) -> tuple[list[int], float]:
    """The steps it tells of, until there are so many or it ends, and the seconds that the last one took."""
    assert process.stdout is not None
    seen: list[int] = []
    times = [time.monotonic()]
    for line in process.stdout:
        event: dict[str, Any] = json.loads(line)
        if event["action"] == ACTION and event["event"] in ("start", "progress"):
            seen += [event["done"]] if event["event"] == "progress" else []
            times.append(time.monotonic())
            if len(seen) >= looks:
                break
    return seen, times[-1] - times[-2] if len(seen) > 1 else 1.0


@pytest.mark.parametrize("part", range(4))
def test_killed_at_random_moments_it_comes_to_the_bits_of_one_that_was_not(amy: Path, part: int) -> None:
    rng = random.Random(part)
    # each part is a training of its own; every other one has a drift watch, whose best step must outlive the kills too
    settings = SMALL | {"steps": STEPS + part} | ({"watch_every": 2} if part % 2 else {})
    resumed = 0
    for number in range(KILLS):
        process = start(amy, settings)
        looks = rng.choice((0, 2, 2))  # while it loads, or in the third step that this run makes
        seen, pace = follow(process, looks)
        time.sleep(rng.random() * pace)
        sort = rng.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGTERM))
        process.send_signal(sort)
        rest, told = process.communicate(timeout=600)
        events = [json.loads(line) for line in rest.splitlines()]
        later = [event["done"] for event in events if event["event"] == "progress" and event["action"] == ACTION]
        print(f"part {part}, kill {number + 1}: {sort.name} after steps {[*seen, *later] or 'none'}", flush=True)
        assert "Traceback" not in told
        assert process.returncode == (-signal.SIGKILL if sort == signal.SIGKILL else 130), "it was over already"
        assert len(seen) == looks
        resumed += [*seen, *later, 1][0] > 1
    assert resumed, "no kill left a checkpoint"
    process = start(amy, settings)
    seen, _ = follow(process, STEPS * 2)
    _, told = process.communicate(timeout=600)
    assert process.returncode == 0, told
    print(f"part {part}: {resumed} went on from a checkpoint, and the last one with step {seen[0]}", flush=True)
    process = start(amy, settings, "--check")  # from the beginning, undisturbed, and compared
    _, told = process.communicate(timeout=600)
    assert process.returncode == 0, told
