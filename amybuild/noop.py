"""The no-op: whether all that an earlier answer rested on is as it was, by stat alone, before anything is imported.

A build that leaves everything up to date keeps what it was asked, what it answered, and the stamp of every file and
folder that could make the answer another one. `answer` reads that back. Any difference, and anything unreadable, is no
answer: then the whole program looks.
"""

import os
import sys
import time
import zlib

from amybuild.kept import REMOVALS, TYPE_CHECKING, Stamp, read, stamp_of, write

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

FORMAT = "amybuild no-op 3"
MOST = 16  # answers per cache: one for each project, selection and way to call it


def value(words: list[str], short: str, long: str, default: str) -> str:
    """What an option is given on the command line."""
    found = default
    for word, after in zip(words, [*words[1:], default], strict=False):
        if word in (short, long):
            found = after
        elif word.startswith(f"{long}="):
            found = word[len(long) + 1 :]
        elif word.startswith(short):
            found = word[len(short) :].removeprefix("=")
    return found


def question(argv: list[str]) -> tuple[str, str]:
    """``(file of the answer, all that decides what the words mean)``. `--explain` asks what a build asks."""
    words = [word for word in argv if word != "--explain"]
    directory = value(words, "-C", "--directory", "")
    file = os.path.join(directory, value(words, "-f", "--file", "Personafile.toml"))
    root = os.path.dirname(os.path.realpath(file))
    settings = sorted(f"{name}={value}" for name, value in os.environ.items() if name.startswith("AMYBUILD_"))
    place = os.environ.get("AMYBUILD_CACHE")
    if place and "://" not in place:
        cache = os.path.join(os.path.abspath(directory), os.path.expanduser(place))
    else:
        cache = os.path.join(root, "cache")
    parts = [FORMAT, sys.version, __file__, os.getcwd(), root, *words, "", *sys.path, "", *settings]
    asked = "\0".join(parts)
    name = f"{zlib.crc32(asked.encode(errors='surrogateescape')):08x}"
    return os.path.join(os.path.normpath(cache), "v1", "noop", name), asked


class Answer:
    """What was said when all was up to date, the evidence it rests on, and which of that is another by now."""

    def __init__(self, place: str, asked: str, kept: "Any") -> None:
        known, self.built, self.explained, span, paths, stamps, self.absent, self.behind = kept
        self.asked = place, asked
        # before the folders are looked at: while this stays, what they show now is not removed by a collection
        self.removals = stamp_of(os.path.join(os.path.dirname(os.path.dirname(place)), REMOVALS))
        self.stamps: dict[str, Stamp] = dict(zip(paths, stamps, strict=True))
        self.holds = known == asked and not (span and not span[0] <= time.time() < span[1])
        self.changed = self._changed() if self.holds else []
        self.holds = self.holds and not any(stamp_of(path) is not None for path in self.absent)

    def _changed(self) -> "list[str]":
        stat, found = os.stat, []
        for path, was in self.stamps.items():
            try:
                s = stat(path)
            except OSError:
                found.append(path)
                continue
            if (s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino) != was:
                found.append(path)
        return found


def look(argv: list[str]) -> Answer | None:
    """The answer that was kept to what is asked, if there is one."""
    if "--" in argv or "AMYBUILD_NO_STAMP" in os.environ:
        return None
    try:
        place, asked = question(argv)
        found = Answer(place, asked, read(place))
    except (OSError, ValueError, TypeError):
        return None
    return found if found.holds else None


def said(found: Answer, argv: list[str]) -> tuple[str, str] | None:
    """``(stdout, stderr)`` of an up-to-date answer, or None when it no longer holds."""
    if found.changed:
        return None
    if "--explain" in argv:
        return (found.explained, "") if found.explained else None
    return "", found.built


def answer(argv: list[str]) -> tuple[str, str] | None:
    """`look` and `said` in one."""
    found = look(argv)
    return said(found, argv) if found else None


def keep(
    asked: tuple[str, str],
    built: str,
    explained: str,
    evidence: "Mapping[str, Stamp | None]",
    span: "tuple[float, float] | tuple[()]" = (),
    behind: Stamp | None = None,
) -> None:
    """Keep an answer (`built` to stderr, `explained` to stdout) for as long as the evidence is what it is.

    An empty `explained`: the whole program has more to say. `span`: the times (unix seconds) between which it holds.
    `behind`: the stamp of what is kept beside it for a build after an edit (`compiled`).
    """
    place, words = asked
    there = {path: stamp for path, stamp in evidence.items() if stamp is not None}
    absent = [path for path, stamp in evidence.items() if stamp is None]
    write(place, (words, built, explained, span, list(there), list(there.values()), absent, behind))
    prune(os.path.dirname(place))


def prune(folder: str) -> None:
    """Drop what was not renewed for longest."""
    try:
        with os.scandir(folder) as entries:
            by_age = sorted((entry.stat().st_mtime_ns, entry.path) for entry in entries)
        for _, path in by_age[:-MOST]:
            os.unlink(path)
    except OSError:
        return
