"""Builds as versions: finding them, the log, checkout and rollback, and what differs between two."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from amybuild.cache.actions import ActionCache, Record
from amybuild.cache.disk import tellable
from amybuild.cache.history import BESIDE, BuildRecord, History
from amybuild.cache.sources import Sources
from amybuild.cache.store import Store
from amybuild.errors import ActionError, InputError, did_you_mean
from amybuild.personafile.schema import Cache
from amybuild.plan.change import Difference, differences
from amybuild.plan.key import Component, components_from_json

if TYPE_CHECKING:
    from amybuild.cache.layered import Shared

CACHE_VERSION = "v1"
ROLLBACK, CHECKOUT = "rollback", "checkout"  # how a build became the current one, where no build did it


@dataclass(frozen=True)
class Known:
    """A cached result as the planner sees it."""

    output: str
    seconds: float
    components: tuple[Component, ...]
    finished: str = ""


def known_of(record: Record | None) -> Known | None:
    """A record as the planner sees it."""
    if record is None:
        return None
    return Known(record.output, record.seconds, components_from_json(record.manifest), record.finished)


def open_cache(root: Path, shared: Cache | None = None) -> tuple[Store, History]:
    """The cache of the project at `root`: ``cache/`` there, or the folder that AMYBUILD_CACHE names.

    Behind it stands the shared store that AMYBUILD_REMOTE names ('' for none), or a URL in AMYBUILD_CACHE, or `shared`.
    """
    place = os.environ.get("AMYBUILD_CACHE", "")
    url, where = (shared.remote, shared.where) if shared is not None else (None, "[cache] remote")
    if "://" in place:
        url, where, place = place, "AMYBUILD_CACHE", ""
    if "AMYBUILD_REMOTE" in os.environ:
        url, where = os.environ["AMYBUILD_REMOTE"], "AMYBUILD_REMOTE"
    cache = (Path(place).expanduser() if place else root / "cache").absolute() / CACHE_VERSION
    for folder in (tellable(cache).parent, cache):
        if folder.exists() and not folder.is_dir():
            remedy = "move it away, or point AMYBUILD_CACHE at another folder"
            raise InputError("not a folder", where=str(folder), remedy=remedy)
    readonly = shared is not None and shared.readonly
    return Store(cache, _shared(cache, url, where, readonly) if url else None), History(cache, tellable(root.resolve()))


def _shared(cache: Path, url: str, where: str, readonly: bool) -> Shared:
    """Made when it is configured, opened when it is first asked."""
    from amybuild.cache.layered import Shared
    from amybuild.cache.remote import check_url, open_place

    check_url(url, where)
    return Shared(cache, url, lambda: open_place(url, where, CACHE_VERSION), readonly)


def shared_of(file: Path) -> Cache | None:
    """The [cache] table of a Personafile that need not be valid."""
    from amybuild.personafile.load import read_toml

    try:
        table = read_toml(file)[0].get("cache")
    except InputError:
        return None
    if not isinstance(table, dict) or not isinstance(table.get("remote"), str):
        return None
    return Cache(f"{file.name} [cache] remote", table["remote"], table.get("readonly") is True)


def find_root(file: Path) -> Path:
    """The project folder of a Personafile that need not be valid (history commands)."""
    if not file.is_file():
        remedy = "run amybuild where Personafile.toml is, or name it with -f / -C"
        raise InputError("no such file", where=str(file), remedy=remedy)
    return file.resolve().parent


# finding


def find(history: History, wanted: str | None) -> BuildRecord:
    """A build by hash, prefix, name, or place in the log: `@` (or None) is the last one, `@~2` two lines before it."""
    place = re.fullmatch(r"@(?:~(\d*))?", wanted or "")
    if place is None:
        try:
            return history.find(wanted)
        except InputError as error:
            near = did_you_mean(wanted or "", history.names())
            raise InputError(error.what, remedy=near or error.remedy) from None
    back = 0 if place[1] is None else int(place[1] or 1)
    log = history.log()
    if back >= len(log):
        lines = "1 line" if len(log) == 1 else f"{len(log)} lines"
        raise InputError(f"{wanted}: the log has {lines}", remedy="amybuild log shows them")
    return history.find(log[-1 - back][1])


def last_of(history: History, file: Path) -> BuildRecord:
    """The last build of the persona that `file` is about (several can live in one folder), or of any."""
    from amybuild.personafile.load import read_toml

    try:
        name = read_toml(file)[0]["persona"]["name"]
    except (InputError, KeyError, TypeError):
        name = None
    for _, hash, _ in reversed(history.log()):
        record = history.read(hash)
        if record and record.persona == name:
            return record
    return find(history, None)


# going back


def checkout(file: Path, out: Path | None, wanted: str, when: str) -> tuple[BuildRecord, Path]:
    """Put an earlier build back into its folder from the store, without running anything."""
    root = find_root(file)
    store, history = open_cache(root, shared_of(file))
    record = find(history, wanted)
    return record, put_back(store, history, root, out, record, when, CHECKOUT)


def put_back(
    store: Store, history: History, root: Path, out: Path | None, record: BuildRecord, when: str, how: str
) -> Path:
    """Publish a recorded build from the store (into `out`, which the log does not tell, or ``dist/<persona>``)."""
    try:
        store.begin()  # what is found from here on stays until the product is in place
        return _put_back(store, history, root, out, record, when, how)
    finally:
        store.close()


def _put_back(
    store: Store, history: History, root: Path, out: Path | None, record: BuildRecord, when: str, how: str
) -> Path:
    from amybuild.product import publish

    cache = ActionCache(store)
    needed = []
    for id, (key, output) in sorted(record.actions.items()):
        if id.startswith("checkpoint/") or id.endswith(("/vectors", "/quality")):
            cache.lookup(key)  # which may bring it from elsewhere
            if store.tree(output) is None:
                needed.append(id)
    if needed:
        raise ActionError(
            f"{', '.join(needed)} of build {record.hash[:12]} {'is' if len(needed) == 1 else 'are'} not in the cache",
            remedy="point AMYBUILD_CACHE at a cache that has it, or take the Personafile and memory of that build from "
            "your version control and run amybuild",
        )
    folder = (out if out is not None else root / "dist" / record.persona).absolute()
    stamps = publish(cache, record.info, folder, history.product(folder).get("files", {}))
    history.set_product(folder, record, stamps)
    if history.read(record.hash) is None:  # it comes from a lock
        history.add(record, when)
    if out is None:
        history.went_to(record.hash, when, f"{how} {record.variant}".strip())
    return folder


def rollback(file: Path, steps: int, when: str) -> tuple[BuildRecord, str, Path]:
    """Put the build back that was current `steps` builds before the product's; also the hash it was until now."""
    root = find_root(file)
    store, history = open_cache(root, shared_of(file))
    last = last_of(history, file)
    folder = root / "dist" / last.persona
    now = history.product(folder).get("build", last.hash)
    built = [hash for _, hash, how in history.log() if how.partition(" ")[0] not in (ROLLBACK, CHECKOUT)]
    others = {hash for hash in set(built) if (one := history.read(hash)) and one.persona != last.persona}
    # what was built, as often as it became current; rolling back is no step of its own, so twice is two back
    built = [hash for hash, _ in groupby(hash for hash in built if hash not in others)]
    at = max((i for i, hash in enumerate(built) if hash == now), default=len(built))
    if at < steps:
        before = f"there {'is one build' if at == 1 else f'are {at} builds'} before {now[:12]}"
        what = before if at else f"{now[:12]} is the first build made here"
        raise InputError(what, remedy="amybuild log lists them; amybuild checkout takes any of them")
    record = find(history, built[at - steps])
    return record, now, put_back(store, history, root, None, record, when, ROLLBACK)


