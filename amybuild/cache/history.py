"""What this project built: the last key of each action, the builds, their names, the product's stamp."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from amybuild.cache.store import read_json, write_atomic
from amybuild.digest import canonical, digest_bytes, digest_value
from amybuild.errors import InputError, PinError

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


class History:
    """The state of one project (by its folder) inside a cache that projects may share."""

    def __init__(self, cache: Path, project: Path) -> None:
        name = digest_bytes(os.fspath(project).encode())[:16]
        self._state_path = cache / "state" / f"{name}.json"
        self._builds = cache / "builds" / name
        self._state = self._load()

    def _load(self) -> dict[str, Any]:
        data = read_json(self._state_path)
        fresh: dict[str, Any] = {"schema": SCHEMA, "actions": {}, "product": {}, "log": [], "names": {}}
        if not isinstance(data, dict) or data.get("schema") != SCHEMA:
            return fresh
        return {key: data[key] if isinstance(data.get(key), type(value)) else value for key, value in fresh.items()}

    def _update(self, change: Callable[[dict[str, Any]], None]) -> None:
        """Apply `change` to what is on disk now: another build of this project may have written since."""
        from filelock import FileLock

        self._state_path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{self._state_path}.lock"):
            self._state = self._load()
            change(self._state)
            write_atomic(self._state_path, canonical(self._state))

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

    def add(self, build: BuildRecord) -> None:
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
        write_atomic(self._builds / f"{build.hash}.json", canonical(data))
        log = self._state["log"]
        if not log or log[-1][1] != build.hash:
            self._update(lambda state: state["log"].append([build.time, build.hash, build.variant]))

    def log(self) -> list[tuple[str, str, str]]:
        """(time, hash, variant) of each build made here, oldest first."""
        return [(str(t), str(h), str(v)) for t, h, v in self._state["log"]]

    def names(self) -> dict[str, str]:
        return dict(self._state["names"])

    def name(self, name: str, hash: str) -> None:
        self._update(lambda state: state["names"].update({name: hash}))

    def read(self, hash: str) -> BuildRecord | None:
        data = read_json(self._builds / f"{hash}.json")
        try:
            if data["schema"] != SCHEMA:
                return None
            actions = {str(a): (str(k), str(o)) for a, (k, o) in data["actions"].items()}
            return BuildRecord(
                data["hash"], data["persona"], data["time"], actions, data["graph"], data["base"], data["variant"], data["info"]
            )
        except (TypeError, KeyError, ValueError, AttributeError):
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
            raise PinError(f"the record of build {full[:12]} cannot be read", remedy="build again, or checkout another (amybuild log)")
        return found
