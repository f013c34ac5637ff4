"""Snapshots: what a memory server said, kept by content, so that no build depends on the server twice.

When a server is asked (`Ask`):

* A plain build asks when the last answer is older than `[graph] pull` (a minute, if it says nothing). Within that time
  it works from the snapshot, and a no-op is answered by stat alone; its line says as of when.
* `--pull` and `amybuild memory pull` ask now. `--offline`, and whatever only looks (`--explain`, `-n`, `graph`,
  `memory status`), never ask. `--locked` takes the snapshot that the lock pins.
* A server that does not answer is no failure of a build that has a snapshot: it is told, and nothing is kept of it, so
  the next build asks again. A server that says what is wrong (`InputError`) fails the build: its memory wants mending.

A snapshot is a tree of canonical nodes under a record of its own, so it is held, collected, checked and shared like the
result of an action. The last one of each source stays, and those of every build that is kept.
"""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass, replace
from enum import Enum

from amybuild.cache.actions import ActionCache, Record
from amybuild.cache.history import SNAPSHOT, History
from amybuild.cache.store import disk_errors
from amybuild.digest import digest_value
from amybuild.errors import CacheDamage, InputError, PinError
from amybuild.memory.address import is_server, shown
from amybuild.memory.graph import MemoryGraph
from amybuild.memory.mcp import Limits, Unreachable
from amybuild.memory.reading import Reading
from amybuild.memory.snapshot import pack, shelve_files
from amybuild.memory.source import read_source
from amybuild.personafile.schema import VARIABLE, Persona


class Ask(Enum):
    """When a memory server is asked anew."""

    NEVER = "never"
    DUE = "due"
    NOW = "now"
    PINNED = "pinned"


@dataclass(frozen=True)
class Recalled:
    """A graph as it was read from a server at `read` (unix seconds), and the snapshot that holds it.

    `until`: when the server is to be asked again (None: not by itself)."""

    graph: MemoryGraph
    key: str
    output: str
    read: float
    until: float | None
    notes: tuple[str, ...] = ()

    @property
    def told(self) -> str:
        """As of when, for people."""
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(self.read))
        return f"memory read {when}"


def recall(
    persona: Persona, cache: ActionCache, history: History, ask: Ask, now: float, reading: Reading | None = None
) -> Recalled:
    """The memory of a persona whose graph a server keeps: from a snapshot, or asked now, as `ask` says.

    `reading` knows the files of snapshots that were read earlier, and learns those that are read now."""
    reading = reading or Reading()
    if ask is Ask.PINNED:
        return _pinned(persona, cache, history, now, reading)
    last = _last(persona, cache, history, reading)
    if last is not None and (ask is Ask.NEVER or (ask is Ask.DUE and not _due(last, now))):
        return last
    if ask is Ask.NEVER:
        remedy = "amybuild memory pull asks the server"
        raise InputError("nothing was read from this server yet", where=shown(persona.graph), remedy=remedy)
    try:
        return pull(persona, cache, history, now)
    except Unreachable as error:
        if last is None or ask is Ask.NOW:
            raise
        return replace(last, until=now, notes=(f"{error.where}: {error.what}; {last.told} is used", *last.notes))


def _due(last: Recalled, now: float) -> bool:
    return last.until is not None and not last.read <= now < last.until  # a clock that was set back proves nothing


def pull(persona: Persona, cache: ActionCache, history: History, now: float) -> Recalled:
    """Ask the server, and keep what it says: whole, or nothing of it."""
    if not is_server(persona.graph):
        remedy = "amybuild reads it whenever it builds; amybuild memory diff shows what changed"
        raise InputError("the memory lies in files: there is no server to ask", where="[graph] source", remedy=remedy)
    limits = Limits(seconds=persona.server.timeout)
    graph = read_source(persona.graph, persona.root, limits=limits, headers=_headers(persona))
    store = cache.store
    try:
        room = store.scratch()
        with disk_errors(room):
            for name, data in pack(graph.nodes):
                (room / name).write_bytes(data)
        output = store.put_tree(room)
        key = snapshot_key(output)
        if cache.lookup(key) is None:
            when = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(now))
            cache.publish(Record(SNAPSHOT, "snapshot", key, (), output, 0.0, when))
        history.set_snapshot(_source(persona), output, now)  # from here on history keeps it from a collection
    finally:
        store.close()
    return Recalled(graph, key, output, now, _until(persona, now))