# differences


def between(cache: ActionCache, a: BuildRecord, b: BuildRecord) -> Difference:
    """Compare two builds by the manifests of their actions."""
    changes, untold, same = {}, [], set()
    ids = [id for id in {**a.actions, **b.actions} if id not in BESIDE]
    for id in sorted(ids):
        if id not in a.actions or id not in b.actions or a.actions[id] == b.actions[id]:
            continue
        (key, output), (other, another) = a.actions[id], b.actions[id]
        before, after = known_of(cache.record(key)), known_of(cache.record(other))
        if output == another:
            same.add(id)
        if before and after:
            found = differences(before.components, after.components)
            changes[id] = tuple(c for c in found if c.kind != "input")
        else:
            untold.append(id)
    only_a = tuple(id for id in ids if id not in b.actions)
    only_b = tuple(id for id in ids if id not in a.actions)
    return Difference(a.hash, b.hash, changes, only_a, only_b, tuple(untold), frozenset(same))


@dataclass(frozen=True)
class Line:
    """A line of the log: which build became the current one when and how, and what differs from the line before."""

    time: str
    build: str
    how: str
    names: tuple[str, ...]
    record: BuildRecord | None
    since: Difference | None


def log(root: Path, most: int | None = None) -> tuple[list[Line], int]:
    """The last `most` lines of the log (all for None), newest first, and how many there are."""
    store, history = open_cache(root)
    cache, rows = ActionCache(store), history.log()
    names: dict[str, list[str]] = {}
    for name, hash in sorted(history.names().items()):
        names.setdefault(hash, []).append(name)
    records = {hash: history.read(hash) for hash in {h for _, h, _ in rows[-most - 1 if most else 0 :]}}
    lines = []
    for i in range(len(rows) - 1, max(-1, len(rows) - 1 - (most or len(rows))), -1):
        (time, hash, how), before = rows[i], records.get(rows[i - 1][1]) if i else None
        record = records[hash]
        since = between(cache, before, record) if before and record else None
        lines.append(Line(time, hash, how, tuple(names.get(hash, ())), record, since))
    return lines, len(rows)


def compare(root: Path, a: str, b: str) -> tuple[BuildRecord, BuildRecord, Difference]:
    """Two builds of the project at `root`, and what differs between them."""
    store, history = open_cache(root)
    one, two = find(history, a), find(history, b)
    return one, two, between(ActionCache(store), one, two)


def kept_texts(root: Path) -> tuple[Callable[[str], bytes | None], Callable[[str], str | None]]:
    """What the store has of the words behind digests: of memory nodes, and of functions."""
    store, _ = open_cache(root)
    return store.get_bytes, Sources(store.root / "sources.json").text
