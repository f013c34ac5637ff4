"""The no-op: whether all that an earlier answer rested on is as it was, by stat alone, before anything is imported.

A build that leaves everything up to date keeps what it was asked, what it answered, and the stamp of every file and
folder that could make the answer another one. `answer` reads that back. Any difference, and anything unreadable, is no
answer: then the whole program looks.
"""

import os
import sys
import time
import zlib

from amybuild.kept import TYPE_CHECKING, Stamp, read, stamp_of, write

if TYPE_CHECKING:
    from collections.abc import Mapping

FORMAT = "amybuild no-op 2"
MOST = 16  # answers per cache: one for each project, selection and way to call it


def _value(words: list[str], short: str, long: str, default: str) -> str:
    found = default
    for word, after in zip(words, [*words[1:], default], strict=False):
        if word in (short, long):
            found = after
        elif word.startswith(f"{long}="):
            found = word[len(long) + 1 :]
    return found


def question(argv: list[str]) -> tuple[str, str]:
    """``(file of the answer, all that decides what the words mean)``. `--explain` asks what a build asks."""
    words = [word for word in argv if word != "--explain"]
    directory = _value(words, "-C", "--directory", "")
    file = os.path.join(directory, _value(words, "-f", "--file", "Personafile.toml"))
    root = os.path.dirname(os.path.realpath(file))
    settings = sorted(f"{name}={value}" for name, value in os.environ.items() if name.startswith("AMYBUILD_"))
    place = os.environ.get("AMYBUILD_CACHE")
    cache = (
        os.path.join(os.path.abspath(directory), os.path.expanduser(place)) if place else os.path.join(root, "cache")
    )
    parts = [FORMAT, sys.version, __file__, os.getcwd(), root, *words, "", *sys.path, "", *settings]
    asked = "\0".join(parts)
    name = f"{zlib.crc32(asked.encode(errors='surrogateescape')):08x}"
    return os.path.join(os.path.normpath(cache), "v1", "noop", name), asked


def answer(argv: list[str]) -> tuple[str, str] | None:
    """``(stdout, stderr)`` of an up-to-date answer that still holds, or None."""
    if "--" in argv or "AMYBUILD_NO_STAMP" in os.environ:
        return None
    try:
        place, asked = question(argv)
        known, built, explained, span, paths, stamps, absent = read(place)
        if known != asked or (span and not span[0] <= time.time() < span[1]):
            return None
        stat = os.stat
        for path, was in zip(paths, stamps, strict=True):
            s = stat(path)
            if (s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino) != was:
                return None
    except (OSError, ValueError, TypeError):
        return None
    if any(stamp_of(path) is not None for path in absent):
        return None
    if "--explain" in argv:
        return (explained, "") if explained else None
    return "", built


def keep(
    asked: tuple[str, str],
    built: str,
    explained: str,
    evidence: "Mapping[str, Stamp | None]",
    span: "tuple[float, float] | tuple[()]" = (),
) -> None:
    """Keep an answer (`built` to stderr, `explained` to stdout) for as long as the evidence is what it is.

    An empty `explained`: the whole program has more to say. `span`: the times (unix seconds) between which it holds.
    """
    place, words = asked
    there = {path: stamp for path, stamp in evidence.items() if stamp is not None}
    absent = [path for path, stamp in evidence.items() if stamp is None]
    write(place, (words, built, explained, span, list(there), list(there.values()), absent))
    _prune(os.path.dirname(place))


def _prune(folder: str) -> None:
    """Drop the answers that were not renewed for longest."""
    try:
        with os.scandir(folder) as entries:
            by_age = sorted((entry.stat().st_mtime_ns, entry.path) for entry in entries)
        for _, path in by_age[:-MOST]:
            os.unlink(path)
    except OSError:
        return
