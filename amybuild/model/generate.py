"""Sampling from a model: one reply for each of many prompts, in one left-padded batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from amybuild.model.load import Loaded, quiet
from amybuild.model.tokens import pad_id


@dataclass(frozen=True)
class Reply:
    """The new ids of a reply without its end-of-turn token, and whether it came to that within the budget."""

    ids: tuple[int, ...]
    ended: bool


def replies(
    base: Loaded, prompts: Sequence[Sequence[int]], length: int, heat: float = 0.0, seed: int = 0
) -> list[Reply]:
    """One reply of at most `length` new tokens for each prompt's ids; `heat`: the temperature, 0 is greedy."""
    import torch
    from transformers import GenerationConfig

    width, pad = max(map(len, prompts)), pad_id(base.tokenizer)
    ids = torch.tensor([[pad] * (width - len(row)) + list(row) for row in prompts], device=base.device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in prompts], device=base.device)
    stop = base.model.generation_config.eos_token_id
    stop = base.tokenizer.eos_token_id if stop is None else stop
    config = GenerationConfig(  # every knob said, or the base's own generation settings would fill the gaps
        do_sample=heat > 0,
        temperature=heat or 1.0,
        top_k=0,
        top_p=1.0,
        repetition_penalty=1.0,
        num_beams=1,
        max_new_tokens=length,
        pad_token_id=pad,
        eos_token_id=stop,
    )
    devices = [base.device] if base.device.type == "cuda" else []
    with quiet(), torch.random.fork_rng(devices=devices), torch.no_grad():
        torch.manual_seed(seed)
        out = base.model.generate(input_ids=ids, attention_mask=mask, generation_config=config)
    ends = {stop} if isinstance(stop, int) else set(stop or ())
    return [_cut(row[width:].tolist(), ends) for row in out]


def _cut(ids: list[int], ends: set[int]) -> Reply:
    """What stands before the first end of turn: behind it a batch is padding."""
    end = next((i for i, one in enumerate(ids) if one in ends), None)
    return Reply(tuple(ids[:end]), end is not None)
