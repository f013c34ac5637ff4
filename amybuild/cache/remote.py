"""Places that several machines share: a folder, or a bucket through fsspec; each knows five verbs and no policy."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import IO, Any, Protocol

from amybuild.cache.disk import part, sweep_parts, sync_folder
from amybuild.errors import InputError

_QUICK = 20.0  # s, for what is small
_SLOWEST = 1 << 18  # bytes per s: a transfer that is slower has hung
# connecting and each answer are waited for this long, and one more try is made
_OPTIONS: dict[str, dict[str, Any]] = {
    "s3": {"config_kwargs": {"connect_timeout": 5, "read_timeout": 20, "retries": {"max_attempts": 1}}},
    "gs": {"requests_timeout": 20},
}
_URL = re.compile(r"(s3|gs|file)://([^/?#@]*)(/[^?#]*)?\Z")


class Place(Protocol):
    """Bytes under names with ``/``. A verb raises FileNotFoundError, PermissionError or whatever its library has."""

    def read(self, name: str) -> bytes: ...
    def size(self, name: str) -> int: ...
    def fetch(self, name: str, target: Path, size: int) -> None: ...
    def send(self, name: str, source: Path) -> None: ...
    def add(self, name: str, data: bytes, *, replace: bool) -> None:
        """FileExistsError when there is one and `replace` is not set."""


class Folder:
    """A folder that several projects or machines see (``file://``)."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._swept = False

    def read(self, name: str) -> bytes:
        return (self.root / name).read_bytes()

    def size(self, name: str) -> int:
        return (self.root / name).stat().st_size

    def fetch(self, name: str, target: Path, size: int) -> None:
        shutil.copyfile(self.root / name, target)

    def send(self, name: str, source: Path) -> None:
        with part(self._room(name), "part") as (beside, file), open(source, "rb") as whole:
            shutil.copyfileobj(whole, file, 1 << 20)
            self._finish(file)
            os.replace(beside, self.root / name)
        sync_folder((self.root / name).parent)

    def add(self, name: str, data: bytes, *, replace: bool) -> None:
        with part(self._room(name), "part") as (beside, file):
            file.write(data)
            self._finish(file)
            if replace:
                os.replace(beside, self.root / name)
            else:
                os.link(beside, self.root / name)  # unlike a rename it fails when there is one
        sync_folder((self.root / name).parent)

    def _room(self, name: str) -> Path:
        """Where half-written files lie; the first use sweeps what killed processes left."""
        (self.root / name).parent.mkdir(parents=True, exist_ok=True)
        room = self.root / "tmp"
        if not self._swept:
            room.mkdir(exist_ok=True)
            sweep_parts(room)
            self._swept = True
        return room

    @staticmethod
    def _finish(file: IO[bytes]) -> None:
        file.flush()
        os.fsync(file.fileno())


class Bucket:
    """A file system of fsspec (``s3://``, ``gs://``). Its credentials are found in the environment by its own rules."""

    def __init__(self, fs: Any, root: str) -> None:
        self.fs, self.root = fs, root.rstrip("/")

    def _call(self, verb: str, *args: Any, seconds: float = _QUICK, **named: Any) -> Any:
        if not getattr(self.fs, "async_impl", False):
            return getattr(self.fs, verb)(*args, **named)
        from fsspec.asyn import sync

        return sync(self.fs.loop, getattr(self.fs, f"_{verb}"), *args, timeout=seconds, **named)

    def _at(self, name: str) -> str:
        return f"{self.root}/{name}"

    def read(self, name: str) -> bytes:
        return bytes(self._call("cat_file", self._at(name)))

    def size(self, name: str) -> int:
        self.fs.invalidate_cache()
        return int(self._call("info", self._at(name))["size"])

    def fetch(self, name: str, target: Path, size: int) -> None:
        self._call("get_file", self._at(name), os.fspath(target), seconds=_QUICK + size / _SLOWEST)

    def send(self, name: str, source: Path) -> None:
        seconds = _QUICK + source.stat().st_size / _SLOWEST
        self._call("put_file", os.fspath(source), self._at(name), seconds=seconds)

    def add(self, name: str, data: bytes, *, replace: bool) -> None:
        self._call("pipe_file", self._at(name), data, mode="overwrite" if replace else "create")


def check_url(url: str, where: str) -> tuple[str, str]:
    """The scheme and the rest of a shared store's URL; InputError does not repeat it: it may hold a secret."""
    found = _URL.match(url)
    if found is None or (found[1] == "file") != (found[2] == "") or (found[1] == "file" and not found[3]):
        remedy = "write s3://bucket/prefix, gs://bucket/prefix or file:///folder; credentials belong in the environment"
        raise InputError("is not the address of a shared store", where=where, remedy=remedy)
    return found[1], found[2] + (found[3] or "")


def open_place(url: str, where: str, version: str) -> Place:
    """What `url` names; below it everything lies in a folder `version`. ImportError when its package is not here."""
    scheme, path = check_url(url, where)
    if scheme == "file":
        from urllib.parse import unquote

        return Folder(Path(unquote(path)) / version)
    if scheme == "gs":  # else it asks what kind of bucket this is, with another permission, and warns each time
        os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    import fsspec

    fs = fsspec.filesystem(scheme, use_listings_cache=False, **_OPTIONS[scheme])
    fs.retries = 1  # s3fs tries five times with pauses of its own
    return Bucket(fs, f"{path.rstrip('/')}/{version}")
