"""The program on one page: load, analyze, plan, execute, publish. The only module that knows all stages."""

from __future__ import annotations

import datetime
import importlib
import os
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import amybuild
from amybuild.cache.actions import ActionCache, Record
from amybuild.cache.history import PRODUCT, BuildRecord, build_hash
from amybuild.cache.memo import Memo
from amybuild.cache.sources import Sources
from amybuild.cache.store import AGAIN
from amybuild.digest import digest_file, digest_value
from amybuild.errors import AmyError, CacheDamage, CheckError, Interrupted
from amybuild.events import Event, Sink, one_at_a_time
from amybuild.graph.analyze import analyze
from amybuild.graph.graph import Action, ActionGraph
from amybuild.graph.rules import RULES
from amybuild.memory.graph import read_graph
from amybuild.personafile.load import Variant as Variant
from amybuild.personafile.load import load
from amybuild.personafile.resources import bytes_of as bytes_of
from amybuild.personafile.schema import Persona
from amybuild.plan.code import CodeIndex, library_versions, source_stats, untouched
from amybuild.plan.explain import Explanation, ProductState, explain
from amybuild.plan.key import components_from_json
from amybuild.plan.plan import Identity, Plan, make_plan
from amybuild.versions import Known, known_of, open_cache

if TYPE_CHECKING:
    from amybuild.pins import Found

if TYPE_CHECKING:
    from amybuild.execute.job import Job
    from amybuild.execute.scheduler import Outcome


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
    memory: int | None = None  # bytes that jobs may ask for in all; None: what is free


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
    warnings: tuple[str, ...] = ()


class Project:
    """A loaded persona with its action graph and its cache: what every command starts from."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.persona: Persona = load(options.file, options.variant)
        self.store, self.history = open_cache(self.persona.file.parent, self.persona.cache)
        self.cache = ActionCache(self.store)
        self.memo = Memo(self.store.root / "files.json")
        self.sources = Sources(self.store.root / "sources.json")
        self._code: CodeIndex | None = None  # when the memo did not know
        memory = read_graph(self.persona.graph, self.persona.root)
        self.warnings = tuple(memory.warnings)
        self.graph: ActionGraph = analyze(self.persona, memory, self.memo.digest_path)
        self.identity = self._identity()
        self.actions: dict[str, Action] = self.graph.select(options.targets)
        again = (*options.force, *((options.targets or ("persona",)) if options.check else ()))
        self.forced = frozenset(again and self._own(again))

    def _own(self, names: tuple[str, ...]) -> list[str]:
        """The actions of targets themselves, without what they need."""
        self.graph.select(names)
        everything = set(self.graph.actions) if "persona" in names else set()
        return [*everything, *(id for id, a in self.graph.actions.items() if a.target in names or id in names)]

    def _identity(self) -> Identity:
        root = Path(amybuild.__file__).parent
        rules = sorted(RULES)
        table = [[name, RULES[name].entry] for name in rules]
        self._stats = source_stats(root)

        def find() -> dict[str, dict[str, str]]:
            index = self._code = CodeIndex(root, "amybuild")
            return {name: index.closure(entry) | _data(root, RULES[name].data) for name, entry in table}

        code = self.memo.get("code", [self._stats, [RULES[name].data for name in rules], table], find)
        libraries = library_versions({name for rule in RULES.values() for name in rule.libraries})
        return Identity(code, {name: {lib: libraries[lib] for lib in RULES[name].libraries} for name in rules})

    def code_is(self, rule: str, code: Mapping[str, str]) -> bool:
        """Whether the code of a rule is still what `code`, its digests when this project was loaded, says."""
        root = Path(amybuild.__file__).parent
        if untouched(root, self._stats):
            return True
        return CodeIndex(root, "amybuild").closure(RULES[rule].entry) | _data(root, RULES[rule].data) == code

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

    def save(self) -> None:
        """Keep what was found out on the way (a query does not)."""
        if self._code:
            self.sources.keep(self._code.sources())
        self.memo.save()

    @property
    def whole(self) -> bool:
        """Whether the selection is the persona (then there is a product)."""
        return all(id in self.actions for id in self.graph.whole)

    @property
    def folder(self) -> Path:
        out = self.options.out
        return (out if out is not None else self.persona.root / "dist" / self.persona.name).absolute()


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


def run_job(job: Job, inputs: Mapping[str, Path], out: Path, progress: Callable[..., None]) -> None:
    """Import the rule's function (only now: it may bring torch) and call it."""
    from amybuild.actions.context import ActionContext

    # Threads that spin while they wait take the core from whoever else is on it: beside one busy process two of
    # them were four times slower than one (bench/LOG.md). OpenMP reads this when torch is first imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "0")
    run = rule_function(job.rule)
    run(ActionContext(job.id, job.key, job.params, inputs, out, progress))


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
    try:
        return _build(project, plan, sink)
    except (Interrupted, KeyboardInterrupt):
        project.store.close(wait=False)
        raise
    finally:
        project.store.close()  # last of all: from here on history alone keeps the results from a collection
        for text in project.store.notes:
            sink(Event("note", fields={"text": text}))


