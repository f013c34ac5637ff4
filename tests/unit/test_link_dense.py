"""The link rule on fine-tuned checkpoints, adapters and both: against the oracle, entry by entry, and by its laws."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from amybuild.errors import ActionError, InputError
from amybuild.link import linker, merge, tally
from amybuild.link.delta import dense
from amybuild.link.methods import METHODS
from amybuild.link.run import link
from amybuild.link.tensors import read_shards
from amybuild.link.vector import read_vector
from tests import checkpoints as files
from tests import oracle

UP = "model.layers.1.mlp.up_proj.weight"


def make(root: Path, code: str = "BF16", shards: int = 1) -> dict[str, Path]:
    """A base, two fine-tunes and an adapter of it, as a link's inputs."""
    base = files.base_tensors(code)
    inputs = {"base": files.write_folder(root / "base", base, shards)}
    for i, name in enumerate(("one", "two")):
        inputs[f"vector.{name}"] = files.write_folder(root / name, files.tuned_tensors(base, i))
    inputs["vector.low"] = files.write_adapter(root / "low", 5)
    return inputs


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make(tmp_path_factory.mktemp("dense"))


def go(inputs: dict[str, Path], out: Path, alphas: dict[str, float], **params: Any) -> dict[str, Any]:
    """Link; all weights of the result by name."""
    options = {key: params.pop(key) for key in ("memo", "digests", "workers", "progress") if key in params}
    used = {role: path for role, path in inputs.items() if role == "base" or role.removeprefix("vector.") in alphas}
    out.mkdir(parents=True)
    link(used, {"alphas": alphas, **params}, out, **options)
    return {
        name: found for file in sorted(out.glob("*.safetensors")) for name, found in files.read_tensors(file).items()
    }


def all_of(folder: Path) -> dict[str, Any]:
    return {n: found for file in sorted(folder.glob("*.safetensors")) for n, found in files.read_tensors(file).items()}


def deltas_of(inputs: dict[str, Path], names: list[str]) -> dict[str, dict[str, NDArray[np.float32]]]:
    shards = read_shards(inputs["base"])
    found = {name: read_vector(inputs[f"vector.{name}"], name, shards).deltas for name in names}
    return {name: {weight: dense(delta) for weight, delta in deltas.items()} for name, deltas in found.items()}


ALPHAS = {"one": 1.0, "two": -0.5, "low": 0.3}


@pytest.mark.parametrize("code", ["BF16", "F16", "F32", "F64"])
def test_ties_over_checkpoints_and_adapters_is_the_oracle_rounded_once(tmp_path: Path, code: str) -> None:
    inputs = make(tmp_path, code)
    found = go(inputs, tmp_path / "out", ALPHAS, method="ties", density=0.3, **{"lambda": 0.7})
    base, deltas = all_of(inputs["base"]), deltas_of(inputs, list(ALPHAS))
    for name in files.SHAPES:
        there = sorted(vector for vector in ALPHAS if name in deltas[vector])  # the order in which sums are taken
        merged = oracle.ties([deltas[v][name] for v in there], [ALPHAS[v] for v in there], 0.3)
        exact = files.loaded(*base[name]) + 0.7 * merged
        wanted = np.where(merged == 0, base[name][1], files.stored(exact, code))
        np.testing.assert_array_equal(found[name][1], wanted)
    np.testing.assert_array_equal(found["model.rotary.steps"][1], base["model.rotary.steps"][1])


def test_the_global_threshold_is_over_the_whole_vector(inputs: dict[str, Path], tmp_path: Path) -> None:
    found = go(inputs, tmp_path / "out", {"one": 1.0}, method="ties", density=0.2, scope="global", only=["*.mlp.*"])
    base, deltas = all_of(inputs["base"]), deltas_of(inputs, ["one"])["one"]
    cut = oracle.cut(list(deltas.values()), 0.2)
    exact = files.loaded(*base[UP]) + oracle.trim(deltas[UP], cut)
    np.testing.assert_array_equal(found[UP][1], files.stored(exact, "BF16"))


