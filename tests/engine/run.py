"""A random history played: the real engine on one side, on the other what the pure model says it may and must do."""

from __future__ import annotations

import json
import os
import shutil
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from amybuild.cache import fsck, gc, memo
from amybuild.cache.actions import ActionCache
from amybuild.cache.store import Store
from amybuild.digest import digest_bytes
from amybuild.errors import CacheDamage
from tests.engine.machine import Ask, Machine, Report, first_line, listen
from tests.engine.pure import Files, World, keys, results

TICK = 20_000_000  # ns; how long a file must have been let be before its digest is memorised: shorter than in builds
Step = list[Any]  # its name and its arguments, as JSON


class Wrong(AssertionError):
    """An invariant that does not hold."""


def need(condition: object, what: str, *told: object) -> None:
    if not condition:
        raise Wrong(f"{what}: {told}" if told else what)


class Run:
    """Plays a history: the real engine on one side, on the other what the model says it may and must do."""

    def __init__(self, root: Path, world: World) -> None:
        self.machine, self.world = Machine(root), world
        for name, value in world.sources.items():
            self.machine.write_source(name, value)
        self.known: dict[str, tuple[str, str]] = {}  # model key -> (key, output) of a result that must be there
        self.maybe: set[str] = set()  # model keys whose result may be there: killed, interrupted, damaged
        # (action, output) of each build that history is known to name -> its model keys, oldest first
        self.builds: dict[frozenset[tuple[str, str]], frozenset[str]] = {}
        self.interrupted = False
        self.contents: dict[str, set[str]] = {}  # output -> its objects

    def play(self, steps: list[Step]) -> None:
        """Every step with its checks, a whole build, and one that must run nothing."""
        waits, memo.TICK = memo.TICK, TICK
        try:
            self.all_of(steps)
        finally:
            memo.TICK = waits

    def all_of(self, steps: list[Step]) -> None:
        for number, (name, *arguments) in enumerate(steps):
            try:
                getattr(self, f"do_{name}")(*arguments)
            except Wrong as error:
                raise Wrong(f"step {number} {name}: {error}") from None
        self.do_build(asdict(Ask()))
        again = self.do_build(asdict(Ask(jobs=1)))
        need(not again.ran and set(again.plan.values()) <= {"hit"}, "a second build runs something", again.ran)

    # steps

    def do_edit(self, kind: str, name: str, value: int, sneaky: bool) -> None:
        table = getattr(self.world, kind)
        if name not in table:
            return
        if kind == "sources" and table[name] != value:
            self.machine.write_source(name, value, sneaky)
            time.sleep(2 * TICK / 1e9)  # from now on its digest is taken from the memo
        table[name] = value

    def do_build(self, ask: dict[str, Any]) -> Report:
        wanted = Ask.from_json(ask)
        report = self.machine.here(self.world, wanted)
        self.check([(wanted, report)])
        self.interrupted |= bool(wanted.interrupt)
        if report.started and report.ended == "done":
            self.check_tidy()
        return report

    def do_threads(self, *asks: dict[str, Any]) -> None:
        """Two builds at once, each with a store and caches of its own, as two processes would have."""
        import threading

        wanted = [Ask.from_json(one) for one in asks]
        reports = [Report() for _ in wanted]
        threads = [
            threading.Thread(target=self.machine.build, args=(self.world, one, report.tell))
            for one, report in zip(wanted, reports, strict=True)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.check(list(zip(wanted, reports, strict=True)))

    def do_pair(self, *asks: dict[str, Any]) -> None:
        wanted = [Ask.from_json(one) for one in asks]
        processes = [self.machine.spawn(self.world, one) for one in wanted]
        self.check([(one, listen(process)) for one, process in zip(wanted, processes, strict=True)])

    def do_kill(self, ask: dict[str, Any], after: float) -> None:
        """kill -9 at a moment after the plan was made (before that there is nothing but an interpreter)."""
        process = self.machine.spawn(self.world, Ask.from_json(ask))
        first = first_line(process)
        time.sleep(after)
        process.kill()
        report = listen(process)
        if first:
            report.tell(json.loads(first))
        wanted = Ask.from_json(ask)
        self.check([(wanted, report)])

    def do_damage(self, where: float, how: str) -> None:
        """Break one file of the store, whatever it is for."""
        files = sorted(p for p in self.machine.store.rglob("*") if p.is_file())
        if not files:
            return
        # a killed build leaves its views behind: what is written through one of their links reaches the store
        path = files[int(where * len(files))].resolve()
        spoil(path, how)
        self.forget(path)

    def do_lose(self, where: float) -> None:
        """Remove a whole part of the store's state; what is content-addressed is not state."""
        parts = sorted(p for p in self.machine.store.glob("*") if p.name not in ("objects", "trees", "actions"))
        if parts:
            path = parts[int(where * len(parts))]
            shutil.rmtree(path) if path.is_dir() else path.unlink()
            self.forget(path)

    def do_gc(self, keep: int) -> None:
        """What the last builds made stays; of the rest nothing is known any more."""
        try:
            gc.collect(self.machine.store, keep=keep)
        except CacheDamage:  # it is not known what is to be kept, so nothing goes
            self.do_fsck()
            return
        self.collected(keep)

    def do_collecting(self, ask: dict[str, Any]) -> None:
        """Collections all the time beside a build: nothing that it relies on goes, and nothing has to be made twice."""
        wanted = Ask.from_json(ask)
        process = self.machine.spawn(self.world, wanted)
        while process.poll() is None:
            try:
                gc.collect(self.machine.store, keep=1)
            except CacheDamage:
                break
        report = listen(process)
        self.collected(1)
        self.check_report(wanted, report, keys(self.world))
        if not _whole(wanted, report):
            report.records = {}  # gone as soon as it was over: history does not name it
        self.check([(wanted, report)], told=False)
        self.collected(1)

    def collected(self, keep: int) -> None:
        """`keep` builds of each project stay, and the last one in any case."""
        self.builds = dict(list(self.builds.items())[-max(keep, 1) :])
        kept = frozenset().union(*self.builds.values())
        self.maybe |= self.known.keys() - kept
        self.known = {key: found for key, found in self.known.items() if key in kept}

    def do_fsck(self) -> None:
        """After a repair all is well, and every result that was whole still is."""
        store = Store(self.machine.store)
        try:
            fsck.check(store, repair=True)
        finally:
            store.close()
        again = fsck.check(Store(self.machine.store))
        need(again.clean, "damaged after a repair", again.damages)

    # the model's side

    def forget(self, path: Path) -> None:
        """A damaged object, tree or record: the results that need it may have to be made again; nothing else may."""
        name = path.name.partition(".")[0]
        room = path.relative_to(self.machine.store.resolve()).parts[0]
        if room in ("state", "builds"):
            self.builds.clear()
        for key, (real, output) in list(self.known.items()):
            files = self.contents.get(output, set())
            if {"objects": name in files, "trees": name == output, "actions": name == real}.get(room, False):
                del self.known[key]
                self.maybe.add(key)

    def check(self, builds: list[tuple[Ask, Report]], told: bool = True) -> None:
        """Every invariant after one build, or after several that went on at once (`told`: with what they report)."""
        model, made = keys(self.world), results(self.world)
        started = [model[id] for _, report in builds for id in report.started]
        for ask, report in builds:
            if told:
                self.check_report(ask, report, model)
            for id, files in self.machine.values(report.records).items():
                need(files == made[id], "a wrong result", id, files, made[id])
                need({model[id]} <= {*started, *self.known, *self.maybe}, "a result that nobody made", id)
        # what failed or was forced in one build, another one may run too
        again = {model[id] for ask, _ in builds for id in (*ask.bad, *ask.force)}
        again |= {model[ask.interrupt] for ask, _ in builds if ask.interrupt}
        twice = [key for key in set(started) if started.count(key) > 1 and key not in again]
        need(not twice, "it ran twice", twice)
        self.maybe |= set(started) - set(self.known)
        for _, report in builds:
            for id, (real, output) in report.records.items():
                self.known[model[id]] = (real, output)
                self.contents[output] = {digest_bytes(data) for data in made[id].values()}
                self.maybe.discard(model[id])
            if report.ended == "killed":
                self.note_done(report, model, made)
            self.note_build(ask, report, model)

    def check_report(self, ask: Ask, report: Report, model: dict[str, str]) -> None:
        chosen = [spec.id for spec in self.world.closure(ask.targets)]
        forced = {model[id] for id in ask.force if id in chosen}
        need(set(report.started) <= set(chosen), "something else ran", report.started)
        for id in report.started:
            need(model[id] not in self.known or model[id] in forced, "a known result was made again", id)
            need(report.plan[id] != "hit", "planned as a hit, but it ran", id)
        for id, state in report.plan.items():
            need(state != "run" or model[id] not in self.known or model[id] in forced, "planned needlessly", id)
        if report.ended != "done":
            return
        need(sorted(report.ran) == sorted(set(report.started) - set(report.failed)), "it says it ran", report)
        told = [*report.records, *report.failed, *report.blocked]
        need(sorted(told) == sorted(chosen), "an action has no end, or two", told)
        need(set(report.failed) <= set(ask.bad), "failed", report.failed)
        need(not report.blocked or report.failed, "blocked without a failure", report.blocked)
        if ask.keep:
            self.check_blocked(report, chosen)

    def note_done(self, report: Report, model: dict[str, str], made: dict[str, Files]) -> None:
        """What a killed build told as done is there, and need not be made again."""
        cache = ActionCache(Store(self.machine.store))
        for id, real in report.done.items():
            found = cache.lookup(real)
            need(found, "told as done, but it is not there", id)
            assert found is not None
            self.known[model[id]] = (real, found.output)
            self.contents[found.output] = {digest_bytes(data) for data in made[id].values()}
            self.maybe.discard(model[id])

    def note_build(self, ask: Ask, report: Report, model: dict[str, str]) -> None:
        """A whole build that ended well is in the history; a killed one may be."""
        if report.ended == "killed":
            self.builds.clear()
        if not _whole(ask, report):
            return
        build = frozenset((id, output) for id, (_, output) in report.records.items())
        self.builds.pop(build, None)  # by other inputs the same results: one build, of which the last account stays
        self.builds[build] = frozenset(model.values())

    def check_blocked(self, report: Report, chosen: list[str]) -> None:
        """With keep-going exactly what depends on a failure is not reached."""
        lost = set(report.failed)
        for spec in self.world.closure(chosen):
            if lost & {*spec.needs, *spec.after}:
                lost.add(spec.id)
        need(set(report.blocked) == lost - set(report.failed), "blocked", report.blocked, lost)

    def check_tidy(self) -> None:
        """Nothing temporary outlives the build after a kill."""
        left = [p for p in self.machine.store.rglob("*") if p.name.startswith(".") or p.parent.name == "tmp"]
        if self.interrupted:  # a thread that Ctrl-C met at its start may still be there, in a room of this process
            left = [p for p in left if not p.name.startswith(f"{os.getpid()}-")]
        need(not left, "left behind", left)


def _whole(ask: Ask, report: Report) -> bool:
    """Whether a build was of everything and came to its end: then history names it."""
    return report.ended == "done" and not ask.targets and not report.failed


def spoil(path: Path, how: str) -> None:
    """Damage one file (or make a folder of it)."""
    data = path.read_bytes()
    path.chmod(0o644)
    if how == "cut":
        path.write_bytes(data[: len(data) // 2])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "grow":
        path.write_bytes(data + b"\0")
    elif how == "rot" and path.suffix:  # of an object: see `tests/engine/test_rot.py`
        path.write_bytes(bytes([*data[:-2], data[-2] ^ 1 if len(data) > 1 else 0]))
    else:
        path.unlink()
        if how == "folder":
            path.mkdir()
            (path / "inside").touch()
