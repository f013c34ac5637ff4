"""The builds made here: graph, log, show, diff, pin, checkout."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from amybuild.cli.common import builds, command, enter


def graph(argv: Sequence[str]) -> int:
    parser = command("graph", "The DAG of actions.")
    parser.add_argument("targets", nargs="*", metavar="TARGET")
    parser.add_argument("--format", choices=("text", "dot", "mermaid", "json"), default="text")
    parser.add_argument("--actions", action="store_true", help="actions instead of targets")
    args = enter(parser, argv)
    from amybuild.build import Options, Project
    from amybuild.report.dag import render

    project = Project(Options(file=Path(args.file), targets=tuple(args.targets)))
    print(render(project.actions, "json" if args.json else args.format, args.actions, project.graph.whole))
    return 0


def log(argv: Sequence[str]) -> int:
    args = enter(command("log", "The builds made here, newest first."), argv)
    history = builds(args)
    names: dict[str, list[str]] = {}
    for name, hash in history.names().items():
        names.setdefault(hash, []).append(name)
    rows = [{"time": t, "build": h, "variant": v, "names": names.get(h, [])} for t, h, v in reversed(history.log())]
    if args.json:
        print(json.dumps(rows, indent=1))
    for row in [] if args.json else rows:
        print("  ".join(filter(None, (row["build"][:12], row["time"], row["variant"], ", ".join(row["names"])))))
    return 0


def show(argv: Sequence[str]) -> int:
    parser = command("show", "What a build is made of, and what was measured.")
    parser.add_argument("build", nargs="?", metavar="BUILD", help="default: the last one")
    parser.add_argument("--layers", action="store_true", help="interference of the vectors block by block")
    args = enter(parser, argv)
    record = builds(args).find(args.build)
    if args.json:
        print(json.dumps(record.info, indent=1, sort_keys=True))
        return 0
    from amybuild.report.builds import show

    print(show(record.info, args.layers))
    return 0


def diff(argv: Sequence[str]) -> int:
    parser = command("diff", "What differs between two builds: nodes, recipes, coefficients, measured behaviours.")
    parser.add_argument("a", metavar="A")
    parser.add_argument("b", metavar="B")
    args = enter(parser, argv)
    from amybuild.report.builds import difference
    from amybuild.versions import compare, find_root

    result = compare(find_root(Path(args.file)), args.a, args.b)
    print(json.dumps(result, indent=1) if args.json else difference(result))
    return 0


def pin(argv: Sequence[str]) -> int:
    parser = command("pin", "Write Personafile.lock for a build.")
    parser.add_argument("build", nargs="?", metavar="BUILD", help="default: the last one")
    parser.add_argument("--name", help="a name for it, for checkout and diff")
    args = enter(parser, argv)
    from amybuild.versions import pin

    record, path = pin(Path(args.file), args.build, args.name or "")
    if not args.quiet:
        print(f"{path.name} pins build {record.hash[:12]}" + (f" as {args.name}" if args.name else ""), file=sys.stderr)
    return 0


def checkout(argv: Sequence[str]) -> int:
    parser = command("checkout", "Put an earlier build back into dist/, without training.")
    parser.add_argument("build", metavar="BUILD")
    parser.add_argument("-o", "--out", metavar="DIR", help="put it there instead of dist/<persona>")
    args = enter(parser, argv)
    from amybuild.versions import checkout, find_root

    record, folder = checkout(find_root(Path(args.file)), Path(args.out) if args.out else None, args.build)
    if not args.quiet:
        print(f"build {record.hash[:12]} -> {os.path.relpath(folder)}", file=sys.stderr)
    return 0
