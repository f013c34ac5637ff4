"""Our training loop beside TRL's SFTTrainer with PEFT, and frozen contexts beside full backpropagation, in one run.

    python -m venv peers && peers/bin/pip install torch==2.13.0
    peers/bin/pip install transformers==5.23.0 trl==1.16.0 peft==0.21.2
    python bench/train.py BASE CORPUS... --peer peers/bin/python [--steps 8] [--repeat 3] [--json FILE]
    python bench/train.py BASE CORPUS... --frozen [--steps 5]

BASE is a Hugging Face folder (the shipped base: the output of `base.smollm2/import`), a CORPUS one of the folders that
`task.NAME/corpus` gives. Both sides get the same rows of tokens in the same batches of six, float32, two threads, LoRA
of rank 8 and alpha 16 on every linear layer, AdamW, and the mean NLL of the replies' tokens; each run is a process of
its own. Told are the rows' own tokens (no padding) per second of the loop without its first step, CPU seconds of the
loop and of the whole process, and the peak of its memory. TRL runs on our order of batches, grouped by length by
itself, and with the checkpointing that is its default; its best counts. The first losses on our order must agree.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

BATCH, THREADS = 6, 2
TEXT = 30  # steps whose rows are text enough for a context and its decisions
ROOT = Path(__file__).resolve().parent.parent
TRL = {
    "TRL, our batches": {},
    "TRL, grouped by length": {"train_sampling_strategy": "group_by_length"},
    "TRL, its checkpointing": {"gradient_checkpointing": True},
}
ALIKE = 2e-4  # of the first losses: sums in another order, over a padded row


def rows_of(base: Path, corpora: list[Path], steps: int) -> list[dict[str, Any]]:
    """The corpora's wanted replies as ids with the place where the reply begins, in the order of our batches."""
    from transformers import AutoTokenizer

    from amybuild.model.data import read_replies
    from amybuild.model.train import choice

    tokenizer = AutoTokenizer.from_pretrained(base)
    rows = [row for folder in corpora for row in read_replies(folder / "train.jsonl", tokenizer, max_tokens=192)]
    rows = rows[: len(rows) // BATCH * BATCH]  # every batch is full, so TRL can cut the same ones
    if steps * BATCH > len(rows):
        raise SystemExit(f"{len(rows)} rows are {len(rows) // BATCH} steps, not {steps}")
    lengths = [len(row.ids) for row in rows]
    order = [i for step in range(steps) for i in choice(lengths, BATCH, 0, step)]
    return [{"ids": rows[i].ids, "start": rows[i].start, "end": rows[i].end} for i in order]


def run(python: str, side: str, job: dict[str, Any]) -> dict[str, Any]:
    """One side in a process of its own; what it prints last is what it measured."""
    quiet = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false"}
    # threads that spin while they wait would be counted as work wherever the machine has other work
    threads = {"OMP_NUM_THREADS": str(THREADS), "OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "job.json"
        file.write_text(json.dumps({**job, "scratch": scratch, "threads": THREADS}), encoding="utf-8")
        command = [python, str(ROOT / "bench" / "train_sides.py"), side, str(file)]
        environment = {**os.environ, **quiet, **threads, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        sys.exit(done.stderr[-3000:])
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def speeds(found: dict[str, Any]) -> dict[str, float]:
    """A run's numbers: tokens per second of steps 2 and later, by both clocks; seconds and MiB as they are."""
    tokens = sum(found["tokens"][1:])
    return {
        "tokens_per_cpu_s": tokens / sum(found["cpu"][1:]),
        "tokens_per_s": tokens / sum(found["wall"][1:]),
        "loop_cpu_s": sum(found["cpu"]),
        "whole_cpu_s": found["whole_cpu"],
        "peak_mib": found["peak_mib"],
    }


def side_by_side(base: Path, corpora: list[Path], peer: str, steps: int, repeat: int) -> dict[str, Any]:
    """ours, TRL, ours, TRL, …: medians of every number, ratios to ours, and the curves of the last turn."""
    job = {"base": str(base), "batch": BATCH, "steps": steps, "rows": rows_of(base, corpora, steps)}
    kinds = {"ours": (sys.executable, "ours", {})} | {name: (peer, "trl", given) for name, given in TRL.items()}
    turns: dict[str, list[dict[str, float]]] = {name: [] for name in kinds}
    curves: dict[str, list[float]] = {}
    for number in range(repeat):
        for name, (python, side, given) in kinds.items():
            found = run(python, side, {**job, "given": given})
            turns[name].append(speeds(found))
            curves[name] = found["losses"]
            print(f"{name} {number + 1}/{repeat}: {turns[name][-1]}", file=sys.stderr, flush=True)
    first = {name: curve[0] for name, curve in curves.items() if "grouped" not in name}
    if max(first.values()) - min(first.values()) > ALIKE * first["ours"]:
        raise SystemExit(f"the first losses differ, so the work is not alike: {first}")
    middle = {
        name: {key: statistics.median(turn[key] for turn in made) for key in made[0]} for name, made in turns.items()
    }
    return {"steps": steps, "repeat": repeat, "medians": middle, "losses": curves}


def table(found: dict[str, Any]) -> None:
    """Markdown of `side_by_side`."""
    medians, curves = found["medians"], found["losses"]
    ours = medians["ours"]
    print("| | tokens/CPU s | ours x | tokens/s | ours x | loop CPU s | process CPU s | peak MiB | first loss |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name, one in medians.items():
        ratios = [ours[key] / one[key] for key in ("tokens_per_cpu_s", "tokens_per_s")]
        print(
            f"| {name} | {one['tokens_per_cpu_s']:.0f} | **{ratios[0]:.2f}** | {one['tokens_per_s']:.0f} "
            f"| {ratios[1]:.2f} | {one['loop_cpu_s']:.1f} | {one['whole_cpu_s']:.1f} | {one['peak_mib']:.0f} "
            f"| {curves[name][0]:.5f} |"
        )


def frozen_table(found: dict[str, Any]) -> None:
    """Markdown of `train_sides.frozen`."""
    frozen = statistics.median(found["frozen"]["cpu"])
    print("| one step: 8 decisions of 32 tokens behind 2,048 | CPU s | x frozen | peak MiB |\n|---|---|---|---|")
    for name in ("rows", "tree", "frozen"):
        spent = statistics.median(found[name]["cpu"])
        print(f"| {found[name]['what']} | {spent:.1f} | **{spent / frozen:.1f}** | {found[name]['peak_mib']:.0f} |")
    print("\n| loss at step | " + " | ".join(str(step + 1) for step in range(len(found["frozen"]["losses"]))) + " |")
    print("|---|" + "---|" * len(found["frozen"]["losses"]))
    for name in ("tree", "frozen"):
        print(f"| {found[name]['what']} | " + " | ".join(f"{loss:.4f}" for loss in found[name]["losses"]) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", type=Path)
    parser.add_argument("corpora", type=Path, nargs="+", metavar="CORPUS")
    parser.add_argument("--peer", help="a Python that has trl and peft")
    parser.add_argument("--frozen", action="store_true", help="frozen contexts beside full backpropagation")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write every number there")
    args = parser.parse_args()
    if bool(args.peer) == args.frozen:
        parser.error("one of --peer and --frozen")
    machine = f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    print(f"{time.strftime('%Y-%m-%d')}, {machine}, Python {platform.python_version()}\n")
    if args.frozen:
        rows = rows_of(args.base, args.corpora, TEXT)
        job = {"base": str(args.base), "steps": args.steps, "rows": rows}
        parts = {kind: run(sys.executable, f"frozen-{kind}", job) for kind in ("frozen", "tree", "rows")}
        first = [part["losses"][0] for part in parts.values()]
        if max(first) - min(first) > ALIKE * first[0]:
            raise SystemExit(f"the first losses differ: {first}")
        found: dict[str, Any] = parts
        frozen_table(found)
    else:
        found = side_by_side(args.base.resolve(), args.corpora, args.peer, args.steps, args.repeat)
        table(found)
    if args.json:
        args.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
