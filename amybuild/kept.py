"""What is kept only to save work: plain values under a checksum, and the stamps of files that they hold for."""

import marshal
import os
import zlib

TYPE_CHECKING = False  # not from typing: its import costs more than a no-op's own work
if TYPE_CHECKING:
    from typing import Any

Stamp = tuple[int, int, int, int]

# ns: file systems keep times in steps of up to about 10 ms, so a file that changed a moment ago can change again
# and keep its stamp; a stamp that is younger than this proves nothing
TICK = 100_000_000

REMOVALS = "gc.lock"  # in a cache: a file that grows whenever somebody may remove from it (`cache.lease`)


def stat_of(path: "str | os.PathLike[str]") -> Stamp:
    """What cannot all stay the same when a file changes: size, mtime, ctime (which no tool can set back), inode."""
    s = os.stat(path)
    return (s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino)


def stamp_of(path: str) -> Stamp | None:
    """`stat_of`, following links; None when nothing is there."""
    try:
        return stat_of(path)
    except OSError:
        return None


def settled(stamp: Stamp | None, now: int) -> bool:
    """Whether a stamp taken at `now` (ns) or later would show any change after that."""
    return stamp is None or max(stamp[1:3]) < now - TICK


def read(path: str) -> "Any":
    """The value kept at `path`; None when it is missing, damaged or cannot be read."""
    try:
        with open(path, "rb", buffering=0) as file:
            data = file.read()
        if zlib.crc32(memoryview(data)[4:]).to_bytes(4, "big") != data[:4]:
            return None
        return marshal.loads(memoryview(data)[4:])
    except (OSError, ValueError, TypeError, EOFError):
        return None


def write(path: str, value: "Any") -> None:
    """Keep a value of strings, bytes, numbers, tuples, lists and dicts. It is not synced (half a file is none), and
    where it cannot be written it is not kept."""
    body = marshal.dumps(value)
    beside = f"{path}.{os.getpid()}"
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(beside, "wb") as file:
            file.write(zlib.crc32(body).to_bytes(4, "big"))
            file.write(body)
        os.replace(beside, path)
    except OSError:
        return
