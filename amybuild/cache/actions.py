"""The action cache: action key -> output, with the manifest that made the key. A failed action never gets here."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from amybuild.cache.disk import seal, unseal
from amybuild.cache.store import Store
from amybuild.kept import Stamp, stamp_of
from amybuild.value import field, value

SCHEMA = 1
_USED = 3600 * 10**9  # ns: a record says no more often than that that it was of use
_REMEMBERED = ("action", "rule", "output", "seconds", "finished", "host")
_FIELDS = {"schema", "action", "rule", "key", "manifest", "output", "seconds", "finished", "host"}

# a record without its manifest: the stamp of its file, then action, rule, output, seconds, finished, host
Row = tuple[Stamp, str, str, str, float, str, Mapping[str, Any]]


@value
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
    """A record that an earlier run read: its manifest, seldom asked for, is read from its file when it is."""

    def __init__(self, cache: ActionCache, key: str, row: Row) -> None:
        self.__dict__.update(zip(_REMEMBERED, row[1:], strict=True), key=key, _cache=cache)

    def __getattr__(self, name: str) -> Any:
        if name != "manifest":
            raise AttributeError(name)
        found = self.__dict__["_cache"].record(self.key)
        self.__dict__["manifest"] = found.manifest if found else ()
        return self.__dict__["manifest"]


def parse_record(key: str, data: bytes | None) -> Record | None:
    """The record under `key`, or None when these bytes are not it."""
    found: Any = unseal(data) if data else None
    try:
        if found["schema"] != SCHEMA or found["key"] != key or not found.keys() <= _FIELDS:
            return None
        if not str(found["action"]).isprintable() or not 0 <= float(found["seconds"]) < 1e12:
            return None  # both are shown to people, and a record may come from a shared store
        return Record(
            action=str(found["action"]),
            rule=str(found["rule"]),
            key=key,
            manifest=tuple((str(k), str(n), str(v)) for k, n, v in found["manifest"]),
            output=str(found["output"]),
            seconds=float(found["seconds"]),
            finished=str(found["finished"]),
            host=dict(found.get("host", {})),
        )
    except (TypeError, KeyError, ValueError, OverflowError, AttributeError):
        return None


def render_record(record: Record) -> bytes:
    """The bytes of a record."""
    return seal(
        {
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
    )


def _line(record: Record) -> str:
    """What a room says of a result that is relied on."""
    return f"action {record.key} {record.output}"


def _row(now: Stamp, r: Record) -> Row:
    return (now, r.action, r.rule, r.output, r.seconds, r.finished, r.host)


class ActionCache:
    """Records below ``actions/``; unreadable ones are misses, and so are those whose output is not whole.

    After `Store.begin` a result that was looked up or published is held until `Store.close`. `known` are rows of an
    earlier run (key -> row): a record whose file has kept its stamp is not read again.
    """

    def __init__(self, store: Store, known: Mapping[str, Row] | None = None) -> None:
        self.store = store
        self._known = known or {}
        self.rows: dict[str, Row] = {}  # of the records that were looked up and found
        self.borrowed = False  # whether a query was told of a result that is not written down here
        self._read: dict[str, Record] = {}

    def _path(self, key: str) -> str:
        return f"{self.store.root}/actions/{key[:2]}/{key}.json"

    def record(self, key: str) -> Record | None:
        """The record under `key` here, whether or not its output still is."""
        return parse_record(key, self.bytes_of(key))

    def bytes_of(self, key: str) -> bytes | None:
        """The bytes of the record under `key` here."""
        try:
            with open(self._path(key), "rb") as file:
                return file.read()
        except (OSError, ValueError):
            return None

    def keys(self) -> dict[str, str]:
        """The key of every record here that can be read, by ``action key``: an action has had many."""
        paths = sorted((self.store.root / "actions").glob("*/*.json"))
        found = ((path.stem, self.record(path.stem)) for path in paths)
        return {f"{record.action} {key[:12]}": key for key, record in found if record is not None}

    def told(self, key: str) -> Record | None:
        """`record`, read at most once by this run, and not when an earlier one did and its file is as it was."""
        if key not in self._read:
            now = stamp_of(self._path(key))
            return None if now is None else self._found(key, now)
        return self._read[key]

    def lookup(self, key: str) -> Record | None:
        """The record under `key` if its output is whole: here, or else in the shared store."""
        with self.store.guard():
            found = self._here(key)
            if found is not None:
                if self.store.hold(_line(found)):
                    self._used(key)
                return found
        return self._there(key)

    def _here(self, key: str) -> Record | None:
        now = stamp_of(self._path(key))
        found = self._read.get(key)
        if now is None:
            return None
        if found is None:
            found = self._found(key, now)
        if found is None or self.store.whole(found.output) is None:
            return None
        self._read[key] = found
        return found

    def _found(self, key: str, now: Stamp) -> Record | None:
        """`record`, or what is remembered of it."""
        row = self._known.get(key)
        if row is not None and row[0] == now:
            self.rows[key] = row
            return Remembered(self, key, row)
        found = self.record(key)
        if found is not None:
            self.rows[key] = _row(now, found)
        return found

    def _there(self, key: str) -> Record | None:
        """Ask the shared store. What it says is written down here by who has begun; a query only repeats it."""
        shared = self.store.shared
        if shared is None:
            return None
        found = shared.find(key)
        if found is None:
            return None
        record, data, files = found
        if self.store.begun:
            with self.store.guard():
                self.store.hold(_line(record))
                self.store.write_listing(record.output, files)
                shared.mark(record.output)
                self.store.write(Path(self._path(key)), data)
            self._read[key] = record
        else:
            self.borrowed = True
        return record

    def hold(self, keys: Collection[str]) -> dict[str, Record]:
        """Begin, and hold the results under these keys, as one `lookup` of all; those that are whole come back.

        What this run holds already is not looked at again. Nobody is asked for what is not here inside of the lock."""
        self.store.begin()
        found = {key: self._read[key] for key in keys if key in self._read}
        found = {key: record for key, record in found.items() if self.store.holds(_line(record))}
        left = [key for key in keys if key not in found]
        with self.store.guard():
            here = {key: record for key in left if (record := self._here(key)) is not None}
            self.store.hold(*map(_line, here.values()))
        for key in here:
            self._used(key)
        there = {key: record for key in left if key not in here and (record := self._there(key)) is not None}
        return found | here | there

    def publish(self, record: Record) -> None:
        """Write a record; its output must be in the store already (the index comes last)."""
        data = render_record(record)
        with self.store.guard():
            self.store.hold(_line(record))
            self.store.write(Path(self._path(record.key)), data)
        self._read[record.key] = record
        if self.store.shared is not None:
            files = self.store.tree(record.output)
            if files is not None:
                self.store.shared.offer(self.store, record, data, files)

    def _used(self, key: str) -> None:
        """It is of use now: a collection with a size limit takes first what was not used for longest."""
        row = self.rows.get(key)
        if row is None or time.time_ns() - row[0][1] <= _USED:
            return
        with contextlib.suppress(OSError):
            os.utime(self._path(key))
        now = stamp_of(self._path(key))
        if now is not None and (now[0], now[3]) == (row[0][0], row[0][3]):  # another record is another file
            self.rows[key] = (now, *row[1:])
