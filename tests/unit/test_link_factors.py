"""Task vectors from PEFT adapters: their algebra, their scaling, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from amybuild.errors import ActionError
from amybuild.link.factors import LowRank, TaskVector, read_vector

OUT, IN = 6, 5
SHAPES = {"a.weight": (OUT, IN), "b.weight": (OUT, IN)}


def write_adapter(folder: Path, config: dict[str, Any] | None = None, module: str = "a", rank: int = 2) -> Path:
    folder.mkdir(exist_ok=True)
    generator = torch.Generator().manual_seed(rank)
    factors = {
        f"base_model.model.{module}.lora_A.weight": torch.randn(rank, IN, generator=generator),
        f"base_model.model.{module}.lora_B.weight": torch.randn(OUT, rank, generator=generator),
    }
    save_file(factors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "r": rank, "lora_alpha": 8, **(config or {})})
    )
    return folder


def product(folder: Path, module: str = "a") -> torch.Tensor:
    from safetensors.torch import load_file

    factors = load_file(folder / "adapter_model.safetensors")
    prefix = f"base_model.model.{module}"
    dense: torch.Tensor = factors[f"{prefix}.lora_B.weight"] @ factors[f"{prefix}.lora_A.weight"]
    return dense


@st.composite
def vectors(draw: st.DrawFn) -> TaskVector:
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    names = draw(st.sets(st.sampled_from(sorted(SHAPES)), min_size=1))
    deltas = {}
    for name in sorted(names):
        rank = draw(st.integers(1, 3))
        left, right = torch.randn(OUT, rank, generator=generator), torch.randn(rank, IN, generator=generator)
        deltas[name] = LowRank(left, right, draw(st.sampled_from([0.5, 1.0, 2.0])))
    return TaskVector("v", deltas)


def dense(vector: TaskVector) -> torch.Tensor:
    nothing = LowRank(torch.zeros(OUT, 1), torch.zeros(1, IN))
    return torch.stack([vector.deltas.get(name, nothing).dense() for name in sorted(SHAPES)])


@given(vectors(), vectors(), vectors())
@settings(deadline=None)
def test_the_algebra_of_task_vectors(a: TaskVector, b: TaskVector, c: TaskVector) -> None:
    torch.testing.assert_close(dense(b - a + c), dense(b) - dense(a) + dense(c), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(dense(2.0 * a), 2 * dense(a))
    torch.testing.assert_close(dense(-a), -dense(a))
    torch.testing.assert_close(dense(a - a), torch.zeros(2, OUT, IN), atol=1e-5, rtol=0)
    assert set((a + b).deltas) == set(a.deltas) | set(b.deltas)


@pytest.mark.parametrize(
    ("config", "scale"),
    [
        ({}, 4.0),
        ({"use_rslora": True}, 8 / 2**0.5),
        ({"alpha_pattern": {"a": 2}}, 1.0),
        ({"alpha_pattern": {"x": 2}}, 4.0),
    ],
)
def test_scaling(tmp_path: Path, config: dict[str, Any], scale: float) -> None:
    folder = write_adapter(tmp_path / "v", config)
    vector = read_vector(folder, "v")
    torch.testing.assert_close(vector.deltas["a.weight"].dense(), product(folder) * scale)


def test_fan_in_fan_out_is_transposed(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "v", {"fan_in_fan_out": True})
    vector = read_vector(folder, "v").bind({"a.weight": (IN, OUT)})
    torch.testing.assert_close(vector.deltas["a.weight"].dense(), product(folder).T * 4)


@pytest.mark.parametrize(
    "config",
    [
        {"use_dora": True},
        {"bias": "all"},
        {"modules_to_save": ["lm_head"]},
        {"lora_bias": True},
        {"init_lora_weights": "pissa"},
        {"peft_type": "VERA"},
    ],
)
def test_more_than_low_rank_is_refused(tmp_path: Path, config: dict[str, Any]) -> None:
    with pytest.raises(ActionError, match="cannot link this adapter") as caught:
        read_vector(write_adapter(tmp_path / "v", config), "v")
    assert caught.value.remedy


def test_other_tensors_are_refused(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "v")
    save_file({"base_model.model.e.lora_embedding_A": torch.zeros(2, 2)}, folder / "adapter_model.safetensors")
    with pytest.raises(ActionError, match="lora_embedding_A"):
        read_vector(folder, "v")


@pytest.mark.parametrize("damage", ["missing", "cut", "nan", "config"])
def test_a_damaged_adapter_is_told(tmp_path: Path, damage: str) -> None:
    folder = write_adapter(tmp_path / "v")
    weights = folder / "adapter_model.safetensors"
    if damage == "missing":
        weights.unlink()
    elif damage == "cut":
        weights.write_bytes(weights.read_bytes()[:-4])
    elif damage == "nan":
        a, b = torch.full((2, IN), float("nan")), torch.zeros(OUT, 2)
        save_file({"base_model.model.a.lora_A.weight": a, "base_model.model.a.lora_B.weight": b}, weights)
    else:
        (folder / "adapter_config.json").write_text("{")
    with pytest.raises(ActionError):
        read_vector(folder, "v")


def test_bind_names_what_does_not_fit(tmp_path: Path) -> None:
    vector = read_vector(write_adapter(tmp_path / "v", module="m.a"), "v")
    with pytest.raises(ActionError, match=r"no tensor 'm\.a\.weight'"):
        vector.bind({"m.b.weight": (OUT, IN)})
    with pytest.raises(ActionError, match=r"'m\.a\.weight' is \[6, 6\] in the base, \[6, 5\] in the vector"):
        vector.bind({"m.a.weight": (6, 6)})
    with pytest.raises(ActionError, match="could be any of"):
        vector.bind({"x.m.a.weight": (OUT, IN), "y.m.a.weight": (OUT, IN)})
    # checkpoints saved without, or with one more, leading component
    assert set(vector.bind({"a.weight": (OUT, IN), "b.weight": (OUT, IN)}).deltas) == {"a.weight"}
    assert set(vector.bind({"model.m.a.weight": (OUT, IN)}).deltas) == {"model.m.a.weight"}
