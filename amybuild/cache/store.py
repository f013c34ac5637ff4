"""The content-addressed store: files and trees under their blake3 digests, written once, never in place."""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amybuild.cache.disk import clone, digest_of, disk_errors, fresh, read_json, replace, sync_folder, write_atomic
from amybuild.cache.lease import Room, guard
from amybuild.cache.lock import FileLock
from amybuild.cache.verify import Verified
from amybuild.digest import canonical, digest_bytes, digest_file, digest_value
from amybuild.errors import ActionError, CacheDamage, InputError
from amybuild.kept import Stamp, stat_of
from amybuild.value import value

if TYPE_CHECKING:
    from amybuild.cache.layered import Shared

__all__ = ["Entry", "Store", "clone", "disk_errors", "fresh", "read_json", "sync_folder", "write_atomic"]

AGAIN = "build again: it is made again"
_DIGEST = re.compile(r"[0-9a-f]{64}\Z")
_SETTLE = 0.02  # s: longer than a step of the file system's clock
_LARGE = 16 << 20  # bytes: from here on a second hash costs more than waiting for the clock


@value
class Entry:
    """One file of a tree."""

    digest: str
    size: int


Files = dict[str, Entry]
Listing = tuple[tuple[str, str, int], ...]  # name, digest, size of each file


