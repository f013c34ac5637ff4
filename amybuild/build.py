"""The program on one page: load, analyze, plan, execute, publish. The only module that knows all stages."""

from __future__ import annotations

import datetime
import importlib
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import amybuild
from amybuild import evidence, kept
from amybuild.cache.actions import ActionCache, Record
from amybuild.cache.history import BuildRecord, build_hash
from amybuild.cache.memo import Memo
from amybuild.digest import digest_file, digest_value
from amybuild.errors import AmyError, CheckError
from amybuild.events import Event, Sink
from amybuild.graph.analyze import analyze
from amybuild.graph.graph import Action, ActionGraph
from amybuild.graph.rules import RULES
from amybuild.memory.graph import read_graph
from amybuild.memory.reading import Reading
from amybuild.personafile.load import Variant as Variant
from amybuild.personafile.load import load
from amybuild.personafile.schema import Persona
from amybuild.plan.code import CodeIndex, library_versions, source_stats
from amybuild.plan.explain import Explanation, explain
from amybuild.plan.plan import Identity, Plan, make_plan
from amybuild.versions import Known, check_locked, known_of, open_cache, read_lock

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


@dataclass
class Summary:
    """What a build did, for people and for ``--json``."""

    persona: str
    ran: list[str] = field(default_factory=list)
    hits: list[str] = field(default_factory=list)
    failed: dict[str, AmyError] = field(default_factory=dict)
    blocked: list[str] = field(default_factory=list)
    build: str | None = None
    product: Path | None = None
    published: bool = False
    restored: list[str] = field(default_factory=list)  # product files that had been changed from outside
    saved: float = 0.0  # seconds that the reused actions took when they ran
    info: Mapping[str, Any] | None = None
    keys: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


class Project:
    """A loaded persona with its action graph and its cache: what every command starts from."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self._began = time.time_ns()
        self.persona: Persona = load(options.file, options.variant)
        self.store, self.history = open_cache(self.persona.file.parent)
        self._sources = source_stats(Path(amybuild.__file__).parent)
        self._program = digest_value("program", [self._sources, sys.version])
        results: tuple[dict[str, Any], dict[str, Any]] = self._recall("results") or ({}, {})
        self._records, self.store.known = results
        self.cache = ActionCache(self.store, self._records)
        self.memo = Memo(self.store.root / "files.json")
        self._reading = Reading(self._recall("nodes"))
        memory = read_graph(self.persona.graph, self.persona.root, self._reading)
        self.warnings = tuple(memory.warnings)
        self.graph: ActionGraph = analyze(self.persona, memory, self.memo.digest_path)
        self.identity = self._identity()
        self.actions: dict[str, Action] = self.graph.select(options.targets)
        self.forced = frozenset(options.force and self._own(options.force))

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
            index = CodeIndex(root, "amybuild")
            return {name: index.closure(entry) | _data(root, RULES[name].data) for name, entry in table}

        stamps = [self._sources, sys.version, [RULES[name].data for name in rules], table]
        code = self.memo.get("code", stamps, find)
        libraries = library_versions({name for rule in RULES.values() for name in rule.libraries})
        keys = self._recall("keys") or {}
        self._keys_known = len(keys)
        return Identity(code, {name: {lib: libraries[lib] for lib in RULES[name].libraries} for name in rules}, keys)

    def _recall(self, what: str) -> Any:
        """What this very program kept of an earlier run (another one may write it otherwise, or find other keys)."""
        found = kept.read(os.fspath(self.store.root / what / self.history.project))
        return found[1] if isinstance(found, tuple) and found[0] == self._program else None

    def _keep(self, what: str, value: Any) -> None:
        kept.write(os.fspath(self.store.root / what / self.history.project), (self._program, value))

    def plan(self) -> Plan:
        """What is in the cache and what has to run. `--check` runs everything."""
        forced = frozenset(self.actions) if self.options.check else self.forced
        return make_plan(self.actions, self.identity, self.cache.lookup, forced)

    def explain(self) -> Explanation:
        """Why each selected action is stale or not. Reads only."""

        def last(action: str) -> tuple[str, Known | None] | None:
            key = self.history.last_key(action)
            return None if key is None else (key, known_of(self.cache.record(key)))

        return explain(self.plan(), last)

    def evidence(self) -> evidence.Evidence:
        """The stamps of all that a plan made now rests on."""
        base = self.persona.base.path
        sources = [self.persona.root / base] if base is not None else []
        code = Path(amybuild.__file__).parent
        inputs = evidence.of_inputs(self.options.file, self.persona.root, sources, code)
        return evidence.Evidence(self._began, inputs | self._reading.stamps, evidence.of_store(self.store.root))

    def save(self) -> None:
        """Keep what was found out about files, for the next time."""
        self.memo.save()
        rows = self._reading.rows(self._began)
        if rows is not None:
            self._keep("nodes", rows)
        rows, listings = self.cache.rows, self.store.listings()
        if not (rows.items() <= self._records.items() and listings.items() <= self.store.known.items()):
            some = _KEYS * len(self.graph.actions)
            records = {**self._records, **rows}
            trees = {**self.store.known, **listings}
            self._keep("results", (_newest(records, some), _newest(trees, some)))
        keys = self.identity.keys
        if len(keys) != self._keys_known:
            self._keep("keys", _newest(keys, _KEYS * len(self.graph.actions)))

    def node_text(self, digest: str) -> bytes | None:
        """The canonical bytes of a memory node by digest: as it is now, or as an earlier build read it."""
        for action in self.graph.actions.values():
            for node in action.nodes:
                if node.digest == digest:
                    return node.data
        return self.store.get_bytes(digest)

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


_IMPORTS = threading.Lock()


def rule_function(rule: str) -> Callable[[Any], None]:
    """Import a rule's function and its libraries, one thread at a time: two threads that import modules which need
    each other can be handed a half-made one."""
    module, _, function = RULES[rule].entry.partition(":")
    with _IMPORTS:
        for library in RULES[rule].libraries:
            importlib.import_module(library)
        found: Callable[[Any], None] = getattr(importlib.import_module(module), function)
    return found


def run_action(action: Action, key: str, inputs: Mapping[str, Path], out: Path, progress: Callable[..., None]) -> None:
    """Import the rule's function (only now: it may bring torch) and call it."""
    from amybuild.actions.context import ActionContext

    # Threads that spin while they wait take the core from whoever else is on it: beside one busy process two of
    # them were four times slower than one (bench/LOG.md). OpenMP reads this when torch is first imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "0")
    run = rule_function(action.rule)
    run(ActionContext(action.id, key, action.params, inputs, out, progress))


