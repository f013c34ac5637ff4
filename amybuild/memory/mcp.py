"""A conversation with an MCP server over stdio, streamable HTTP or a Unix socket, within limits of time and size."""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import os
import re
import shlex
import signal
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from amybuild.errors import ActionError, AmyError, InputError
from amybuild.memory.address import shown

if TYPE_CHECKING:
    from mcp.client._transport import TransportStreams

_GRACE = 2.0  # s that a server has to end by itself
_CHUNK = 1 << 16
_OBJECT = re.compile(rb"\s*\{")
T = TypeVar("T")


class Unreachable(ActionError):
    """No answer: the server does not start, hangs, or went away. What it said before may be used instead."""


@dataclass(frozen=True)
class Limits:
    """What a server may cost: seconds for one answer, bytes of all answers, nodes."""

    seconds: float = 60.0
    bytes: int = 1 << 30
    nodes: int = 1_000_000


@dataclass(frozen=True)
class Answer:
    """What a tool said: its text, its structured form if it gave one, and whether it calls this an error."""

    text: str
    structured: Mapping[str, Any] | None
    failed: bool


class Server:
    """A connected server. `tools`: the arguments of each tool, name -> JSON schema of the argument."""

    def __init__(self, session: Any, where: str, limits: Limits) -> None:
        self._session, self.where, self.limits = session, where, limits
        self.tools: dict[str, Mapping[str, Any]] = {}

    async def open(self) -> None:
        import anyio
        from mcp import types

        with anyio.fail_after(self.limits.seconds):
            await self._session.initialize()
            cursor: str | None = None
            while True:
                params = types.PaginatedRequestParams(cursor=cursor) if cursor else None
                page = await self._session.list_tools(params=params)
                for tool in page.tools:
                    arguments = tool.input_schema.get("properties")
                    self.tools[tool.name] = arguments if isinstance(arguments, dict) else {}
                cursor = page.next_cursor
                if not cursor:
                    return

    async def call(self, tool: str, **arguments: Any) -> Answer:
        import anyio

        with anyio.fail_after(self.limits.seconds):
            result = await self._session.call_tool(tool, arguments)
        texts = [part.text for part in result.content if part.type == "text"]
        return Answer("\n".join(texts), result.structured_content, bool(result.is_error))

    def bad(self, what: str, remedy: str = "the server is not one that amybuild knows, or is damaged") -> InputError:
        return InputError(what, where=self.where, remedy=remedy)


def ask(
    address: str,
    folder: Path,
    limits: Limits,
    question: Callable[[Server], Awaitable[T]],
    headers: Mapping[str, str] | None = None,
) -> T:
    """What `question` finds out from the server at `address`; paths and programs are relative to `folder`, `headers`
    go with every HTTP request and may be secret.

    Raises `Unreachable` when it does not answer, `InputError` when what it says is wrong. No message repeats what the
    server wrote: it may be a memory.
    """
    where = shown(address)
    try:
        import anyio
        import mcp
    except ImportError:
        remedy = "pip install 'amybuild[mcp]'"
        raise InputError("a memory server needs the package mcp", where=where, remedy=remedy) from None

    budget = _Budget(limits.bytes, where)

    async def talk() -> T:
        async with _connect(address, folder, budget, headers or {}) as streams, mcp.ClientSession(*streams) as session:
            server = Server(session, where, limits)
            await server.open()
            return await question(server)

    with _silent():
        try:
            found = anyio.run(talk)
        except Exception as error:  # the libraries raise many, some in groups, some with what the server wrote
            raise budget.fault or _told(error, where, limits, address) from None
    gc.collect()  # the libraries leave circles, and in them the last answer, which may be the whole memory
    return found


