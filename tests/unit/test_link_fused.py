"""The pass over dense fine-tunes alone: the oracle rounded once, for as many vectors as it takes and for one more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from amybuild.link import merge
from amybuild.link.kernels import PART
from amybuild.link.run import REPORT, link
from tests import checkpoints as files
from tests import oracle

ALPHAS = [1.0, -0.5, 0.3, 0.75, -1.25]
METHODS: dict[str, dict[str, Any]] = {
    "linear": {"method": "linear"},
    "ties": {"method": "ties", "density": 0.3},
    "ties by count": {"method": "ties", "density": 0.3, "elect": "count"},
    "ties over the weights": {"method": "ties", "density": 1.0, "divide": "weights"},
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root, base = tmp_path_factory.mktemp("tuned"), files.base_tensors()
    assert any(np.prod(shape) > PART and np.prod(shape) % PART for shape in files.SHAPES.values())
    tuned = {f"vector.v{i}": files.write_folder(root / f"v{i}", files.tuned_tensors(base, i)) for i in range(5)}
    return {"base": files.write_folder(root / "base", base), **tuned}


def go(inputs: dict[str, Path], out: Path, case: str, n: int) -> dict[str, Any]:
    used = {role: path for role, path in inputs.items() if role == "base" or int(role[-1]) < n}
    out.mkdir()
    link(used, {"alphas": {f"v{i}": ALPHAS[i] for i in range(n)}, **METHODS[case]}, out)
    return files.read_tensors(out / "model.safetensors")


@pytest.mark.parametrize("case", METHODS)
@pytest.mark.parametrize("n", [1, 2, 3, 4, 5])
def test_it_is_the_oracle_rounded_once(inputs: dict[str, Path], tmp_path: Path, case: str, n: int) -> None:
    found = go(inputs, tmp_path / "out", case, n)
    base = files.read_tensors(inputs["base"] / "model.safetensors")
    tuned = [files.read_tensors(inputs[f"vector.v{i}"] / "model.safetensors") for i in range(n)]
    params = {key: value for key, value in METHODS[case].items() if key != "method"}
    for name in files.SHAPES:
        start = files.loaded(*base[name])
        deltas = [(files.loaded(*one[name]) - start).astype(np.float32) for one in tuned]
        merged = (oracle.linear if case == "linear" else oracle.ties)(deltas, ALPHAS[:n], **params)
        wanted = np.where(merged == 0, base[name][1], files.stored(start + merged, "BF16"))
        np.testing.assert_array_equal(found[name][1], wanted, err_msg=name)


@pytest.mark.parametrize("case", METHODS)
def test_it_counts_and_writes_what_the_pass_for_all_kinds_does(
    inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    go(inputs, tmp_path / "bits", case, 4)
    monkeypatch.setattr(merge.Join, "_of_bits", False)
    go(inputs, tmp_path / "any", case, 4)
    for name in ("model.safetensors", REPORT):
        assert (tmp_path / "bits" / name).read_bytes() == (tmp_path / "any" / name).read_bytes()
