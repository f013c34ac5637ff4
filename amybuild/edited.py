"""A build after an edit of memory nodes alone: what it looks at, runs and writes is in proportion to the edit.

When all was up to date a `Compiled` was kept beside the answer. While of its evidence nothing but files of the memory
graph is another, everything else is what it was: the analysis could only come out otherwise through the graph, which is
read again and asked again what it was asked. The actions that read the changed nodes are decided and run as ever. If
all of them make what they made before, nothing below them is touched, and the account of the build is amended. In every
other case `None` comes back: the whole program looks, and finds in the cache what ran here.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import amybuild
from amybuild import compiled, kept
from amybuild.amend import Pair, Unlike, amend_map, amend_nodes, amend_provenance, amend_record, amend_state, swap
from amybuild.cache.actions import ActionCache, Record
from amybuild.cache.disk import read_whole
from amybuild.cache.history import History
from amybuild.cache.memo import Memo
from amybuild.cache.store import Store
from amybuild.compiled import Compiled, Reader
from amybuild.digest import digest_value
from amybuild.errors import CacheDamage, InputError
from amybuild.events import Event
from amybuild.graph.graph import Action, NodeSource
from amybuild.memory.entry import entry_of
from amybuild.memory.graph import MemoryGraph, odd, read_graph, read_node
from amybuild.memory.links import dangling
from amybuild.memory.markdown import key_of
from amybuild.memory.node import Node, cut, split_key
from amybuild.memory.reading import Reading
from amybuild.noop import Answer
from amybuild.plan.plan import Identity
from amybuild.product import CARD, MARK, PROVENANCE, amend, keep_text
from amybuild.provenance import metadata, span, times
from amybuild.running import Summary, execute
from amybuild.value import replace, value

_STALE = 16  # nodes that had to be parsed again: from there on they are kept anew


@value
class Options:
    """How to run; the rest is what the answer was an answer to."""

    jobs: int
    keep_going: bool
    check: bool = False
    memory: int | None = None


@value(frozen=False)
class Done:
    """What came of it: the summary, what was told, whether that is all of it, and what the next answer rests on."""

    summary: Summary
    events: list[Event]
    whole: bool = False
    evidence: Mapping[str, kept.Stamp | None] | None = None
    behind: kept.Stamp | None = None


class Edited:
    """The actions that read changed nodes, with all that running them takes."""

    def __init__(self, found: Answer, known: Compiled, cache: str) -> None:
        self.found, self.known = found, known
        self.began = time.time_ns()
        self.options = Options(known.jobs, known.keep_going)
        self.forced: frozenset[str] = frozenset()
        self.state: kept.Stamp | None = None  # of the project's state, once it tells of this build
        self.store = Store(Path(cache))
        self.cache = ActionCache(self.store)
        self.history = History(self.store.root, Path(known.root))
        self._look(self._nodes_of_files())
        self.changed = self._changed()
        rows = (row for row in known.readers if not self.changed.keys().isdisjoint(row[compiled.NODES]))
        self.readers = {one.id: one for one in (Reader(*row) for row in rows)}
        self.actions = {id: self._action(one) for id, one in self.readers.items()}
        rules = {one.rule for one in self.readers.values()}
        code, libraries = ({rule: table[rule] for rule in rules} for table in (known.code, known.libraries))
        self.identity = Identity(code, libraries)

    @cached_property
    def memo(self) -> Memo:
        return Memo(self.store.root / "files.json")

    # the memory

    def _nodes_of_files(self) -> dict[str, Node] | None:
        """The nodes of the changed files, where that says all: each is one node's own, in a folder that has the files
        it had, and no query was asked."""
        known, found = self.known, dict[str, Node]()
        self.reading = Reading()
        base = os.fspath(Path(known.root) / known.source)
        home = os.path.realpath(base)
        for path in self.found.changed:
            name = os.path.relpath(path, base)
            plain = os.path.join(base, name) == path and os.path.realpath(path) == os.path.join(home, name)
            if known.asked or path in known.fixed or not plain or key_of(name) not in known.digests:
                return None
            node = read_node(known.source, Path(known.root), name, self.reading)
            found[node.key] = node
        return found

    def _look(self, nodes: Mapping[str, Node] | None) -> None:
        """Find what is another, by these nodes or by the whole graph. Raises Unlike when there are other nodes."""
        known = self.known
        self.nodes: Mapping[str, Node]
        self.digests: Mapping[str, str]
        if nodes is not None:
            self.nodes, self.digests = nodes, known.digests | {key: node.digest for key, node in nodes.items()}
            self.edited = {key: known.digests[key] for key in nodes if self.digests[key] != known.digests[key]}
            entries = {key: entry_of(node) for key, node in nodes.items() if node.links}
            new = ((key, odd(nodes[key].source, target)) for key, target in dangling(entries, known.digests))
            same = (row for row in known.lost if row[0] not in nodes)
            self.lost, self.notes = sorted((*same, *new), key=lambda row: row[0]), known.notes
            return
        self.reading = Reading(self._known_nodes())
        self.memory = read_graph(known.source, Path(known.root), self.reading)
        seen = self.reading.stamps.keys() - set(known.fixed)
        if not seen >= set(self.found.changed) or self.memory.digests.keys() != known.digests.keys():
            raise Unlike
        self.nodes, self.digests = self.memory.nodes, self.memory.digests
        self.edited = {key: was for key, was in known.digests.items() if self.digests[key] != was}
        if self.edited and any(self.memory.keys(query) != keys for query, keys in known.asked.items()):
            raise Unlike
        self.lost, self.notes = list(self.memory.lost), self.memory.notes

    @cached_property
    def memory(self) -> MemoryGraph:
        """The whole graph, read for the texts of nodes that did not change."""
        return read_graph(self.known.source, Path(self.known.root), Reading(self._known_nodes()))

    @property
    def _rows(self) -> str:
        return os.fspath(self.store.root / "nodes" / self.history.id)

    def _known_nodes(self) -> Any:
        rows = kept.read(self._rows)
        return rows[1] if isinstance(rows, tuple) and rows[0] == self.known.program else None

    def keep_nodes(self) -> None:
        """Those that had to be parsed again, too."""
        kept.write(self._rows, (self.known.program, self.reading.rows(self.began)))

    def _changed(self) -> dict[str, Node]:
        """The nodes and sections that actions read and that are others now. Raises Unlike when more than that is."""
        known, found = self.known, dict[str, Node]()
        for key, digest in known.read.items() if self.edited else ():
            name, part = (key, None) if key in self.digests else split_key(key)
            if name in self.edited:
                node = self.nodes[name] if part is None else cut(self.nodes[name], part)
                if node.digest != digest:
                    found[key] = node
        if not found.keys().isdisjoint(known.others):
            raise Unlike
        return found

    def _action(self, one: Reader) -> Action:
        sources = tuple(NodeSource(key, *self._source(key)) for key in one.nodes)
        return Action(one.id, one.target, one.rule, one.params, nodes=sources, origins=one.origins)

    def _source(self, key: str) -> tuple[str, Callable[[], bytes]]:
        """The digest of a node or section, and what reads its text."""
        node = self.changed.get(key)
        return (node.digest, node.canonical) if node else (self.known.read[key], lambda: self._text(key))

    def _text(self, key: str) -> bytes:
        whole, part = self.memory.resolve(key)
        node = whole if part is None else cut(whole, part)
        if node.digest != self.known.read[key]:
            what = "the node changed while the graph was in use"
            raise InputError(what, where=whole.source, remedy="build again when nobody writes there")
        return node.canonical()

    def keep_digests(self) -> None:
        """The digests of the nodes, for who asks which of them changed."""
        pairs = {key: (was, self.digests[key]) for key, was in self.edited.items()}
        try:
            self.history.amend(lambda text: amend_nodes(text, pairs), self.history.nodes_path)
        except (OSError, Unlike):
            self.history.set_nodes(self.digests)

    def settled(self) -> bool:
        """Whether the memory is as it was read."""
        return all(kept.settled(stamp, self.began) for stamp in self.reading.stamps.values())

    # the program and the cache

    def code_is(self, rule: str, code: Mapping[str, str]) -> bool:
        """Whether the program is what the answer says."""
        package = os.path.join(os.path.dirname(amybuild.__file__), "")
        return all(kept.stamp_of(path) == was for path, was in self.found.stamps.items() if path.startswith(package))

    def hold(self) -> dict[str, Record]:
        """Keep the whole build that is here from a collection, as one line; Unlike when it is not what it was."""
        with self.store.guard():
            removals = kept.stamp_of(os.fspath(self.store.root / kept.REMOVALS))
            if removals is None or removals != self.found.removals:
                raise Unlike
            record = os.fspath(self.history.record_path(self.known.build))
            if kept.stamp_of(record) != self.found.stamps.get(record):
                raise Unlike
            self.store.hold(f"build {self.history.id} {self.known.build}")
        return {}

    def note(self, now: Compiled, pairs: Mapping[str, Pair]) -> None:
        """Write into the project's state what is current `now`."""
        known, folder = self.known, Path(self.known.folder)
        stamps = [{"build": one.build, "info": one.info, "files": one.files} for one in (known, now)]
        path = os.fspath(self.history.state_path)

        def change(text: bytearray) -> None:
            amend_state(text, pairs, os.fspath(folder), (stamps[0], stamps[1]))

        try:
            self.state = self.history.amend_state(change, self.found.stamps.get(path))
        except Unlike:
            self.state = None
        if self.state is None:  # another build of this project was at it
            self.history.current({id: pair[1] for id, pair in pairs.items()}, folder, stamps[1])

    def evidence(self, changed: bool) -> dict[str, kept.Stamp | None]:
        """What the answer rests on from now on: it stays what it was but for what was written here."""
        found: dict[str, kept.Stamp | None] = {**dict.fromkeys(self.found.absent), **self.found.stamps}
        found |= self.reading.stamps
        if changed:
            record = os.fspath(self.history.record_path(self.known.build))
            found |= {path: kept.stamp_of(path) for path in (*self.store.written, record)}
            found[os.fspath(self.history.state_path)] = self.state
            for name, (size, mtime, ctime, inode) in self.known.files.items():
                found[os.path.join(self.known.folder, name)] = (size, mtime, ctime, inode)
        return found


