"""kill -9 at random moments of builds of a small project, each followed by a plain build that must be right.

python -m tests.engine.crash --seed 1 --count 300
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.engine import fakes
from tests.engine.machine import first_line, no_fsync
from tests.engine.states import State, Truth, leftovers, product_of
from tests.harness import Space

TEXT = ("task.listen/corpus", "task.close/corpus", "steer.joy/texts", "steer.joy/labels", "readout/labels")


def kill(process: subprocess.Popen[str], rng: random.Random, seconds: float) -> str:
    """Kill a build at any moment, mostly at one of its work, which begins with its first event; what it told."""
    told = ""
    if rng.random() < 0.85:
        told = first_line(process)
        time.sleep(rng.random() * seconds)
    else:
        time.sleep(rng.random() * 0.5)
    process.kill()
    return told + process.communicate()[0]


def done_of(out: str) -> set[str]:
    """The actions that a build told as done before it was killed."""
    lines = [line for line in out.splitlines() if line.endswith("}")]
    return {event["action"] for event in map(json.loads, lines) if event["event"] == "done"}


def check(space: Space, done: set[str], truth: Truth, state: State, told: str) -> None:
    """The build after a kill: right, quiet, nothing that was whole made again, nothing left behind."""
    with fakes.cheap(), no_fsync():
        after = space.run("--json")
        assert after.code == 0, f"{told}: exit {after.code}\n{after.err}"
        assert not after.err.strip(), f"{told}: {after.err}"
        again = done & after.ran
        assert not again, f"{told}: made again: {again}"
        found, wanted = product_of(space), truth.product(state)
        wrong = {
            name: (found.get(name), wanted.get(name)) for name in found | wanted if found.get(name) != wanted.get(name)
        }
        assert not wrong, f"{told}: another product: {wrong}"
        left = leftovers(space) if after.ran else []
        assert not left, f"{told}: left behind {left}"
        assert space.build().ran == set(), f"{told}: the second build runs something"


def crash_fakes(root: Path, seed: int, count: int) -> dict[str, int]:
    """`count` kills of the whole command line with cheap actions. How many hit before, within and after the work."""
    rng = random.Random(f"crash {seed}")
    truth, space, state = Truth(root), fakes.project(root / "project"), State()
    seen = {"before": 0, "within": 0, "after": 0}
    for number in range(count):
        for _ in range(rng.choice((1, 1, 2, 4))):
            state = state.edited(rng)
        if rng.random() < 0.05:
            space = fakes.project(root / f"project{number}")
        state.write(space)
        nap = rng.choice(("0", "0", "5"))
        process = fakes.spawn(space, "--json", "-j", str(rng.randint(1, 4)), FAKES_NAP=nap)
        out = kill(process, rng, 0.08)
        done = done_of(out)
        seen["after" if '"summary"' in out else "within" if out else "before"] += 1
        check(space, done, truth, state, f"seed {seed}, kill {number} ({state})")
    return seen


def crash_texts(root: Path, seed: int, count: int, make: Callable[[Path], Space]) -> int:
    """`count` kills of the real command line, real actions, on targets that need no model; how many made something."""
    rng = random.Random(f"texts {seed}")
    space, made = make(root / "texts"), 0
    scratch = make(root / "scratch")
    for number in range(count):
        # a new state each time, so that there is work
        state = State(prose=number, tag=rng.randrange(3), extra=rng.randrange(3))
        state.write(space)
        process = space.spawn("--json", *TEXT)
        done = done_of(kill(process, rng, 0.2))
        made += bool(done)
        with no_fsync():
            after = space.run("--json", *TEXT)
            told = f"seed {seed}, kill {number} ({state})"
            assert after.code == 0, f"{told}: exit {after.code} {after.err} {after.out}"
            assert not done & after.ran, f"{told}: made again {done & after.ran}"
            assert space.build(*TEXT).ran == set(), told
            state.write(scratch)
            shutil.rmtree(scratch.root / "cache", ignore_errors=True)
            scratch.build(*TEXT)
        assert results(space) == results(scratch), told
    return made


def results(space: Space) -> dict[str, str]:
    """action -> digest of its result, as the store has it."""
    from amybuild.cache.actions import ActionCache
    from amybuild.cache.store import Store

    cache = ActionCache(Store(space.root / "cache" / "v1"))
    found = {}
    for target in space.explain(*TEXT)["targets"]:
        for action in target["actions"]:
            record = cache.lookup(action["key"])
            assert record is not None, action
            found[action["action"]] = record.output
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=300)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(crash_fakes(Path(folder), args.seed, args.count))
        print(crash_texts(Path(folder), args.seed, args.count // 3, fakes.project))
    return 0


if __name__ == "__main__":
    sys.exit(main())
