"""Rule `measure`: one task vector alone on held-out text, at the strength it is linked with. It judges nothing."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from amybuild.actions.context import ActionContext
from amybuild.actions.degeneracy import sampled
from amybuild.actions.measured import read_measured
from amybuild.model.data import margins, measure, read_pairs, read_replies, write_json
from amybuild.model.divergence import divergence
from amybuild.model.load import deterministic, load_base
from amybuild.model.prose import encode_prose
from amybuild.model.score import reply_states
from amybuild.model.train import checked
from amybuild.model.vector import applied, read_vector

SHARES = (0.25, 0.5)  # of the linked strength, beside all of it, and 0, which is the base's own measurement


def run(ctx: ActionContext) -> None:
    """inputs: base, vector, neutral, baseline; corpus where there are dialogues. params: alpha, lambda, scale, ….

    Writes measure.json. Always: `neutral_kl` (nats per token) and `ppl_ratio` on the base's held-out neutral replies,
    `samples` of greedy replies with `length_ratio` to the base's. Where there are dialogues: margins in nats per token
    of the base and `alone` (see `margins`) with their difference `gain`, at `shares` of the strength and whether those
    are `monotone`, in `prose` with `prose_gain`, and `own_kl`, KL(base || vector) on the behaviour's own replies.
    `scale`: the vector's own factors, see `applied`.
    """
    params = ctx.params
    alpha, lam = checked(params, "alpha", float, 1.0), checked(params, "lambda", float, 1.0)
    longest = checked(params, "max_tokens", int, 192)
    count, length = checked(params, "samples", int, 8), checked(params, "sample_tokens", int, 32)
    dtype, device = checked(params, "dtype", str, "float32"), checked(params, "device", str, "cpu")
    before = read_measured(ctx, "baseline", "baseline.json")
    result: dict[str, Any] = {"alpha": alpha, "lambda": lam, "base": before, "pairs": 0}
    total = len(SHARES) + 4
    with (
        deterministic(checked(params, "threads", int, 0)),
        load_base(ctx.inputs["base"], dtype=dtype, device=device) as base,
    ):
        vector, scale = read_vector(ctx.inputs["vector"]), params.get("scale", ())
        neutral = read_replies(ctx.inputs["neutral"] / "heldout.jsonl", base.tokenizer, max_tokens=longest)
        states = reply_states(base, neutral)
        if "corpus" in ctx.inputs:
            file = ctx.inputs["corpus"] / "heldout.jsonl"
            pairs = read_pairs(file, base.tokenizer, max_tokens=longest)
            prose = read_pairs(file, base.tokenizer, max_tokens=longest, form=encode_prose)
            own = [pair.wanted for pair in pairs]
            own_states = reply_states(base, own)
            shares = [[0.0, measure(before)]]
            for done, share in enumerate(SHARES, 1):
                with applied(base.model, vector, share * lam * alpha, scale):
                    shares.append([share, measure(margins(base, pairs))])
                ctx.progress(done, total)
        with applied(base.model, vector, lam * alpha, scale):
            if "corpus" in ctx.inputs:
                found = margins(base, pairs)
                result |= {"alone": found, "gain": measure(found) - measure(before), "pairs": len(pairs)}
                shares.append([1.0, measure(found)])
                result |= {"shares": shares, "monotone": all(a[1] <= b[1] for a, b in pairwise(shares))}
                found = margins(base, prose)
                result |= {"prose": found, "prose_gain": measure(found) - measure(before["prose"])}
                result["own_kl"] = divergence(base, own, own_states).kl
            ctx.progress(total - 2, total)
            moved = divergence(base, neutral, states)
            ctx.progress(total - 1, total)
            samples = sampled(base, ctx.inputs, count, length)
    result |= {"neutral_kl": moved.kl, "ppl_ratio": moved.ppl_ratio, "neutral_texts": len(neutral)}
    result["samples"] = samples
    if samples and before["samples"]["length"]:
        result["length_ratio"] = samples["length"] / before["samples"]["length"]
    write_json(ctx.out / "measure.json", result)
    ctx.progress(total, total)
