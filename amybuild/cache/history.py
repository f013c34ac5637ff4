"""What this project built: the last key of each action, the builds, their names, the product's stamp."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from amybuild.cache.store import disk_errors, read_json, write_atomic
from amybuild.digest import canonical, digest_bytes, digest_value
from amybuild.errors import InputError, PinError
from amybuild.kept import Stamp, stamp_of

SCHEMA = 1


@dataclass(frozen=True)
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


class History:
    """The state of one project (by its folder) inside a cache that projects may share."""

    def __init__(self, cache: Path, project: Path) -> None:
        self.project = digest_bytes(os.fspath(project).encode())[:16]  # its name in this cache
        self._state_path = cache / "state" / f"{self.project}.json"
        self._builds = cache / "builds" / self.project
        self._state = self._load()

    @property
    def evidence(self) -> dict[str, Stamp | None]:
        """The state file with its stamp from before it was read, or from when it was written here."""
        return {os.fspath(self._state_path): self._stamp}

    def _load(self) -> dict[str, Any]:
        self._stamp = stamp_of(os.fspath(self._state_path))
        data = read_json(self._state_path)
        if not isinstance(data, dict) or data.get("schema") != SCHEMA:
            data = {}
        log = data.get("log")
        return {
            "schema": SCHEMA,
            "actions": _table(data.get("actions"), str),
            "product": _table(data.get("product"), dict),
            "log": [row for row in log if isinstance(row, list) and len(row) == 3] if isinstance(log, list) else [],
            "names": _table(data.get("names"), str),
        }

    def _update(self, change: Callable[[dict[str, Any]], None]) -> None:
        """Apply `change` to what is on disk now: another build of this project may have written since."""
        from filelock import FileLock

        with disk_errors(self._state_path):
            self._state_path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{self._state_path}.lock"):
                self._state = self._load()
                change(self._state)
                write_atomic(self._state_path, canonical(self._state))
                self._stamp = stamp_of(os.fspath(self._state_path))

    # last keys

    def last_key(self, action: str) -> str | None:
        return self._state["actions"].get(action)  # type: ignore[no-any-return]

    def note(self, keys: Mapping[str, str]) -> None:
        """Remember the keys that are now current."""
        if any(self._state["actions"].get(action) != key for action, key in keys.items()):
            self._update(lambda state: state["actions"].update(keys))

    # product

    def product(self, folder: Path) -> Mapping[str, Any]:
        """The stamp of the product in `folder`: {"build", "files": {name: stat}} or empty."""
        return self._state["product"].get(os.fspath(folder), {})  # type: ignore[no-any-return]

    def set_product(self, folder: Path, build: str, files: Mapping[str, Any]) -> None:
        stamp = {"build": build, "files": dict(files)}
        self._update(lambda state: state["product"].update({os.fspath(folder): stamp}))

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
        write_atomic(self.record_path(build.hash), canonical(data))
        line = [when or build.time, build.hash, build.variant]

        def append(state: dict[str, Any]) -> None:
            if not state["log"] or state["log"][-1][1] != build.hash:
                state["log"].append(line)

        self._update(append)

    def log(self) -> list[tuple[str, str, str]]:
        """(time, hash, variant) of each build made here, oldest first."""
        return [(str(t), str(h), str(v)) for t, h, v in self._state["log"]]

    def names(self) -> dict[str, str]:
        return dict(self._state["names"])

    def name(self, name: str, hash: str) -> None:
        self._update(lambda state: state["names"].update({name: hash}))

    def record_path(self, hash: str) -> Path:
        return self._builds / f"{hash}.json"

    def read(self, hash: str) -> BuildRecord | None:
        data = read_json(self.record_path(hash))
        try:
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
                raise InputError(f"'{wanted}' is the beginning of {len(matches)} builds", remedy="give more digits")
            if not matches:
                raise InputError(f"no build '{wanted}' here", remedy="amybuild log lists them")
            full = matches[0]
        found = self.read(full)
        if found is None:
            remedy = "build again, or checkout another (amybuild log)"
            raise PinError(f"the record of build {full[:12]} cannot be read", remedy=remedy)
        return found
