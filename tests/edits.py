"""A small project that is built again after edits of its memory, and what each way to build it leaves."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from amybuild import kept, noop
from amybuild.project import Project
from tests.engine.fakes import cheap, project
from tests.engine.machine import no_fsync
from tests.harness import Result, Space

LISTEN = "memory/pattern-listen.md"
TWIN = '\n[task.twin]\nnode = "pattern-listen"\nrecipe = "quick"\n'


@contextlib.contextmanager
def built(root: Path) -> Iterator[Space]:
    """A project with one more reader of a node (a twin), built and known to be up to date; actions are cheap."""
    made = project(root)
    made.write("Personafile.toml", made.read("Personafile.toml") + TWIN)
    with cheap(), no_fsync():
        made.build()
        settle(made)
        yield made


def looks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A number for each time that the whole program looked."""
    times: list[int] = []
    real = Project.__init__

    def counted(self: Project, options: object) -> None:
        times.append(len(times))
        real(self, options)  # type: ignore[arg-type]

    monkeypatch.setattr(Project, "__init__", counted)
    return times


def tick() -> None:
    """What was written a moment ago proves nothing."""
    time.sleep(1.5 * kept.TICK / 1e9)


def settle(space: Space, *args: str) -> None:
    """Until an answer is kept, with what is kept beside it."""
    tick()
    assert space.run(*args).code == 0
    found = noop.look(["-C", str(space.root), *args])
    assert found is not None
    assert not found.changed
    assert found.behind


def state(space: Space) -> tuple[dict[str, str], list[str]]:
    """The current keys, and the builds of the log."""
    (file,) = (space.root / "cache/v1/state").glob("*.json")
    data = json.loads(file.read_bytes())
    return data["actions"], [row[1] for row in data["log"]]


def record(space: Space) -> Path:
    """Of the current build."""
    (path,) = (space.root / "cache/v1/builds").glob(f"*/{state(space)[1][-1]}.json")
    return path


def left(space: Space) -> dict[str, object]:
    """What a build leaves: the product, its record, and the project's state."""
    files = [path for path in space.product.rglob("*") if path.is_file()]
    found = {os.fspath(path.relative_to(space.root)): path.read_bytes() for path in (*files, record(space))}
    return {**found, "state": state(space)}


def looked(space: Space, *args: str) -> Result:
    """What the whole program says."""
    os.environ["AMYBUILD_NO_STAMP"] = "1"
    try:
        return space.run(*args)
    finally:
        del os.environ["AMYBUILD_NO_STAMP"]


def anew(space: Space, *args: str) -> dict[str, object]:
    """What the whole program leaves that has to write the account of the current build anew."""
    record(space).unlink()
    shutil.rmtree(space.product)
    assert looked(space, *args).code == 0
    return left(space)


def prose(space: Space, number: int) -> None:
    text = re.sub(r"I ask before I mend\.[^\n]*", f"I ask before I mend. {number}", space.read(LISTEN))
    space.write(LISTEN, text)
