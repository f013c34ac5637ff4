"""Readouts on a Hugging Face model: each number is a block's output times a row, however it is run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from amybuild.errors import InputError
from amybuild.model.load import Loaded, load_base
from amybuild.serve.chat import Strengths, controls, reply, standardised
from amybuild.serve.files import ReadoutFile, read_readout
from amybuild.serve.reader import read, steer
from amybuild.serve.steering import Direction, direction, random_like, read_steering
from tests.readouts import write_readout
from tests.tiny import make_tiny_base

TEXTS = ["What makes that call heavy?", "The tide was low and the boat stood on the mud.", "How"]
CONCEPTS = ("warm", "cold", "odd")


@pytest.fixture(scope="module", params=["llama", "gpt_neox"])
def product(request: Any, tmp_path_factory: Any) -> Path:
    folder = make_tiny_base(tmp_path_factory.mktemp("m") / request.param, request.param, dtype="float32")
    write_readout(folder / "steering" / "warmth", ["warmth"], [1], 32, 3, seed=1)
    return write_readout(folder, CONCEPTS, [2, 0], 32, 3)


@pytest.fixture
def loaded(product: Path) -> Iterator[Loaded]:
    with load_base(product, keep=False) as found:
        yield found


@pytest.fixture
def readout(product: Path) -> ReadoutFile:
    return read_readout(product)


def by_hand(model: Any, readout: ReadoutFile, ids: list[int]) -> Any:
    """[tokens, n_layers, n_concepts] by hooks and a product of our own, in float64."""
    found: dict[int, Any] = {}
    blocks = model.model.layers if hasattr(model, "model") else model.gpt_neox.layers

    def keep(layer: int) -> Any:
        return lambda _m, _a, out: found.__setitem__(layer, (out[0] if isinstance(out, tuple) else out)[0].double())

    handles = [blocks[layer].register_forward_hook(keep(layer)) for layer in readout.layers]
    with torch.no_grad():
        model(torch.tensor([ids]))
    for handle in handles:
        handle.remove()
    rows = [found[layer] @ torch.tensor(readout.vectors[layer]).double().T for layer in readout.layers]
    return torch.stack(rows, 1).numpy()


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_padded_batch_reads_like_each_text_alone(loaded: Loaded, readout: ReadoutFile, side: str) -> None:
    batch = loaded.tokenizer(TEXTS, return_tensors="pt", padding=True, padding_side=side)
    places = (batch["attention_mask"].cumsum(1) - 1).clamp(min=0)
    with torch.no_grad(), read(loaded.model, readout) as reading:
        loaded.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], position_ids=places)
    for text, found in zip(TEXTS, reading.prompt(batch["attention_mask"]), strict=True):
        wanted = by_hand(loaded.model, readout, loaded.tokenizer(text)["input_ids"])
        np.testing.assert_allclose(found, wanted, atol=2e-5)


def test_generation_reads_each_token_where_it_was_sampled(loaded: Loaded, readout: ReadoutFile) -> None:
    batch = loaded.tokenizer(TEXTS, return_tensors="pt", padding=True, padding_side="left")
    with torch.no_grad(), read(loaded.model, readout) as reading:
        made = loaded.model.generate(**batch, max_new_tokens=5, min_new_tokens=5, do_sample=False, pad_token_id=3)
    found = reading.generated()
    assert found.shape == (3, 5, 2, 3)
    for row, text in enumerate(TEXTS):
        prompt = loaded.tokenizer(text)["input_ids"]
        ids = prompt + made[row, -5:].tolist()
        wanted = by_hand(loaded.model, readout, ids)[len(prompt) - 1 : -1]
        np.testing.assert_allclose(found[row], wanted, atol=2e-5)


def test_hooks_are_gone_afterwards_even_after_an_error(loaded: Loaded, readout: ReadoutFile) -> None:
    blocks = next(m for m in loaded.model.modules() if isinstance(m, torch.nn.ModuleList))
    with pytest.raises(RuntimeError), read(loaded.model, readout), steer(loaded.model, []):
        raise RuntimeError
    assert not any(block._forward_hooks for block in blocks)


def test_a_readout_of_another_model_is_refused(loaded: Loaded, tmp_path: Path) -> None:
    other = read_readout(write_readout(tmp_path, CONCEPTS, [1], 16, 3))
    with pytest.raises(InputError, match="hidden size"), read(loaded.model, other):
        pass
    with pytest.raises(InputError, match="no block 7"), steer(loaded.model, [Direction("x", {7: np.zeros(32, "f4")})]):
        pass


def test_strength_one_is_one_class_gap_over_all_blocks_and_negation_takes_it_back(product: Path) -> None:
    readout = read_readout(product)
    one = direction(readout, "cold")
    gaps = [float(readout.beside["gap"][layer][1]) for layer in readout.layers]
    lengths = [float(np.linalg.norm(one.steps[layer])) for layer in readout.layers]
    np.testing.assert_allclose(lengths, [gap / 2 for gap in gaps], rtol=1e-5)
    for layer in readout.layers:
        np.testing.assert_array_equal(one.at(-2).steps[layer], -one.at(2).steps[layer])
        np.testing.assert_allclose(np.linalg.norm(random_like(one).steps[layer]), np.linalg.norm(one.steps[layer]))
        cosine = random_like(one).steps[layer] @ one.steps[layer] / np.square(np.linalg.norm(one.steps[layer]))
        assert abs(cosine) < 0.7
    assert random_like(one, 1).steps[0].tolist() == random_like(one, 1).steps[0].tolist()


def test_steering_moves_the_stream_by_just_its_steps(loaded: Loaded, product: Path) -> None:
    one = read_steering(product)["warmth"].at(1.5)
    seen = read_readout(product / "steering" / "warmth")
    ids = torch.tensor([loaded.tokenizer(TEXTS[1])["input_ids"]])
    with torch.no_grad(), read(loaded.model, seen) as plain:
        loaded.model(ids)
    with torch.no_grad(), steer(loaded.model, [one]), read(loaded.model, seen) as moved:
        loaded.model(ids)
    np.testing.assert_allclose(
        moved.passes[0] - plain.passes[0], 1.5 * float(seen.beside["gap"][1][0]), atol=1e-4
    )  # its block is the one that is read, and its row has length one


def test_names_that_are_no_direction_are_refused_with_the_nearest(product: Path) -> None:
    with pytest.raises(InputError, match="did you mean 'warmth'"):
        read_steering(product, ["warmht"])
    assert read_steering(product, ["odd"])["odd"].layers == (0, 2)


def test_a_reply_hears_every_token_with_its_readout(loaded: Loaded, readout: ReadoutFile) -> None:
    heard: list[Any] = []
    question = [{"role": "user", "content": "How do I boil an egg?"}]
    made = reply(loaded, question, readout, most=6, told=lambda text, rows: heard.append((text, rows)))
    again = reply(loaded, question, readout, most=6)
    assert made.tokens == again.tokens
    assert "".join(text for text, _ in heard).strip() == made.text
    assert made.readout is not None
    assert made.readout.shape == (len(made.tokens), 2, 3)
    for (_, rows), wanted in zip(heard, made.readout, strict=True):
        np.testing.assert_array_equal(rows, wanted)


def test_standardised_is_in_deviations(readout: ReadoutFile) -> None:
    mean = np.stack([readout.beside["mean"][layer] for layer in readout.layers])
    std = np.stack([readout.beside["std"][layer] for layer in readout.layers])
    np.testing.assert_allclose(standardised(readout, (mean + 2 * std)[None]), np.full((1, 3), 2.0), rtol=1e-4)


def test_the_controls_are_measured_under_four_conditions(loaded: Loaded, product: Path) -> None:
    seen = read_readout(product / "steering" / "warmth")
    one = read_steering(product)["warmth"]
    still = controls(loaded, seen, "warmth", one, Strengths(towards=0, away=0), tokens=4)
    assert still["unsteered"] == still["towards"] == still["away"] == still["random"]
    assert not still["reverses"]
    moved = controls(loaded, seen, "warmth", one, Strengths(towards=3, away=3), tokens=4)
    assert len({moved[name]["readout"] for name in ("unsteered", "towards", "away", "random")}) == 4
    assert moved["unsteered"] == still["unsteered"]