@pytest.mark.parametrize("method", sorted(METHODS))
def test_threads_blocks_and_shards_change_no_byte(
    inputs: dict[str, Path], tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    alphas = dict(list(ALPHAS.items())[:2]) if "slerp" in method else ALPHAS
    params = {"density": 0.5} if "density" in METHODS[method].parameters else {}
    first = go(inputs, tmp_path / "a", alphas, method=method, workers=1, **params)
    monkeypatch.setattr(merge, "_BLOCK", 100)
    if METHODS[method].matrix is None:
        monkeypatch.setattr(merge, "SPAN", 300)
        monkeypatch.setattr(linker, "SPAN", 300)
    sharded = files.write_folder(tmp_path / "sharded", all_of(inputs["base"]), shards=3)
    other = {**inputs, "base": sharded}
    second = go(other, tmp_path / "b", dict(reversed(alphas.items())), method=method, workers=3, **params)
    assert {n: v[1].tobytes() for n, v in first.items()} == {n: v[1].tobytes() for n, v in second.items()}
    assert {path.name for path in sharded.iterdir()} | {"link.json"} == {p.name for p in (tmp_path / "b").iterdir()}


def test_what_no_filter_touches_is_the_base_byte_for_byte(inputs: dict[str, Path], tmp_path: Path) -> None:
    only = ["*.mlp.*", "*.1.self_attn.*"]
    found, base = go(inputs, tmp_path / "out", {"one": 1.0}, method="linear", only=only), all_of(inputs["base"])
    changed = {name for name in base if found[name][1].tobytes() != base[name][1].tobytes()}
    assert changed == {n for n in files.SHAPES if ".mlp." in n or ".1.self_attn." in n}
    assert json.loads((tmp_path / "out" / "link.json").read_text())["tensors_touched"] == len(changed)


def test_the_first_matching_scale_counts(inputs: dict[str, Path], tmp_path: Path) -> None:
    scale = [
        {"match": "*.up_proj.*", "factor": 0.5, "vector": "one"},
        {"match": "*.mlp.*", "factor": 0.0},
        {"match": "*", "factor": 2.0, "vector": "two"},
    ]
    found = go(inputs, tmp_path / "out", {"one": 1.0, "two": 1.0}, method="linear", scale=scale)
    base, deltas = all_of(inputs["base"]), deltas_of(inputs, ["one", "two"])
    down, query = UP.replace("up", "down"), "model.layers.0.self_attn.q_proj.weight"
    for name, one, two in ((UP, 0.5, 0.0), (down, 0.0, 0.0), (query, 1.0, 2.0)):
        exact = files.loaded(*base[name]) + one * deltas["one"][name].astype(float) + two * deltas["two"][name]
        np.testing.assert_array_equal(found[name][1], files.stored(exact, "BF16"))


def test_depth_is_linear_over_the_blocks(inputs: dict[str, Path], tmp_path: Path) -> None:
    found = go(inputs, tmp_path / "out", {"one": 1.0}, method="linear", depth={"first": 0.2, "last": 1.0})
    base, deltas = all_of(inputs["base"]), deltas_of(inputs, ["one"])["one"]
    for name, layer in ((UP, 1), (UP.replace("1", "0"), 0), (UP.replace("1", "2"), 2), ("model.norm.weight", None)):
        factor = oracle.depth_factor(layer, files.LAYERS, 0.2, 0.8)
        exact = files.loaded(*base[name]) + factor * deltas[name].astype(float)
        np.testing.assert_array_equal(found[name][1], files.stored(exact, "BF16"))


@pytest.mark.parametrize("params", [{"only": ["*.attn.*"]}, {"scale": [{"match": "layers", "factor": 2.0}]}])
def test_a_glob_that_matches_nothing_is_told(inputs: dict[str, Path], tmp_path: Path, params: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="matches no weight"):
        go(inputs, tmp_path / "out", {"one": 1.0}, **params)


def test_a_vector_and_its_opposite_leave_the_base(inputs: dict[str, Path], tmp_path: Path) -> None:
    twice = {**inputs, "vector.too": inputs["vector.one"]}
    for i, method in enumerate(("linear", "ties", "sce", "consensus")):
        found = go(twice, tmp_path / str(i), {"one": 0.7, "too": -0.7}, method=method)
        assert all(found[n][1].tobytes() == v.tobytes() for n, (_, v) in all_of(inputs["base"]).items())


def test_linking_the_whole_difference_gives_the_fine_tune(inputs: dict[str, Path], tmp_path: Path) -> None:
    found = go(inputs, tmp_path / "out", {"one": 1.0}, method="ties", density=1.0)
    tuned = all_of(inputs["vector.one"])
    assert all(np.array_equal(found[n][1], v) for n, (_, v) in tuned.items())


def test_a_link_can_be_linked_again(inputs: dict[str, Path], tmp_path: Path) -> None:
    go(inputs, tmp_path / "out", {"one": 1.0, "low": 1.0}, method="linear")
    again = {"base": inputs["base"], "vector.x": tmp_path / "out"}
    found = go(again, tmp_path / "again", {"x": 1.0}, method="linear")
    assert all(np.array_equal(found[n][1], v) for n, (_, v) in all_of(tmp_path / "out").items())


def test_thresholds_are_remembered_by_content(
    inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digests = {role: role for role in inputs}
    memo = {"memo": tmp_path / "memo", "digests": digests, "method": "ties", "density": 0.3}
    go(inputs, tmp_path / "a", {"one": 1.0, "two": 1.0}, **memo)
    wanted = go(inputs, tmp_path / "b", {"one": 0.5, "two": 1.0}, method="ties", density=0.3)
    searched: list[Any] = []
    band = merge.band
    monkeypatch.setattr(merge, "band", lambda *args: searched.append(args) or band(*args))
    found = go(inputs, tmp_path / "c", {"one": 0.5, "two": 1.0}, **memo)
    assert not searched
    assert all(np.array_equal(found[n][1], v) for n, (_, v) in wanted.items())
    for file in memo["memo"].iterdir():
        file.write_text("{")
    go(inputs, tmp_path / "d", {"one": 0.5, "two": 1.0}, **memo)
    assert searched
    searched.clear()
    go(inputs, tmp_path / "e", {"one": 0.5, "two": 1.0}, **{**memo, "digests": {**digests, "base": "another"}})
    assert searched


def test_values_that_are_no_numbers_are_told(inputs: dict[str, Path], tmp_path: Path) -> None:
    tuned = all_of(inputs["vector.one"])
    bad = tuned[UP][1].copy()
    bad[3, 4] = 0x7FC0
    broken = files.write_folder(tmp_path / "broken", {**tuned, UP: ("BF16", bad)})
    with pytest.raises(ActionError, match=r"1\.mlp\.up_proj.*not finite") as caught:
        go({**inputs, "vector.one": broken}, tmp_path / "out", {"one": 1.0, "two": 1.0})
    assert caught.value.where == "task vector one"


def test_the_link_imports_neither_torch_nor_transformers(inputs: dict[str, Path], tmp_path: Path) -> None:
    script = """
import sys
from pathlib import Path
from amybuild.link.run import link
base, vector, out = map(Path, sys.argv[1:])
out.mkdir()
link({"base": base, "vector.a": vector}, {"alphas": {"a": 1.0}, "method": "ties"}, out)
print([name for name in ("torch", "transformers", "peft", "safetensors") if name in sys.modules])
"""
    command = [sys.executable, "-c", script, str(inputs["base"]), str(inputs["vector.one"]), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_a_stopped_link_ends_its_threads(inputs: dict[str, Path], tmp_path: Path) -> None:
    import threading

    def stop(done: int, total: int, **fields: Any) -> None:
        if done == 2:
            raise KeyboardInterrupt

    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        go(inputs, tmp_path / "out", {"one": 1.0}, progress=stop)
    assert threading.active_count() == before


def test_what_is_remembered_changes_no_digit_of_the_report(
    inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merge, "_BLOCK", 100)  # sums are taken block by block: the blocks may not depend on it
    monkeypatch.setattr(merge, "_TILE", 40)
    monkeypatch.setattr(tally, "_DIGITS", 17)
    factors = {**inputs, "vector.more": files.write_adapter(tmp_path / "more", 6)}
    known = {"memo": tmp_path / "memo", "digests": {role: role for role in factors}}
    for names in (("low", "more"), ("low", "one")):
        alphas = dict.fromkeys(names, 1.0)
        go(factors, tmp_path / "-".join(("first", *names)), alphas, **known)
        changed = {**alphas, "low": 0.7}
        again, afresh = (tmp_path / "-".join((said, *names)) for said in ("again", "afresh"))
        go(factors, again, changed, **known)
        go(factors, afresh, changed)
        assert (again / "link.json").read_bytes() == (afresh / "link.json").read_bytes()
