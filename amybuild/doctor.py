"""What is wrong with this project and this machine: a list of findings, each with its remedy."""

from __future__ import annotations

import importlib
import importlib.metadata
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from amybuild.build import Options, Project
from amybuild.cache.lease import abandoned
from amybuild.cache.store import write_atomic
from amybuild.errors import AmyError
from amybuild.execute.resources import Capacity, free_memory, visible_gpus
from amybuild.model.memory import FEWER, of_folder
from amybuild.personafile.lock import parse
from amybuild.pins import pinned_build
from amybuild.plan.code import library_versions
from amybuild.plan.plan import State
from amybuild.report.text import amount
from amybuild.versions import open_cache, shared_of

_SPARE = 2 << 30  # bytes that a build should leave free on its disk
_UNKNOWN = 1 << 29  # bytes of a base that was not imported yet: the shipped one and some room
_PATIENCE = 20.0  # seconds that a shared store may take to answer
_LITTLE = 2 << 30  # bytes of memory with which even the smallest base gets slow


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. `level`: ok | warn | fail."""

    level: str
    name: str
    what: str
    remedy: str | None = None


def examine(file: Path) -> list[Finding]:
    """Look at everything. Runs no action and loads no model; writes one empty file into the cache, and removes it
    (into a shared store that may be written a small one, which stays)."""
    found = [*_libraries(), *_machine()]
    try:
        project = Project(Options(file=file))
    except AmyError as error:
        found.append(Finding("fail", "project", _said(error), error.remedy))
        root = file.resolve().parent
        return [*found, *_cache(root), *_shared(file), *_disk(root, 0)] if root.is_dir() else found
    found += [*_project(project), *_cache(project.persona.root), *_shared(file), *_estimate(project)]
    return [*found, *_trainings(project), *_lock(project)]


def _libraries() -> Iterator[Finding]:
    """What is installed against what amybuild asks for, and whether torch can be imported (the slow part: seconds)."""
    yield Finding("ok", "python", ".".join(map(str, sys.version_info[:3])))
    wanted = _wanted()
    for name, version in sorted(library_versions(wanted).items()):
        least = wanted[name]
        if version == "absent":
            yield Finding("fail", name, "is not installed", f"pip install '{name}>={least}'")
        elif _numbers(version) < _numbers(least):
            yield Finding("fail", name, f"{version} is too old", f"pip install '{name}>={least}'")
        else:
            yield Finding("ok", name, version)
    try:
        importlib.import_module("torch")
    except Exception as error:
        yield Finding("fail", "torch", f"does not import ({type(error).__name__})", "install it anew for this machine")


def _wanted() -> dict[str, str]:
    """Library -> the least version, as amybuild's own package says; nothing when it is not installed as one."""
    try:
        lines = importlib.metadata.requires("amybuild") or []
    except importlib.metadata.PackageNotFoundError:
        lines = []
    found = (re.fullmatch(r"([\w.-]+)>=([\d.]+)", line) for line in lines)  # extras carry a marker and do not match
    return {one.group(1): one.group(2) for one in found if one}


def _numbers(version: str) -> tuple[int, ...]:
    parts = version.split("+")[0].split(".")
    return tuple(int("".join(c for c in part if c.isdigit()) or 0) for part in parts[:3])


def _machine() -> Iterator[Finding]:
    memory, gpus = free_memory(), visible_gpus()
    if memory < _LITTLE:
        yield Finding("warn", "memory", f"{amount(memory)} free", "close other programs, or take a smaller base")
    else:
        yield Finding("ok", "memory", f"{amount(memory)} free")
    torch = sys.modules.get("torch")
    usable = bool(torch is not None and torch.cuda.is_available())
    if gpus and not usable:
        yield Finding("warn", "gpu", f"{gpus} here, but torch cannot use them", "install a torch build for this driver")
    else:
        yield Finding("ok", "gpu", f"{gpus}" if gpus else "none: everything runs on the CPU")


def _project(project: Project) -> Iterator[Finding]:
    persona = project.persona
    tasks, nodes = len(persona.tasks), {n.key for a in project.graph.actions.values() for n in a.nodes}
    yield Finding(
        "ok", "project", f"{persona.name}: {tasks} tasks, {len(project.actions)} actions, {len(nodes)} nodes read"
    )
    for warning in project.memory.warnings[:5]:
        yield Finding("warn", "memory graph", warning, "mend the node, or leave it: it harms no build")
    if len(project.memory.warnings) > 5:
        yield Finding(
            "warn",
            "memory graph",
            f"{len(project.memory.warnings) - 5} more warnings",
            "mend the first ones, then ask again",
        )
    capacity = Capacity()
    for action in project.actions.values():
        lacking = capacity.lacks(action.resources)
        if lacking is not None:
            yield Finding("fail", "resources", f"{action.id} {lacking[0]}", lacking[1])


def _said(error: AmyError) -> str:
    """Where and what, as a terminal can show it."""
    return str(type(error)(error.what, where=error.where))


def _cache(root: Path) -> Iterator[Finding]:
    try:
        store, _ = open_cache(root)
    except AmyError as error:
        yield Finding("fail", "cache", _said(error), error.remedy)
        return
    probe = store.root / ".doctor"
    try:
        write_atomic(probe, b"")
        probe.unlink()
    except (AmyError, OSError) as error:
        remedy = (error.remedy if isinstance(error, AmyError) else None) or "point AMYBUILD_CACHE at another folder"
        yield Finding("fail", "cache", f"{store.root} cannot be written", remedy)
        return
    sizes = [entry.stat().st_size for entry in (store.root / "objects").rglob("*") if entry.is_file()]
    yield Finding("ok", "cache", f"{amount(sum(sizes))} in {len(sizes)} files at {store.root}")
    stale = abandoned(store.root)
    if stale:
        what = f"{len(stale)} temporary folders of builds that were killed"
        yield Finding("warn", "cache", what, "the next build removes them")


