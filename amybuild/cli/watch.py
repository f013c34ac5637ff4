"""`amybuild watch`: build, and build again whenever the Personafile, a recipe or the memory graph is edited."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from amybuild.cli import build
from amybuild.cli.common import command, enter
from amybuild.errors import ActionError, AmyError, Interrupted


def watch(argv: Sequence[str]) -> int:
    parser = command("watch", "Build, and build again after every edit, until Ctrl-C (which exits with 130).")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="as for amybuild (default: persona)")
    parser.add_argument("-j", "--jobs", type=int, default=2, metavar="N", help="at most N actions at once")
    parser.add_argument("-k", "--keep-going", action="store_true", help="after a failure build what it does not touch")
    args = enter(parser, argv)
    from amybuild.versions import find_root
    from amybuild.watch import Notices, changed, look, settle, sources

    file = Path(args.file)
    root = find_root(file)
    notices, places, identity = Notices(), sources(file), None
    try:
        while True:
            before = look(places)  # before anything is read: what is edited from now on is seen after the build
            notices.follow(places)
            identity = _build(args, identity)
            after = settle(partial(look, places), before, notices.idle)
            _say(args, [os.path.relpath(name, root) for name in changed(before, after)])
            places = sources(file, places)
    finally:
        notices.close()


def _build(args: argparse.Namespace, identity: Any) -> Any:
    """Build as `amybuild` would; an error is shown, and the next edit may mend it. Returns the code it ran with."""
    from amybuild.build import Options, Project

    try:
        options = Options(Path(args.file), tuple(args.targets), jobs=args.jobs, keep_going=args.keep_going)
        project = Project(options)
    except AmyError as error:
        print(f"amybuild: {error}", file=sys.stderr, flush=True)
        return identity
    if identity not in (None, project.identity):  # this process still has the old code: its keys would lie
        raise ActionError("amybuild or a library it uses changed", remedy="start amybuild watch again")
    try:
        build._execute(project, project.plan(), args)
    except Interrupted:
        raise
    except AmyError as error:
        print(f"amybuild: {error}", file=sys.stderr, flush=True)
    return project.identity


def _say(args: argparse.Namespace, names: list[str]) -> None:
    if args.json:
        print(json.dumps({"event": "change", "files": names}), flush=True)
    elif not args.quiet:
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        print(f"{time.strftime('%H:%M:%S')} changed: {', '.join(names[:3])}{more}", file=sys.stderr, flush=True)
