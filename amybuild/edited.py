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
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import amybuild
from amybuild import compiled, evidence, kept
from amybuild.amend import Unlike, amend_map, amend_provenance, amend_record, swap
from amybuild.cache.actions import ActionCache, Record
from amybuild.cache.history import History
from amybuild.cache.memo import Memo
from amybuild.cache.store import Store
from amybuild.compiled import Compiled, Reader
from amybuild.digest import digest_bytes, digest_value
from amybuild.errors import CacheDamage, InputError
from amybuild.events import Event
from amybuild.graph.graph import Action, NodeSource
from amybuild.memory.graph import MemoryGraph, read_graph
from amybuild.memory.node import Node, cut
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
        self.store = Store(Path(cache))
        self.cache = ActionCache(self.store)
        self.reading = Reading(self._known_nodes())
        self.memory = read_graph(known.source, Path(known.root), self.reading)
        self.changed = self._changed()
        readers = (Reader(*row) for row in known.readers)
        self.readers = {one.id: one for one in readers if not self.changed.keys().isdisjoint(one.nodes)}
        self.actions = {id: self._action(one) for id, one in self.readers.items()}
        rules = {one.rule for one in self.readers.values()}
        code, libraries = ({rule: table[rule] for rule in rules} for table in (known.code, known.libraries))
        self.identity = Identity(code, libraries)

    @cached_property
    def history(self) -> History:
        return History(self.store.root, Path(self.known.root))

    @cached_property
    def memo(self) -> Memo:
        return Memo(self.store.root / "files.json")

    @property
    def _nodes(self) -> str:
        return os.fspath(self.store.root / "nodes" / digest_bytes(os.fsencode(self.known.root))[:16])

    def _known_nodes(self) -> Any:
        rows = kept.read(self._nodes)
        return rows[1] if isinstance(rows, tuple) and rows[0] == self.known.program else None

    def keep_nodes(self) -> None:
        """Those that had to be parsed again, too."""
        kept.write(self._nodes, (self.known.program, self.reading.rows(self.began)))

    def _changed(self) -> dict[str, Node]:
        """The nodes and sections that actions read and that are others now. Raises Unlike when more than that is."""
        known, memory = self.known, self.memory
        seen = self.reading.stamps.keys() - set(known.fixed)
        if not seen >= set(self.found.changed) or compiled.keys_of(memory.nodes) != known.keys:
            raise Unlike
        edited = {key for key, digest in memory.digests.items() if digest != known.digests[key]}
        if edited and any(memory.keys(query) != keys for query, keys in known.asked.items()):
            raise Unlike
        found = {}
        for key, digest in known.read.items() if edited else ():
            if memory.find(key)[0] in edited:
                node = _part(memory, key)
                if node.digest != digest:
                    found[key] = node
        if not found.keys().isdisjoint(known.others):
            raise Unlike
        return found

    def _action(self, one: Reader) -> Action:
        nodes = (self.changed.get(key) or _part(self.memory, key) for key in one.nodes)
        sources = tuple(NodeSource(node.key, node.digest, node.canonical) for node in nodes)
        return Action(one.id, one.target, one.rule, one.params, nodes=sources, origins=one.origins)

    def code_is(self, rule: str, code: Mapping[str, str]) -> bool:
        """Whether the program is what the answer says."""
        package = os.path.join(os.path.dirname(amybuild.__file__), "")
        return all(kept.stamp_of(path) == was for path, was in self.found.stamps.items() if path.startswith(package))

    def hold(self) -> dict[str, Record]:
        """Keep the whole build that is here from a collection, as one line; Unlike when it is not what it was."""
        with self.store.guard():
            now = evidence.of_store(self.store.root)
            if any(self.found.stamps.get(path) != stamp for path, stamp in now.items() if stamp is not None):
                raise Unlike
            record = os.fspath(self.history.record_path(self.known.build))
            if kept.stamp_of(record) != self.found.stamps.get(record):
                raise Unlike
            self.store.hold(f"build {self.history.id} {self.known.build}")
        return {}

    def settled(self) -> bool:
        """Whether the memory is as it was read."""
        return all(kept.settled(stamp, self.began) for stamp in self.reading.stamps.values())

    def current(self) -> bool:
        """Whether the build is still the project's last one, and its product the one that was put there."""
        stamp, log = self.history.product(Path(self.known.folder)), self.history.log()
        return bool(log) and log[-1][1] == self.known.build and stamp.get("files") == self.known.files

    def evidence(self, changed: bool) -> dict[str, kept.Stamp | None]:
        """What the answer rests on from now on."""
        found: dict[str, kept.Stamp | None] = {**dict.fromkeys(self.found.absent), **self.found.stamps}
        found |= self.reading.stamps
        if changed:
            record = os.fspath(self.history.record_path(self.known.build))
            found |= evidence.of_store(self.store.root) | self.history.evidence
            for name, (size, mtime, ctime, inode) in self.known.files.items():
                found[os.path.join(self.known.folder, name)] = (size, mtime, ctime, inode)
            found[record] = kept.stamp_of(record)
        return found


def _part(memory: MemoryGraph, key: str) -> Node:
    whole, part = memory.resolve(key)
    return whole if part is None else cut(whole, part)


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
    summary.warnings = work.memory.warnings if summary.ran else ()
    summary.hits = [""] * (known.actions - len(summary.ran))
    summary.saved = known.seconds - sum(records[id].seconds for id in summary.ran)
    work.history.set_nodes(work.memory.digests)
    if work.settled() and work.current():
        if work.reading.parsed > _STALE:
            work.keep_nodes()
        known.digests = dict(work.memory.digests)
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
    graphs = (digest_value("graph", sorted(known.read.items())), digest_value("graph", sorted(graph.items())))
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
    now = replace(known, read=graph, starts=dict(+starts), ends=dict(+ends), seconds=known.seconds + spent)
    now.readers = [(*row[:-2], records[row[0]].key, row[-1]) if row[0] in records else row for row in known.readers]
    texts = {name: bytearray((folder / name).read_bytes()) for name in (MARK, CARD, PROVENANCE)}
    shas = {name: hashlib.sha256(texts[name]).hexdigest() for name in (MARK, CARD)}
    amend_map(texts[MARK], keys, graphs)
    swap(texts[CARD], graphs[0], graphs[1])
    told = [metadata(one.build, times(min(one.starts), max(one.ends))) for one in (known, now)]
    files = {name: (sha, hashlib.sha256(texts[name]).hexdigest()) for name, sha in shas.items()}
    amend_provenance(texts[PROVENANCE], graphs, rows, (told[0], told[1]), files)
    now.product = keep_text(work.cache, texts[MARK], max(now.ends))
    account = work.history.record_path(known.build).read_bytes()
    products, latest = (known.product, now.product), (max(known.ends), max(now.ends))
    data, now.info = amend_record(account, keys, graphs, products, latest)
    work.history.amend(known.build, data)
    now.files = amend(work.store, folder, known.files, texts)
    stamp = {"build": known.build, "info": now.info, "files": now.files}
    work.history.current({id: record.key for id, record in records.items()}, folder, stamp)
    return now
