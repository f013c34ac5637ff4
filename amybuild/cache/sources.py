"""The source text behind code digests, kept so that an explanation can show how a function changed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from amybuild.cache.store import read_json, write_atomic
from amybuild.digest import canonical

_MOST = 20_000  # functions: some ten megabytes, years of edits


class Sources:
    """One JSON file, digest -> source, oldest first. Losing it costs a diff, never a result."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def _load(self) -> dict[str, str]:
        data = read_json(self.path)
        if not isinstance(data, list):
            return {}
        return {row[0]: row[1] for row in data if isinstance(row, list) and list(map(type, row)) == [str, str]}

    def text(self, digest: str) -> str | None:
        """The source under a code digest, or None when it was never kept."""
        return self._load().get(digest)

    def keep(self, sources: Mapping[str, str]) -> None:
        """Add what is not there yet. Two builds at once may lose additions of one of them: a diff less, no more."""
        kept = self._load()
        new = {digest: text for digest, text in sources.items() if digest not in kept}
        if new:
            write_atomic(self.path, canonical([list(pair) for pair in {**kept, **new}.items()][-_MOST:]))
