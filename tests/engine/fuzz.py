"""Mutated Personafiles, recipes, lock files and memory nodes: only clean errors, or acceptance.

python -m tests.engine.fuzz --kind persona --seed 17      one case: what it is and what comes of it
python -m tests.engine.fuzz --first 0 --count 20000       many
"""

from __future__ import annotations

import argparse
import functools
import random
import re
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from amybuild.errors import AmyError
from amybuild.graph.analyze import analyze
from amybuild.graph.rules import RULES
from amybuild.memory.graph import MemoryGraph, read_graph
from amybuild.memory.node import find_section
from amybuild.personafile.load import load
from amybuild.personafile.lock import parse
from amybuild.plan.plan import Identity, make_plan
from tests.engine import fakes
from tests.engine.machine import no_fsync
from tests.harness import CAA, PERSONAFILE, QUICK, Space, write_memory

CANARY = "quietlighthouse"  # a word of a memory: it may stand in no message

PERSONA = (
    PERSONAFILE
    + """
[task.wide]
query = "key:pattern-* | weight:>0.5"
recipe = "quick"
gates = { min_margin_gain = -1.0 }
steps = 5

[task.steady]
analogy = { a = "listen", b = "close", c = "wide" }
recipe = "quick"
alpha = 0.3
"""
)
NODE = f"""+++
type = "episodic"
weight = 0.8
created = 2024-05-01
version = 3
provenance = "diary"
links = [{{ target = "pattern-close#talk", strength = 0.8, kind = "same" }}, {{ target = "j-01" }}]
examples = "more.jsonl"
+++
# A day

The {CANARY} stood there all day.

## talk

```dialogue
User: what of the {CANARY}?
Assistant: It stands.
Not: It fell.
```

joy:9 worry:2
"""
LINE = f'{{"context":"the {CANARY}","continuation":"yes","rejected":"no"}}\n'
TOKEN = re.compile(rb'"[^"\n]*"|[A-Za-z_][\w-]*|-?\d[\d.e+-]*|[\[\]{}=.,#\n|]|\S')
WORDS: tuple[bytes, ...] = (
    *(b"-1", b"0", b"1", b"1e400", b"-0.0", b"nan", b"inf", b"-inf", b"9" * 400, b"0x7f", b"1_000", b"true", b"false"),
    *(b'""', b'" "', b'"../../../etc/passwd"', b'"/etc"', b'"~"', b'"\\u0000"', b'"\\u202e"', b'"\\ud7ff"', b'"a\\nb"'),
    *(b"[]", b"{}", b"[[]]", b"{a={b={c=1}}}", b"[" * 200 + b"]" * 200, b"[1, 'a', 2.0]", b"1979-05-27T07:32:00Z"),
    *(b'"""x\ny"""', b"'''", b'"task.listen"', b'"listen"', b'"steady"', b'"pattern-close#"', b'"#talk"', b'"all"'),
    *(b'"key:["', b'"key:*"', b'"match:("', b'"weight:>nan"', b'"|"', b'"mcp:x"', b'"auto"', b'"joy"', b"07:32:00"),
    *(b"\xc3\xa9", b"\xf0\x9f\x98\x80", b"\xe2\x80\x8b", b'"\xcc\x81"', b'"' + b"x" * 5000 + b'"'),
    *(b'"models/.."', b'"."', b'"\\u001b[31mred"', b'"x/' + b"y" * 300 + b'"', b'"recipes/caa"', b'"\\u0085"'),
)
LINES: tuple[bytes, ...] = (
    *(b"[task.listen]", b"[task]", b"[[task]]", b"[task.listen.gates]", b"[persona.name]", b'["task"."a b"]', b"[]"),
    *(b"task = 1", b"[task.x]", b"[task.'']", b"readout = {}", b"[readout.concepts]", b"top = 0", b"extends = 'quick'"),
    *(b"a.b.c = 1", b'analogy = { a = "steady", b = "steady", c = "steady" }', b'analogy = { a = "listen" }'),
    *(
        b"recipe = 'caa'",
        b"kind = 'steer'",
        b"layers = [1, -1]",
        b"path = '../x'",
        b"hub = 'a/b'",
        b"+++",
        b"```dialogue",
    ),
    *(b"[base.tiny]\npath = 'models'", b"[build]", b"schema = 2", b'[target."task.x"]', b"x = {key = 1, output = 2}"),
)
Mutator = Callable[[bytes, random.Random], bytes]


