"""`amybuild sweep KEY=V,V,…`: many coefficients, each linked and measured, none trained, none published."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from amybuild.cli.common import command, enter
from amybuild.errors import InputError


def sweep(argv: Sequence[str]) -> int:
    parser = command("sweep", "Link and measure many settings of the coefficients; trains nothing, leaves dist/ alone.")
    parser.add_argument(
        "axes", nargs="+", metavar="KEY=V,V,…", help="for example link.lambda=0.8,1.0 task.x.alpha=0.5,1"
    )
    parser.add_argument("--max", type=int, default=32, metavar="N", help="refuse more settings than this (default 32)")
    parser.add_argument("--rank-by", choices=("min", "mean"), default="min", help="the gain that makes a setting best")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="in every setting")
    args = enter(parser, argv)
    if args.max < 1:
        raise InputError("must be at least 1", where="--max")
    from amybuild.build import Options, Variant
    from amybuild.report.progress import Silent
    from amybuild.report.sweep import sweep_table
    from amybuild.report.text import duration
    from amybuild.sweep import Sweep, as_json, axes_of

    one = Sweep(Options(Path(args.file), variant=Variant(sets=tuple(args.set))), axes_of(args.axes), args.max)
    alone, found = one.alone(), []
    for number, setting in enumerate(one.settings, 1):
        began = time.monotonic()
        found.append(one.measure(setting, alone, Silent()))
        if not args.quiet:
            seconds = duration(time.monotonic() - began)
            did = "from the cache" if not found[-1].ran else f"{found[-1].ran} ran"
            print(f"[{number}/{len(one.settings)}] {setting.label}  {did}, {seconds}", file=sys.stderr, flush=True)
    result = as_json(found, one, args.rank_by)
    print(json.dumps(result, indent=1) if args.json else sweep_table(result))
    return 1 if any(row.error for row in found) else 0
