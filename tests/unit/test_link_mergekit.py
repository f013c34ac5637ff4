"""The linker beside mergekit 0.1.5 on the same tensors: a sum to one rounding, TIES with a reason for each gap.

What mergekit gave is kept in golden/mergekit.json with the versions it came from. `AMYBUILD_MERGEKIT=PYTHON pytest -m
mergekit`, with an interpreter that has mergekit, computes it again; with `AMYBUILD_GOLDEN=write` it is written.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from amybuild.digest import digest_bytes
from amybuild.link.run import link
from tests import checkpoints as files

Bits = NDArray[np.uint16]
GOLDEN = Path(__file__).parent / "golden" / "mergekit.json"
NAME, SHAPE, VECTORS, DENSITY = "model.layers.0.mlp.up_proj.weight", (32, 40), 4, 0.2
UNEQUAL = [0.7, -0.3, 0.45, 0.9]
CASES: dict[str, dict[str, Any]] = {
    "sum": {"method": "task_arithmetic", "dtype": "float32", "parameters": {"weight": 1.0}},
    "weighted sum": {"method": "task_arithmetic", "dtype": "float32", "parameters": {"weight": UNEQUAL}},
    "ties": {"method": "ties", "dtype": "float32", "parameters": {"weight": 1.0, "density": DENSITY}},
    "ties in bfloat16": {"method": "ties", "dtype": "bfloat16", "parameters": {"weight": 1.0, "density": DENSITY}},
}
THEIRS = """
import json, sys
from importlib.metadata import version
import torch
from mergekit.merge_methods.api import merge_tensors
job = json.loads(sys.stdin.read())
held = [torch.frombuffer(bytearray.fromhex(one), dtype=torch.bfloat16).view(job["shape"]) for one in job["inputs"]]
found = {"made with": {name: version(name) for name in ("mergekit", "torch")}}
for name, case in job["cases"].items():
    merged = merge_tensors(held, case["method"], parameters=case["parameters"], base_index=0,
                           dtype=getattr(torch, case["dtype"]), out_dtype=torch.bfloat16)
    found[name] = merged.contiguous().view(torch.uint8).numpy().tobytes().hex()
print(json.dumps(found))
"""


def tensors() -> list[Bits]:
    """A base and four fine-tunes, as bfloat16 bits: small steps everywhere, a tenth of them five times as large."""
    rng = np.random.default_rng(0)
    base = rng.normal(0, 0.02, SHAPE)
    found = [files.stored(base, "BF16")]
    for _ in range(VECTORS):
        step = rng.normal(0, 4e-4, SHAPE) * np.where(rng.random(SHAPE) < 0.1, 5, 1)
        found.append(files.stored(files.loaded("BF16", found[0]) + step, "BF16"))
    return found


def golden(case: str) -> Bits:
    kept = json.loads(GOLDEN.read_text())
    assert kept["inputs"] == [digest_bytes(one.tobytes()) for one in tensors()], "other tensors than mergekit was given"
    return np.frombuffer(bytes.fromhex(kept[case]), "<u2").reshape(SHAPE)


def ours(root: Path, alphas: list[float], **params: Any) -> Bits:
    names = ("base", *(f"vector.v{i}" for i in range(VECTORS)))
    inputs = {n: files.write_folder(root / n, {NAME: ("BF16", one)}) for n, one in zip(names, tensors(), strict=True)}
    (root / "out").mkdir()
    link(inputs, {"alphas": {f"v{i}": alpha for i, alpha in enumerate(alphas)}, **params}, root / "out")
    found: Bits = files.read_tensors(root / "out" / "model.safetensors")[NAME][1]
    return found


def steps(one: Bits, other: Bits) -> NDArray[np.int32]:
    """How many bfloat16 values lie between two: 1 for neighbours."""
    wide = (bits.astype(np.int32) for bits in (one, other))
    left, right = (np.where(bits >= 0x8000, 0x8000 - bits, bits) for bits in wide)
    return np.abs(left - right)


@pytest.mark.parametrize(("case", "alphas"), [("sum", [1.0] * VECTORS), ("weighted sum", UNEQUAL)])
def test_task_arithmetic_is_theirs_to_one_rounding(tmp_path: Path, case: str, alphas: list[float]) -> None:
    apart = steps(ours(tmp_path, alphas, method="linear"), golden(case))
    assert apart.max() <= 1
    assert np.count_nonzero(apart) < 0.01 * apart.size


@pytest.mark.parametrize("case", ["ties", "ties in bfloat16"])
def test_where_ties_differs_there_is_a_reason(tmp_path: Path, case: str) -> None:
    found, theirs = ours(tmp_path, [1.0] * VECTORS, method="ties", density=DENSITY), golden(case)
    base, *tuned = (files.loaded("BF16", one) for one in tensors())
    deltas = np.array([one - base for one in tuned])
    sizes = np.abs(deltas)
    cuts = np.sort(sizes.reshape(VECTORS, -1))[:, -int(DENSITY * base.size), None, None]
    kept = np.where(sizes >= cuts, deltas, 0)
    at_cut = (sizes == cuts).any(0)  # we keep every entry that equals the last one, their unstable sort keeps some
    mass = np.abs(kept).sum(0)
    rounding = 2.0**-8 if "bfloat16" in case else 2.0**-24  # of one operation; a handful are done on each entry
    draw = (mass > 0) & (np.abs(kept.sum(0)) <= 8 * rounding * mass)  # we elect nobody, they elect plus
    differ = steps(found, theirs) > 0
    gap = np.abs(files.loaded("BF16", found) - files.loaded("BF16", theirs))
    near = (steps(found, theirs) <= 1) | (gap <= 8 * rounding * mass)
    assert not (differ & ~at_cut & ~draw & ~near).any()
    assert (differ & at_cut).any(), "nothing ties at the cut: the tensors say nothing about it"
    if case == "ties":
        assert np.count_nonzero(differ & ~at_cut & ~draw) <= 1  # in float32 hardly a rounding is left


@pytest.mark.mergekit
@pytest.mark.skipif("AMYBUILD_MERGEKIT" not in os.environ, reason="AMYBUILD_MERGEKIT names no Python with mergekit")
def test_what_is_kept_is_what_mergekit_gives() -> None:
    held = [one.tobytes() for one in tensors()]
    job = {"shape": SHAPE, "inputs": [one.hex() for one in held], "cases": CASES}
    command = [os.environ["AMYBUILD_MERGEKIT"], "-c", THEIRS]
    done = subprocess.run(command, input=json.dumps(job), capture_output=True, text=True, check=True)
    found = {"inputs": [digest_bytes(one) for one in held], **json.loads(done.stdout)}
    if os.environ.get("AMYBUILD_GOLDEN") == "write":
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text(json.dumps(found, indent=1) + "\n")
    kept = json.loads(GOLDEN.read_text())
    for case in ("sum", "weighted sum"):  # which of the tied entries TIES keeps is its sort's choice, on each machine
        assert found[case] == kept[case]
