"""Memory servers over every transport, the original's tools among them, and those that misbehave."""

from __future__ import annotations

import contextlib
import gzip
import http.server
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from amybuild.cache.actions import ActionCache
from amybuild.errors import AmyError, InputError
from amybuild.memory.graph import MemoryGraph
from amybuild.memory.jsonl import write_jsonl
from amybuild.memory.knowledge import graph_of
from amybuild.memory.mcp import Limits, Unreachable
from amybuild.memory.node import Link, Node
from amybuild.memory.source import read_source
from amybuild.personafile.load import load
from amybuild.snapshots import pull
from amybuild.versions import open_cache
from tests.harness import ROOT
from tests.servers import raw
from tests.unit.test_personafile import write_project

NODES = [
    Node("identity", content="I ask before I mend.\n\nSee `people/tomas`.", links=(Link("people/tomas", 0.8, "auto"),)),
    Node(
        "journal#j-1",
        "episodic",
        "The boat.\n\nwarmth:9 clarity:10",
        (Link("identity", 0.5), Link("people/tomas", 0.25)),
    ),
    Node("people/tomas", content="He builds boats.\n\n## Links\n\n- none yet 0.5 of them"),
]


def read(address: str, tmp_path: Path, limits: Limits | None = None) -> MemoryGraph:
    return read_source(address, tmp_path, limits=limits)


def raw_server(tmp_path: Path, mode: str = "good") -> str:
    (tmp_path / "graph.json").write_text(json.dumps(graph_of([Node("a", content="graph-content")])))
    (tmp_path / "graph.json.mode").write_text(mode)
    return f"stdio:{sys.executable} {Path(raw.__file__)} graph.json"


def test_a_knowledge_graph_over_stdio(tmp_path: Path) -> None:
    graph = read(raw_server(tmp_path), tmp_path)
    assert dict(graph.nodes) == {"a": Node("a", content="graph-content")}


@pytest.fixture(scope="module", params=["stdio", "http", "unix"])
def original(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server that speaks the original's tools."""
    folder = tmp_path_factory.mktemp("original")
    (folder / "nodes.jsonl").write_bytes(write_jsonl(NODES))
    command = [sys.executable, "-m", "tests.servers.original", str(folder / "nodes.jsonl"), request.param]
    if request.param == "stdio":
        yield f"stdio:env PYTHONPATH={ROOT} {' '.join(command)}"
        return
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    place = str(port) if request.param == "http" else str(folder / "mcp.sock")
    process = subprocess.Popen([*command, place], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        _wait(process, port if request.param == "http" else None)
        yield f"http://127.0.0.1:{port}/mcp" if request.param == "http" else f"unix:{place}"
    finally:
        process.terminate()
        process.wait()


def _wait(process: subprocess.Popen[bytes], port: int | None) -> None:
    if port is None:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        return
    for _ in range(600):
        assert process.poll() is None
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise AssertionError("the server does not listen")


def test_the_original_tools_over_every_transport(original: str, tmp_path: Path) -> None:
    graph = read(original, tmp_path, Limits(60))
    assert list(graph.nodes.values()) == NODES
    assert graph.warnings == ()


@pytest.mark.parametrize(
    ("mode", "kind", "says"),
    [
        ("hang", Unreachable, "no answer within 2 s"),
        ("flood", InputError, "more than 4 MiB of answers"),
        ("one-line", InputError, "more than 4 MiB of answers"),
        ("die", Unreachable, "went away before it had answered"),
        ("not-utf8", InputError, "no JSON-RPC message"),
        ("no-result", InputError, ""),
        ("no-json", InputError, "what read_graph says is no JSON"),
        ("bad-content", InputError, "cannot be read"),
        ("error", InputError, "JSON-RPC error -32603"),
        ("failed", InputError, "read_graph failed"),
        ("list", InputError, "without a list of entities"),
        ("no-relations", InputError, "without a list of relations"),
        ("number", InputError, "entity 0: observations are not a list of strings"),
        ("numbers", InputError, "entity 0: observations are not a list of strings"),
        ("no-name", InputError, "entity 0: '' is not a key"),
        ("twice", InputError, "two entities with the name 'secret-name'"),
        ("surrogate", InputError, "surrogate"),
        ("many", InputError, "more than 1000 entities"),
        ("deep-line", InputError, "an answer that is no JSON-RPC message"),
        ("deep", InputError, "what read_graph says is no JSON"),
        ("empty", InputError, "no memory nodes here"),
    ],
)
def test_a_server_that_misbehaves(
    mode: str, kind: type[AmyError], says: str, tmp_path: Path, caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    with pytest.raises(AmyError) as caught:
        read(raw_server(tmp_path, mode), tmp_path, Limits(2.0 if mode == "hang" else 60.0, 4 << 20, 1000))
    assert type(caught.value) is kind
    assert says in str(caught.value)
    assert "graph source 'stdio:" in str(caught.value)
    assert caught.value.remedy
    seen = [str(caught.value), repr(caught.value.__cause__), caplog.text, *capfd.readouterr()]
    assert "graph-content" not in "".join(seen), "what a memory says is nobody's to read"
    pids = (tmp_path / "graph.json.starts").read_text().split()
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids), "the server was left running"


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("stdio:", "no command"),
        ("stdio:'", "no command"),
        ("stdio:/no/such/program", "not found"),
        ("stdio:env SECRET=hush false", "went away"),
        ("stdio:cat", ""),
        ("unix:none.sock", "not found"),
        ("unix:graph.json", "cannot be reached"),
        ("http://user:hush@127.0.0.1:9/mcp?token=hush", "cannot be reached"),
    ],
)
def test_an_address_where_no_server_is(address: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "graph.json").write_text("{}")
    with pytest.raises(AmyError) as caught:
        read(address, tmp_path)
    assert says in str(caught.value)
    assert "hush" not in str(caught.value)


