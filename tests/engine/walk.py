"""Random histories of a small project through its command line, each step compared with a build from scratch.

python -m tests.engine.walk --seed 1 --steps 200
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.edits import LISTEN, anew, built, left, looks, prose, tick
from tests.engine.fakes import project
from tests.engine.machine import read_files
from tests.harness import Space

Files = dict[str, bytes]


class Walk:
    """One history. `ways` counts how many of its builds were short, and how many looked at everything."""

    def __init__(self, space: Space, seed: int, loads: list[int]) -> None:
        self.space, self.loads = space, loads
        self.rng = random.Random(f"walk {seed}")
        self.told = f"seed {seed}"
        self.scratch: dict[str, tuple[Files, str]] = {}  # by what the project's files say
        self.seen: dict[str, Files] = {}  # what was built, and not lost since
        self.ways: Counter[str] = Counter()

    def inputs(self) -> Files:
        """All that people wrote."""
        found: Files = {}
        for part in ("memory", "recipes"):
            found |= {f"{part}/{name}": data for name, data in read_files(self.space.root / part).items()}
        return {**found, "Personafile.toml": (self.space.root / "Personafile.toml").read_bytes()}

    def put(self, space: Space, wanted: Files) -> None:
        """Bring a project's files to this state; those that are right stay as they are."""
        for part in ("memory", "recipes"):
            for name in read_files(space.root / part):
                if f"{part}/{name}" not in wanted:
                    (space.root / part / name).unlink()
        for name, data in wanted.items():
            path = space.root / name
            if not path.exists() or path.read_bytes() != data:
                path.write_bytes(data)

    # steps

    def sub(self, name: str, pattern: str, new: str) -> None:
        self.space.write(name, re.sub(pattern, new, self.space.read(name), count=1))

    def step(self) -> str:
        """Change something, of the memory mostly; what it was."""
        rng, number = self.rng, self.rng.randrange(3)
        steps: dict[str, Callable[[], object]] = {
            "prose": lambda: prose(self.space, number),
            "prose again": lambda: prose(self.space, rng.randrange(1000)),
            "beside a section": lambda: self.sub(
                "memory/pattern-close.md", r"up \w+ soon", f"up {'so' * number}o soon"
            ),
            "in a section": lambda: self.sub("memory/pattern-close.md", r"## talk\n[^`]*", f"## talk\n\n{number}\n\n"),
            "a dialogue": lambda: self.sub(
                LISTEN, r"troubles me \w+", f"troubles me {('now', 'today', 'often')[number]}"
            ),
            "a tag": lambda: self.sub("memory/j-00.md", r"joy:\d", f"joy:{7 + number}"),
            "a link": lambda: self.sub(
                "memory/j-01.md", r'"episodic"\n[^+]*', f'"episodic"\nlinks = ["j-0{number}"]\n'
            ),
            "a day": lambda: self.sub("memory/j-04.md", r"Today the", "Today, the"),
            "a new node": lambda: self.space.write(f"memory/more-{number}.md", f"# More\n\n{rng.randrange(9)}\n"),
            "a node less": lambda: (self.space.root / f"memory/more-{number}.md").unlink(missing_ok=True),
            "alpha": lambda: self.sub("Personafile.toml", r"alpha = 1.\d", f"alpha = 1.{number}"),
            "a recipe": lambda: self.sub("recipes/quick.toml", r"steps = \d", f"steps = {3 + number}"),
            "undone": lambda: self.put(
                self.space, rng.choice(list(self.seen.values())) if self.seen else self.inputs()
            ),
            "touched": lambda: os.utime(self.space.root / LISTEN),
        }
        weights = [6, 6, 4, 4, 2, 2, 2, 3, 1, 1, 1, 1, 4, 2]
        (name,) = rng.choices(list(steps), weights)
        steps[name]()
        return name

    def beside(self) -> str:
        """Something that is no edit; what it was."""
        space, cache = self.space, self.space.root / "cache" / "v1"
        kinds = ["", "", "", "", "-n", "--explain", "task.listen", "--force=task.listen", "gc", "compiled", "product"]
        kind = self.rng.choice(kinds)
        if kind == "gc":
            self.seen.clear()
            self.run("gc", "--keep", str(self.rng.randrange(3)))
        elif kind == "compiled":
            for path in (cache / "compiled").iterdir():
                data = path.read_bytes()
                path.write_bytes(data[: self.rng.randrange(len(data))])
        elif kind == "product":
            name = self.rng.choice(sorted(read_files(space.product)))
            (space.product / name).unlink() if self.rng.random() < 0.5 else (space.product / name).write_bytes(b"mine")
        elif kind:
            self.run(kind)
        return kind

    def run(self, *args: str) -> str:
        result = self.space.run(*args)
        assert result.code == 0, f"{self.told}: exit {result.code} {result.err}"
        return result.err

    # what must be true

    def fresh(self, inputs: Files) -> tuple[Files, str]:
        """The product and the lock of these inputs, from an empty cache."""
        name = str(sorted(inputs.items()))
        if name not in self.scratch:
            space = project(self.space.root.parent / f"scratch{len(self.scratch)}")
            self.put(space, inputs)
            space.build()
            self.scratch[name] = product_of(space), lock_of(space)
            shutil.rmtree(space.root)
        return self.scratch[name]

    def check(self, err: str) -> None:
        inputs = self.inputs()
        name = str(sorted(inputs.items()))
        if name in self.seen:
            assert " ran, " not in err, f"{self.told}: made again: {err}"
        self.seen[name] = inputs
        product, lock = self.fresh(inputs)
        found = product_of(self.space)
        wrong = [name for name in {**found, **product} if found.get(name) != product.get(name)]
        assert not wrong, f"{self.told}: another product: {wrong}"
        if self.rng.random() < 0.3:
            assert lock_of(self.space) == lock, f"{self.told}: another lock"
        if self.rng.random() < 0.2:
            told, account = left(self.space), anew(self.space)
            wrong = [name for name in {**told, **account} if told.get(name) != account.get(name)]
            assert not wrong, f"{self.told}: another account: {[(told.get(n), account.get(n)) for n in wrong][-1:]}"

    def go(self, steps: int) -> None:
        for number in range(steps):
            did = [self.step() for _ in range(self.rng.choice((1, 1, 1, 2)))]
            did.append(self.beside())
            self.told = f"{self.told.split(',')[0]}, step {number}: {' + '.join(filter(None, did))}"
            if self.rng.random() < 0.8:
                tick()  # else what was written a moment ago proves nothing
            before = len(self.loads)
            err = self.run()
            self.ways["whole" if len(self.loads) > before else "short"] += 1
            self.check(err)
            if self.rng.random() < 0.6:
                tick()
                assert "up to date" in self.run(), f"{self.told}: not up to date"


def product_of(space: Space) -> Files:
    """The product's files but for its provenance, which tells the times and the machine of this very build."""
    return {name: data for name, data in read_files(space.product).items() if name != "provenance.json"}


def lock_of(space: Space) -> str:
    path = space.root / "Personafile.lock"
    path.unlink(missing_ok=True)
    assert space.run("pin").code == 0
    text = path.read_text()
    path.unlink()
    return text


def walk(root: Path, seed: int, steps: int) -> Counter[str]:
    """One history; how many of its builds took which way."""
    with pytest.MonkeyPatch.context() as patch, built(root / "project") as space:
        one = Walk(space, seed, looks(patch))
        one.go(steps)
        return one.ways


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=200)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(dict(walk(Path(folder), args.seed, args.steps)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