def _headers(persona: Persona) -> dict[str, str]:
    """The headers of a request to the server, with what the environment says in them."""
    headers = persona.server.headers
    if headers and not persona.graph.startswith(("http:", "https:")):
        raise InputError("only HTTP has headers", where="[graph] headers", remedy="remove them")

    def value(found: re.Match[str]) -> str:
        name = found[1] or found[2]
        text = os.environ.get(name, "")
        if not (text and text.isascii() and text.isprintable()):
            what = f"the environment variable {name} is {'no plain text' if text else 'not set'}"
            raise InputError(what, where="[graph] headers", remedy="set it, or build with --offline")
        return text

    return {name: VARIABLE.sub(value, template) for name, template in headers.items()}


def snapshot_key(output: str) -> str:
    """The key of the record under which a snapshot is kept: it follows from what it holds."""
    return digest_value("snapshot", output)


def _source(persona: Persona) -> str:
    """The name of a source in the state: addresses may hold secrets."""
    return digest_value("source", persona.graph)[:16]


def _until(persona: Persona, read: float) -> float | None:
    return None if persona.server.fresh is None else read + persona.server.fresh


def _last(persona: Persona, cache: ActionCache, history: History, reading: Reading) -> Recalled | None:
    """What the server said last; None when nothing is known, or it is no longer whole."""
    output, read = history.snapshot(_source(persona))
    graph = _read(cache, output, persona, reading) if output else None
    return None if graph is None else Recalled(graph, snapshot_key(output), output, read, _until(persona, read))


def _pinned(persona: Persona, cache: ActionCache, history: History, now: float, reading: Reading) -> Recalled:
    from amybuild.pins import pinned_build, read_lock

    lock = read_lock(persona.file)
    account = pinned_build(lock) or next(iter(lock.accounts.values()), None)  # a merged lock: of either side
    key, output = account.pins.get(SNAPSHOT, ("", "")) if account else ("", "")
    if not output:
        where, remedy = f"{persona.file.stem}.lock", "amybuild, then amybuild pin"
        raise PinError("it pins no snapshot of the memory", where=where, remedy=remedy)
    graph = _read(cache, output, persona, reading)
    if graph is None:
        remedy = "point AMYBUILD_CACHE or [cache] remote at a cache that has it"
        raise PinError(f"the pinned snapshot {output[:12]} is not in the cache", where="memory", remedy=remedy)
    last, read = history.snapshot(_source(persona))
    return Recalled(graph, key, output, read if last == output else now, None)


def _read(cache: ActionCache, output: str, persona: Persona, reading: Reading) -> MemoryGraph | None:
    """The graph of a snapshot; None when it is not whole here, or what lies there is no snapshot."""
    store = cache.store
    if cache.lookup(snapshot_key(output)) is None:
        return None
    try:
        files = store.tree(output)
        if files is None or not all(store.object_path(entry.digest).exists() for entry in files.values()):
            _fetch(cache, output)
            files = store.tree(output) or {}
        paths = {name: os.fspath(store.object_path(entry.digest)) for name, entry in files.items()}
        return MemoryGraph(shelve_files(paths, reading), shown(persona.graph)) if paths else None
    except (CacheDamage, InputError):
        return None


def _fetch(cache: ActionCache, output: str) -> None:
    """Bring a snapshot from the shared store, whole."""
    store = cache.store
    store.begin()
    try:
        cache.lookup(snapshot_key(output))
        for name in store.tree(output) or ():
            store.read_file(output, name)
    finally:
        store.close()
