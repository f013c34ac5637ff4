"""Pins: the lock of a build written, checked against a plan, and built back from with nothing but the store."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from amybuild.cache.actions import ActionCache
from amybuild.cache.history import BESIDE, BuildRecord, build_hash
from amybuild.cache.lease import guard
from amybuild.cache.store import write_atomic
from amybuild.errors import ActionError, InputError, PinError, did_you_mean
from amybuild.personafile.lock import Account, Lock, lock_of, parse, render, shared
from amybuild.personafile.schema import NAME
from amybuild.plan.change import differences, phrase
from amybuild.plan.key import Component
from amybuild.product import PRODUCT, keep_map, kept_map
from amybuild.versions import CHECKOUT, find, find_root, known_of, last_of, open_cache, put_back, shared_of


def read_lock(file: Path) -> Lock:
    """The lock beside a Personafile; `PinError` when there is none."""
    return parse(file.with_suffix(".lock"))


def pinned_build(lock: Lock) -> Account | None:
    """The account of the build that all pins of a lock make; None after a merge, when none was made of them yet."""
    for account in lock.accounts.values():
        outputs = {id: output for id, (_, output) in {**lock.pins, **account.pins}.items() if id not in BESIDE}
        if account.hash == build_hash(account.persona, outputs):
            return account
    return None


Found = tuple[str, str | None, tuple[Component, ...]]  # an action's key, its output if known, what made the key


def check_locked(
    lock: Lock, found: Mapping[str, Found], cache: ActionCache, inputs: Mapping[str, Mapping[str, str]]
) -> None:
    """`found` (in topological order) must be what `lock` pins. `inputs` names the makers of each action's inputs.

    Raises `PinError` that names the first action that is not, and the component of it that differs.
    """
    account = pinned_build(lock)
    pins = {**lock.pins, **(account.pins if account else {})}
    unpinned = shared({id: (key, "") for id, (key, _, _) in found.items()}) if account is None else {}
    for id, (key, output, components) in found.items():
        if id in unpinned:  # of a merged lock: the link of what it pins
            continue
        remedy = f"amybuild --explain {id.rpartition('/')[0]} says what changed; amybuild pin accepts it after a build"
        if id not in pins:
            raise PinError(f"{id} is not pinned", where="Personafile.lock", remedy=remedy)
        if key != pins[id][0]:
            pinned = known_of(cache.record(pins[id][0]))
            changes = differences(pinned.components, components) if pinned else ()
            why = phrase(id, changes, inputs.get(id, {})) if changes else "the cache does not know the pinned one"
            raise PinError(f"{id} is not what is pinned: {why}", where="Personafile.lock", remedy=remedy)
        if output is not None and output != pins[id][1]:
            what = f"{id} has another result than the pinned one"
            remedy = "see DESIGN.md, What is bit-exact; the pinned one stays"
            raise PinError(what, where="Personafile.lock", remedy=remedy)


def pin(file: Path, wanted: str | None, name: str) -> tuple[BuildRecord, Path]:
    """Write the lock of a build (None: the last of its persona) beside its Personafile; `name` is for checkout."""
    store, history = open_cache(find_root(file))
    record = find(history, wanted) if wanted else last_of(history, file)
    if name:
        _check_name(name)
    path = file.with_suffix(".lock")
    actions = dict(record.actions)
    if PRODUCT not in actions:
        try:
            actions[PRODUCT] = keep_map(ActionCache(store), record.info, record.time)
        finally:
            store.close()
    try:
        before = parse(path)
    except PinError:
        before = None  # none yet, or one that is written anew
    account = Account(record.hash, record.persona, record.base, record.graph, shared(actions), record.variant, name)
    text = render(lock_of(actions, account, before))
    with guard(store.root):  # a collection comes before or after it, and after it sees the pin
        if name:
            history.name(name, record.hash)
        history.pin(path.resolve(), record.hash)
        write_atomic(path, text.encode())
    return record, path


def _check_name(name: str) -> None:
    if not re.fullmatch(r"[\w][\w./+-]*", name) or re.fullmatch(r"[0-9a-f]{4,}", name):
        raise InputError(f"'{name}' is no name for a build", remedy="letters, digits, . _ / + -, and no bare hash")


def unpin(file: Path, name: str) -> bool:
    """Forget the name of a build; whether the lock still pins that build."""
    _, history = open_cache(find_root(file))
    names = history.names()
    if name not in names:
        remedy = did_you_mean(name, names) or "amybuild pin --list says which there are"
        raise InputError(f"no build is named '{name}'", remedy=remedy)
    history.unname(name)
    return _locked_hash(file) == names[name]


def _locked_hash(file: Path) -> str | None:
    try:
        account = pinned_build(read_lock(file))
    except PinError:
        return None
    return account.hash if account else None


def pins(file: Path) -> list[dict[str, Any]]:
    """The named builds, and the one in the lock: ``{"name", "build", "time", "variant", "locked"}``, by name."""
    _, history = open_cache(find_root(file))
    locked = _locked_hash(file)
    names = sorted(history.names().items())
    if locked and locked not in dict(names).values():
        names.append(("", locked))
    rows = []
    for name, hash in names:
        record = history.read(hash)
        told = {"time": record.time if record else "", "variant": record.variant if record else ""}
        rows.append({"name": name, "build": hash, **told, "locked": hash == locked})
    return rows


def checkout_lock(path: Path, out: Path | None, when: str) -> tuple[BuildRecord, Path]:
    """Put the build that a lock pins into its folder, from lock and store alone: no Personafile, memory or state."""
    lock = parse(path)
    root = path.resolve().parent
    shared_store = shared_of(path.with_suffix(".toml")) or shared_of(root / "Personafile.toml")
    store, history = open_cache(root, shared_store)
    account = pinned_build(lock)
    if account is None:
        what = "its pins were never built together (it was merged, or edited)"
        raise PinError(what, where=path.name, remedy="amybuild --locked builds them, then amybuild pin")
    key, output = account.pins.get(PRODUCT, ("", ""))
    try:
        made = ActionCache(store).hold([key]).get(key)  # which may bring it from elsewhere
        info = kept_map(store, output)
    finally:
        store.close()
    if info is None:
        remedy = "point AMYBUILD_CACHE at a cache that has it, or run amybuild --locked"
        raise ActionError(f"the link map of build {account.hash[:12]} is not in the cache", remedy=remedy)
    actions = {**lock.pins, **account.pins}
    if not _fits(info, account, {id: output for id, (_, output) in actions.items()}):
        raise PinError(
            "its link map is of another build", where=path.name, remedy="amybuild --locked, then amybuild pin"
        )
    time = made.finished if made else ""
    record = BuildRecord(
        account.hash, account.persona, time, actions, account.graph, account.base, account.variant, info
    )
    folder = put_back(store, history, root, out, record, when, CHECKOUT)
    return record, folder


def _fits(info: Mapping[str, Any], account: Account, outputs: Mapping[str, str]) -> bool:
    """Whether a link map tells of just the pinned results: it names folders and what is put there."""
    try:
        told = {id: one["output"] for id, one in info["actions"].items()}
        steering = {one["name"]: one["digest"] for one in info["steering"]}
        return (
            (info["name"], info["build"]) == (account.persona, account.hash)
            and told == {id: output for id, output in outputs.items() if id not in BESIDE}
            and all(NAME.match(name) and outputs[f"steer.{name}/vectors"] == d for name, d in steering.items())
        )
    except (KeyError, TypeError, AttributeError):
        return False
