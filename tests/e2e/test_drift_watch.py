"""A watched training as a user sees it: the build's lines, `show` and the product say which step it gave, and why."""

from __future__ import annotations

import json

from tests.harness import Space

# the rate rises to the end, and so does the drift: by so much that the seed, which another bound changes, is no matter
WATCHED = "steps = 12\nlr = 2e-2\nwarmup = 0.9\nwatch_every = 1\nmax_drift = 100.0\n"


def test_a_training_that_drifts_is_stopped_and_says_so(space: Space) -> None:
    space.edit("recipes/quick.toml", "steps = 3\n", WATCHED)
    free = space.build("task.listen/train")
    drifts = [e["drift"] for e in free.events if e["event"] == "progress" and e["action"] == "task.listen/train"]
    assert len(drifts) == 12
    bound = (drifts[0] * drifts[-1]) ** 0.5
    assert drifts[0] * 3 < bound
    space.edit("Personafile.toml", "alpha = 1.0\n", f"alpha = 1.0\nmax_drift = {bound!r}\n")
    lines = space.run("-j", "1").err
    (line,) = [line for line in lines.splitlines() if "task.listen/train  done" in line]
    assert "  stopped at step " in line
    info = json.loads((space.product / "persona.json").read_text())
    listen, close = ({one["name"]: one["watch"] for one in info["targets"]}[name] for name in ("listen", "close"))
    assert line.endswith(listen["told"])
    assert listen["stopped"]
    assert listen["drift"] <= bound < listen["last"]
    assert listen["step"] < listen["done"] <= 12
    assert not close["stopped"]
    shown = space.run("show").out
    assert f"  listen: {listen['told']}" in shown
    assert f"  close: kept step {close['step']} of 12" in shown
    assert space.build().ran == set()
    again = space.run("--check", "task.listen/train")
    assert again.code == 0, again.err


def test_a_bound_that_no_step_keeps_fails_the_training(space: Space) -> None:
    space.edit("recipes/quick.toml", "steps = 3\n", WATCHED.replace("100.0", "1e-12"))
    result = space.build("task.listen/train", code=1)
    (failed,) = [event for event in result.events if event["event"] == "failed"]
    assert "max_drift = 1e-12" in failed["error"]
    assert "raise max_drift" in failed["remedy"]
