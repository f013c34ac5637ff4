"""Reader for a folder of Markdown nodes: one file per node, its key the path without ``.md``."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from amybuild.errors import InputError
from amybuild.memory.bare import Bare, bare_of
from amybuild.memory.node import MAX_BYTES, Node, clean
from amybuild.memory.reading import Reading
from amybuild.memory.shelf import Kept, Shelf

_MARK = "+++"
_MOST_FIT = 1 << 16
_DEEPEST = 100
_MOST_WAYS = 1000  # over which one folder may be reached


def read_folder(folder: Path, display: str, project: Path, reading: Reading) -> Shelf:
    """The nodes below `folder`. ``README.md`` and names that start with ``_`` or ``.`` are no nodes.

    `display` is how messages name the folder; links and example files may not lead out of `folder` and `project`.
    """
    reader = _Files(folder, display, project, reading)
    shelf = Shelf(reader)

    def read(key: str, name: str) -> Kept:
        reading.parsed += 1
        return shelf.kept(*reader.parse(key, name, reader.fetch(name)))

    for place, paths, names in _Walk(display, reader.homes, reading).files(reader.root, "", ()):
        keys = list(map(key_of, names))
        shelf.put(keys, reading.all_values(place, names, paths, read, keys, names), names)
    if not shelf:
        raise InputError("no memory nodes here", where=display, remedy="a node is a Markdown file: some-key.md")
    shelf.sort()
    return shelf


def read_file(folder: Path, display: str, project: Path, name: str, reading: Reading) -> Node:
    """The node of one file of the folder."""
    reader = _Files(folder, display, project, reading)
    reading.saw(f"{reader.root}/{name}")
    bare, line = reader.parse(key_of(name), name, reader.fetch(name))
    return bare.node(reader.source(name), line)


def key_of(name: str) -> str:
    """The key of the node in a file of this name, relative to the graph's folder."""
    if name.isascii():
        return name[:-3]
    import unicodedata

    return unicodedata.normalize("NFC", name[:-3])


class _Files:
    """Takes nodes from the files of a folder; a place is a file's name in it."""

    def __init__(self, folder: Path, display: str, project: Path, reading: Reading) -> None:
        self.root, self._display, self._reading = os.fspath(folder), display, reading
        self.homes = tuple({os.path.realpath(folder), os.path.realpath(project)})

    def fetch(self, name: str) -> bytes:
        return _bytes_of(f"{self.root}/{name}", self.source(name))

    def parse(self, key: str, name: str, data: bytes) -> tuple[Bare, int]:
        return _parse(data, key, f"{self.root}/{name}", self.source(name), self.homes, self._reading)

    def source(self, name: str) -> str:
        return f"{self._display}/{name}"


def split_front_matter(text: str) -> tuple[str | None, str, int]:
    """``(front matter or None, content, the line content starts at)``. An unclosed ``+++`` is an `InputError`."""
    if not text.startswith(_MARK) or text.split("\n", 1)[0].rstrip() != _MARK:
        return None, text, 1
    start = text.index("\n") if "\n" in text else len(text)
    at = start
    while (at := text.find(f"\n{_MARK}", at)) >= 0:
        end = text.find("\n", at + 1)
        end = len(text) if end < 0 else end
        if text[at + 1 : end].rstrip() == _MARK:
            return text[start + 1 : at], text[end + 1 :], text.count("\n", 0, at) + 3
        at = end
    raise InputError("the front matter is not closed", remedy="end it with a line of '+++'")


class _Walk:
    """A walk over the folders of a graph. `homes`: where links may lead."""

    def __init__(self, display: str, homes: tuple[str, ...], reading: Reading) -> None:
        self._display, self._homes, self._reading = display, homes, reading
        self._met: Counter[str] = Counter()

    def files(self, folder: str, prefix: str, above: tuple[str, ...]) -> Iterator[tuple[str, list[str], list[str]]]:
        """``(place, paths, names relative to the graph's folder)`` of the node files of each folder, `folder` first. A
        place is the folder with a slash, or a link's own path."""
        here = os.path.realpath(folder)
        shown = f"{self._display}/{prefix}".rstrip("/")
        if here in above:
            raise InputError("this link leads back into a folder above it", where=shown, remedy="remove the link")
        if len(above) > _DEEPEST:
            raise InputError(f"folders more than {_DEEPEST} deep", where=shown[:80], remedy="move them up")
        self._met[here] += 1
        if self._met[here] > _MOST_WAYS:  # thirty folders with two links each to the next are a billion
            raise InputError(f"more than {_MOST_WAYS} links lead here", where=shown, remedy="remove links")
        files, folders, links = self._reading.values(folder, _listing, folder, shown)
        yield f"{folder}/", [f"{folder}/{name}" for name in files], [f"{prefix}{name}" for name in files]
        for name in folders:
            yield from self.files(f"{folder}/{name}", f"{prefix}{name}/", (*above, here))
        for name in links:  # what a link leads to can change without its folder
            path = f"{folder}/{name}"
            _stay_inside(path, f"{self._display}/{prefix}{name}", self._homes)
            if os.path.isdir(path):
                yield from self.files(path, f"{prefix}{name}/", (*above, here))
            elif _is_node(name, os.path.isfile(path), shown):
                yield path, [path], [f"{prefix}{name}"]


