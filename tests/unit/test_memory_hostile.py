"""Memory that means harm, or is damaged: refused with its place, without a word of its text, and nothing is kept."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.harness import Space

SECRET = "graph-content"
NODE = f'{{"key":"a","content":"{SECRET}"}}\n'
FRONT = '+++\nexamples = "{}"\n+++\n' + SECRET
LONG = 100 << 20


def md(name: str, data: str | bytes) -> Callable[[Path], None]:
    """A project whose folder of nodes has this file in it."""

    def make(root: Path) -> None:
        path = root / "memory" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data if isinstance(data, bytes) else data.encode())

    return make


def jsonl(data: str | bytes) -> Callable[[Path], None]:
    """A project whose nodes are this file."""

    def make(root: Path) -> None:
        (root / "nodes.jsonl").write_bytes(data if isinstance(data, bytes) else data.encode())
        text = (root / "Personafile.toml").read_text()
        (root / "Personafile.toml").write_text(text.replace('source = "memory"', 'source = "nodes.jsonl"'))

    return make


def outside(root: Path) -> Path:
    """A file that is none of the project's."""
    path = root.parent / "private" / "diary.md"
    path.parent.mkdir(exist_ok=True)
    path.write_text(SECRET)
    return path


def link(name: str, target: Callable[[Path], Path]) -> Callable[[Path], None]:
    def make(root: Path) -> None:
        (root / "memory" / name).symlink_to(target(root))

    return make


def links_to_links(root: Path) -> None:
    for level in range(40):
        (root / f"memory/more/x{level:02d}").mkdir(parents=True)
        (root / f"memory/more/x{level:02d}/n.md").write_text(SECRET)
        for name in "pq":
            (root / f"memory/more/x{level:02d}/{name}").symlink_to(f"../x{level + 1:02d}")
    (root / "memory/more/x40").mkdir()


def fifo(root: Path) -> None:
    os.mkfifo(root / "memory" / "pipe.md")


def two_spellings(root: Path) -> None:
    for form in ("NFC", "NFD"):
        (root / "memory" / unicodedata.normalize(form, "café.md")).write_text(SECRET)


CASES = {
    "text that is no UTF-8": (md("a.md", SECRET.encode() + b"\n\xff\xfe"), "memory/a.md:2: not UTF-8"),
    "a line that is no UTF-8": (jsonl(NODE.encode() + b'{"key":"\xff"}\n'), "nodes.jsonl:2: not UTF-8"),
    "half a surrogate pair": (jsonl(NODE.replace(SECRET, f"{SECRET} \\ud800")), "nodes.jsonl:1: "),
    "a file of 100 MB": (md("a.md", b"x" * LONG), "memory/a.md: larger than 16 MiB"),
    "a line of 100 MB": (
        jsonl(b'{"key":"a","content":"' + b"x" * LONG + b'"}'),
        "nodes.jsonl:1: a line of more than 16 MiB",
    ),
    "two nodes of one key": (jsonl(NODE * 2), "nodes.jsonl:2: a second node 'a'"),
    "two files of one key": (two_spellings, "a second node 'café'"),
    "a field that is there twice": (jsonl('{"key":"a","key":"b","content":""}'), "nodes.jsonl:1: 'key' is there twice"),
    "front matter that is there twice": (md("a.md", "+++\nweight = 1\nweight = 2\n+++\n"), "memory/a.md:3: "),
    "a million brackets": (jsonl('{"key":"a","content":"","links":' + "[" * 1_000_000), "nodes.jsonl:1: "),
    "a number without end": (jsonl('{"key":"a","content":"","weight":' + "9" * 100_000 + "}"), "nodes.jsonl:1: "),
    "no number": (jsonl('{"key":"a","content":"","weight":NaN}'), "nodes.jsonl:1: the weight"),
    "a list for a text": (jsonl('{"key":"a","content":["x"]}'), "nodes.jsonl:1: a node needs its content as a string"),
    "a key that leads out": (jsonl('{"key":"../../a","content":""}'), "nodes.jsonl:1: '../../a' is not a key"),
    "examples outside": (md("a.md", FRONT.format("../../private/diary.md")), "examples = '../../private/diary.md'"),
    "examples by their whole path": (md("a.md", FRONT.format("/etc/hostname")), "examples = '/etc/hostname'"),
    "a device for examples": (md("a.md", FRONT.format("/dev/zero")), "examples = '/dev/zero'"),
    "a link out of the project": (link("a.md", outside), "memory/a.md: leads out of the project"),
    "a folder out of the project": (link("more", lambda root: outside(root).parent), "memory/more: leads out"),
    "a circle of links": (
        link("a.md", lambda root: root / "memory" / "a.md"),
        "memory/a.md: a link that leads nowhere",
    ),
    "a folder in itself": (link("more", lambda root: root / "memory"), "memory/more: this link leads back"),
    "folders without end": (md("d/" * 150 + "a.md", SECRET), "folders more than 100 deep"),
    "links to folders of links": (links_to_links, "more than 1000 links lead here"),
    "a pipe": (fifo, "memory/pipe.md: not a regular file"),
}


@pytest.mark.parametrize("name", CASES)
def test_it_is_refused_and_nothing_kept(name: str, space: Space) -> None:
    make, says = CASES[name]
    outside(space.root)
    make(space.root)
    for words in ((), ("memory", "diff"), ("memory", "status")):
        result = space.run(*words)
        assert result.code == 2
        assert says in result.err
        assert SECRET not in result.err + result.out
    kept = [path for room in ("actions", "trees", "objects", "memory", "nodes", "state")
            for path in (space.root / "cache" / "v1" / room).rglob("*") if path.is_file()]  # fmt: skip
    assert kept == []
