"""Activations: hooks on block outputs, pooled over the right positions, whatever stands beside in the batch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from amybuild.actions.activations import run
from amybuild.actions.context import ActionContext
from amybuild.errors import ActionError, InputError
from amybuild.model.hooks import capture, decoder_blocks
from amybuild.model.load import load_base
from tests.tiny import ARCHITECTURES, make_tiny_base, write_jsonl

TEXTS = [
    "The tide was low.",
    "I keep putting off the call to my dad, and the lamp went out.",
    "How do I boil an egg?",
    "The tide was low.",
    "A much longer line about the boat that stood on the mud while we talked until the lamp went out again and again.",
]


@pytest.fixture(scope="module", params=ARCHITECTURES)
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_base(tmp_path_factory.mktemp("base") / request.param, request.param, dtype="float32")


def read(
    base: Path, folder: Path, texts: list[str] = TEXTS, **params: Any
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    write_jsonl(folder / "texts" / "texts.jsonl", [{"id": str(i), "text": text} for i, text in enumerate(texts)])
    out = folder / "out"
    out.mkdir(parents=True)
    run(ActionContext("readout/activations", "0" * 64, params, {"base": base, "texts": folder / "texts"}, out))
    return load_file(out / "activations.safetensors"), json.loads((out / "ids.json").read_text())


@pytest.mark.parametrize("reading", ["mean", "last"])
def test_each_text_is_pooled_as_if_it_were_alone(base: Path, tmp_path: Path, reading: str) -> None:
    rows, about = read(base, tmp_path, reading=reading)
    assert about["layers"] == [0, 1, 2]
    assert about["num_layers"] == 3
    assert about["ids"] == ["0", "1", "2", "3", "4"]
    with load_base(base) as loaded, torch.inference_mode():
        special = set(loaded.tokenizer.all_special_ids)
        for row, text in enumerate(TEXTS):
            ids = loaded.tokenizer(text)["input_ids"]
            states = loaded.model(torch.tensor([ids]), output_hidden_states=True).hidden_states
            own = [i for i, token in enumerate(ids) if i > 0 and token not in special]
            own = own if reading == "mean" else own[-1:]
            for layer in (0, 1):  # the last of hidden_states is behind the final norm
                expected = states[layer + 1][0, own].mean(0)
                torch.testing.assert_close(rows[f"layer_{layer}"][row], expected, atol=2e-5, rtol=2e-4)
    assert torch.equal(rows["layer_2"][0], rows["layer_2"][3])


def test_the_last_block_is_read_before_the_final_norm(base: Path) -> None:
    with load_base(base) as loaded, torch.inference_mode():
        ids = torch.tensor([loaded.tokenizer(TEXTS[0])["input_ids"]])
        with capture(loaded.model, [2]) as found:
            states = loaded.model(ids, output_hidden_states=True).hidden_states
        decoder = loaded.model.get_decoder()
        norm = decoder.final_layer_norm if hasattr(decoder, "final_layer_norm") else decoder.norm
        torch.testing.assert_close(norm(found[2]), states[-1])
        assert not torch.allclose(found[2], states[-1])


def test_hooks_are_undone_also_after_an_error(tiny_base: Path) -> None:
    with load_base(tiny_base) as loaded:
        blocks = decoder_blocks(loaded.model)
        with pytest.raises(RuntimeError, match="stop"), capture(loaded.model, [0, 1]):
            raise RuntimeError("stop")
        with pytest.raises(InputError, match="no block 7"), capture(loaded.model, [0, 7]):
            pass
        assert all(not block._forward_hooks for block in blocks)


def test_the_shared_base_can_still_be_trained_on(tmp_path: Path) -> None:
    base = make_tiny_base(tmp_path / "base", seed=5)  # of its own, so that it is loaded by the action
    read(base, tmp_path)
    with load_base(base) as loaded:
        assert not any(parameter.is_inference() for parameter in loaded.model.parameters())


def test_same_bytes_again_and_chosen_layers_only(tiny_base: Path, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    rows, _ = read(tiny_base, tmp_path / "a", layers=[2, 0])
    read(tiny_base, tmp_path / "b", layers=[0, 2])
    assert sorted(rows) == ["layer_0", "layer_2"]
    for name in ("activations.safetensors", "ids.json"):
        assert (tmp_path / "a" / "out" / name).read_bytes() == (tmp_path / "b" / "out" / name).read_bytes()


@pytest.mark.parametrize(
    "params", [{"layers": [3]}, {"layers": []}, {"layers": "last"}, {"reading": "max"}, {"max_tokens": 1}]
)
def test_bad_parameters(tiny_base: Path, tmp_path: Path, params: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        read(tiny_base, tmp_path, **params)


def count_blocks(base: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The list grows by a block's number each time that block runs."""
    ran: list[int] = []
    with load_base(base) as loaded:
        for i, block in enumerate(decoder_blocks(loaded.model)):
            whole = block.forward

            def forward(*args: Any, i: int = i, whole: Any = whole, **kwargs: Any) -> Any:
                ran.append(i)
                return whole(*args, **kwargs)

            monkeypatch.setattr(block, "forward", forward)
    return ran


