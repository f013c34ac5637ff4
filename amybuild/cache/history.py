"""What this project built: the last key of each action, the builds, their names, the product's stamp."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from amybuild.cache.disk import disk_errors, read_json, read_whole, seal, unseal, write_atomic
from amybuild.cache.lock import FileLock
from amybuild.digest import canonical, digest_bytes, digest_value
from amybuild.errors import InputError, PinError
from amybuild.kept import Stamp, stamp_of
from amybuild.value import field, value

SCHEMA = 1
PRODUCT = "persona/product"  # the link map among a build's results: kept, collected and fetched like any of them
SNAPSHOT = "memory/snapshot"  # what a memory server said, likewise
BESIDE = frozenset({PRODUCT, SNAPSHOT})  # what a build keeps beside the results of its actions: no part of its hash


@value
class BuildRecord:
    """One whole build: for each action its key and output, and what the product was made of."""

    hash: str
    persona: str
    time: str
    actions: Mapping[str, tuple[str, str]]  # action -> (key, output)
    graph: str
    base: str
    variant: str = ""
    info: Mapping[str, Any] = field(default_factory=dict)  # the persona.json of the product


def build_hash(persona: str, outputs: Mapping[str, str]) -> str:
    """A build is what came out of it: the same outputs are the same build, however they came about."""
    return digest_value("build", [persona, sorted(outputs.items())])


def _table(value: Any, kind: type) -> dict[str, Any]:
    """The entries of a state table that have the right type: damage costs what it touched, no more."""
    return {key: one for key, one in value.items() if isinstance(one, kind)} if isinstance(value, dict) else {}


def _state_of(cache: Path, project: str) -> str:
    """The name of a project's state: by its folder, or by where that was before it was moved with the cache in it."""
    own = digest_bytes(project.encode())[:16]
    if os.path.exists(cache / "state" / f"{own}.json") or Path(os.path.realpath(cache.parent)).parent != Path(project):
        return own
    gone = []
    for path in (cache / "state").glob("*.json"):
        was = History(cache, None, path.stem).project
        if was == project:  # it was taken over before
            return path.stem
        if was and not os.path.exists(was):
            gone.append(path.stem)
    return gone[0] if len(gone) == 1 else own


