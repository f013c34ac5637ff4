"""What a training minimises: NLL of replies, a preference over rejected ones, a teacher's distribution, the base's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from amybuild.model.frozen import contexts, frozen_logits
from amybuild.model.load import Loaded
from amybuild.model.lower import Lower
from amybuild.model.pack import batches
from amybuild.model.score import kl_per_token, logits_of, reply_logits, reply_scores, reply_states
from amybuild.model.tokens import Encoded


@dataclass(frozen=True)
class Data:
    """What is trained on.

    others: by the id of a row, the reply that its own is preferred to. teachers: by the id of a row, the same reply
    behind the context that the teacher sees. replay: neutral replies of the base. watched: others, which are measured
    only (`drift.Watch`).
    """

    rows: Sequence[Encoded]
    others: Mapping[str, Encoded] = field(default_factory=dict)
    replay: Sequence[Encoded] = ()
    teachers: Mapping[str, Encoded] = field(default_factory=dict)
    watched: Sequence[Encoded] = ()


class Weights(Protocol):
    """The fields of a recipe that the loss reads (`train.Settings`)."""

    @property
    def nll_weight(self) -> float: ...
    @property
    def preference(self) -> str: ...
    @property
    def margin_weight(self) -> float: ...
    @property
    def margin_beta(self) -> float: ...
    @property
    def distill_weight(self) -> float: ...
    @property
    def kl_weight(self) -> float: ...
    @property
    def replay_batch(self) -> int: ...
    @property
    def tokens_per_pass(self) -> int: ...
    @property
    def context_frozen(self) -> bool: ...
    @property
    def top_layers(self) -> int: ...


def _simpo(logp: Any, _reference: float) -> Any:
    return logp.mean()


def _dpo(logp: Any, reference: float) -> Any:
    return logp.sum() - reference


# What a reply [tokens] of log p is worth, given the base's log p of the whole of it; the preference is for the gap.
PREFERENCES: Mapping[str, Callable[[Any, float], Any]] = {
    "simpo": _simpo,  # mean log p per token, no reference: arXiv 2405.14734
    "dpo": _dpo,  # log p against the base's: arXiv 2305.18290
}


class Objective:
    """The loss of one training, and what it has to know of the base before anything is learned.

        nll_weight    * NLL of the replies, per token
        margin_weight * -log sigmoid(margin_beta * (worth(wanted) - worth(rejected)))     see PREFERENCES
        distill_weight * KL(base in the teacher's context || model), per reply token      context distillation
        kl_weight     * KL(base || model), per token of neutral replies

    The last keeps a vector narrow; mixing in other text does not (bench/LOG.md). Terms of weight 0 cost nothing.
    """

    def __init__(self, base: Loaded, data: Data, weights: Weights) -> None:
        """Call it while the model is the base still."""
        self._base, self._data, self._weights = base, data, weights
        self._others = data.others if weights.margin_weight > 0 else {}
        self._worth = PREFERENCES[weights.preference]
        self._logits = Lower(base, weights.top_layers).logits if weights.top_layers else reply_logits
        self._decisions = frozen_logits if weights.context_frozen else self._logits
        self.replayed = weights.replay_batch if weights.kl_weight > 0 and data.replay else 0
        self._neutral = reply_states(base, data.replay) if self.replayed else []
        self._reference: dict[Encoded, float] = {}
        if self._others and weights.preference == "dpo":
            pairs = [row for own in data.rows if own.id in self._others for row in (own, self._others[own.id])]
            scores = reply_scores(base, pairs)
            self._reference = {row: score.logp for row, score in zip(pairs, scores, strict=True)}
        self._taught: dict[str, Any] = {}
        if weights.distill_weight > 0:
            names = [row.id for row in data.rows]
            self._taught = dict(zip(names, reply_states(base, [data.teachers[name] for name in names]), strict=True))

    def backward(self, rows: Sequence[Encoded], neutral: Sequence[int]) -> dict[str, float]:
        """Add the gradient of one batch (neutral: indices of replay); its loss, and the terms without their weights."""
        weights = self._weights
        found = self._replies(rows)
        kl = self._kl(neutral) if neutral else 0.0
        loss = weights.nll_weight * found["nll"] + weights.margin_weight * found["preference"]
        loss += weights.distill_weight * found.get("distill", 0.0) + weights.kl_weight * kl
        return {"loss": loss, **found, "kl": kl}

    def _replies(self, rows: Sequence[Encoded]) -> dict[str, float]:
        import torch

        weights, others = self._weights, self._others
        found = {"nll": 0.0, "preference": 0.0, **({"distill": 0.0} if self._taught else {})}
        tokens, paired = sum(len(row.labels) for row in rows), sum(row.id in others for row in rows)
        # both replies of a pair must be in one pass, and share its context there
        most = weights.tokens_per_pass * 2 // 3 if paired else weights.tokens_per_pass
        for part in contexts(rows) if weights.context_frozen else batches(self._base, rows, most):
            chosen = [rows[i] for i in part]
            rivals = [others[row.id] for row in chosen if row.id in others]
            logits, targets, _ = self._decisions(self._base, [*chosen, *rivals])
            logp = -torch.nn.functional.cross_entropy(logits, targets, reduction="none")
            replies = torch.split(logp, [len(row.labels) for row in [*chosen, *rivals]])
            terms = {"nll": -torch.cat(replies[: len(chosen)]).sum() / tokens}
            loss = weights.nll_weight * terms["nll"]
            if rivals:
                terms["preference"] = self._preference(chosen, rivals, replies) / paired
                loss = loss + weights.margin_weight * terms["preference"]
            if self._taught:
                terms["distill"] = self._distill(chosen, logits) / tokens
                loss = loss + weights.distill_weight * terms["distill"]
            loss.backward()  # type: ignore[no-untyped-call]
            for name, term in terms.items():
                found[name] += float(term.detach())
        return found

    def _preference(self, chosen: Sequence[Encoded], rivals: Sequence[Encoded], replies: Sequence[Any]) -> Any:
        """The sum over the pairs of -log sigmoid(margin_beta * gap)."""
        import torch

        def worth(row: Encoded, logp: Any) -> Any:
            return self._worth(logp, self._reference.get(row, 0.0))

        own = [worth(row, mine) for row, mine in zip(chosen, replies, strict=False) if row.id in self._others]
        theirs = [worth(row, logp) for row, logp in zip(rivals, replies[len(chosen) :], strict=True)]
        gaps = torch.stack(own) - torch.stack(theirs)
        return torch.nn.functional.softplus(-self._weights.margin_beta * gaps).sum()

    def _distill(self, chosen: Sequence[Encoded], logits: Any) -> Any:
        """The sum over the replies' tokens of KL(teacher || model); logits begin with those of `chosen`."""
        import torch

        taught = logits_of(self._base.model, torch.cat([self._taught[row.id] for row in chosen]))
        return kl_per_token(taught, logits[: len(taught)]).sum()

    def _kl(self, neutral: Sequence[int]) -> float:
        import torch

        rows, states = [self._data.replay[i] for i in neutral], [self._neutral[i] for i in neutral]
        total, count = 0.0, sum(len(row.labels) for row in rows)
        for part in batches(self._base, rows, self._weights.tokens_per_pass):
            reference = logits_of(self._base.model, torch.cat([states[i] for i in part]))
            logits, _, _ = self._logits(self._base, [rows[i] for i in part])
            kl = kl_per_token(reference, logits).sum() / count
            (self._weights.kl_weight * kl).backward()
            total += float(kl.detach())
        return total
