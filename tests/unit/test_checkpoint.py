"""Unfinished trainings: whatever stops one and whenever, gone on with it has the bits of one that nothing stopped."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from amybuild.actions import train
from amybuild.actions.context import ActionContext
from amybuild.errors import Interrupted
from amybuild.model import checkpoint
from amybuild.model.checkpoint import Checkpoints
from amybuild.model.train import Settings
from tests.tiny import make_tiny_base, write_jsonl
from tests.unit.test_actions_train import OPENINGS, files
from tests.unit.test_model_train import run_training

SETTINGS = Settings(steps=6, batch=3, replay_batch=2, lr=5e-3, weight_decay=0.01)


class Clock:
    """Seconds that pass when told to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def stop_at(step: int) -> Any:
    def progress(done: int, _total: int, **_: float | str) -> None:
        if done == step:
            raise Interrupted("interrupted")

    return progress


def test_a_training_stopped_at_each_step_comes_to_the_same_bits(tmp_path: Path) -> None:
    path = make_tiny_base(tmp_path / "base")
    curve, straight = run_training(path, SETTINGS)
    keep = Checkpoints(tmp_path / "unfinished")
    for step in range(1, 7):
        with pytest.raises(Interrupted):
            run_training(path, SETTINGS, keep=keep, progress=stop_at(step))
        found = keep.newest()
        assert found is not None
        assert found.step == step
    again, resumed = run_training(path, SETTINGS, keep=keep)
    assert again == curve
    for name, pair in straight.items():
        assert all(torch.equal(one, other) for one, other in zip(pair, resumed[name], strict=True))


def test_what_is_damaged_is_passed_over_for_the_one_before(tmp_path: Path) -> None:
    keep = Checkpoints(tmp_path / "key")
    for step in (1, 2, 3):
        keep.save(step, {"x": torch.full((3,), float(step))}, {"curve": [0.1] * step})
    assert len(list(keep.folder.iterdir())) == 2
    newest = keep.newest()
    assert newest is not None
    assert newest.told == {"curve": [0.1] * 3}
    (file,) = keep.folder.glob("step-00000003*")
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    before = keep.newest()
    assert before is not None
    assert before.step == 2
    assert torch.equal(before.tensors["x"], torch.full((3,), 2.0))
    for file in keep.folder.iterdir():
        file.write_bytes(b"")
    (keep.folder / "other").write_text("not ours")
    assert keep.newest() is None


def test_saving_takes_a_small_share_of_the_time(tmp_path: Path) -> None:
    clock = Clock()
    keep = Checkpoints(tmp_path / "key", clock)
    assert not keep.due()
    clock.now = 16.0
    assert keep.due()
    keep.save(1, {"x": torch.zeros(1)}, {})
    assert not keep.due()

    class Slow(Clock):
        def __call__(self) -> float:
            self.now += 10.0  # each look finds ten seconds gone: saving took that
            return self.now

    slow = Slow()
    keep = Checkpoints(tmp_path / "slow", slow)
    keep.save(1, {"x": torch.zeros(1)}, {})
    slow.now += 350
    assert not keep.due()
    slow.now += 100
    assert keep.due()


def test_kills_at_random_moments_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "_EVERY", 0.0)
    monkeypatch.setattr(checkpoint, "_SHARE", 0.0)
    rows = [
        {"id": f"{i}", "messages": [{"role": "user", "content": f"Why {text}?"}], "continuation": f"{text} it is."}
        for i, text in enumerate(OPENINGS)
    ]
    write_jsonl(tmp_path / "corpus/train.jsonl", rows)
    write_jsonl(tmp_path / "neutral/train.jsonl", rows[:3])
    inputs = {"base": make_tiny_base(tmp_path / "base")} | {name: tmp_path / name for name in ("corpus", "neutral")}
    recipe = {"rank": 2, "steps": 40, "batch": 4, "replay_batch": 2, "lr": 5e-3, "threads": 1}

    def training(name: str) -> None:
        out = tmp_path / name
        out.mkdir(exist_ok=True)
        keep = tmp_path / "unfinished" / name
        train.run(ActionContext("task.x/train", "k", recipe, inputs, out, checkpoint=keep))

    training("straight")
    rng, steps, unfinished = random.Random(5), 0, tmp_path / "unfinished/killed"
    for _ in range(6):  # what is killed is a fork: torch is loaded already, and has one thread
        child = os.fork()
        if not child:
            training("killed")
            os._exit(0)
        while len(list(unfinished.glob("step-*"))) < 2:
            time.sleep(0.002)
        time.sleep(rng.random() * 0.2)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        found = Checkpoints(unfinished).newest()
        assert found is not None, "a kill left no whole checkpoint"
        assert found.step >= steps
        steps = found.step
    training("killed")
    assert files(tmp_path / "killed") == files(tmp_path / "straight")
