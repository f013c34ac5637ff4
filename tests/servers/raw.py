"""A memory server without the SDK: it keeps a knowledge graph in a JSON file, and can misbehave in every way.

python raw.py FILE: speaks lines of JSON-RPC on stdin and stdout. FILE.mode says how it misbehaves, if it does; every
start leaves a line in FILE.starts.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

TOOL = {"name": "read_graph", "inputSchema": {"type": "object", "properties": {}}}


def say(value: Any) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def raw(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def text(graph: Any) -> dict[str, Any]:
    return {"content": [{"type": "text", "text": json.dumps(graph)}]}


def hang(answer: dict[str, Any]) -> None:
    time.sleep(600)


def flood(answer: dict[str, Any]) -> None:
    while True:
        raw(
            b'{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":"'
            + b"x" * 65536
            + b'"}}\n'
        )


def one_line(answer: dict[str, Any]) -> None:
    raw(b'{"jsonrpc":"2.0","id":1,"result":"')
    for _ in range(1600):
        raw(b"x" * 65536)  # 100 MiB and no end of the line


def die(answer: dict[str, Any]) -> None:
    data = json.dumps(answer).encode()
    raw(data[: len(data) // 2])
    os._exit(1)


def not_utf8(answer: dict[str, Any]) -> None:
    raw(json.dumps(answer).encode().replace(b"entities", b"\xff\xfe\xfd") + b"\n")


def no_result(answer: dict[str, Any]) -> None:
    say({"jsonrpc": "2.0", "id": answer["id"], "result": [1, 2]})


def wrong(result: Any) -> Callable[[dict[str, Any]], None]:
    return lambda answer: say({**answer, "result": result})


ENTITY = {"name": "secret-name", "entityType": "note", "observations": ["graph-content"]}
ERROR = {"code": -32603, "message": "graph-content"}
MODES: dict[str, Callable[[dict[str, Any]], None]] = {
    "good": say,
    "hang": hang,
    "flood": flood,
    "one-line": one_line,
    "die": die,
    "not-utf8": not_utf8,
    "no-result": no_result,
    "no-json": wrong({"content": [{"type": "text", "text": "graph-content"}]}),
    "bad-content": wrong({"content": [{"type": "text", "text": 7}]}),
    "error": lambda answer: say(
        {"jsonrpc": "2.0", "id": answer["id"], "error": {"code": -32603, "message": "graph-content"}}
    ),
    "failed": wrong({**text({}), "isError": True}),
    "list": wrong(text([])),
    "no-relations": wrong(text({"entities": [ENTITY]})),
    "number": wrong(text({"entities": [{**ENTITY, "observations": 7}], "relations": []})),
    "numbers": wrong(text({"entities": [{**ENTITY, "observations": ["graph-content", 7]}], "relations": []})),
    "no-name": wrong(text({"entities": [{**ENTITY, "name": ""}], "relations": []})),
    "twice": wrong(text({"entities": [ENTITY, ENTITY], "relations": []})),
    "surrogate": wrong(text({"entities": [{**ENTITY, "observations": ["graph-content \ud800"]}], "relations": []})),
    "many": wrong(text({"entities": [{**ENTITY, "name": str(i)} for i in range(2000)], "relations": []})),
    "deep": wrong({"content": [{"type": "text", "text": "[" * 100_000}]}),
    "deep-line": lambda answer: raw(b'{"jsonrpc":"2.0","id":1,"result":' + b"[" * 100_000 + b"\n"),
    "empty": wrong(text({"entities": [], "relations": []})),
}


def main(file: str) -> None:
    mode = "good"
    if os.path.exists(f"{file}.mode"):
        with open(f"{file}.mode") as told:
            mode = told.read()
    with open(f"{file}.starts", "a") as starts:
        starts.write(f"{os.getpid()}\n")
    for line in sys.stdin:
        asked = json.loads(line)
        answer = {"jsonrpc": "2.0", "id": asked.get("id")}
        if asked["method"] == "initialize":
            version = asked["params"]["protocolVersion"]
            info = {"name": "raw", "version": "1"}
            say({**answer, "result": {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": info}})
        elif asked["method"] == "tools/list":
            say({**answer, "result": {"tools": [TOOL]}})
        elif asked["method"] == "tools/call":
            with open(file, encoding="utf-8") as graph:
                MODES[mode]({**answer, "result": text(json.load(graph))})


if __name__ == "__main__":
    main(*sys.argv[1:])