def host() -> dict[str, Any]:
    """The fingerprint of where an action ran: recorded, not part of any key."""
    import platform

    found: dict[str, Any] = {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "system": platform.system(),
    }
    torch = sys.modules.get("torch")
    if torch is not None:
        found |= {"torch": torch.__version__, "threads": torch.get_num_threads()}
        found["cpu"] = torch.backends.cpu.get_cpu_capability()
        if torch.cuda.is_available():
            found["gpu"] = torch.cuda.get_device_name()
    return found


def build(project: Project, plan: Plan, sink: Sink) -> Summary:
    """Bring what was planned, and with the whole persona its product, up to date."""
    lock = read_lock(project.persona.file) if project.options.locked else None
    if lock:
        planned = plan.decisions.items()
        check_locked(lock, {id: (d.manifest.key, d.output) for id, d in planned if d.manifest is not None})
    summary = Summary(project.persona.name, warnings=project.warnings)
    records = _reuse(project, plan, summary, sink) if plan.done else _execute(project, summary, sink)
    if lock:
        check_locked(lock, {id: (r.key, r.output) for id, r in records.items()})
    summary.keys = {id: record.key for id, record in records.items()}
    summary.saved = sum(records[id].seconds for id in summary.hits)
    if project.whole and not summary.failed and not summary.blocked:
        _finish(project, records, summary, sink)
    return summary


def _reuse(project: Project, plan: Plan, summary: Summary, sink: Sink) -> dict[str, Record]:
    """Everything is in the cache: the plan says where, and no executor is needed to say it again."""
    records: dict[str, Record] = {}
    for id, decision in plan.decisions.items():
        found = project.cache.lookup(decision.manifest.key) if decision.manifest else None
        assert found is not None
        records[id] = found
        sink(Event("hit", id, {"seconds": found.seconds}))
    summary.hits = list(records)
    project.history.note({id: record.key for id, record in records.items()})
    project.save()
    return records


