"""The program on one page: a project is loaded and planned, its actions run, its product published."""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amybuild import evidence, kept
from amybuild.cache.actions import Record
from amybuild.cache.history import BESIDE, PRODUCT, SNAPSHOT, BuildRecord, build_hash
from amybuild.cache.store import AGAIN
from amybuild.digest import digest_value
from amybuild.errors import CacheDamage, Interrupted
from amybuild.events import Event, Sink
from amybuild.plan.key import components_from_json
from amybuild.plan.plan import Plan, State
from amybuild.project import Options as Options
from amybuild.project import Project as Project
from amybuild.project import Variant as Variant
from amybuild.project import bytes_of as bytes_of
from amybuild.running import Summary, execute

if TYPE_CHECKING:
    from amybuild.pins import Found

_SAMPLE = 100  # objects that a no-op looks at: all of a small project's, at 2 us each


def build(project: Project, plan: Plan, sink: Sink) -> Summary:
    """Bring what was planned, and with the whole persona its product, up to date."""
    for text in project.recalled.notes if project.recalled else ():
        sink(Event("note", fields={"text": text}))
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
    summary, records = bring_up_to_date(project, plan, sink)
    if locked:
        locked({id: (r.key, r.output, components_from_json(r.manifest)) for id, r in records.items()})
    if project.whole and not summary.failed and not summary.blocked:
        _complete(project, records, summary, sink)
        if summary.build:
            project.history.set_nodes(project.digests)
    return summary


def _complete(project: Project, records: Mapping[str, Record], summary: Summary, sink: Sink) -> None:
    """`_finish`, and what is found gone meanwhile (collected, damaged, not in the shared store after all) is made."""
    for left in reversed(range(len(project.actions) + 1)):  # every time one more result is known to be gone
        try:
            return _finish(project, records, summary, sink)
        except CacheDamage:
            if not left:
                raise
        records = {}
        execute(project, summary, sink, records)
        _note(project, summary, records)
        if summary.failed or summary.blocked:
            return None
    return None


def _note(project: Project, summary: Summary, records: Mapping[str, Record]) -> None:
    """These are the current results, for `--explain` and for the next no-op."""
    summary.keys = {id: record.key for id, record in records.items()}
    project.history.note(summary.keys)


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


def bring_up_to_date(
    project: Project, plan: Plan, sink: Sink, *, remember: bool = True
) -> tuple[Summary, dict[str, Record]]:
    """Run what was planned, or take it from the cache; nothing is published, no build is recorded.

    The store stays open: until its caller closes it, what was found there is held. `remember`: whether `--explain` goes
    on from here.
    """
    summary = Summary(project.persona.name, warnings=() if plan.done else project.memory.warnings)
    records: dict[str, Record] = {}
    try:
        if not plan.done or not _reuse(project, plan, summary, sink, records):
            execute(project, summary, sink, records, lambda: _held(project, plan))
    finally:  # an interrupted or failed build too
        if remember:
            _note(project, summary, records)
        project.save()
    summary.saved = sum(records[id].seconds for id in summary.hits)
    return summary, records


def _reuse(project: Project, plan: Plan, summary: Summary, sink: Sink, records: dict[str, Record]) -> bool:
    """Everything is in the cache: the plan says where, and no executor is needed to say it again.

    False when a result was collected since the plan was made."""
    found: dict[str, Record] = {}
    for id, decision in plan.decisions.items():
        record = project.cache.lookup(decision.manifest.key) if decision.manifest else None
        if record is None:
            return False
        found[id] = record
    if project.cache.borrowed:  # else the shared store would be asked each time
        project.cache.hold([record.key for record in found.values()])
    for id, record in found.items():
        sink(Event("hit", id, {"seconds": record.seconds}))
    summary.hits = list(found)
    records |= found
    return True


def _held(project: Project, plan: Plan) -> dict[str, Record]:
    """The plan's hits, held. None when one is not what the plan found: what is below it may be another one's."""
    hits = {id: d for id, d in plan.decisions.items() if d.state is State.HIT}
    keys = {id: d.manifest.key for id, d in hits.items() if d.manifest}
    found = project.cache.hold(keys.values())
    records = {id: found[key] for id, key in keys.items() if key in found and found[key].output == hits[id].output}
    return records if len(records) == len(hits) else {}


def _finish(project: Project, records: Mapping[str, Record], summary: Summary, sink: Sink) -> None:
    """Record the build and put its product in place, unless it lies there untouched."""
    from amybuild.product import intact, keep_map, publish, steers_as

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
    told = record is not None and {id: k for id, (k, _) in record.actions.items() if id not in BESIDE} == keys
    told = told and (project.recalled is None or (record is not None and SNAPSHOT in record.actions))
    made = max(r.finished for r in records.values())  # a result that was collected is made again: it tells another time
    told = told and record is not None and steers_as(record.info, persona) and record.time == made
    there = told and stamp.get("build") == hash and stamp.get("files") and not changed
    whole = there and record is not None and stamp.get("info") == digest_value("info", record.info)
    if not whole and project.cache.hold(keys.values()).keys() != set(keys.values()):
        raise CacheDamage("a result is no longer whole", where=str(project.store.root), remedy=AGAIN)
    if record is None or not told:  # the same outputs by other inputs: the same build, another account of it
        earlier = record or history.last()
        info = _info(project, hash, keys, outputs, earlier.info if earlier else {})
        base = outputs[f"base.{persona.base.name}/import"]
        pairs = {id: (keys[id], outputs[id]) for id in outputs} | {PRODUCT: keep_map(project.cache, info, made)}
        if project.recalled is not None:
            pairs[SNAPSHOT] = (project.recalled.key, project.recalled.output)
        record = BuildRecord(hash, persona.name, made, pairs, info["graph"]["digest"], base, variant, info)
        history.add(record, when)
    elif not history.log() or history.log()[-1][1] != hash:
        history.went_to(hash, when, variant)
    summary.info = record.info
    if whole:
        return
    history.set_product(folder, record, publish(project.cache, record.info, folder, stamp.get("files", {})))
    summary.published = True
    if stamp.get("build") == hash and changed:
        summary.restored = changed
        from amybuild.plan.change import some

        text = f"{folder.name}: {some(changed, 3)} not as put there; restored"
        sink(Event("note", fields={"text": text}))


def _info(
    project: Project, hash: str, keys: Mapping[str, str], outputs: Mapping[str, str], before: Mapping[str, Any]
) -> dict[str, Any]:
    """The link map of a build, as it is told now."""
    from amybuild.product import link_map

    made_from = _made_from(project, _variant_words(project.options.variant))
    return link_map(project.persona, project.store, hash, outputs, graph_digest(project), keys, made_from, before)


def tells(project: Project, build: str) -> bool:
    """Whether the account of a build is the one that would be written now. What changes no key, such as a comment in
    the Personafile or another name for a recipe, waits until an account is written for another reason."""
    record = project.history.read(build)
    if record is None:
        return False
    pairs = {id: pair for id, pair in record.actions.items() if id not in BESIDE}
    keys, outputs = ({id: pair[i] for id, pair in pairs.items()} for i in (0, 1))
    try:
        return digest_value("info", _info(project, build, keys, outputs, record.info)) == digest_value(
            "info", record.info
        )
    except (CacheDamage, KeyError):
        return False


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
    state |= project.store.sample(_SAMPLE)
    changed = summary.ran or summary.published
    return {**before.inputs, **(evidence.of_store(project.store.root) if changed else before.store), **state}


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
