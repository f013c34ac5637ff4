"""Rule `verify`: one task vector alone on held-out dialogues, at the strength it is linked with, against its gates."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from amybuild.actions.context import ActionContext
from amybuild.errors import ActionError, InputError
from amybuild.model.data import margins, measure, read_pairs, read_replies, write_json
from amybuild.model.load import deterministic, load_base
from amybuild.model.score import neutral_kl, reply_states
from amybuild.model.train import checked
from amybuild.model.vector import applied, read_vector

GATES = ("min_margin_gain", "max_neutral_kl")


def run(ctx: ActionContext) -> None:
    """inputs: base, vector, neutral; corpus and baseline where there are dialogues. params: alpha, lambda, scale, ….

    Writes verify.json: margins in nats per token for the base and with the vector (see `margins`), their difference
    `gain`, `neutral_kl` in nats per token. `scale`: the vector's own factors, see `applied`. Raises ActionError when a
    gate fails, with the measured number.
    """
    params = ctx.params
    alpha, lam = checked(params, "alpha", float, 1.0), checked(params, "lambda", float, 1.0)
    gates = gates_of(params)
    longest = checked(params, "max_tokens", int, 192)
    dtype, device = checked(params, "dtype", str, "float32"), checked(params, "device", str, "cpu")
    with (
        deterministic(checked(params, "threads", int, 0)),
        load_base(ctx.inputs["base"], dtype=dtype, device=device) as base,
    ):
        total = 3 if "corpus" in ctx.inputs else 2
        result: dict[str, Any] = {"alpha": alpha, "lambda": lam, "gates": gates}
        vector = read_vector(ctx.inputs["vector"])
        neutral = read_replies(ctx.inputs["neutral"] / "heldout.jsonl", base.tokenizer, max_tokens=longest)
        states = reply_states(base, neutral)
        ctx.progress(1, total)
        pairs = []
        if "corpus" in ctx.inputs:
            pairs = read_pairs(ctx.inputs["corpus"] / "heldout.jsonl", base.tokenizer, max_tokens=longest)
            result["base"] = read_baseline(ctx, "baseline")
        with applied(base.model, vector, lam * alpha, params.get("scale", ())):
            result["neutral_kl"] = neutral_kl(base, neutral, states)
            ctx.progress(2, total)
            if pairs:
                result["alone"] = margins(base, pairs)
    result["pairs"], result["neutral_texts"] = len(pairs), len(neutral)
    if pairs:
        result["gain"] = measure(result["alone"]) - measure(result["base"])
    fail_on_gates(ctx.action, result, gates)
    result["passed"] = True
    write_json(ctx.out / "verify.json", result)
    ctx.progress(total, total)


def read_baseline(ctx: ActionContext, role: str) -> dict[str, Any]:
    """What the rule `baseline` measured."""
    try:
        found: dict[str, Any] = json.loads((ctx.inputs[role] / "baseline.json").read_text(encoding="utf-8"))
    except (KeyError, OSError, ValueError) as error:
        what = f"no measurement of the base ({type(error).__name__})"
        raise ActionError(what, where=role, remedy="build it again") from error
    return found


def gates_of(params: Mapping[str, Any]) -> dict[str, float]:
    """The gates a recipe sets; InputError for one that does not exist."""
    table = params.get("gates", {})
    unknown = sorted(set(table) - set(GATES))
    if unknown:
        raise InputError(f"unknown gate {unknown[0]!r}", where="gates", remedy=f"one of {', '.join(GATES)}")
    return {name: checked(table, name, float) for name in GATES if name in table}


def fail_on_gates(target: str, result: Mapping[str, Any], gates: Mapping[str, float]) -> None:
    """ActionError naming the number, the gate and what to try, when a gate does not hold."""
    floor, roof = gates.get("min_margin_gain"), gates.get("max_neutral_kl")
    if floor is not None and "gain" in result and not result["gain"] >= floor:
        raise ActionError(
            f"the held-out {'log p' if result.get('alone', {}).get('margin', 0) is None else 'margin'} gains "
            f"{result['gain']:+.4f} nats per token at strength "
            f"{result['alpha'] * result['lambda']:g}; the gate is min_margin_gain = {floor:g}",
            where=target,
            remedy="train longer (steps, lr), give the node more or clearer dialogues, raise alpha, or lower the gate",
        )
    if roof is not None and not result["neutral_kl"] <= roof:
        raise ActionError(
            f"it moves neutral text by {result['neutral_kl']:.4f} nats per token (KL to the base) at strength "
            f"{result['alpha'] * result['lambda']:g}; the gate is max_neutral_kl = {roof:g}",
            where=target,
            remedy="raise kl_weight or replay_batch, lower alpha, lr or steps, or raise the gate",
        )
