"""Rule `baseline`: the base alone on a behaviour's held-out dialogues, what every gain is measured from."""

from __future__ import annotations

from amybuild.actions.context import ActionContext
from amybuild.errors import ActionError
from amybuild.model.data import margins, read_pairs, write_json
from amybuild.model.load import deterministic, load_base
from amybuild.model.train import checked


def run(ctx: ActionContext) -> None:
    """inputs: base, corpus. params: max_tokens, dtype, device, threads. Writes baseline.json: see `margins`.

    It knows no coefficient: a changed alpha measures the base on nothing again.
    """
    params = ctx.params
    dtype, device = checked(params, "dtype", str, "float32"), checked(params, "device", str, "cpu")
    with (
        deterministic(checked(params, "threads", int, 0)),
        load_base(ctx.inputs["base"], dtype=dtype, device=device) as base,
    ):
        longest = checked(params, "max_tokens", int, 192)
        pairs = read_pairs(ctx.inputs["corpus"] / "heldout.jsonl", base.tokenizer, max_tokens=longest)
        if not pairs:
            remedy = "add `Not:` turns to the node's dialogues"
            raise ActionError("no held-out pair to measure", where=ctx.action, remedy=remedy)
        found = margins(base, pairs)
    write_json(ctx.out / "baseline.json", {**found, "pairs": len(pairs)})
    ctx.progress(1, 1)