def _listing(folder: str, shown: str) -> tuple[list[str], list[str], list[str]]:
    """The names in a folder: of the files that are nodes, of folders, and of links to either."""
    files: list[str] = []
    folders: list[str] = []
    links: list[str] = []
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", where=shown, remedy="check its permissions") from None
    for entry in entries:
        name = entry.name
        if name[0] in "._":
            continue
        if entry.is_symlink():
            links.append(name)
        elif entry.is_dir():
            folders.append(name)
        elif _is_node(name, entry.is_file(), shown):
            files.append(name)
    return files, folders, links


def _is_node(name: str, is_file: bool, shown: str) -> bool:
    """Whether a name is that of a node's file; `InputError` for one that looks like it and cannot be."""
    if not name.endswith(".md") or name.lower() == "readme.md":
        return False
    if "#" in name or not name.isprintable():
        raise InputError(
            f"{name!a} cannot be a key",
            where=shown,
            remedy="rename the file: '#' addresses a section inside a node, and a name is printable UTF-8",
        )
    if not is_file:
        raise InputError("not a regular file", where=f"{shown}/{name}", remedy="move it away")
    return True


def _stay_inside(path: str, shown: str, homes: tuple[str, ...]) -> None:
    try:
        real = os.path.realpath(path, strict=True)
    except OSError:
        raise InputError("a link that leads nowhere or in a circle", where=shown, remedy="remove the link") from None
    if not any(real == home or real.startswith(home + os.sep) for home in homes):
        raise InputError("leads out of the project", where=shown, remedy="copy the file into the project")


def _bytes_of(path: str, shown: str) -> bytes:
    try:
        file = os.open(path, os.O_RDONLY)
        try:
            data = os.read(file, _MOST_FIT)
            if len(data) == _MOST_FIT:  # asking for all at once reserves 16 MiB for every file
                data += os.read(file, MAX_BYTES + 1 - _MOST_FIT)
        finally:
            os.close(file)
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", where=shown, remedy="check the file") from None
    if len(data) > MAX_BYTES:
        raise InputError(f"larger than {MAX_BYTES >> 20} MiB", where=shown, remedy="split it into several nodes")
    return data


def _text_of(data: bytes, shown: str) -> str:
    try:
        return clean(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError("not UTF-8", where=f"{shown}:{line}", remedy="save the file as UTF-8") from None


def _parse(data: bytes, key: str, path: str, shown: str, homes: tuple[str, ...], reading: Reading) -> tuple[Bare, int]:
    text = _text_of(data, shown)
    try:
        front, content, line = split_front_matter(text)
    except InputError as error:
        raise InputError(error.what, where=f"{shown}:1", remedy=error.remedy) from None
    fields = _decode(front, shown) if front and not front.isspace() else {}
    examples = fields.pop("examples", None)
    try:
        if examples is not None:
            examples = _read_examples(examples, path, shown, homes, reading)
        return bare_of(key, content, fields, examples), line
    except InputError as error:
        if error.where is not None:
            raise
        place = f"{shown}:{_line_of(error.what, front or '')}"
        raise InputError(error.what, where=place, remedy=error.remedy) from None


def _decode(front: str, shown: str) -> dict[str, Any]:
    from amybuild.memory.front import TOMLDecodeError, fields_of  # here: a graph without front matter needs no TOML

    try:
        return fields_of(front)
    except TOMLDecodeError as error:
        raise InputError(
            f"the front matter is not TOML: {error.msg} (column {error.colno})",
            where=f"{shown}:{error.lineno + 1}",
            remedy='strings need quotes: type = "semantic"',
        ) from None
    except (ValueError, RecursionError):  # thousands of digits, thousands of brackets
        raise InputError("the front matter is no plain TOML", where=f"{shown}:1", remedy="simplify it") from None


def _read_examples(name: object, path: str, shown: str, homes: tuple[str, ...], reading: Reading) -> str:
    if not isinstance(name, str) or not name:
        raise InputError("examples is not a file name", remedy='write examples = "examples.jsonl"')
    target = os.path.join(os.path.dirname(path), name)
    place = f"{shown} (examples = '{name}')"
    if not os.path.isfile(target):
        raise InputError("the examples file is not there", where=place, remedy="the path starts at the node's folder")
    _stay_inside(target, place, homes)
    reading.saw(target)
    named = f"{shown.rpartition('/')[0]}/{name}"
    return _text_of(_bytes_of(target, named), named)


def _line_of(what: str, front: str) -> int:
    """The file's line of the first front-matter key that the message names, else 1."""
    words = what.translate(dict.fromkeys(map(ord, "':,"), " ")).split()
    for number, line in enumerate(front.split("\n"), start=2):
        name = line.partition("=")[0].strip(" \t[]\"'")
        if name and (name in words or name.removesuffix("s") in words):
            return number
    return 1