class History:
    """The state of one project (by its folder) inside a cache that projects may share."""

    def __init__(self, cache: Path, project: Path | None, name: str = "") -> None:
        """`name` instead of `project`: as it was found in the cache (a collection looks at all of them)."""
        self._project = "" if project is None else os.fspath(project)
        self.id = name or _state_of(cache, self._project)
        self.state_path = cache / "state" / f"{self.id}.json"
        self.builds_path = cache / "builds" / self.id
        self.nodes_path = cache / "memory" / f"{self.id}.json"
        self._room = cache / "tmp"

    @classmethod
    def every(cls, cache: Path) -> list[History]:
        """The history of every project that uses this cache."""
        names = {path.stem for path in (cache / "state").glob("*.json")}
        names |= {path.name for path in (cache / "builds").glob("*") if path.is_dir()}
        return [cls(cache, None, name) for name in sorted(names)]

    @cached_property
    def _state(self) -> dict[str, Any]:  # never empty; to read it sets `_stamp` and `_damaged`
        return self._load()

    @property
    def evidence(self) -> dict[str, Stamp | None]:
        """The state file with its stamp from before it was read, or from when it was written here."""
        return {os.fspath(self.state_path): self._stamp if self._state else None}

    @property
    def damaged(self) -> bool:
        return bool(self._state) and self._damaged

    def _load(self) -> dict[str, Any]:
        self._stamp = stamp_of(os.fspath(self.state_path))
        data = read_json(self.state_path)
        self._damaged = self.state_path.exists() and not (isinstance(data, dict) and data.get("schema") == SCHEMA)
        if not isinstance(data, dict) or self._damaged:
            data = {}
        log = data.get("log")
        return {
            "schema": SCHEMA,
            "project": self._project or str(data.get("project", "")),
            "actions": _table(data.get("actions"), str),
            "product": _table(data.get("product"), dict),
            "log": [row for row in log if isinstance(row, list) and len(row) == 3] if isinstance(log, list) else [],
            "names": _table(data.get("names"), str),
            "pins": _table(data.get("pins"), str),
            "memory": _table(data.get("memory"), list),
        }

    def _update(self, change: Callable[[dict[str, Any]], None]) -> None:
        """Apply `change` to what is on disk now: another build of this project may have written since."""
        with disk_errors(self.state_path), FileLock(self.state_path.with_suffix(".json.lock")):
            self._state = self._load()
            change(self._state)
            write_atomic(self.state_path, canonical(self._state), self._room)
            self._stamp = stamp_of(os.fspath(self.state_path))

    # last keys

    def last_key(self, action: str) -> str | None:
        return self._state["actions"].get(action)  # type: ignore[no-any-return]

    def note(self, keys: Mapping[str, str]) -> None:
        """Remember the keys that are now current."""
        if any(self._state["actions"].get(action) != key for action, key in keys.items()):
            self._update(lambda state: state["actions"].update(keys))

    @property
    def project(self) -> str:
        """The project's folder, as the last build knew it ('' when none told)."""
        return str(self._state["project"])

    def last_keys(self) -> dict[str, str]:
        return dict(self._state["actions"])

    # product

    def product(self, folder: Path) -> Mapping[str, Any]:
        """The stamp of the product in `folder`: {"build", "info": digest, "files": {name: stat}} or empty."""
        return self._state["product"].get(os.fspath(folder), {})  # type: ignore[no-any-return]

    def set_product(self, folder: Path, build: BuildRecord, files: Mapping[str, Any]) -> None:
        """`files` of `build` lie in `folder` now. The same build can have another account (`info`) of its inputs."""
        stamp = {"build": build.hash, "info": digest_value("info", build.info), "files": dict(files)}
        self._update(lambda state: state["product"].update({os.fspath(folder): stamp}))

    def amend(self, change: Callable[[bytearray], object], path: Path) -> None:
        """Another account of what was written here, by changing its text in place."""
        text = read_whole(path)
        change(text)
        write_atomic(path, text, self._room)

    def amend_state(self, change: Callable[[bytearray], object], was: Stamp | None) -> Stamp | None:
        """Change the text of the state if it has the stamp that it `was` written with; its stamp from now on."""
        with disk_errors(self.state_path), FileLock(self.state_path.with_suffix(".json.lock")):
            if was is None or stamp_of(os.fspath(self.state_path)) != was:
                return None
            self.amend(change, self.state_path)
            return stamp_of(os.fspath(self.state_path))

    def current(self, keys: Mapping[str, str], folder: Path, stamp: Mapping[str, Any]) -> None:
        """`note` and `set_product` in one."""

        def change(state: dict[str, Any]) -> None:
            state["actions"].update(keys)
            state["product"][os.fspath(folder)] = dict(stamp)

        self._update(change)

    def products(self) -> list[str]:
        """The builds that lie in product folders now."""
        return [str(stamp.get("build", "")) for stamp in self._state["product"].values()]

    # snapshots of memory servers

    def snapshot(self, source: str) -> tuple[str, float]:
        """The tree of what a source said last, and when (unix seconds); ``("", 0.0)`` when nothing is known."""
        found = self._state["memory"].get(source)
        try:
            return str(found[0]), float(found[1])
        except (TypeError, ValueError, IndexError):
            return "", 0.0

    def set_snapshot(self, source: str, tree: str, read: float) -> None:
        self._update(lambda state: state["memory"].update({source: [tree, read]}))

    def snapshots(self) -> list[str]:
        """The trees of what every source said last."""
        return [tree for tree in (self.snapshot(source)[0] for source in self._state["memory"]) if tree]

    # memory nodes

    def nodes(self) -> dict[str, str] | None:
        """The digest of every memory node, by key, as the last build found them; None when that is not known."""
        try:
            found = unseal(self.nodes_path.read_bytes())["nodes"]
            return {str(key): str(digest) for key, digest in found.items()}
        except (OSError, TypeError, KeyError, AttributeError):
            return None

    def set_nodes(self, digests: Mapping[str, str]) -> None:
        if self.nodes() != digests:
            write_atomic(self.nodes_path, seal({"nodes": dict(digests)}), self._room)

    # builds

    def add(self, build: BuildRecord, when: str | None = None) -> None:
        """Record a build, and a line of the log: it became the current one at `when` (default: when it was made)."""
        data = {
            "schema": SCHEMA,
            "hash": build.hash,
            "persona": build.persona,
            "time": build.time,
            "actions": {id: list(pair) for id, pair in build.actions.items()},
            "graph": build.graph,
            "base": build.base,
            "variant": build.variant,
            "info": build.info,
        }
        write_atomic(self.record_path(build.hash), seal(data), self._room)
        self.went_to(build.hash, when or build.time, build.variant)

    def went_to(self, hash: str, when: str, how: str) -> None:
        """A line of the log, unless it would repeat the last one: `hash` became the current build at `when`."""

        def append(state: dict[str, Any]) -> None:
            if not state["log"] or state["log"][-1][1] != hash:
                state["log"].append([when, hash, how])

        self._update(append)

    def log(self) -> list[tuple[str, str, str]]:
        """(time, hash, variant) of each build made here, oldest first."""
        return [(str(t), str(h), str(v)) for t, h, v in self._state["log"]]

    def last(self) -> BuildRecord | None:
        """The record of the build that became the current one last, if there is one that can be read."""
        log = self._state["log"]
        return self.read(str(log[-1][1])) if log else None

    def names(self) -> dict[str, str]:
        return dict(self._state["names"])

    def name(self, name: str, hash: str) -> None:
        self._update(lambda state: state["names"].update({name: hash}))

    def unname(self, name: str) -> None:
        self._update(lambda state: state["names"].pop(name, None))

    def pins(self) -> dict[str, str]:
        """Lock file -> the build it pinned when it was written here; not those that were deleted since."""
        pins = {Path(lock): str(hash) for lock, hash in self._state["pins"].items()}
        return {os.fspath(lock): hash for lock, hash in pins.items() if lock.exists() or not lock.parent.is_dir()}

    def pin(self, lock: Path, hash: str) -> None:
        """Remember that `lock` pins a build: a collection on another machine does not see the file."""
        self._update(lambda state: state["pins"].update({os.fspath(lock): hash}))

    def builds(self) -> list[str]:
        """The builds that have a record here, readable or not."""
        return sorted(path.stem for path in self.builds_path.glob("*.json"))

    def rebuild(self) -> None:
        """Make the log and the last keys again from the builds that can be read."""
        records = sorted(filter(None, map(self.read, self.builds())), key=lambda r: r.time)

        def change(state: dict[str, Any]) -> None:
            known = {record.hash for record in records}
            state["log"] = [row for row in state["log"] if row[1] in known]
            logged = {row[1] for row in state["log"]}
            state["log"] += [[r.time, r.hash, r.variant] for r in records if r.hash not in logged]
            state["log"].sort(key=lambda row: str(row[0]))
            for table in ("names", "pins"):
                state[table] = {name: hash for name, hash in state[table].items() if hash in known}
            stamps = state["product"].items()
            state["product"] = {folder: stamp for folder, stamp in stamps if stamp.get("build") in known}
            if not state["actions"] and records:
                state["actions"] = {id: key for id, (key, _) in records[-1].actions.items()}

        self._update(change)

    def record_path(self, hash: str) -> Path:
        return self.builds_path / f"{hash}.json"

    def read(self, hash: str) -> BuildRecord | None:
        try:
            data: Any = unseal(self.record_path(hash).read_bytes())
            if data["schema"] != SCHEMA or data["hash"] != hash:
                return None
            actions = {str(a): (str(k), str(o)) for a, (k, o) in data["actions"].items()}
            persona, when, variant = str(data["persona"]), str(data["time"]), str(data["variant"])
            info = dict(data["info"])
            return BuildRecord(hash, persona, when, actions, str(data["graph"]), str(data["base"]), variant, info)
        except (TypeError, KeyError, ValueError, AttributeError, OSError):
            return None

    def find(self, wanted: str | None) -> BuildRecord:
        """A build by hash, unique prefix of a hash, or name; the last one for None."""
        known = [h for _, h, _ in self.log()]
        if wanted is None:
            if not known:
                raise InputError("nothing was built here yet", remedy="run amybuild")
            wanted = known[-1]
        full = self.names().get(wanted)
        if full is None:
            matches = sorted({h for h in [*known, *self.names().values()] if len(wanted) >= 4 and h.startswith(wanted)})
            if len(matches) > 1:
                which = ", ".join(hash[:16] for hash in matches[:4])
                what = f"'{wanted}' is the beginning of {len(matches)} builds"
                raise InputError(what, remedy=f"give more digits: {which}{' …' if len(matches) > 4 else ''}")
            if not matches:
                raise InputError(f"no build '{wanted}' here", remedy="amybuild log lists them")
            full = matches[0]
        found = self.read(full)
        if found is None:
            remedy = "build again, or checkout another (amybuild log)"
            raise PinError(f"the record of build {full[:12]} cannot be read", remedy=remedy)
        return found
