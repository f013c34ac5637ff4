"""A build that is told to end during a training, and the next one that goes on from there."""

from __future__ import annotations

import json
import signal
from pathlib import Path

from tests.harness import Space


def test_a_training_told_to_end_goes_on_where_it_was(space: Space) -> None:
    space.edit("recipes/quick.toml", "steps = 3", "steps = 40")
    process = space.spawn("--json", "task.listen")
    assert process.stdout is not None
    for line in process.stdout:
        event = json.loads(line)
        if event["event"] == "progress" and event["action"] == "task.listen/train" and event["done"] >= 3:
            process.send_signal(signal.SIGTERM)
            break
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in told
    unfinished = Path(next((space.root / "cache").rglob("checkpoints")))
    (checkpoint,) = unfinished.glob("*/step-*.safetensors")
    steps = int(checkpoint.name[5:13])
    assert steps >= 3
    result = space.build("task.listen")
    done = [e["done"] for e in result.events if e["event"] == "progress" and e["action"] == "task.listen/train"]
    assert done[0] == steps + 1
    assert not list(unfinished.iterdir()), "it is finished"
    space.build("--check", "task.listen")  # from the beginning, and to the same bits
