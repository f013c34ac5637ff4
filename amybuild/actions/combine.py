"""Rule `combine`: the analogy b - a + c of three task vectors, exact, as one adapter of their added ranks."""

from __future__ import annotations

from typing import Any

from amybuild.actions.context import ActionContext
from amybuild.errors import ActionError
from amybuild.model.data import write_json
from amybuild.model.lora import Adapter, Factors, read_adapter, write_adapter

SIGNS = (("b", 1.0), ("a", -1.0), ("c", 1.0))


def run(ctx: ActionContext) -> None:
    """inputs: a, b, c (vectors of one base). Writes a vector artifact without a loss curve.

    B-factors carry sign and scaling, so lora_alpha = r. A module that one of the three lacks has zeros in its place.
    """
    parts = [(read_adapter(ctx.inputs[role]), sign) for role, sign in SIGNS]
    pairs, rank = combined(parts)
    names = sorted(pairs)
    config = {**parts[0][0].config, "r": rank, "lora_alpha": float(rank), "use_rslora": False}
    if any(part.config.get("target_modules") != config["target_modules"] for part, _ in parts):
        config["target_modules"] = names
    write_adapter(ctx.out, pairs, config)
    summary = {"rank": rank, "modules": len(names), "combined": dict(SIGNS)}
    write_json(ctx.out / "train.json", summary)
    (ctx.out / "curve.jsonl").write_text("", encoding="utf-8")
    ctx.progress(1, 1)


def combined(parts: list[tuple[Adapter, float]]) -> tuple[dict[str, tuple[Any, Any]], int]:
    """({module: (A [R, in], B [out, R])}, R): B @ A is the signed sum of the parts' deltas; R is the ranks' sum."""
    import torch

    names = sorted({name for part, _ in parts for name in part.factors})
    widest = [max((f.a.shape[0] for f in part.factors.values()), default=0) for part, _ in parts]
    pairs: dict[str, tuple[Any, Any]] = {}
    for name in names:
        known = next(part.factors[name] for part, _ in parts if name in part.factors)
        ups, downs = [], []
        for (part, sign), rank in zip(parts, widest, strict=True):
            found = part.factors.get(name) or Factors(
                torch.zeros(rank, known.a.shape[1]), torch.zeros(known.b.shape[0], rank), 1.0
            )
            if found.a.shape[1] != known.a.shape[1] or found.b.shape[0] != known.b.shape[0]:
                raise ActionError("the vectors differ in shape", where=name, remedy="train all three on one base")
            downs.append(found.a)
            ups.append(found.b * (sign * found.scaling))
        pairs[name] = (torch.cat(downs, 0), torch.cat(ups, 1))
    return pairs, sum(widest)
