"""`amybuild watch` as a process: edits, errors, edits during a build, Ctrl-C."""

from __future__ import annotations

import queue
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from amybuild import running
from amybuild.execute.job import Job
from amybuild.watch import Notices
from tests.e2e.test_memory_server import keep, use
from tests.harness import Space


class Watcher:
    """A running `amybuild watch`; `until` reads what it says."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.put(line)

    def until(self, text: str) -> list[str]:
        found: list[str] = []
        end = time.monotonic() + 90
        while not found or text not in found[-1]:
            try:
                found.append(self.lines.get(timeout=max(0.01, end - time.monotonic())))
            except queue.Empty:
                raise AssertionError(f"no {text!r} in {found}") from None
        return found


@pytest.fixture
def watch(space: Space) -> Iterator[Watcher]:
    process = space.spawn("watch", "task.listen/corpus")
    yield Watcher(process)
    process.kill()
    process.wait()


def test_every_edit_builds_again_and_an_error_is_waited_out(space: Space, watch: Watcher) -> None:
    watch.until("1 ran, 0 reused")
    node = space.read("memory/pattern-listen.md")
    space.write("memory/pattern-listen.md", node.replace("weighs on you", "is heavy"))
    told = watch.until("ran, 0 reused")
    assert "changed: memory/pattern-listen.md" in told[0]
    assert len([line for line in told if "changed:" in line]) == 1

    good = space.read("Personafile.toml")
    space.write("Personafile.toml", good.replace("alpha = 1.0", "alhpa = 1.0"))
    told = watch.until("did you mean 'alpha'?")
    assert "changed: Personafile.toml" in told[0]
    space.write("Personafile.toml", "[")
    watch.until("not valid TOML")
    space.write("Personafile.toml", good)
    watch.until("is up to date")

    space.edit("recipes/quick.toml", "heldout = 0.3", "heldout = 0.4")
    told = watch.until("ran, 0 reused")
    assert "changed: recipes/quick.toml" in told[0]
    watch.process.send_signal(signal.SIGINT)
    told = watch.until("interrupted")
    assert watch.process.wait(timeout=30) == 130
    assert not [line for line in told if "Traceback" in line]


def test_a_memory_server_is_asked_again(space: Space) -> None:
    keep(space)
    use(space, "good")
    process = space.spawn("watch", "--poll", "0.2", "task.listen/corpus")
    try:
        watch = Watcher(process)
        watch.until("1 ran, 0 reused")
        space.write("graph.json.mode", "failed")
        watch.until("the tool read_graph failed")
        space.write("graph.json", space.read("graph.json").replace("weighs on you", "is heavy"))
        space.write("graph.json.mode", "good")
        told = watch.until("1 ran, 0 reused")
        assert any("changed: what the memory server says" in line for line in told), told
    finally:
        process.kill()
        process.wait()
    assert space.run("watch", "--poll", "0").code == 2


def test_an_edit_during_a_build_starts_another_one(space: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    real = running.run_job

    def edit_first(job: Job, *rest: Any, **more: Any) -> None:
        if "heldout = 0.3" in space.read("recipes/quick.toml"):
            space.edit("recipes/quick.toml", "heldout = 0.3", "heldout = 0.4")
        real(job, *rest, **more)

    def ctrl_c(self: Notices) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(running, "run_job", edit_first)
    monkeypatch.setattr(Notices, "idle", ctrl_c)
    result = space.run("watch", "task.listen/corpus")
    assert result.code == 130
    first, second = result.err.split("changed: recipes/quick.toml")
    assert "1 ran, 0 reused" in first
    assert "1 ran, 0 reused" in second


def test_there_must_be_a_project(space: Space) -> None:
    (space.root / "Personafile.toml").unlink()
    result = space.run("watch")
    assert result.code == 2
    assert "no such file" in result.err
