"""The reference memory server itself, installed from npm: read from, written to with its own tools, built from.

pytest -m mcp (node and npm are needed)
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from amybuild.memory.graph import read_graph
from amybuild.memory.knowledge import graph_of
from amybuild.memory.mcp import Limits, Server, ask
from amybuild.memory.node import Link, Node
from amybuild.memory.source import read_source
from tests.harness import Space

pytestmark = pytest.mark.mcp
PACKAGE = "@modelcontextprotocol/server-memory@2026.8.31"
LIMITS = Limits(seconds=120)


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the server in it."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not installed")
    folder = tmp_path_factory.mktemp("npm")
    subprocess.run([npm, "install", "--no-audit", "--no-fund", "--prefix", folder, PACKAGE], check=True)
    return folder


@pytest.fixture(params=["node", "npx"])
def address(installed: Path, tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """The server over a memory of its own, started with node or with npx."""
    script = installed / "node_modules" / "@modelcontextprotocol" / "server-memory" / "dist" / "index.js"
    command = (
        f"node {script}" if request.param == "node" else f"npx --no-install --prefix {installed} mcp-server-memory"
    )
    return f"stdio:env MEMORY_FILE_PATH={tmp_path}/memory.jsonl {command}"


def use(address: str, folder: Path, *calls: tuple[str, dict[str, Any]]) -> None:
    """Call tools of the server, as a model would."""

    async def talk(server: Server) -> None:
        for tool, arguments in calls:
            answer = await server.call(tool, **arguments)
            assert not answer.failed, answer.text

    ask(address, folder, LIMITS, talk)


def fill(address: str, folder: Path, nodes: list[Node]) -> None:
    graph = graph_of(nodes)
    entities, relations = graph["entities"], graph["relations"]
    use(address, folder, ("create_entities", {"entities": entities}), ("create_relations", {"relations": relations}))


NODES = [
    Node("C# and ../paths", "note", "One.\n\nTwo.\n\nwarmth:9", (Link("Tomás Novák", kind="mentions"),)),
    Node("Tomás Novák", "person", "He builds boats. \U0001f6f6"),
    Node("empty", "note"),
]


def test_what_is_written_is_read(address: str, tmp_path: Path) -> None:
    first = {"name": "C# and ../paths", "entityType": "note", "observations": ["One.", "Two.", "warmth:9"]}
    other = {"name": "Tomás Novák", "entityType": "person", "observations": ["He builds boats. \U0001f6f6"]}
    empty = {"name": "empty", "entityType": "note", "observations": []}
    relation = {"from": "C# and ../paths", "to": "Tomás Novák", "relationType": "mentions"}
    use(
        *(address, tmp_path, ("create_entities", {"entities": [first, other, empty]})),
        ("create_relations", {"relations": [relation]}),
    )
    graph = read_source(address, tmp_path, limits=LIMITS)
    found = list(graph.nodes.values())
    assert [(n.type, n.content) for n in found] == [(n.type, n.content) for n in NODES]
    assert found[0].key == "C%23 and ../paths"
    assert found[0].links == NODES[0].links
    (tmp_path / "memory.jsonl").unlink()
    fill(address, tmp_path, found)
    assert list(read_source(address, tmp_path, limits=LIMITS).nodes.values()) == found


def test_a_project_is_built_from_it(address: str, built: Space) -> None:
    fill(address, built.root, list(read_graph("memory", built.root).nodes.values()))
    text = re.sub(r'source = "memory"', f'source = "{address}"\ntimeout = 120', built.read("Personafile.toml"))
    built.write("Personafile.toml", text)
    assert built.build().ran == set(), "the same memory, wherever it is kept"
    told = {"entityName": "pattern-listen", "contents": ["I ask, then I mend."]}
    use(address, built.root, ("add_observations", {"observations": [told]}))
    assert built.build("--pull").ran == {"task.listen/corpus"}
    os.rename(built.root.parent / "memory.jsonl", built.root.parent / "gone")  # the server forgot all it knew
    assert built.build("--offline").ran == set()
    assert "no memory nodes here" in built.run("--pull").err
    assert built.build("--offline").ran == set()
