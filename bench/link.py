"""The linker beside mergekit 0.1.5: same inputs, whole processes, interleaved in one run; medians and ratios.

    python bench/link.py --work DIR [--mergekit VENV] [--repeat N] [--rows ties,lora] [--alone] [--numbers]
        [--eight-billion]

Writes a random Llama of SmolLM2-135M's shape, four fine-tunes and four LoRA adapters of it into --work (1.5 GB, kept
for the next run), installs mergekit into --work/mergekit unless --mergekit names an environment that has it, and prints
Markdown. --alone leaves mergekit out: a first link, and one more with another alpha. --numbers compares the outputs
element by element, --eight-billion links LoRAs over a base of Llama-3-8B's shape (holes on the disk; the result takes
16 GB there until the run is over).
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
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import link_inputs as inputs
import link_numbers as numbers

ROOT = Path(__file__).resolve().parent.parent
NAMES = ("a", "b", "c", "d")
DENSE = {name: f"ft{n}" for n, name in enumerate(NAMES, 1)}
LORA = {name: f"lora{n}" for n, name in enumerate(NAMES, 1)}

# what a link is without the engine: one interpreter that calls the rule
OURS = """
import json, sys
from pathlib import Path
from amybuild.link.run import link
job = json.loads(sys.argv[1])
places = {role: Path(path) for role, path in job["inputs"].items()}
memo = Path(job["memo"]) if job["memo"] else None
link(places, job["params"], Path(job["out"]), memo=memo, digests={role: str(path) for role, path in places.items()})
assert not {"torch", "transformers"} & sys.modules.keys()
"""
FLOOR = """
import sys
buffer = memoryview(bytearray(8 << 20))
for number, path in enumerate(sys.argv[2:]):
    with open(path, "rb") as source, open(sys.argv[1] if number == 0 else "/dev/null", "wb") as target:
        while count := source.readinto(buffer):
            target.write(buffer[:count])