def _execute(project: Project, summary: Summary, sink: Sink) -> dict[str, Record]:
    """Run what the cache cannot answer."""
    from amybuild.execute.local import LocalExecutor

    options = project.options
    executor = LocalExecutor(
        project.store,
        project.cache,
        run_action,
        sink,
        heavy=frozenset(name for name, rule in RULES.items() if rule.heavy),
        jobs=options.jobs,
        keep_going=options.keep_going,
        compare=options.check,
        host=host,
        source_digest=project.memo.digest_path,
    )
    forced = frozenset(project.actions) if options.check else project.forced
    try:
        outcome = executor.run(project.actions, project.identity, forced)
    finally:
        project.store.close()
        project.history.note(executor.outcome.keys)  # an interrupted or failed build too: --explain goes on from there
        project.save()
    summary.ran, summary.hits = outcome.ran, outcome.hits
    summary.failed, summary.blocked = outcome.failed, outcome.blocked
    if outcome.differs and options.check:
        names = ", ".join(outcome.differs)
        raise CheckError(f"another result than the cached one: {names}", remedy="see DESIGN.md, What is bit-exact")
    return outcome.records


def _finish(project: Project, records: Mapping[str, Record], summary: Summary, sink: Sink) -> None:
    """Record the build and put its product in place, unless it lies there untouched."""
    from amybuild.product import intact, link_map, publish

    persona, history, folder = project.persona, project.history, project.folder
    outputs = {id: record.output for id, record in records.items()}
    keys = {id: record.key for id, record in records.items()}
    hash = build_hash(persona.name, outputs)
    record = history.read(hash)
    when = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    stamp = history.product(folder)
    summary.build, summary.product = hash, folder
    changed = intact(folder, stamp.get("files", {}))
    told = record is not None and {id: k for id, (k, _) in record.actions.items()} == keys
    if record is None or not told:  # the same outputs by other inputs: the same build, another account of it
        graph = graph_digest(project)
        info = link_map(persona, project.store, hash, outputs, graph, keys)
        variant = " ".join(_variant_words(project.options.variant))
        now = max(r.finished for r in records.values())
        base = outputs[f"base.{persona.base.name}/import"]
        pairs = {id: (keys[id], outputs[id]) for id in outputs}
        record = BuildRecord(hash, persona.name, now, pairs, graph["digest"], base, variant, info)
        history.add(record, when)
    elif not history.log() or history.log()[-1][1] != hash:
        history.add(record, when)
    summary.info = record.info
    if told and stamp.get("build") == hash and stamp.get("files") and not changed:
        return
    if stamp.get("build") == hash and changed:
        summary.restored = changed
        sink(Event("note", fields={"text": f"{folder.name}: {', '.join(changed[:3])} changed from outside; restored"}))
    history.set_product(folder, hash, publish(project.store, record.info, folder, stamp.get("files", {})))
    summary.published = True


def proof(project: Project, summary: Summary, before: evidence.Evidence) -> Mapping[str, kept.Stamp | None] | None:
    """The evidence that everything is as `summary` says, for as long as its stamps hold; None when there is none."""
    history, folder = project.history, project.folder
    if summary.failed or summary.blocked or not before.settled:
        return None
    state: dict[str, kept.Stamp | None] = history.evidence
    if any(history.last_key(id) != key for id, key in summary.keys.items()):
        return None  # another build of this project wrote since
    if project.whole:
        stamp = history.product(folder)
        if stamp.get("build") != summary.build or not history.log() or history.log()[-1][1] != summary.build:
            return None
        state |= {os.fspath(folder / name): tuple(found) for name, found in stamp["files"].items()}
        record = os.fspath(history.record_path(stamp["build"]))
        state[record] = kept.stamp_of(record)
    changed = summary.ran or summary.published
    return {**before.inputs, **(evidence.of_store(project.store.root) if changed else before.store), **state}


def _variant_words(variant: Variant) -> list[str]:
    return [
        *(f"--without {name}" for name in variant.without),
        *(f"--only {name}" for name in variant.only),
        *(f"--set {one}" for one in variant.sets),
    ]


def graph_digest(project: Project) -> dict[str, Any]:
    """The digest of the memory nodes that this persona reads, and how many they are."""
    nodes = {node.key: node.digest for action in project.graph.actions.values() for node in action.nodes}
    return {"digest": digest_value("graph", sorted(nodes.items())), "nodes": len(nodes)}
