"""A second reading of a memory graph gives what a first one would, and reads only what changed."""

from __future__ import annotations

import json
import marshal
import os
import random
import time
from pathlib import Path
from typing import Any

import pytest

from amybuild.errors import InputError
from amybuild.memory.graph import MemoryGraph, read_graph
from amybuild.memory.reading import Reading

TEXTS = (
    "# One\n\nText.\n",
    '+++\ntype = "episodic"\nweight = 0.5\nlinks = [{ target = "n1", strength = 0.3 }]\n+++\nA.\n',
    '+++\nlinks = ["n2", "nowhere"]\nversion = 3\ncreated = 2025-01-08\nprovenance = "me"\n+++\n## part\n\nB.\n',
    '+++\nexamples = "e.jsonl"\n+++\nWith a file.\n',
    "# Ünï\r\n\r\nwarmth:9\n",
)


def rows_after(reading: Reading) -> Any:
    """What is kept, as it comes back from the disk; by a clock that is past the last edit."""
    rows = reading.rows(time.time_ns() + 10**9)
    return None if rows is None else marshal.loads(marshal.dumps(rows))


def same(one: MemoryGraph, other: MemoryGraph) -> None:
    assert list(one.nodes) == list(other.nodes)
    for a, b in zip(one.nodes.values(), other.nodes.values(), strict=True):
        assert a == b
        assert (a.source, a.line, a.digest, a.canonical()) == (b.source, b.line, b.digest, b.canonical())
    assert one.warnings == other.warnings
    assert one.digest == other.digest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "memory/deep").mkdir(parents=True)
    for i, text in enumerate(TEXTS * 2):
        (tmp_path / "memory" / ("deep" if i > 4 else "") / f"n{i}.md").write_text(text)
    for where in ("memory", "memory/deep"):
        (tmp_path / where / "e.jsonl").write_text('{"id": "1"}\n')
    return tmp_path


def test_nothing_is_parsed_twice(folder: Path) -> None:
    first = Reading()
    graph = read_graph("memory", folder, first)
    assert first.parsed == 10
    second = Reading(rows_after(first))
    same(read_graph("memory", folder, second), graph)
    assert second.parsed == 0
    assert second.rows(time.time_ns() + 10**9) is None  # nothing new to keep
    assert second.stamps == first.stamps


def test_a_young_file_is_read_again(folder: Path) -> None:
    first = Reading()
    began = time.time_ns()
    read_graph("memory", folder, first)
    assert first.rows(began) is None  # all was written just now: it may be written again within one step of the clock


