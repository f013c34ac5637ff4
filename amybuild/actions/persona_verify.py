"""Rule `persona_verify`: the linked checkpoint on every behaviour's held-out dialogues, beside the base."""

from __future__ import annotations

from typing import Any

from amybuild.actions.context import ActionContext
from amybuild.actions.verify import read_baseline
from amybuild.errors import ActionError
from amybuild.model.data import margins, measure, read_pairs, read_replies, write_json
from amybuild.model.load import deterministic, load_base
from amybuild.model.score import neutral_kl, reply_states
from amybuild.model.train import checked


def run(ctx: ActionContext) -> None:
    """inputs: base, checkpoint, neutral, corpus.<name>…, baseline.<name>…. params: max_neutral_kl (a gate), ….

    Writes verify.json: per behaviour its held-out margin (nats per token) in the base and in the persona, and the gain
    of the one over the other; the neutral KL(base || persona). Nothing here depends on the vectors' own verification,
    so that a sweep of coefficients measures checkpoints only; persona.json puts the numbers side by side.
    """
    params = ctx.params
    longest = checked(params, "max_tokens", int, 192)
    dtype, device = checked(params, "dtype", str, "float32"), checked(params, "device", str, "cpu")
    names = sorted(role.removeprefix("corpus.") for role in ctx.inputs if role.startswith("corpus."))
    total = len(names) + 2
    behaviours: dict[str, Any] = {}
    with (
        deterministic(checked(params, "threads", int, 0)),
        load_base(ctx.inputs["base"], dtype=dtype, device=device) as base,
        load_base(ctx.inputs["checkpoint"], dtype=dtype, device=device, keep=False) as persona,
    ):
        neutral = read_replies(ctx.inputs["neutral"] / "heldout.jsonl", base.tokenizer, max_tokens=longest)
        states = reply_states(base, neutral)
        ctx.progress(1, total)
        kl = neutral_kl(base, neutral, states, persona)
        ctx.progress(2, total)
        for done, name in enumerate(names, 3):
            pairs = read_pairs(ctx.inputs[f"corpus.{name}"] / "heldout.jsonl", persona.tokenizer, max_tokens=longest)
            before, found = read_baseline(ctx, f"baseline.{name}"), margins(persona, pairs)
            behaviours[name] = {
                "measure": "log p" if found["margin"] is None else "margin",
                "base": measure(before),
                "persona": measure(found),
                "gain": measure(found) - measure(before),
                "pairs": len(pairs),
                "behaviour": [before["margin_behaviour"], found["margin_behaviour"]],
                "counter": [before["margin_counter"], found["margin_counter"]],
            }
            ctx.progress(done, total)
    gate = params.get("max_neutral_kl")
    if gate is not None and not kl <= checked(params, "max_neutral_kl", float):
        raise ActionError(
            f"the persona moves neutral text by {kl:.4f} nats per token (KL to the base); the gate is {gate:g}",
            where=ctx.action,
            remedy="lower link.lambda or the alphas of the strongest vectors",
        )
    gained = sum(1 for row in behaviours.values() if row["gain"] > 0)
    write_json(
        ctx.out / "verify.json",
        {"behaviours": behaviours, "neutral_kl": kl, "neutral_texts": len(neutral), "gained": gained},
    )
