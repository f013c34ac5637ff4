"""LoRA on a shared base: stored as PEFT stores it, put on and taken off without a trace."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from amybuild.actions.context import ActionContext
from amybuild.errors import ActionError
from amybuild.link import combine
from amybuild.model.load import load_base
from amybuild.model.lora import (
    adapter_config,
    attached,
    initial_a,
    linear_modules,
    read_adapter,
    scaling_of,
    write_adapter,
)
from amybuild.model.vector import applied
from tests.tiny import ARCHITECTURES, make_tiny_base


def bits(model: Any) -> dict[str, str]:
    return {name: hashlib.sha256(value.numpy().tobytes()).hexdigest() for name, value in model.state_dict().items()}


def random_adapter(base: Any, folder: Path, seed: int, rank: int = 3, rslora: bool = False) -> Path:
    folder.mkdir()
    names = linear_modules(base.model)
    make = torch.Generator().manual_seed(seed)
    pairs = {}
    for name in names:
        out, width = base.model.get_submodule(name).weight.shape
        pairs[name] = (torch.randn(rank, width, generator=make), torch.randn(out, rank, generator=make) * 0.02)
    write_adapter(folder, pairs, adapter_config(base.model, names, rank, 8.0, rslora))
    return folder


def logits(model: Any) -> Any:
    with torch.no_grad():
        return model(input_ids=torch.arange(20, 40)[None]).logits


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_linear_layer_but_the_head_and_no_trace_afterwards(tmp_path: Path, arch: str) -> None:
    with load_base(make_tiny_base(tmp_path / arch, arch), keep=False) as base:
        names = linear_modules(base.model)
        assert len(names) == (4 if arch == "gpt_neox" else 7) * 3
        assert not any("head" in name or name == "embed_out" for name in names)
        modules, before, text = dict(base.model.named_modules()), bits(base.model), logits(base.model)
        with attached(base.model, rank=4, alpha=8.0, rslora=False, seed=1) as pairs:
            assert sorted(pairs) == names
            assert all(a.requires_grad and b.requires_grad and not b.any() for a, b in pairs.values())
            torch.testing.assert_close(logits(base.model), text)
        assert dict(base.model.named_modules()) == modules
        assert bits(base.model) == before
        assert not any(parameter.requires_grad for parameter in base.model.parameters())
        assert not hasattr(base.model, "peft_config")


@pytest.mark.parametrize("arch", ["llama", "gpt_neox"])
@pytest.mark.parametrize("rslora", [False, True])
def test_peft_reads_the_adapter_and_gives_what_applied_gives(tmp_path: Path, arch: str, rslora: bool) -> None:
    from peft import PeftModel

    with load_base(make_tiny_base(tmp_path / "base", arch), keep=False) as base:
        folder = random_adapter(base, tmp_path / "vector", 1, rslora=rslora)
        before = bits(base.model)
        with applied(base.model, read_adapter(folder), 1.0):
            ours = logits(base.model)
        assert bits(base.model) == before
        with applied(base.model, read_adapter(folder), -0.5):
            assert not torch.allclose(logits(base.model), ours, atol=1e-3)
        torch.testing.assert_close(logits(PeftModel.from_pretrained(base.model, folder)), ours, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("arch", ["llama", "gpt_neox"])
def test_factors_beside_a_base_give_the_loss_and_the_gradients_that_peft_gives(
    tmp_path: Path, arch: str, dtype: str
) -> None:
    from peft import PeftModel

    def backward(model: Any) -> Any:
        ids = torch.arange(20, 40)[None]
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        return loss.detach()

    with load_base(make_tiny_base(tmp_path / "base", arch), dtype=dtype, keep=False) as base:
        folder = random_adapter(base, tmp_path / "vector", 1, rank=3)
        stored = read_adapter(folder).factors
        with attached(base.model, rank=3, alpha=8.0, rslora=False, seed=1) as pairs:
            with torch.no_grad():
                for name, (a, b) in pairs.items():
                    a.copy_(stored[name].a)
                    b.copy_(stored[name].b)
            ours = backward(base.model)
        model = PeftModel.from_pretrained(base.model, folder, is_trainable=True)
        near = {"float32": 1e-4, "bfloat16": 5e-2}[dtype]
        assert float(ours) == pytest.approx(float(backward(model)), rel=near)
        for name, (a, b) in pairs.items():
            wrapped = model.base_model.model.get_submodule(name)
            for found, layer in ((a.grad, wrapped.lora_A), (b.grad, wrapped.lora_B)):
                wanted = layer["default"].weight.grad
                assert float((found - wanted).norm()) < near * float(wanted.norm())


@pytest.mark.parametrize("across", [False, True])
def test_the_gradient_beside_a_layer_is_that_of_finite_differences(across: bool) -> None:
    from transformers.pytorch_utils import Conv1D

    from amybuild.model.lowrank import beside

    layer = (Conv1D(5, 4) if across else torch.nn.Linear(4, 5)).double().requires_grad_(False)
    a, b, x = (torch.randn(shape, dtype=torch.double, requires_grad=True) for shape in ((2, 4), (5, 2), (3, 2, 4)))
    forward = beside(layer, a, b, 0.7)
    torch.testing.assert_close(forward(x), layer(x) + 0.7 * x @ a.T @ b.T)
    assert torch.autograd.gradcheck(lambda *_: forward(x), (x, a, b))


def test_the_bits_come_back_when_the_block_fails(tmp_path: Path) -> None:
    with load_base(make_tiny_base(tmp_path / "base"), keep=False) as base:
        adapter, before = read_adapter(random_adapter(base, tmp_path / "vector", 1)), bits(base.model)
        with pytest.raises(KeyError), applied(base.model, adapter, 1.0):
            raise KeyError
        assert bits(base.model) == before


def test_the_same_factors_are_the_same_bytes(tmp_path: Path) -> None:
    with load_base(make_tiny_base(tmp_path / "base"), keep=False) as base:
        one, two = random_adapter(base, tmp_path / "one", 1), random_adapter(base, tmp_path / "two", 1)
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (one / name).read_bytes() == (two / name).read_bytes()
    assert json.loads((one / "adapter_config.json").read_text())["base_model_name_or_path"] is None


def test_initial_a_depends_on_seed_and_name_and_keeps_its_bound() -> None:
    a = initial_a(8, 64, 1, "x")
    assert torch.equal(a, initial_a(8, 64, 1, "x"))
    assert not torch.equal(a, initial_a(8, 64, 1, "y"))
    assert not torch.equal(a, initial_a(8, 64, 2, "x"))
    assert a.abs().max() <= 1 / 8


def test_scaling() -> None:
    assert scaling_of(16, 32.0, False) == 2.0
    assert scaling_of(16, 32.0, True) == 8.0


def test_an_analogy_is_the_exact_sum_of_deltas(tmp_path: Path) -> None:
    with load_base(make_tiny_base(tmp_path / "base"), keep=False) as base:
        folders = [random_adapter(base, tmp_path / str(i), i, rank=i, rslora=i == 2) for i in (1, 2, 3)]
    out = tmp_path / "out"
    out.mkdir()
    inputs = dict(zip("abc", folders, strict=True))
    combine.run(ActionContext("task.x/combine", "0" * 64, {}, inputs, out))
    parts = [{name: one.delta() for name, one in read_adapter(folder).factors.items()} for folder in folders]
    adapter = read_adapter(out)
    assert adapter.config["r"] == 6
    for name, factors in adapter.factors.items():
        wanted = parts[1][name] - parts[0][name] + parts[2][name]
        torch.testing.assert_close(factors.delta(), wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("field", ["use_dora", "modules_to_save"])
def test_what_is_not_plain_lora_is_refused(tmp_path: Path, field: str) -> None:
    with load_base(make_tiny_base(tmp_path / "base"), keep=False) as base:
        folder = random_adapter(base, tmp_path / "vector", 1)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, field: True}))
    with pytest.raises(ActionError, match=field):
        read_adapter(folder)


def test_a_vector_of_another_base_is_refused(tmp_path: Path) -> None:
    with load_base(make_tiny_base(tmp_path / "wide", hidden=64), keep=False) as base:
        adapter = read_adapter(random_adapter(base, tmp_path / "vector", 1))
    with load_base(make_tiny_base(tmp_path / "base"), keep=False) as base:
        before = bits(base.model)
        with pytest.raises(ActionError, match="the vector has"), applied(base.model, adapter, 1.0):
            pass
        assert bits(base.model) == before
