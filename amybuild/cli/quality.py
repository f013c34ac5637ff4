"""`amybuild quality`: what the readouts of a build are worth, as tables, JSON or heat maps."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from amybuild.cli.common import command, enter
from amybuild.errors import InputError, did_you_mean


def quality(argv: Sequence[str]) -> int:
    parser = command("quality", "What the readouts are worth on held-out texts, beside what words and chance give.")
    parser.add_argument("target", nargs="?", metavar="TARGET", default="readout", help="readout or steer.NAME")
    parser.add_argument("--build", metavar="BUILD", help="of which build (default: @, the last)")
    parser.add_argument("--plots", metavar="DIR", help="draw cosine, confusion and estimators into DIR")
    parser.add_argument("--format", choices=("svg", "png"), default="svg", help="of the plots")
    args = enter(parser, argv)
    from amybuild.versions import find, find_root, open_cache

    store, history = open_cache(find_root(Path(args.file)))
    record = find(history, args.build)
    known = [id.removesuffix("/quality") for id in record.actions if id.endswith("/quality")]
    if args.target not in known:
        remedy = did_you_mean(args.target, known) or (f"measured are {', '.join(known)}" if known else "build it first")
        raise InputError(f"no quality of '{args.target}' in build {record.hash[:12]}", remedy=remedy)
    data = store.read_file(record.actions[f"{args.target}/quality"][1], "quality.json")
    if data is None:
        raise InputError(
            f"the report of build {record.hash[:12]} is no longer in the cache", remedy="run amybuild again"
        )
    report = json.loads(data)
    if args.plots:
        from amybuild.report.plots import heat_maps

        for path in heat_maps(report, Path(args.plots), args.format):
            print(path, file=sys.stderr)
    if args.json:
        print(json.dumps(report, indent=1, sort_keys=True, ensure_ascii=False))
    else:
        from amybuild.report.readout import full

        print(full(report))
    return 0