def build(found: Answer, cache: str) -> Done | None:
    """Bring a project up to date of which memory nodes alone are others than `found` says. None, or something that is
    not the whole: all of it has to be looked at."""
    known = compiled.read(compiled.place_of(found.asked[0]), found.behind)
    if known is None:
        return None
    try:
        work = Edited(found, known, cache)
    except (Unlike, InputError, KeyError, OSError):
        return None
    done, records = Done(Summary(known.persona, build=known.build), []), dict[str, Record]()
    try:
        done.whole = not work.actions or _run(work, done, records)
    except (Unlike, CacheDamage, OSError):  # a file of the account is gone, say
        return done
    finally:
        work.store.close()
    if done.whole:
        _conclude(work, done, records)
    return done


def _run(work: Edited, done: Done, records: dict[str, Record]) -> bool:
    """Run the actions, and amend the account if all of them made what they made before: whether they did."""
    execute(work, done.summary, lambda event: done.events.append(event), records, work.hold)
    if len(records) < len(work.actions) or any(one.output != work.readers[id].output for id, one in records.items()):
        return False
    work.known = _account(work, records)
    done.summary.product, done.summary.published = Path(work.known.folder), True
    done.summary.info = {"verification": work.known.verification}
    return True


def _conclude(work: Edited, done: Done, records: Mapping[str, Record]) -> None:
    """What is said of it, and what is kept for the next time."""
    summary, known = done.summary, work.known
    summary.warnings = (*work.notes, *(text for _, text in work.lost)) if summary.ran else ()
    summary.unnamed = known.actions - len(summary.ran) - len(summary.hits)
    summary.saved = known.seconds - sum(records[id].seconds for id in summary.ran)
    if work.edited:
        work.keep_digests()
    if work.settled() and (work.state is not None or not records):
        if work.reading.parsed > _STALE:
            work.keep_nodes()
        known.digests, known.lost = dict(work.digests), work.lost
        done.evidence = work.evidence(bool(records))
        done.behind = compiled.keep(compiled.place_of(work.found.asked[0]), known)