class Handler(http.server.BaseHTTPRequestHandler):
    """An HTTP server that is no memory server, each in its way."""

    mode = ""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self.send_response(500 if self.mode == "broken" else 401 if self.mode == "locked" else 200)
        kind = {"page": "text/html", "stream": "text/event-stream"}.get(self.mode, "application/json")
        self.send_header("content-type", kind)
        if self.mode == "packed":
            self.send_header("content-encoding", "gzip")
        self.end_headers()
        with contextlib.suppress(OSError):
            if self.mode == "packed":
                self.wfile.write(gzip.compress(b"graph-content" * 1_000_000))
            elif self.mode in ("flood", "stream"):
                while True:
                    self.wfile.write(b"data: graph-content\n" * 4096)
            else:
                self.wfile.write(b"<p>graph-content</p>")

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.mark.parametrize(
    ("mode", "says"),
    [
        ("flood", "more than 4 MiB of answers"),
        ("stream", "more than 4 MiB of answers"),
        ("packed", "a packed answer that nobody asked for"),
        ("page", "JSON-RPC error"),
        ("broken", "HTTP status 500"),
        ("locked", "HTTP status 401"),
        ("text", "JSON-RPC error"),
    ],
)
def test_an_http_server_that_misbehaves(mode: str, says: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    handler = type("Mode", (Handler,), {"mode": mode})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            with pytest.raises(AmyError) as caught:
                read(f"http://127.0.0.1:{server.server_port}/mcp", tmp_path, Limits(5.0, 4 << 20))
        finally:
            server.shutdown()
    assert isinstance(caught.value, Unreachable) == (mode == "broken")
    assert says in str(caught.value)
    assert "graph-content" not in str(caught.value) + caplog.text


def test_a_secret_goes_with_every_request_and_nowhere_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    seen: list[str | None] = []

    class Locked(Handler):
        mode = "locked"

        def send_response(self, code: int, message: str | None = None) -> None:
            seen.append(self.headers["authorization"])
            super().send_response(code, message)

    write_project(tmp_path)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Locked) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        table = f'source = "http://127.0.0.1:{server.server_port}/mcp"\ntimeout = 20'
        headers = '[graph.headers]\nAuthorization = "Bearer $MEMORY_TOKEN"\n'
        text = (tmp_path / "Personafile.toml").read_text()
        (tmp_path / "Personafile.toml").write_text(text.replace('source = "memory"', f"{table}\n{headers}"))
        persona = load(tmp_path / "Personafile.toml")
        store, history = open_cache(persona.root, persona.cache)
        try:
            for secret, says in (("", "MEMORY_TOKEN is not set"), ("hu\nsh", "MEMORY_TOKEN is no plain text")):
                monkeypatch.setenv("MEMORY_TOKEN", secret)
                with pytest.raises(InputError, match=says):
                    pull(persona, ActionCache(store), history, 0.0)
            monkeypatch.setenv("MEMORY_TOKEN", "hush")
            with pytest.raises(InputError, match="HTTP status 401") as caught:
                pull(persona, ActionCache(store), history, 0.0)
        finally:
            server.shutdown()
    assert seen == ["Bearer hush"]
    kept = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert "hush" not in str(caught.value) + repr(persona) + caplog.text + "".join(capfd.readouterr())
    assert b"hush" not in kept
