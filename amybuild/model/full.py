"""Full-weight training: the weights below the head set free for a while, and what they learned as a difference."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from amybuild.errors import ActionError
from amybuild.model.hooks import decoder_blocks
from amybuild.model.score import decoder_of
from amybuild.model.vector import DELTA


@contextmanager
def unfrozen(model: Any, top: int = 0) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """(parameters, their values now) by name while the block runs; afterwards the model has those values again.

    All weights of the decoder (or of its `top` last blocks), norms and biases too, but the embedding: head and
    embedding stay the base's, so stored last states still give the base's distribution (`score.logits_of`), and a tied
    head is no second place that changes. ActionError when the model does not compute in float32: steps of a small rate
    vanish in less.
    """
    import torch

    where, embedding = list(decoder_blocks(model))[-top:] if top else [decoder_of(model)], model.get_input_embeddings()
    inside = {id(one) for part in where for one in part.parameters()} - {id(one) for one in embedding.parameters()}
    head = model.get_output_embeddings()
    inside -= {id(one) for one in head.parameters()} if head is not None else set()
    free = {name: one for name, one in sorted(model.named_parameters()) if id(one) in inside}
    if any(one.dtype != torch.float32 for one in free.values()):
        raise ActionError("full-weight training needs float32", where="dtype", remedy='set dtype = "float32"')
    before = {name: one.detach().clone() for name, one in free.items()}
    try:
        for one in free.values():
            one.requires_grad_(True)
        yield free, before
    finally:
        with torch.no_grad():
            for name, one in free.items():
                one.requires_grad_(False)
                one.grad = None
                one.copy_(before[name])


def write_difference(folder: Path, parameters: Mapping[str, Any], before: Mapping[str, Any]) -> int:
    """Write `parameters` - `before` by name; returns how many numbers changed.

    Taken in float32, stored as bfloat16: its exponents are float32's, so an entry keeps its size and is off by 2^-9 of
    itself at most. What is verified and linked is what is stored.
    """
    import torch
    from safetensors.torch import save_file

    found = {name: (one.detach() - before[name]).cpu() for name, one in parameters.items()}
    save_file({name: one.to(torch.bfloat16).contiguous() for name, one in found.items()}, folder / DELTA)
    return sum(int(one.count_nonzero()) for one in found.values())
