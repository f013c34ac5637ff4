"""Measuring a model: log p of replies per token, and KL to the base on neutral text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from amybuild.errors import ActionError
from amybuild.model.load import Loaded
from amybuild.model.pack import batches, pack
from amybuild.model.tokens import Encoded

PART_TOKENS = 480  # ids in one forward pass: on a CPU, activations that fit its caches are quicker


def decoder_of(model: Any) -> Any:
    """The part of a causal LM that turns ids into the last hidden state (what the head reads)."""
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else None
    if decoder is None or decoder is model:
        decoder = model.base_model
    if decoder is model:
        raise ActionError("cannot tell the decoder from the head", remedy="use a causal language model")
    return decoder


@contextmanager
def _hidden(model: Any, change: Callable[[Any], Any]) -> Iterator[None]:
    """Inside the block the head reads change(last hidden state) instead."""

    def hook(_module: Any, _args: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (change(output[0]), *output[1:])
        output.last_hidden_state = change(output.last_hidden_state)
        return output

    handle = decoder_of(model).register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def reply_logits(base: Loaded, rows: Sequence[Encoded]) -> tuple[Any, Any, Any]:
    """Logits only where a reply is: (logits float32 [n, vocab], targets int64 [n], states [n, hidden]), row by row."""
    packed = pack(base, rows)
    logits, states = chosen_logits(base, packed.inputs, packed.rows, packed.columns)
    return logits, packed.targets, states


def chosen_logits(base: Loaded, inputs: Mapping[str, Any], rows: Any, columns: Any) -> tuple[Any, Any]:
    """(logits float32 [n, vocab], last hidden states [n, hidden]) at chosen places of one pass.

    The model's own forward applies its head, with whatever scale or soft cap it has, to the chosen states.
    """
    kept: list[Any] = []

    def change(states: Any) -> Any:
        kept.append(states[rows, columns])
        return kept[0].unsqueeze(0)

    with _hidden(base.model, change):
        logits = base.model(**inputs, use_cache=False).logits[0].float()
    return logits, kept[0]


def logits_of(model: Any, states: Any) -> Any:
    """float32 [n, vocab]: what the model's head says for stored last hidden states [n, hidden]."""
    import torch

    one = torch.zeros((1, 1), dtype=torch.long, device=states.device)
    with torch.no_grad(), _hidden(model, lambda _: states.unsqueeze(0)):
        return model(input_ids=one, attention_mask=torch.ones_like(one), use_cache=False).logits[0].float()


@dataclass(frozen=True)
class ReplyScore:
    """log p of a reply, summed over its tokens (nats), and how many they are."""

    logp: float
    tokens: int

    @property
    def per_token(self) -> float:
        """Nats per token; 0 or less."""
        return self.logp / self.tokens


def reply_scores(
    base: Loaded, rows: Sequence[Encoded], *, tick: Callable[[int], None] | None = None
) -> list[ReplyScore]:
    """log p(reply | context) for each row, in the order given."""
    import torch

    found: dict[int, ReplyScore] = {}
    for batch in batches(base, rows, PART_TOKENS):
        chosen = [rows[i] for i in batch]
        with torch.no_grad():
            logits, targets, _ = reply_logits(base, chosen)
            logp = -torch.nn.functional.cross_entropy(logits, targets, reduction="none")
        parts = torch.split(logp.double(), [len(row.labels) for row in chosen])
        for i, part in zip(batch, parts, strict=True):
            found[i] = ReplyScore(float(part.sum()), len(part))
        if tick:
            tick(len(found))
    return [found[i] for i in range(len(rows))]


def reply_states(base: Loaded, rows: Sequence[Encoded]) -> list[Any]:
    """Per row the last hidden states [reply tokens, hidden] that predict its reply, on the model's device.

    Small beside the log-probabilities (hidden instead of vocabulary), from which `logits_of` gives those back. Kept
    with the base, so that all behaviours of a build share one pass over the neutral text.
    """
    import torch

    missing = [row for row in dict.fromkeys(rows) if _memo_key(row) not in base.memo]
    for batch in batches(base, missing, PART_TOKENS):
        chosen = [missing[i] for i in batch]
        with torch.no_grad():
            _, _, states = reply_logits(base, chosen)
        for row, part in zip(chosen, torch.split(states, [len(row.labels) for row in chosen]), strict=True):
            base.memo[_memo_key(row)] = part.clone()
    return [base.memo[_memo_key(row)] for row in rows]


def _memo_key(row: Encoded) -> str:
    import torch

    # sums over other numbers of threads have other last bits: what one action left here may not reach another's result
    return f"states {torch.get_num_threads()} {row.start}:{row.end} {','.join(map(str, row.ids))}"


def kl_per_token(reference_logits: Any, logits: Any) -> Any:
    """KL(reference || model) in nats per row, float32 [n], differentiable in `logits`."""
    import torch

    reference = torch.log_softmax(reference_logits, -1)
    return (reference.exp() * (reference - torch.log_softmax(logits, -1))).sum(-1)


def neutral_kl(base: Loaded, rows: Sequence[Encoded], states: Sequence[Any], other: Loaded | None = None) -> float:
    """Mean KL(base || model) in nats per reply token over `rows`.

    states: the base's own (`reply_states`, taken before its weights were changed). other: another model with the same
    vocabulary; without it, `base` as it stands now.
    """
    import torch

    model = other or base
    total, count = 0.0, 0
    for batch in batches(model, rows, PART_TOKENS):
        with torch.no_grad():
            logits, _, _ = reply_logits(model, [rows[i] for i in batch])
            reference = logits_of(base.model, torch.cat([states[i] for i in batch]))
            if reference.shape[-1] != logits.shape[-1]:
                raise ActionError("the two models do not share a vocabulary", remedy="use its own base")
            total += float(kl_per_token(reference.to(logits.device), logits).double().sum())
        count += logits.shape[0]
    return total / max(count, 1)
