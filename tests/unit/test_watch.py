"""What watching rests on: seeing every edit, and waiting until there are no more of them."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from amybuild.watch import Look, Notices, changed, look, settle, sources
from tests.unit.test_personafile import write_project

A: Look = {"a": (1, 1, 1, 1)}
B: Look = {"a": (1, 2, 2, 1)}
C: Look = {"a": (1, 3, 3, 1), "b": (0, 0, 0, 0)}


class Script:
    """What is seen at each look; it says which waits lay between."""

    def __init__(self, *seen: Look) -> None:
        self.seen = list(seen)
        self.waits: list[str] = []

    def see(self) -> Look:
        return self.seen.pop(0) if len(self.seen) > 1 else self.seen[0]

    def settle(self) -> Look:
        return settle(self.see, A, lambda: self.waits.append("idle"), lambda s: self.waits.append(f"{s}"), quiet=0.3)


def test_a_burst_of_edits_is_one_change() -> None:
    script = Script(A, A, B, C, B, B)
    assert script.settle() == B
    assert script.waits == ["idle", "idle", "0.3", "0.3", "0.3"]


def test_an_edit_during_the_build_is_seen_at_once() -> None:
    script = Script(B)
    assert script.settle() == B
    assert script.waits == ["0.3"]


def test_what_changed_is_named() -> None:
    assert changed(A, B) == ["a"]
    assert changed(A, C) == changed(C, A) == ["a", "b"]
    assert changed(C, C) == []


def test_every_kind_of_edit_is_seen(tmp_path: Path) -> None:
    file = tmp_path / "memory" / "a.md"
    file.parent.mkdir()
    file.write_text("one")
    seen = look([tmp_path])
    time.sleep(0.02)

    def differs() -> list[str]:
        nonlocal seen
        before, seen = seen, look([tmp_path])
        time.sleep(0.02)  # file systems keep times in steps of about 4 ms
        return sorted(Path(name).name for name in changed(before, seen))

    stamp = file.stat().st_mtime_ns
    file.write_text("two")
    os.utime(file, ns=(stamp, stamp))
    assert differs() == ["a.md"], "same size, same time"
    other = tmp_path / "a.tmp"
    other.write_text("two")
    assert differs() == ["a.tmp"]
    other.replace(file)
    assert differs() == ["a.md", "a.tmp"]
    (tmp_path / "memory" / "b").mkdir()
    assert differs() == []
    (tmp_path / "memory" / "b" / "c.md").write_text("")
    assert differs() == ["c.md"]
    for name in (".a.md.swp", "a.md~"):
        (tmp_path / "memory" / name).write_text("an editor's own")
    assert differs() == []
    file.unlink()
    assert differs() == ["a.md"]


def test_a_link_is_followed_once_and_only_inside_of_what_is_watched(tmp_path: Path) -> None:
    project, outside = tmp_path / "project", tmp_path / "outside"
    for folder in (project / "memory/deep", project / "shared", outside):
        folder.mkdir(parents=True)
        (folder / "a.md").write_text("one")
    memory = project / "memory"
    for name, target in {
        "out": outside,
        "root": "/",
        "up": project,
        "deep/back": memory,
        "lost": "nowhere",
        "in": "../shared",
        "again": "../shared",
    }.items():
        (memory / name).symlink_to(target)
    for i in range(30):  # two ways from each to the next are a billion in all
        (project / f"shared/{i}").mkdir()
        for way in ("left", "right"):
            (project / f"shared/{i}/{way}").symlink_to(f"../{i + 1}")
    (project / "Personafile.toml").write_text("")
    places = [project / "Personafile.toml", memory]
    seen = look(places)
    files = [os.path.relpath(name, project) for name in seen if name.endswith(".md")]
    assert sorted(files) == ["memory/deep/a.md", "shared/a.md"]
    time.sleep(0.02)
    (project / "shared/a.md").write_text("two")
    assert changed(seen, look(places)) == [str(project / "shared/a.md")]
    for name in ("in", "again"):
        (memory / name).unlink()
        (memory / name).symlink_to("deep")
    assert str(memory / "in") in changed(seen, look(places)), "the link itself is another"


def test_the_sources_of_a_project(tmp_path: Path) -> None:
    file = write_project(tmp_path)
    root = tmp_path.resolve()
    places = (root / "Personafile.toml", root / "recipes", root / "memory")
    assert sources(file) == places
    text = file.read_text()
    file.write_text(text.replace('source = "memory"', 'source = "notes/all.jsonl"'))
    moved = sources(file)
    assert moved == (*places[:2], root / "notes/all.jsonl")
    for broken in ("[", 'graph = "memory"', "[graph]\nsource = 3"):
        file.write_text(broken)
        assert sources(file, moved)[:2] == places[:2]
    file.write_text("[")
    assert sources(file, moved) == moved, "what cannot be read may be mended"
    file.write_text(text.replace('source = "memory"', 'source = "stdio:server"'))
    assert sources(file) == places[:2]
    file.write_text(text + '[task.ann]\nchat = "exports/a.txt"\n[steer.calm]\nstories = "s"\npairs = 1\n')
    assert sources(file) == (*places, root / "exports/a.txt", root / "s")


def test_notices_wake_up_for_an_edit(tmp_path: Path) -> None:
    pytest.importorskip("watchfiles")
    (tmp_path / "memory").mkdir()
    file = tmp_path / "Personafile.toml"
    file.write_text("")
    notices = Notices()
    try:
        notices.follow((file, tmp_path / "memory"))
        stop = threading.Event()

        def edit() -> None:  # again and again: the listener takes a moment to begin
            while not stop.wait(0.1):
                file.write_text(str(time.monotonic()))

        writer = threading.Thread(target=edit)
        writer.start()
        began = time.monotonic()
        notices.idle()
        stop.set()
        writer.join()
        assert time.monotonic() - began < 4
    finally:
        notices.close()


def test_without_watchfiles_an_idle_moment_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "watchfiles", None)
    notices = Notices()
    notices.follow((Path("/"),))
    began = time.monotonic()
    notices.idle()
    assert time.monotonic() - began < 4
