"""The action cache: action key -> output, with the manifest that made the key. A failed action never gets here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from amybuild.cache.store import Store, read_json, write_atomic
from amybuild.digest import canonical
from amybuild.kept import Stamp, stamp_of

SCHEMA = 1

# a record without its manifest and host: the stamp of its file, then action, rule, output, seconds, finished
Row = tuple[Stamp, str, str, str, float, str]


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


class Remembered(Record):
    """A record that an earlier run read: what is seldom asked for is read from its file when it is."""

    def __init__(self, cache: ActionCache, key: str, row: Row) -> None:
        _, action, rule, output, seconds, finished = row
        self.__dict__.update(
            key=key, action=action, rule=rule, output=output, seconds=seconds, finished=finished, _cache=cache
        )

    def __getattr__(self, name: str) -> Any:
        if name not in ("manifest", "host"):
            raise AttributeError(name)
        found = self.__dict__["_cache"].record(self.key)
        self.__dict__.update(manifest=found.manifest if found else (), host=found.host if found else {})
        return self.__dict__[name]


class ActionCache:
    """Records below ``actions/``; unreadable ones are misses.

    `known` are rows of an earlier run (key -> row): a record whose file has kept its stamp is not read again.
    """

    def __init__(self, store: Store, known: Mapping[str, Row] | None = None) -> None:
        self.store = store
        self._known = known or {}
        self.rows: dict[str, Row] = {}  # of the records that were looked up and found
        self._seen: dict[str, Record] = {}

    def _path(self, key: str) -> Path:
        return Path(f"{self.store.root}/actions/{key[:2]}/{key}.json")

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
            found = self._found(key)
            if found is not None and self.store.tree(found.output) is None:
                found = None
            if found is not None:
                self._seen[key] = found
        return found

    def _found(self, key: str) -> Record | None:
        """`record`, or what is remembered of it."""
        now, row = stamp_of(f"{self.store.root}/actions/{key[:2]}/{key}.json"), self._known.get(key)
        if now is None:
            return None
        if row is not None and row[0] == now:
            self.rows[key] = row
            return Remembered(self, key, row)
        found = self.record(key)
        if found is not None:
            self.rows[key] = (now, found.action, found.rule, found.output, found.seconds, found.finished)
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