def _bytes(text: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(text) + 1)
    end = min(len(text), at + rng.choice((1, 1, 2, 8, 60)))
    kind = rng.randrange(4)
    if kind == 0:
        return text[:at] + text[end:]
    if kind == 1:
        return text[:at] + bytes(rng.randrange(256) for _ in range(end - at)) + text[end:]
    if kind == 2:
        return text[:end] + text[at:]
    return text[:at]


def _token(text: bytes, rng: random.Random) -> bytes:
    found = list(TOKEN.finditer(text))
    if not found:
        return text + rng.choice(WORDS)
    one = rng.choice(found)
    other = rng.choice(WORDS) if rng.random() < 0.6 else rng.choice(found).group()
    return text[: one.start()] + other + text[one.end() :]


def _value(text: bytes, rng: random.Random) -> bytes:
    """One ``key = value`` gets another value."""
    found = list(re.finditer(rb"= *([^\n]+)", text))
    if not found:
        return _token(text, rng)
    one = rng.choice(found)
    return text[: one.start(1)] + rng.choice(WORDS) + text[one.end(1) :]


def _lines(text: bytes, rng: random.Random) -> bytes:
    lines = text.split(b"\n")
    at, other = rng.randrange(len(lines)), rng.randrange(len(lines))
    kind = rng.randrange(5)
    if kind == 0:
        del lines[at]
    elif kind == 1:
        lines.insert(other, lines[at])
    elif kind == 2:
        lines[at], lines[other] = lines[other], lines[at]
    else:
        lines.insert(at, rng.choice(LINES))
    return b"\n".join(lines)


MUTATORS: tuple[Mutator, ...] = (_bytes, _token, _token, _value, _value, _value, _lines, _lines)


def mutate(text: bytes, rng: random.Random) -> bytes:
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        text = rng.choice(MUTATORS)(text, rng)
    return text


