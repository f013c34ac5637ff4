"""What a build system itself costs: whole-process CPU of a no-op, of "what is stale?", and of one changed input.

    python bench/engine.py [--targets N] [--repeat 5] [--work DIR] [--peers VENV] [--only amybuild,ninja]
    python bench/engine.py --work DIR --only dvc --targets 1000    one tool; the table has what DIR knows of the others

Every tool gets N targets with an input file each and one target made of all of them. For the others a target is a
copied file. For amybuild it is a task of a persona (memory node, corpus, training, measurement of the base and of the
vector, gates: five actions), the last one is the linked checkpoint, and the product in dist/ is checked too. Its cache
is filled by `bench/generated.py` with stand-ins for what needs a model; the runs that are measured are the unmodified
command line on a real cache and never see the difference. One input changed is a sentence of prose in one node: its
corpus is made again by the real rule, is what it was, and the rest stays; then the product says what it is made of
now. For the others it is a changed file: a copy and the file of all are made again.

CPU is user + system time of the process and its children (wait4), medians, all tools by turns. The unit is
`python -I -c pass` measured in the same turns, and a row that was measured apart has its own unit. Wall time would
say more about who else uses the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import generated, peers

NEEDED = ("doit", "dvc", "snakemake", "ninja")
UNIT = "python -I -c pass"
TOOLS = ("amybuild", *(one.name for one in peers.PEERS))


@dataclass
class Case:
    """One tool in one folder, its commands, and the CPU seconds that were measured."""

    name: str
    root: Path
    build: list[str]
    status: list[str]
    edit: Callable[[Path, int, int], None]
    env: dict[str, str]
    slow: bool = False
    seen: dict[str, list[float]] = field(default_factory=dict)

    def measure(self, what: str, command: list[str]) -> None:
        if command:
            self.seen.setdefault(what, []).append(cpu(command, self.root, self.env))


@dataclass(frozen=True)
class Row:
    """What one tool took at one size, in CPU seconds, beside the unit of that very run."""

    name: str
    targets: int
    date: str
    unit: float
    seen: dict[str, list[float]]

    def median(self, what: str) -> float | None:
        return statistics.median(self.seen[what]) if what in self.seen else None

    def keep(self, work: Path) -> None:
        place(work, self.name, self.targets).with_suffix(".json").write_text(json.dumps(asdict(self)))


def place(work: Path, name: str, targets: int) -> Path:
    """The folder of a tool's project."""
    return work / f"{name.replace(' ', '')}-{targets}"


def known(work: Path, targets: int) -> list[Row]:
    """The rows that were measured in this folder, in the order of the table."""
    files = (place(work, name, targets).with_suffix(".json") for name in TOOLS)
    return [Row(**json.loads(file.read_text())) for file in files if file.exists()]


def cpu(command: list[str], cwd: Path, env: dict[str, str]) -> float:
    """CPU seconds of a process and its children; a failed one ends the bench."""
    with open(os.devnull, "wb") as null:
        process = subprocess.Popen(command, cwd=cwd, env=env, stdout=null, stderr=null)
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise SystemExit(f"{' '.join(command)} in {cwd} ended with {process.returncode}")
    return usage.ru_utime + usage.ru_stime


def venv(place: Path, packages: tuple[str, ...]) -> Path:
    """A virtual environment with these packages; kept when it is there."""
    if not (place / "bin" / "python").exists():
        subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
        subprocess.run([str(place / "bin" / "pip"), "install", "-q", *packages], check=True)
    return place


def amybuild(work: Path, targets: int) -> Case:
    """The generated persona, called as its console script calls it."""
    root = place(work, "amybuild", targets)
    if not (root / "dist").is_dir():
        shutil.rmtree(root, ignore_errors=True)
        generated.write_project(root, targets)
        generated.fill_cache(root)
    script = shutil.which("amybuild", path=os.path.dirname(sys.executable))
    call = [script] if script else [sys.executable, "-m", "amybuild"]
    env = {**os.environ, "PYTHONPATH": str(Path(generated.__file__).parent.parent)}
    return Case("amybuild", root, call, [*call, "--explain"], generated.edit, env)


