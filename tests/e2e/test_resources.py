"""Resources from the recipe to the scheduler: what cannot run here says so before it starts."""

from __future__ import annotations

import pytest

from amybuild.execute import resources
from tests.harness import Space


def test_what_a_recipe_asks_for_decides_whether_it_starts_and_nothing_else(
    built: Space, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resources, "visible_gpus", lambda: 0)
    recipe = built.read("recipes/quick.toml")
    built.write("recipes/quick.toml", "resources = { gpu = 1 }\n" + recipe)
    assert built.build().ran == set(), "resources are no part of any key"
    built.edit("recipes/quick.toml", "steps = 3", "steps = 4")
    result = built.run("--json", "-k")
    assert result.code == 1
    failed = {e["action"]: e for e in result.events if e["event"] == "failed"}
    assert set(failed) == {"task.listen/train", "task.close/train"}
    assert "needs 1 GPU, and none can be seen here" in failed["task.listen/train"]["error"]
    assert not [e for e in result.events if e["event"] == "start"]
    built.edit("Personafile.toml", "alpha = 1.0", "alpha = 1.0\nresources = { gpu = 0 }")
    assert "task.listen/train" in built.run("--json", "-k").ran


def test_memory_can_be_given(built: Space) -> None:
    built.edit("Personafile.toml", "alpha = 1.0", 'alpha = 1.0\nsteps = 2\nresources = { memory = "4G" }')
    refused = built.run("--memory", "2G", "task.listen")
    assert refused.code == 1
    assert "needs 4.0 GiB of memory, and 2.0 GiB are free here" in refused.err
    assert "--memory SIZE" in refused.err
    assert "task.listen/train" in built.build("--memory", "5GiB", "task.listen").ran


def test_a_size_that_is_none_is_bad_input(built: Space) -> None:
    result = built.run("--memory", "lots")
    assert result.code == 2
    assert "for example --memory 16G" in result.err
