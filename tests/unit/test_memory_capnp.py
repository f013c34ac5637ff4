"""The original's node log: versions, deletions, torn ends, damage, and the law of reading what was written."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from amybuild.errors import InputError
from amybuild.memory.capnp import read_log
from amybuild.memory.graph import read_graph
from amybuild.memory.node import Node, clean

capnp = pytest.importorskip("capnp")
capnp.remove_import_hook()
import amybuild.memory.capnp as reader  # noqa: E402

SCHEMA = capnp.load(str(Path(reader.__file__).with_name("memory.capnp")))
# other processes may hold the machine: no example is a failure for being slow
SLOWLY = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
NOW = 1_750_000_000  # 2025-06-15
KINDS = {"episodic": "episodicSession", "daily": "episodicDaily", "weekly": "episodicWeekly",
         "monthly": "episodicMonthly", "semantic": "semantic"}  # fmt: skip


def record(number: int, key: str, content: str, **more: Any) -> bytes:
    """One message of the log."""
    fields = {"uuid": struct.pack("<QQ", 0, number), "version": 1, "timestamp": NOW, "nodeType": "semantic", **more}
    data: bytes = SCHEMA.ContentNode.new_message(key=key, content=content, **{"weight": 1.0, **fields}).to_bytes()
    return data


def log(tmp_path: Path, *records: bytes) -> Path:
    path = tmp_path / "nodes.capnp"
    path.write_bytes(b"".join(records))
    return path


def test_the_last_version_of_what_lives_counts(tmp_path: Path) -> None:
    log(
        tmp_path,
        record(1, "identity.md", "First."),
        record(2, "journal.md#j-1", "The boat.\n\njoy:9", nodeType="episodicSession", weight=0.7, createdAt=NOW),
        record(3, "gone", "Away."),
        record(1, "identity.md", "Second.", version=2, provenance="agent:observe"),
        record(3, "gone", "", version=2, deleted=True),
        record(1, "identity.md", "Late, and old.", version=1),
    )
    graph = read_graph("nodes.capnp", tmp_path)
    assert list(graph.nodes.values()) == [
        Node("identity", content="Second.", version=2, provenance="agent:observe"),
        Node("journal#j-1", "episodic", "The boat.\n\njoy:9", weight=0.7, created="2025-06-15", provenance="manual"),
    ]
    assert graph.warnings == ()


def test_two_live_nodes_of_one_key_are_told_and_the_newer_counts(tmp_path: Path) -> None:
    old = struct.unpack("<q", struct.pack("<d", NOW - 5.5))[0]  # as logs once held it
    path = log(tmp_path, record(1, "a", "New."), record(2, "a", "Old.", timestamp=old))
    nodes, warnings = read_log(path, "nodes.capnp")
    assert [node.content for node in nodes] == ["New."]
    assert warnings == ("nodes.capnp: 'a' is there twice; the newer one counts",)


def test_a_torn_end_is_told_and_the_rest_read(tmp_path: Path) -> None:
    whole, last = record(1, "a", "Text."), record(2, "b", "Lost.")
    for cut in (1, 7, 9, len(last) - 1):
        nodes, warnings = read_log(log(tmp_path, whole, last[:cut]), "log")
        assert [node.key for node in nodes] == ["a"]
        assert warnings == (f"log: breaks off in the message at byte {len(whole)}; the nodes before it count",)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "no memory nodes here"),
        (record(1, "a", "x", deleted=True), "no memory nodes here"),
        (b"\xff" * 64, "no Cap'n Proto message at byte 0"),
        (bytes(64), "no Cap'n Proto message at byte 0"),
        (record(1, "a", "x") + b"{}" * 40, "no Cap'n Proto message"),
        (struct.pack("<II", 0, 1 << 24) + bytes(64), "no Cap'n Proto message at byte 0"),
        (struct.pack("<II", 0, 1) + bytes(8), "no memory node in this message"),
        (record(1, "a", "x", uuid=b"short"), "no memory node in this message"),
        (record(1, "a", "x").replace(b"x\0", b"\xff\0"), "no memory node in this message"),
        (record(1, "../a", "x"), "is not a key"),
        (record(1, "a", "x", weight=float("nan")), "the weight is not a number"),
    ],
)
def test_what_is_no_log_is_refused(data: bytes, says: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        read_log(log(tmp_path, data), "memory/nodes.capnp")
    assert says in str(caught.value)
    assert "memory/nodes.capnp" in str(caught.value)


@given(st.binary(max_size=300), st.integers(0, 300))
@SLOWLY
def test_any_bytes_are_read_or_refused(noise: bytes, at: int) -> None:
    import tempfile

    data = bytearray(record(1, "a", "Text of a node.", createdAt=NOW) * 2)
    data[at : at + len(noise)] = noise
    with tempfile.TemporaryDirectory() as name:
        try:
            read_log(log(Path(name), bytes(data)), "log")
        except InputError:
            return


TEXT = st.text(max_size=40).map(clean)
NODES = st.builds(
    Node,
    key=st.text(st.characters(codec="ascii", categories=("Ll", "Nd")), min_size=1, max_size=8),
    type=st.sampled_from(sorted(KINDS)),
    content=TEXT,
    weight=st.integers(0, 1000).map(lambda n: n / 1000),
    created=st.none() | st.just("2025-06-15") | st.text("0123456789-", min_size=1),
    provenance=TEXT.filter(bool),
    version=st.integers(0, 2**32 - 1),
)


@given(st.lists(NODES, min_size=1, max_size=4, unique_by=lambda node: node.key))
@SLOWLY
def test_what_is_written_is_read(nodes: list[Node]) -> None:
    import tempfile

    records = [
        record(
            *(number, node.key, node.content),
            version=node.version,
            nodeType=KINDS[node.type],
            weight=node.weight,
            created=node.created or "",
            provenance=node.provenance,
        )
        for number, node in enumerate(nodes)
    ]
    with tempfile.TemporaryDirectory() as name:
        found, warnings = read_log(log(Path(name), *records), "log")
    assert (found, warnings) == (nodes, ())


def test_relations_are_told_of_and_not_guessed_at(tmp_path: Path) -> None:
    log(tmp_path, record(1, "identity", "One."))
    assert read_graph("nodes.capnp", tmp_path).warnings == ()
    (tmp_path / "relations.capnp").write_bytes(record(2, "x", "y"))
    graph = read_graph("nodes.capnp", tmp_path)
    assert [node.links for node in graph.nodes.values()] == [()]
    assert len(graph.warnings) == 1
    assert "nodes.capnp: the links in relations.capnp are not read" in graph.warnings[0]
    with pytest.raises(InputError, match="a log of relations, whose layout is not known in full"):
        read_graph("relations.capnp", tmp_path)