def peer(one: peers.Peer, work: Path, targets: int, binaries: Path) -> Case:
    """A peer's project, built."""
    root = place(work, one.name, targets)
    env = {**os.environ, "PATH": f"{binaries}:{os.environ['PATH']}", **one.env}
    if not (root / "built").exists():
        shutil.rmtree(root, ignore_errors=True)
        names = peers.inputs(root, targets)
        (root / one.file).write_text(one.text(names))
        for command in (*one.setup, one.build):
            cpu(list(command), root, env)
        (root / "built").touch()
    return Case(one.name, root, list(one.build), list(one.status), peers.edit, env, one.slow)


def measure(cases: list[Case], repeat: int) -> list[float]:
    """All tools by turns; the unit of each turn comes back."""
    units = []
    for case in cases:
        cpu(case.build, case.root, case.env)  # whatever a first run has to find out
        cpu(case.build, case.root, case.env)
    for turn in range(repeat):
        units += [cpu([sys.executable, "-I", "-c", "pass"], Path("/"), dict(os.environ)) for _ in range(3)]
        for case in cases:
            if case.slow and turn:
                continue
            time.sleep(0.2)  # a stamp of a moment ago proves nothing
            case.measure("no-op", case.build)
            case.measure("status", case.status)
            case.edit(case.root, 7 + turn, time.time_ns())
            time.sleep(0.2)
            case.measure("one changed", case.build)
            cpu(case.build, case.root, case.env)
        print(f"turn {turn + 1} of {repeat}", file=sys.stderr)
    return units


def table(found: Iterable[Row], targets: int) -> str:
    """Markdown: CPU milliseconds, and times the unit."""
    found = list(found)
    rows = [
        f"| {targets:,} targets | no-op | x python | x ninja | what is stale? | x python | one changed | x python |"
    ]
    rows.append("|---|---:|---:|---:|---:|---:|---:|---:|")
    ninja = next((row.median("no-op") for row in found if row.name == "ninja"), None)
    for row in found:
        unit = row.unit
        noop, status, changed = (row.median(what) for what in ("no-op", "status", "one changed"))
        cells = [_ms(noop), _times(noop, unit), _times(noop, ninja), _ms(status), _times(status, unit)]
        rows.append("| " + " | ".join([row.name, *cells, _ms(changed), _times(changed, unit)]) + " |")
    return "\n".join(rows)


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:,.0f} ms"


def _times(seconds: float | None, unit: float | None) -> str:
    return "-" if seconds is None or not unit else f"{seconds / unit:,.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", type=int, action="append", help="how many (repeatable; default 1000)")
    parser.add_argument("--repeat", type=int, default=5, help="turns; slow tools take part in the first one only")
    parser.add_argument("--work", type=Path, help="the folder to build in, kept (default: a temporary one)")
    parser.add_argument("--peers", type=Path, help=f"a virtual environment that has {', '.join(NEEDED)}")
    parser.add_argument("--only", help="tools, with commas between them")
    args = parser.parse_args()
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # else Python tools compile their modules anew each time
    work = (args.work or Path(tempfile.mkdtemp(prefix="amybuild-engine-"))).resolve()
    wanted = args.only.split(",") if args.only else TOOLS
    work.mkdir(parents=True, exist_ok=True)
    binaries = (args.peers or venv(work / "peers", NEEDED)) / "bin"
    for targets in args.targets or [1000]:
        cases = [amybuild(work, targets)] if "amybuild" in wanted else []
        for one in peers.PEERS:
            if one.name in wanted and targets <= one.most:
                print(f"{one.name}, {targets} targets: from nothing", file=sys.stderr)
                cases.append(peer(one, work, targets, binaries))
        unit, date = statistics.median(measure(cases, args.repeat)), time.strftime("%Y-%m-%d")
        for case in cases:
            Row(case.name, targets, date, unit, case.seen).keep(work)
        rows = known(work, targets)
        ends = sorted({f"{end(row.unit for row in rows) * 1000:.0f}" for end in (min, max)}, key=int)
        print(
            f"\n{date}, {platform.machine()}, {os.cpu_count()} cores, "
            f"Python {platform.python_version()}; `{UNIT}` is {' to '.join(ends)} ms of CPU\n"
        )
        print(table(rows, targets), flush=True)


if __name__ == "__main__":
    main()
