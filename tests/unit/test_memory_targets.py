"""An edit of the memory costs what it changes: a corpus has another key exactly when its nodes are others."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amybuild.graph.analyze import analyze
from amybuild.memory.graph import build_graph
from amybuild.memory.node import Link, Node
from amybuild.personafile.load import load
from amybuild.personafile.schema import Persona
from amybuild.plan.key import manifest, walk
from tests.unit.test_personafile import write_project

ALONE = {  # a node is selected for what it is itself
    "listen": 'node = "core"',
    "voice": 'node = "core#voice"',
    "episodes": 'query = "type:episodic"',
    "boats": 'query = "match:boat and not key:core | weight:>=0.5"',
    "everything": 'query = "all"',
}
TOGETHER = {  # … or for what it is among others
    "recent": 'query = "age:<30d"',
    "best": 'query = "sort:weight desc | limit:2"',
    "near": 'query = "degree:>0 or key:core"',
    "spreading": 'query = "key:core | spread, max_hops=2"',
}
TASKS = ALONE | TOGETHER
HEAD = """\
[persona]
name = "tess"
base = "tiny"
[base.tiny]
path = "models/tiny"
[graph]
source = "memory"
"""
CORE = Node("core", content="I ask.\n## voice\nSlowly.\n## other\nx", created="2025-01-01")
BOAT = Node("boat", "episodic", "A boat.", created="2025-01-02")
STAYS = Node("stays", "episodic", "A boat.", (Link("core", 0.5),), 0.9, "2025-03-01")  # every query has an answer

keys = st.sampled_from(["boat", "d", "journal/e", "journal/f"])
nodes = st.builds(
    Node,
    key=keys,
    type=st.sampled_from(["semantic", "episodic"]),
    content=st.sampled_from(["a boat", "nothing"]),
    links=st.lists(st.builds(Link, st.sampled_from(["core", "d"]), st.floats(0.01, 1.0)), max_size=1).map(tuple),
    weight=st.sampled_from([0.1, 0.5, 0.9]),
    created=st.none() | st.sampled_from(["2025-01-20", "2025-03-01"]),
)
cores = st.sampled_from(["I ask.", "I wait."]).flatmap(
    lambda intro: st.sampled_from(["Slowly.", "Softly."]).map(
        lambda voice: Node("core", content=f"{intro}\n## voice\n{voice}\n## other\nx", created="2025-01-01")
    )
)


@pytest.fixture(scope="module")
def persona(tmp_path_factory: pytest.TempPathFactory) -> Persona:
    tables = [f'[task.{name}]\n{asked}\nrecipe = "quick"\n' for name, asked in TASKS.items()]
    return load(write_project(tmp_path_factory.mktemp("project"), HEAD + "\n".join(tables)))


def corpora(persona: Persona, some: dict[str, Node]) -> dict[str, tuple[str, dict[str, str]]]:
    """task -> the key of its corpus, and the nodes that it reads with their digests."""
    graph = analyze(persona, build_graph(some.values()), str)
    found = {}
    for name in TASKS:
        action = graph.actions[f"task.{name}/corpus"]
        key = manifest(action.rule, walk(action, {}, {}, {})).key
        found[name] = (key, {node.key: node.digest for node in action.nodes})
    return found


@given(st.lists(nodes, max_size=4), cores | nodes, st.booleans())
def test_one_node_added_removed_or_edited(persona: Persona, some: list[Node], changed: Node, removed: bool) -> None:
    before = {one.key: one for one in (CORE, BOAT, STAYS, *some)}
    after = before | {changed.key: changed}
    if removed and changed.key not in ("core", "boat"):
        before, after = after, {key: one for key, one in before.items() if key != changed.key}
    was, now = corpora(persona, before), corpora(persona, after)
    for name in TASKS:
        assert (was[name][0] != now[name][0]) == (was[name][1] != now[name][1]), name
    touched = {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
    for name in ALONE:
        read = {key.partition("#")[0] for key in was[name][1].keys() | now[name][1].keys()}
        if was[name][0] != now[name][0]:
            assert touched & read, f"{name} reads nothing that changed"
        elif name != "voice":  # a section stays what it is when the node changes beside it
            assert not touched & read, f"{name} reads what changed"
    for name in TOGETHER:
        others = [key for key in was[name][1].keys() & now[name][1].keys() if key not in touched]
        assert all(was[name][1][key] == now[name][1][key] for key in others), name
