"""The check of a whole cache: everything is hashed again; what is damaged, what it touches, and the repair."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from blake3 import blake3

from amybuild.cache.actions import Record, parse_record, render_record
from amybuild.cache.disk import fresh, unseal, write_atomic
from amybuild.cache.history import History
from amybuild.cache.lease import guard
from amybuild.cache.store import Entry, Files, Store, listing, parse_listing
from amybuild.errors import CacheDamage

_DIGEST = re.compile(r"[0-9a-f]{64}\Z")
Told = Callable[[int, int], None]  # bytes hashed, bytes in all


@dataclass(frozen=True)
class Damage:
    """One thing that is not as it should be, and what needs it."""

    kind: str  # object | tree | action | build | state
    name: str  # digest, key, hash or file
    what: str  # damaged | missing
    actions: tuple[str, ...] = ()
    builds: tuple[str, ...] = ()
    pins: tuple[str, ...] = ()
    done: str = ""  # what a repair did: fetched | set aside | dropped | rebuilt


@dataclass
class Report:
    """What a check found. `lost`: pinned or named builds that cannot be put back from what is here."""

    objects: int = 0
    bytes: int = 0
    damages: list[Damage] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    repaired: bool = False

    @property
    def clean(self) -> bool:
        return not self.damages


@dataclass
class _Cache:
    """All that is in a cache, as far as it can be read; names of files are relative to it."""

    root: Path
    bad: dict[str, Damage] = field(default_factory=dict)  # by file
    objects: dict[str, int] = field(default_factory=dict)  # whole ones, with their sizes
    trees: dict[str, Files] = field(default_factory=dict)
    records: dict[str, Record] = field(default_factory=dict)
    elsewhere: set[str] = field(default_factory=set)  # trees whose objects may be in the shared store
    pinned: list[tuple[str, str, History]] = field(default_factory=list)  # (name or lock, build, its project's)

    def damaged(self, path: Path, kind: str, what: str = "damaged") -> None:
        name = path.name if kind == "object" else path.stem
        self.bad[os.path.relpath(path, self.root)] = Damage(kind, name, what)


def check(store: Store, *, repair: bool = False, told: Told = lambda done, total: None) -> Report:
    """Hash everything again. With `repair`: set aside what is damaged, fetch it from the shared store where there is
    one, drop the records of what is gone, make lost state again. Without it nothing is written."""
    report = Report()
    cache = _read(store.root, report, told)
    report.damages = _touched(cache)
    if repair and report.damages:
        store.begin()
        report.damages = _repair(store, cache, report.damages)
        report.repaired = True
    report.lost = _lost(cache)
    return report


# reading


def _files(folder: Path) -> Iterator[Path]:
    for place, _, names in os.walk(folder):
        yield from (Path(place, name) for name in sorted(names))


def _read(root: Path, report: Report, told: Told) -> _Cache:
    cache = _Cache(root)
    paths = sorted(_files(root / "objects"))
    total = sum(map(_size, paths))
    for path in paths:
        with contextlib.suppress(FileNotFoundError):  # a collection took it meanwhile
            size = path.stat().st_size
            if path.parent.name == path.name[:2] and _hashes(path):
                cache.objects[path.name] = size
            else:
                cache.damaged(path, "object")
            report.objects, report.bytes = report.objects + 1, report.bytes + size
            told(report.bytes, total)
    for path in _files(root / "trees"):
        files = _tree(path)
        if files is None and path.exists():  # else a collection took it meanwhile
            cache.damaged(path, "tree")
        elif files is not None:
            cache.trees[path.stem] = files
    for path in _files(root / "actions"):
        record = _record(path)
        if record is None and path.exists():
            cache.damaged(path, "action")
        elif record is not None:
            cache.records[path.stem] = record
    cache.elsewhere = {path.name for path in _files(root / "elsewhere")}
    for history in History.every(root):
        if history.damaged:
            cache.damaged(history.state_path, "state")
        pins = {Path(lock).name: hash for lock, hash in history.pins().items()} | history.names()
        cache.pinned += [(name, hash, history) for name, hash in pins.items()]
        named = {hash for _, hash, _ in history.log()} | set(pins.values())
        here = set(history.builds())
        for hash in here:
            if history.read(hash) is None:
                cache.damaged(history.builds_path / f"{hash}.json", "build")
        for hash in named - here:
            cache.damaged(history.builds_path / f"{hash}.json", "build", "missing")
    return cache


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _hashes(path: Path) -> bool:
    """Whether a file has the content that its name says. Read in pieces: under a mapping a bad sector would kill us."""
    hasher = blake3()
    try:
        with open(path, "rb") as file:
            while piece := file.read(1 << 20):
                hasher.update(piece)
    except FileNotFoundError:
        raise
    except OSError:
        return False
    return hasher.hexdigest() == path.name


def _tree(path: Path) -> Files | None:
    """A tree's files, if the bytes are the very ones that `listing` gives."""
    try:
        data = path.read_bytes()
        files = parse_listing(path.stem, json.loads(data))
    except (OSError, ValueError, RecursionError):
        return None
    return files if files is not None and listing(files) == data else None


