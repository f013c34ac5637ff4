"""A server with the original project's memory tools, written with the SDK: plain text over stdio, HTTP, a Unix socket.

python -m tests.servers.original NODES.jsonl stdio|http|unix [PORT|PATH]. The file is read anew for every question.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import anyio
from mcp.server.mcpserver import MCPServer
from mcp.shared.message import SessionMessage
from mcp_types import jsonrpc_message_adapter

FILE = ""
server = MCPServer("original")


def nodes() -> dict[str, dict[str, Any]]:
    with open(FILE, encoding="utf-8") as file:
        return {node["key"]: node for node in map(json.loads, file)}


def neighbours(node: dict[str, Any]) -> list[dict[str, Any]]:
    return sorted(node.get("links", []), key=lambda link: (-link["strength"], link["target"]))


def render(node: dict[str, Any]) -> str:
    """A node as the original shows it: its content, and below it the links that the content does not name."""
    further = [link for link in neighbours(node) if link["target"] not in node["content"]]
    lines = [f"  ({link['strength']:.2f}) `{link['target']}`" for link in further]
    return "\n".join([node["content"], *(["", "---", "Links:", *lines] if lines else []), ""])


@server.tool(structured_output=False)
def memory_query(query: str, format: str = "full") -> str:
    """Nodes that a query selects."""
    stages = [stage.strip() for stage in query.split("|")]
    found = list(nodes().values())
    for stage in stages[1:]:
        name, _, value = stage.partition(":")
        if name != "type":
            return f"Error: no stage {name}"
        found = [node for node in found if node.get("type", "semantic") == value]
    lines = [
        node["key"] if format == "compact" else f"- `{node['key']}` {len(node['content'])} chars" for node in found
    ]
    return "\n".join([f"{len(found)} nodes", *lines])


@server.tool(structured_output=False)
def memory_render(key: str) -> str:
    """A node, and its neighbours."""
    return render(nodes()[key]) if key in nodes() else f"Error: no node {key}"


@server.tool(structured_output=False)
def memory_links(key: str) -> str:
    """The neighbours of a node."""
    if key not in nodes():
        return f"Error: no node {key}"
    return "\n".join(
        f"  {link['strength']:.2f}  {link['target']} [{link['kind']}]" for link in neighbours(nodes()[key])
    )


async def converse(stream: anyio.abc.SocketStream) -> None:
    """One client of the Unix socket: messages are lines."""
    arrived, incoming = anyio.create_memory_object_stream[Any](0)
    outgoing, leaving = anyio.create_memory_object_stream[Any](0)

    async def read() -> None:
        rest = b""
        async with arrived:
            async for chunk in stream:
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    await arrived.send(SessionMessage(jsonrpc_message_adapter.validate_json(line, by_name=False)))

    async def write() -> None:
        async for message in leaving:
            line = message.message.model_dump_json(by_alias=True, exclude_unset=True)
            await stream.send(line.encode() + b"\n")

    async with stream, anyio.create_task_group() as group:
        group.start_soon(read)
        group.start_soon(write)
        low = server._lowlevel_server
        await low.run(incoming, outgoing, low.create_initialization_options())
        group.cancel_scope.cancel()


async def listen(path: str) -> None:
    listener = await anyio.create_unix_listener(path)
    print("ready", flush=True)
    await listener.serve(converse)


def main(file: str, transport: str, place: str = "") -> None:
    global FILE
    FILE = file
    if transport == "stdio":
        server.run("stdio")
    elif transport == "unix":
        anyio.run(listen, place)
    else:
        server.run("streamable-http", host="127.0.0.1", port=int(place))


if __name__ == "__main__":
    main(*sys.argv[1:])
