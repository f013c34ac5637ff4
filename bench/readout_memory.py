"""Peak memory of finding readout vectors for many concepts on many texts, with made-up activations.

    python bench/readout_memory.py [--texts 2000] [--concepts 50] [--blocks 3] [--hidden 576] [--estimator auto]

The rule `vectors` runs in a process of its own; what is told is its peak of resident memory, beside that of the same
process on a handful of texts, and its CPU seconds. With OTHER/ on PYTHONPATH another version is measured.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


def write(folder: Path, texts: int, concepts: int, blocks: int, hidden: int) -> None:
    """Labels and activations as the rules write them; each concept shifts a few dimensions of its positives."""
    import numpy as np
    from safetensors.numpy import save_file

    rng = np.random.default_rng(0)
    marks = np.where(rng.random((texts, concepts)) < 0.3, 1, -1)
    shifts = rng.standard_normal((concepts, hidden)).astype(np.float32) * 0.2
    rows = {}
    for block in range(blocks):
        drawn = rng.standard_normal((texts, hidden), dtype=np.float32)
        rows[f"layer_{block}"] = drawn + (marks > 0).astype(np.float32) @ shifts
    for name in ("labels", "acts", "out"):
        (folder / name).mkdir(parents=True)
    save_file(rows, folder / "acts" / "activations.safetensors")
    ids = [f"t{i:06d}" for i in range(texts)]
    about: dict[str, Any] = {"ids": ids, "layers": list(range(blocks)), "num_layers": blocks, "hidden_size": hidden}
    (folder / "acts" / "ids.json").write_text(json.dumps({**about, "reading": "mean"}))
    names = [f"c{c:02d}" for c in range(concepts)]
    with (folder / "labels" / "labels.jsonl").open("w") as file:
        for name, row in zip(ids, marks.tolist(), strict=True):
            file.write(json.dumps({"id": name, "labels": dict(zip(names, row, strict=True))}) + "\n")
    (folder / "labels" / "card.json").write_text(json.dumps({"concepts": names}))


def find(folder: Path, estimator: str) -> None:
    """What runs in a process of its own; prints its peak in MiB and its CPU seconds."""
    from amybuild.actions import vectors
    from amybuild.actions.context import ActionContext

    inputs = {"labels": folder / "labels", "activations": folder / "acts"}
    began = time.process_time()
    vectors.run(ActionContext("v", "0" * 64, {"estimator": estimator}, inputs, folder / "out"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps([peak, time.process_time() - began]))


def measure(texts: int, args: Any) -> list[float]:
    with tempfile.TemporaryDirectory() as scratch:
        shape = ["--texts", str(texts), "--concepts", str(args.concepts), "--blocks", str(args.blocks)]
        shape += ["--hidden", str(args.hidden), "--estimator", args.estimator]
        for step in ("--write", "--find"):  # what wrote the activations is not in the peak
            done = subprocess.run([sys.executable, __file__, step, scratch, *shape], capture_output=True, text=True)
            if done.returncode:
                sys.exit(done.stderr)
    found: list[float] = json.loads(done.stdout)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("texts", 2000), ("concepts", 50), ("blocks", 3), ("hidden", 576)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--estimator", default="auto")
    parser.add_argument("--write", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--find", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.write:
        write(args.write, args.texts, args.concepts, args.blocks, args.hidden)
    elif args.find:
        find(args.find, args.estimator)
    else:
        few, (peak, cpu) = measure(100, args), measure(args.texts, args)
        shape = f"{args.concepts} concepts, {args.texts} texts, {args.blocks} blocks of {args.hidden}, {args.estimator}"
        print(f"{shape}: peak {peak:.0f} MiB (100 texts: {few[0]:.0f}), {cpu:.1f} CPU s")


if __name__ == "__main__":
    main()
