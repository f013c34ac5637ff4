"""Numbers remembered between links: thresholds and counts that no alpha changes, so a changed one costs one pass."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from amybuild.digest import digest_bytes, digest_value

_VERSION = 2
_MOST = 256  # files of a folder that are kept
ALL = ""  # the label of what is a function of all vectors together


class Memo:
    """Lists of numbers by label and entry, kept below `folder` in a file per label: its digest, then JSON.

    No folder: nothing is kept.

    `keys` names each label's file: see `memo_keys`. What cannot be read is not known; what cannot be written is lost.
    """

    def __init__(self, keys: Mapping[str, str], folder: Path | None) -> None:
        self._paths = {label: folder / f"{key}.json" for label, key in keys.items()} if folder is not None else {}
        self._known = {label: _read(path) for label, path in self._paths.items()}
        self._changed: set[str] = set()

    def get(self, label: str, entry: str, length: int) -> list[float] | None:
        """The numbers, or None when they are not known, or not so many."""
        found = self._known.get(label, {}).get(entry)
        if not isinstance(found, list) or len(found) != length:
            return None
        with contextlib.suppress(TypeError):  # what is no number has no sum, and one NaN makes it NaN
            return None if math.isnan(sum(found)) else found
        return None

    def put(self, label: str, entry: str, numbers: Sequence[float]) -> None:
        """Remember the numbers of an entry."""
        if label in self._paths and self._known[label].get(entry) != list(numbers):
            self._known[label][entry] = list(numbers)
            self._changed.add(label)

    def save(self) -> None:
        """Write the files that changed, each beside its place and then renamed into it."""
        for label in self._changed:
            path = self._paths[label]
            beside = path.with_suffix(f".{os.getpid()}.tmp")
            with contextlib.suppress(OSError):
                path.parent.mkdir(parents=True, exist_ok=True)
                body = json.dumps({"version": _VERSION, "entries": self._known[label]}).encode()
                beside.write_bytes(digest_bytes(body).encode() + b"\n" + body)
                os.replace(beside, path)
        if self._changed:
            _prune(next(iter(self._paths.values())).parent)


def memo_keys(digests: Mapping[str, str], vectors: Sequence[str], trim: Mapping[str, Any]) -> dict[str, str]:
    """File names by label: every vector, and `ALL` for what is a function of all of them, in the order given.

    `digests`: the content digests of `base` and of each `vector.<name>`; without all of them nothing has a file.
    `trim`: what else the numbers depend on (which entries stay, the density …).
    """
    roles = [f"vector.{name}" for name in vectors]
    if not {"base", *roles} <= set(digests):
        return {}
    base, others = digests["base"], [digests[role] for role in roles]
    keys = {
        name: digest_value("link.thresholds", [_VERSION, base, other, dict(trim)])
        for name, other in zip(vectors, others, strict=True)
    }
    return {**keys, ALL: digest_value("link.counts", [_VERSION, base, others, dict(trim)])}


def _read(path: Path) -> dict[str, Any]:
    try:
        check, _, body = path.read_bytes().partition(b"\n")
        if check.decode() != digest_bytes(body):  # a flipped bit would be another threshold
            return {}
        found = json.loads(body)
        entries = found["entries"] if found["version"] == _VERSION else {}
        return entries if isinstance(entries, dict) else {}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}


def _prune(folder: Path) -> None:
    """Drop the files that were not written for longest."""
    with contextlib.suppress(OSError):
        files = sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
        for path in files[:-_MOST]:
            path.unlink(missing_ok=True)
