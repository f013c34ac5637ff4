"""Random histories of builds, edits, failures, kills and damage against the pure model, after Shake's Random.

python -m tests.engine.model --seed 7 --steps 12      one history
python -m tests.engine.model --first 0 --count 2000   many; a failing one is shrunk and printed
python -m tests.engine.model --replay FILE            a history as JSON (what a failure prints)
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from amybuild.cache import memo
from amybuild.cache.actions import ActionCache
from amybuild.cache.store import Store
from amybuild.digest import digest_bytes
from tests.engine.machine import Ask, Machine, Report, first_line, listen
from tests.engine.pure import Files, World, keys, random_world, results

TICK = 20_000_000  # ns; how long a file must have been let be before its digest is memorised: shorter than in builds
Step = list[Any]  # its name and its arguments, as JSON


class Wrong(AssertionError):
    """An invariant that does not hold."""


def need(condition: object, what: str, *told: object) -> None:
    if not condition:
        raise Wrong(f"{what}: {told}" if told else what)


def random_history(seed: int, steps: int, processes: bool) -> dict[str, Any]:
    """A world and what happens to it. With `processes` some builds are real ones (killed, or two at once)."""
    rng = random.Random(f"history {seed}")
    world = random_world(rng)
    ids = [spec.id for spec in world.specs]
    found: list[Step] = []
    before: dict[tuple[str, str], int] = {}

    def ask(**more: Any) -> dict[str, Any]:
        targets = rng.sample(ids, rng.randint(1, min(3, len(ids)))) if rng.random() < 0.3 else []
        return asdict(Ask(tuple(targets), rng.randint(1, 4), rng.random() < 0.5, **more))

    def edit() -> Step:
        kind = rng.choice(("params", "params", "nodes", "nodes", "sources", "code"))
        table = getattr(world, kind)
        name = rng.choice(sorted(table))
        old = table[name]
        # half of the edits take an earlier one back: A -> B -> A
        value = before.get((kind, name), 0) if rng.random() < 0.5 else rng.randrange(5)
        before[kind, name] = old
        table[name] = value
        return ["edit", kind, name, value, rng.random() < 0.5]

    moves: list[tuple[float, Callable[[], Step]]] = [
        (4, lambda: ["build", ask()]),
        (5, edit),
        (2, lambda: ["build", ask(bad=tuple(rng.sample(ids, rng.randint(1, min(3, len(ids))))))]),
        (1, lambda: ["build", ask(force=(rng.choice(ids),))]),
        (1, lambda: ["build", ask(interrupt=rng.choice(ids))]),
        (1, lambda: ["threads", ask(), ask()]),
        (2, lambda: ["damage", rng.random(), rng.choice(("delete", "cut", "empty", "grow", "rot", "folder"))]),
        (1, lambda: ["lose", rng.random()]),
    ]
    if processes:
        moves.append((2, lambda: ["kill", ask(nap=rng.choice((0, 5, 20))), round(rng.random() ** 2 * 0.3, 4)]))
        moves.append((1, lambda: ["pair", ask(nap=5), ask(nap=2)]))
    weights = [weight for weight, _ in moves]
    world_at_first = json.loads(json.dumps(world.to_json()))
    for _ in range(steps):
        found.append(rng.choices([move for _, move in moves], weights)[0]())
    return {"seed": seed, "world": world_at_first, "steps": json.loads(json.dumps(found))}


class Run:
    """Plays a history: the real engine on one side, on the other what the model says it may and must do."""

    def __init__(self, root: Path, world: World) -> None:
        self.machine, self.world = Machine(root), world
        for name, value in world.sources.items():
            self.machine.write_source(name, value)
        self.known: dict[str, tuple[str, str]] = {}  # model key -> (key, output) of a result that must be there
        self.maybe: set[str] = set()  # model keys whose result may be there: killed, interrupted, damaged
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
        path = files[int(where * len(files))]
        spoil(path, how)
        self.forget(path)

    def do_lose(self, where: float) -> None:
        """Remove a whole part of the store's state; what is content-addressed is not state."""
        parts = sorted(p for p in self.machine.store.glob("*") if p.name not in ("objects", "trees", "actions"))
        if parts:
            path = parts[int(where * len(parts))]
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    # the model's side

    def forget(self, path: Path) -> None:
        """A damaged object, tree or record: the results that need it may have to be made again; nothing else may."""
        name = path.name.partition(".")[0]
        room = path.relative_to(self.machine.store).parts[0]
        for key, (real, output) in list(self.known.items()):
            files = self.contents.get(output, set())
            if {"objects": name in files, "trees": name == output, "actions": name == real}.get(room, False):
                del self.known[key]
                self.maybe.add(key)

    def check(self, builds: list[tuple[Ask, Report]]) -> None:
        """Every invariant after one build, or after several that went on at once."""
        model, made = keys(self.world), results(self.world)
        started = [model[id] for _, report in builds for id in report.started]
        for ask, report in builds:
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


