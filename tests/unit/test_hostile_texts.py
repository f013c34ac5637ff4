"""Texts made to be slow or to break a reader: each is read in one pass, or refused by the project's own error.

None is timed. What took the square of its length would take minutes here, and hours for a file as large as may be."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from amybuild.actions.tagged import plain
from amybuild.errors import InputError
from amybuild.memory.chat.formats import read_chat
from amybuild.memory.chat.redact import Redactor
from amybuild.memory.emotion import split_tags
from amybuild.memory.graph import read_graph
from amybuild.memory.markdown import split_front_matter
from amybuild.memory.outline import Fence, Heading, walk

MANY = 300_000
REDACT = Redactor(("urls", "emails", "handles", "phones", "names"), {}, ["Ann Lee"])


@pytest.mark.parametrize(
    ("read", "text", "gives"),
    [
        (split_tags, "x" + "\n" * MANY, ("x", {})),
        (split_tags, "x\n" + "joy:1\n" * MANY, ("x", {"joy": 1.0})),
        (split_front_matter, "+++\n" + "\n+++x" * MANY + "\n+++\ny", ("\n+++x" * MANY, "y", MANY + 4)),
        (lambda text: list(walk(text)), "# a" + " " * MANY + "b", [Heading(1, 1, "a" + " " * MANY + "b")]),
        (
            lambda text: list(walk(text)),
            "~~~a" + " " * MANY + "b",
            [Fence(1, "~~~", "a" + " " * MANY + "b", (), False)],
        ),
        (plain, "<!--" * MANY, ("<!--" * MANY, {})),
        (REDACT, "a" * MANY, "a" * MANY),
        (REDACT, "@\u2068" * MANY, "@" * MANY),
    ],
    ids=["blank lines", "tags", "front matter", "heading", "fence", "comments", "address", "handles"],
)
def test_long_texts_take_one_pass(read: Callable[[str], object], text: str, gives: object) -> None:
    assert read(text) == gives


@pytest.mark.parametrize("space", [" ", "\n"])
def test_a_long_pause_in_a_message(tmp_path: Path, space: str) -> None:
    (tmp_path / "chat.txt").write_text(f"1/2/24, 10:00 - Ann: a{space * MANY}b")
    assert read_chat(tmp_path / "chat.txt", "chat")[1][0].text == f"a{space * MANY}b"


def telegram(fields: str) -> str:
    return f'{{"messages":[{{"type":"message","date":"2024-01-01T10:00:00","from":"Ann","id":1,{fields}}}]}}'


def test_deeply_nested_pieces_of_a_message_are_none(tmp_path: Path) -> None:
    (tmp_path / "chat.json").write_text(telegram(f'"text":["a",{"[" * 800}"b"{"]" * 800},{{"text":"c"}}]'))
    assert [one.text for one in read_chat(tmp_path / "chat.json", "chat")[1]] == ["ac"]


@pytest.mark.parametrize(
    "text",
    [
        telegram('"text":"x","date_unixtime":"99999999999999999999"'),
        telegram('"text":"x","date_unixtime":"-99999999999999"'),
        telegram('"text":"x"').replace("2024-01-01T10:00:00", "9999-12-31T23:59:59-14:00"),
        telegram('"text":"x"').replace("2024-01-01T10:00:00", "0001-01-01T00:00:00+14:00"),
        "date,sender,text\n9999-12-31T23:59:59-14:00,Ann,x\n",
    ],
)
def test_a_date_of_no_calendar_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "chat").write_text(text)
    with pytest.raises(InputError, match="none"):
        read_chat(tmp_path / "chat", "chat")


def test_a_quote_that_never_ends_swallows_no_messages(tmp_path: Path) -> None:
    (tmp_path / "chat.csv").write_text('date,sender,text\n2024-01-01,Ann,"hello\n2024-01-02,Bob,hi\n')
    with pytest.raises(InputError, match="no whole CSV row"):
        read_chat(tmp_path / "chat.csv", "chat")


def test_a_number_of_any_length_is_refused(tmp_path: Path) -> None:
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory" / "a.md").write_text(f"+++\nversion = 0x{'f' * 5000}\n+++\nx")
    with pytest.raises(InputError, match=r"a\.md:2: version is too large"):
        read_graph("memory", tmp_path)
    line = {"key": "a", "content": "x", "version": 1 << 64}
    (tmp_path / "nodes.jsonl").write_text(json.dumps(line))
    with pytest.raises(InputError, match="version is too large"):
        read_graph("nodes.jsonl", tmp_path)


@pytest.mark.parametrize("name", ["x" * 5000 + "/y", "a/" * 3000, "pipe.jsonl", "pipe.capnp", "pipe"])
def test_a_source_that_is_no_file(tmp_path: Path, name: str) -> None:
    for pipe in ("pipe", "pipe.jsonl", "pipe.capnp"):
        os.mkfifo(tmp_path / pipe)
    with pytest.raises(InputError, match="graph source"):
        read_graph(name, tmp_path)


def test_a_key_that_stands_twice_behind_many_others_is_found_at_once(tmp_path: Path) -> None:
    many = ",".join(f'"k{i}":0' for i in range(MANY))
    (tmp_path / "nodes.jsonl").write_text(f'{{"key":"a",{many},"last":0,"last":1}}\n')
    with pytest.raises(InputError, match="'last' is there twice"):
        read_graph("nodes.jsonl", tmp_path)
