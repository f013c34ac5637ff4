"""The promises of the README on the shipped persona, measured as whole processes: build, no-op, edits, undo.

    python bench/spine.py [--work DIR] [--keep-cache]

Copies the project's Personafile, recipes and memory into a work folder, builds there and prints one row per command:
what ran, wall seconds, CPU seconds, and the CPU as a ratio to `python -I -c pass` measured in the same minute.
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
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def timed(command: list[str], cwd: Path) -> tuple[str, float, float, float]:
    """(stdout, wall s, CPU s, peak MiB) of one process."""
    began = time.monotonic()
    process = subprocess.Popen(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    out = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.monotonic() - began
    if os.waitstatus_to_exitcode(status) != 0:
        raise SystemExit(f"{' '.join(command)} failed:\n{out}")
    return out, wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def floor(cwd: Path) -> float:
    """CPU seconds of an interpreter that does nothing: the unit of the no-op."""
    return statistics.median(timed([sys.executable, "-I", "-c", "pass"], cwd)[2] for _ in range(5))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, help="the folder to build in (default: a temporary one)")
    parser.add_argument("--keep-cache", action="store_true", help="start from the cache that is in --work")
    args = parser.parse_args()
    work = args.work or Path(tempfile.mkdtemp(prefix="amybuild-bench-"))
    if work.resolve() == ROOT:
        raise SystemExit("--work must not be the project itself: its memory is edited")
    for name in ("memory", "recipes"):
        shutil.rmtree(work / name, ignore_errors=True)
        shutil.copytree(ROOT / name, work / name)
    shutil.copy(ROOT / "Personafile.toml", work)
    if not args.keep_cache:
        shutil.rmtree(work / "cache", ignore_errors=True)
    rows = []

    def run(title: str, *flags: str) -> None:
        unit = floor(work)
        out, wall, cpu, peak = timed([sys.executable, "-m", "amybuild", "--json", *flags], work)
        lines = [line for line in out.splitlines() if line.startswith('{"event": "summary"')]
        ran = json.loads(lines[-1])["ran"] if lines else []
        rows.append((title, " ".join(ran) if len(ran) < 8 else f"{len(ran)} actions", wall, cpu, cpu / unit, peak))
        print(
            f"{title}: {rows[-1][1] or 'nothing'}; {wall:.1f} s, CPU {cpu:.2f} s = {cpu / unit:.0f} x, {peak:.0f} M",
            flush=True,
        )

    def edit(name: str, old: str, new: str) -> str:
        text = (work / name).read_text()
        assert old in text, (name, old)
        (work / name).write_text(text.replace(old, new, 1))
        return text

    if not args.keep_cache:
        run("from nothing")
    run("again")
    run("--explain", "--explain")
    node = "memory/pattern-listening-as-avoidance.md"
    before = edit(node, "What did it cost you to be one", "What does it cost to be one")
    run("one dialogue edited")
    (work / node).write_text(before)
    run("the edit undone")
    before = edit(node, "## Dialogues", "A sentence of prose.\n\n## Dialogues")
    run("prose edited")
    (work / node).write_text(before)
    run("another alpha", "--set", "task.voice.alpha=0.31")
    run("another density", "--set", "link.density=0.31")
    run("without one vector", "--without", "voice")
    run("the declared one again")
    print(
        f"\n{time.strftime('%Y-%m-%d')}, {platform.machine()}, {os.cpu_count()} cores, "
        f"Python {platform.python_version()}\n"
    )
    print("| command | ran | wall s | CPU s | x `python -I -c pass` | peak MiB |")
    print("|---|---|---|---|---|---|")
    for title, ran, wall, cpu, ratio, peak in rows:
        print(f"| {title} | {ran or 'nothing'} | {wall:.1f} | {cpu:.2f} | {ratio:.0f} | {peak:.0f} |")


if __name__ == "__main__":
    main()
