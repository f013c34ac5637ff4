"""What a large memory costs: 100,000 nodes (200 MB) read cold, queried, read again after one edit; seconds and memory.

    python bench/memory.py [--nodes N] [--work DIR] [--repeat 3] [--forms folder,jsonl]

The same generated nodes stand once in a folder of Markdown and once in one JSONL file. Each phase is a process of its
own, so its peak memory is its own; what a build would keep for the next one lies in a file between them, as in a cache.
`wall` and `cpu` are the seconds of the phase without Python's start and imports. "Cold" is a process that knows
nothing; the files may be in the system's cache (dropping that needs root, and a build that follows an edit has them
there).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

TEXT = (
    "boat yard kettle letter garden engine map coat lamp piano ladder tent clock morning bread river window stone "
    "voice quiet bright slow warm open salt paper thread copper field winter harbour ink maybe because again never"
)
WORDS = TEXT.split()
LINES = 21  # of a text: 100,000 nodes are 200 MB then
FEELINGS = ("warmth", "clarity", "grief", "curiosity", "delight", "calm")
QUERIES = (
    "type:episodic",
    "all | type:episodic | age:<120d | key:journal/* | sort:weight desc | limit:20",
    "(key:people/* or emotion:>=8) and not weight:<0.3 | sort:created | limit:100",
    "degree > 8 | sort:degree | limit:50",
    "neighbours:journal/j-000008 | limit:5",
    "key:journal/j-00000* | spread, max_hops=3 | limit:40",
    "match:copper lamp and type:episodic | limit:10",
)


def nodes(count: int) -> Any:
    """`count` nodes of about 2 kB: journal entries with tags, people, patterns with dialogues; a few links each."""
    from amybuild.memory.node import Link, Node

    chance = random.Random(7)
    names = [f"{('journal/j', 'journal/j', 'people/p', 'pattern')[i % 4]}-{i:06d}" for i in range(count)]
    for i, key in enumerate(names):
        lines = [" ".join(chance.choices(WORDS, k=12)).capitalize() + "." for _ in range(LINES)]
        text = f"# {key}\n\n" + "\n".join(lines) + "\n"
        if i % 4 == 3:
            text += f"\n```dialogue\nUser: {lines[0]}\nAssistant: {lines[1]}\nNot: {lines[2]}\n```\n"
        if i % 4 < 2:
            text += f"\n{chance.choice(FEELINGS)}:{chance.randrange(1, 11)} {chance.choice(FEELINGS)}:9\n"
        near = {names[min(count - 1, int(chance.paretovariate(0.2)) % count)] for _ in range(3)} - {key}
        links = tuple(Link(other, round(chance.uniform(0.01, 1), 2)) for other in sorted(near))
        day = f"20{10 + i * 15 // count:02d}-{1 + i % 12:02d}-{1 + i % 28:02d}"
        kind = ("episodic", "daily", "semantic", "semantic")[i % 4]
        yield Node(key, kind, text, links, round(chance.uniform(0, 1), 3), day, "generated")


def generate(root: Path, count: int) -> None:
    """``memory/`` and ``nodes.jsonl`` with the same nodes."""
    made = set()
    with open(root / "nodes.jsonl", "wb") as jsonl:
        for node in nodes(count):
            jsonl.write(node.canonical() + b"\n")
            path = root / "memory" / f"{node.key}.md"
            if path.parent not in made:
                path.parent.mkdir(parents=True, exist_ok=True)
                made.add(path.parent)
            links = ", ".join(f'{{ target = "{one.target}", strength = {one.strength} }}' for one in node.links)
            front = f'type = "{node.type}"\nweight = {node.weight}\ncreated = {node.created}\nlinks = [{links}]\n'
            path.write_text(f'+++\n{front}provenance = "generated"\n+++\n{node.content}')


def read(root: Path, source: str, seen: dict[str, Any]) -> Callable[[], Any]:
    """The phase that reads a graph with what an earlier one kept."""
    from amybuild import kept
    from amybuild.memory.graph import read_graph
    from amybuild.memory.reading import Reading

    place = str(root / f"kept-{source}")

    def run() -> None:
        began = time.time_ns()
        reading = Reading(kept.read(place))
        graph = read_graph(source, root, reading)
        seen.update(
            {
                "nodes": len(graph.nodes),
                "parsed": reading.parsed,
            }
        )
        rows = reading.rows(began)
        if rows is not None:
            kept.write(place, rows)
        seen["kept_mb"] = round(os.path.getsize(place) / 1e6, 1)

    return run


def query(root: Path, source: str, seen: dict[str, Any]) -> Callable[[], Any]:
    from amybuild import kept
    from amybuild.memory.graph import read_graph
    from amybuild.memory.reading import Reading

    graph = read_graph(source, root, Reading(kept.read(str(root / f"kept-{source}"))))

    def run() -> None:
        for text in QUERIES:
            began = time.process_time()
            seen[text] = [len(graph.keys(text)), round(time.process_time() - began, 3)]

    return run


def whole(root: Path, source: str, seen: dict[str, Any]) -> Callable[[], Any]:
    """The phase that reads a graph from nothing, stores a snapshot of it as that of a server, and asks all queries."""
    from amybuild.cache.store import Store
    from amybuild.memory.graph import read_graph
    from amybuild.memory.snapshot import pack

    def run() -> None:
        began = time.process_time()

        def took(what: str) -> None:
            nonlocal began
            seen[what] = round(time.process_time() - began, 2)
            began = time.process_time()

        graph = read_graph(source, root)
        seen["digest"] = graph.digest[:12]
        took("read")
        store = Store(root / "store")
        room = store.scratch()
        for name, data in pack(graph.nodes):
            (room / name).write_bytes(data)
        store.put_tree(room)
        store.close()
        took("snapshot")
        for text in QUERIES:
            graph.keys(text)
        took("queries")

    return run


PHASES = {"read": read, "query": query, "whole": whole}


def phase(name: str, root: Path, source: str) -> None:
    """Run one phase in this process and print what it took."""
    import gc

    import amybuild.project  # noqa: F401  # its imports are no part of the phase

    gc.set_threshold(100_000)  # as the command line has it
    seen: dict[str, Any] = {}
    run = PHASES[name](root, source, seen)
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    took = {"wall": round(time.perf_counter() - wall, 3), "cpu": round(time.process_time() - cpu, 3)}
    status = Path("/proc/self/status").read_text()  # getrusage would tell of the parent's memory too
    peak = next(int(line.split()[1]) // 1024 for line in status.splitlines() if line.startswith("VmHWM"))
    print(json.dumps({**took, "peak_mb": peak, **seen}))


def edit(root: Path, source: str, number: int) -> None:
    """One more word in one node."""
    key = f"journal/j-{number * 4:06d}"
    if source == "memory":
        path = root / "memory" / f"{key}.md"
        path.write_text(path.read_text() + "\nEdited.\n")
        return
    path = root / source
    data = path.read_bytes()
    line = data.rindex(b"\n", 0, data.index(b'"key":"%s"' % key.encode()))
    at = line + len(b'\n{"content":"')
    path.write_bytes(data[:at] + b"Edited. " + data[at:])


def measured(root: Path, name: str, source: str) -> dict[str, Any]:
    call = [sys.executable, __file__, "--phase", name, "--work", str(root), "--source", source]
    done = subprocess.run(call, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    print(f"{source} {name}: {json.dumps(found)}", file=sys.stderr, flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=100_000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--work", type=Path, help="the folder to work in, kept (default: a temporary one)")
    parser.add_argument("--forms", default="memory,nodes.jsonl")
    parser.add_argument("--phase", choices=PHASES, help=argparse.SUPPRESS)
    parser.add_argument("--source", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.phase:
        phase(args.phase, args.work, args.source)
        return
    work = (args.work or Path(tempfile.mkdtemp(prefix="amybuild-memory-"))).resolve()
    work.mkdir(exist_ok=True, parents=True)
    if not (work / "nodes.jsonl").exists():
        generate(work, args.nodes)
    size = (work / "nodes.jsonl").stat().st_size / 1e6
    rows = ["| source | phase | wall s | CPU s | peak MB | parsed |", "|---|---|---:|---:|---:|---:|"]
    for source in args.forms.split(","):
        found: dict[str, list[dict[str, Any]]] = {
            "cold": [],
            "again": [],
            "one edit": [],
            "queries": [],
            "all cold": [],
        }
        for turn in range(args.repeat):
            (work / f"kept-{source}").unlink(missing_ok=True)
            time.sleep(0.2)  # a stamp of a moment ago proves nothing
            found["cold"].append(measured(work, "read", source))
            found["again"].append(measured(work, "read", source))
            edit(work, source, 3 + turn)
            time.sleep(0.2)
            found["one edit"].append(measured(work, "read", source))
        found["queries"].append(measured(work, "query", source))
        shutil.rmtree(work / "store", ignore_errors=True)
        found["all cold"].append(measured(work, "whole", source))
        for name, runs in found.items():
            middle = [statistics.median(run[what] for run in runs) for what in ("wall", "cpu", "peak_mb")]
            cells = [f"{middle[0]:.2f}", f"{middle[1]:.2f}", f"{middle[2]:.0f}", str(runs[-1].get("parsed", ""))]
            rows.append("| " + " | ".join([source, name, *cells]) + " |")
    print(f"{args.nodes:,} nodes, {size:.0f} MB of JSONL\n\n" + "\n".join(rows))


if __name__ == "__main__":
    main()
