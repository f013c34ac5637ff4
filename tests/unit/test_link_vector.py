"""Task vectors from adapters, checkpoints and differences: their algebra, their scaling, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from amybuild.errors import ActionError
from amybuild.link.delta import Delta, Dense, Difference, LowRank, Sum, added, blocks, dense, sample, scaled
from amybuild.link.tensors import Weight, read_shards
from amybuild.link.vector import TaskVector, read_vector
from tests import checkpoints as files

OUT, IN = 6, 5
SHAPES = {"a.weight": (OUT, IN), "b.weight": (OUT, IN)}


def write_adapter(folder: Path, config: dict[str, Any] | None = None, module: str = "a", rank: int = 2) -> Path:
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(rank)
    factors = {
        f"base_model.model.{module}.lora_A.weight": ("F32", rng.normal(size=(rank, IN)).astype("<f4")),
        f"base_model.model.{module}.lora_B.weight": ("F32", rng.normal(size=(OUT, rank)).astype("<f4")),
    }
    files.write_tensors(folder / "adapter_model.safetensors", factors)
    (folder / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "r": rank, "lora_alpha": 8, **(config or {})})
    )
    return folder


def product(folder: Path, module: str = "a") -> NDArray[Any]:
    factors = files.read_tensors(folder / "adapter_model.safetensors")
    prefix = f"base_model.model.{module}"
    return factors[f"{prefix}.lora_B.weight"][1] @ factors[f"{prefix}.lora_A.weight"][1]


@st.composite
def deltas(draw: st.DrawFn, kinds: tuple[str, ...] = ("low", "dense", "sum")) -> Delta:
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    kind = draw(st.sampled_from(kinds))
    scale = draw(st.sampled_from([0.5, 1.0, -2.0]))
    rank = draw(st.integers(1, 9))
    if kind == "low":
        left, right = (rng.normal(size=shape).astype(np.float32) for shape in ((OUT, rank), (rank, IN)))
        return LowRank(left, right, scale)
    if kind == "dense":
        return Dense(rng.normal(size=(OUT, IN)).astype(np.float32), scale)
    return Sum((draw(deltas(("low",))), draw(deltas(("dense",)))))


@st.composite
def vectors(draw: st.DrawFn) -> TaskVector:
    names = draw(st.sets(st.sampled_from(sorted(SHAPES)), min_size=1))
    return TaskVector("v", {name: draw(deltas()) for name in sorted(names)})


def whole(vector: TaskVector) -> NDArray[np.float32]:
    nothing = Dense(np.zeros((OUT, IN), np.float32))
    return np.stack([dense(vector.deltas.get(name, nothing)) for name in sorted(SHAPES)])


@given(vectors(), vectors(), vectors())
@settings(deadline=None)
def test_the_algebra_of_task_vectors(a: TaskVector, b: TaskVector, c: TaskVector) -> None:
    close = {"atol": 1e-5, "rtol": 1e-5}
    np.testing.assert_allclose(whole(b - a + c), whole(b) - whole(a) + whole(c), **close)
    np.testing.assert_allclose(whole(b - b + c), whole(c), **close)
    np.testing.assert_allclose(whole(2.0 * a), 2 * whole(a), **close)
    np.testing.assert_array_equal(whole(-a), -whole(a))
    assert set((a + b).deltas) == set(a.deltas) | set(b.deltas)


@given(deltas(), st.integers(0, OUT), st.integers(0, OUT), st.integers(1, 40))
@settings(deadline=None)
def test_rows_do_not_depend_on_the_range_asked_for(delta: Delta, one: int, other: int, size: int) -> None:
    start, stop = sorted((one, other))
    everything = dense(delta)
    np.testing.assert_array_equal(delta.rows(start, stop), everything[start:stop])
    np.testing.assert_array_equal(np.concatenate([b.copy() for b in blocks(delta, size)]), everything.reshape(-1))
    np.testing.assert_array_equal(sample(delta, size), everything.reshape(-1)[::size])


def test_the_sum_of_factors_is_of_their_added_ranks() -> None:
    low = LowRank(np.ones((OUT, 2), np.float32), np.ones((2, IN), np.float32), 3.0)
    total = added(low, scaled(low, -1.0))
    assert isinstance(total, LowRank)
    assert total.left.shape == (OUT, 4)
    assert not dense(total).any()


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
    np.testing.assert_allclose(dense(vector.deltas["a.weight"]), product(folder) * scale, rtol=1e-4, atol=1e-6)


def test_fan_in_fan_out_is_transposed(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "v", {"fan_in_fan_out": True})
    vector = read_vector(folder, "v").bind({"a.weight": (IN, OUT)})
    np.testing.assert_allclose(dense(vector.deltas["a.weight"]), product(folder).T * 4, rtol=1e-4, atol=1e-6)


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
    embedding = {"base_model.model.e.lora_embedding_A": ("F32", np.zeros((2, 2), "<f4"))}
    files.write_tensors(folder / "adapter_model.safetensors", embedding)
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
        factors = files.read_tensors(weights)
        factors["base_model.model.a.lora_A.weight"] = ("F32", np.full((2, IN), np.nan, "<f4"))
        files.write_tensors(weights, factors)
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


def test_a_checkpoint_is_its_difference_to_the_base(tmp_path: Path) -> None:
    base = files.base_tensors()
    tuned = files.tuned_tensors(base, 1)
    one, two = files.write_folder(tmp_path / "base", base), files.write_folder(tmp_path / "tuned", tuned, shards=2)
    vector = read_vector(two, "v", read_shards(one))
    assert set(vector.deltas) == set(files.SHAPES)
    for name, delta in vector.deltas.items():
        assert isinstance(delta, Difference)
        exact = files.loaded(*tuned[name]) - files.loaded(*base[name])
        np.testing.assert_array_equal(dense(delta), exact.astype(np.float32))


def test_differences_by_weight_name(tmp_path: Path) -> None:
    values = np.arange(OUT * IN, dtype="<f4").reshape(OUT, IN)
    (tmp_path / "v").mkdir()
    files.write_tensors(tmp_path / "v" / "delta.safetensors", {"a.weight": ("F32", values)})
    np.testing.assert_array_equal(dense(read_vector(tmp_path / "v", "v").deltas["a.weight"]), values)


def test_a_stored_head_and_a_tied_one_are_the_same(tmp_path: Path) -> None:
    base = files.base_tensors()
    tuned = files.tuned_tensors(base, 1)
    embedding = "model.embed_tokens.weight"
    tied = {"base": files.write_folder(tmp_path / "b", base), "tuned": files.write_folder(tmp_path / "t", tuned)}
    untied = {
        "base": files.write_folder(tmp_path / "bh", {**base, "lm_head.weight": base[embedding]}),
        "tuned": files.write_folder(tmp_path / "th", {**tuned, "lm_head.weight": tuned[embedding]}),
    }
    assert "lm_head.weight" not in read_vector(untied["tuned"], "v", read_shards(tied["base"])).deltas
    head = read_vector(tied["tuned"], "v", read_shards(untied["base"])).deltas["lm_head.weight"]
    np.testing.assert_array_equal(
        dense(head), dense(read_vector(tied["tuned"], "v", read_shards(tied["base"])).deltas[embedding])
    )
    other = files.write_folder(tmp_path / "o", {**tuned, "lm_head.weight": base[embedding]})
    with pytest.raises(ActionError, match=r"the base has no tensor 'lm_head\.weight'"):
        read_vector(other, "v", read_shards(tied["base"]))


@pytest.mark.parametrize("change", ["missing", "shape", "buffer", "fp8"])
def test_a_checkpoint_of_another_model_is_told(tmp_path: Path, change: str) -> None:
    base = files.base_tensors()
    tuned = files.tuned_tensors(base, 1)
    name = "model.layers.1.mlp.up_proj.weight"
    if change == "missing":
        del tuned[name]
    elif change == "shape":
        tuned[name] = ("BF16", np.zeros((3, 3), "<u2"))
    elif change == "fp8":
        tuned[name] = ("F8_E4M3", np.zeros(files.SHAPES[name], "u1"))
    else:
        name = "model.rotary.steps"
        tuned[name] = ("I64", np.zeros(8, "<i8"))
    shards = read_shards(files.write_folder(tmp_path / "base", base))
    with pytest.raises(ActionError, match=name.replace(".", r"\.")) as caught:
        read_vector(files.write_folder(tmp_path / "tuned", tuned), "v", shards)
    assert caught.value.remedy


@pytest.mark.parametrize("codes", [("F32", "BF16"), ("BF16", "F32"), ("F16", "F16"), ("F64", "F64"), ("F64", "BF16")])
def test_dtypes_may_differ(tmp_path: Path, codes: tuple[str, str]) -> None:
    rng = np.random.default_rng(0)
    base, tuned = ({"a.weight": (code, files.stored(rng.normal(size=(OUT, IN)), code))} for code in codes)
    shards = read_shards(files.write_folder(tmp_path / "b", base))
    delta = read_vector(files.write_folder(tmp_path / "t", tuned), "v", shards).deltas["a.weight"]
    exact = files.loaded(*tuned["a.weight"]) - files.loaded(*base["a.weight"])
    np.testing.assert_array_equal(dense(delta), exact.astype(np.float32))
    np.testing.assert_array_equal(sample(delta, 7), exact.astype(np.float32).reshape(-1)[::7])


def test_pages_are_given_back_and_read_again(tmp_path: Path) -> None:
    values = np.arange(1 << 16, dtype="<f4").reshape(256, 256)
    shard = read_shards(files.write_folder(tmp_path / "b", {"a.weight": ("F32", values)}))[0]
    weight = Weight(shard, shard.tensors[0])
    np.testing.assert_array_equal(weight.array, values)
    weight.release(3, 200)
    weight.release(0, 256)
    np.testing.assert_array_equal(weight.array, values)
