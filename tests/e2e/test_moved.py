"""A project that is moved as a whole, its cache in it, goes on where it was: its log, its names, what is stale."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from tests.harness import Space, states


def _log(space: Space) -> list[str]:
    return [row["build"] for row in json.loads(space.run("log", "--json").out)]


def _move(space: Space, place: Path) -> Space:
    space.root.rename(place)
    space.root = place
    return space


def test_a_moved_project_keeps_its_history(built: Space, tmp_path: Path) -> None:
    first = built.build().summary["build"]
    states_before = sorted(built.root.glob("cache/v1/state/*.json"))
    built.run("pin", "--name", "first")
    built.edit("Personafile.toml", "density = 0.5", "density = 0.4")
    second = built.build().summary["build"]
    for place in ("moved", "moved again"):
        moved = _move(built, tmp_path / place)
        assert _log(moved)[-2:] == [second, first]
        moved.edit("Personafile.toml", "alpha = 1.0", "alpha = 1.5")
        told = moved.run("--explain").out
        assert "task.listen alpha 1.0 -> 1.5" in told
        moved.edit("Personafile.toml", "alpha = 1.5", "alpha = 1.0")
        assert set(states(moved.explain()).values()) == {"up-to-date"}
        assert moved.run("checkout", "first").code == 0
        assert moved.run("gc", "--keep", "0").code == 0
        assert moved.build().ran == set()
        assert moved.run("rollback").code == 0
        assert json.loads((moved.product / "persona.json").read_text())["build"] == first
        assert moved.build().summary["build"] == second
        assert moved.run("fsck").code == 0
    moved.edit("memory/pattern-listen.md", "about the boat that", "about your boat that")  # the short way of an edit
    third = moved.build().summary["build"]
    assert _log(moved)[0] == third
    found = sorted(moved.root.glob("cache/v1/state/*.json"))
    assert [path.name for path in found] == [path.name for path in states_before]


def test_a_lock_keeps_its_build_though_the_project_was_last_built_under_another_path(built: Space) -> None:
    """As in a container. The lock came by git, so no `pin` here wrote down where it lies."""
    built.edit("Personafile.toml", "density = 0.5", "density = 0.3")
    first = built.build().summary["build"]
    built.run("pin")
    built.edit("Personafile.toml", "density = 0.3", "density = 0.4")
    built.build()
    for path in built.root.glob("cache/v1/state/*.json"):
        state = json.loads(path.read_text())
        path.write_text(json.dumps({**state, "project": "/work/project", "pins": {}}))
    shutil.rmtree(built.root / "dist")
    assert built.run("gc", "--keep", "1").code == 0
    result = built.run("checkout", "--lock")
    assert result.code == 0, result.err
    assert json.loads((built.product / "persona.json").read_text())["build"] == first


def test_a_copy_begins_a_history_of_its_own(built: Space, tmp_path: Path) -> None:
    first = built.build().summary["build"]
    shutil.copytree(built.root, tmp_path / "copy", symlinks=True)
    copy = Space.__new__(Space)
    copy.root = tmp_path / "copy"
    assert _log(copy) == []
    copy.edit("Personafile.toml", "density = 0.5", "density = 0.4")
    second = copy.build().summary["build"]
    shutil.rmtree(built.root)
    assert _log(copy) == [second] != [first]
