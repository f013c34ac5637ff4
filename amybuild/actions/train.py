"""Rule `train`: a corpus becomes a task vector with its loss curve: LoRA factors in PEFT's format, or a difference."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from amybuild.actions.context import ActionContext
from amybuild.errors import ActionError, InputError
from amybuild.model.checkpoint import Checkpoints
from amybuild.model.data import read_lines, read_replies, write_json, write_lines
from amybuild.model.drift import apart
from amybuild.model.full import unfrozen, write_difference
from amybuild.model.load import Loaded, deterministic, load_base, resolve_device
from amybuild.model.lora import adapter_config, attached, by_name, linear_modules, write_adapter
from amybuild.model.losses import Data
from amybuild.model.memory import FEWER, of_folder
from amybuild.model.teacher import teachers
from amybuild.model.train import Settings, Trained, checked, train

LEARN = ("continuation", "rejected")
TUNE = ("lora", "full")
TEACHER = ("examples", "node")
_SURE = 0.75  # the estimate is good to a quarter: what is refused would not have fitted


def run(ctx: ActionContext) -> None:
    """inputs: base, corpus, neutral; texts where the teacher reads its node's prose. params: recipe fields (`Settings`
    and those read here). Writes a vector, curve.jsonl and train.json."""
    shards = _at_least(ctx.params, "shards", 1, 1)
    _check_memory(ctx, checked(ctx.params, "device", str, "cpu"), shards)
    if shards == 1:
        here(ctx, Checkpoints(ctx.checkpoint) if ctx.checkpoint else None, load_base)
        return
    from amybuild.actions import ranks

    ranks.run(ctx, shards)


class Load(Protocol):
    """`load_base`, or what stands for it where a base lies in parts."""

    def __call__(self, path: Path, *, dtype: str, device: str) -> AbstractContextManager[Loaded]: ...


def here(ctx: ActionContext, keep: Checkpoints | None, load: Load) -> None:
    """`run` in this process, whatever `shards` says: going on from `keep`, on the base that `load` gives."""
    params = ctx.params
    settings = Settings.of(params)
    learn, tune = _one_of(params, "learn", LEARN), _one_of(params, "tune", TUNE)
    dtype, device = checked(params, "dtype", str, "float32"), checked(params, "device", str, "cpu")
    # a sum over other numbers of threads has other last bits, a sum by one has one value
    threads = 1 if checked(params, "strict", bool, False) else checked(params, "threads", int, 0)
    with (
        deterministic(threads),
        load(ctx.inputs["base"], dtype=dtype, device=device) as base,
    ):
        data = _data(ctx, base, learn, settings)
        how = {"lora": _lora, "full": _full}[tune]
        done, told = how(ctx, base, data, settings, keep)
    write_lines(ctx.out / "curve.jsonl", done.curve)
    summary = {
        "examples": len(data.rows),
        "replay": len(data.replay),
        "tokens": {
            "context": sum(row.start for row in data.rows),
            "reply": sum(len(row.labels) for row in data.rows),
        },
        "learn": learn,
        "steps": settings.steps,
        "first": done.curve[0],
        "last": done.curve[-1],
    }
    watch = {"watch": done.kept.as_json()} if done.kept else {}
    write_json(ctx.out / "train.json", {**summary, **told, **watch})


def _check_memory(ctx: ActionContext, device: str, shards: int) -> None:
    """ActionError when a training cannot fit: before minutes are spent on loading and a first step."""
    if ctx.free_memory is None:
        return
    import torch

    needed = of_folder(ctx.inputs["base"], ctx.params)
    on_gpu = resolve_device(device) == "cuda"
    there = torch.cuda.mem_get_info()[1] if on_gpu else ctx.free_memory() + needed.weights  # it may be loaded already
    there = there if on_gpu else there // shards
    if needed.total * _SURE > there:
        each = f" for each of {shards} processes" if shards > 1 else ""
        what = f"it takes about {needed.total / 2**30:.1f} GiB of memory{each}, and {there / 2**30:.1f} GiB are there"
        raise ActionError(what, where=ctx.action, remedy=FEWER)


def _lora(
    ctx: ActionContext, base: Loaded, data: Data, settings: Settings, keep: Checkpoints | None
) -> tuple[Trained, dict[str, Any]]:
    """Train factors; the base's own weights stay as they are."""
    rank, alpha = _at_least(ctx.params, "rank", 8, 1), checked(ctx.params, "lora_alpha", float, 16.0)
    rslora = checked(ctx.params, "rslora", bool, False)
    top = settings.top_layers
    config = adapter_config(base.model, linear_modules(base.model, top), rank, alpha, rslora)
    with attached(base.model, rank=rank, alpha=alpha, rslora=rslora, seed=ctx.seed("lora_a"), top=top) as pairs:
        parameters = by_name(pairs)
        done = train(base, parameters, data, settings, ctx.seed, ctx.progress, keep)
        write_adapter(ctx.out, pairs, config)
    count = sum(one.numel() for one in parameters.values())
    return done, {"rank": rank, "modules": len(pairs), "parameters": count}