def _record(path: Path) -> Record | None:
    """A record, if its bytes are the very ones that `render_record` gives (older ones have no seal)."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    record = parse_record(path.stem, data)
    if record is None:
        return None
    same = render_record(record)
    return record if data == same or json.loads(data) == unseal(same) else None


# what it touches


def _missing(cache: _Cache) -> list[Damage]:
    """What is named and not here: objects of trees, trees of records. Asked of the disk again: a build that runs beside
    may have added it, a collection may have taken what names it."""
    gone: dict[str, Damage] = {}
    bad = {damage.name for damage in cache.bad.values()}
    root = cache.root
    for digest, files in cache.trees.items():
        for entry in files.values() if digest not in cache.elsewhere else ():
            if entry.digest in cache.objects or entry.digest in bad:
                continue
            path = root / "objects" / entry.digest[:2] / entry.digest
            if not path.exists() and (root / "trees" / digest[:2] / f"{digest}.json").exists():
                gone[entry.digest] = Damage("object", entry.digest, "missing")
    for key, record in cache.records.items():
        digest = record.output
        if digest in cache.trees or digest in bad or (root / "trees" / digest[:2] / f"{digest}.json").exists():
            continue
        if (root / "actions" / key[:2] / f"{key}.json").exists():
            gone[digest] = Damage("tree", digest, "missing")
    return list(gone.values())


def _touched(cache: _Cache) -> list[Damage]:
    """Every damage with the actions, builds and pins that need it."""
    needs: dict[str, set[str]] = {}  # digest of an object or a tree -> outputs that need it
    for digest, files in cache.trees.items():
        for entry in files.values():
            needs.setdefault(entry.digest, set()).add(digest)
    by_output: dict[str, set[str]] = {}
    by_key: dict[str, str] = {}
    for key, record in cache.records.items():
        by_output.setdefault(record.output, set()).add(record.action)
        by_key[key] = record.action
        for kind, _, value in record.manifest:
            if kind == "node":  # its text is kept for explanations
                needs.setdefault(value, set()).add(record.output)
    users = list(_builds(cache.root))
    found = []
    for damage in [*cache.bad.values(), *_missing(cache)]:
        outputs = needs.get(damage.name, set()) | {damage.name}
        actions = {action for output in outputs for action in by_output.get(output, ())}
        actions |= {by_key[damage.name]} if damage.name in by_key else set()
        touched = [
            (hash, pin) for hash, pin, pairs in users if hash == damage.name or outputs & pairs or damage.name in pairs
        ]
        builds = tuple(sorted({hash for hash, _ in touched}))
        pins = tuple(sorted({pin for _, pin in touched if pin}))
        found.append(replace(damage, actions=tuple(sorted(actions)), builds=builds, pins=pins))
    return sorted(found, key=lambda d: (d.kind, d.name))


def _builds(root: Path) -> Iterator[tuple[str, str, set[str]]]:
    """(build, its name or '', keys and outputs of its actions), once for every name."""
    for history in History.every(root):
        names: dict[str, list[str]] = {}
        for name, hash in history.names().items():
            names.setdefault(hash, []).append(name)
        for lock, hash in history.pins().items():
            names.setdefault(hash, []).append(Path(lock).name)
        for hash in {*history.builds(), *names}:
            record = history.read(hash)
            pairs = {part for pair in record.actions.values() for part in pair} if record is not None else set()
            for name in names.get(hash, [""]):
                yield hash, name, pairs


def _lost(cache: _Cache) -> list[str]:
    """The names of pinned builds of which a result is not whole."""
    whole = {digest for digest, files in cache.trees.items() if _complete(cache, digest, files)}
    lost = set()
    for name, hash, history in cache.pinned:
        record = history.read(hash)
        if record is None or any(output not in whole for _, output in record.actions.values()):
            lost.add(f"{name} ({hash[:12]})")
    return sorted(lost)


def _complete(cache: _Cache, digest: str, files: Files) -> bool:
    return digest in cache.elsewhere or all(entry.digest in cache.objects for entry in files.values())


# repair


def _repair(store: Store, cache: _Cache, damages: list[Damage]) -> list[Damage]:
    aside = _set_aside(store, cache)
    fetched = {damage.name for damage in damages if _fetch(store, cache, damage)}
    dropped = _drop(store, cache)
    if any(damage.kind in ("build", "state") for damage in damages):
        for history in History.every(store.root):
            history.rebuild()
    done = []
    for damage in damages:
        words = ["set aside"] if damage.name in aside else []
        words += ["fetched from the shared store"] if damage.name in fetched else []
        words += ["made again from the builds"] if damage.kind == "state" else []
        words += ["dropped"] if damage.name in dropped or damage.kind == "build" else []
        done.append(replace(damage, done=", ".join(words)))
    return done


def _set_aside(store: Store, cache: _Cache) -> set[str]:
    """Move what is damaged into ``quarantine/``, unless somebody has put a whole one there since."""
    moved = set()
    folder = store.root / "quarantine"
    with guard(store.root, exclusive=True):
        for name, damage in cache.bad.items():
            path = store.root / name
            if damage.what == "damaged" and path.exists() and not _is_whole(path, damage.kind):
                folder.mkdir(exist_ok=True)
                os.rename(path, folder / f"{path.name}.{fresh()}")
                moved.add(damage.name)
    return moved


def _is_whole(path: Path, kind: str) -> bool:
    if kind == "object":
        return _hashes(path)
    if kind == "tree":
        return _tree(path) is not None
    return kind == "action" and _record(path) is not None


def _fetch(store: Store, cache: _Cache, damage: Damage) -> bool:
    """Put a damaged or missing tree or object back from the shared store."""
    shared = store.shared
    if shared is None or damage.kind not in ("object", "tree") or not _DIGEST.match(damage.name):
        return False
    if damage.kind == "tree":
        data = shared.listing(damage.name)
        if data is None:
            return False
        with store.guard():
            write_atomic(store.tree_path(damage.name), data, store.root / "tmp")
            shared.mark(damage.name)  # its objects come when they are needed
        cache.trees[damage.name] = parse_listing(damage.name, json.loads(data)) or {}
        cache.elsewhere.add(damage.name)
        return True
    sizes = {e.size for files in cache.trees.values() for e in files.values() if e.digest == damage.name}
    beside = store.begin() / fresh()
    for size in sizes:
        if shared.fetch("", damage.name, size, beside):
            with store.guard():
                store.take_file(beside, Entry(damage.name, size))
            cache.objects[damage.name] = size
            return True
    return False


def _drop(store: Store, cache: _Cache) -> set[str]:
    """Remove records and listings of results that are not whole: misses already, they only look like something.

    Returns what they pointed to that is not here."""
    suspects = [key for key, record in cache.records.items() if not _ok(cache, record)]
    dropped: set[str] = set()
    with guard(store.root, exclusive=True):
        now = Store(store.root, store.shared)  # a build may have made it again since
        for key in suspects:
            output = cache.records[key].output
            if now.whole(output) is None:
                (store.root / "actions" / key[:2] / f"{key}.json").unlink(missing_ok=True)
                dropped.add(output)
        for digest, files in cache.trees.items():
            if not _complete(cache, digest, files) and now.whole(digest) is None:
                store.tree_path(digest).unlink(missing_ok=True)
                dropped |= {entry.digest for entry in files.values() if entry.digest not in cache.objects}
    return dropped


def _ok(cache: _Cache, record: Record) -> bool:
    return record.output in cache.trees and _complete(cache, record.output, cache.trees[record.output])


def damage_error(report: Report, root: Path) -> CacheDamage:
    """What to say when pinned builds cannot be put back from what is here."""
    return CacheDamage(
        f"{', '.join(report.lost)} cannot be put back from what is here",
        where=str(root),
        remedy="take their Personafile and memory from your version control and run amybuild; or [cache] remote",
    )
