"""`amybuild watch`: build, and build again whenever the Personafile, a recipe or the memory graph is edited."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amybuild.cli import build
from amybuild.cli.common import command, enter
from amybuild.errors import ActionError, AmyError, InputError, Interrupted

if TYPE_CHECKING:
    from amybuild.watch import Look

_SERVER = "what the memory server says"


def watch(argv: Sequence[str]) -> int:
    parser = command("watch", "Build, and build again after every edit, until Ctrl-C (which exits with 130).")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="as for amybuild (default: persona)")
    parser.add_argument("-j", "--jobs", type=int, default=2, metavar="N", help="at most N actions at once")
    parser.add_argument("-k", "--keep-going", action="store_true", help="after a failure build what it does not touch")
    parser.add_argument("--poll", type=float, metavar="SECONDS", help="ask the memory server that often, too")
    args = enter(parser, argv)
    if args.poll is not None and not args.poll > 0:
        raise InputError("must be more than 0", where="--poll")
    from amybuild.versions import find_root
    from amybuild.watch import Notices, changed, look, settle, sources

    file = Path(args.file)
    root = find_root(file)
    notices, places, identity = Notices(), sources(file), None
    poll = _Poll(file, args.poll)
    try:
        while True:
            see = partial(_see, look, places, poll)
            before = see()  # before anything is read: what is edited from now on is seen after the build
            notices.follow(places)
            identity = _build(args, identity)
            after = settle(see, before, notices.idle)
            names = changed(before, after)
            _say(args, [name if name == _SERVER else os.path.relpath(name, root) for name in names])
            places = sources(file, places)
    finally:
        notices.close()


def _see(look: Callable[[tuple[Path, ...]], Look], places: tuple[Path, ...], poll: _Poll) -> Look:
    return {**look(places), **poll.look()}


class _Poll:
    """What the memory server said last, as if that were a file: asked again every so many seconds (None: never)."""

    def __init__(self, file: Path, seconds: float | None) -> None:
        self._file, self._seconds = file, seconds
        self._due, self._told = 0.0, ""
        self._seen: dict[str, tuple[int, int, int, int]] = {}

    def look(self) -> Look:
        if self._seconds is not None and time.monotonic() >= self._due:
            told = ""
            try:
                self._seen = {_SERVER: (int(_pulled(self._file)[:15], 16), 0, 0, 0)}
            except AmyError as error:  # a build tells what is wrong with a project; the server may come back
                told = str(error)
            if told not in ("", self._told):
                print(f"amybuild: {told}", file=sys.stderr, flush=True)
            self._told = told
            self._due = time.monotonic() + self._seconds
        return self._seen


def _pulled(file: Path) -> str:
    from amybuild.cache.actions import ActionCache
    from amybuild.personafile.load import load
    from amybuild.snapshots import pull
    from amybuild.versions import open_cache

    persona = load(file)
    store, history = open_cache(persona.root, persona.cache)
    return pull(persona, ActionCache(store), history, time.time()).output


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