def play(history: dict[str, Any]) -> str | None:
    """Play a history in a folder of its own; what went wrong, or None."""
    fast = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=fast if fast.is_dir() else None) as folder:
        run = Run(Path(folder), World.from_json(history["world"]))
        try:
            run.play(history["steps"])
        except Wrong as error:
            return str(error)
        except Exception as error:
            import traceback

            return f"{type(error).__name__}: {error}\n" + "".join(traceback.format_tb(error.__traceback__)[-4:])
    return None


def shrink(history: dict[str, Any], tries: int = 200) -> dict[str, Any]:
    """Fewer steps, then fewer actions, while it still fails."""
    best = history
    progress = True
    while progress and tries:
        progress = False
        for at in reversed(range(len(best["steps"]))):
            shorter = {**best, "steps": best["steps"][:at] + best["steps"][at + 1 :]}
            tries -= 1
            if tries <= 0:
                break
            if play(shorter):
                best, progress = shorter, True
        for id in [spec["id"] for spec in reversed(best["world"]["specs"])]:
            smaller = without(best, id)
            tries -= 1
            if tries > 0 and play(smaller):
                best, progress = smaller, True
    return best


def without(history: dict[str, Any], id: str) -> dict[str, Any]:
    """The history of a world that never had this action."""
    copied = json.loads(json.dumps(history))
    world = copied["world"]
    world["specs"] = [spec for spec in world["specs"] if spec["id"] != id]
    del world["params"][id]
    for spec in world["specs"]:
        spec["needs"], spec["after"] = ([n for n in spec[k] if n != id] for k in ("needs", "after"))
    for step in copied["steps"]:
        for ask in step[1:]:
            if isinstance(ask, dict):
                for k in ("targets", "bad", "force"):
                    ask[k] = [one for one in ask[k] if one != id]
                if ask["interrupt"] == id:
                    ask["interrupt"] = ""
    return copied


def explore(first: int, count: int, steps: int, every: int) -> list[str]:
    """Play `count` histories; every `every`-th one uses real processes. What failed, each with its replay."""
    wrong = []
    for seed in range(first, first + count):
        history = random_history(seed, steps, processes=bool(every) and seed % every == 0)
        found = play(history)
        if found:
            small = shrink(history)
            replay = f"python -m tests.engine.model --seed {seed} --steps {steps}" + (
                " --processes" if every and seed % every == 0 else ""
            )
            wrong.append(f"{replay}\n{play(small) or found}\n{json.dumps(small)}")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--processes", action="store_true")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--every", type=int, default=10, help="every so many histories one uses real processes")
    parser.add_argument("--replay", metavar="FILE")
    args = parser.parse_args()
    if args.replay or args.seed is not None:
        if args.replay:
            history = json.loads(Path(args.replay).read_text())
        else:
            history = random_history(args.seed, args.steps, args.processes)
        found = play(history)
        print(found or "it holds")
        return 1 if found else 0
    wrong = explore(args.first, args.count, args.steps, args.every)
    for one in itertools.islice(wrong, 5):
        print(one, end="\n\n")
    print(f"{args.count} histories, {len(wrong)} failed")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
