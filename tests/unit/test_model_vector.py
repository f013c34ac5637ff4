"""Vectors that are stored whole: put on a loaded model and taken off without a trace, like any adapter."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from amybuild.errors import ActionError
from amybuild.model.load import load_base
from amybuild.model.vector import applied, read_vector, weight_files
from tests.tiny import make_tiny_base
from tests.unit.test_model_lora import bits, logits, random_adapter


@pytest.fixture(scope="module", params=["llama", "gpt_neox"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A base (its head tied, or not) and another model of its shape."""
    root = tmp_path_factory.mktemp(request.param)
    return make_tiny_base(root / "base", request.param), make_tiny_base(root / "tuned", request.param, seed=1)


def split(folder: Path, out: Path) -> Path:
    """The same checkpoint in two shards."""
    out.mkdir()
    tensors = sorted(load_file(folder / "model.safetensors").items())
    parts = {"model-1.safetensors": dict(tensors[::2]), "model-2.safetensors": dict(tensors[1::2])}
    for name, part in parts.items():
        save_file(part, out / name)
    weight_map = {tensor: name for name, part in parts.items() for tensor in part}
    (out / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return out


def test_at_strength_one_a_checkpoint_is_itself(pair: tuple[Path, Path], tmp_path: Path) -> None:
    base_folder, tuned_folder = pair
    with load_base(tuned_folder, keep=False) as tuned:
        wanted = logits(tuned.model)
    with load_base(base_folder, keep=False) as base:
        before, start = bits(base.model), logits(base.model)
        for folder in (tuned_folder, split(tuned_folder, tmp_path / "shards")):
            with applied(base.model, read_vector(folder), 1.0):
                torch.testing.assert_close(logits(base.model), wanted, atol=1e-4, rtol=1e-4)
            assert bits(base.model) == before
        with applied(base.model, read_vector(tuned_folder), 1.0, [{"match": "*", "factor": 0.0}]):
            torch.testing.assert_close(logits(base.model), start)


def test_differences_are_the_checkpoint_less_the_base(pair: tuple[Path, Path], tmp_path: Path) -> None:
    base_folder, tuned_folder = pair
    one, two = load_file(base_folder / "model.safetensors"), load_file(tuned_folder / "model.safetensors")
    folder = tmp_path / "delta"
    folder.mkdir()
    save_file({name: two[name].float() - one[name].float() for name in one}, folder / "delta.safetensors")
    with load_base(base_folder, keep=False) as base:
        with applied(base.model, read_vector(tuned_folder), -0.4):
            wanted = logits(base.model)
        with applied(base.model, read_vector(folder), -0.4):
            torch.testing.assert_close(logits(base.model), wanted)


def test_the_first_factor_that_matches_counts(tmp_path: Path) -> None:
    with load_base(make_tiny_base(tmp_path / "base"), keep=False) as base:
        vector = read_vector(random_adapter(base, tmp_path / "vector", 1))
        before = {name: value.clone() for name, value in base.model.state_dict().items()}
        rows = [{"match": "*.0.*", "factor": 2.0}, {"match": "*.mlp.*", "factor": 0.0}]
        with applied(base.model, vector, 1.0):
            whole = {name: value - before[name] for name, value in base.model.state_dict().items()}
        with applied(base.model, vector, 1.0, rows):
            for name, value in base.model.state_dict().items():
                factor = 2.0 if ".0." in name else 0.0 if ".mlp." in name else 1.0
                torch.testing.assert_close(value - before[name], factor * whole[name], atol=1e-6, rtol=1e-4)


def test_a_vector_of_another_base_leaves_no_trace(tmp_path: Path) -> None:
    wide = make_tiny_base(tmp_path / "wide", hidden=64)
    deep = make_tiny_base(tmp_path / "deep", layers=4)
    with load_base(make_tiny_base(tmp_path / "base"), keep=False) as base:
        before = bits(base.model)
        for folder, said in (
            (wide, "does not fit the base"),
            (deep, r"model\.layers\.3\..*only one of base and vector"),
        ):
            with pytest.raises(ActionError, match=said), applied(base.model, read_vector(folder), 1.0):
                pass
            assert bits(base.model) == before


def test_a_folder_without_weights_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ActionError, match=r"no model\.safetensors"):
        weight_files(tmp_path)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "model-1.safetensors"}}))
    with pytest.raises(ActionError, match=r"names model-1\.safetensors, which is not here"):
        weight_files(tmp_path)
    for text in ("{}", "[]", "x", '{"weight_map": {}}', '{"weight_map": {"a": "../b"}}'):
        index.write_text(text)
        with pytest.raises(ActionError):
            weight_files(tmp_path)
