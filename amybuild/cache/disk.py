"""Writing so that a crash leaves the old content or the new, and what a dead process left half-written is swept."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from blake3 import blake3

from amybuild.digest import canonical
from amybuild.errors import ActionError, InputError

_FICLONE = 0x40049409
_REMEDIES = {  # … and what else there is to do instead
    **dict.fromkeys((errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO), "make it writable, or {}"),
    **dict.fromkeys((errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY), "move away what lies there, or {}"),
    errno.ELOOP: "remove the link, or {}",
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), "allow more of them (ulimit -n), or fewer jobs (-j)"),
    errno.EXDEV: "move away what is mounted there, or {}",
    errno.ENAMETOOLONG: "{}",
}
_SEAL = b',"seal":"'


def tellable(path: Path) -> Path:
    """`path`, if it can stand in a state file and in a record."""
    try:
        os.fspath(path).encode()
    except UnicodeEncodeError:
        raise InputError("its name is not UTF-8", where=str(path), remedy="rename it, or use another one") from None
    return path


def fresh() -> str:
    """A name that nobody else has."""
    return os.urandom(6).hex()


@contextlib.contextmanager
def disk_errors(where: Path | str, otherwise: str = "point AMYBUILD_CACHE elsewhere") -> Iterator[None]:
    """Turns a full, read-only or occupied place, or a name that is too long, into an error with a remedy."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            remedy = "free some space and build again; nothing cached was lost"
            raise ActionError("the disk is full", where=str(where), remedy=remedy) from None
        remedy = _REMEDIES.get(error.errno or 0, "").format(otherwise)
        if remedy:
            raise ActionError(f"cannot write: {error.strerror}", where=str(where), remedy=remedy) from None
        raise


def sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def replace(source: Path, target: Path) -> None:
    """Rename `source` over `target`; a folder that lies there is damage, and gives way."""
    try:
        os.replace(source, target)
    except IsADirectoryError:
        remove_tree(target)  # another process may be at it too
        os.replace(source, target)


def remove_tree(path: Path | str) -> None:
    """Remove a folder of our own with all in it, as far as that goes. `shutil` does so too, and brings compressors: its
    import takes longer than all folders that one build removes."""
    with contextlib.suppress(OSError):
        if not os.path.islink(path):
            with os.scandir(path) as found:
                entries = list(found)
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    remove_tree(entry.path)
                else:
                    with contextlib.suppress(OSError):
                        os.unlink(entry.path)
            os.rmdir(path)


def write_atomic(path: Path, data: bytes | bytearray, room: Path | None = None) -> None:
    """Write beside, fsync, rename, fsync the folder: after a crash the old content or the new, never a mixture.

    `room` is a folder on the same file system where the half-written file lies meanwhile (the cache's ``tmp/``, which
    every build sweeps); without one it lies beside `path`, and what a killed writer of `path` left there is swept now.
    """
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if room is None:
            room = path.parent
            sweep_parts(room, f".{path.name}.")
        else:
            room.mkdir(parents=True, exist_ok=True)
        with part(room, path.name) as (beside, file):
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            replace(beside, path)
        sync_folder(path.parent)


@contextlib.contextmanager
def part(room: Path, name: str) -> Iterator[tuple[Path, IO[bytes]]]:
    """A new file in `room` to write and then to rename or link inside the block; at its end it is gone.

    It is locked for as long as it is open (so rename it before that), which tells a sweeper that its writer lives.
    """
    beside, file = _locked(room, name)
    try:
        with file:
            yield beside, file
    finally:
        beside.unlink(missing_ok=True)


def _locked(room: Path, name: str) -> tuple[Path, IO[bytes]]:
    while True:
        beside = room / f".{name}.{fresh()}"
        file = open(beside, "wb")  # noqa: SIM115 (the caller closes it)
        try:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX)
            if os.fstat(file.fileno()).st_nlink:  # else a sweeper came between the two calls
                return beside, file
        except OSError:
            beside.unlink(missing_ok=True)
            file.close()
            raise
        file.close()


def sweep_parts(folder: Path, prefix: str = ".") -> None:
    """Remove the half-written files of processes that are gone: nobody holds their lock."""
    with os.scandir(folder) as found:
        names = [entry.name for entry in found if entry.name.startswith(prefix) and _is_part(entry.name)]
    for name in names:
        with contextlib.suppress(OSError), open(folder / name, "rb") as file:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            (folder / name).unlink(missing_ok=True)


def _is_part(name: str) -> bool:
    """``.NAME.`` and what `fresh` gives: nobody else's files look like that."""
    head, _, tail = name.rpartition(".")
    return head.startswith(".") and len(tail) == 12 and not set(tail) - set("0123456789abcdef")


def read_whole(path: Path | str) -> bytearray:
    """A file, to be changed in memory. Raises OSError."""
    with open(path, "rb", buffering=0) as file:
        data = bytearray(os.fstat(file.fileno()).st_size)
        if file.readinto(data) != len(data):
            raise OSError(errno.EIO, "cut short while it was read", os.fspath(path))
    return data


def read_json(path: Path | str) -> Any:
    """A JSON file, or None when it is missing or unreadable: unreadable state is a miss, never a crash."""
    try:
        with open(path, "rb") as file:
            return json.loads(file.read(), parse_float=_finite, parse_constant=_finite)
    except (OSError, ValueError, RecursionError):
        return None


def _finite(text: str) -> float:
    """A number that JSON can hold: 1e999 is read as an infinity, which could not be written again."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError
    return number


def seal(value: Any) -> bytes:
    """The canonical bytes of a JSON object (with a key) that end with their own digest: a flipped bit shows."""
    text = bytearray(canonical(value))
    seal_in_place(text)
    return bytes(text)


def digest_of(text: bytes | bytearray) -> str:
    """`digest_bytes`, of a bytearray too: that one is in the key of every training, so it stays as it is."""
    return str(blake3(text).hexdigest())


def open_in_place(text: bytearray) -> bool:
    """Take the seal off, if there is one; whether the text is whole."""
    if len(text) <= 75 or text[-75:-66] != _SEAL:
        return True
    end = bytes(text[-66:])
    del text[-75:]
    text += b"}"
    return end == digest_of(text).encode() + b'"}'


def seal_in_place(text: bytearray) -> None:
    """Add the digest of a JSON object to its end, as one more field."""
    end = _SEAL + digest_of(text).encode() + b'"}'
    text[-1:] = end


def unseal(data: bytes) -> Any:
    """The JSON object of `seal`, or one without a seal; None when it is damaged."""
    try:
        text = bytearray(data)
        return json.loads(text if open_in_place(text) else b"")
    except (ValueError, RecursionError):
        return None


def clone(source: Path | str, target: Path) -> None:
    """A copy that shares blocks where the file system can, so that editing it never reaches the store."""
    import shutil

    with open(source, "rb") as read, open(target, "wb") as write:
        try:
            fcntl.ioctl(write.fileno(), _FICLONE, read.fileno())
        except OSError:
            shutil.copyfileobj(read, write, 1 << 20)
