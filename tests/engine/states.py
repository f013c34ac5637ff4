"""States of a small project (a few numbers that stand for edits), and what a from-scratch build makes of each."""

from __future__ import annotations

import random
import shutil
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.engine.fakes import cheap, project
from tests.engine.machine import no_fsync, read_files
from tests.engine.pure import Files
from tests.harness import PERSONAFILE, QUICK, Space, write_memory


@dataclass(frozen=True)
class State:
    """What the project's files say. Equal states are equal bytes."""

    alpha: int = 0
    density: int = 0
    steps: int = 0
    prose: int = 0  # in a node, beside the dialogues that are learned
    dialogue: int = 0
    tag: int = 0
    extra: int = 0  # so many more tasks

    def edited(self, rng: random.Random) -> State:
        field = rng.choice(sorted(self.__dataclass_fields__))
        return replace(self, **{field: rng.randrange(3)})

    def write(self, space: Space) -> None:
        """Bring the project's files to this state (those that are right stay as they are)."""
        persona = PERSONAFILE.replace("alpha = 1.0", f"alpha = 1.{self.alpha}")
        persona = persona.replace("density = 0.5", f"density = 0.{5 + self.density}")
        for i in range(self.extra):
            persona += f'\n[task.extra{i}]\nnode = "pattern-listen"\nrecipe = "quick"\nalpha = 0.{i + 1}\n'
        self._put(space, "Personafile.toml", persona)
        self._put(space, "recipes/quick.toml", QUICK.replace("steps = 3", f"steps = {3 + self.steps}"))
        text = _NODES["pattern-listen.md"].replace("I ask before I mend.", f"I ask before I mend. {self.prose}")
        text = text.replace("troubles me today", f"troubles me today {self.dialogue}")
        self._put(space, "memory/pattern-listen.md", text)
        self._put(space, "memory/j-00.md", _NODES["j-00.md"].replace("joy:9", f"joy:{8 + self.tag % 3}"))

    @staticmethod
    def _put(space: Space, name: str, text: str) -> None:
        if space.read(name) != text:
            space.write(name, text)


def _nodes() -> dict[str, str]:
    with tempfile.TemporaryDirectory() as folder:
        write_memory(Path(folder) / "memory")
        return {path.name: path.read_text() for path in (Path(folder) / "memory").iterdir()}


_NODES = _nodes()


@dataclass
class Truth:
    """From-scratch products by state; each state is built once, with an empty cache."""

    root: Path
    found: dict[State, Files] = field(default_factory=dict)

    def product(self, state: State) -> Files:
        if state not in self.found:
            space = project(self.root / f"truth{len(self.found)}" / "project")
            state.write(space)
            with cheap(), no_fsync():
                space.build()
            self.found[state] = product_of(space)
            shutil.rmtree(space.root.parent)
        return self.found[state]


def product_of(space: Space) -> Files:
    """The product's files but for its provenance, which tells the times and the machine of this very build."""
    return {name: data for name, data in read_files(space.product).items() if name != "provenance.json"}


def leftovers(space: Space) -> list[str]:
    """What no finished build leaves behind: half-written files, temporary rooms, half-made products."""
    folders = [space.root / "cache", space.root / "dist"]
    found = [path for folder in folders if folder.is_dir() for path in folder.rglob("*")]
    return [str(p) for p in found if p.name.startswith(".") or p.parent.name == "tmp"]