@pytest.mark.parametrize("name", ["n0.md", "e.jsonl", "deep/n8.md", "deep/e.jsonl"])
def test_an_edit_that_keeps_size_and_mtime_is_read(folder: Path, name: str) -> None:
    first = Reading()
    read_graph("memory", folder, first)
    path = folder / "memory" / name
    before = path.stat()
    time.sleep(0.02)  # past a step of the file system's clock
    path.write_text(path.read_text().swapcase() if name.endswith("jsonl") else path.read_text().replace("e", "o"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    second = Reading(rows_after(first))
    try:
        found = read_graph("memory", folder, second)
    except InputError:
        with pytest.raises(InputError):
            read_graph("memory", folder)
        return
    same(found, read_graph("memory", folder))
    assert second.parsed == 1


def test_random_edits(folder: Path) -> None:
    chance = random.Random(3)
    known: Any = None
    saved = 0
    for _ in range(60):
        path = folder / "memory" / chance.choice(["", "deep"]) / f"n{chance.randrange(12)}.md"
        match chance.randrange(4):
            case 0:
                path.unlink(missing_ok=True)
            case 1:
                other = path.with_name(f"n{chance.randrange(12)}.md")
                if path.exists():
                    path.rename(other)
            case _:
                path.write_text(chance.choice(TEXTS))
        time.sleep(0.012)
        reading = Reading(known)
        graph = read_graph("memory", folder, reading)
        same(graph, read_graph("memory", folder))
        saved += len(graph.nodes) - reading.parsed
        known = rows_after(reading) or known
    assert saved > 200


def test_what_a_link_leads_to_is_looked_at_though_its_folder_is_as_it_was(folder: Path) -> None:
    for name in ("other", "away"):
        (folder / name).mkdir()
        (folder / name / "x.md").write_text(name)
    (folder / "turn").symlink_to("other")
    (folder / "memory/deep/linked").symlink_to("../../turn")
    (folder / "memory/deep/one.md").symlink_to("../../turn/x.md")
    first = Reading()
    assert read_graph("memory", folder, first).nodes["deep/one"].content == "other"
    known = rows_after(first)
    (folder / "turn").unlink()
    (folder / "turn").symlink_to("away")
    graph = read_graph("memory", folder, Reading(known))
    same(graph, read_graph("memory", folder))
    assert graph.nodes["deep/linked/x"].content == graph.nodes["deep/one"].content == "away"
    (folder / "turn").unlink()
    outside = folder.with_name("outside")
    (folder / "away").rename(outside)
    (folder / "turn").symlink_to(outside)
    with pytest.raises(InputError, match="leads out of the project"):
        read_graph("memory", folder, Reading(known))


def test_another_project_folder_knows_nothing_of_this_one(folder: Path) -> None:
    first = Reading()
    read_graph("memory", folder, first)
    folder.rename(folder.with_name("moved"))
    second = Reading(rows_after(first))
    same(read_graph("memory", folder.with_name("moved"), second), read_graph("memory", folder.with_name("moved")))
    assert second.parsed == 10


def test_one_changed_line_is_parsed_and_the_others_are_known_wherever_they_stand(tmp_path: Path) -> None:
    path = tmp_path / "nodes.jsonl"
    lines = [json.dumps({"key": f"n{i}", "content": f"text {i}", "links": [{"target": "n0"}]}) for i in range(20)]
    path.write_text("\n".join(lines))
    first = Reading()
    before = read_graph("nodes.jsonl", tmp_path, first)
    assert first.parsed == 20
    known = rows_after(first)
    time.sleep(0.02)
    again = Reading(known)
    same(read_graph("nodes.jsonl", tmp_path, again), before)
    assert again.parsed == 0
    assert again.rows(time.time_ns() + 10**9) is None
    edited = [lines[7].replace("text 7", "another"), "", *reversed(lines[8:]), *lines[:7]]
    path.write_text("\n".join(edited) + "\n")
    third = Reading(known)
    graph = read_graph("nodes.jsonl", tmp_path, third)
    same(graph, read_graph("nodes.jsonl", tmp_path))
    assert third.parsed == 2  # and the line that was the last, for now it ends
    assert graph.nodes["n7"].content == "another"
    assert graph.nodes["n9"].source == "nodes.jsonl:13"


@pytest.mark.parametrize("source", ["memory", "nodes.jsonl"])
def test_a_text_that_changes_under_a_graph_is_never_taken_for_the_one_that_was_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    monkeypatch.setattr("amybuild.memory.shelf._HELD", 0)
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory/a.md").write_text("One.")
    (tmp_path / "nodes.jsonl").write_text('{"key":"a","content":"One."}\n')
    graph = read_graph(source, tmp_path)
    assert graph.nodes["a"].content == "One."
    (tmp_path / "memory/a.md").write_text("Two.")
    (tmp_path / "nodes.jsonl").write_text('{"key":"a","content":"Two."}\n')
    with pytest.raises(InputError, match="changed while the graph was in use"):
        graph.select("match:one")
    assert graph.index["a"].length == 4
    (tmp_path / "memory/a.md").unlink()
    (tmp_path / "nodes.jsonl").unlink()
    with pytest.raises(InputError, match="cannot be read"):
        _ = graph.nodes["a"]
