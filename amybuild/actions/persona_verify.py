"""Rule `persona_verify`: the linked checkpoint on every behaviour's held-out dialogues, beside base and vector."""

from __future__ import annotations

import json
from typing import Any

from amybuild.actions.context import ActionContext
from amybuild.errors import ActionError
from amybuild.model.data import margins, read_pairs, read_replies, write_json
from amybuild.model.load import deterministic, load_base
from amybuild.model.score import neutral_kl, reply_states
from amybuild.model.train import checked


def run(ctx: ActionContext) -> None:
    """inputs: base, checkpoint, neutral, corpus.<name>…, verify.<name>…. params: max_neutral_kl (a gate, optional), ….

    Writes verify.json: per behaviour its held-out margin (nats per token) in the base, with its vector alone and in the
    persona, and the gain of the last over the first; the neutral KL(base || persona). Base and alone come from the
    verify inputs, so that each model is loaded once.
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
            alone = _verified(ctx, name)
            found = margins(persona, pairs)
            behaviours[name] = {
                "base": alone["base"]["margin"],
                "alone": alone["alone"]["margin"],
                "persona": found["margin"],
                "gain": found["margin"] - alone["base"]["margin"],
                "gain_alone": alone["gain"],
                "pairs": len(pairs),
                "behaviour": [alone[who]["margin_behaviour"] for who in ("base", "alone")]
                + [found["margin_behaviour"]],
                "counter": [alone[who]["margin_counter"] for who in ("base", "alone")] + [found["margin_counter"]],
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


def _verified(ctx: ActionContext, name: str) -> dict[str, Any]:
    try:
        file = ctx.inputs[f"verify.{name}"] / "verify.json"
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (KeyError, OSError, ValueError) as error:
        raise ActionError(
            f"no verification of this vector ({type(error).__name__})", where=f"task.{name}", remedy="build it again"
        ) from error
    return found
