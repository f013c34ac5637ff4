"""A JSONL memory is known by blocks of lines: after any edit it reads as a file that was never seen."""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from amybuild.errors import InputError
from amybuild.memory.graph import read_graph
from amybuild.memory.reading import Reading

TIMES = itertools.count(10**18)  # no two files of these tests have the same stamp, however soon one follows the other
LINES = [json.dumps({"key": f"n{i}", "content": "text " * i}).encode() for i in range(9)]
EDITS = st.lists(
    st.tuples(
        st.integers(0, 10),
        st.integers(-1, 2),
        st.integers(0, 60) | st.just(0),
        st.sampled_from([b"", b"\n", b"x", b" \n\n", *LINES, *(line + b"\n" for line in LINES), b"\xff"]),
    ),
    min_size=1,
    max_size=3,
)


def told(path: Path, reading: Reading) -> Any:
    try:
        graph = read_graph(path.name, path.parent, reading)
        return [(node, node.source, node.digest, graph.index[node.key]) for node in graph.nodes.values()]
    except InputError as error:
        return (error.what, error.where, error.remedy)


def put(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    os.utime(path, ns=(0, next(TIMES)))


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 150), st.permutations(LINES), st.sampled_from([b"", b"\n"]), st.lists(EDITS, min_size=1))
def test_any_edits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int, lines: list[bytes], end: bytes, edits: Any
) -> None:
    monkeypatch.setattr("amybuild.memory.jsonl._BLOCK", block)
    path, data, known = tmp_path / "n.jsonl", b"\n".join(lines) + end, None
    for edit in [[], *edits]:
        for line, beside, size, new in edit:
            at = max(0, len(b"\n".join(data.split(b"\n")[:line])) + beside)  # near the end of a line
            data = data[:at] + new + data[at + size :]
        put(path, data)
        reading = Reading(known)
        assert told(path, reading) == told(path, Reading())
        known = reading.rows(1 << 62) or known


@pytest.mark.parametrize(
    ("before", "after"),
    [("A\nB", "A\nB{}"), ("A\nB", "A\nB\nC"), ("A\nB\n", "AB\n"), ("A\nB\n", "A\n B\n"), ("A\nB\nC\n", "A\n C\n")],
)
def test_a_block_begins_and_ends_with_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str, after: str
) -> None:
    monkeypatch.setattr("amybuild.memory.jsonl._BLOCK", 1)  # each line is one
    path, first = tmp_path / "n.jsonl", Reading()
    for name, line in zip("ABC", LINES, strict=False):
        before, after = before.replace(name, line.decode()), after.replace(name, line.decode())
    put(path, before.encode())
    told(path, first)
    put(path, after.encode())
    assert told(path, Reading(first.rows(1 << 62))) == told(path, Reading())


def test_blocks_before_and_behind_an_edit_are_kept_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("amybuild.memory.jsonl._BLOCK", 1)  # each line is one
    path, first, second = tmp_path / "n.jsonl", Reading(), Reading()
    put(path, b"".join(line + b"\n" for line in LINES))
    told(path, first)
    second = Reading(first.rows(1 << 62))
    lines = [*LINES[:3], b"", LINES[3].replace(b"text", b"other"), LINES[5], LINES[4], *LINES[6:]]
    put(path, b"".join(line + b"\n" for line in lines))
    told(path, second)
    assert second.parsed == 1
    before, after = ((reading.rows(1 << 62) or {})[str(path)][2] for reading in (first, second))
    assert [block is other for block, other in zip(before[:3] + before[-3:], after[:3] + after[-3:], strict=True)] == [
        True
    ] * 6