def _told(error: Exception, where: str, limits: Limits, address: str) -> AmyError:
    """The error for people: of several the one of our own."""
    import mcp

    leaves = list(_leaves(error))
    ours = next((one for one in leaves if isinstance(one, AmyError)), None)
    if ours is not None:
        return ours
    by_hand = "start it by hand to see what it says" if address.startswith("stdio:") else "is it running?"
    if any(isinstance(one, TimeoutError) for one in leaves):
        return Unreachable(f"no answer within {limits.seconds:g} s", where=where, remedy=by_hand)
    for one in leaves:
        if isinstance(one, mcp.MCPError):
            if one.error.code == -32000:  # the SDK's word for a connection that closed
                return Unreachable("the server went away before it had answered", where=where, remedy=by_hand)
            return InputError(f"the server refuses (JSON-RPC error {one.error.code})", where=where, remedy=by_hand)
    first = leaves[0]
    if isinstance(first, FileNotFoundError):
        return Unreachable("not found", where=where, remedy="check the program or socket that [graph] source names")
    if isinstance(first, OSError) or "Resource" in type(first).__name__ or _is_http(first):
        return Unreachable(f"cannot be reached ({type(first).__name__})", where=where, remedy=by_hand)
    remedy = "the server does not speak the Model Context Protocol as it should"
    return InputError(f"an answer that cannot be read ({type(first).__name__})", where=where, remedy=remedy)


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for one in error.exceptions:
            yield from _leaves(one)
    else:
        yield error


def _is_http(error: BaseException) -> bool:
    import httpx2

    return isinstance(error, httpx2.HTTPError)


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """No log lines: those of the libraries quote what they could not read."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


class _Budget:
    """Counts the bytes that came in, and keeps the first `fault`: to the SDK it is a connection that ended."""

    def __init__(self, most: int, where: str) -> None:
        self.left, self.most, self.where = most, most, where
        self.fault: AmyError | None = None

    def fail(self, error: AmyError) -> AmyError:
        self.fault = self.fault or error
        return self.fault

    def spend(self, count: int) -> None:
        self.left -= count
        if self.left < 0:
            what = f"more than {self.most >> 20} MiB of answers" if self.most >> 20 else f"more than {self.most} bytes"
            remedy = "this is no memory that amybuild can hold"
            raise self.fail(InputError(what, where=self.where, remedy=remedy))


def _connect(
    address: str, folder: Path, budget: _Budget, headers: Mapping[str, str]
) -> contextlib.AbstractAsyncContextManager[TransportStreams]:
    scheme, _, rest = address.partition(":")
    if scheme == "stdio":
        return _process(rest, folder, budget)
    if scheme == "unix":
        return _socket(os.fspath(folder / Path(rest.removeprefix("//")).expanduser()), budget)
    return _http(address, budget, headers)


@contextlib.asynccontextmanager
async def _process(command: str, folder: Path, budget: _Budget) -> AsyncIterator[TransportStreams]:
    """A server that is started for this conversation. What it writes to stderr is nobody's to read: it may quote."""
    import anyio

    try:
        words = shlex.split(command)
    except ValueError:
        words = []
    if not words:
        raise InputError("no command to start", where=budget.where, remedy='write source = "stdio:PROGRAM ARGUMENT …"')
    process = await anyio.open_process(words, cwd=folder, stderr=subprocess.DEVNULL, start_new_session=True)
    grace = 0.0  # after a failure there is nothing to wait for
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        async with _lines(process.stdout.receive, process.stdin.send, budget) as streams:
            yield streams
        grace = _GRACE
    finally:
        with anyio.CancelScope(shield=True):
            with contextlib.suppress(OSError, anyio.BrokenResourceError, anyio.ClosedResourceError):
                await process.stdin.aclose()  # type: ignore[union-attr]
            for number in (None, signal.SIGTERM, signal.SIGKILL):
                if number is not None:
                    with contextlib.suppress(ProcessLookupError, PermissionError):
                        os.killpg(process.pid, number)
                with anyio.move_on_after(grace if number is None else _GRACE):
                    await process.wait()
                if process.returncode is not None:
                    break
            await process.aclose()


