"""What is kept of a project that is up to date: all that an edit of its memory can change, so that no more is read."""

from __future__ import annotations

import marshal
import os
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from amybuild import kept
from amybuild.cache.history import BESIDE, PRODUCT
from amybuild.graph.rules import RULES
from amybuild.noop import prune
from amybuild.product import CARD, MARK
from amybuild.provenance import sha256, span
from amybuild.value import value

if TYPE_CHECKING:
    from amybuild.evidence import Evidence
    from amybuild.project import Project
    from amybuild.running import Summary


@value(frozen=False)
class Reader:
    """An action that reads memory nodes and nothing else, and what came of it."""

    id: str
    target: str
    rule: str
    params: Mapping[str, Any]
    origins: Mapping[str, str]
    nodes: tuple[str, ...]
    key: str
    output: str


NODES = tuple(Reader.__annotations__).index("nodes")  # where they stand in a row of one


@value(frozen=False)
class Compiled:
    """All that an edit of memory nodes can change, as it was when everything was up to date."""

    program: str  # the code and the Python that nodes were read with
    source: str  # the memory graph's
    root: str
    fixed: tuple[str, ...]  # files of the memory graph that say something else too
    digests: dict[str, str]  # of all nodes
    lost: list[tuple[str, str]]  # `MemoryGraph.lost`
    notes: tuple[str, ...]
    asked: dict[str, tuple[str, ...]]  # query -> the keys that it selected
    read: dict[str, str]  # node or section -> digest, of those that actions read
    graph: str  # a digest of these
    readers: list[tuple[Any, ...]]  # `Reader`s
    others: tuple[str, ...]  # nodes that an action reads which reads something else too
    code: dict[str, dict[str, str]]  # of the readers' rules
    libraries: dict[str, dict[str, str]]
    jobs: int
    keep_going: bool
    persona: str
    actions: int
    seconds: float  # that they took, all in all
    folder: str  # the product's
    build: str
    product: tuple[str, str]  # key and output of the link map
    files: dict[str, list[int]]  # the product's, with their stamps
    sums: dict[str, str]  # sha256 of its account
    starts: dict[str, int]  # when actions began, and how many then
    ends: dict[str, int]
    verification: Any
    info: str  # the digest of the link map


_FIELDS = tuple(Compiled.__annotations__)


def place_of(answer: str) -> str:
    """Where it is kept that goes with an answer (`noop.question`)."""
    folder, name = os.path.split(answer)
    return os.path.join(os.path.dirname(folder), "compiled", name)


def take(project: Project, summary: Summary, evidence: Evidence) -> Compiled | None:
    """A project that `summary` says is up to date; None when an edit must look at all of it."""
    stamp, record = project.history.product(project.folder), project.history.read(summary.build or "")
    asked = project.asked
    if record is None or not project.whole or asked.other:
        return None
    if project.store.shared is not None or project.recalled is not None:  # neither is asked by a build after an edit
        return None
    readers, others = [], set[str]()
    known: dict[bytes, Any] = {}

    def one(found: Any) -> Any:
        """The first of equal values: it is written once, and read once each time that this is."""
        return known.setdefault(marshal.dumps(found, 2), found)

    for id, action in project.graph.actions.items():
        if not action.nodes:
            continue
        alone = not (action.inputs or action.after or action.source or action.resources or RULES[action.rule].resources)
        if not alone or id not in record.actions:
            others |= {node.key for node in action.nodes}
            continue
        nodes = tuple(one(node.key) for node in action.nodes)
        about = (id, action.target, one(action.rule), one(dict(action.params)), one(dict(action.origins)), nodes)
        readers.append((*about, *record.actions[id]))
    spans, seconds = [], 0.0
    for id, (key, output) in record.actions.items():
        if id in BESIDE:
            continue
        told = project.cache.told(key)
        if told is None or told.output != output or not told.finished.endswith("+00:00"):
            return None
        spans.append(span(told.finished, told.seconds))
        seconds += told.seconds
    rules = {row[2] for row in readers}
    read = {node.key: node.digest for action in project.graph.actions.values() for node in action.nodes}
    return Compiled(
        program=project.program,
        source=project.persona.graph,
        root=os.fspath(project.persona.root),
        fixed=evidence.both,
        digests={one(key): one(digest) for key, digest in project.digests.items()},
        lost=list(project.memory.lost),
        notes=project.memory.notes,
        asked=dict(asked.queries),
        read={one(key): one(digest) for key, digest in read.items()},
        graph=record.graph,
        readers=readers,
        others=tuple(sorted(others)),
        code={rule: dict(project.identity.code[rule]) for rule in rules},
        libraries={rule: dict(project.identity.libraries[rule]) for rule in rules},
        jobs=project.options.jobs,
        keep_going=project.options.keep_going,
        persona=project.persona.name,
        actions=len(project.actions),
        seconds=seconds,
        folder=os.fspath(project.folder),
        build=record.hash,
        product=record.actions[PRODUCT],
        files=dict(stamp["files"]),
        sums={name: sha256(project.folder / name) for name in (MARK, CARD)},
        starts=dict(Counter(begin for begin, _ in spans)),
        ends=dict(Counter(end for _, end in spans)),
        verification=record.info.get("verification", {}),
        info=stamp["info"],
    )


def keep(place: str, known: Compiled) -> kept.Stamp | None:
    """Keep it; its stamp, which the answer remembers."""
    kept.write(place, tuple(getattr(known, name) for name in _FIELDS))
    prune(os.path.dirname(place))
    return kept.stamp_of(place)


def read(place: str, stamp: kept.Stamp | None) -> Compiled | None:
    """What was kept with this stamp, or None."""
    if stamp is None or kept.stamp_of(place) != stamp:
        return None
    found = kept.read(place)
    return Compiled(*found) if isinstance(found, tuple) and len(found) == len(_FIELDS) else None
