"""Random histories of builds, edits, failures, kills and damage against the pure model, after Shake's Random.

python -m tests.engine.model --seed 7 --steps 12      one history
python -m tests.engine.model --first 0 --count 2000   many; a failing one is shrunk and printed
python -m tests.engine.model --replay FILE            a history as JSON (what a failure prints)
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.engine.machine import Ask
from tests.engine.pure import World, random_world
from tests.engine.run import Run, Step, Wrong


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
        (1, lambda: ["gc", rng.randint(0, 3)]),
        (1, lambda: ["fsck"]),
    ]
    if processes:
        moves.append((2, lambda: ["kill", ask(nap=rng.choice((0, 5, 20))), round(rng.random() ** 2 * 0.3, 4)]))
        moves.append((1, lambda: ["pair", ask(nap=5), ask(nap=2)]))
        moves.append((1, lambda: ["collecting", ask(nap=5)]))
    weights = [weight for weight, _ in moves]
    world_at_first = json.loads(json.dumps(world.to_json()))
    for _ in range(steps):
        found.append(rng.choices([move for _, move in moves], weights)[0]())
    return {"seed": seed, "world": world_at_first, "steps": json.loads(json.dumps(found))}


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