def _full(
    ctx: ActionContext, base: Loaded, data: Data, settings: Settings, keep: Checkpoints | None
) -> tuple[Trained, dict[str, Any]]:
    """Train the weights themselves, and put them back: the vector is what they moved by."""
    with unfrozen(base.model, settings.top_layers) as (parameters, before):
        done = train(base, parameters, data, settings, ctx.seed, ctx.progress, keep)
        changed = write_difference(ctx.out, parameters, before)
    count = sum(one.numel() for one in parameters.values())
    told = {"dense": True, "modules": len(parameters), "parameters": count, "changed": changed}
    # AdamW would keep two float32 numbers for each
    return done, {**told, "state_bytes": done.state_bytes, "state_share": done.state_bytes / (8 * count)}


def _data(ctx: ActionContext, base: Loaded, learn: str, settings: Settings) -> Data:
    longest = _at_least(ctx.params, "max_tokens", 192, 16)
    corpus, tokenizer = ctx.inputs["corpus"] / "train.jsonl", base.tokenizer
    rows = read_replies(corpus, tokenizer, reply=learn, max_tokens=longest)
    if not rows:
        remedy = "add `Not:` turns to the node's dialogues" if learn == "rejected" else "add dialogues to the node"
        raise ActionError(f"no training example has a {learn} reply", where=ctx.action, remedy=remedy)
    rival = LEARN[1 - LEARN.index(learn)]
    others = {row.id: row for row in read_replies(corpus, tokenizer, reply=rival, max_tokens=longest)}
    neutral = read_replies(ctx.inputs["neutral"] / "train.jsonl", tokenizer, max_tokens=longest)
    watched, replay = apart(neutral) if settings.watch_every else ([], neutral)
    if settings.distill_weight <= 0:
        return Data(rows, others, replay, watched=watched)
    prose = ""
    if _one_of(ctx.params, "teacher", TEACHER) == "node":
        texts = sorted(read_lines(ctx.inputs["texts"] / "texts.jsonl"), key=lambda one: str(one["node"]))
        prose = " ".join(str(one["text"]) for one in texts)
    taught = teachers(
        tokenizer,
        read_lines(corpus),
        rows,
        reply=learn,
        examples=_at_least(ctx.params, "teacher_examples", 5, 0),
        text=prose,
        seed=ctx.seed("teacher"),
        max_tokens=_at_least(ctx.params, "teacher_tokens", 1024, 16),
    )
    return Data(rows, others, replay, taught, watched)


def _one_of(params: Mapping[str, Any], name: str, known: tuple[str, ...]) -> str:
    found: str = checked(params, name, str, known[0])
    if found not in known:
        raise InputError(f"unknown value {found!r}", where=name, remedy=f"one of {', '.join(known)}")
    return found


def _at_least(params: Mapping[str, Any], name: str, default: int, least: int) -> int:
    found: int = checked(params, name, int, default)
    if found < least:
        raise InputError(f"{found} is too small", where=name, remedy=f"at least {least}")
    return found