"""


@dataclass(frozen=True)
class Cost:
    """One process: CPU seconds, wall seconds, peak resident MiB."""

    cpu: float
    wall: float
    peak: float


@dataclass(frozen=True)
class Row:
    """One comparison: what mergekit is told, what our rule is told, and over which vectors."""

    title: str
    theirs: Mapping[str, Any]  # merge_method, per-model and shared parameters
    ours: Mapping[str, Any]
    vectors: Mapping[str, str] = field(default_factory=lambda: DENSE)


_ONE = {"weight": 1.0}
_TRIM = {"weight": 1.0, "density": 0.2}
ROWS = {
    "linear": Row("task arithmetic, dense", {"method": "task_arithmetic", "each": _ONE}, {"method": "linear"}),
    "ties": Row("TIES 0.2, dense", {"method": "ties", "each": _TRIM}, {"method": "ties", "density": 0.2}),
    "dare": Row(
        "DARE-TIES 0.2, dense", {"method": "dare_ties", "each": _TRIM}, {"method": "dare_ties", "density": 0.2}
    ),
    "lora": Row("TIES 0.2, LoRA", {"method": "ties", "each": _TRIM}, {"method": "ties", "density": 0.2}, LORA),
}


def timed(command: list[str], log: Path) -> Cost:
    """One whole process with its children; its output goes to `log`, which is shown when it fails."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # users have their bytecode kept
    began = time.monotonic()
    with log.open("wb") as sink:
        process = subprocess.Popen(command, stdout=sink, stderr=subprocess.STDOUT, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
    wall = time.monotonic() - began
    if os.waitstatus_to_exitcode(status) != 0:
        raise SystemExit(f"{command[0]} failed:\n{log.read_text(errors='replace')[-2000:]}")
    return Cost(usage.ru_utime + usage.ru_stime, wall, usage.ru_maxrss / 1024)


def median(costs: list[Cost]) -> Cost:
    return Cost(*(statistics.median(getattr(cost, name) for cost in costs) for name in ("cpu", "wall", "peak")))


class Bench:
    """The runs of both sides below one work folder."""

    def __init__(self, work: Path, mergekit: Path | None) -> None:
        self.work, self.venv = work, mergekit

    def tool(self) -> Path:
        """mergekit-yaml of the environment given, or of one made here."""
        venv = self.venv or self.work / "mergekit"
        if not (venv / "bin" / "mergekit-yaml").is_file():
            subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
            for package in ("torch==2.13.0", "mergekit==0.1.5"):
                subprocess.run([str(venv / "bin" / "pip"), "install", "--quiet", package], check=True)
        return venv / "bin" / "mergekit-yaml"

    def fresh(self, name: str) -> Path:
        """An empty output folder."""
        out = self.work / "out" / name
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        return out

    def theirs(self, row: Row, out: Path, dtype: str = "bfloat16") -> Cost:
        """mergekit from its YAML to its folder; adapters are merged into full models first, as it does it."""
        lora = row.vectors is LORA
        base = str(self.work / "base")
        config = {
            "merge_method": row.theirs["method"],
            "base_model": base,
            "models": [
                {"model": f"{base}+{self.work / v}" if lora else str(self.work / v), "parameters": row.theirs["each"]}
                for v in row.vectors.values()
            ],
            "dtype": dtype,
            "out_dtype": "bfloat16",
        }
        file = out.with_suffix(".yml")
        file.write_text(json.dumps(config))  # JSON is YAML
        command = [str(self.tool()), str(file), str(out), "--no-copy-tokenizer", "--random-seed", "0"]
        if lora:
            cache = self.fresh("lora-cache")
            command += ["--lora-merge-cache", str(cache)]
        return timed(command, self.work / "mergekit.log")

    def ours(self, row: Row, out: Path, base: str = "base", memo: Path | None = None, **changes: Any) -> Cost:
        """A link in an interpreter of its own; thresholds are remembered in `memo`."""
        places = {"base": str(self.work / base)}
        places |= {f"vector.{name}": str(self.work / folder) for name, folder in row.vectors.items()}
        params = {**row.ours, "alphas": dict.fromkeys(row.vectors, 1.0), "lambda": 1.0, **changes}
        job = {"inputs": places, "params": params, "out": str(out), "memo": str(memo or "")}
        return timed([sys.executable, "-c", OURS, json.dumps(job)], self.work / "ours.log")

    def floor(self, row: Row) -> Cost:
        """Reading every input once and writing one checkpoint."""
        files = [self.work / folder / "model.safetensors" for folder in ("base", *row.vectors.values())]
        files = [file if file.is_file() else file.with_name("adapter_model.safetensors") for file in files]
        out = self.fresh("floor") / "model.safetensors"
        return timed([sys.executable, "-I", "-c", FLOOR, str(out), *map(str, files)], self.work / "floor.log")


def interleaved(repeat: int, sides: Mapping[str, Callable[[], Cost]]) -> dict[str, Cost]:
    """A B A B …: each side's medians, so that a slow minute of the machine hits both."""
    costs: dict[str, list[Cost]] = {name: [] for name in sides}
    for number in range(repeat):
        for name, side in sides.items():
            costs[name].append(side())
            last = costs[name][-1]
            said = f"{name} {number + 1}/{repeat}: CPU {last.cpu:.2f} s, {last.wall:.1f} s, {last.peak:.0f} MiB"
            print(said, file=sys.stderr, flush=True)
    return {name: median(found) for name, found in costs.items()}


def table(bench: Bench, rows: list[str], repeat: int) -> None:
    """The main table: both sides and the I/O floor, a row each."""
    print("| link | mergekit CPU s | ours CPU s | ratio | wall s | ratio | peak MiB | x I/O floor |")
    print("|---|---|---|---|---|---|---|---|")
    for name in rows:
        row = ROWS[name]
        found = interleaved(
            repeat,
            {
                f"{name}, mergekit": lambda row=row, name=name: bench.theirs(row, bench.fresh(f"{name}-mergekit")),
                f"{name}, ours": lambda row=row, name=name: bench.ours(row, bench.fresh(f"{name}-ours")),
                f"{name}, floor": lambda row=row: bench.floor(row),
            },
        )
        theirs, ours, floor = found.values()
        print(
            f"| {row.title} | {theirs.cpu:.1f} | {ours.cpu:.2f} | **{theirs.cpu / ours.cpu:.1f}** "
            f"| {theirs.wall:.1f} / {ours.wall:.1f} | {theirs.wall / ours.wall:.1f} "
            f"| {theirs.peak:.0f} / {ours.peak:.0f} | {ours.cpu / floor.cpu:.1f} |",
            flush=True,
        )


def relink(bench: Bench, rows: list[str], repeat: int) -> None:
    """A first link, then one more with another alpha: thresholds are known, one pass is left."""
    print("\n| link, then another alpha | first CPU s | again CPU s | ratio | first wall s | again wall s |")
    print("|---|---|---|---|---|---|")
    for name in rows:
        row = ROWS[name]
        found = interleaved(
            repeat,
            {
                f"{name}, first": lambda row=row: bench.ours(row, bench.fresh("again"), memo=bench.fresh("memo")),
                f"{name}, again": lambda row=row: bench.ours(
                    row,
                    bench.fresh("again"),
                    memo=bench.work / "out" / "memo",
                    alphas={**dict.fromkeys(NAMES, 1.0), "a": 0.7},
                ),
            },
        )
        first, again = found.values()
        print(
            f"| {row.title} | {first.cpu:.2f} | {again.cpu:.2f} | **{first.cpu / again.cpu:.2f}** "
            f"| {first.wall:.2f} | {again.wall:.2f} |",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="where inputs and outputs go")
    parser.add_argument("--mergekit", type=Path, help="an environment with mergekit 0.1.5")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--rows", default=",".join(ROWS), help=f"of {', '.join(ROWS)}; empty: none")
    parser.add_argument("--alone", action="store_true", help="only our link and relink")
    parser.add_argument("--numbers", action="store_true", help="compare the outputs element by element")
    parser.add_argument("--eight-billion", action="store_true", help="peak memory at 8 billion parameters")
    args = parser.parse_args()
    work: Path = args.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    inputs.write_inputs(work)
    bench = Bench(work, args.mergekit.resolve() if args.mergekit else None)
    print(f"{time.strftime('%Y-%m-%d')}, {_machine()}, Python {platform.python_version()}\n")
    rows = [name for name in args.rows.split(",") if name]
    unknown = sorted(set(rows) - set(ROWS))
    if unknown:
        parser.error(f"no row {unknown[0]}: {', '.join(ROWS)}")
    inputs.settle(work)
    for name in rows or ["ties"]:  # numba compiles once per installation, and caches it
        bench.ours(ROWS[name], bench.fresh("warm"))
    if rows and not args.alone:
        table(bench, rows, args.repeat)
    trimmed = [name for name in rows if ROWS[name].ours["method"] == "ties"]
    if trimmed:
        relink(bench, trimmed, args.repeat)
    if args.numbers:
        numerics(bench)
    if args.eight_billion:
        eight_billion(bench)
    shutil.rmtree(work / "out", ignore_errors=True)


def _machine() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return f"{model or platform.machine()}, {os.cpu_count()} cores"


def numerics(bench: Bench) -> None:
    """Task arithmetic must agree with mergekit's to one rounding; for TIES the differences are counted by cause."""
    ours, theirs = bench.fresh("linear-ours"), bench.fresh("linear-mergekit")
    bench.ours(ROWS["linear"], ours)
    bench.theirs(ROWS["linear"], theirs, dtype="float32")
    share, worst = numbers.compare(ours, theirs)
    print(
        f"\nTask arithmetic, mergekit in float32: {share:.3%} of the elements differ, by at most {worst} bfloat16 ulp."
    )
    if worst > 1:
        raise SystemExit("more than one rounding apart")
    row = ROWS["ties"]
    outs = {"ours": bench.fresh("ties-ours")}
    bench.ours(row, outs["ours"])
    for dtype in ("float32", "bfloat16"):
        outs[dtype] = bench.fresh(f"ties-{dtype}")
        bench.theirs(row, outs[dtype], dtype)
    itself = numbers.compare(outs["float32"], outs["bfloat16"])[0]
    print(f"TIES: mergekit in bfloat16 differs from itself in float32 in {itself:.2%} of the elements.\n")
    tuned = [bench.work / folder for folder in row.vectors.values()]
    print("| TIES, ours against | differ | of these at the cut | a draw | one rounding | unexplained |")
    print("|---|---|---|---|---|---|")
    for dtype in ("float32", "bfloat16"):
        found = numbers.explain_ties(bench.work / "base", tuned, 0.2, outs["ours"], outs[dtype])
        keys = ("differ", "cut", "draw", "rounding", "unexplained")
        print(f"| mergekit {dtype} | " + " | ".join(f"{found[key]:.3%}" for key in keys) + " |")
        if dtype == "float32" and found["unexplained"]:
            raise SystemExit("a difference that neither ties nor roundings explain")
    print(f"\n{found['at the cut']:.2%} of all elements have the k-th magnitude exactly in one of the four vectors.")


def eight_billion(bench: Bench) -> None:
    """Four LoRAs over a base of eight billion parameters: peak memory, and that the inputs take no disk."""
    shape, folder = inputs.EIGHT_BILLION, bench.work / "8b"
    shutil.rmtree(folder, ignore_errors=True)
    try:
        total = inputs.write_sparse(folder / "base", shape)
        for n, name in enumerate(NAMES, 1):
            inputs.write_adapter(folder / LORA[name], shape, 20 + n)
        held = sum(path.stat().st_blocks * 512 for path in (folder / "base").iterdir())
        row = Row("", {}, {"method": "ties", "density": 0.2}, {name: f"8b/{LORA[name]}" for name in NAMES})
        cost = bench.ours(row, bench.fresh("8b"), base="8b/base")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(bench.work / "out" / "8b", ignore_errors=True)
    print(
        f"\nTIES over four rank-16 LoRAs, base of {total / 1e9:.2f}B parameters ({held / 1e6:.1f} MB on the disk): "
        f"peak {cost.peak:.0f} MiB, CPU {cost.cpu:.0f} s, wall {cost.wall:.0f} s"
    )
    if cost.peak > 2048:
        raise SystemExit("more than 2 GiB")


if __name__ == "__main__":
    main()
