"""The merged adapter: the cut is the best one, the residual is what is missing, PEFT and our own reader load it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amybuild.errors import ActionError, InputError
from amybuild.link import truncate as cutting
from amybuild.link.adapter import CONFIG, WEIGHTS, can_hold, rounded, write_adapter
from amybuild.link.delta import Delta, Dense, LowRank, dense
from amybuild.link.truncate import missing, norm, truncate
from tests.matrices import Case, cases, factors, ordinary

few = settings(deadline=None, max_examples=60)
Q, UP = "model.layers.0.self_attn.q_proj.weight", "model.layers.0.mlp.up_proj.weight"


def best(array: Any, rank: int) -> float:
    """The Frobenius norm that any matrix of that rank misses at least."""
    return float(np.linalg.norm(np.linalg.svd(np.asarray(array, np.float64), compute_uv=False)[rank:]))


# -- truncation ------------------------------------------------------------------------------------------------------


@given(case=cases(), rank=st.integers(1, 6))
@few
def test_the_cut_is_the_best_one_and_what_it_misses_is_told(case: Case, rank: int) -> None:
    for deltas in (case.low, case.full):
        for delta in deltas:
            found, array = truncate(delta, rank), dense(delta).astype(np.float64)
            size = 1e-30 + float(np.linalg.norm(array))
            assert found.b.shape == (len(array), rank)
            assert found.a.shape == (rank, array.shape[1])
            gap = float(np.linalg.norm(array - found.b @ found.a))
            assert gap <= best(array, rank) + 1e-12 * size
            assert missing(delta, found) == pytest.approx(gap, abs=1e-12 * size)
            assert norm(delta) == pytest.approx(size, rel=1e-9, abs=1e-29)


def test_factors_and_the_dense_matrix_give_the_same_product() -> None:
    delta = ordinary(rank=6).low[0]
    low, full = truncate(delta, 4), truncate(Dense(dense(delta)), 4)
    np.testing.assert_allclose(low.b @ low.a, full.b @ full.a, atol=1e-6)


def large(kind: str) -> Any:
    rng = np.random.default_rng(3)
    flat = rng.standard_normal((640, 700))
    if kind == "flat":
        return flat.astype(np.float32)
    u, _, vt = np.linalg.svd(flat, full_matrices=False)
    decay = np.arange(1, 641) ** -1.0 if kind == "power" else np.r_[np.ones(12), np.zeros(628)]
    return ((u * decay) @ vt).astype(np.float32)


@pytest.mark.parametrize("kind", ["flat", "power", "low"])
def test_large_matrices_come_close_to_the_best(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cutting, "_BLOCK", 50_000)  # several blocks of rows
    array = large(kind)
    found = truncate(Dense(array), 16)
    gap = missing(Dense(array), found)
    assert gap == pytest.approx(float(np.linalg.norm(array - found.b @ found.a)), rel=1e-6, abs=1e-9)
    assert gap <= 1.01 * best(array, 16) + 1e-6 * float(np.linalg.norm(array))
    again = truncate(Dense(array), 16)
    assert (found.b == again.b).all()
    assert (found.a == again.a).all()


def test_the_signs_do_not_depend_on_the_decomposition() -> None:
    delta = ordinary().low[0]
    turned = LowRank(-delta.left, -delta.right, delta.scale)
    for one, other in zip((truncate(delta, 3).b, truncate(delta, 3).a), (truncate(turned, 3).b, truncate(turned, 3).a),
                          strict=True):  # fmt: skip
        np.testing.assert_allclose(one, other, atol=1e-9)


# -- the folder ------------------------------------------------------------------------------------------------------


def vectors(rank: int = 3) -> dict[str, Delta]:
    rng = np.random.default_rng(1)
    return {
        UP: factors(rng, 12, 8, rank),
        Q: factors(rng, 8, 8, 1),
        "model.norm.weight": Dense(np.full(8, 0.5, np.float32)),
        "model.embed_tokens.weight": Dense(np.ones((5, 8), np.float32)),
        "model.layers.0.self_attn.q_proj.bias": Dense(np.ones(8, np.float32)),
        "model.layers.0.mlp.experts.up_proj.weight": Dense(np.ones((2, 3, 4), np.float32)),
    }


def stored(folder: Path) -> dict[str, Any]:
    from safetensors.numpy import load_file

    return dict(load_file(folder / WEIGHTS))


def product(folder: Path, module: str) -> Any:
    tensors, prefix = stored(folder), f"base_model.model.{module}"
    return tensors[f"{prefix}.lora_B.weight"] @ tensors[f"{prefix}.lora_A.weight"]


def test_it_holds_the_linear_weights_and_tells_of_the_rest(tmp_path: Path) -> None:
    deltas = vectors()
    report = write_adapter(tmp_path, deltas)
    assert report.rank == 3
    assert sorted(report.fits) == [UP, Q]
    assert report.residual < 1e-6
    for name in (UP, Q):
        np.testing.assert_allclose(product(tmp_path, name.removesuffix(".weight")), dense(deltas[name]), atol=1e-5)
    wanted = {"norm.weight": 2**0.5, "embed_tokens.weight": 40**0.5, "q_proj.bias": 8**0.5, "up_proj.weight": 24**0.5}
    left_out = {".".join(name.split(".")[-2:]): value for name, value in report.left_out.items()}
    assert left_out == pytest.approx(wanted)
    outside = np.sqrt(74.0)
    inside = np.sqrt(sum(fit.norm**2 for fit in report.fits.values()))
    assert report.left_out_share == pytest.approx(outside / np.hypot(outside, inside))
    json.dumps(report.record(), allow_nan=False)


def test_the_configuration_is_what_peft_and_vllm_need(tmp_path: Path) -> None:
    write_adapter(tmp_path, vectors(), 4)
    config = json.loads((tmp_path / CONFIG).read_text())
    assert config["target_modules"] == [UP.removesuffix(".weight"), Q.removesuffix(".weight")]
    assert config["r"] == config["lora_alpha"] == 4
    assert not set(config) & {"rank_pattern", "alpha_pattern"}
    tensors = stored(tmp_path)
    assert {key.split(".lora_")[1] for key in tensors} == {"A.weight", "B.weight"}
    assert all(4 in value.shape for value in tensors.values())  # one rank for all, padded


def test_a_rank_too_small_reports_what_is_missing(tmp_path: Path) -> None:
    deltas = vectors()
    report = write_adapter(tmp_path, deltas, 1)
    for name in (UP, Q):
        gap = np.linalg.norm(dense(deltas[name]) - product(tmp_path, name.removesuffix(".weight")))
        assert report.fits[name].missing == pytest.approx(float(gap), abs=1e-5)
    assert report.fits[UP].residual == pytest.approx(best(dense(deltas[UP]), 1) / norm(deltas[UP]), rel=1e-5)
    assert report.fits[Q].residual < 1e-6
    assert report.residual == pytest.approx(
        np.hypot(report.fits[UP].missing, report.fits[Q].missing) / np.hypot(norm(deltas[UP]), norm(deltas[Q]))
    )


@pytest.mark.parametrize(("dtype", "step"), [("F32", 2.0**-24), ("F16", 2.0**-11), ("BF16", 2.0**-8)])
def test_the_residual_counts_the_rounding_of_what_is_written(tmp_path: Path, dtype: str, step: float) -> None:
    import torch
    from safetensors.torch import load_file

    deltas = vectors()
    report = write_adapter(tmp_path, deltas, dtype=dtype)
    tensors = load_file(tmp_path / WEIGHTS)
    assert {str(value.dtype) for value in tensors.values()} == {
        {"F32": "torch.float32", "F16": "torch.float16", "BF16": "torch.bfloat16"}[dtype]
    }
    key = f"base_model.model.{UP.removesuffix('.weight')}.lora_{{}}.weight"
    values = (tensors[key.format("B")].double() @ tensors[key.format("A")].double()).numpy()
    gap = np.linalg.norm(dense(deltas[UP]).astype(np.float64) - values)
    assert report.fits[UP].missing == pytest.approx(float(gap), rel=1e-6)
    assert 0 < report.fits[UP].residual < 3 * step
    sample = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    wanted = torch.from_numpy(sample).to(next(iter(tensors.values())).dtype).double().numpy()
    assert (rounded(sample, dtype) == wanted).all()


def test_the_same_differences_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    write_adapter(tmp_path / "one", vectors(), 2)
    write_adapter(tmp_path / "two", dict(reversed(vectors().items())), 2)
    for file in (WEIGHTS, CONFIG):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


@pytest.mark.parametrize("fan_in_fan_out", [False, True])
def test_our_own_reader_gets_the_difference_back(tmp_path: Path, fan_in_fan_out: bool) -> None:
    from amybuild.link.vector import read_vector

    deltas = vectors()
    write_adapter(tmp_path, deltas, fan_in_fan_out=fan_in_fan_out)
    read = read_vector(tmp_path, "v").deltas
    for name in (UP, Q):
        np.testing.assert_allclose(dense(read[name]), dense(deltas[name]), atol=1e-5)


def test_a_dense_result_needs_a_rank(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not low-rank"):
        write_adapter(tmp_path, {UP: Dense(np.ones((12, 8), np.float32))})
    assert write_adapter(tmp_path, {UP: Dense(np.ones((12, 8), np.float32))}, 1).residual < 1e-6


def test_zero_and_oversized_ranks(tmp_path: Path) -> None:
    report = write_adapter(tmp_path, {UP: Dense(np.zeros((12, 8), np.float32))}, 16)
    assert report.residual == 0.0
    assert stored(tmp_path)[f"base_model.model.{UP.removesuffix('.weight')}.lora_A.weight"].shape == (16, 8)
    with pytest.raises(InputError, match="rank 0"):
        write_adapter(tmp_path, vectors(), 0)
    with pytest.raises(InputError, match="dtype"):
        write_adapter(tmp_path, vectors(), 2, dtype="F8_E4M3")


def test_what_cannot_be_held(tmp_path: Path) -> None:
    with pytest.raises(ActionError, match="none of the linked weights"):
        write_adapter(tmp_path, {"model.norm.weight": Dense(np.ones(8, np.float32))})
    report = write_adapter(tmp_path, vectors(), linear={UP})
    assert list(report.fits) == [UP]
    assert Q in report.left_out
    assert can_hold("lm_head.weight", (5, 8))
    assert not any(can_hold(name, (5, 8)) for name in ("transformer.wte.weight", "gpt_neox.embed_in.weight", "a.bias"))


def test_peft_gives_what_the_merged_checkpoint_gives(tmp_path: Path) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from tests.tiny import make_tiny_base

    base = make_tiny_base(tmp_path / "base", dtype="float32")
    merged = AutoModelForCausalLM.from_pretrained(base)
    rng = np.random.default_rng(5)
    deltas: dict[str, Delta] = {}
    with torch.no_grad():
        for name, weight in merged.named_parameters():
            if can_hold(name, tuple(weight.shape)):
                deltas[name] = factors(rng, *weight.shape, 4) * 0.02
                weight += torch.from_numpy(dense(deltas[name]))
    assert len(deltas) == 3 * 7
    (tmp_path / "adapter").mkdir()
    assert write_adapter(tmp_path / "adapter", deltas, base=str(base)).residual < 1e-6
    tuned = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path / "adapter")
    tokens = torch.arange(40).reshape(2, 20)
    with torch.no_grad():
        wanted, found = merged(tokens).logits, tuned(tokens).logits
        plain = AutoModelForCausalLM.from_pretrained(base)(tokens).logits
    assert float((wanted - found).abs().max()) < 1e-5 * float(wanted.abs().max())
    assert float((wanted - plain).abs().max()) > 0.1 * float(wanted.abs().max())
