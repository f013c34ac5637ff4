"""The collection: what no pin, no recent build, no product and no running process needs goes, its record first."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from amybuild.cache.actions import ActionCache, Record
from amybuild.cache.disk import read_json
from amybuild.cache.history import BuildRecord, History
from amybuild.cache.lease import Room, guard, living
from amybuild.cache.store import Files, Store, parse_listing
from amybuild.cache.verify import Verified
from amybuild.digest import digest_value
from amybuild.errors import CacheDamage

KEEP = 10  # builds of each project
UNFINISHED = 14 * 86400  # seconds that a stopped training is waited for
_LOCK = "made by `amybuild pin`"
# read as text: what both sides of a merge conflict pin is kept
_PINNED = re.compile(r'key = "([0-9a-f]{64})", output = "([0-9a-f]{64})"')
_DIGEST = re.compile(r"[0-9a-f]{64}\Z")


@dataclass
class Roots:
    """What must stay: action keys with their records, trees, single objects."""

    keys: set[str] = field(default_factory=set)
    trees: set[str] = field(default_factory=set)
    objects: set[str] = field(default_factory=set)
    builds: set[str] = field(default_factory=set)
    pins: int = 0
    held: int = 0  # lines that running builds wrote down

    def add(self, build: BuildRecord) -> None:
        self.builds.add(build.hash)
        self.keys |= {key for key, _ in build.actions.values()}
        self.trees |= {output for _, output in build.actions.values()}

    def hold(self, cache: Path, notes: list[str]) -> None:
        """What running builds wrote down (`Store.hold`)."""
        for kind, *digests in (line.split(" ") for line in notes if line):
            self.held += 1
            if kind == "build":
                build = History(cache, None, digests[0]).read(digests[1])
                if build is None:
                    raise _unreadable(cache / "builds" / digests[0] / f"{digests[1]}.json")
                self.add(build)
                continue
            if kind == "action":
                self.keys.add(digests[0])
            (self.objects if kind == "object" else self.trees).add(digests[-1])


@dataclass(frozen=True)
class Collected:
    """What a collection took, or would take. Sizes in bytes; names of files are relative to the cache."""

    records: tuple[tuple[str, str], ...]  # (action, key)
    files: tuple[str, ...]
    freed: int
    kept: int
    live: frozenset[str]
    roots: Roots
    notes: tuple[str, ...] = ()


def _add_locks(folder: Path, roots: Roots) -> None:
    """What the lock files in a project's folder pin stays."""
    for path in folder.glob("*.lock"):
        with contextlib.suppress(OSError, UnicodeDecodeError):
            text = path.read_text(encoding="utf-8")
            if _LOCK in text:
                roots.pins += 1
                for key, output in _PINNED.findall(text):
                    roots.keys.add(key)
                    roots.trees.add(output)


def find_roots(cache: Path, keep: int = KEEP) -> Roots:
    """What history keeps. Raises CacheDamage when that cannot be read: then nothing may be taken."""
    roots = Roots()
    # where projects were built last, and the one that this cache lies in: a container calls that by another path
    projects = {Path(history.project) for history in History.every(cache) if history.project}
    for folder in {*projects, Path(os.path.realpath(cache)).parent.parent}:
        _add_locks(folder, roots)
    for history in History.every(cache):
        if history.damaged:
            raise _unreadable(history.state_path)
        for build in _wanted(history, keep, roots):
            record = history.read(build)
            if record is None:
                raise _unreadable(history.builds_path / f"{build}.json")
            roots.add(record)
        roots.keys |= set(history.last_keys().values())
        roots.trees |= set(history.snapshots())
        roots.keys |= {digest_value("snapshot", tree) for tree in history.snapshots()}
    return roots


def _unreadable(path: Path) -> CacheDamage:
    what = "cannot be read, so it is not known what it keeps"
    return CacheDamage(what, where=str(path), remedy="amybuild fsck --repair, then collect again")


def _wanted(history: History, keep: int, roots: Roots) -> set[str]:
    """The builds of a project that stay; what is pinned on other machines is counted in `roots`."""
    here = history.builds()
    order = list(dict.fromkeys(hash for _, hash, _ in reversed(history.log())))
    if not order:  # a lost state: the newest by their own account
        records = filter(None, map(history.read, here))
        order = [r.hash for r in sorted(records, key=lambda r: r.time, reverse=True)]
    wanted = {*order[:keep], *order[:1], *history.names().values(), *filter(None, history.products())}
    for lock, build in history.pins().items():
        if not Path(lock).parent.is_dir():  # another machine's; what is here speaks for itself
            wanted.add(build)
            roots.pins += 1
    # a build that history names and that has no record: its name may be what is damaged, so all stay
    return set(here) if wanted - set(here) else wanted


