"""Context-frozen passes: a context is run once without gradient, and its replies read it and never write to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from amybuild.errors import ActionError
from amybuild.model.load import Loaded
from amybuild.model.score import chosen_logits
from amybuild.model.tokens import Encoded, pad_id

LEAST = (5, 7)  # of transformers: earlier ones drop the context of linear-attention layers without a word


def contexts(rows: Sequence[Encoded]) -> list[list[int]]:
    """The places of `rows` grouped by what stands before the reply, in the order in which the contexts first come."""
    found: dict[tuple[int, ...], list[int]] = {}
    for place, row in enumerate(rows):
        found.setdefault(row.ids[: row.start], []).append(place)
    return list(found.values())


def frozen_logits(base: Loaded, rows: Sequence[Encoded]) -> tuple[Any, Any, Any]:
    """`score.reply_logits`, with a gradient that ends where the replies begin.

    Each context but for its last token runs once, without gradient; that token and the replies run together, a row
    each, padded to the right. The values are those of a whole pass. The gradient leaves out what the weights do to the
    keys, values and states of the context: it is truncated there. A cache is stale after an optimiser step, so all
    replies of a context belong into one. ActionError for a base whose layers cannot be read only.
    """
    import torch

    parts: dict[int, tuple[Any, Any]] = {}
    for places in contexts(rows):
        chosen = [rows[place] for place in places]
        logits, states = _of_one(base, chosen)
        sizes = [len(row.labels) for row in chosen]
        parts |= dict(zip(places, zip(logits.split(sizes), states.split(sizes), strict=True), strict=True))
    logits, states = (torch.cat([parts[place][side] for place in range(len(rows))]) for side in (0, 1))
    targets = torch.tensor([token for row in rows for token in row.labels], device=base.device)
    return logits, targets, states


def _of_one(base: Loaded, rows: Sequence[Encoded]) -> tuple[Any, Any]:
    """(logits, states) for the replies of one context."""
    import torch

    length = rows[0].start - 1
    past = _prefix(base, rows[0].ids[:length], len(rows)) if length else None
    # two tokens at least: one would take another path
    parts = [row.ids[length : max(row.end - 1, length + 2)] for row in rows]
    ids = torch.full((len(rows), max(map(len, parts))), pad_id(base.tokenizer), dtype=torch.long)
    for i, part in enumerate(parts):
        ids[i, : len(part)] = torch.tensor(part)
    at = torch.tensor([(i, k) for i, row in enumerate(rows) for k in range(len(row.labels))], device=base.device)
    found = chosen_logits(base, {"input_ids": ids.to(base.device), "past_key_values": past}, at[:, 0], at[:, 1])
    if past is not None and past.get_seq_length() != length:
        raise ActionError("this base writes to a cache that it may only read", where="context_frozen", remedy=_REMEDY)
    return found


def _prefix(base: Loaded, ids: Sequence[int], rows: int) -> Any:
    """The cache of a context, read-only, for so many rows that go on from it."""
    import torch
    import transformers

    if tuple(int(part) for part in transformers.__version__.split(".")[:2]) < LEAST:
        what = f"transformers {transformers.__version__} loses the context of some layers"
        raise ActionError(what, where="context_frozen", remedy="pip install 'transformers>=5.7'")
    with torch.no_grad():
        inputs = torch.tensor([list(ids)], device=base.device)
        past = base.model(input_ids=inputs, use_cache=True, logits_to_keep=1).past_key_values
    for layer in past.layers:
        _read_only(layer, rows)
    return past


_REMEDY = "train without context_frozen on this base"


def _read_only(layer: Any, rows: int) -> None:
    """Have a layer of transformers' cache give its content to so many rows, and take nothing in."""
    import torch
    from transformers import cache_utils as known

    if type(layer) in (known.DynamicLayer, known.DynamicSlidingWindowLayer):
        keys, values = (one.expand(rows, -1, -1, -1) for one in (layer.keys, layer.values))
        layer.update = lambda k, v, *_, **__: (torch.cat([keys, k], -2), torch.cat([values, v], -2))
    elif type(layer) is known.LinearAttentionLayer:
        for held in (layer.conv_states, layer.recurrent_states):
            held.update(
                {i: one.expand(rows, *one.shape[1:]).contiguous() for i, one in held.items() if one is not None}
            )
        before = dict(layer.conv_states)
        layer.update_conv_state = lambda new, state_idx=0, **_: torch.cat([before[state_idx], new], -1)
        layer.update_recurrent_state = lambda new, *_, **__: new
    else:
        what = f"its {type(layer).__name__} cannot be read without being written"
        raise ActionError(what, where="context_frozen", remedy=_REMEDY)
