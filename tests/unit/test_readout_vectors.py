"""Readout vectors: planted directions are found, layers are chosen by separation, the format is the contract."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from amybuild.actions.context import ActionContext
from amybuild.actions.vectors import run
from amybuild.errors import ActionError, InputError
from tests.tiny import write_jsonl

HIDDEN, LAYERS, COUNT = 24, 6, 60


def make_inputs(
    folder: Path, *, planted: int = 3, positives: int = 20, negatives: int = 30, named: bool = True
) -> Path:
    """Random activations; the concept "joy" is a direction in block `planted` only, "worry" is nowhere."""
    rng = np.random.default_rng(0)
    marks = [1] * positives + [-1] * negatives + [0] * (COUNT - positives - negatives)
    rows = {layer: rng.standard_normal((COUNT, HIDDEN)).astype(np.float32) for layer in range(LAYERS)}
    rows[planted][:positives, 0] += 4.0
    ids = [f"t{i}" for i in range(COUNT)]
    lines = []
    for i, (name, mark) in enumerate(zip(ids, marks, strict=True)):
        labels = {"worry": 1 if i % 2 else -1} | ({"joy": mark} if mark else {})
        lines.append({"id": name, "labels": labels})
    write_jsonl(folder / "labels" / "labels.jsonl", lines)
    if named:
        (folder / "labels" / "card.json").write_text(json.dumps({"concepts": ["worry", "joy"]}))
    (folder / "acts").mkdir()
    save_file({f"layer_{layer}": value for layer, value in rows.items()}, folder / "acts" / "activations.safetensors")
    about = {"ids": ids, "layers": list(rows), "num_layers": LAYERS, "hidden_size": HIDDEN, "reading": "mean"}
    (folder / "acts" / "ids.json").write_text(json.dumps(about))
    return folder


def find(folder: Path, **params: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    out = folder / "out"
    out.mkdir(exist_ok=True)
    inputs = {"labels": folder / "labels", "activations": folder / "acts"}
    run(ActionContext("readout/vectors", "0" * 64, params, inputs, out))
    return load_file(out / "readout.safetensors"), json.loads((out / "readout.json").read_text())


def test_the_contract_of_the_two_files(tmp_path: Path) -> None:
    tensors, manifest = find(make_inputs(tmp_path), n_layers=2)
    assert manifest["format_version"] == 1
    assert manifest["concepts"] == ["worry", "joy"]
    assert manifest["dtype"] == "float32"
    assert manifest["hidden_size"] == HIDDEN
    assert manifest["layers"] == sorted(manifest["layers"])
    assert len(manifest["layers"]) == 2
    parts = ("gap", "mean", "std", "steer", "threshold", "vectors")
    assert set(tensors) == {f"layer_{n}.{part}" for n in manifest["layers"] for part in parts}
    acts = load_file(tmp_path / "acts" / "activations.safetensors")
    for layer in manifest["layers"]:
        vectors = tensors[f"layer_{layer}.vectors"]
        assert vectors.shape == (2, HIDDEN)
        assert vectors.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, rtol=1e-6)
        projections = acts[f"layer_{layer}"] @ vectors.T
        np.testing.assert_allclose(tensors[f"layer_{layer}.mean"], projections.mean(0), atol=1e-5)
        np.testing.assert_allclose(tensors[f"layer_{layer}.std"], projections.std(0), atol=1e-5)


def test_a_planted_direction_is_found_where_it_is(tmp_path: Path) -> None:
    tensors, manifest = find(make_inputs(tmp_path), concepts=["joy"], n_layers=1)
    assert manifest["layers"] == [3]
    assert tensors["layer_3.vectors"][0, 0] > 0.9  # positive side = the concept is there
    quality = manifest["quality"]["joy"]["3"]
    assert quality["auc_cv"] > 0.95
    assert (quality["n_pos"], quality["n_neg"]) == (20, 30)
    assert 0.2 < manifest["auc_cv_by_layer"]["2"] < 0.8


def test_a_concept_that_is_nowhere_is_at_chance(tmp_path: Path) -> None:
    _, manifest = find(make_inputs(tmp_path), concepts=["worry"], layers=[4])
    assert 0.2 < manifest["quality"]["worry"]["4"]["auc_cv"] < 0.8


def test_same_inputs_same_bytes_and_concepts_without_a_card(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        assert find(make_inputs(tmp_path / name, named=False))[1]["concepts"] == ["joy", "worry"]
    for name in ("readout.safetensors", "readout.json"):
        assert (tmp_path / "a" / "out" / name).read_bytes() == (tmp_path / "b" / "out" / name).read_bytes()


@pytest.mark.parametrize(("positives", "negatives"), [(2, 30), (20, 0)])
def test_too_few_examples_name_the_concept(tmp_path: Path, positives: int, negatives: int) -> None:
    make_inputs(tmp_path, positives=positives, negatives=negatives)
    with pytest.raises(ActionError) as caught:
        find(tmp_path, concepts=["joy"])
    assert caught.value.where == "concept 'joy'"


def test_one_negative_is_enough_for_a_vector_but_not_for_a_quality(tmp_path: Path) -> None:
    _, manifest = find(make_inputs(tmp_path, negatives=1), concepts=["joy"], layers=[3])
    assert manifest["quality"]["joy"]["3"]["auc_cv"] == 0.5


def test_bad_parameters_and_strangers(tmp_path: Path) -> None:
    make_inputs(tmp_path)
    for params in ({"estimator": "svm"}, {"layers": [9]}, {"layers": []}, {"n_layers": 0}, {"n_layers": "3"}):
        with pytest.raises(InputError):
            find(tmp_path, **params)
    about = json.loads((tmp_path / "acts" / "ids.json").read_text())
    (tmp_path / "acts" / "ids.json").write_text(json.dumps({**about, "ids": about["ids"][1:]}))
    with pytest.raises(ActionError, match="do not belong together"):
        find(tmp_path)
