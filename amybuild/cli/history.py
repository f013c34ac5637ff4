"""The builds made here: graph, log, show, diff, pin, checkout, rollback."""

from __future__ import annotations

import datetime
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from amybuild.cli.common import command, enter
from amybuild.errors import AmyError, InputError


def graph(argv: Sequence[str]) -> int:
    parser = command("graph", "The mapping drawn: memory nodes -> corpora -> targets -> product.")
    parser.add_argument("targets", nargs="*", metavar="TARGET")
    parser.add_argument("--format", choices=("text", "dot", "mermaid", "json"), default="text")
    parser.add_argument("--actions", action="store_true", help="actions instead of targets")
    args = enter(parser, argv)
    from amybuild.build import Options, Project
    from amybuild.report.dag import render

    project = Project(Options(file=Path(args.file), targets=tuple(args.targets)))
    persona = project.persona
    queries = {task.target: task.query for task in persona.tasks if task.query}
    queries |= {steer.target: steer.query for steer in persona.steers if steer.query}
    queries |= {"readout": persona.readout.query} if persona.readout and persona.readout.query else {}
    form = "json" if args.json else args.format
    print(render(project.actions, form, args.actions, project.graph.whole, queries))
    return 0


_BUILD = "a hash or the beginning of one, a name, @ (the last line of the log) or @~N (N lines before it)"


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _tell(args: Any, said: str, **facts: Any) -> None:
    """What was done: in words for people, as JSON for programs."""
    if args.json:
        print(json.dumps({"schema": 1, **facts}))
    elif not args.quiet:
        print(said, file=sys.stderr)


def _root(args: Any) -> Path:
    from amybuild.versions import find_root

    return find_root(Path(args.file))


def log(argv: Sequence[str]) -> int:
    parser = command("log", "The builds made here, newest first, and what changed from each to the next.")
    parser.add_argument("-n", type=int, metavar="N", help="the last N lines (default 20, with --json all; 0: all)")
    args = enter(parser, argv)
    if args.n is not None and args.n < 0:
        raise InputError("must be at least 0", where="-n")
    from amybuild.report.builds import log_lines, words
    from amybuild.versions import CHECKOUT, ROLLBACK
    from amybuild.versions import log as read

    lines, count = read(_root(args), (None if args.json else 20) if args.n is None else args.n or None)
    rows: list[dict[str, Any]] = []
    for line in lines:
        how, _, variant = line.how.partition(" ")
        if how not in (ROLLBACK, CHECKOUT):
            how, variant = "build", line.how
        changed = words(line.since) if line.since else ""
        rows.append({"time": line.time, "build": line.build, "variant": variant, "names": list(line.names)})
        rows[-1] |= {"how": how, "changed": changed}
    if args.json:
        print(json.dumps(rows, indent=1))
    elif rows:
        print(log_lines(rows, count - len(rows)))
    return 0


def show(argv: Sequence[str]) -> int:
    parser = command("show", "What a build is made of, and what was measured.")
    parser.add_argument("build", nargs="?", metavar="BUILD", help=f"{_BUILD}; default: @")
    parser.add_argument("--layers", action="store_true", help="interference of the vectors block by block")
    args = enter(parser, argv)
    from amybuild.versions import find, open_cache

    record = find(open_cache(_root(args))[1], args.build)
    if args.json:
        print(json.dumps(record.info, indent=1, sort_keys=True))
        return 0
    from amybuild.report.builds import show

    print(show(record.info, args.layers))
    return 0


def diff(argv: Sequence[str]) -> int:
    parser = command("diff", "What differs between two builds: nodes, recipes, coefficients, measured behaviours.")
    parser.add_argument("a", metavar="A", help=_BUILD)
    parser.add_argument("b", metavar="B", nargs="?", default="@", help="the same; default: @")
    parser.add_argument("--stat", action="store_true", help="names only, no texts")
    parser.add_argument("--all", action="store_true", help="every cause, whole diffs")
    args = enter(parser, argv)
    from amybuild.report.builds import difference, difference_json
    from amybuild.report.why import Texts
    from amybuild.versions import compare, kept_texts

    one, two, found = compare(_root(args), args.a, args.b)
    if args.json:
        print(json.dumps(difference_json(found, one.info, two.info), indent=1))
    else:
        texts = Texts(*kept_texts(_root(args)))
        print(difference(found, one.info, two.info, texts, stat=args.stat, show_all=args.all))
    return 0