def _row(id: str, record: Record) -> dict[str, Any]:
    told = {name: getattr(record, name) for name in ("key", "output", "seconds", "finished", "host")}
    return {**told, "action": id}


def _account(work: Edited, records: Mapping[str, Record]) -> Compiled:
    """Amend the record of the build and the product's own account of it; what is known from now on."""
    known, folder = work.known, Path(work.known.folder)
    before = {id: work.cache.record(work.readers[id].key) for id in records}
    graph = {**known.read, **{key: node.digest for key, node in work.changed.items()}}
    graphs = (known.graph, digest_value("graph", sorted(graph.items())))
    pairs = Counter((work.readers[id].key, record.key) for id, record in records.items())
    keys = [(old, new, count) for (old, new), count in pairs.items()]
    starts, ends, rows = Counter(known.starts), Counter(known.ends), []
    for id, record in records.items():
        old = before[id]
        if old is None or not record.finished.endswith("+00:00"):
            raise Unlike
        for one, count in ((old, -1), (record, 1)):
            begin, end = span(one.finished, one.seconds)
            starts[begin] += count
            ends[end] += count
        rows.append((_row(id, old), _row(id, record)))
    spent = sum(row["seconds"] for _, row in rows) - sum(row["seconds"] for row, _ in rows)
    now = replace(
        known, read=graph, graph=graphs[1], starts=dict(+starts), ends=dict(+ends), seconds=known.seconds + spent
    )
    now.readers = [(*row[:-2], records[row[0]].key, row[-1]) if row[0] in records else row for row in known.readers]
    texts = {name: read_whole(folder / name) for name in (MARK, CARD, PROVENANCE)}
    amend_map(texts[MARK], keys, graphs)
    swap(texts[CARD], graphs[0], graphs[1])
    now.sums = {name: hashlib.sha256(texts[name]).hexdigest() for name in known.sums}
    told = [metadata(one.build, times(min(one.starts), max(one.ends))) for one in (known, now)]
    sums = {name: (known.sums[name], now.sums[name]) for name in known.sums}
    amend_provenance(texts[PROVENANCE], graphs, rows, (told[0], told[1]), sums)
    now.product = keep_text(work.cache, texts[MARK], max(now.ends))
    products, latest = (known.product, now.product), (max(known.ends), max(now.ends))

    def change(text: bytearray) -> None:
        now.info = amend_record(text, keys, graphs, products, latest)

    work.history.amend(change, work.history.record_path(known.build))
    now.files = amend(work.store, folder, known.files, texts)
    work.note(now, {id: (work.readers[id].key, record.key) for id, record in records.items()})
    return now
