"""Watching sources: which files a build reads, what changed among them, and waiting until they are quiet again."""

from __future__ import annotations

import contextlib
import importlib
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from amybuild.errors import InputError
from amybuild.personafile.load import read_toml
from amybuild.personafile.schema import WRITTEN

QUIET = 0.3  # seconds without a further change before a build starts: editors and git write in bursts
_POLL = 0.5  # seconds between two looks where the system does not tell of changes …
_DISTRUST = 5.0  # … and where it does: network folders tell of some changes only

Look = Mapping[str, tuple[int, int, int, int]]  # path -> size, mtime, ctime, inode


def sources(file: Path, before: tuple[Path, ...] = ()) -> tuple[Path, ...]:
    """The files and folders that make a build: the Personafile, the recipes, the memory graph if it lies on disk, and
    the chats, stories and examples that targets name.

    While the Personafile cannot be read the places of `before` count.
    """
    root = file.resolve().parent
    try:
        data = read_toml(file)[0]
    except InputError:
        return before or (file.resolve(), root / "recipes", root / "memory")
    graph = data.get("graph", {})
    source = graph.get("source", "memory") if isinstance(graph, dict) else None
    inside = (root / source,) if isinstance(source, str) and "\0" not in source and not _is_address(source) else ()
    return (file.resolve(), root / "recipes", *inside, *(root / path for path in _written(data)))


def _written(data: Mapping[str, Any]) -> Iterator[str]:
    """The paths of what people wrote in the tables of targets, as far as they are paths."""
    groups = [data.get(kind) for kind in ("task", "steer")]
    tables = [data.get("readout"), *(one for group in groups if isinstance(group, dict) for one in group.values())]
    for table in tables:
        for key in WRITTEN if isinstance(table, dict) else ():
            path = table.get(key)
            if isinstance(path, str) and path and "\0" not in path:
                yield path


def _is_address(source: str) -> bool:
    return source.split(":")[0] in ("mcp", "stdio", "http", "https", "unix")


def look(places: Iterable[Path]) -> Look:
    """The stamp of every file in `places`; hidden files (editors' own) do not count, missing ones are not there.

    A link counts itself and as what it leads to; a folder is entered once, under its real name. Links are followed into
    the places and the folders of those that are files: what leads out of them is an error when it is read.
    """
    stack = [os.fspath(place) for place in places]
    homes = tuple({os.path.realpath(name if os.path.isdir(name) else os.path.dirname(name)) for name in stack})
    found: dict[str, tuple[int, int, int, int]] = {}
    met = set()
    while stack:
        name = stack.pop()
        with contextlib.suppress(OSError):  # it went away between two looks
            linked = os.path.islink(name)
            if linked:
                found[name] = _stamp(os.lstat(name))
            if not os.path.isdir(name):
                if not name.endswith("~"):
                    found[name] = _stamp(os.stat(name))
                continue
            real = os.path.realpath(name)
            above = linked and _inside(os.path.dirname(name), real)
            if real not in met and not above and any(_inside(real, home) for home in homes):
                met.add(real)
                stack.extend(f"{real}/{entry.name}" for entry in os.scandir(real) if entry.name[0] != ".")
    return found


def _inside(path: str, folder: str) -> bool:
    return f"{path}/".startswith(f"{folder.rstrip('/')}/")


def _stamp(s: os.stat_result) -> tuple[int, int, int, int]:
    return (s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino)


def changed(before: Look, after: Look) -> list[str]:
    """The files that were edited, came or went, sorted."""
    return sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))


def settle(
    see: Callable[[], Look],
    before: Look,
    idle: Callable[[], None],
    sleep: Callable[[float], None] = time.sleep,
    quiet: float = QUIET,
) -> Look:
    """Wait until `see` shows something else than `before`, and the same for `quiet` seconds. `idle` passes the time."""
    now = see()
    while now == before:
        idle()
        now = see()
    while True:
        sleep(quiet)
        later = see()
        if later == now:
            return now
        now = later


class Notices:
    """Sleeps until the system tells of a change below some places (watchfiles), or for a while (without it)."""

    def __init__(self) -> None:
        self._told, self._stop = threading.Event(), threading.Event()
        self._places: tuple[Path, ...] = ()
        try:
            self._watch: Callable[..., Iterable[Any]] | None = importlib.import_module("watchfiles").watch
        except ImportError:
            self._watch = None

    def follow(self, places: tuple[Path, ...]) -> None:
        """Take `places` instead of the ones before. Of a file its folder is followed: editors replace files."""
        if self._watch is None or places == self._places:
            return
        self.close()
        self._places, self._stop = places, threading.Event()
        folders = {place for place in places if place.is_dir()}
        above = {place.parent for place in places}
        for group, deep in ((folders, True), (above - folders, False)):
            if group:
                threading.Thread(target=self._listen, args=(group, deep, self._stop), daemon=True).start()

    def _listen(self, folders: set[Path], deep: bool, stop: threading.Event) -> None:
        assert self._watch is not None
        with contextlib.suppress(OSError, RuntimeError):  # too many folders for the system: the distrust remains
            for _ in self._watch(*folders, recursive=deep, watch_filter=None, stop_event=stop, debounce=50, step=20):
                self._told.set()

    def idle(self) -> None:
        self._told.wait(_POLL if self._watch is None else _DISTRUST)
        self._told.clear()

    def close(self) -> None:
        self._stop.set()
