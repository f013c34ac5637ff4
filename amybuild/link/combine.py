"""Rule `combine`: the analogy b - a + c of three task vectors, as one adapter of their added ranks or dense."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from amybuild.errors import ActionError
from amybuild.link.delta import F32, Delta, LowRank, blocks
from amybuild.link.lora import CONFIG, PREFIX, WEIGHTS
from amybuild.link.run import LinkContext
from amybuild.link.tensors import read_shards
from amybuild.link.vector import DENSE, TaskVector, read_vector
from amybuild.link.write import write_floats

SIGNS = {"b": 1.0, "a": -1.0, "c": 1.0}
_BLOCK = 1 << 20


def run(ctx: LinkContext) -> None:
    """inputs: a, b, c (vectors of one base), and base where one of them is a checkpoint. Writes a vector artifact.

    Three adapters give an adapter, exact, its factors set side by side; it has no loss curve. Anything else gives
    `delta.safetensors`, float32 by weight name.
    """
    base = read_shards(ctx.inputs["base"]) if "base" in ctx.inputs else ()
    parts = {role: read_vector(ctx.inputs[role], role, base) for role in SIGNS}
    _check_shapes(parts)
    total = combined(parts)
    if all(isinstance(delta, LowRank) for delta in total.deltas.values()):
        config = json.loads((ctx.inputs["b"] / CONFIG).read_bytes())
        others = [json.loads((ctx.inputs[role] / CONFIG).read_bytes()) for role in "ac"]
        summary: dict[str, Any] = {"rank": _write_adapter(ctx, total, config, others)}
    else:
        summary = {"dense": True}
        shapes = {weight: delta.shape for weight, delta in total.deltas.items()}
        write_floats(ctx.out / DENSE, shapes, lambda weight: blocks(total.deltas[weight], _BLOCK))
    summary |= {"modules": len(total.deltas), "combined": SIGNS}
    (ctx.out / "train.json").write_text(json.dumps(summary, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    (ctx.out / "curve.jsonl").write_text("", encoding="utf-8")
    ctx.progress(1, 1)


def combined(parts: Mapping[str, TaskVector]) -> TaskVector:
    """b - a + c."""
    return parts["b"] - parts["a"] + parts["c"]


def _check_shapes(parts: Mapping[str, TaskVector]) -> None:
    shapes: dict[str, tuple[int, ...]] = {}
    for vector in parts.values():
        for weight, delta in vector.deltas.items():
            if shapes.setdefault(weight, tuple(delta.shape)) != tuple(delta.shape):
                raise ActionError("the vectors differ in shape", where=weight, remedy="train all three on one base")


def _write_adapter(ctx: LinkContext, total: TaskVector, config: Mapping[str, Any], others: list[Any]) -> int:
    """B carries sign and scaling, so lora_alpha = r; narrower modules are padded with zeros to one rank."""
    factors = {weight.removesuffix(".weight"): delta for weight, delta in sorted(total.deltas.items())}
    rank = max(_rank(delta) for delta in factors.values())
    swapped = bool(config.get("fan_in_fan_out"))
    tensors: dict[str, F32] = {}
    for module, delta in factors.items():
        assert isinstance(delta, LowRank)
        b = np.zeros((delta.shape[0], rank), np.float32)
        a = np.zeros((rank, delta.shape[1]), np.float32)
        b[:, : _rank(delta)] = delta.left * np.float32(delta.scale)
        a[: _rank(delta)] = delta.right
        tensors[f"{PREFIX}{module}.lora_A.weight"] = np.ascontiguousarray(b.T) if swapped else a
        tensors[f"{PREFIX}{module}.lora_B.weight"] = np.ascontiguousarray(a.T) if swapped else b
    config = {**config, "r": rank, "lora_alpha": float(rank), "use_rslora": False}
    for pattern in ("rank_pattern", "alpha_pattern"):
        config.pop(pattern, None)
    if any(other.get("target_modules") != config.get("target_modules") for other in others):
        config["target_modules"] = sorted(factors)
    write_floats(ctx.out / WEIGHTS, {name: value.shape for name, value in tensors.items()}, lambda n: _one(tensors[n]))
    (ctx.out / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return rank


def _rank(delta: Delta) -> int:
    assert isinstance(delta, LowRank)
    return int(delta.left.shape[1])


def _one(value: F32) -> Iterator[F32]:
    yield value
