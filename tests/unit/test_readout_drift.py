"""Drift: what a readout loses on another model, measured on texts that its directions did not know."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from amybuild.actions import activations, drift, labelled, vectors
from amybuild.actions.context import ActionContext
from amybuild.errors import ActionError
from tests.tiny import make_tiny_base, write_jsonl

GOOD = ("the boat and the tide", "the boat stood low", "a boat, the mud, the tide", "tide and boat and lamp")
BAD = ("an egg in hot water", "boil the egg seven minutes", "cool water for the egg", "minutes and eggs")


@pytest.fixture(scope="module")
def made(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts of two kinds that any model tells apart by their words, activations and vectors on the tiny base."""
    folder = tmp_path_factory.mktemp("drift")
    lines, labels = [], []
    for i in range(40):
        kinds = (GOOD, BAD)[i % 2]
        name = f"t{i:02d}"
        lines.append({"id": name, "text": f"{kinds[i % 4]} {kinds[(i // 4) % 4]} number {i}"})
        labels.append({"id": name, "labels": {"sea": 1 if i % 2 == 0 else -1}})
    write_jsonl(folder / "texts" / "texts.jsonl", lines)
    write_jsonl(folder / "labels" / "labels.jsonl", labels)
    step(folder, activations, "activations", {}, base=tiny_base, texts=folder / "texts")
    inputs = {"labels": folder / "labels", "activations": folder / "activations"}
    step(folder, vectors, "vectors", {"layers": [1], "estimator": "lda"}, **inputs)
    return folder


def step(folder: Path, rule: Any, name: str, params: dict[str, Any], **inputs: Path) -> None:
    (folder / name).mkdir()
    rule.run(ActionContext(f"readout/{name}", "0" * 64, params, inputs, folder / name))


def measure(made: Path, out: Path, other: Path, **params: Any) -> dict[str, Any]:
    roles = {name: made / name for name in ("texts", "labels", "activations", "vectors")}
    step(out, drift, "drift", params, other=other, **roles)
    return json.loads((out / "drift" / "drift.json").read_text())  # type: ignore[no-any-return]


def test_the_same_model_has_not_drifted(made: Path, tiny_base: Path, tmp_path: Path) -> None:
    found = measure(made, tmp_path, tiny_base, drift_texts=0)
    assert found["texts"] == 40
    sea = found["concepts"]["sea"]
    assert sea["auc_own"] > 0.8
    assert sea["auc_other"] == pytest.approx(sea["auc_own"], abs=1e-9)
    assert found["drifted"] == []


def test_a_model_that_says_it_the_other_way_round_has(made: Path, tiny_base: Path, tmp_path: Path) -> None:
    turned = tmp_path / "turned"
    shutil.copytree(tiny_base, turned)
    weights = load_file(turned / "model.safetensors")
    # the same words, with the coordinates of their embeddings in reverse order
    for name, value in weights.items():
        if "embed" in name:
            weights[name] = torch.flip(value, [-1]).contiguous()
    save_file(weights, turned / "model.safetensors", metadata={"format": "pt"})
    found = measure(made, tmp_path, turned, drift_texts=0, max_drift=0.05)
    assert found["concepts"]["sea"]["lost"] > 0.05
    assert found["drifted"] == ["sea"]
    assert found["concepts"]["sea"]["lost"] == pytest.approx(
        found["concepts"]["sea"]["auc_own"] - found["concepts"]["sea"]["auc_other"]
    )


def test_only_so_many_texts_are_read_and_always_the_same(made: Path, tiny_base: Path, tmp_path: Path) -> None:
    data, _ = labelled.read_labelled(made / "labels", made / "activations", None, (1,))
    few, more = drift.sample(data, 10), drift.sample(data, 20)
    assert len(few) == 10
    assert set(few) <= set(more)
    assert measure(made, tmp_path, tiny_base, drift_texts=10)["texts"] == 10


def test_a_model_of_another_size_is_refused(made: Path, tmp_path: Path) -> None:
    other = make_tiny_base(tmp_path / "wide", hidden=48)
    with pytest.raises(ActionError, match="different sizes"):
        measure(made, tmp_path, other)
