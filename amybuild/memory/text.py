"""Text files that people hand in: read line by line as UTF-8, within bounds, and only from inside the project."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from amybuild.errors import InputError
from amybuild.memory.node import MAX_BYTES

MAX_FILE = 512 << 20  # of a whole file: it is held in memory


def lines_of(path: Path, shown: str) -> Iterator[str]:
    """The lines of a text file without their ends. `InputError` for what is not UTF-8 and for a line of more than 16
    MiB; `shown` is how messages name the file."""
    try:
        with open(path, "rb") as file:
            number = 0
            while line := file.readline(MAX_BYTES + 1):
                number += 1
                where = f"{shown}:{number}"
                if len(line) > MAX_BYTES:
                    raise InputError(f"a line of more than {MAX_BYTES >> 20} MiB", where=where, remedy="split it")
                try:
                    yield line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
                except UnicodeDecodeError:
                    raise InputError("not UTF-8", where=where, remedy="save the file as UTF-8") from None
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", where=shown, remedy="check the file") from None


def text_of(path: Path, shown: str) -> str:
    """A whole text file, line ends as line feeds. `InputError` for what is not UTF-8 and for more than 512 MiB."""
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_FILE + 1)
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", where=shown, remedy="check the file") from None
    if len(data) > MAX_FILE:
        raise InputError(f"larger than {MAX_FILE >> 20} MiB", where=shown, remedy="export a part of it")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError("not UTF-8", where=f"{shown}:{line}", remedy="save the file as UTF-8") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def object_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object (a hook for `json.loads`); `InputError` for one that says a key twice: which of the two counts?"""
    found = dict(pairs)
    if len(found) < len(pairs):
        (twice, _), *_ = Counter(name for name, _ in pairs).most_common(1)
        raise InputError(f"{twice[:40]!a} is there twice", remedy="which of the two counts? remove one")
    return found


def inside(root: Path, name: str, where: str) -> Path:
    """The file or folder `name` of the project `root`; `InputError` when it is not there, or anything in it leads out
    of the project or is neither file nor folder."""
    home, path = os.path.realpath(root), root / name
    try:
        real = os.path.realpath(path, strict=True)
    except (OSError, ValueError):
        raise InputError(
            f"no such file or folder: {name}", where=where, remedy="the path starts at the project"
        ) from None
    every = [real]
    for folder, folders, files in os.walk(real, onerror=_unreadable(where)):
        every += (os.path.join(folder, one) for one in (*folders, *files))
    links = [real, *filter(os.path.islink, every)]
    if not all((found := os.path.realpath(link)) == home or found.startswith(home + os.sep) for link in links):
        raise InputError("leads out of the project", where=where, remedy="copy the file into the project")
    if not all(os.path.isfile(one) or os.path.isdir(one) for one in every):  # a pipe would be waited for without end
        raise InputError("neither a file nor a folder", where=where, remedy="move it away")
    return Path(real)


def _unreadable(where: str) -> Callable[[OSError], None]:
    """For `os.walk`, which passes over a folder that it may not read: what is in there must not go unnoticed."""

    def told(error: OSError) -> None:
        if not isinstance(error, NotADirectoryError):  # a file is walked as well
            what = f"a folder in it cannot be read: {error.strerror}"
            raise InputError(what, where=where, remedy="check its permissions") from None

    return told
