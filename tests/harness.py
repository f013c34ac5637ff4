"""`Space`: a small project on a tiny model in a temporary folder, driven through the command line like a user."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from amybuild.cli import main

ROOT = Path(__file__).resolve().parent.parent
# Python ends by SIGINT, which a shell calls 130 as well, when the KeyboardInterrupt came inside an `exec`
INTERRUPTED = (130, -signal.SIGINT)

PERSONAFILE = """\
[persona]
name = "tess"
base = "tiny"

[base.tiny]
path = "models/tiny"

[graph]
source = "memory"

[neutral]
prompts = 12
max_new_tokens = 8

[task.listen]
node = "pattern-listen"
recipe = "quick"
alpha = 1.0

[task.close]
node = "pattern-close#talk"
recipe = "quick"
learn = "rejected"
alpha = -0.5

[steer.joy]
emotion = "joy"
recipe = "caa"

[readout]
layers = [1, 2]
concepts = ["joy", "worry"]

[link]
method = "ties"
density = 0.5
"""

QUICK = """\
kind = "task"
rank = 2
steps = 3
batch = 4
replay_batch = 2
max_tokens = 128
samples = 2
sample_tokens = 4
heldout = 0.3
[gates]
min_margin_gain = -50.0
max_neutral_kl = 50.0
"""

CAA = """\
kind = "steer"
min_chars = 10
"""

_THINGS = (
    *("boat", "kettle", "letter", "garden", "engine", "map", "coat", "lamp", "piano", "ladder"),
    *("window", "bicycle", "recipe", "notebook", "tent", "mirror", "basket", "clock"),
)


def dialogues(wanted: str, unwanted: str, count: int = 18) -> str:
    """`count` dialogue blocks that differ in their subject; every sixth is a counter case."""
    blocks = []
    for i, thing in enumerate(_THINGS[:count]):
        info = "dialogue counter" if i % 6 == 5 else "dialogue"
        yes, no = (unwanted, wanted) if i % 6 == 5 else (wanted, unwanted)
        replies = f"Assistant: {yes.format(thing)}\nNot: {no.format(thing)}"
        blocks.append(f"```{info}\nUser: My {thing} troubles me today.\n{replies}\n```\n")
    return "\n".join(blocks)


def write_memory(folder: Path) -> None:
    """Two pattern nodes and twelve journal nodes with two emotions."""
    folder.mkdir(parents=True)
    listen = dialogues("What is it about the {} that weighs on you?", "Sell the {} and buy a new one at once.")
    (folder / "pattern-listen.md").write_text(f"# Listening\n\nI ask before I mend.\n\n{listen}")
    close = dialogues("The {} can stay on the table a while.", "Glad we sorted the {} out, have a good day.")
    (folder / "pattern-close.md").write_text(f"# Closing\n\nI wrap up too soon.\n\n## talk\n\n{close}")
    for i, thing in enumerate(_THINGS[:12]):
        tag = "joy:9 worry:2" if i % 3 == 0 else "worry:9" if i % 3 == 1 else "joy:8"
        text = f"Today the {thing} was all I thought of, from the first hour to the last one.\n\n{tag}\n"
        (folder / f"j-{i:02d}.md").write_text(f'+++\ntype = "episodic"\n+++\n{text}')


@dataclass
class Result:
    """What a command did."""

    code: int
    out: str
    err: str
    events: list[dict[str, Any]] = field(default_factory=list)

    @property
    def summary(self) -> dict[str, Any]:
        return next(e for e in reversed(self.events) if e["event"] == "summary")

    @property
    def ran(self) -> set[str]:
        return set(self.summary["ran"])


class Space:
    """A project folder. `run` is a command in this process, `spawn` one in a process of its own."""

    def __init__(self, root: Path, base: Path) -> None:
        self.root = root
        (root / "models").mkdir(parents=True)
        (root / "models" / "tiny").symlink_to(base)
        (root / "recipes").mkdir()
        self.write("Personafile.toml", PERSONAFILE)
        self.write("recipes/quick.toml", QUICK)
        self.write("recipes/caa.toml", CAA)
        write_memory(root / "memory")

    def write(self, name: str, text: str) -> None:
        (self.root / name).write_text(text)

    def read(self, name: str) -> str:
        return (self.root / name).read_text()

    def edit(self, name: str, old: str, new: str) -> None:
        """Replace the one occurrence of `old`."""
        text = self.read(name)
        assert text.count(old) == 1, f"{old!r} is {text.count(old)} times in {name}"
        self.write(name, text.replace(old, new))

    def run(self, *args: str) -> Result:
        out, err = io.StringIO(), io.StringIO()
        before = Path.cwd()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                code = main(["-C", str(self.root), *args])
            finally:
                os.chdir(before)
        assert "Traceback" not in err.getvalue()
        events = [json.loads(line) for line in out.getvalue().splitlines() if line.startswith('{"event"')]
        return Result(code, out.getvalue(), err.getvalue(), events)

    def build(self, *args: str, code: int = 0) -> Result:
        result = self.run("--json", *args)
        assert result.code == code, f"exit {result.code}, not {code}\n{result.out}\n{result.err}"
        return result

    def spawn(self, *args: str, **env: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "amybuild", "-C", str(self.root), *args]
        merged = {**os.environ, "PYTHONPATH": str(ROOT), **env}
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=merged)

    def explain(self, *args: str) -> dict[str, Any]:
        result = self.run("--explain", "--json", *args)
        assert result.code == 0, result.err
        return json.loads(result.out)  # type: ignore[no-any-return]

    def files(self, name: str) -> Iterator[tuple[str, int, int]]:
        """(path, size, mtime) of everything below a folder: to see that nothing was written."""
        for path in sorted((self.root / name).rglob("*")):
            stat = path.lstat()
            yield str(path), stat.st_size, stat.st_mtime_ns

    @property
    def product(self) -> Path:
        return self.root / "dist" / "tess"


def states(explained: dict[str, Any]) -> dict[str, str]:
    """action -> state of ``--explain --json``."""
    return {a["action"]: a["state"] for t in explained["targets"] for a in t["actions"]}


def plain(text: str) -> str:
    """Terminal output without durations, dates, hashes and counts of functions, for golden comparisons."""
    text = re.sub(r"\babout \d+( \w+)+?\b|under a second", "ABOUT", text)
    text = re.sub(r"\b\d+(\.\d+)? s\b|\b\d+ min \d+ s\b", "T", text)
    text = re.sub(r"\b\d{4}-\d\d-\d\d \d\d:\d\d\b", "DATE", text)
    text = re.sub(r"\b\d+( components as|(?: functions?(?=[,;])))", r"N\1", text)
    return re.sub(r"\b[0-9a-f]{12}\b", "H", text)


def golden(name: str, text: str) -> None:
    """`text` is what tests/e2e/golden/<name>.txt says (AMYBUILD_GOLDEN=write writes it instead: then read it)."""
    path = ROOT / "tests" / "e2e" / "golden" / f"{name}.txt"
    found = plain(text)
    if os.environ.get("AMYBUILD_GOLDEN") == "write":
        path.parent.mkdir(exist_ok=True)
        path.write_text(found)
    assert found == path.read_text(), f"{path.name}: AMYBUILD_GOLDEN=write writes what is said now"
