"""The link rule on checkpoints: byte laws, a round trip through transformers, what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from amybuild.actions.context import ActionContext
from amybuild.errors import ActionError, InputError
from amybuild.link import linker, merge, pool
from amybuild.link.run import run
from tests.tiny import make_tiny_base

RANK = 4


def make_vector(base: Path, folder: Path, seed: int, scale: float = 0.3) -> Path:
    """A random adapter on every projection matrix of the tiny model."""
    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(seed)
    factors = {}
    for name, weight in sorted(load_file(base / "model.safetensors").items()):
        if weight.dim() == 2 and ".layers." in name:
            key = f"base_model.model.{name.removesuffix('.weight')}"
            factors[f"{key}.lora_A.weight"] = torch.randn(RANK, weight.shape[1], generator=generator) * scale
            factors[f"{key}.lora_B.weight"] = torch.randn(weight.shape[0], RANK, generator=generator) * scale
    save_file(factors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "r": RANK, "lora_alpha": 2 * RANK, "target_modules": "all-linear"})
    )
    return folder


@pytest.fixture(scope="module")
def vectors(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("vectors")
    return {name: make_vector(tiny_base, root / name, seed) for seed, name in enumerate(("one", "three", "two"))}


def link(base: Path, out: Path, vectors: dict[str, Path], alphas: dict[str, float], **params: Any) -> Path:
    out.mkdir(parents=True)
    inputs = {"base": base, **{f"vector.{name}": vectors[name] for name in alphas}}
    if "lam" in params:
        params["lambda"] = params.pop("lam")
    run(ActionContext("checkpoint/link", "0" * 64, {"alphas": alphas, **params}, inputs, out))
    return out


def delta(folder: Path, key: str) -> torch.Tensor:
    factors = load_file(folder / "adapter_model.safetensors")
    name = f"base_model.model.{key.removesuffix('.weight')}"
    return 2.0 * (factors[f"{name}.lora_B.weight"] @ factors[f"{name}.lora_A.weight"])


@pytest.mark.parametrize("arch", ["llama", "gemma", "qwen3", "gpt_neox"])
def test_linked_logits_are_the_base_with_the_deltas_added_by_hand(tmp_path: Path, arch: str) -> None:
    from transformers import AutoModelForCausalLM

    base = make_tiny_base(tmp_path / "base", arch, dtype="float32")
    vector = make_vector(base, tmp_path / "v", 1)
    out = link(base, tmp_path / "out", {"v": vector}, {"v": -0.5}, density=1.0, lam=0.7)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    state = dict(model.named_parameters())
    with torch.no_grad():
        for key in load_file(base / "model.safetensors"):
            if ".layers." in key and state[key].dim() == 2:
                state[key] += 0.7 * (-0.5 * delta(vector, key))
    linked = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
    ids = torch.arange(4, 20)[None]
    with torch.no_grad():
        torch.testing.assert_close(linked(ids).logits, model(ids).logits, atol=1e-5, rtol=1e-5)


def test_bf16_is_rounded_once_and_other_tensors_keep_their_bytes(
    tiny_base: Path, tmp_path: Path, vectors: dict[str, Path]
) -> None:
    out = link(tiny_base, tmp_path / "out", vectors, {"one": 1.0}, density=1.0)
    before, after = load_file(tiny_base / "model.safetensors"), load_file(out / "model.safetensors")
    assert list(before) == list(after)
    for key, weight in before.items():
        if ".layers." in key and weight.dim() == 2:
            assert torch.equal(after[key], (weight.float() + delta(vectors["one"], key)).to(torch.bfloat16))
        else:
            assert torch.equal(after[key], weight)
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        assert (out / name).read_bytes() == (tiny_base / name).read_bytes()


@pytest.mark.parametrize(
    ("alphas", "lam"), [({}, 1.0), ({"one": 0.0, "two": 0.0}, 1.0), ({"one": 1.0, "two": -1.0}, 0.0)]
)
def test_nothing_to_add_is_the_base_byte_for_byte(
    tiny_base: Path, tmp_path: Path, vectors: dict[str, Path], alphas: dict[str, float], lam: float
) -> None:
    out = link(tiny_base, tmp_path / "out", vectors, alphas, lam=lam)
    assert (out / "model.safetensors").read_bytes() == (tiny_base / "model.safetensors").read_bytes()
    assert json.loads((out / "link.json").read_text())["tensors_touched"] == 0


def test_same_bytes_whatever_the_order_and_the_threads(
    tiny_base: Path, tmp_path: Path, vectors: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    alphas = {"one": 1.0, "two": -0.5, "three": 0.3}
    first = link(tiny_base, tmp_path / "a", vectors, alphas)
    monkeypatch.setattr(pool, "available", lambda: 1)
    second = link(tiny_base, tmp_path / "b", vectors, dict(reversed(alphas.items())))
    for name in ("model.safetensors", "link.json"):
        assert (first / name).read_bytes() == (second / name).read_bytes()
    monkeypatch.setattr(pool, "available", lambda: 5)
    monkeypatch.setattr(merge, "_BLOCK", 64)  # many blocks a matrix
    monkeypatch.setattr(linker, "SPAN", 200)  # several spans a matrix
    third = link(tiny_base, tmp_path / "c", vectors, alphas)
    assert (first / "model.safetensors").read_bytes() == (third / "model.safetensors").read_bytes()


def test_a_sharded_base_gives_the_same_weights_in_the_same_shards(
    tiny_base: Path, tmp_path: Path, vectors: dict[str, Path]
) -> None:
    sharded = tmp_path / "sharded"
    shutil.copytree(tiny_base, sharded)
    tensors = load_file(tiny_base / "model.safetensors")
    (sharded / "model.safetensors").unlink()
    names = sorted(tensors)
    parts = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, keys in parts.items():
        save_file({key: tensors[key] for key in keys}, sharded / file, metadata={"format": "pt"})
    weight_map = {key: file for file, keys in parts.items() for key in keys}
    (sharded / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    whole = load_file(link(tiny_base, tmp_path / "a", vectors, {"one": 1.0, "two": 1.0}) / "model.safetensors")
    out = link(sharded, tmp_path / "b", vectors, {"one": 1.0, "two": 1.0})
    for file, keys in parts.items():
        part = load_file(out / file)
        assert sorted(part) == sorted(keys)
        assert all(torch.equal(part[key], whole[key]) for key in keys)
    assert json.loads((out / "link.json").read_text()) == json.loads((tmp_path / "a" / "link.json").read_text())
    (sharded / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ActionError, match="complete set of shards"):
        link(sharded, tmp_path / "c", vectors, {"one": 1.0})


def test_the_account(tiny_base: Path, tmp_path: Path, vectors: dict[str, Path]) -> None:
    seen: list[tuple[int, int]] = []
    out = tmp_path / "out"
    out.mkdir()
    context = ActionContext(
        "checkpoint/link",
        "0" * 64,
        {"alphas": {"one": 1.0, "same": -1.0}, "density": 0.25},
        {"base": tiny_base, "vector.one": vectors["one"], "vector.same": vectors["one"]},
        out,
        lambda done, total, **_: seen.append((done, total)),
    )
    run(context)
    report = json.loads((out / "link.json").read_text())
    touched = report["tensors_touched"]
    assert seen == [(i, touched) for i in range(touched + 1)]
    assert report["order"] == ["one", "same"]
    assert report["cosine"] == [[1.0, 1.0], [1.0, 1.0]]  # of the vectors as they are; alphas show in the conflict
    one = report["vectors"]["one"]
    assert one["sign_conflict"] == {"same": 1.0}
    assert one["density_reached"] == pytest.approx(0.25, abs=0.01)
    assert 0.25 < one["mass_kept"] < 1.0
    assert one["mass_surviving"] == 0.0  # every entry is a tie
    assert one["norm"] == pytest.approx(
        sum(float(delta(vectors["one"], k).square().sum()) for k in load_file(tiny_base / "model.safetensors")
            if ".layers." in k and "norm" not in k) ** 0.5, rel=1e-4
    )  # fmt: skip
    assert [row["layer"] for row in report["layers"]] == ["0", "1", "2"]
    assert (out / "model.safetensors").read_bytes() == (tiny_base / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    "params",
    [
        {"method": "tie"},
        {"density": 0.0},
        {"density": 1.5},
        {"density": "0.2"},
        {"elect": "votes"},
        {"lam": float("nan")},
        {"lamda": 1.0},
    ],
)
def test_bad_parameters_are_input_errors(
    tiny_base: Path, tmp_path: Path, vectors: dict[str, Path], params: dict[str, Any]
) -> None:
    with pytest.raises(InputError):
        link(tiny_base, tmp_path / "out", vectors, {"one": 1.0}, **params)


def test_alphas_and_vectors_must_match(tiny_base: Path, tmp_path: Path, vectors: dict[str, Path]) -> None:
    inputs = {"base": tiny_base, "vector.one": vectors["one"]}
    context = ActionContext("l", "0", {"alphas": {"two": 1.0}}, inputs, tmp_path)
    with pytest.raises(InputError, match="same names"):
        run(context)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.int8])
def test_quantised_weights_are_refused_by_name(
    tiny_base: Path, tmp_path: Path, vectors: dict[str, Path], dtype: torch.dtype
) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny_base, base)
    tensors = load_file(base / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    tensors[name] = tensors[name].to(dtype)
    save_file(tensors, base / "model.safetensors")
    with pytest.raises(ActionError, match=r"layers\.1\.mlp\.up_proj"):
        link(base, tmp_path / "out", vectors, {"one": 1.0})
    copied = link(base, tmp_path / "copy", vectors, {"one": 0.0})
    assert (copied / "model.safetensors").read_bytes() == (base / "model.safetensors").read_bytes()


def test_a_damaged_base_is_told(tiny_base: Path, tmp_path: Path, vectors: dict[str, Path]) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny_base, base)
    weights = base / "model.safetensors"
    data = weights.read_bytes()
    for i, broken in enumerate((data[:-2], data[:20], b"", b"\xff" * 40)):
        weights.write_bytes(broken)
        with pytest.raises(ActionError, match="not a readable safetensors file"):
            link(base, tmp_path / f"out{i}", vectors, {"one": 1.0})


def test_the_bases_card_and_other_weights_are_not_taken_along(
    tiny_base: Path, tmp_path: Path, vectors: dict[str, Path]
) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny_base, base)
    for name in ("README.md", "pytorch_model.bin", "consolidated.safetensors", ".cache"):
        (base / name).write_text("x")
    (base / "extra").mkdir()
    (base / "extra" / "notes.json").write_text("{}")
    out = link(base, tmp_path / "out", vectors, {"one": 1.0})
    names = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    known = {path.name for path in tiny_base.iterdir()}
    assert names == known | {"link.json", "extra/notes.json"}


def test_a_failing_weight_stops_the_link_and_leaves_no_threads(
    tiny_base: Path, tmp_path: Path, vectors: dict[str, Path]
) -> None:
    import threading

    def stop(done: int, total: int, **fields: float | str) -> None:
        if done == 2:
            raise KeyboardInterrupt

    before = threading.active_count()
    inputs = {"base": tiny_base, "vector.one": vectors["one"]}
    (tmp_path / "out").mkdir()
    with pytest.raises(KeyboardInterrupt):
        run(ActionContext("l", "0" * 64, {"alphas": {"one": 1.0}}, inputs, tmp_path / "out", stop))
    assert threading.active_count() == before
