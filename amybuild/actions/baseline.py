"""Rule `baseline`: the base alone on what a vector is measured by, so that every gain has something to start from."""

from __future__ import annotations

from typing import Any

from amybuild.actions.context import ActionContext
from amybuild.actions.degeneracy import sampled
from amybuild.errors import ActionError
from amybuild.model.data import margins, read_pairs, write_json
from amybuild.model.load import deterministic, load_base
from amybuild.model.prose import encode_prose
from amybuild.model.train import checked


def run(ctx: ActionContext) -> None:
    """inputs: base, neutral; corpus where there are dialogues. params: samples, sample_tokens, max_tokens, ….

    Writes baseline.json: `margins` in the chat template, the same in `prose`, and `samples` (see `account`). It knows
    no coefficient: a changed alpha measures the base on nothing again.
    """
    params = ctx.params
    dtype, device = checked(params, "dtype", str, "float32"), checked(params, "device", str, "cpu")
    longest = checked(params, "max_tokens", int, 192)
    count, length = checked(params, "samples", int, 8), checked(params, "sample_tokens", int, 32)
    found: dict[str, Any] = {}
    with (
        deterministic(checked(params, "threads", int, 0)),
        load_base(ctx.inputs["base"], dtype=dtype, device=device) as base,
    ):
        if "corpus" in ctx.inputs:
            file = ctx.inputs["corpus"] / "heldout.jsonl"
            pairs = read_pairs(file, base.tokenizer, max_tokens=longest)
            if not pairs:
                remedy = "add `Not:` turns to the node's dialogues"
                raise ActionError("no held-out pair to measure", where=ctx.action, remedy=remedy)
            prose = margins(base, read_pairs(file, base.tokenizer, max_tokens=longest, form=encode_prose))
            found = {**margins(base, pairs), "pairs": len(pairs), "prose": prose}
        found["samples"] = sampled(base, ctx.inputs, count, length)
    write_json(ctx.out / "baseline.json", found)
    ctx.progress(1, 1)