class Store:
    """Objects (files) and trees (folders) under `root`. Safe for several processes at once.

    A store is only looked at until `begin`: nothing is written, no lock is taken. From `begin` to `close` every tree
    that was asked for and found is held: no collection takes it away (`lease`). `shared` is where to ask for what is
    not here.
    """

    def __init__(self, root: Path, shared: Shared | None = None) -> None:
        self.root = root
        self.shared = shared
        # one line for each thing that was found damaged or cannot be had; who runs a build shows them
        self.notes: list[str] = shared.notes if shared is not None else []
        self._objects = os.fspath(root / "objects")
        self._verified = Verified(root / "verified")
        # tree -> (name, digest, size) of each file, from an earlier run: a listing is what its digest says it is
        self.known: Mapping[str, Listing] = {}
        self._listings: dict[str, Files] = {}
        self._damaged: dict[str, Stamp] = {}
        self._room: Room | None = None
        self._held: set[str] = set()
        self.written: set[str] = set()  # the folders of results that this process put something into
        self._starting = threading.Lock()

    # holding

    def begin(self) -> Path:
        """Start to rely on what is found here; returns this process's temporary room. May be called again."""
        with self._starting:
            if self._room is None:
                with disk_errors(self.root):
                    self._room = Room(self.root)
            return self._room.path

    @property
    def begun(self) -> bool:
        return self._room is not None

    def close(self, wait: bool = True) -> None:
        """Give the room back: what was held is held no more. First wait for uploads, or drop those not begun."""
        if self.shared is not None:
            self.shared.finish(wait)
        self._verified.save()
        room, self._room = self._room, None
        if room is not None:
            room.close()
        self._held.clear()

    def guard(self) -> contextlib.AbstractContextManager[None]:
        """No collection runs inside (for who has begun; a look needs no lock)."""
        return guard(self.root) if self._room is not None else contextlib.nullcontext()

    def hold(self, *lines: str) -> bool:
        """Under `guard`: keep until `close` what these name: "action KEY TREE", "tree DIGEST", "object DIGEST", or all
        of a build in the history, "build PROJECT HASH".

        Whether one of them is new; nothing is held before `begin`."""
        new = [line for line in lines if line not in self._held]
        if self._room is None or not new:
            return False
        with disk_errors(self.root):
            self._room.note("\n".join(new))
        self._held.update(new)
        return True

    def holds(self, line: str) -> bool:
        """Whether `hold` was told so: what it names was whole then, and no collection took it since."""
        return line in self._held

    # objects

    def object_path(self, digest: str) -> Path:
        return Path(self._object(digest))

    def _object(self, digest: str) -> str:
        return f"{self._objects}/{digest[:2]}/{digest}"

    def _has(self, digest: str, size: int) -> bool:
        """Whether the object is here and whole: its stat is compared, and its content when that is a new one."""
        path = self._object(digest)
        try:
            now = stat_of(path)
            if now[0] == size and self._verified.whole(digest, path, now):
                return True
        except OSError:
            return False
        if self._damaged.get(digest) != now:
            self._damaged[digest] = now
            self.notes.append(f"{digest[:12]} in the cache was damaged: whatever needs it is made again")
        return False

    def put_bytes(self, data: bytes) -> str:
        digest = digest_bytes(data)
        self.begin()
        with self.guard():
            self.hold(f"object {digest}")
            self._put(digest, data)
        return digest

    def _put(self, digest: str, data: bytes | bytearray) -> None:
        if not self._has(digest, len(data)):
            self.write(self.object_path(digest), data)

    def write(self, path: Path, data: bytes | bytearray) -> None:
        """Under `guard`: write a record, a listing or an object."""
        self._wrote(path)
        write_atomic(path, data, self.root / "tmp")

    def _wrote(self, path: Path) -> None:
        folder = os.path.dirname(path)
        self.written |= {folder, os.path.dirname(folder)}

    def get_bytes(self, digest: str) -> bytes | None:
        try:
            data = self.object_path(digest).read_bytes()
        except OSError:
            return None
        return data if digest_bytes(data) == digest else None

    def take_file(self, path: Path, entry: Entry) -> None:
        """Under `guard`: move a finished file, whose digest and size are `entry`, into the store."""
        if self._has(entry.digest, entry.size):
            return
        target = self.object_path(entry.digest)
        self._wrote(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "rb") as file:
            os.fsync(file.fileno())
        os.chmod(path, 0o444)
        replace(path, target)
        sync_folder(target.parent)
        if entry.size >= _LARGE:
            time.sleep(_SETTLE)  # from now on a change shows in the stat
            self._verified.trust(entry.digest, stat_of(target))

    def set_aside(self) -> None:
        """Move what was found damaged out of the way, for whoever wants to look at it."""
        if not self._damaged:
            return
        with guard(self.root, exclusive=True):
            for digest, was in list(self._damaged.items()):
                with contextlib.suppress(OSError):
                    if stat_of(self._object(digest)) == was:  # else somebody put a whole one there
                        (self.root / "quarantine").mkdir(exist_ok=True)
                        os.rename(self._object(digest), self.root / "quarantine" / f"{digest}.{fresh()}")
        self._damaged.clear()

    # trees

    def put_tree(self, folder: Path) -> str:
        """Take all files below `folder` (which is used up); returns the tree's digest, which is held."""
        self.begin()
        with disk_errors(self.root):
            paths: dict[str, Path] = {}
            for path in sorted(folder.rglob("*")):
                if path.is_symlink() or not (path.is_file() or path.is_dir()):
                    raise ActionError("an action left something that is not a plain file", where=path.name)
                if path.is_file():
                    paths[path.relative_to(folder).as_posix()] = path
            files = {name: Entry(digest_file(path), path.stat().st_size) for name, path in paths.items()}
            bad = next((name for name in files if not safe_name(name)), None)
            if bad is not None:
                raise ActionError("an action left a file with a name that cannot be kept", where=repr(bad))
            digest = tree_digest(files)
            with self.guard():
                self.hold(f"tree {digest}")
                for name, path in paths.items():
                    self.take_file(path, files[name])
                self.write_listing(digest, files)
        return digest

    def put_file(self, name: str, data: bytes | bytearray) -> str:
        """A tree of one file, which is held; its digest."""
        files = {name: Entry(digest_of(data), len(data))}
        digest = tree_digest(files)
        self.begin()
        with self.guard():
            self.hold(f"tree {digest}")
            self._put(files[name].digest, data)
            self.write_listing(digest, files)
        return digest

    def write_listing(self, digest: str, files: Files) -> None:
        """Under `guard`: the tree is here from now on."""
        if parse_listing(digest, read_json(self.tree_path(digest))) != files:
            self.write(self.tree_path(digest), listing(files))
        self._listings[digest] = files

    def tree_path(self, digest: str) -> Path:
        return self.root / "trees" / digest[:2] / f"{digest}.json"

    def tree(self, digest: str) -> Files | None:
        """The files of a tree, or None when it is not (whole) here; after `begin` it is held.

        With a shared store objects may still be there: `view`, `export` and `read_file` fetch them."""
        with self.guard():
            files = self.whole(digest)
            if files is not None:
                self.hold(f"tree {digest}")
        return files

    def whole(self, digest: str) -> Files | None:
        """`tree`, under a `guard` that the caller has, and without holding it."""
        path = f"{self.root}/trees/{digest[:2]}/{digest}.json"
        files = self._listings.get(digest)
        if not os.path.exists(path):
            return None
        if files is None and digest in self.known:
            files = {name: Entry(d, size) for name, d, size in self.known[digest]}
        if files is None:
            files = parse_listing(digest, read_json(path))
        if files is None:
            return None
        self._listings[digest] = files
        missing = [e for e in files.values() if not self._has(e.digest, e.size)]
        if missing and (self.shared is None or not self.shared.has(digest)):
            return None
        return files

    def sample(self, most: int) -> dict[str, Stamp]:
        """The stamps of some of the objects that were found whole, other ones each time (all when there are no more
        than `most`): damage inside of an object shows in no folder."""
        import random

        objects = sorted({entry.digest for files in self._listings.values() for entry in files.values()})
        some = objects if len(objects) <= most else random.sample(objects, most)
        stamps = {self._object(digest): self._verified.stamp(digest) for digest in some}
        return {path: stamp for path, stamp in stamps.items() if stamp is not None}

    def listings(self) -> dict[str, Listing]:
        """What the next run may know: the listings that were read."""
        return {
            digest: self.known.get(digest) or tuple((name, e.digest, e.size) for name, e in files.items())
            for digest, files in self._listings.items()
        }

    def _need(self, digest: str) -> Files:
        """The files of a tree, all of them here and held."""
        self.begin()
        files = self.tree(digest)
        if files is not None:
            for entry in files.values():
                if not self._has(entry.digest, entry.size) and not self._fetch(digest, entry):
                    files = None
                    break
        if files is None:
            raise self._gone(digest)
        return files

    def _gone(self, digest: str) -> CacheDamage:
        return CacheDamage(f"the result {digest[:12]} is no longer whole", where=str(self.root), remedy=AGAIN)

    def _fetch(self, tree: str, entry: Entry) -> bool:
        """Bring one object of a tree from the shared store."""
        if self.shared is None:
            return False
        beside = self.begin() / fresh()
        try:
            with disk_errors(self.root):
                if self.shared.fetch(tree, entry.digest, entry.size, beside):
                    with self.guard():
                        self.take_file(beside, entry)
                    return True
        finally:
            beside.unlink(missing_ok=True)
        return False

    def view(self, digest: str, folder: Path) -> Path:
        """`folder` made of symlinks into the store: how an action reads an artifact."""
        for name, entry in self._need(digest).items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.symlink_to(self.object_path(entry.digest).resolve())
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def export(self, digest: str, folder: Path) -> None:
        """Copy a tree's files into `folder`, writable and independent of the store."""
        with disk_errors(folder):
            for name, entry in self._need(digest).items():
                path = folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                clone(self._object(entry.digest), path)

    def read_file(self, digest: str, name: str) -> bytes | None:
        """One file of a tree, fetched if need be; None when the tree has no such file. Raises CacheDamage."""
        files = self.tree(digest)
        if files is None:
            raise self._gone(digest)
        entry = files.get(name)
        if entry is None:
            return None
        if not self._has(entry.digest, entry.size) and not self._fetch(digest, entry):
            raise self._gone(digest)
        return self.get_bytes(entry.digest)

    # temporary room and locks

    def scratch(self) -> Path:
        """A fresh folder below this process's temporary room, on the store's own file system."""
        room = self.begin()
        with disk_errors(self.root):
            self.set_aside()
            folder = room / fresh()
            folder.mkdir()
            return folder

    def lock(self, key: str) -> FileLock:
        """A lock for one action key. The system drops it when its process dies, so it is never stale."""
        return FileLock(self.root / "locks" / f"{key}.lock")


def tree_digest(files: Files) -> str:
    """The digest of a tree: of its names, digests and sizes, in whatever order they come."""
    return digest_value("tree", sorted([name, e.digest, e.size] for name, e in files.items()))


def listing(files: Files) -> bytes:
    """The bytes of a tree's listing."""
    return canonical({"schema": 1, "files": {name: [e.digest, e.size] for name, e in files.items()}})


def parse_listing(digest: str, data: Any) -> Files | None:
    """The files of the tree `digest`, or None when `data` is not its listing or names a file outside of a folder."""
    try:
        files = {str(name): Entry(str(d), int(size)) for name, (d, size) in data["files"].items()}
        if data["schema"] != 1 or not all(_DIGEST.match(e.digest) for e in files.values()):
            return None
        return files if all(map(safe_name, files)) and tree_digest(files) == digest else None
    except (TypeError, KeyError, ValueError, AttributeError, OverflowError, InputError):
        return None


def safe_name(name: str) -> bool:
    """Whether a file of this name, relative and with ``/``, stays inside the folder it is written to."""
    return "\0" not in name and "\\" not in name and not any(part in ("", ".", "..") for part in name.split("/"))
