"""A project as every command finds it: loaded, analyzed, planned, explained."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import amybuild
from amybuild import evidence, kept
from amybuild.cache.actions import ActionCache
from amybuild.cache.history import build_hash
from amybuild.cache.memo import Memo
from amybuild.cache.sources import Sources
from amybuild.digest import digest_file, digest_value
from amybuild.graph.analyze import analyze
from amybuild.graph.graph import Action, ActionGraph
from amybuild.graph.rules import RULES
from amybuild.memory.address import is_server
from amybuild.memory.graph import AskedGraph, MemoryGraph, read_graph
from amybuild.memory.reading import Reading
from amybuild.personafile.load import Variant as Variant
from amybuild.personafile.load import load
from amybuild.personafile.resources import bytes_of as bytes_of
from amybuild.personafile.schema import Persona
from amybuild.plan.code import CodeIndex, library_versions, source_stats, untouched
from amybuild.plan.explain import Explanation, ProductState, explain
from amybuild.plan.plan import Identity, Plan, make_plan
from amybuild.versions import Known, known_of, open_cache

if TYPE_CHECKING:
    from amybuild.snapshots import Recalled

_KEYS = 4  # keys per action that are kept: edits that are undone, and variants


@dataclass(frozen=True)
class Options:
    """What the command line asks for."""

    file: Path = Path("Personafile.toml")
    targets: tuple[str, ...] = ()
    variant: Variant = field(default_factory=Variant)
    force: tuple[str, ...] = ()
    jobs: int = 2
    keep_going: bool = False
    locked: bool = False
    check: bool = False
    out: Path | None = None
    server: str = "never"  # when a memory server is asked: never | due | now | pinned (`snapshots.Ask`)
    memory: int | None = None  # bytes that jobs may ask for in all; None: what is free


class Project:
    """A loaded persona with its action graph and its cache: what every command starts from."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self._began = time.time_ns()
        self.persona: Persona = load(options.file, options.variant)
        self.store, self.history = open_cache(self.persona.file.parent, self.persona.cache)
        self._stats = source_stats(Path(amybuild.__file__).parent)
        self.program = digest_value("program", [self._stats, sys.version])
        results: tuple[dict[str, Any], dict[str, Any]] = self._recall("results") or ({}, {})
        self._records, self.store.known = results
        self.cache = ActionCache(self.store, self._records)
        self.memo = Memo(self.store.root / "files.json")
        self.sources = Sources(self.store.root / "sources.json")
        self._code: CodeIndex | None = None  # when the memo did not know
        self._reading = Reading(self._recall("nodes"))
        self.recalled = self._recalled()
        self.memory = self.recalled.graph if self.recalled else self._read()
        self.asked = AskedGraph(self.memory)
        self.graph: ActionGraph = analyze(self.persona, self.asked, self.memo.digest_path)
        self.identity = self._identity()
        self.actions: dict[str, Action] = self.graph.select(options.targets)
        again = (*options.force, *((options.targets or ("persona",)) if options.check else ()))
        self.forced = frozenset(again and self._own(again))

    def _read(self) -> MemoryGraph:
        return read_graph(self.persona.graph, self.persona.root, self._reading)

    def _recalled(self) -> Recalled | None:
        """The memory as a server keeps it; None when it lies in files."""
        if not is_server(self.persona.graph):
            return None
        from amybuild.snapshots import Ask, recall

        return recall(self.persona, self.cache, self.history, Ask(self.options.server), time.time(), self._reading)

    def _own(self, names: tuple[str, ...]) -> list[str]:
        """The actions of targets themselves, without what they need."""
        self.graph.select(names)
        everything = set(self.graph.actions) if "persona" in names else set()
        return [*everything, *(id for id, a in self.graph.actions.items() if a.target in names or id in names)]

    def _identity(self) -> Identity:
        root = Path(amybuild.__file__).parent
        rules = sorted(RULES)
        table = [[name, RULES[name].entry] for name in rules]

        def find() -> dict[str, dict[str, str]]:
            index = self._code = CodeIndex(root, "amybuild")
            return {name: index.closure(entry) | _data(root, RULES[name].data) for name, entry in table}

        stamps = [self._stats, sys.version, [RULES[name].data for name in rules], table]
        code = self.memo.get("code", stamps, find)
        libraries = library_versions({name for rule in RULES.values() for name in rule.libraries})
        keys = self._recall("keys") or {}
        self._keys_known = len(keys)
        return Identity(code, {name: {lib: libraries[lib] for lib in RULES[name].libraries} for name in rules}, keys)

    def _recall(self, what: str) -> Any:
        """What this very program kept of an earlier run (another one may write it otherwise, or find other keys)."""
        found = kept.read(os.fspath(self.store.root / what / self.history.id))
        return found[1] if isinstance(found, tuple) and found[0] == self.program else None

    def _keep(self, what: str, value: Any) -> None:
        kept.write(os.fspath(self.store.root / what / self.history.id), (self.program, value))

    def code_is(self, rule: str, code: Mapping[str, str]) -> bool:
        """Whether the code of a rule is still what `code`, its digests when this project was loaded, says."""
        root = Path(amybuild.__file__).parent
        if untouched(root, self._stats):
            return True
        return CodeIndex(root, "amybuild").closure(RULES[rule].entry) | _data(root, RULES[rule].data) == code

    @property
    def digests(self) -> Mapping[str, str]:
        """The digest of every node of the memory, whoever reads it, by key."""
        return self.memory.digests

    def plan(self) -> Plan:
        """What is in the cache and what has to run."""
        return make_plan(self.actions, self.identity, self.cache.lookup, self.forced)

    def explain(self) -> Explanation:
        """Why each selected action is stale or not. Reads only."""

        def last(action: str) -> tuple[str, Known | None] | None:
            key = self.history.last_key(action)
            return None if key is None else (key, known_of(self.cache.record(key)))

        plan = self.plan()
        found = explain(plan, last)
        if self.whole and plan.done and found.up_to_date:
            found.product = self._product({id: d.output for id, d in plan.decisions.items() if d.output})
        return found

    def _product(self, outputs: Mapping[str, str]) -> ProductState | None:
        """What is not as it should be in the product's folder; None when all is well."""
        from amybuild.product import intact

        stamp = self.history.product(self.folder)
        holds, changed = stamp.get("build"), intact(self.folder, stamp.get("files", {}))
        if holds == build_hash(self.persona.name, outputs) and stamp.get("files") and not changed:
            return None
        return ProductState(os.path.relpath(self.folder), holds if self.folder.exists() else None, tuple(changed))

    def node_text(self, digest: str) -> bytes | None:
        """The canonical bytes of a memory node by digest: as it is now, or as an earlier build read it."""
        for action in self.graph.actions.values():
            for node in action.nodes:
                if node.digest == digest:
                    return node.data
        return self.store.get_bytes(digest)

    def source_text(self, digest: str) -> str | None:
        """The source of a function by digest: as it is now, or as an earlier build ran it."""
        return (self._code.source(digest) if self._code else None) or self.sources.text(digest)

    def evidence(self) -> evidence.Evidence:
        """The stamps of all that a plan made now rests on."""
        sources = [self.persona.root / path for path in self.persona.outside()]
        code = Path(amybuild.__file__).parent
        inputs = evidence.of_inputs(self.options.file, self.persona.root, sources, code)
        memory = self._reading.stamps
        both = tuple(sorted(inputs.keys() & memory.keys()))
        return evidence.Evidence(self._began, inputs | memory, evidence.of_store(self.store.root), both)

    def save(self) -> None:
        """Keep what was found out on the way, for the next time (a query does not)."""
        if self._code:
            self.sources.keep(self._code.sources())
        self.memo.save()
        rows = self._reading.rows(self._began)
        if rows is not None:
            self._keep("nodes", rows)
        records, listings = self.cache.rows, self.store.listings()
        if not (records.items() <= self._records.items() and listings.items() <= self.store.known.items()):
            some = _KEYS * len(self.graph.actions)
            both = {**self._records, **records}, {**self.store.known, **listings}
            self._keep("results", tuple(_newest(table, some) for table in both))
        keys = self.identity.keys
        if len(keys) != self._keys_known:
            self._keep("keys", _newest(keys, _KEYS * len(self.graph.actions)))

    @property
    def whole(self) -> bool:
        """Whether the selection is the persona (then there is a product)."""
        return all(id in self.actions for id in self.graph.whole)

    @property
    def folder(self) -> Path:
        out = self.options.out
        return (out if out is not None else self.persona.root / "dist" / self.persona.name).absolute()


def _newest(table: Mapping[str, Any], most: int) -> dict[str, Any]:
    return dict(list(table.items())[-most:])


def _data(root: Path, names: tuple[str, ...]) -> dict[str, str]:
    return {f"file:{name}": digest_file(root / name) for name in names}
