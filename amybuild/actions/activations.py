"""Rule `activations`: what the base's residual stream holds for each text, one pooled row per text and block."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amybuild.actions.context import ActionContext
from amybuild.errors import ActionError, InputError
from amybuild.model.hooks import capture, decoder_blocks
from amybuild.model.load import deterministic, load_base
from amybuild.model.score import decoder_of
from amybuild.model.train import checked

READINGS = ("mean", "last")


@dataclass(frozen=True)
class Encoded:
    """A text as token ids, and which positions are read."""

    row: int  # of texts.jsonl
    ids: tuple[int, ...]
    read: tuple[bool, ...]


def run(ctx: ActionContext) -> None:
    """inputs: base, texts. params: layers ("auto" = all blocks, or a list), reading (mean | last), max_tokens, batch.

    Writes activations.safetensors (`layer_<idx>` float32 [n_texts, hidden], rows in the order of texts.jsonl) and
    ids.json. Texts go in raw (no chat template), right-padded, longest last; the language-model head is not run. Read
    are the text's own tokens: no pads, no special tokens, and not position 0, whatever stands there: models park a
    norm many times larger than any other on their first token, and it would drown the mean.
    """
    import torch
    from safetensors.torch import save_file

    params = ctx.params
    reading = checked(params, "reading", str, "mean")
    if reading not in READINGS:
        raise InputError(f"unknown reading '{reading}'", where="reading", remedy=f"one of {', '.join(READINGS)}")
    longest, batch = checked(params, "max_tokens", int, 256), checked(params, "batch", int, 8)
    if longest < 2 or batch < 1:
        raise InputError("max_tokens must be at least 2, batch at least 1", where=ctx.action)
    ids, texts = read_texts(ctx.inputs["texts"] / "texts.jsonl")
    dtype, device = checked(params, "dtype", str, "float32"), checked(params, "device", str, "cpu")
    with (
        deterministic(checked(params, "threads", int, 0)),
        torch.no_grad(),  # not inference_mode: the loaded base is shared with actions that train
        load_base(ctx.inputs["base"], dtype=dtype, device=device) as base,
    ):
        count = len(decoder_blocks(base.model))
        layers = block_numbers(params.get("layers", "auto"), count)
        encoded = encode(base.tokenizer, texts, ids, longest)
        hidden = int(base.model.config.get_text_config(decoder=True).hidden_size)
        rows = {layer: torch.zeros(len(texts), hidden) for layer in layers}
        done = 0
        for group in batches(encoded, batch):
            for layer, pooled in _pooled(base, layers, group, reading).items():
                rows[layer][[one.row for one in group]] = pooled
            done += len(group)
            ctx.progress(done, len(encoded))
    for row, first in _repeats(texts):
        for layer in layers:
            rows[layer][row] = rows[layer][first]
    if not all(bool(torch.isfinite(value).all()) for value in rows.values()):
        raise ActionError("the activations are not finite", where=ctx.action, remedy='use dtype = "float32"')
    save_file({f"layer_{layer}": rows[layer] for layer in layers}, ctx.out / "activations.safetensors")
    about = {
        "format_version": 1,
        "ids": ids,
        "layers": layers,
        "num_layers": count,
        "hidden_size": hidden,
        "reading": reading,
        "max_tokens": longest,
    }
    (ctx.out / "ids.json").write_text(json.dumps(about, sort_keys=True) + "\n", encoding="utf-8")


def read_texts(path: Path) -> tuple[list[str], list[str]]:
    """(ids, texts) of texts.jsonl, in its order; ActionError when there are none."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not lines:
        raise ActionError("no texts to read", where=path.name, remedy="tag more memories, or choose other concepts")
    return [str(line["id"]) for line in lines], [str(line["text"]) for line in lines]


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


def encode(tokenizer: Any, texts: Sequence[str], ids: Sequence[str], longest: int) -> list[Encoded]:
    """The unique texts as tokens, with the special tokens the model expects before a text."""
    special = set(tokenizer.all_special_ids)
    encoded, seen = [], set()
    for row, text in enumerate(texts):
        if text in seen:
            continue
        seen.add(text)
        tokens = tokenizer(text, add_special_tokens=True, truncation=True, max_length=longest)["input_ids"]
        read = tuple(place > 0 and token not in special for place, token in enumerate(tokens))
        if not any(read):
            raise ActionError(
                "too short to be read: no token of its own after the first", where=f"text {ids[row]}",
                remedy="raise 'min_chars' in the recipe",
            )  # fmt: skip
        encoded.append(Encoded(row, tuple(tokens), read))
    return encoded


def batches(encoded: Sequence[Encoded], size: int) -> Iterator[list[Encoded]]:
    """Texts of like length together, so that little is padded."""
    ordered = sorted(encoded, key=lambda one: (len(one.ids), one.ids))
    for start in range(0, len(ordered), size):
        yield ordered[start : start + size]


def _pooled(base: Any, layers: Sequence[int], group: Sequence[Encoded], reading: str) -> dict[int, Any]:
    """Per layer float32 [len(group), hidden] of one batch."""
    import torch

    longest = max(len(one.ids) for one in group)
    ids = torch.zeros(len(group), longest, dtype=torch.long)  # what stands under a pad is masked out
    mask = torch.zeros(len(group), longest, dtype=torch.long)
    weight = torch.zeros(len(group), longest, 1)
    for i, one in enumerate(group):
        length = len(one.ids)
        ids[i, :length] = torch.tensor(one.ids)
        mask[i, :length] = 1
        places = [place for place, read in enumerate(one.read) if read]
        if reading == "last":
            places = places[-1:]
        weight[i, places] = 1.0 / len(places)
    weight = weight.to(base.device)

    def pool(hidden: Any) -> Any:
        # a weight of 0 must hide a pad whatever it holds, infinities too
        return torch.where(weight > 0, hidden.float() * weight, 0.0).sum(1)

    with capture(base.model, layers, pool) as found:
        decoder_of(base.model)(input_ids=ids.to(base.device), attention_mask=mask.to(base.device), use_cache=False)
    return {layer: value.cpu() for layer, value in found.items()}


def _repeats(texts: Sequence[str]) -> list[tuple[int, int]]:
    first: dict[str, int] = {}
    return [(row, first[text]) for row, text in enumerate(texts) if first.setdefault(text, row) != row]
