"""How far a changed model is from its base on given replies: KL and perplexity."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from amybuild.errors import ActionError
from amybuild.model.load import Loaded
from amybuild.model.pack import batches
from amybuild.model.score import PART_TOKENS, kl_per_token, logits_of, reply_logits
from amybuild.model.tokens import Encoded


@dataclass(frozen=True)
class Divergence:
    """`kl`: mean KL(base || model), nats per reply token. `ppl_ratio`: the model's perplexity over the base's."""

    kl: float
    ppl_ratio: float


def divergence(base: Loaded, rows: Sequence[Encoded], states: Sequence[Any], other: Loaded | None = None) -> Divergence:
    """Of `base` as it stands now, or of `other` with the same vocabulary, on the replies of `rows`.

    states: the base's own (`reply_states`, taken before its weights were changed). On neutral text it is what a
    persona costs; on a behaviour's own prompts it predicts what is forgotten better than any size of the change
    (RL's razor, arXiv 2509.04259).
    """
    import torch

    model = other or base
    kl, surprise, count = 0.0, 0.0, 0
    for batch in batches(model, rows, PART_TOKENS):
        with torch.no_grad():
            logits, targets, _ = reply_logits(model, [rows[i] for i in batch])
            before = logits_of(base.model, torch.cat([states[i] for i in batch])).to(logits.device)
            if before.shape[-1] != logits.shape[-1]:
                raise ActionError("the two models do not share a vocabulary", remedy="use its own base")
            kl += float(kl_per_token(before, logits).double().sum())
            surprise += float((_nll(logits, targets) - _nll(before, targets)).double().sum())
        count += len(targets)
    return Divergence(kl / max(count, 1), math.exp(min(surprise / max(count, 1), 700.0)))


def _nll(logits: Any, targets: Any) -> Any:
    import torch

    return torch.nn.functional.cross_entropy(logits, targets, reduction="none")
