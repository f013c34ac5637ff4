"""The link on a device: the same checkpoints bit for bit, with torch's CPU in the place of a GPU, and with one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from amybuild.errors import ActionError, InputError
from amybuild.link import linker, torch_backend
from amybuild.link.merge import random_words
from amybuild.link.run import link
from amybuild.link.scratch import Scratch
from tests import checkpoints as files

ALPHAS = [1.0, -0.5, 0.3, 0.75, -1.25]
CASES: dict[str, dict[str, Any]] = {
    "linear": {"method": "linear"},
    "ties": {"method": "ties", "density": 0.3},
    "ties by count": {"method": "ties", "density": 0.3, "elect": "count"},
    "ties over the weights": {"method": "ties", "density": 1.0, "divide": "weights", "lambda": 0.7},
    "ties undivided, global": {"method": "ties", "density": 0.4, "divide": "none", "scope": "global"},
    "dare": {"method": "dare_linear", "density": 0.3, "seed": 5},
    "dare and an election": {"method": "dare_ties", "density": 0.7},
    "breadcrumbs": {"method": "breadcrumbs", "density": 0.5, "gamma": 0.1},
    "breadcrumbs and an election": {"method": "breadcrumbs_ties", "density": 0.3, "gamma": 0.05},
}


@pytest.fixture(scope="module", params=["BF16", "F16", "F32", "F64"])
def inputs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp(request.param)
    base = files.base_tensors(request.param)
    tuned = {f"vector.v{i}": files.write_folder(root / f"v{i}", files.tuned_tensors(base, i)) for i in range(5)}
    return {"base": files.write_folder(root / "base", base), **tuned}


@pytest.fixture
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_backend, "resolve", lambda _: torch.device("cpu"))


def go(inputs: dict[str, Path], out: Path, n: int, **params: Any) -> tuple[bytes, dict[str, Any]]:
    used = {role: path for role, path in inputs.items() if role == "base" or int(role[-1]) < n}
    out.mkdir()
    link(used, {"alphas": {f"v{i}": ALPHAS[i] for i in range(n)}, **params}, out)
    return (out / "model.safetensors").read_bytes(), json.loads((out / "link.json").read_text())


def close(one: Any, two: Any) -> bool:
    """Equal but for the last digits of numbers."""
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(close(one[key], two[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(two) and all(map(close, one, two))
    return bool(one == pytest.approx(two, rel=1e-4, abs=1e-6) if isinstance(one, float) else one == two)


@pytest.mark.usefixtures("on_the_cpu")
@pytest.mark.parametrize("n", [4, 5])
@pytest.mark.parametrize("case", CASES)
def test_dense_inputs_give_the_bits_of_the_cpu(
    inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str, n: int
) -> None:
    wanted, account = go(inputs, tmp_path / "cpu", n, **CASES[case])
    found, said = go(inputs, tmp_path / "torch", n, device="cuda", **CASES[case])
    assert found == wanted
    assert said.pop("device") == "cpu"  # torch's
    assert close(said, account)
    monkeypatch.setattr(torch_backend, "_BLOCK", 100)
    monkeypatch.setattr(linker, "SPAN", 300)
    assert go(inputs, tmp_path / "small", n, device="cuda", **CASES[case])[0] == wanted


@pytest.mark.usefixtures("on_the_cpu")
def test_factors_are_multiplied_in_float32(tmp_path: Path) -> None:
    base = files.base_tensors("F32")
    inputs = {"base": files.write_folder(tmp_path / "base", base), "vector.v0": files.write_adapter(tmp_path / "v0", 5)}
    for name, params in (("linear", {}), ("ties", {"density": 0.3})):
        for device in ("cpu", "cuda"):
            go(inputs, tmp_path / f"{name}-{device}", 1, method=name, device=device, **params)
        one, two = (files.read_tensors(tmp_path / f"{name}-{d}" / "model.safetensors") for d in ("cpu", "cuda"))
        for weight, (_, values) in one.items():
            apart = np.abs(values - two[weight][1])
            assert np.count_nonzero(apart > 1e-5) <= 0.02 * apart.size, weight  # an entry at the cut may go


@pytest.mark.parametrize("start", [0, 1, 6, 4 * (1 << 32) - 5])
def test_the_random_words_are_the_cpus(start: int) -> None:
    keys = (0xFFFFFFFF, 0x12345678, 0x9ABCDEF0, 7)
    found = torch_backend.philox(keys, start, 50, torch.device("cpu"))
    np.testing.assert_array_equal(found.numpy(), random_words(keys, start, 50, Scratch()))


def test_a_method_that_is_none_of_the_devices_is_merged_here_and_told(tmp_path: Path) -> None:
    base = files.base_tensors("BF16")
    inputs = {"base": files.write_folder(tmp_path / "base", base)}
    inputs |= {f"vector.v{i}": files.write_folder(tmp_path / f"v{i}", files.tuned_tensors(base, i)) for i in range(2)}
    for method in ("della", "sce", "tsv_m"):
        wanted, _ = go(inputs, tmp_path / f"{method}-cpu", 2, method=method)
        found, account = go(inputs, tmp_path / f"{method}-cuda", 2, method=method, device="cuda")
        assert found == wanted
        assert account["device"] == f"cpu: {method} is not merged on a GPU"


def test_no_cuda_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    base = files.base_tensors("BF16")
    inputs = {"base": files.write_folder(tmp_path / "base", base)}
    inputs["vector.v0"] = files.write_folder(tmp_path / "v0", files.tuned_tensors(base, 0))
    with pytest.raises(ActionError, match="no CUDA device here"):
        go(inputs, tmp_path / "a", 1, device="cuda")
    with pytest.raises(InputError, match="'tpu' is no device"):
        go(inputs, tmp_path / "b", 1, device="tpu")
    found, account = go(inputs, tmp_path / "c", 1, device="auto")
    assert found == go(inputs, tmp_path / "d", 1)[0]
    assert account["device"] == "cpu: no CUDA device here"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("case", CASES)
def test_a_gpu_gives_the_bits_of_the_cpu(inputs: dict[str, Path], tmp_path: Path, case: str) -> None:
    wanted, account = go(inputs, tmp_path / "cpu", 5, **CASES[case])
    found, said = go(inputs, tmp_path / "cuda", 5, device="cuda", **CASES[case])
    assert found == wanted
    assert said.pop("device") == "cuda"
    assert close(said, account)