@contextlib.asynccontextmanager
async def _socket(path: str, budget: _Budget) -> AsyncIterator[TransportStreams]:
    import anyio

    async with (
        await anyio.connect_unix(path) as stream,
        _lines(stream.receive, stream.send, budget) as streams,
    ):
        yield streams


@contextlib.asynccontextmanager
async def _lines(
    receive: Callable[[int], Awaitable[bytes]], send: Callable[[bytes], Awaitable[None]], budget: _Budget
) -> AsyncIterator[TransportStreams]:
    """JSON-RPC messages, one a line, over a stream of bytes. (The SDK's own reader of stdio takes lines of any size.)

    A line that is no JSON object is a program's chatter and is passed over.
    """
    import anyio
    from mcp.shared.message import SessionMessage
    from mcp_types import jsonrpc_message_adapter

    arrived, incoming = anyio.create_memory_object_stream[SessionMessage | Exception](0)
    outgoing, leaving = anyio.create_memory_object_stream[SessionMessage](0)

    async def read() -> None:
        line = bytearray()  # grows in place: it may be the whole memory
        async with arrived:
            while True:
                try:
                    chunk = await receive(_CHUNK)
                except (anyio.EndOfStream, anyio.ClosedResourceError, anyio.BrokenResourceError, ConnectionError):
                    return
                budget.spend(len(chunk))
                *ends, rest = chunk.split(b"\n")
                for end in ends:
                    line += end
                    if _OBJECT.match(line):
                        await arrived.send(parsed(line))
                    line.clear()
                line += rest

    def parsed(line: bytearray) -> SessionMessage:
        try:
            text = line.decode()
            line.clear()
            value = json.loads(text)  # pydantic's own reader takes three times the room
            return SessionMessage(jsonrpc_message_adapter.validate_python(value, by_name=False))
        except (ValueError, RecursionError):
            what = "an answer that is no JSON-RPC message"
            raise InputError(what, where=budget.where, remedy="the server is damaged, or no MCP server") from None

    async def write() -> None:
        async with leaving:
            async for message in leaving:
                line = message.message.model_dump_json(by_alias=True, exclude_unset=True)
                try:
                    await send(line.encode() + b"\n")
                except (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
                    await arrived.aclose()  # else a question would wait for its answer
                    return

    async with anyio.create_task_group() as group:
        group.start_soon(read)
        group.start_soon(write)
        try:
            yield incoming, outgoing
        finally:
            group.cancel_scope.cancel()
            for end in (incoming, outgoing, arrived, leaving):
                end.close()


@contextlib.asynccontextmanager
async def _http(url: str, budget: _Budget, headers: Mapping[str, str]) -> AsyncIterator[TransportStreams]:
    import httpx2
    from mcp.client.streamable_http import streamable_http_client

    class Counted(httpx2.AsyncByteStream):
        def __init__(self, stream: httpx2.AsyncByteStream) -> None:
            self.stream = stream

        async def __aiter__(self) -> AsyncIterator[bytes]:
            async for chunk in self.stream:
                budget.spend(len(chunk))
                yield chunk

        async def aclose(self) -> None:
            await self.stream.aclose()

    class Transport(httpx2.AsyncHTTPTransport):
        async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
            response = await super().handle_async_request(request)
            status = response.status_code
            if request.method == "POST" and status >= 400:  # other methods are the SDK's own, and may be refused
                kind = Unreachable if status >= 500 else InputError
                raise budget.fail(kind(f"the server answers with HTTP status {status}", where=budget.where))
            if response.headers.get("content-encoding", "identity") != "identity":  # packed, it could be any size
                raise budget.fail(InputError("a packed answer that nobody asked for", where=budget.where))
            assert isinstance(response.stream, httpx2.AsyncByteStream)
            response.stream = Counted(response.stream)
            return response

    # no time limits here: every question has one
    headers = {**headers, "Accept-Encoding": "identity"}
    client = httpx2.AsyncClient(transport=Transport(), timeout=None, headers=headers)  # follows no redirection
    async with client, streamable_http_client(url, http_client=client, max_sse_event_size=None) as streams:
        yield streams