def pin(argv: Sequence[str]) -> int:
    parser = command("pin", "Write Personafile.lock for a build.")
    parser.add_argument("build", nargs="?", metavar="BUILD", help=f"{_BUILD}; default: @")
    parser.add_argument("--name", help="a name for it, for checkout and diff")
    parser.add_argument("--list", action="store_true", help="the builds that have a name, and the one in the lock")
    parser.add_argument("--remove", metavar="NAME", help="forget a name")
    args = enter(parser, argv)
    from amybuild import pins

    file = Path(args.file)
    if sum((args.list, args.remove is not None, bool(args.build or args.name))) > 1:
        raise InputError("--list, --remove and what is to be pinned exclude each other", where="amybuild pin")
    if args.list:
        _print_pins(pins.pins(file), args.json)
    elif args.remove is not None:
        still = pins.unpin(file, args.remove)
        said = f"{args.remove} is forgotten" + ("; Personafile.lock still pins that build" if still else "")
        _tell(args, said, removed=args.remove, locked=still)
    else:
        record, path = pins.pin(file, args.build, args.name or "")
        said = f"{path.name} pins build {record.hash[:12]}" + (f" as {args.name}" if args.name else "")
        _tell(args, said, build=record.hash, lock=os.fspath(path), name=args.name or "")
    return 0


def _print_pins(rows: Sequence[Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    width = max((len(row["name"]) for row in rows), default=0)
    for row in rows:
        told = [f"{row['name']:<{width}}", row["build"][:12], row["time"][:16].replace("T", " "), row["variant"]]
        print("  ".join(filter(None, [*told, "Personafile.lock" if row["locked"] else ""])).rstrip())


def checkout(argv: Sequence[str]) -> int:
    parser = command("checkout", "Put an earlier build back into dist/, without training.")
    parser.add_argument("build", nargs="?", metavar="BUILD", help=_BUILD)
    parser.add_argument(
        "--lock",
        nargs="?",
        const="",
        metavar="FILE",
        help="the build that a lock pins (default: Personafile.lock), from lock and cache alone: "
        "without the Personafile and without the memory",
    )
    parser.add_argument("-o", "--out", metavar="DIR", help="put it there instead of dist/<persona>")
    args = enter(parser, argv)
    if (args.build is None) == (args.lock is None):
        raise InputError("name a build, or --lock", where="amybuild checkout", remedy="amybuild log lists the builds")
    out = Path(args.out) if args.out else None
    if args.lock is None:
        from amybuild.versions import checkout

        record, folder = checkout(Path(args.file), out, args.build, _now())
    else:
        from amybuild.pins import checkout_lock

        record, folder = checkout_lock(Path(args.lock or Path(args.file).with_suffix(".lock")), out, _now())
    said = f"build {record.hash[:12]} -> {os.path.relpath(folder)}"
    _tell(args, said, build=record.hash, folder=os.fspath(folder))
    return 0


def rollback(argv: Sequence[str]) -> int:
    parser = command("rollback", "Put the build before the current product's back into dist/, without training.")
    parser.add_argument("steps", nargs="?", type=int, default=1, metavar="N", help="go N builds back (default 1)")
    args = enter(parser, argv)
    if args.steps < 1:
        raise InputError("must be at least 1", where="amybuild rollback N")
    from amybuild.report.builds import words
    from amybuild.versions import compare, rollback

    root = _root(args)
    record, before, folder = rollback(Path(args.file), args.steps, _now())
    if args.json or not args.quiet:
        undone = words(compare(root, record.hash, before)[2])
        said = (
            f"build {record.hash[:12]} -> {os.path.relpath(folder)}, instead of {before[:12]}\nundone there: {undone}"
        )
        _tell(args, said, build=record.hash, folder=os.fspath(folder), instead_of=before, undone=undone)
    if not args.json and not args.quiet:
        print(_next_build(Path(args.file), record.hash), file=sys.stderr)
    return 0


def _next_build(file: Path, hash: str) -> str:
    """What the next plain build does to a product that was put back, and how to stay with it."""
    from amybuild.build import declared

    try:
        if declared(file) == hash:
            return "it is what Personafile and memory say now"
    except AmyError:
        pass  # the memory server may be gone: the product is back all the same
    return (
        "Personafile and memory say otherwise: the next plain amybuild brings their build back. To stay with this one "
        f"undo\nthat in them; amybuild pin {hash[:12]} keeps it in Personafile.lock, for amybuild checkout --lock"
    )
