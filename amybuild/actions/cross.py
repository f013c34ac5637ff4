"""Rule `cross`: what each vector does to the held-out dialogues of every other behaviour."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from amybuild.actions.context import ActionContext
from amybuild.actions.measured import read_measured
from amybuild.actions.remembered import Remembered
from amybuild.model.data import margins, measure, read_pairs, write_json
from amybuild.model.load import Loaded, deterministic, load_base
from amybuild.model.train import checked
from amybuild.model.vector import applied, read_vector

_VERSION = 1
_MOST = 1 << 24  # bytes of files that are kept


def run(ctx: ActionContext) -> None:
    """inputs: base, vector.<name>…, corpus.<name>…, baseline.<name>…. params: lambda; by vector alphas, scale, and
    `how` it is measured (dtype, device, threads); max_tokens, by behaviour.

    Writes cross.json: `effects`, vector -> every other behaviour -> gain over the base's baseline, nats per token. A
    pair is remembered by what it was measured from, so that a behaviour that is added or edited costs its own row and
    column and no other pair.
    """
    params = ctx.params
    longest, vectors = params["max_tokens"], sorted(params["alphas"])
    known = Remembered(ctx.memo / "cross" if ctx.memo and ctx.digests else None, "cross", _MOST)
    befores = {name: measure(read_measured(ctx, f"baseline.{name}", "baseline.json")) for name in sorted(longest)}
    total, done = sum(len(longest) - (name in longest) for name in vectors), 0
    effects: dict[str, dict[str, float]] = {}
    for name in vectors:
        how, strength = params["how"][name], params["lambda"] * params["alphas"][name]
        scale = params["scale"].get(name, ())
        others = [other for other in befores if other != name]
        behind = {other: [strength, list(scale), *_behind(ctx, name, how, other, longest[other])] for other in others}
        found = {other: _recalled(known, behind[other]) for other in others}
        missing = [other for other in others if found[other] is None]
        if missing:
            with deterministic(checked(how, "threads", int, 0)), _base(ctx, how) as base:
                vector = read_vector(ctx.inputs[f"vector.{name}"])
                with applied(base.model, vector, strength, scale):
                    for other in missing:
                        value = _measured(ctx, base, other, longest[other])
                        known.put(behind[other], json.dumps(value).encode())
                        found[other] = value
                        ctx.progress(done + 1, total)
        effects[name] = {other: value - befores[other] for other, value in found.items() if value is not None}
        done += len(others)
        ctx.progress(done, total)
    known.prune()
    write_json(ctx.out / "cross.json", {"effects": effects})


def _base(ctx: ActionContext, how: Mapping[str, Any]) -> Any:
    dtype, device = checked(how, "dtype", str, "float32"), checked(how, "device", str, "cpu")
    return load_base(ctx.inputs["base"], dtype=dtype, device=device)


def _measured(ctx: ActionContext, base: Loaded, other: str, longest: int) -> float:
    file = ctx.inputs[f"corpus.{other}"] / "heldout.jsonl"
    return measure(margins(base, read_pairs(file, base.tokenizer, max_tokens=longest)))


def _behind(ctx: ActionContext, name: str, how: Mapping[str, Any], other: str, longest: int) -> list[Any]:
    """All that a pair's number depends on, but for the code, which `_VERSION` stands for."""
    import torch
    import transformers

    threads = how.get("threads") or torch.get_num_threads()
    made_from = [ctx.digests.get(role, "") for role in ("base", f"vector.{name}", f"corpus.{other}")]
    gpu = torch.cuda.is_available()
    return [_VERSION, torch.__version__, transformers.__version__, gpu, *made_from, dict(how), threads, longest]


def _recalled(known: Remembered, behind: list[Any]) -> float | None:
    try:
        value = json.loads(known.get(behind) or b"null")
    except ValueError:
        return None
    return value if isinstance(value, float) else None
