"""Rule `persona_measure`: what was linked, on every behaviour's held-out dialogues, beside the base."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from amybuild.actions.context import ActionContext
from amybuild.actions.measured import read_measured
from amybuild.model.data import margins, measure, read_pairs, read_replies, write_json
from amybuild.model.divergence import divergence
from amybuild.model.load import Loaded, deterministic, load_base
from amybuild.model.score import reply_states
from amybuild.model.train import checked
from amybuild.model.vector import applied, read_vector


def run(ctx: ActionContext) -> None:
    """inputs: base, checkpoint | adapter, neutral, corpus.<name>…, baseline.<name>…. params: max_tokens, device, ….

    Writes measure.json: per behaviour its held-out margin (nats per token) in the base and in the persona, and the gain
    of the one over the other; the neutral KL(base || persona) and perplexity ratio. Nothing here depends on the
    vectors' own measurements, so that a sweep of coefficients measures checkpoints only; the gate beside it does.
    """
    params = ctx.params
    longest = checked(params, "max_tokens", int, 192)
    dtype, device = checked(params, "dtype", str, "float32"), checked(params, "device", str, "cpu")
    names = sorted(role.removeprefix("corpus.") for role in ctx.inputs if role.startswith("corpus."))
    befores = {name: read_measured(ctx, f"baseline.{name}", "baseline.json") for name in names}
    total = len(names) + 2
    behaviours: dict[str, Any] = {}
    with (
        deterministic(checked(params, "threads", int, 0)),
        load_base(ctx.inputs["base"], dtype=dtype, device=device) as base,
    ):
        neutral = read_replies(ctx.inputs["neutral"] / "heldout.jsonl", base.tokenizer, max_tokens=longest)
        states = reply_states(base, neutral)
        ctx.progress(1, total)
        with _linked(ctx, base, dtype, device) as persona:
            moved = divergence(base, neutral, states, persona)
            ctx.progress(2, total)
            for done, (name, before) in enumerate(befores.items(), 3):
                file = ctx.inputs[f"corpus.{name}"] / "heldout.jsonl"
                pairs = read_pairs(file, persona.tokenizer, max_tokens=longest)
                found = margins(persona, pairs)
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
    result = {"behaviours": behaviours, "neutral_kl": moved.kl, "ppl_ratio": moved.ppl_ratio}
    result |= {"neutral_texts": len(neutral), "gained": sum(1 for row in behaviours.values() if row["gain"] > 0)}
    write_json(ctx.out / "measure.json", result)


@contextmanager
def _linked(ctx: ActionContext, base: Loaded, dtype: str, device: str) -> Iterator[Loaded]:
    """The checkpoint, or the base with the merged adapter added to its weights inside the block."""
    if "adapter" in ctx.inputs:
        with applied(base.model, read_vector(ctx.inputs["adapter"]), 1.0):
            yield base
        return
    with load_base(ctx.inputs["checkpoint"], dtype=dtype, device=device, keep=False) as persona:
        yield persona
