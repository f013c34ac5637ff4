"""Where a memory graph is kept: an address of any kind, and the reader for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from amybuild.errors import InputError
from amybuild.memory import knowledge, tools
from amybuild.memory.address import is_server, shown
from amybuild.memory.graph import MemoryGraph, build_graph, read_graph
from amybuild.memory.mcp import Limits, Server, ask
from amybuild.memory.node import Node
from amybuild.memory.reading import Reading

Found = tuple[list[Node], tuple[str, ...]]  # nodes, warnings


def read_source(
    address: str,
    root: Path,
    reading: Reading | None = None,
    limits: Limits | None = None,
    headers: Mapping[str, str] | None = None,
) -> MemoryGraph:
    """The graph at `address`: a folder of Markdown or a file (relative to the project's folder `root`), or a server,
    which is asked now (over HTTP with `headers`): all of it or an error, never a part.

    Raises `InputError` for what is wrong there, `Unreachable` when a server does not answer.
    """
    if not is_server(address):
        return read_graph(address, root, reading)
    nodes, warnings = ask(address, root, limits or Limits(), _all, headers)()
    if not nodes:
        raise InputError("no memory nodes here", where=shown(address), remedy="check what the server keeps")
    return build_graph(nodes, shown(address), warnings)


async def _all(server: Server) -> Callable[[], Found]:
    """What makes every node of what a server said, by the dialect that its tools tell."""
    if knowledge.TOOL in server.tools:
        nodes = await knowledge.read(server)
        return lambda: (nodes(), ())
    if server.tools.keys() >= tools.NEEDED:
        found = await tools.read(server)
        return lambda: found
    some = ", ".join(sorted(server.tools)[:8]) or "none"
    remedy = f"known are {knowledge.TOOL}, or {' and '.join(sorted(tools.NEEDED))}; it has {some}"
    raise server.bad("a server whose tools are none that amybuild knows", remedy)
