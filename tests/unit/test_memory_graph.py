"""The Markdown folder reader and the graph."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from amybuild.errors import InputError
from amybuild.memory import node as node_module
from amybuild.memory.graph import MemoryGraph, build_graph, read_graph
from amybuild.memory.node import Link, Node


def write(root: Path, files: dict[str, str | bytes]) -> Path:
    for name, text in files.items():
        path = root / "memory" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return root


FRONT = """+++
type = "episodic"
weight = 0.5
created = 2025-03-14
provenance = "journal"
links = [{ target = "people/tomas", strength = 0.8 }, { target = "gone" }]
examples = "ex.jsonl"
+++
Text.
"""


def test_a_folder_is_read(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "journal/j-1.md": FRONT,
            "people/tomas.md": "\ufeffHe builds.\r\n",
            "README.md": "no node",
            "people/readme.md": "no node",
            "_draft.md": "no node",
            ".hidden/x.md": "no node",
            "notes.txt": "no node",
            "journal/ex.jsonl": '{"context":"a","continuation":"b"}\n',
        },
    )
    graph = read_graph("memory", tmp_path)
    assert list(graph.nodes) == ["journal/j-1", "people/tomas"]
    node = graph.get("journal/j-1")
    assert (node.type, node.weight, node.created, node.provenance) == ("episodic", 0.5, "2025-03-14", "journal")
    assert node.links == (Link("people/tomas", 0.8), Link("gone"))
    assert (node.content, node.place(1)) == ("Text.\n", "memory/journal/j-1.md:9")
    assert node.examples == '{"context":"a","continuation":"b"}\n'
    assert graph.get("people/tomas.md").content == "He builds.\n"
    assert graph.warnings == ("memory/journal/j-1.md: links to 'gone', which is no node",)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('+++\ntype = "a"\nwieght = 1\n+++\n', r"memory/a\.md:3: unknown key 'wieght'\n.*'weight'"),
        ("+++\n\ntype = episodic\n+++\n", r"memory/a\.md:3: the front matter is not TOML"),
        ("+++\nweight = 1\nweight = 2\n+++\n", r"memory/a\.md:3: the front matter is not TOML"),
        ("+++\ntype = 'a'\n", r"memory/a\.md:1: the front matter is not closed"),
        ('+++\nweight = "x"\n+++\n', r"memory/a\.md:2: weight is not a number"),
        ("+++\ntype='a'\nlinks = [{ target = 'b', strength = 2 }]\n+++\n", r"memory/a\.md:3: in a link: strength 2"),
        ("+++\ntype='a'\n[[links]]\ntarget = '..'\n+++\n", r"memory/a\.md:3: in a link: '\.\.' is not a key"),
        ("+++\nexamples = 'no.jsonl'\n+++\n", "the examples file is not there"),
        ("+++\nexamples = '../../outside.jsonl'\n+++\n", "leads out of the project"),
        ("+++\nexamples = 3\n+++\n", r"memory/a\.md:2: examples is not a file name"),
        ("+++\nx = " + "[" * 5000 + "\n+++\n", "front matter"),
        ("+++\nweight = " + "9" * 5000 + "\n+++\n", "front matter"),
        (b"one\ntwo \xff\n", r"memory/a\.md:2: not UTF-8"),
    ],
)
def test_a_bad_file_is_named_with_its_line(tmp_path: Path, text: str | bytes, says: str) -> None:
    root = tmp_path / "project"
    (tmp_path / "outside.jsonl").write_text("{}")
    with pytest.raises(InputError, match=says):
        read_graph("memory", write(root, {"a.md": text}))


def test_symlinks(tmp_path: Path) -> None:
    root = write(tmp_path / "project", {"a.md": "x", "sub/b.md": "y"})
    (tmp_path / "secret.md").write_text("z")
    link = root / "memory" / "sub" / "up"
    link.symlink_to("../../memory")
    with pytest.raises(InputError, match=r"memory/sub/up: this link leads back"):
        read_graph("memory", root)
    link.unlink()
    link = root / "memory" / "c.md"
    for target, says in (("c.md", "in a circle"), ("nowhere", "leads nowhere"), ("../../secret.md", "out of the")):
        link.symlink_to(target)
        with pytest.raises(InputError, match=f"memory/c.md: .*{says}"):
            read_graph("memory", root)
        link.unlink()
    link.symlink_to("sub/b.md")
    assert list(read_graph("memory", root).nodes) == ["a", "c", "sub/b"]


def test_odd_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write(tmp_path, {"a.md": "x", "caf\u00e9.md": "1"})
    decomposed = root / "memory" / "cafe\u0301.md"
    decomposed.write_text("2")
    with pytest.raises(InputError, match="a second node 'caf\u00e9'"):
        read_graph("memory", root)
    decomposed.unlink()
    pipe = root / "memory" / "p.md"
    os.mkfifo(pipe)
    with pytest.raises(InputError, match=r"memory/p\.md: not a regular file"):
        read_graph("memory", root)
    pipe.unlink()
    odd = root / "memory" / "a#b.md"
    odd.write_text("x")
    with pytest.raises(InputError, match="cannot be a key"):
        read_graph("memory", root)
    odd.unlink()
    monkeypatch.setattr("amybuild.memory.markdown.MAX_BYTES", 4)
    (root / "memory" / "a.md").write_text("12345")
    with pytest.raises(InputError, match=r"memory/a\.md: larger than"):
        read_graph("memory", root)
    assert node_module.MAX_BYTES > 1 << 20


def test_sources(tmp_path: Path) -> None:
    (tmp_path / "memory").mkdir()
    (tmp_path / "g.jsonl").write_text('{"key":"journal#j-1","content":"## x"}\n{"key":"b","content":""}')
    (tmp_path / "g.txt").write_text("")
    assert list(read_graph("g.jsonl", tmp_path).nodes) == ["b", "journal#j-1"]
    assert read_graph("g.jsonl", tmp_path).get("journal#j-1").content == "## x"
    for source, says in (
        ("memory", "no memory nodes here"),
        ("memroy", "did you mean 'memory'"),
        ("no/where/x", "no such file"),
        ("g.txt", "not a memory graph"),
    ):
        with pytest.raises(InputError, match=says):
            read_graph(source, tmp_path)


def graph() -> MemoryGraph:
    return build_graph(
        [
            Node("rushing-pattern", content="Too fast.\n## voice\nx", weight=0.9),
            Node("journal/j-2", "episodic", "The boat yard, and boats."),
            Node("journal/j-1", "episodic", "Boat\nyard.", weight=0.2),
        ],
        "memory",
    )


def test_lookup() -> None:
    assert graph().resolve("rushing-pattern#voice")[1] == "voice"
    with pytest.raises(InputError, match=r"memory: no memory node 'rushing-patern'\n.*'rushing-pattern'"):
        graph().get("rushing-patern")
    with pytest.raises(InputError, match="no section 'vioce'"):
        graph().get("rushing-pattern#vioce")


def test_the_digest_is_of_all_nodes() -> None:
    one = graph()
    assert build_graph(reversed(one.nodes.values())).digest == one.digest  # type: ignore[call-overload]
    assert build_graph(list(one.nodes.values())[:2]).digest != one.digest