def _build(project: Project, plan: Plan, sink: Sink) -> Summary:
    locked = _locked(project, plan, sink) if project.options.locked else None
    summary = Summary(project.persona.name, warnings=project.warnings)
    records = _reuse(project, plan, summary, sink) if plan.done else None
    if records is None:
        records = _execute(project, summary, sink)
    if locked:
        locked({id: (r.key, r.output, components_from_json(r.manifest)) for id, r in records.items()})
    summary.saved = sum(records[id].seconds for id in summary.hits)
    if project.whole and not summary.failed and not summary.blocked:
        _complete(project, records, summary, sink)
    return summary


def _complete(project: Project, records: Mapping[str, Record], summary: Summary, sink: Sink) -> None:
    """`_finish`, and what is found gone meanwhile (collected, damaged, not in the shared store after all) is made."""
    for left in reversed(range(len(project.actions) + 1)):  # every time one more result is known to be gone
        try:
            return _finish(project, records, summary, sink)
        except CacheDamage:
            if not left:
                raise
        records = _execute(project, summary, sink)
        if summary.failed or summary.blocked:
            return None
    return None


def _locked(project: Project, plan: Plan, sink: Sink) -> Callable[[Mapping[str, Found]], None]:
    """Check a plan against the lock; the check comes back, for what comes out of the plan."""
    from amybuild.pins import check_locked, pinned_build, read_lock

    lock = read_lock(project.persona.file)
    inputs = {id: decision.action.inputs for id, decision in plan.decisions.items()}

    def check(found: Mapping[str, Found]) -> None:
        check_locked(lock, found, project.cache, inputs)

    check({id: (d.manifest.key, d.output, d.components) for id, d in plan.decisions.items() if d.manifest})
    if pinned_build(lock) is None:
        text = "Personafile.lock was merged: it pins every target, and no build of them; amybuild pin after this one"
        sink(Event("note", fields={"text": text}))
    return check


def _reuse(project: Project, plan: Plan, summary: Summary, sink: Sink) -> dict[str, Record] | None:
    """Everything is in the cache: the plan says where, and no executor is needed to say it again.

    None when a result was collected since the plan was made."""
    records: dict[str, Record] = {}
    for id, decision in plan.decisions.items():
        found = project.cache.lookup(decision.manifest.key) if decision.manifest else None
        if found is None:
            return None
        records[id] = found
    for id, found in records.items():
        sink(Event("hit", id, {"seconds": found.seconds}))
    summary.hits = list(records)
    if project.cache.borrowed:  # else the shared store would be asked each time
        project.cache.hold({id: record.key for id, record in records.items()})
    project.history.note({id: record.key for id, record in records.items()})
    project.save()
    return records


def _execute(project: Project, summary: Summary, sink: Sink) -> dict[str, Record]:
    """Run what the cache cannot answer."""
    from amybuild.execute.local import LocalExecutor
    from amybuild.execute.resources import Capacity
    from amybuild.execute.scheduler import Scheduler

    shown = one_at_a_time(sink)

    def told(event: Event) -> None:
        again = event.kind == "failed" and event.fields.get("class") == "an input is not whole"  # no failure: see below
        shown(Event("note", fields={"text": f"{event.action}: {event.fields['error']}"}) if again else event)

    options = project.options
    executor = LocalExecutor(
        project.store,
        run_job,
        jobs=options.jobs,
        progress=lambda id, done, total, more: told(Event("progress", id, {"done": done, "total": total, **more})),
        host=host,
        source_digest=project.memo.digest_path,
    )
    scheduler = Scheduler(
        project.store,
        project.cache,
        executor,
        told,
        jobs=options.jobs,
        capacity=Capacity({} if options.memory is None else {"memory": options.memory}),
        needs=lambda action: {**RULES[action.rule].resources, **action.resources},
        keep_going=options.keep_going,
        compare=options.check,
        code_is=project.code_is,
    )
    project.store.begin()  # what a lookup finds from here on stays until the build is in the history
    ran = summary.ran  # of earlier rounds
    try:
        for _ in range(len(project.actions) + 1):
            outcome = scheduler.run(project.actions, project.identity, project.forced - set(ran))
            ran += [id for id in outcome.ran if id not in ran]
            if not any(isinstance(error, CacheDamage) for error in outcome.failed.values()):
                break  # else an input was found gone when it was needed: now its action is a miss, and runs
    finally:
        executor.close()
        project.history.note(scheduler.outcome.keys)  # an interrupted or failed build too: --explain goes on from there
        project.memo.save()
    summary.hits = [id for id in outcome.hits if id not in ran]
    summary.failed, summary.blocked = outcome.failed, outcome.blocked
    if options.check:
        _compare(project, outcome, sink)
    return outcome.records