def collect(cache: Path, *, keep: int = KEEP, max_size: int | None = None, dry_run: bool = False) -> Collected:
    """Take what is not reachable from the roots; with `max_size` (bytes) only as much of it as is needed to fit.

    Everything is decided and moved out of the way under the exclusive lock (`lease` says why that is safe); the files
    are removed after it. A run takes what a dry run lists, if nothing happened in between.
    """
    if dry_run:
        return _decide(cache, keep, max_size)
    room = Room(cache)
    try:
        with guard(cache, exclusive=True):
            found = _decide(cache, keep, max_size)
            for number, name in enumerate(found.files):  # records come first: a kill leaves no record without objects
                os.rename(cache / name, room.path / str(number))
            Verified(cache / "verified").compact({Path(n).name for n in found.live if n.startswith("objects/")})
    finally:
        room.close()
    return found


@dataclass
class _Mark:
    """Reachability in one cache, with the sizes of what is there."""

    cache: Path
    sizes: dict[str, int]  # file -> bytes, of objects, trees and records
    live: set[str] = field(default_factory=set)  # files

    def __post_init__(self) -> None:
        self.actions = ActionCache(Store(self.cache))
        self.marks: dict[str, set[str]] = {}
        for name in self.sizes:
            if name.startswith("elsewhere/"):
                self.marks.setdefault(Path(name).name, set()).add(name)

    def of_record(self, record: Record) -> set[str]:
        nodes = [value for kind, _, value in record.manifest if kind == "node"]
        return {_file("actions", record.key), *self.of_tree(record.output), *(_file("objects", d) for d in nodes)}

    def of_tree(self, digest: str) -> set[str]:
        path = self.cache / _file("trees", digest)
        files: Files = parse_listing(digest, read_json(path)) or {}
        objects = {_file("objects", entry.digest) for entry in files.values()}
        return {_file("trees", digest), *self.marks.get(digest, ()), *objects}

    def cost(self, files: set[str]) -> int:
        return sum(self.sizes.get(name, 0) for name in files)


def _file(kind: str, digest: str) -> str:
    return f"{kind}/{digest[:2]}/{digest}" + ("" if kind == "objects" else ".json")


def _decide(cache: Path, keep: int, max_size: int | None) -> Collected:
    roots = find_roots(cache, keep)
    roots.hold(cache, living(cache))
    stats = dict(_walk(cache))
    mark = _Mark(cache, {name: stat.st_size for name, stat in stats.items()})
    records = {Path(name).stem: name for name in stats if name.startswith("actions/")}
    for key in roots.keys & records.keys():
        record = mark.actions.record(key)
        mark.live |= mark.of_record(record) if record is not None else {records[key]}
    for digest in roots.trees:
        mark.live |= mark.of_tree(digest)
    mark.live |= {_file("objects", digest) for digest in roots.objects}
    mark.live &= stats.keys()
    notes = _fill(mark, records, stats, max_size) if max_size is not None else []
    gone = [name for name in stats if name not in mark.live]
    gone.sort(key=lambda name: (_ORDER.index(name.partition("/")[0]), name))
    taken = [Path(name).stem for name in gone if name.startswith("actions/") and _DIGEST.match(Path(name).stem)]
    named = tuple((record.action if (record := mark.actions.record(key)) else "", key) for key in taken)
    freed, kept = mark.cost(set(gone)), mark.cost(mark.live)
    return Collected(named, tuple(gone), freed, kept, frozenset(mark.live), roots, tuple(notes))


def _fill(mark: _Mark, records: dict[str, str], stats: dict[str, os.stat_result], most: int) -> list[str]:
    """Keep beyond the roots what was used last, as long as it fits."""
    total = mark.cost(mark.live)
    if total > most:
        return [f"what pins, builds and running processes need takes {total} bytes, more than {most}"]
    others = [key for key, name in records.items() if name not in mark.live]
    for key in sorted(others, key=lambda key: stats[records[key]].st_mtime_ns, reverse=True):
        record = mark.actions.record(key)
        if record is None:
            continue
        more = (mark.of_record(record) & stats.keys()) - mark.live
        total += mark.cost(more)
        if total > most:
            break
        mark.live |= more
    return []


# what is removed, in this order: the index before what it points to
_ORDER = ("actions", "elsewhere", "trees", "objects", "quarantine", "checkpoints")


def _walk(cache: Path) -> Iterator[tuple[str, os.stat_result]]:
    """The files that a collection may take, with their stats; checkpoints of trainings that have a result, or that
    nobody came back to, too."""
    for kind in _ORDER[:-1]:
        for folder, _, names in os.walk(cache / kind):
            for name in names:
                path = os.path.join(folder, name)
                with contextlib.suppress(OSError):
                    yield os.path.relpath(path, cache), os.stat(path)
    with contextlib.suppress(OSError):
        for entry in os.scandir(cache / "checkpoints"):
            left = time.time() - entry.stat().st_mtime > UNFINISHED
            if left or (cache / _file("actions", entry.name)).exists():
                yield f"checkpoints/{entry.name}", entry.stat()
