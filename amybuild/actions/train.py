"""Rule `train`: a corpus becomes a task vector, LoRA factors in PEFT's adapter format with their loss curve."""

from __future__ import annotations

from amybuild.actions.context import ActionContext
from amybuild.errors import ActionError, InputError
from amybuild.model.checkpoint import Checkpoints
from amybuild.model.data import read_replies, write_json, write_lines
from amybuild.model.load import deterministic, load_base
from amybuild.model.lora import adapter_config, attached, by_name, linear_modules, write_adapter
from amybuild.model.train import Settings, checked, train

LEARN = ("continuation", "rejected")


def run(ctx: ActionContext) -> None:
    """inputs: base, corpus, neutral. params: recipe fields (`Settings` and those read here). Writes a vector."""
    params = ctx.params
    settings = Settings.of(params)
    learn = checked(params, "learn", str, "continuation")
    if learn not in LEARN:
        raise InputError(f"unknown value {learn!r}", where="learn", remedy=f"one of {', '.join(LEARN)}")
    rank = checked(params, "rank", int, 8)
    alpha = checked(params, "lora_alpha", float, 16.0)
    rslora = checked(params, "rslora", bool, False)
    longest = checked(params, "max_tokens", int, 192)
    for name, value, least in (("rank", rank, 1), ("max_tokens", longest, 16)):
        if value < least:
            raise InputError(f"{value} is too small", where=name, remedy=f"at least {least}")
    dtype, device = checked(params, "dtype", str, "float32"), checked(params, "device", str, "cpu")
    with (
        deterministic(checked(params, "threads", int, 0)),
        load_base(ctx.inputs["base"], dtype=dtype, device=device) as base,
    ):
        corpus = ctx.inputs["corpus"] / "train.jsonl"
        rows = read_replies(corpus, base.tokenizer, reply=learn, max_tokens=longest)
        if not rows:
            remedy = "add `Not:` turns to the node's dialogues" if learn == "rejected" else "add dialogues to the node"
            raise ActionError(f"no training example has a {learn} reply", where=ctx.action, remedy=remedy)
        rival = LEARN[1 - LEARN.index(learn)]
        others = {row.id: row for row in read_replies(corpus, base.tokenizer, reply=rival, max_tokens=longest)}
        replay = read_replies(ctx.inputs["neutral"] / "train.jsonl", base.tokenizer, max_tokens=longest)
        config = adapter_config(base.model, linear_modules(base.model), rank, alpha, rslora)
        with attached(base.model, rank=rank, alpha=alpha, rslora=rslora, seed=ctx.seed("lora_a")) as pairs:
            parameters = by_name(pairs)
            keep = Checkpoints(ctx.checkpoint) if ctx.checkpoint else None
            curve = train(base, parameters, rows, others, replay, settings, ctx.seed, ctx.progress, keep)
            write_adapter(ctx.out, pairs, config)
            count = sum(a.numel() + b.numel() for a, b in pairs.values())
    write_lines(ctx.out / "curve.jsonl", curve)
    summary = {
        "examples": len(rows),
        "replay": len(replay),
        "tokens": {"context": sum(row.start for row in rows), "reply": sum(len(row.labels) for row in rows)},
        "learn": learn,
        "rank": rank,
        "modules": len(pairs),
        "parameters": count,
        "steps": settings.steps,
        "first": curve[0],
        "last": curve[-1],
    }
    write_json(ctx.out / "train.json", summary)
