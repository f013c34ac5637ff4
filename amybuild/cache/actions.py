"""The action cache: action key -> output, with the manifest that made the key. A failed action never gets here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from amybuild.cache.store import Store, read_json, write_atomic
from amybuild.digest import canonical

SCHEMA = 1


@dataclass(frozen=True)
class Record:
    """One finished action. `host` is the fingerprint of where it ran; it is told, it is not in the key."""

    action: str
    rule: str
    key: str
    manifest: tuple[tuple[str, str, str], ...]
    output: str
    seconds: float
    finished: str
    host: Mapping[str, Any] = field(default_factory=dict)


class ActionCache:
    """Records below ``actions/``; unreadable ones are misses."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._seen: dict[str, Record] = {}

    def _path(self, key: str) -> Any:
        return self.store.root / "actions" / key[:2] / f"{key}.json"

    def record(self, key: str) -> Record | None:
        """The record under `key`, whether or not its output is still here."""
        data = read_json(self._path(key))
        try:
            if data["schema"] != SCHEMA or data["key"] != key:
                return None
            return Record(
                action=str(data["action"]),
                rule=str(data["rule"]),
                key=key,
                manifest=tuple((str(k), str(n), str(v)) for k, n, v in data["manifest"]),
                output=str(data["output"]),
                seconds=float(data["seconds"]),
                finished=str(data["finished"]),
                host=dict(data.get("host", {})),
            )
        except (TypeError, KeyError, ValueError, OverflowError):
            return None

    def lookup(self, key: str) -> Record | None:
        """The record under `key` if its output is whole in the store."""
        found = self._seen.get(key)
        if found is None:
            found = self.record(key)
            if found is not None and self.store.tree(found.output) is None:
                found = None
            if found is not None:
                self._seen[key] = found
        return found

    def publish(self, record: Record) -> None:
        """Write a record; its output must be in the store already (the index comes last)."""
        data = {
            "schema": SCHEMA,
            "action": record.action,
            "rule": record.rule,
            "key": record.key,
            "manifest": [list(one) for one in record.manifest],
            "output": record.output,
            "seconds": round(record.seconds, 3),
            "finished": record.finished,
            "host": dict(record.host),
        }
        write_atomic(self._path(record.key), canonical(data))
        self._seen[record.key] = record
