"""The second surface form: a dialogue as plain prose, `Name: text` paragraphs without any template or special token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from amybuild.errors import ActionError
from amybuild.model.tokens import Encoded

NAMES = {"user": "User", "assistant": "Assistant"}


def encode_prose(
    tokenizer: Any, name: str, messages: Sequence[Mapping[str, str]], reply: str, *, max_tokens: int = 512
) -> Encoded:
    """`encode` in prose: the context and the reply as ids, with the span of the reply, which here has no end-of-turn.

    A behaviour that lives in the template's tokens only does not show in this form. Too long a context loses its
    first tokens, too long a reply its last ones. `name`: the example's, for errors.
    """
    parts = [f"{NAMES[one['role']]}: {one['content']}" if one["role"] in NAMES else one["content"] for one in messages]
    head = "\n\n".join([*parts, f"{NAMES['assistant']}:"])
    batch = tokenizer(f"{head} {reply.strip()}", return_offsets_mapping=True)  # with the base's own special tokens
    ids, offsets = list(batch["input_ids"]), list(batch["offset_mapping"])
    own = [i for i, (_, stop) in enumerate(offsets) if stop > len(head)]
    if not own or own[0] == 0:
        raise ActionError("no reply to measure", where=f"example {name}", remedy="give it a context and a reply")
    start, end = own[0], own[-1] + 1
    drop = max(0, min(end - max_tokens, start - 1))
    ids = ids[drop : drop + max_tokens]
    return Encoded(name, tuple(ids), start - drop, min(end - drop, len(ids)))
