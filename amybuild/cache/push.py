"""Filling a shared store with what was made before it was named."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from amybuild.cache.actions import ActionCache
from amybuild.cache.store import Store
from amybuild.errors import ActionError, InputError
from amybuild.value import field, value


@value(frozen=False)
class Pushed:
    """What a push did: the actions whose results went there, were there, or are no longer whole here."""

    sent: list[str] = field(default_factory=list)
    there: list[str] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)
    size: int = 0  # bytes of what was sent; an object that several results share counts once


def push(
    store: Store,
    cache: ActionCache,
    keys: Mapping[str, str],
    told: Callable[[int, int], None] = lambda done, total: None,
    *,
    dry_run: bool = False,
) -> Pushed:
    """Upload the results under `keys` (action -> key) that the shared store has not; `dry_run`: only say which.

    Each is held here until it is there, whole and with its record last. Raises InputError when there is no shared
    store that may be written, ActionError when it cannot be asked or written.
    """
    shared = store.shared
    if shared is None:
        remedy = "name one: [cache] remote in the Personafile, or AMYBUILD_REMOTE"
        raise InputError("there is no shared store to push to", remedy=remedy)
    if not dry_run:
        shared.check_writable()
    done, seen = Pushed(), set[str]()
    once = {key: action for action, key in keys.items()}  # two actions can have one key
    for number, (key, action) in enumerate(once.items()):
        told(number, len(once))
        found = shared.find(key)
        if shared.failed:
            raise ActionError(shared.failed, where="the shared store", remedy="push again; amybuild doctor looks at it")
        if found is not None:
            done.there.append(action)
            continue
        record = cache.lookup(key) if dry_run else cache.hold([key]).get(key)
        files = store.tree(record.output) if record else None
        data = cache.bytes_of(key)
        if record is None or files is None or data is None:
            done.absent.append(action)
            continue
        if not dry_run:
            shared.give(store, record, data, files)
        new = {entry.digest: entry.size for entry in files.values() if entry.digest not in seen}
        seen |= new.keys()
        done.size += sum(new.values())
        done.sent.append(action)
    return done
