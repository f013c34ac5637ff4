"""Rule `activations`: what the base's residual stream holds for each text, one pooled row per text and block."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from amybuild.actions.context import ActionContext
from amybuild.actions.pooled import Pooled
from amybuild.errors import ActionError, InputError
from amybuild.model.hooks import Enough, capture, decoder_blocks
from amybuild.model.load import deterministic, load_base
from amybuild.model.score import decoder_of
from amybuild.model.train import checked

READINGS = ("mean", "last", "answer")


def run(ctx: ActionContext) -> None:
    """inputs: base, texts, optional neutral. params: layers ("auto" = all, or a list), reading, max_tokens.

    Writes activations.safetensors (`layer_<idx>` float32 [n_texts, hidden], rows in the order of texts.jsonl;
    `neutral_<idx>` the same for the base's neutral replies) and ids.json. Texts go in raw (no chat template), one per
    forward pass, so that no row depends on its neighbours; the pass ends behind the last block that is read. A text
    that was read before, in whatever build, is not read again.

    reading: which of the text's own tokens count, `mean` all of them, `last` the last, `answer` those from the
    character `answer` of its line on. Never special tokens, and never position 0, whatever stands there: models park
    a norm many times larger than any other on their first token, and it would drown the mean.
    """
    import torch
    from safetensors.torch import save_file

    params = ctx.params
    reading = checked(params, "reading", str, "mean")
    if reading not in READINGS:
        raise InputError(f"unknown reading '{reading}'", where="reading", remedy=f"one of {', '.join(READINGS)}")
    longest = checked(params, "max_tokens", int, 256)
    if longest < 2:
        raise InputError("must be at least 2", where="max_tokens")
    texts = {"layer": read_lines(ctx.inputs["texts"] / "texts.jsonl", "text")}
    if "neutral" in ctx.inputs:
        texts["neutral"] = read_lines(ctx.inputs["neutral"] / "train.jsonl", "continuation")
    dtype, device = checked(params, "dtype", str, "float32"), checked(params, "device", str, "cpu")
    rows: dict[str, Any] = {}
    with (
        deterministic(checked(params, "threads", int, 0)),
        torch.no_grad(),  # not inference_mode: the loaded base is shared with actions that train
        load_base(ctx.inputs["base"], dtype=dtype, device=device) as base,
    ):
        count = len(decoder_blocks(base.model))
        layers = block_numbers(params.get("layers", "auto"), count)
        hidden = int(base.model.config.get_text_config(decoder=True).hidden_size)
        known = Pooled(ctx.memo, [ctx.digests.get("base"), dtype, str(base.device.type), longest], layers, hidden)
        done, total = 0, sum(map(len, texts.values()))
        for kind, lines in texts.items():
            how = "mean" if kind == "neutral" else reading
            found = []
            for line in lines:
                answer = read_answer(line) if how == "answer" else 0
                entry = [how, answer, line["text"]]
                row = known.get(entry)
                if row is None:
                    row = read_text(base, layers, line, how, answer, longest)
                    known.put(entry, row)
                found.append(row)
                done += 1
                ctx.progress(done, total)
            stacked = torch.stack(found)
            rows |= {f"{kind}_{layer}": stacked[:, i].contiguous() for i, layer in enumerate(layers)}
    known.prune()
    if not all(bool(torch.isfinite(value).all()) for value in rows.values()):
        raise ActionError("the activations are not finite", where=ctx.action, remedy='use dtype = "float32"')
    save_file(rows, ctx.out / "activations.safetensors")
    about = {
        "format_version": 1,
        "ids": [line["id"] for line in texts["layer"]],
        "layers": layers,
        "num_layers": count,
        "hidden_size": hidden,
        "reading": reading,
        "max_tokens": longest,
    }
    (ctx.out / "ids.json").write_text(json.dumps(about, sort_keys=True) + "\n", encoding="utf-8")


def read_lines(path: Path, field: str) -> list[dict[str, Any]]:
    """The lines of a JSONL file as {"id", "text", …}, in its order, the text from `field`; ActionError for none."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not lines:
        raise ActionError("no texts to read", where=path.name, remedy="tag more memories, or choose other concepts")
    return [{**line, "id": str(line["id"]), "text": str(line[field])} for line in lines]


def read_answer(line: dict[str, Any]) -> int:
    """The character at which a line's answer begins; ActionError when it has none."""
    start = line.get("answer")
    if type(start) is not int or not 0 <= start < len(line["text"]):
        remedy = 'use reading = "mean", or give texts that say where their answer begins'
        raise ActionError("it has no answer to read", where=f"text {line['id']}", remedy=remedy)
    return start


def block_numbers(layers: Any, count: int) -> list[int]:
    """The blocks asked for, ascending: all `count` of them for "auto"; InputError for one that does not exist."""
    if layers == "auto":
        return list(range(count))
    whole = isinstance(layers, list) and layers and all(type(n) is int and 0 <= n < count for n in layers)
    if not whole:
        raise InputError(
            f'must be "auto" or a list of blocks from 0 to {count - 1}, not {layers!r}',
            where="layers",
            remedy="blocks are counted from 0; block n's output is read",
        )
    return sorted(set(layers))


def places(
    tokens: Sequence[int], ends: Sequence[int] | None, special: set[int], reading: str, answer: int
) -> list[int]:
    """The positions that a reading takes; `ends`: the character behind each token, for `answer` only."""
    own = [place for place, token in enumerate(tokens) if place > 0 and token not in special]
    if reading == "last":
        return own[-1:]
    if reading == "answer" and ends is not None:
        return [place for place in own if ends[place] > answer]
    return own


def read_text(base: Any, layers: Sequence[int], line: dict[str, Any], reading: str, answer: int, longest: int) -> Any:
    """float32 [n_layers, hidden] on the CPU: one forward pass over one text, up to the last of `layers`."""
    import torch

    batch = base.tokenizer(
        line["text"],
        add_special_tokens=True,
        truncation=True,
        max_length=longest,
        return_offsets_mapping=reading == "answer",
    )
    ends = [end for _, end in batch["offset_mapping"]] if reading == "answer" else None
    read = places(batch["input_ids"], ends, set(base.tokenizer.all_special_ids), reading, answer)
    if not read:
        raise ActionError(
            "too short to be read: no token of its own after the first",
            where=f"text {line['id']}",
            remedy="raise 'min_chars' or 'max_tokens' in the recipe",
        )

    def pool(hidden: Any) -> Any:
        return hidden[0, read].float().mean(0)

    ids = torch.tensor([batch["input_ids"]], device=base.device)
    with capture(base.model, layers, pool, stop=True) as found, suppress(Enough):
        decoder_of(base.model)(input_ids=ids, use_cache=False)
    return torch.stack([found[layer].cpu() for layer in layers])
