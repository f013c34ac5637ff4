"""Builds as versions: the log, pins, locks, checkout, and what differs between two."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amybuild.cache.actions import ActionCache, Record
from amybuild.cache.history import BuildRecord, History
from amybuild.cache.store import Store, write_atomic
from amybuild.errors import ActionError, InputError, PinError
from amybuild.personafile.lock import Lock, parse, render
from amybuild.plan.key import Component, components_from_json

CACHE_VERSION = "v1"


@dataclass(frozen=True)
class Known:
    """A cached result as the planner sees it."""

    output: str
    seconds: float
    components: tuple[Component, ...]


def known_of(record: Record | None) -> Known | None:
    """A record as the planner sees it."""
    if record is None:
        return None
    return Known(record.output, record.seconds, components_from_json(record.manifest))


def open_cache(root: Path) -> tuple[Store, History]:
    """The cache of the project at `root`: ``cache/`` there, or the folder that AMYBUILD_CACHE names."""
    place = os.environ.get("AMYBUILD_CACHE")
    cache = (Path(place).expanduser() if place else root / "cache").absolute() / CACHE_VERSION
    return Store(cache), History(cache, root.resolve())


def find_root(file: Path) -> Path:
    """The project folder of a Personafile that need not be valid (history commands)."""
    if not file.is_file():
        remedy = "run amybuild where Personafile.toml is, or name it with -f / -C"
        raise InputError("no such file", where=str(file), remedy=remedy)
    return file.resolve().parent


def read_lock(file: Path) -> Lock:
    """The lock beside a Personafile; `PinError` when there is none."""
    return parse(file.with_suffix(".lock"))


def check_locked(lock: Lock, found: Mapping[str, tuple[str, str | None]]) -> None:
    """`found` (action -> its key, its output if known) must be what `lock` pins, else `PinError`."""
    for id, (key, output) in found.items():
        remedy = f"amybuild --explain {id.rpartition('/')[0]} says what changed; amybuild pin accepts it after a build"
        if id not in lock.actions:
            raise PinError(f"{id} is not pinned", where="Personafile.lock", remedy=remedy)
        if key != lock.actions[id][0]:
            raise PinError(f"{id} is not what is pinned", where="Personafile.lock", remedy=remedy)
        if output is not None and output != lock.actions[id][1]:
            what = f"{id} has another result than the pinned one"
            raise PinError(
                what, where="Personafile.lock", remedy="see DESIGN.md, What is bit-exact; the pinned one stays"
            )


def pin(file: Path, wanted: str | None, name: str) -> tuple[BuildRecord, Path]:
    """Write the lock of a build (the last one for None) beside its Personafile; `name` is for checkout and diff."""
    _, history = open_cache(find_root(file))
    record = history.find(wanted)
    path = file.with_suffix(".lock")
    text = render(Lock(record.hash, record.base, record.graph, record.actions, name))
    if name:
        history.name(name, record.hash)
    write_atomic(path, text.encode())
    return record, path


def checkout(root: Path, out: Path | None, wanted: str) -> tuple[BuildRecord, Path]:
    """Put an earlier build back into its folder from the store, without running anything."""
    from amybuild.product import publish

    store, history = open_cache(root)
    record = history.find(wanted)
    missing = [id for id, (_, output) in record.actions.items() if store.tree(output) is None]
    needed = [id for id in missing if id.startswith("checkpoint/") or id.endswith("/vectors")]
    if needed:
        raise ActionError(
            f"{', '.join(needed)} of build {record.hash[:12]} is no longer in the cache",
            remedy="take its Personafile and memory from your version control and run amybuild",
        )
    folder = (out if out is not None else root / "dist" / record.persona).absolute()
    stamps = publish(store, record.info, folder, history.product(folder).get("files", {}))
    history.set_product(folder, record.hash, stamps)
    return record, folder


def compare(root: Path, a: str, b: str) -> dict[str, Any]:
    """What differs between two builds: components of each action, and what was measured."""
    from amybuild.plan.explain import differences

    store, history = open_cache(root)
    cache = ActionCache(store)
    one, two = history.find(a), history.find(b)
    actions: dict[str, Any] = {}
    for id in sorted(one.actions.keys() | two.actions.keys()):
        old, new = one.actions.get(id), two.actions.get(id)
        if old == new:
            continue
        if old is None or new is None:
            actions[id] = {"only_in": two.hash[:12] if old is None else one.hash[:12]}
            continue
        before, after = known_of(cache.record(old[0])), known_of(cache.record(new[0]))
        changes = differences(before.components, after.components) if before and after else ()
        rows = [{"kind": c.kind, "name": c.name, "old": c.old, "new": c.new} for c in changes if c.kind != "input"]
        actions[id] = {"same_output": old[1] == new[1], "changes": rows}
    measured = {}
    for hash, record in ((one.hash, one), (two.hash, two)):
        measured[hash] = record.info.get("verification", {})
    return {"a": one.hash, "b": two.hash, "actions": actions, "verification": measured}
