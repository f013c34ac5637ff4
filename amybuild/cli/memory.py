"""`amybuild memory`: ask the memory server, which nodes are learned, what changed since the build, a copy in files."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from amybuild.cli.common import command, enter
from amybuild.errors import InputError


def memory(argv: Sequence[str]) -> int:
    parser = command("memory", "The memory graph beside the last build. Builds nothing; only `pull` asks a server.")
    about = (
        "pull: ask the memory server, and keep what it says; status: which nodes are in the weights; "
        "diff: which changed since the last build, and the targets they touch; export: write nodes to files"
    )
    parser.add_argument("what", choices=("pull", "status", "diff", "export"), help=about)
    parser.add_argument("nodes", nargs="*", metavar="NODE", help="only these")
    parser.add_argument("--all", action="store_true", help="every node")
    parser.add_argument("-o", "--out", metavar="PLACE", help="of export: a new folder of Markdown, or FILE.jsonl")
    parser.add_argument("--query", metavar="QUERY", help="of export: what this selects")
    args = enter(parser, argv)
    if args.what == "export":
        return _export(args)
    if args.out or args.query:
        where = f"amybuild memory {args.what}"
        raise InputError("-o and --query are of export", where=where, remedy=f"{where} NODE … shows only these")
    if args.what == "pull":
        _pull(args)
    return _status(args) if args.what == "status" else _diff(args)


def _export(args: argparse.Namespace) -> int:
    from amybuild.learned import look
    from amybuild.memory.jsonl import write_jsonl
    from amybuild.memory.write import write_folder

    if not args.out:
        raise InputError("name a place", where="amybuild memory export", remedy="amybuild memory export -o memory-copy")
    if args.nodes and args.query:
        raise InputError("either nodes or a query", where="amybuild memory export")
    graph = look(Path(args.file)).graph
    nodes = [graph.get(key) for key in dict.fromkeys(args.nodes)] or list(graph.select(args.query or "all"))
    place = Path(args.out)
    if os.path.lexists(place):  # never over what is there, nor a half of it beside
        raise InputError("is there already", where=str(place), remedy="name a new folder or file, or move it away")
    files = {"": write_jsonl(nodes)} if place.suffix == ".jsonl" else write_folder(nodes)
    try:
        for name, data in files.items():
            path = place / name if name else place
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(path, "xb") as file:
                file.write(data)
    except OSError as error:
        raise InputError(f"cannot write: {error.strerror}", where=str(error.filename or place)) from None
    if not args.quiet:
        print(f"{len(nodes)} nodes -> {place}", file=sys.stderr)
    return 0


def _pull(args: argparse.Namespace) -> None:
    from amybuild.cache.actions import ActionCache
    from amybuild.personafile.load import load
    from amybuild.snapshots import pull
    from amybuild.versions import open_cache

    persona = load(Path(args.file))
    store, history = open_cache(persona.root, persona.cache)
    found = pull(persona, ActionCache(store), history, time.time())
    if not args.quiet:
        print(f"{found.told}: {len(found.graph.nodes)} nodes, snapshot {found.output[:12]}", file=sys.stderr)


def _look(args: argparse.Namespace) -> tuple[Any, str, str | None]:
    from amybuild.learned import look

    seen = look(Path(args.file))
    build = seen.build.hash if seen.build else ""
    return seen, build, None if seen.recalled is None else _time(seen.recalled.read)


def _time(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(seconds))


def _only(rows: Sequence[Any], nodes: Sequence[str], known: Any) -> list[Any]:
    """The rows of the nodes that were named."""
    from amybuild.errors import did_you_mean

    keys = {row.key for row in rows}
    for node in nodes:
        if node not in known and node not in keys:
            raise InputError(f"no memory node '{node}'", remedy=did_you_mean(node, {*known, *keys}))
    return [row for row in rows if not nodes or row.key in nodes]


def _status(args: argparse.Namespace) -> int:
    from amybuild.learned import status
    from amybuild.report.memory import status_json, status_line, status_table

    seen, build, read = _look(args)
    rows = _only(status(seen), args.nodes, seen.graph.index)
    if args.json:
        print(json.dumps(status_json(rows, build, read), indent=1))
        return 0
    print(status_table(rows, args.all or bool(args.nodes)))
    _below(args, seen, status_line(rows, build))
    return 0


def _diff(args: argparse.Namespace) -> int:
    from amybuild.learned import diff
    from amybuild.report.memory import diff_json, diff_line, diff_table

    seen, build, read = _look(args)
    rows = _only(diff(seen), args.nodes, seen.graph.index)
    if args.json:
        print(json.dumps(diff_json(rows, build, read, str(seen.error) if seen.error else None), indent=1))
        return 0
    text = diff_table(rows, args.all)
    print(text + "\n" if text else "", end="")
    _below(args, seen, diff_line(rows, build))
    return 0


def _below(args: argparse.Namespace, seen: Any, line: str) -> None:
    if not args.quiet:
        print(line + (f"; {seen.recalled.told}" if seen.recalled else ""), file=sys.stderr)
        if seen.error:
            print(f"warning: a build would fail: {seen.error}", file=sys.stderr)
