"""Readout vectors for many concepts beside calling `steering-vectors` once per concept, on the same texts and blocks.

    python -m venv peers && peers/bin/pip install torch==2.13.0
    peers/bin/pip install steering-vectors==0.12.2 'transformers<5'     # of its own: it pins transformers below 5
    python bench/readout.py BASE --peer peers/bin/python [--texts 200] [--concepts 50] [--measured 2]

BASE is a Hugging Face folder (the shipped base: the output of `base.smollm2/import`). Both sides read the same texts,
at the same blocks, with one thread; what is told is the work only, without imports and loading. Calling the library
takes the same time for every concept, so `--measured` of them are timed and the rest is multiplied; `--measured 50`
times them all. Ours runs the rules `activations` and `vectors`, all concepts at once, and again with one text added.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

WORDS = (
    "harbour kettle ladder violin orchard tunnel letter garden winter market candle engine river copper window bridge "
    "slowly gently never always under behind carried mended counted forgot listened waited answered opened folded"
)
LAYERS = [12, 16, 20]


def texts_of(count: int, words: int = 60) -> list[str]:
    """`count` different texts of `words` words, always the same."""
    rng, known = random.Random(0), WORDS.split()
    return [" ".join(rng.choice(known) for _ in range(words)) for _ in range(count)]


def marks_of(texts: int, concepts: int) -> list[list[int]]:
    """Per concept 1 or -1 for each text, half of each: the library needs equal, paired sides."""
    rng = random.Random(1)
    rows = []
    for _ in range(concepts):
        row = [1, -1] * (texts // 2)
        rng.shuffle(row)
        rows.append(row)
    return rows


def peer(base: str, texts: list[str], marks: list[list[int]], measured: int) -> None:
    """What runs in the peer's environment; prints one JSON line."""
    import torch
    from steering_vectors import train_steering_vector
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(base, torch_dtype=torch.float32)
    # transformers 5 names a tokenizer class that 4 does not know; the file is the same
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=f"{base}/tokenizer.json", pad_token="<|im_end|>")
    model.eval()
    cpu, wall = time.process_time(), time.perf_counter()
    for row in marks[:measured]:
        good = [text for text, mark in zip(texts, row, strict=True) if mark > 0]
        bad = [text for text, mark in zip(texts, row, strict=True) if mark < 0]
        train_steering_vector(
            model, tokenizer, list(zip(good, bad, strict=True)), layers=LAYERS, batch_size=8, show_progress=False
        )
    spent = [time.process_time() - cpu, time.perf_counter() - wall]
    print(json.dumps([one * len(marks) / measured for one in spent]))


def ours(base: Path, texts: list[str], marks: list[list[int]], estimator: str) -> dict[str, Any]:
    """CPU and wall seconds of the rules, and of the same with one text more; how many passes each made."""
    import torch

    from amybuild.actions import activations, vectors
    from amybuild.actions.context import ActionContext
    from amybuild.model.load import load_base

    torch.set_num_threads(1)
    passes = 0
    read = activations.read_text

    def counted(*args: Any) -> Any:
        nonlocal passes
        passes += 1
        return read(*args)

    activations.read_text = counted
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch, load_base(base):
        for name, number in (("all texts", len(texts) - 1), ("one text added", len(texts))):
            room = Path(scratch) / name.replace(" ", "-")
            labels = [{f"c{c:02d}": row[i] for c, row in enumerate(marks)} for i in range(number)]
            lines = [{"id": f"t{i:04d}", "text": texts[i]} for i in range(number)]
            write(room / "texts" / "texts.jsonl", lines)
            write(room / "labels" / "labels.jsonl", [{"id": f"t{i:04d}", "labels": labels[i]} for i in range(number)])
            for out in ("activations", "vectors"):
                (room / out).mkdir()
            passes = 0
            cpu, wall = time.process_time(), time.perf_counter()
            inputs = {"base": base, "texts": room / "texts"}
            params: dict[str, Any] = {"layers": LAYERS, "estimator": estimator}
            memo = Path(scratch) / "memo"
            activations.run(
                ActionContext("a", "0" * 64, params, inputs, room / "activations", digests={"base": "b"}, memo=memo)
            )
            inputs = {"labels": room / "labels", "activations": room / "activations"}
            vectors.run(ActionContext("v", "0" * 64, params, inputs, room / "vectors"))
            found[name] = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall, "passes": passes}
    return found


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", type=Path)
    parser.add_argument("--peer", help="a Python that has steering-vectors")
    parser.add_argument("--texts", type=int, default=200)
    parser.add_argument("--concepts", type=int, default=50)
    parser.add_argument("--measured", type=int, default=2)
    parser.add_argument("--estimator", default="mean")
    parser.add_argument("--as-peer", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    texts, marks = texts_of(args.texts), marks_of(args.texts, args.concepts)
    if args.as_peer:
        peer(str(args.base), texts, marks, args.measured)
        return
    rows = [
        [name, one["cpu"], one["wall"], one["passes"]]
        for name, one in ours(args.base, texts, marks, args.estimator).items()
    ]
    if args.peer:
        command = [args.peer, __file__, str(args.base), "--as-peer", "--texts", str(args.texts)]
        command += ["--concepts", str(args.concepts), "--measured", str(args.measured)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(done.stderr)
        cpu, wall = json.loads(done.stdout.splitlines()[-1])
        rows.append(["steering-vectors, per concept", cpu, wall, args.texts * args.concepts])
    print(f"{args.concepts} concepts x {args.texts} texts, blocks {LAYERS}, estimator {args.estimator}")
    print("| | CPU s | wall s | passes | x ours (CPU) |\n|---|---|---|---|---|")
    for name, cpu, wall, passes in rows:
        print(f"| {name} | {cpu:.1f} | {wall:.1f} | {passes} | {cpu / rows[0][1]:.2f} |")


if __name__ == "__main__":
    main()
