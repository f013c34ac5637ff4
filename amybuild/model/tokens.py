"""From messages to token ids: the chat template, and which tokens are the reply, known by offsets and not by search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from amybuild.errors import ActionError

# For bases that come without a chat template (pretrained only).
PLAIN_TEMPLATE = (
    "{% for m in messages %}{{ m['role'].capitalize() + ': ' + m['content'] }}"
    "{% if m['role'] == 'assistant' %}{{ eos_token }}{% endif %}{{ '\n\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant: ' }}{% endif %}"
)

Message = Mapping[str, str]


@dataclass(frozen=True)
class Encoded:
    """One conversation as ids; ids[start:end] are the reply with its end-of-turn token."""

    id: str
    ids: tuple[int, ...]
    start: int
    end: int

    @property
    def labels(self) -> tuple[int, ...]:
        """The reply's ids."""
        return self.ids[self.start : self.end]

    @property
    def read(self) -> tuple[int, ...]:
        """The ids that a pass has to run: nothing is asked of the reply's last one, nor of what stands behind it."""
        return self.ids[: self.end - 1]


def render(tokenizer: Any, messages: Sequence[Message], *, prompt: bool) -> str:
    """The conversation through the tokenizer's chat template; `prompt` opens the assistant's turn.

    A system turn that the template refuses (Gemma) goes in front of the first user turn. Raises ActionError for a
    conversation that the template cannot write.
    """
    turns = [dict(message) for message in messages]
    try:
        return _apply(tokenizer, turns, prompt)
    except Exception as error:  # jinja2's errors, without importing jinja2
        if turns and turns[0]["role"] == "system" and len(turns) > 1 and turns[1]["role"] == "user":
            folded = [{"role": "user", "content": f"{turns[0]['content']}\n\n{turns[1]['content']}"}, *turns[2:]]
            try:
                return _apply(tokenizer, folded, prompt)
            except Exception:  # the first error says more
                pass
        raise ActionError(
            f"the base's chat template refuses this conversation ({type(error).__name__})",
            remedy="user and assistant turns must alternate, beginning with the user",
        ) from error


def _apply(tokenizer: Any, turns: list[dict[str, str]], prompt: bool) -> str:
    template = None if tokenizer.chat_template else PLAIN_TEMPLATE
    text = tokenizer.apply_chat_template(
        turns,
        chat_template=template,
        tokenize=False,
        add_generation_prompt=prompt,
        enable_thinking=False,  # templates of thinking models close the empty thought themselves; others ignore it
    )
    return str(text)


def encode_prompt(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    """Ids of the context up to where the reply begins."""
    return list(tokenizer(render(tokenizer, messages, prompt=True), add_special_tokens=False)["input_ids"])


def encode(
    tokenizer: Any, name: str, messages: Sequence[Message], continuation: str, *, max_tokens: int = 512
) -> Encoded:
    """The context and the reply as ids, with the span of the reply (its end-of-turn token included).

    Too long a context loses its oldest turns, then its first tokens; too long a reply its last tokens. `name` is the
    example's id for error messages. Raises ActionError when the template does not hold the reply as written.
    """
    turns = list(messages)
    while True:
        encoded = _encode(tokenizer, name, turns, continuation)
        cut = len(encoded.ids) - max_tokens
        oldest = 1 if turns[0]["role"] == "system" else 0
        if cut <= 0:
            return encoded
        if len(turns) - oldest < 3:
            break
        del turns[oldest : oldest + 2]
    drop = min(cut, encoded.start - 1)
    ids = encoded.ids[drop : drop + max_tokens]
    return Encoded(name, ids, encoded.start - drop, min(encoded.end - drop, len(ids)))


def _encode(tokenizer: Any, name: str, messages: Sequence[Message], continuation: str) -> Encoded:
    reply = continuation.strip()
    head = render(tokenizer, messages, prompt=True)
    full = render(tokenizer, [*messages, {"role": "assistant", "content": reply}], prompt=False)
    common = len(head) if full.startswith(head) else len(_common_prefix(head, full))
    begin = full.find(reply, common)
    if not reply or begin < 0:
        raise ActionError(
            "the chat template changes or drops the reply", where=f"example {name}", remedy="check the base's template"
        )
    batch = tokenizer(full, add_special_tokens=False, return_offsets_mapping=True)
    ids, offsets = list(batch["input_ids"]), list(batch["offset_mapping"])
    start = next(i for i, (_, stop) in enumerate(offsets) if stop > begin)
    end = next((i for i, (first, _) in enumerate(offsets) if first >= begin + len(reply) and i > start), len(ids))
    for i in range(end, len(ids)):  # the template's end of turn, whatever it is called, and any space before it
        if full[slice(*offsets[i])].strip() or ids[i] in tokenizer.all_special_ids:
            end = i + 1
            break
    if start == 0:
        raise ActionError("the reply has no context", where=f"example {name}", remedy="give it a user turn")
    return Encoded(name, tuple(ids), start, end)


def _common_prefix(left: str, right: str) -> str:
    length = next((i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))
    return left[:length]


def pad_id(tokenizer: Any) -> int:
    """The id that fills rows up; any id does, since pads are masked."""
    for candidate in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if candidate is not None:
            return int(candidate)
    return 0
