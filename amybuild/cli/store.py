"""The cache itself: gc frees what nobody needs, fsck finds damage and mends it, push fills the shared store."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from amybuild.cli.common import command, enter, size_of
from amybuild.errors import InputError
from amybuild.report.text import amount
from amybuild.value import values


def gc(argv: Sequence[str]) -> int:
    parser = command(
        "gc",
        "Free what no pin, recent build, product or running build needs, of any project that uses this cache.",
    )
    parser.add_argument("-n", "--dry-run", action="store_true", help="say what would go")
    parser.add_argument("--keep", type=int, default=10, metavar="N", help="builds to keep of each project (10)")
    parser.add_argument(
        "--max-size", metavar="SIZE", help="keep also what was used last, up to this much in all (for example 20G)"
    )
    args = enter(parser, argv)
    if args.keep < 0:
        raise InputError("must not be negative", where="--keep")
    most = size_of(args.max_size, "--max-size")
    from amybuild.cache.gc import collect
    from amybuild.versions import find_root, open_cache

    store, _ = open_cache(find_root(Path(args.file)))
    found = collect(store.root, keep=args.keep, max_size=most, dry_run=args.dry_run)
    if args.json:
        records = [{"action": action, "key": key} for action, key in found.records]
        sizes = {"dry_run": args.dry_run, "freed": found.freed, "kept": found.kept}
        roots = {"builds": sorted(found.roots.builds), "pins": found.roots.pins, "held": found.roots.held}
        more = {"files": found.files, "roots": roots, "notes": found.notes}
        print(json.dumps({"schema": 1, **sizes, "records": records, **more}))
        return 0
    for action, key in found.records if args.dry_run or not args.quiet else ():
        print(f"{action or 'unreadable record'}  {key[:12]}")
    for note in found.notes:
        print(f"warning: {note}", file=sys.stderr)
    if not args.quiet:
        word = "would free" if args.dry_run else "freed"
        counts = f"{len(found.records)} results, {len(found.files)} files"
        print(f"{word} {amount(found.freed)} ({counts}), kept {amount(found.kept)}", file=sys.stderr)
    return 0


def fsck(argv: Sequence[str]) -> int:
    parser = command(
        "fsck",
        "Hash the whole cache again. Exit 0: clean or repaired, 1: --repair mends it, 5: a pinned build lost results.",
    )
    parser.add_argument("--repair", action="store_true", help="set damage aside, fetch or drop what it hit")
    args = enter(parser, argv)
    from amybuild.cache.fsck import check, damage_error
    from amybuild.versions import find_root, open_cache, shared_of

    file = Path(args.file)
    store, _ = open_cache(find_root(file), shared_of(file))
    try:
        report = check(store, repair=args.repair, told=_progress(args.quiet or args.json))
    finally:
        store.close()
    if args.json:
        damages = [asdict(damage) for damage in report.damages]
        counts = {"objects": report.objects, "bytes": report.bytes, "repaired": report.repaired}
        print(json.dumps({"schema": 1, "clean": report.clean, **counts, "damages": damages, "lost": report.lost}))
    for damage in () if args.json else report.damages:
        print(_line(damage))
    if not args.quiet and not args.json:
        for note in store.notes:
            print(f"note: {note}", file=sys.stderr)
        print(f"{report.objects} objects, {amount(report.bytes)}: {_verdict(report)}", file=sys.stderr)
    if report.lost:
        raise damage_error(report, store.root)
    return 0 if report.clean or report.repaired else 1


def push(argv: Sequence[str]) -> int:
    parser = command(
        "push",
        "Upload a build's results to the shared store, those that are not there: what was made before it was named.",
    )
    parser.add_argument("build", nargs="?", metavar="BUILD", help="of this build (default: the last one)")
    parser.add_argument("--all", action="store_true", help="every result in the cache, of any project that uses it")
    parser.add_argument("-n", "--dry-run", action="store_true", help="say what would go")
    args = enter(parser, argv)
    if args.all and args.build:
        raise InputError("a BUILD and --all exclude each other", where="amybuild push")
    from amybuild.cache.actions import ActionCache
    from amybuild.cache.push import push as send
    from amybuild.versions import find, find_root, open_cache, shared_of

    file = Path(args.file)
    store, history = open_cache(find_root(file), shared_of(file))
    cache = ActionCache(store)
    try:
        keys = cache.keys() if args.all else {id: key for id, (key, _) in find(history, args.build).actions.items()}
        told = _progress(args.quiet or args.json, lambda done, total: f"looked at {done} of {total} results")
        done = send(store, cache, keys, told, dry_run=args.dry_run)
    finally:
        store.close()
    if args.json:
        print(json.dumps({"schema": 1, "dry_run": args.dry_run, **values(done)}))
        return 0
    for action in done.sent if args.dry_run else ():
        print(action)
    for action in done.absent:
        print(f"warning: {action} is no longer whole here", file=sys.stderr)
    if not args.quiet:
        word = "would push" if args.dry_run else "pushed"
        print(f"{word} {len(done.sent)} results ({amount(done.size)}), {len(done.there)} were there", file=sys.stderr)
    return 0


def _hashed(done: int, total: int) -> str:
    return f"hashed {amount(done)} of {amount(total)}"


def _progress(silent: bool, line: Callable[[int, int], str] = _hashed) -> Callable[[int, int], None]:
    """A line every two seconds."""
    last = [time.monotonic()]

    def told(done: int, total: int) -> None:
        if not silent and time.monotonic() - last[0] > 2:
            last[0] = time.monotonic()
            print(line(done, total), file=sys.stderr)

    return told


def _line(damage: Any) -> str:
    builds = [build[:12] for build in damage.builds]
    parts = [f"{damage.kind} {damage.name[:12] if damage.kind != 'state' else damage.name}: {damage.what}"]
    for label, names in (
        ("", damage.actions),
        ("builds ", builds),
        ("pinned as ", damage.pins),
    ):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            parts.append(label + ", ".join(names[:3]) + more)
    return "  ".join([*parts, f"({damage.done})"] if damage.done else parts)


def _verdict(report: Any) -> str:
    if report.clean:
        return "all is well"
    count = f"{len(report.damages)} damaged or missing"
    return (
        f"{count}, repaired; amybuild makes again what it needs" if report.repaired else f"{count}; --repair mends it"
    )