class Bench:
    """A project in a folder, one file of which is replaced by a mutated one, and read as a build would."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for folder in ("models/tiny", "recipes"):
            (root / folder).mkdir(parents=True)
        (root / "models/tiny/config.json").write_text("{}")
        write_memory(root / "memory")
        (root / "memory" / "more.jsonl").write_text(LINE)
        self.memory = read_graph("memory", root)
        nothing: dict[str, dict[str, str]] = {rule: {} for rule in RULES}
        self.identity = Identity(nothing, nothing)
        self.reset()

    def reset(self) -> None:
        (self.root / "Personafile.toml").write_text(PERSONA)
        (self.root / "recipes/quick.toml").write_text(QUICK)
        (self.root / "recipes/caa.toml").write_text(CAA)

    def plan(self, memory: MemoryGraph) -> None:
        persona = load(self.root / "Personafile.toml")
        if persona.graph != "memory":
            memory = read_graph(persona.graph, persona.root)
        graph = analyze(persona, memory, lambda path: "d" * 64)
        make_plan(graph.select(()), self.identity, lambda key: None)

    def persona(self, data: bytes) -> None:
        (self.root / "Personafile.toml").write_bytes(data)
        self.plan(self.memory)

    def recipe(self, data: bytes) -> None:
        (self.root / "recipes/quick.toml").write_bytes(data)
        self.plan(self.memory)

    def lock(self, data: bytes) -> None:
        (self.root / "Personafile.lock").write_bytes(data)
        parse(self.root / "Personafile.lock")

    def node(self, data: bytes) -> None:
        path = self.root / "memory" / "a-day.md"
        path.write_bytes(data)
        try:
            memory = read_graph("memory", self.root)
            find_section(memory.get("a-day"), "talk")
            self.plan(memory)
        finally:
            path.unlink()


@functools.cache
def pinned() -> str:
    """A lock file as `amybuild pin` writes it."""
    with tempfile.TemporaryDirectory() as folder, fakes.cheap(), no_fsync():
        space = fakes.project(Path(folder) / "project")
        space.build()
        assert space.run("pin", "--name", "here").code == 0
        return space.read("Personafile.lock")


SEEDS: dict[str, Callable[[], str]] = {
    "persona": lambda: PERSONA,
    "recipe": lambda: QUICK,
    "node": lambda: NODE,
    "lock": pinned,
}
KINDS = ("persona", "persona", "persona", "recipe", "lock")  # how the 20,000 are shared out


def case(kind: str, seed: int) -> bytes:
    """The mutated file of a seed."""
    return mutate(SEEDS[kind]().encode(), random.Random(f"{kind} {seed}"))


def attempt(bench: Bench, kind: str, seed: int) -> tuple[str, str | None]:
    """(how it ended, what is wrong with that)."""
    data = case(kind, seed)
    began = time.process_time()
    try:
        getattr(bench, kind)(data)
        ended, wrong = "accepted", None
    except AmyError as error:
        ended, wrong = "refused", None
        text = str(error)
        if not error.where or not error.what or error.exit_code not in (2, 3):
            wrong = f"a poor error (exit {error.exit_code}, where {error.where!r}): {text}"
        elif CANARY in text and CANARY.encode() not in data.partition(b"\n+++")[0]:
            wrong = f"it quotes a memory: {text}"
        elif len(text) > 2500 or not text.replace("\n", "").isprintable():
            wrong = f"a message for no reader: {text[:300]!r}"
    except Exception as error:
        import traceback

        last = traceback.extract_tb(error.__traceback__)[-1]
        ended, wrong = "crashed", f"{type(error).__name__}: {error} ({Path(last.filename).name}:{last.lineno})"
    finally:
        if kind in ("persona", "recipe"):
            bench.reset()
    seconds = time.process_time() - began
    if seconds > 2 and wrong is None:
        wrong = f"it took {seconds:.1f} s"
    return ended, wrong and f"python -m tests.engine.fuzz --kind {kind} --seed {seed}: {wrong}"


def fuzz(root: Path, first: int, count: int, kinds: tuple[str, ...] = KINDS) -> tuple[dict[str, int], list[str]]:
    """How many cases ended how, and what is wrong."""
    bench, ends, wrong = Bench(root), {"accepted": 0, "refused": 0, "crashed": 0}, []
    for seed in range(first, first + count):
        ended, found = attempt(bench, kinds[seed % len(kinds)], seed)
        ends[ended] += 1
        if found:
            wrong.append(found)
    return ends, wrong


def locked(space: Space, first: int, count: int) -> list[str]:
    """Builds against mutated locks, by the command line, in a project where all is built; what is wrong."""
    wrong = []
    for seed in range(first, first + count):
        (space.root / "Personafile.lock").write_bytes(case("lock", seed))
        for command in (["--locked"], ["checkout", "here", "-o", str(space.root / "out")]):
            result = space.run(*command)
            if result.code not in (0, 2, 3) or (result.code and "amybuild: " not in result.err):
                wrong.append(f"lock {seed}: {command[0]}: exit {result.code}: {result.err[:300]}")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=sorted(SEEDS))
    parser.add_argument("--seed", type=int)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=1000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if args.kind and args.seed is not None:
            sys.stdout.buffer.write(case(args.kind, args.seed) + b"\n----\n")
            print(attempt(Bench(Path(folder) / "project"), args.kind, args.seed))
            return 0
        ends, wrong = fuzz(Path(folder) / "project", args.first, args.count, (args.kind,) if args.kind else KINDS)
    print(ends, len(wrong), "wrong")
    for one in wrong[:40]:
        print(one[:400])
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