def _shared(file: Path) -> Iterator[Finding]:
    """Whether the shared store answers, and what it lets us do."""
    try:
        shared = open_cache(file.resolve().parent, shared_of(file))[0].shared
    except AmyError as error:
        yield Finding("fail", "shared store", _said(error), error.remedy)
        return
    if shared is None:
        return
    done, lacking = shared.probe(_PATIENCE)
    if lacking is None:
        yield Finding("ok", "shared store", done)
    elif done == "nothing":
        remedy = "builds work without it; mend the address, the network or the credentials, or take it out"
        yield Finding("fail", "shared store", f"cannot be read: {lacking}", remedy)
    else:
        remedy = "results made here stay here; get write permission, or say readonly = true in [cache]"
        yield Finding("warn", "shared store", f"{done}, but not written: {lacking}", remedy)


def _estimate(project: Project) -> Iterator[Finding]:
    """What a build has to do, and whether its large results (bases and checkpoints) fit on the disk."""
    decisions = project.plan().decisions
    todo = [one.action for one in decisions.values() if one.state is not State.HIT]
    bases = [one.output for one in decisions.values() if one.action.rule == "base" and one.output]
    sizes = [sum(entry.size for entry in (project.store.tree(base) or {}).values()) for base in bases]
    weights = max(sizes, default=_UNKNOWN)
    copies = sum(action.rule in ("base", "link") for action in todo) + bool(todo and project.whole)
    yield from _disk(project.store.root, weights * copies)
    keys = [project.history.last_key(action.id) for action in todo]
    records = [project.cache.record(key) for key in keys if key]
    known = [record.seconds for record in records if record]
    past = f", {sum(known):.0f} s by their last runs" if todo and len(known) == len(todo) else ""
    what = f"{len(todo)} of {len(decisions)} actions have to run{past}" if todo else "everything is in the cache"
    yield Finding("ok", "build", what)


def _trainings(project: Project) -> Iterator[Finding]:
    """What the largest training takes, from its base's shapes, and each one that does not fit."""
    decisions = project.plan().decisions
    sizes: dict[str, tuple[int, int]] = {}
    each: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as room:
        for id, one in decisions.items():
            base = decisions[one.action.inputs["base"]].output if one.action.rule == "train" else None
            if base is None:  # not imported yet: its shapes are not known
                continue
            folder = Path(room) / base
            try:
                if not folder.exists():
                    project.store.view(base, folder)
                needed = of_folder(folder, one.action.params).total
            except (AmyError, OSError, ValueError, KeyError):
                yield Finding("warn", "training", f"{id}: its base's shapes cannot be read", "amybuild fsck")
                continue
            shards = int(one.action.params["shards"])
            sizes[id] = needed, _there(str(one.action.params["device"]), shards)
            each[id] = f" in each of {shards} processes" if shards > 1 else ""
    for id, (needed, there) in sizes.items():
        if needed > there:
            what = f"{id} takes about {amount(needed)} of memory{each[id]}, and {amount(there)} are free"
            yield Finding("fail", "training", what, FEWER)
    if sizes and all(needed <= there for needed, there in sizes.values()):
        id = max(sizes, key=lambda id: sizes[id][0])
        what = f"{id} takes about {amount(sizes[id][0])} of memory{each[id]}, the most of them"
        yield Finding("ok", "training", what)


def _there(device: str, shards: int) -> int:
    """Free bytes on the device that a recipe names, for each process."""
    torch = sys.modules.get("torch")
    if device != "cpu" and torch is not None and torch.cuda.is_available():
        return int(torch.cuda.mem_get_info()[0])
    return 0 if device == "cuda" else free_memory() // shards


def _disk(place: Path, needed: int) -> Iterator[Finding]:
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < needed + _SPARE // 4:
        yield Finding("fail", "disk", f"{amount(free)} free, a build needs about {amount(needed)}", "free some space")
    elif free < needed + _SPARE:
        yield Finding("warn", "disk", f"{amount(free)} free, a build needs about {amount(needed)}", "free some space")
    else:
        yield Finding("ok", "disk", f"{amount(free)} free")


def _lock(project: Project) -> Iterator[Finding]:
    path = project.persona.file.with_suffix(".lock")
    if not path.exists():
        return
    try:
        lock = parse(path)
    except AmyError as error:
        yield Finding("fail", "lock", error.what, error.remedy)
        return
    account = pinned_build(lock)  # none after a merge: then only the pins of single targets can be compared
    pins = {**lock.pins, **(account.pins if account else {})}
    decisions = project.plan().decisions.items()
    known = [(id, d.manifest.key) for id, d in decisions if d.manifest and (account or id in pins)]
    moved = [id for id, key in known if id not in pins or pins[id][0] != key]
    if moved:
        what = f"{len(moved)} actions are not what {path.name} pins, first {moved[0]}"
        yield Finding("warn", "lock", what, "amybuild pin accepts them after a build; or undo the edits")
    else:
        yield Finding("ok", "lock", f"{path.name} pins what is declared")
