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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.harness import INTERRUPTED, ROOT

pytestmark = pytest.mark.slow

TARGET = "task.listening"
KILLS = 5
STEPS = 22
SMALL = {"batch": 1, "replay_batch": 1}
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


@dataclass
class Run:
    """One `amybuild` of the training, and the file that it writes its events to."""

    process: subprocess.Popen[str]
    events: Path

    def seen(self) -> list[int]:
        """The steps it told of; -1: it began."""
        lines = self.events.read_text().split("\n")[:-1]  # the last one may not be whole
        rows: list[dict[str, Any]] = [json.loads(line) for line in lines]
        own = [row for row in rows if row["action"] == f"{TARGET}/train" and row["event"] in ("start", "progress")]
        return [row.get("done", -1) for row in own]

    def wait(self, looks: int) -> float:
        """Until it began and told of so many steps; the seconds that the last of them took."""
        times: list[float] = []
        while self.process.poll() is None and len(times) < 1 + looks:
            times += [time.monotonic()] * (len(self.seen()) - len(times))
            time.sleep(0.005)
        return times[-1] - times[-2] if looks > 1 and len(times) > looks else 1.0

    def end(self) -> int:
        """Its exit code, when it has ended."""
        _, told = self.process.communicate(timeout=900)
        assert "Traceback" not in told
        return self.process.returncode


def start(project: Path, settings: dict[str, int], *words: str) -> Run:
    sets = [f"--set={TARGET}.{name}={value}" for name, value in settings.items()]
    command = [sys.executable, "-c", COMMAND, "-C", str(project), "--json", *sets, *words, f"{TARGET}/train"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    events = project / "events.jsonl"
    with events.open("w") as out:
        return Run(subprocess.Popen(command, stdout=out, stderr=subprocess.PIPE, text=True, env=env), events)


@pytest.mark.parametrize("part", range(4))
def test_killed_at_random_moments_it_comes_to_the_bits_of_one_that_was_not(amy: Path, part: int) -> None:
    rng = random.Random(part)
    # each part is a training of its own; every other one has a drift watch, whose best step must outlive the kills too
    settings = SMALL | {"steps": STEPS + part} | ({"watch_every": 2} if part % 2 else {})
    resumed = 0
    for number in range(KILLS):
        run = start(amy, settings)
        time.sleep(rng.random() * run.wait(rng.choice((0, 2, 2, 2))))  # while it loads, or in its third step
        sort = rng.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGTERM))
        run.process.send_signal(sort)
        code = run.end()
        _, *steps = run.seen()
        print(f"part {part}, kill {number + 1}: {sort.name} after its steps {steps or 'none'}", flush=True)
        assert code in ((-signal.SIGKILL,) if sort == signal.SIGKILL else INTERRUPTED), "it was over already"
        resumed += steps[:1] > [1]
    run = start(amy, settings)
    assert run.end() == 0
    first = run.seen()[1]
    print(f"part {part}: {resumed} went on from a checkpoint, and the last one with step {first}", flush=True)
    assert first > 1, "no kill left a checkpoint"
    assert start(amy, settings, "--check").end() == 0, "from the beginning, undisturbed, it has other bits"
