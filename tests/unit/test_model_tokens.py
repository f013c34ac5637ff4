"""Which tokens are the reply: the label span decodes to the continuation and its end of turn, on every template."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amybuild.errors import ActionError
from amybuild.model.tokens import Encoded, encode, encode_prompt, render
from tests.tiny import make_tiny_base

GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "{% for m in messages %}{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\n' "
    "+ m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
THINKING = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{% if m['role'] == 'assistant' and loop.last %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{{ m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if enable_thinking is defined and not enable_thinking %}{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}"
)
END = "<|im_end|>"
USER = [{"role": "user", "content": "I keep putting off the call."}]
word = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), min_size=1, max_size=20).filter(
    lambda text: text.strip() and "<|" not in text
)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(make_tiny_base(tmp_path_factory.mktemp("base") / "llama"))


def labels_text(tokenizer: Any, row: Encoded) -> str:
    return str(tokenizer.decode(row.labels))


@settings(max_examples=60, deadline=None)
@given(context=word, reply=word)
def test_the_labels_decode_to_the_reply_and_its_end_of_turn(tokenizer: Any, context: str, reply: str) -> None:
    row = encode(tokenizer, "x", [{"role": "user", "content": context}], reply)
    assert labels_text(tokenizer, row) == reply.strip() + "<|im_end|>"
    assert tokenizer.decode(row.ids[: row.start]).endswith("<|im_start|>assistant\n")


@pytest.mark.parametrize(("template", "stop"), [(GEMMA, "<end_of_turn>"), (THINKING, END), (None, END)])
def test_other_templates(tokenizer: Any, template: str | None, stop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer, "chat_template", template)
    row = encode(tokenizer, "x", USER, "What makes that call heavy?")
    text = labels_text(tokenizer, row)
    assert text.startswith("What makes that call heavy?")
    assert stop.startswith(text.removeprefix("What makes that call heavy?"))
    assert list(row.ids[: row.start]) == encode_prompt(tokenizer, USER)


def test_a_refused_system_turn_moves_into_the_first_user_turn(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer, "chat_template", GEMMA)
    text = render(tokenizer, [{"role": "system", "content": "Be brief."}, *USER], prompt=True)
    assert "Be brief.\n\nI keep putting off" in text


def test_turns_that_no_template_takes_are_an_error(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer, "chat_template", "{{ raise_exception('never') }}")
    with pytest.raises(ActionError, match="refuses this conversation"):
        render(tokenizer, USER, prompt=True)


def test_a_template_that_drops_the_reply_is_an_error(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer, "chat_template", "{{ messages[0]['content'] }}")
    with pytest.raises(ActionError, match="changes or drops"):
        encode(tokenizer, "x", USER, "What?")


def test_a_long_context_loses_its_oldest_turns_and_keeps_the_reply(tokenizer: Any) -> None:
    turns = [*USER, {"role": "assistant", "content": "And then? " * 10}, *USER]
    row = encode(tokenizer, "x", turns, "What makes it heavy?", max_tokens=60)
    assert len(row.ids) <= 60
    assert labels_text(tokenizer, row) == "What makes it heavy?<|im_end|>"
    assert "And then" not in tokenizer.decode(row.ids)


def test_a_reply_longer_than_the_limit_is_cut(tokenizer: Any) -> None:
    row = encode(tokenizer, "x", USER, "heavy " * 40, max_tokens=30)
    assert len(row.ids) == 30
    assert row.start >= 1
    assert len(row.labels) == 30 - row.start
