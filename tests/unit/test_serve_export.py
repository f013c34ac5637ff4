"""Steering for other programs: control vectors read back to the bit, folded checkpoints do what the hook does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from amybuild.errors import ActionError, InputError
from amybuild.serve.fold import FOLDS, TOLERANCE, fold
from amybuild.serve.gguf import read_control_vector, write_control_vector
from amybuild.serve.steering import Direction

SMALL = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 4}
GATED = {**SMALL, "intermediate_size": 32, "num_key_value_heads": 2, "max_position_embeddings": 64}
MODELS: dict[str, dict[str, Any]] = {
    "llama": {**GATED, "tie_word_embeddings": True},
    "smollm3": {**GATED, "pad_token_id": 0},
    "granite": {**GATED, "residual_multiplier": 0.22, "embedding_multiplier": 12.0, "logits_scaling": 8.0},
    "qwen2": GATED,
    "mistral": {**GATED, "sliding_window": None},
    "gpt2": {"vocab_size": 64, "n_embd": 16, "n_layer": 3, "n_head": 4, "n_positions": 64},
    "gpt_neox": {**SMALL, "intermediate_size": 32, "max_position_embeddings": 64},
    "opt": {**SMALL, "ffn_dim": 32, "max_position_embeddings": 64, "word_embed_proj_dim": 16},
    "phi": {**SMALL, "intermediate_size": 32, "max_position_embeddings": 64},
}


def make(folder: Path, kind: str, shards: str = "50GB", **more: Any) -> Path:
    """A random model of `kind` with a tokenizer that is never asked."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from tests.tiny import _write_tokenizer

    folder.mkdir()
    _write_tokenizer(folder, bos=False)
    torch.manual_seed(0)
    special = {"bos_token_id": 0, "eos_token_id": 0}
    config = AutoConfig.for_model(kind, **{**special, **MODELS.get(kind, GATED), **more})
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.3)
    model.save_pretrained(folder, max_shard_size=shards)
    return folder


@pytest.fixture
def one() -> Direction:
    rng = np.random.default_rng(0)
    return Direction("warmth", {layer: rng.standard_normal(16).astype(np.float32) for layer in (1, 2)})


def test_the_tests_know_every_architecture_that_folds() -> None:
    assert set(MODELS) == set(FOLDS)


@pytest.mark.parametrize("kind", sorted(FOLDS))
def test_a_folded_checkpoint_is_the_steered_one(tmp_path: Path, one: Direction, kind: str) -> None:
    product = make(tmp_path / "model", kind)
    assert fold(product, tmp_path / "out", [one.at(2)], {"warmth": 2.0}) <= TOLERANCE
    account = json.loads((tmp_path / "out" / "steering.json").read_text())
    assert (account["folded"], account["layers"]) == ({"warmth": 2.0}, [1, 2])
    assert not [path for path in tmp_path.iterdir() if path.name not in ("model", "out")]


def test_shards_and_a_second_folding(tmp_path: Path, one: Direction) -> None:
    product = make(tmp_path / "model", "llama", shards="8KB")
    assert len(list(product.glob("*.safetensors"))) > 1
    fold(product, tmp_path / "once", [one], {})
    assert fold(tmp_path / "once", tmp_path / "twice", [one.at(-1)], {}) <= TOLERANCE
    from amybuild.serve.fold import difference

    assert difference(product, tmp_path / "twice", []) <= TOLERANCE  # and back again


def test_folding_is_not_the_same_as_nothing(tmp_path: Path, one: Direction) -> None:
    from amybuild.serve.fold import difference

    product = make(tmp_path / "model", "llama")
    fold(product, tmp_path / "out", [one], {})
    assert difference(product, tmp_path / "out", []) > 0.1


@pytest.mark.parametrize(
    ("kind", "more"),
    [("qwen3", {"head_dim": 4}), ("gemma2", {"head_dim": 4}), ("mistral", {"sliding_window": 8}), ("qwen2", {})],
)
def test_what_cannot_hold_it_is_refused_with_the_alternatives(
    tmp_path: Path, one: Direction, kind: str, more: dict[str, Any]
) -> None:
    product = make(tmp_path / "model", kind, **more)
    if kind == "qwen2":
        path = product / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"use_sliding_window": True}))
    with pytest.raises(InputError, match="cannot hold") as caught:
        fold(product, tmp_path / "out", [one], {})
    assert caught.value.remedy
    assert "gguf" in caught.value.remedy
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


def test_what_reloads_as_something_else_is_not_left_behind(tmp_path: Path, one: Direction, monkeypatch: Any) -> None:
    from dataclasses import replace

    product = make(tmp_path / "model", "granite")
    monkeypatch.setattr("amybuild.serve.fold.FOLDS", {"granite": replace(FOLDS["granite"], divisor=None)})
    with pytest.raises(ActionError, match="differs from the steered one"):
        fold(product, tmp_path / "out", [one], {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


def test_a_control_vector_reads_back(tmp_path: Path, one: Direction) -> None:
    path = tmp_path / "warmth.gguf"
    write_control_vector(path, one, "llama")
    found, hint = read_control_vector(path)
    assert (found.layers, hint) == (one.layers, "llama")
    for layer in one.layers:
        np.testing.assert_array_equal(found.steps[layer], one.steps[layer])
    assert [file.name for file in tmp_path.iterdir()] == ["warmth.gguf"]


def test_block_0_and_files_that_llama_cpp_would_refuse(tmp_path: Path, one: Direction) -> None:
    with pytest.raises(InputError, match="block 0"):
        write_control_vector(tmp_path / "x.gguf", Direction("x", {0: one.steps[1]}), "llama")
    assert not list(tmp_path.iterdir())
    path = tmp_path / "warmth.gguf"
    write_control_vector(path, one, "llama")
    data = path.read_bytes()
    for damaged in (b"", data[:40], data.replace(b"direction.1", b"direction.0"), b"GGUF" + bytes(60)):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match="no control vector"):
            read_control_vector(path)
