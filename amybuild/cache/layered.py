"""The shared store behind a local one: asked on a miss, filled after a publish, believed by digest only."""

from __future__ import annotations

import errno
import json
import os
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from amybuild.cache.actions import Record, parse_record
from amybuild.cache.remote import Place
from amybuild.cache.store import Files, listing, parse_listing
from amybuild.digest import digest_bytes, digest_file
from amybuild.errors import ActionError, InputError

if TYPE_CHECKING:
    from amybuild.cache.store import Store

_MOST = 64 << 20  # bytes of a record or a listing that is still read
_PROBE = "doctor"
T = TypeVar("T")


def action_name(key: str) -> str:
    return f"actions/{key[:2]}/{key}.json"


def tree_name(digest: str) -> str:
    return f"trees/{digest[:2]}/{digest}.json"


def object_name(digest: str) -> str:
    return f"objects/{digest[:2]}/{digest}"


@dataclass(frozen=True)
class _Upload:
    store: Store
    record: Record
    data: bytes
    files: Files


class Shared:
    """One shared store as one process sees it.

    Reading: a record and its tree's listing are taken over at once, objects when somebody needs them. A tree whose
    objects were left there has a mark below ``elsewhere/`` of the local cache, so that a later plan need not ask.
    Writing: objects, then the listing, then the record, in a thread of its own; a record that is there stays.
    After the first failure it is left alone for the rest of the process, and one line says so. What is asked again and
    again is remembered, also that it is not there.
    """

    def __init__(self, cache: Path, url: str, open_place: Callable[[], Place], readonly: bool = False) -> None:
        self.notes: list[str] = []
        self._open, self._readonly = open_place, readonly
        self._place: Place | None = None
        self._off = False
        self._state = threading.Lock()
        self._marks = cache / "elsewhere" / digest_bytes(url.encode())[:16]
        self._found: dict[str, tuple[Record, bytes, Files]] = {}
        self._absent: set[str] = set()  # keys
        self._trees: set[str] = set()  # that were seen there in this process
        self._lost: set[str] = set()  # trees that turned out not to be whole there
        self._bad: set[str] = set()  # objects that are damaged there
        self._queue: queue.SimpleQueue[_Upload | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    # asking

    def _ask(self, question: Callable[[Place], T]) -> T | None:
        """The answer, or None when there is none or nobody to ask."""
        if self._off:
            return None
        try:
            return question(self._opened())
        except FileNotFoundError:
            return None
        except FileExistsError:
            raise
        except Exception as error:  # the client libraries have many
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            self._fail(error)
            return None

    def _fail(self, error: Exception) -> None:
        """Leave it alone from now on. The error's text is not shown: it may quote a URL or a credential."""
        with self._state:
            if not self._off:
                self._off = True
                why = "its package is missing: pip install amybuild[s3] or [gs]"
                why = why if isinstance(error, ImportError) else type(error).__name__
                self.notes.append(f"the shared store is not used any more in this run ({why})")

    @property
    def failed(self) -> str | None:
        """Why it is not asked any more; None while it answers."""
        return self.notes[-1] if self._off else None

    def find(self, key: str) -> tuple[Record, bytes, Files] | None:
        """What is there under an action key: the record, its bytes, and its tree's files."""
        found = self._found.get(key)
        if found is None and key not in self._absent:
            found = self._find(key)
            if found is not None:
                self._found[key] = found
                self._trees.add(found[0].output)
            elif not self._off:
                self._absent.add(key)
        return None if found is None or found[0].output in self._lost else found

    def _find(self, key: str) -> tuple[Record, bytes, Files] | None:
        data = self._ask(lambda place: place.read(action_name(key)))
        record = parse_record(key, data) if data is not None and len(data) <= _MOST else None
        if data is None or record is None:
            return None
        files = self._listing(record.output)
        return None if files is None else (record, data, files)

    def _listing(self, digest: str) -> Files | None:
        if len(digest) != 64 or set(digest) - set("0123456789abcdef"):  # it becomes a file's name
            return None
        data = self._ask(lambda place: place.read(tree_name(digest)))
        try:
            return parse_listing(digest, json.loads(data)) if data is not None and len(data) <= _MOST else None
        except (ValueError, RecursionError):
            return None

    def has(self, tree: str) -> bool:
        """Whether the objects of `tree` were left there (nobody is asked now; a failing `fetch` corrects it)."""
        return tree not in self._lost and (tree in self._trees or os.path.exists(self._marks / tree))

    def mark(self, tree: str) -> None:
        """Remember over processes that the objects of `tree` are there."""
        self._marks.mkdir(parents=True, exist_ok=True)
        (self._marks / tree).touch()

    def fetch(self, tree: str, digest: str, size: int, target: Path) -> bool:
        """Bring an object to `target`; False, and the tree is lost, when it is not there or not what it should be."""

        def bring(place: Place) -> bool:
            place.fetch(object_name(digest), target, size)
            return True

        if self._ask(bring):
            if target.stat().st_size == size and digest_file(target) == digest:
                return True
            self._bad.add(digest)
            self.notes.append(f"{digest[:12]} in the shared store is damaged: it is not used")
        self._lost.add(tree)
        (self._marks / tree).unlink(missing_ok=True)
        return False

    def listing(self, digest: str) -> bytes | None:
        """The listing of a tree as it is there, checked (a repair asks)."""
        files = self._listing(digest)
        return None if files is None else listing(files)

    def probe(self, seconds: float) -> tuple[str, str | None]:
        """What can be done there, in words, and what cannot (None: all is well); found out in at most `seconds`.

        Where writing is allowed it leaves a small file, always the same one."""
        told: list[tuple[str, str | None]] = []

        def look() -> None:
            done = "nothing"
            try:
                place = self._opened()
                done = "it answers" if _read(place, _PROBE) is None else "it can be read"
                if not self._readonly:
                    place.add(_PROBE, _PROBE.encode(), replace=True)
                    if place.read(_PROBE) != _PROBE.encode():
                        raise OSError
                    done = "it can be read and written"
                told.append((done, None))
            except ImportError:
                told.append((done, "its package is missing: pip install amybuild[s3] or [gs]"))
            except PermissionError:
                told.append((done, "no permission"))
            except FileNotFoundError:
                told.append((done, "there is no such bucket"))
            except Exception as error:  # as in `_ask`
                told.append((done, type(error).__name__))

        thread = threading.Thread(target=look, name="probe", daemon=True)
        thread.start()
        thread.join(seconds)
        return told[0] if told else ("nothing", f"no answer within {seconds:.0f} s")

    # giving

    def offer(self, store: Store, record: Record, data: bytes, files: Files) -> None:
        """Upload a result that was published here; `store` holds it until `finish` has returned."""
        if self._readonly or self._off:
            return
        with self._state:
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="upload", daemon=True)
                self._thread.start()
        self._queue.put(_Upload(store, record, data, files))

    def check_writable(self) -> None:
        """InputError where this project only reads it."""
        if self._readonly:
            remedy = "take 'readonly' out of [cache] where it may be filled from"
            raise InputError("the shared store is only read from here", where="[cache] readonly", remedy=remedy)

    def give(self, store: Store, record: Record, data: bytes, files: Files) -> None:
        """`offer`, and it is there when this returns; ActionError when it cannot be."""
        remedy = "finished uploads stay: push again; amybuild doctor looks at the shared store"
        try:
            self._upload(_Upload(store, record, data, files))
        except PermissionError:
            what = "the shared store takes nothing from here (no permission)"
            raise ActionError(what, where=record.action, remedy=remedy) from None
        except Exception as error:  # as in `_ask`
            what = f"the shared store cannot be written ({type(error).__name__})"
            raise ActionError(what, where=record.action, remedy=remedy) from None

    def finish(self, wait: bool = True) -> None:
        """Wait for the uploads, or drop those that have not begun."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        if not wait:
            self._readonly = True
        self._queue.put(None)
        while wait and thread.is_alive():
            thread.join(0.2)  # in steps, so that Ctrl-C gets through

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            if self._readonly or self._off:
                continue
            try:
                self._upload(item)
            except PermissionError:
                self._readonly = True
                self.notes.append("the shared store takes nothing from here (no permission): results stay local")
            except Exception as error:  # as in `_ask`
                self._fail(error)

    def _upload(self, item: _Upload) -> None:
        record, key = item.record, item.record.key
        place = self._opened()
        there = _read(place, action_name(key))
        other = parse_record(key, there)
        usable = other is not None and other.output not in self._lost
        if other is not None and usable and other.output != record.output:
            self.notes.append(f"the shared store has another result of {record.action}; it stays")
            return
        if usable and record.output in self._trees and not self._bad:
            return
        doubtful = record.output in self._lost  # one of its objects was damaged there: the others may be too
        for digest, size in {e.digest: e.size for e in item.files.values()}.items():
            if doubtful or digest in self._bad or _size(place, object_name(digest)) != size:
                place.send(object_name(digest), item.store.object_path(digest))
        tree = listing(item.files)
        if _read(place, tree_name(record.output)) != tree:
            place.add(tree_name(record.output), tree, replace=True)
        if usable:
            return
        try:
            place.add(action_name(key), item.data, replace=there is not None)
        except FileExistsError:  # somebody was faster: the first one stays
            first = parse_record(key, _read(place, action_name(key)))
            if first is not None and first.output != record.output:
                self.notes.append(f"the shared store has another result of {record.action}; it stays")

    def _opened(self) -> Place:
        with self._state:
            if self._place is None:
                self._place = self._open()
            return self._place


def _read(place: Place, name: str) -> bytes | None:
    try:
        return place.read(name)
    except FileNotFoundError:
        return None


def _size(place: Place, name: str) -> Any:
    try:
        return place.size(name)
    except FileNotFoundError:
        return None