def _compare(project: Project, outcome: Outcome, sink: Sink) -> None:
    """Say how far the results of a check lie from the cached ones; `CheckError` when one does."""
    from amybuild.execute.compare import compare

    def files(record: Record) -> dict[str, Path]:
        folder = project.store.view(record.output, project.store.scratch() / "tree")
        return {p.relative_to(folder).as_posix(): p.resolve() for p in folder.rglob("*") if p.is_file()}

    if outcome.alone:
        some = ", ".join(outcome.alone[:3]) + (f" and {len(outcome.alone) - 3} more" if len(outcome.alone) > 3 else "")
        sink(Event("note", fields={"text": f"nothing in the cache to compare with: {some}"}))
    try:
        for id, (cached, new) in outcome.differs.items():
            hosts = {"old": dict(cached.host), "new": dict(new.host)}
            sink(Event("differs", id, {"files": compare(files(cached), files(new)), "hosts": hosts}))
    finally:
        project.store.close()
    if outcome.differs:
        names = ", ".join(outcome.differs)
        remedy = "the cached results stay; DESIGN.md, What is bit-exact, says when this is to be expected"
        raise CheckError(f"another result than the cached one: {names}", remedy=remedy)


def _finish(project: Project, records: Mapping[str, Record], summary: Summary, sink: Sink) -> None:
    """Record the build and put its product in place, unless it lies there untouched."""
    from amybuild.product import intact, keep_map, link_map, publish

    persona, history, folder = project.persona, project.history, project.folder
    outputs = {id: record.output for id, record in records.items()}
    keys = {id: record.key for id, record in records.items()}
    hash = build_hash(persona.name, outputs)
    record = history.read(hash)
    when = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    stamp = history.product(folder)
    summary.build, summary.product = hash, folder
    changed = intact(folder, stamp.get("files", {}))
    variant = " ".join(_variant_words(project.options.variant))
    told = record is not None and {id: k for id, (k, _) in record.actions.items() if id != PRODUCT} == keys
    current = record is not None and stamp.get("info") == digest_value("info", record.info)
    whole = told and current and stamp.get("build") == hash and stamp.get("files") and not changed
    if not whole and not project.cache.hold(keys):
        raise CacheDamage("a result is no longer whole", where=str(project.store.root), remedy=AGAIN)
    if record is None or not told:  # the same outputs by other inputs: the same build, another account of it
        graph = graph_digest(project)
        words = _variant_words(project.options.variant)
        info = link_map(persona, project.store, hash, outputs, graph, keys, _made_from(project, words))
        now = max(r.finished for r in records.values())
        base = outputs[f"base.{persona.base.name}/import"]
        pairs = {id: (keys[id], outputs[id]) for id in outputs} | {PRODUCT: keep_map(project.cache, info, now)}
        record = BuildRecord(hash, persona.name, now, pairs, graph["digest"], base, variant, info)
        history.add(record, when)
    elif not history.log() or history.log()[-1][1] != hash:
        history.went_to(hash, when, variant)
    summary.info = record.info
    if whole:
        return
    if stamp.get("build") == hash and changed:
        summary.restored = changed
        sink(Event("note", fields={"text": f"{folder.name}: {', '.join(changed[:3])} changed from outside; restored"}))
    history.set_product(folder, record, publish(project.store, record.info, folder, stamp.get("files", {})))
    summary.published = True


def _made_from(project: Project, variant: list[str]) -> dict[str, Any]:
    """What a build was asked for and with what, as digests and versions: nothing that tells of this machine or of its
    user, and no text of a memory."""
    import hashlib

    def digest(text: str) -> str:
        return hashlib.sha256(text.encode()).hexdigest()

    texts = {name: digest(text) for name, text in project.persona.texts.items()}
    personafile = texts.pop("Personafile.toml", None)
    rules = {action.rule for action in project.actions.values()}
    libraries = {name: version for rule in rules for name, version in project.identity.libraries[rule].items()}
    home = os.path.expanduser("~")
    return {
        "personafile": personafile,
        "recipes": {Path(name).stem: one for name, one in sorted(texts.items())},
        "libraries": libraries,
        "variant": [word.replace(home, "~") for word in variant],
    }


def _variant_words(variant: Variant) -> list[str]:
    return [
        *(f"--without {name}" for name in variant.without),
        *(f"--only {name}" for name in variant.only),
        *(f"--set {one}" for one in variant.sets),
    ]


def declared(file: Path) -> str | None:
    """The hash of the build that the sources ask for now, if the cache has all of it. Writes nothing."""
    project = Project(Options(file=file))
    plan = project.plan()
    outputs = {id: d.output for id, d in plan.decisions.items() if d.output}
    return build_hash(project.persona.name, outputs) if plan.done else None


def graph_digest(project: Project) -> dict[str, Any]:
    """The digest of the memory nodes that this persona reads, and how many they are."""
    nodes = {node.key: node.digest for action in project.graph.actions.values() for node in action.nodes}
    return {"digest": digest_value("graph", sorted(nodes.items())), "nodes": len(nodes)}