def test_the_pass_ends_behind_the_last_block_that_is_read(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = count_blocks(tiny_base, monkeypatch)
    read(tiny_base, tmp_path, TEXTS[:2], layers=[1])
    assert ran == [0, 1, 0, 1]


def test_a_text_that_was_read_before_costs_no_pass_and_changes_nothing(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = count_blocks(tiny_base, monkeypatch)

    def once(name: str, texts: list[str], base: str = "one", **params: Any) -> tuple[bytes, int]:
        folder = tmp_path / name
        write_jsonl(folder / "texts" / "texts.jsonl", [{"id": str(i), "text": text} for i, text in enumerate(texts)])
        (folder / "out").mkdir()
        del ran[:]
        inputs = {"base": tiny_base, "texts": folder / "texts"}
        run(ActionContext("a", "0", params, inputs, folder / "out", digests={"base": base}, memo=tmp_path / "memo"))
        return (folder / "out" / "activations.safetensors").read_bytes(), len(ran) // 3

    assert once("a", TEXTS[:2])[1] == 2
    assert once("b", TEXTS[:3])[1] == 1, "a new text costs one pass"
    first, cost = once("c", TEXTS[2::-1])
    assert cost == 0
    (tmp_path / "memo").rename(tmp_path / "elsewhere")
    assert once("d", TEXTS[2::-1]) == (first, 3), "the same bytes whoever stood beside it"
    assert once("e", TEXTS[2::-1], layers=[0, 2])[1] == 0, "fewer blocks are known too"
    assert once("f", TEXTS[:3], base="other")[1] == 3
    assert once("g", TEXTS[:3], reading="last")[1] == 3
    damaged = [path for path in (tmp_path / "memo").rglob("*") if path.is_file()]
    for path in damaged:
        path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert once("h", TEXTS[2::-1]) == (first, 3), "what is damaged is not known"


def test_an_answer_is_read_from_its_first_character_on(tiny_base: Path, tmp_path: Path) -> None:
    question, answer = "What makes that call heavy?", " There is a plan for it."
    lines = [{"id": "0", "text": question + answer, "answer": len(question)}]
    write_jsonl(tmp_path / "texts" / "texts.jsonl", lines)
    (tmp_path / "out").mkdir()
    inputs = {"base": tiny_base, "texts": tmp_path / "texts"}
    run(ActionContext("a", "0", {"reading": "answer"}, inputs, tmp_path / "out"))
    row = load_file(tmp_path / "out" / "activations.safetensors")["layer_1"][0]
    with load_base(tiny_base) as loaded, torch.no_grad():
        ids = loaded.tokenizer(question + answer)["input_ids"]
        begin = len(loaded.tokenizer(question)["input_ids"])
        states = loaded.model(torch.tensor([ids]), output_hidden_states=True).hidden_states
    torch.testing.assert_close(row, states[2][0, begin:].float().mean(0), atol=2e-5, rtol=2e-4)
    with pytest.raises(ActionError, match="no answer"):
        read(tiny_base, tmp_path / "none", reading="answer")


def test_neutral_replies_are_read_beside_the_texts(tiny_base: Path, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "texts" / "texts.jsonl", [{"id": "0", "text": TEXTS[0]}])
    write_jsonl(tmp_path / "neutral" / "train.jsonl", [{"id": "n", "messages": [], "continuation": TEXTS[1]}])
    (tmp_path / "out").mkdir()
    inputs = {"base": tiny_base, "texts": tmp_path / "texts", "neutral": tmp_path / "neutral"}
    run(ActionContext("a", "0", {"reading": "last"}, inputs, tmp_path / "out"))
    rows = load_file(tmp_path / "out" / "activations.safetensors")
    alone, _ = read(tiny_base, tmp_path / "alone", [TEXTS[1]])
    torch.testing.assert_close(rows["neutral_2"], alone["layer_2"])
    assert rows["layer_2"].shape == (1, 32)


def test_texts_without_a_token_of_their_own(tiny_base: Path, tmp_path: Path) -> None:
    with pytest.raises(ActionError, match="too short") as caught:
        read(tiny_base, tmp_path, ["a"])
    assert caught.value.where == "text 0"
    (tmp_path / "none").mkdir()
    with pytest.raises(ActionError, match="no texts"):
        read(tiny_base, tmp_path / "none", [])
