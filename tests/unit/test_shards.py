"""A training on a base in parts: the vector of a whole one, whatever is stopped or killed meanwhile."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from amybuild.actions import ranks, train
from amybuild.actions.context import ActionContext, silent
from amybuild.errors import ActionError, InputError, Interrupted
from amybuild.model.vector import read_vector
from tests.harness import ROOT
from tests.tiny import make_tiny_base, write_jsonl
from tests.unit.test_actions_train import OPENINGS, files, load

RECIPE = {
    **{"rank": 2, "steps": 5, "batch": 4, "replay_batch": 2, "lr": 5e-3, "threads": 1, "tokens_per_pass": 64},
    **{"margin_weight": 1.0, "distill_weight": 0.5, "activation_checkpointing": True},
    **{"watch_every": 2, "max_drift": 9.0},
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("world")
    rows = [
        {
            **{"id": f"{i:04x}", "messages": [{"role": "user", "content": f"What about {text}?"}]},
            **{"continuation": f"What makes {text} heavy?", "rejected": f"Here is a plan for {text}."},
        }
        for i, text in enumerate(OPENINGS)
    ]
    write_jsonl(root / "corpus/train.jsonl", rows)
    write_jsonl(root / "neutral/train.jsonl", [{**row, "continuation": "Seven minutes."} for row in rows[:5]])
    return {"base": make_tiny_base(root / "base"), "corpus": root / "corpus", "neutral": root / "neutral"}


def go(inputs: dict[str, Path], out: Path, progress: Any = silent, **changed: Any) -> Path:
    out.mkdir()
    checkpoint = out.parent / "checkpoints"
    train.run(ActionContext("task.x/train", "k", {**RECIPE, **changed}, inputs, out, progress, checkpoint=checkpoint))
    return out


@pytest.fixture(scope="module")
def sharded(inputs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return go(inputs, tmp_path_factory.mktemp("sharded") / "out", shards=2)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[subprocess.Popen[bytes]]]:
    """The processes that are started meanwhile."""
    found: list[subprocess.Popen[bytes]] = []

    class Noted(subprocess.Popen[bytes]):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            found.append(self)

    monkeypatch.setattr(ranks.subprocess, "Popen", Noted)
    yield found
    assert all(one.returncode is not None for one in found), "an orphan"


def test_the_vector_is_that_of_a_whole_base(inputs: dict[str, Path], sharded: Path, tmp_path: Path) -> None:
    whole = go(inputs, tmp_path / "out")
    assert set(files(whole)) == set(files(sharded))
    assert load(whole / "train.json")["parameters"] == load(sharded / "train.json")["parameters"]
    for one, other in zip(lines(whole), lines(sharded), strict=True):
        assert one == pytest.approx(other, rel=1e-5)
    for name, delta in deltas(whole).items():
        assert (delta - deltas(sharded)[name]).norm() <= 1e-5 * delta.norm(), name


def lines(folder: Path) -> list[dict[str, float]]:
    import json

    return [json.loads(line) for line in (folder / "curve.jsonl").read_text().splitlines()]


def deltas(folder: Path) -> dict[str, Any]:
    found = read_vector(folder)
    return {name: found.factors[name].delta() for name in found.factors}


@pytest.mark.slow
def test_stopped_and_gone_on_with_it_has_the_same_bits(
    inputs: dict[str, Path], sharded: Path, tmp_path: Path, started: list[Any]
) -> None:
    with pytest.raises(Interrupted):
        go(inputs, tmp_path / "stopped", stop_at(3), shards=2)
    steps: list[int] = []
    again = go(inputs, tmp_path / "again", lambda done, *_, **__: steps.append(done), shards=2)
    assert steps == [4, 5]
    assert files(again) == files(sharded)


def stop_at(step: int) -> Callable[..., None]:
    def progress(done: int, total: int, **_: Any) -> None:
        if done == step:
            raise Interrupted("interrupted")

    return progress


def test_a_process_that_is_killed_is_named(inputs: dict[str, Path], tmp_path: Path, started: list[Any]) -> None:
    def kill(done: int, total: int, **_: Any) -> None:
        if done == 2:
            started[1].kill()

    with pytest.raises(ActionError, match="process 1 of 2 of this training was ended by SIGKILL") as caught:
        go(inputs, tmp_path / "out", kill, shards=2)
    assert caught.value.where == "task.x/train"


@pytest.mark.slow
def test_what_is_wrong_with_the_work_is_said_as_alone(inputs: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ActionError, match=r"the loss is .* at step 1 of 5") as alone:
        go(inputs, tmp_path / "alone", explode=0.1)
    with pytest.raises(ActionError) as apart:
        go(inputs, tmp_path / "apart", explode=0.1, shards=2)
    assert str(apart.value) == str(alone.value)


@pytest.mark.parametrize("changed", [{"tune": "full"}, {"top_layers": 1}])
def test_what_cannot_be_done_in_parts_is_refused(inputs: dict[str, Path], tmp_path: Path, changed: Any) -> None:
    with pytest.raises(InputError, match="only factors on all blocks"):
        go(inputs, tmp_path / "out", shards=2, **changed)


SCRIPT = """
import os, sys
from pathlib import Path
from amybuild.actions import ranks, train
from amybuild.actions.context import ActionContext
from tests.unit.test_shards import RECIPE

def progress(done, total, **_):
    if done == 1:
        print(*children(), flush=True)
        sys.stdin.read()

def children():
    for task in os.listdir("/proc/self/task"):
        yield from Path(f"/proc/self/task/{task}/children").read_text().split()

inputs = {"base": Path(sys.argv[1]), "corpus": Path(sys.argv[2]), "neutral": Path(sys.argv[3])}
train.run(ActionContext("task.x/train", "k", {**RECIPE, "shards": 2}, inputs, Path(sys.argv[4]), progress))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks at processes as Linux shows them")
def test_the_end_of_the_build_is_the_end_of_all(inputs: dict[str, Path], tmp_path: Path) -> None:
    command = [sys.executable, "-c", SCRIPT, *map(str, inputs.values()), str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdin=-1, stdout=-1, text=True, env=environment) as process:
        assert process.stdout
        pids = [int(word) for word in process.stdout.readline().split()]
        assert len(pids) == 2
        process.kill()
    for _ in range(600):
        if not any(running(pid) for pid in pids):
            break
        time.sleep(0.1)
    else:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        pytest.fail("orphans")


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
