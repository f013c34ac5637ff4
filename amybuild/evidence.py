"""The evidence of an answer: the stamp of every file and folder that could make "up to date" another answer."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from amybuild.kept import Stamp, settled, stamp_of
from amybuild.value import value

_KEPT_THERE = ("objects", "trees", "actions")


def below(folder: str, *, skip: tuple[str, ...] = ()) -> Iterable[str]:
    """`folder`, and all files and folders in it at any depth (folders that are links are not entered)."""
    stack = [folder]
    while stack:
        one = stack.pop()
        yield one
        if not os.path.isdir(one) or (os.path.islink(one) and one != folder):
            continue
        with os.scandir(one) as entries:
            stack += [entry.path for entry in entries if entry.name not in skip]


def of_inputs(personafile: Path, root: Path, sources: Iterable[Path], code: Path) -> dict[str, Stamp | None]:
    """Stamps of what is read beside the memory graph: the Personafile, the recipes, the outside `sources`, the program,
    and the folders that say which libraries are installed. Paths are as they were named, so that a link that is made
    to point elsewhere is another file."""
    paths = [os.path.abspath(personafile), *below(os.fspath(root / "recipes"))]
    for source in sources:
        paths += below(os.fspath(source), skip=(".git",))
    paths += below(os.fspath(code), skip=("__pycache__",))
    paths += [os.path.abspath(folder) for folder in sys.path]
    return {path: stamp_of(path) for path in paths}


def of_store(root: Path) -> dict[str, Stamp | None]:
    """Stamps of the folders that hold results. Objects are written once and never in place, so a result can be lost
    only with its name, and that its folder shows."""
    found: dict[str, Stamp | None] = {}
    for name in _KEPT_THERE:
        folder = os.fspath(root / name)
        found[folder] = stamp_of(folder)
        if found[folder] is not None:
            with os.scandir(folder) as entries:
                found |= {entry.path: stamp_of(entry.path) for entry in entries}
    return found


@value
class Evidence:
    """What a plan rests on: what was read since `began` (ns), and where the results are."""

    began: int
    inputs: Mapping[str, Stamp | None]
    store: Mapping[str, Stamp | None]
    both: tuple[str, ...] = ()  # of the inputs: files of the memory graph that say something else too

    @property
    def settled(self) -> bool:
        """Whether the stamps, some of them taken after reading, hold for what was read: none of it changed since
        shortly before it began."""
        return all(settled(stamp, self.began) for stamp in self.inputs.values())
