"""The content-addressed store: files and trees under their blake3 digests, written once, never in place."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amybuild.digest import canonical, digest_bytes, digest_file, digest_value
from amybuild.errors import ActionError, CacheDamage, InputError

if TYPE_CHECKING:
    from filelock import FileLock

_FICLONE = 0x40049409


def fresh() -> str:
    """A name that nobody else has."""
    return os.urandom(6).hex()


@contextlib.contextmanager
def disk_errors(where: Path | str) -> Iterator[None]:
    """Turns a full or read-only disk into an error with a remedy."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            remedy = "free some space and build again; nothing cached was lost"
            raise ActionError("the disk is full", where=str(where), remedy=remedy) from None
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EIO):
            remedy = "make it writable, or point AMYBUILD_CACHE elsewhere"
            raise ActionError(f"cannot write: {error.strerror}", where=str(where), remedy=remedy) from None
        raise


def sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_atomic(path: Path, data: bytes) -> None:
    """Write beside, fsync, rename, fsync the folder: after a crash the old content or the new, never a mixture."""
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.parent / f".{path.name}.{fresh()}"
        try:
            with open(beside, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, path)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def read_json(path: Path) -> Any:
    """A JSON file, or None when it is missing or unreadable: unreadable state is a miss, never a crash."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None


def clone(source: Path, target: Path) -> None:
    """A copy that shares blocks where the file system can, so that editing it never reaches the store."""
    import shutil

    with open(source, "rb") as read, open(target, "wb") as write:
        try:
            fcntl.ioctl(write.fileno(), _FICLONE, read.fileno())
        except OSError:
            shutil.copyfileobj(read, write, 1 << 20)


@dataclass(frozen=True)
class Entry:
    """One file of a tree."""

    digest: str
    size: int


class Store:
    """Objects (files) and trees (folders) under `root`. Safe for several processes at once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        # tree -> (name, digest, size) of each file, from an earlier run: a listing is what its digest says it is
        self.known: Mapping[str, tuple[tuple[str, str, int], ...]] = {}
        self._trees: dict[str, dict[str, Entry]] = {}  # those that were found whole
        self._tmp: Path | None = None
        self._tmp_guard = threading.Lock()
        self._tmp_lock: FileLock | None = None

    # objects

    def object_path(self, digest: str) -> Path:
        return self.root / "objects" / digest[:2] / digest

    def _has(self, digest: str, size: int) -> bool:
        try:
            return os.stat(f"{self.root}/objects/{digest[:2]}/{digest}").st_size == size
        except OSError:
            return False

    def put_bytes(self, data: bytes) -> str:
        digest = digest_bytes(data)
        if not self._has(digest, len(data)):
            write_atomic(self.object_path(digest), data)
        return digest

    def get_bytes(self, digest: str) -> bytes | None:
        try:
            data = self.object_path(digest).read_bytes()
        except OSError:
            return None
        return data if digest_bytes(data) == digest else None

    def _take_file(self, path: Path) -> Entry:
        """Move a finished file into the store."""
        size = path.stat().st_size
        digest = digest_file(path)
        if not self._has(digest, size):
            target = self.object_path(digest)
            target.parent.mkdir(parents=True, exist_ok=True)
            with open(path, "rb") as file:
                os.fsync(file.fileno())
            os.chmod(path, 0o444)
            os.replace(path, target)
            sync_folder(target.parent)
        return Entry(digest, size)

    # trees

    def put_tree(self, folder: Path) -> str:
        """Take all files below `folder` (which is used up); returns the tree's digest."""
        with disk_errors(self.root):
            files: dict[str, Entry] = {}
            for path in sorted(folder.rglob("*")):
                if path.is_symlink() or not (path.is_file() or path.is_dir()):
                    raise ActionError("an action left something that is not a plain file", where=path.name)
                if path.is_file():
                    files[path.relative_to(folder).as_posix()] = self._take_file(path)
            digest = _tree_digest(files)
            listing = {name: [entry.digest, entry.size] for name, entry in files.items()}
            write_atomic(self._tree_path(digest), canonical({"schema": 1, "files": listing}))
        self._trees[digest] = files
        return digest

    def _tree_path(self, digest: str) -> Path:
        return self.root / "trees" / digest[:2] / f"{digest}.json"

    def tree(self, digest: str) -> dict[str, Entry] | None:
        """The files of a tree, or None when the tree or one of its objects is not (whole) here."""
        found = self._trees.get(digest)
        if found is None:  # asked again each time: another process may put it there
            found = self._read_tree(digest)
            if found is not None:
                self._trees[digest] = found
        return found

    def _read_tree(self, digest: str) -> dict[str, Entry] | None:
        rows = self.known.get(digest)
        if rows is not None and os.path.exists(f"{self.root}/trees/{digest[:2]}/{digest}.json"):
            files = {name: Entry(d, size) for name, d, size in rows}
            return files if all(self._has(e.digest, e.size) for e in files.values()) else None
        data = read_json(self._tree_path(digest))
        try:
            files = {str(name): Entry(str(d), int(size)) for name, (d, size) in data["files"].items()}
            if _tree_digest(files) != digest:
                return None
        except (TypeError, KeyError, ValueError, AttributeError, OverflowError, InputError):
            return None
        return files if all(self._has(e.digest, e.size) for e in files.values()) else None

    def listings(self) -> dict[str, tuple[tuple[str, str, int], ...]]:
        """What the next run may know: the listings of the trees that were found whole."""
        return {
            digest: self.known.get(digest) or tuple((name, e.digest, e.size) for name, e in files.items())
            for digest, files in self._trees.items()
        }

    def _need(self, digest: str) -> dict[str, Entry]:
        files = self.tree(digest)
        if files is None:
            raise CacheDamage(f"the result {digest[:12]} is not whole", where=str(self.root), remedy="build again")
        return files

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
                clone(self.object_path(entry.digest), path)

    def read_file(self, digest: str, name: str) -> bytes | None:
        """One file of a tree, or None."""
        entry = (self.tree(digest) or {}).get(name)
        return self.get_bytes(entry.digest) if entry else None

    # temporary room and locks

    def scratch(self) -> Path:
        """A fresh folder below this process's temporary room, on the store's own file system."""
        from filelock import FileLock

        with disk_errors(self.root), self._tmp_guard:
            if self._tmp is None:
                base = self.root / "tmp"
                base.mkdir(parents=True, exist_ok=True)
                _sweep(base)
                room = base / f"{os.getpid()}-{fresh()}"
                # one lock object for all threads of this process: it is held from any of them
                self._tmp_lock = FileLock(f"{room}.lock", thread_local=False)
                self._tmp_lock.acquire()
                room.mkdir()
                self._tmp = room
            folder = self._tmp / fresh()
            folder.mkdir()
            return folder

    def close(self) -> None:
        """Give the temporary room back."""
        import shutil

        if self._tmp is not None and self._tmp_lock is not None:
            shutil.rmtree(self._tmp, ignore_errors=True)
            Path(f"{self._tmp}.lock").unlink(missing_ok=True)
            self._tmp_lock.release()
            self._tmp = None

    def lock(self, key: str) -> FileLock:
        """A lock for one action key. The system drops it when its process dies, so it is never stale."""
        from filelock import FileLock

        with disk_errors(self.root):
            folder = self.root / "locks"
            folder.mkdir(parents=True, exist_ok=True)
            return FileLock(folder / f"{key}.lock")


def _sweep(base: Path) -> None:
    """Remove the temporary rooms of processes that are gone (killed ones, power loss)."""
    import shutil

    from filelock import FileLock, Timeout

    for lock_path in base.glob("*.lock"):
        lock = FileLock(lock_path)
        try:
            lock.acquire(timeout=0)
        except (Timeout, OSError):
            continue  # its process lives, or it is somebody else's
        shutil.rmtree(lock_path.with_suffix(""), ignore_errors=True)
        lock_path.unlink(missing_ok=True)
        lock.release()


def _tree_digest(files: dict[str, Entry]) -> str:
    return digest_value("tree", sorted([name, e.digest, e.size] for name, e in files.items()))
