"""How far two trees lie apart: the comparison against hand-made ones, and its words."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from amybuild.execute.compare import compare
from amybuild.report.check import differences

HOSTS = {"old": {"cpu": "AVX2", "threads": 2}, "new": {"cpu": "AVX512", "threads": 2}}


def put(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif path.suffix == ".safetensors":
        save_file(content, path)
    else:
        path.write_text(json.dumps(content))
    return path


def both(tmp_path: Path, name: str, old: Any, new: Any) -> list[dict[str, Any]]:
    return compare({name: put(tmp_path / "old" / name, old)}, {name: put(tmp_path / "new" / name, new)})


def test_equal_trees_do_not_differ(tmp_path: Path) -> None:
    tensors = {"w": np.arange(6, dtype=np.float32)}
    assert both(tmp_path, "a.safetensors", tensors, tensors) == []
    assert both(tmp_path, "a.json", {"a": 1}, {"a": 1}) == []
    assert both(tmp_path, "a.txt", b"same", b"same") == []


def test_files_that_came_or_went(tmp_path: Path) -> None:
    old, new = put(tmp_path / "old" / "a.txt", b"abc"), put(tmp_path / "new" / "b.txt", b"abcd")
    assert compare({"a.txt": old}, {"b.txt": new}) == [
        {"file": "a.txt", "state": "missing", "old_size": 3},
        {"file": "b.txt", "state": "extra", "new_size": 4},
    ]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(old=st.binary(max_size=40), new=st.binary(max_size=40))
def test_the_first_other_byte(tmp_path: Path, old: bytes, new: bytes) -> None:
    found = both(tmp_path, "a.bin", old, new)
    assert bool(found) == (old != new)
    if found:
        where = found[0]["first"]
        assert old[:where] == new[:where]
        assert old[where : where + 1] != new[where : where + 1]


def test_a_difference_behind_the_first_block(tmp_path: Path) -> None:
    data = bytes(3 << 20)
    (found,) = both(tmp_path, "a.bin", data, data[:-5] + b"x" + data[-4:])
    assert found["first"] == len(data) - 5


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    values=st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=30),
    other=st.floats(-1e6, 1e6, width=32),
    kind=st.sampled_from(["float32", "float64", "float16", "int32"]),
)
def test_tensors_by_their_numbers(tmp_path: Path, values: list[float], other: float, kind: str) -> None:
    with np.errstate(over="ignore"):
        old = np.clip(np.array(values), -6e4, 6e4).astype(kind)
        new = old.copy()
        new[-1] = np.clip(np.array(other), -6e4, 6e4).astype(kind)
    found = both(tmp_path, "a.safetensors", {"same": old, "w": old}, {"same": old, "w": new})
    if (old == new).all():  # zeros of two signs are the same number in other bytes
        assert not found or found[0]["tensors"] == []
        return
    (row,) = found[0]["tensors"]
    gap = np.abs(new.astype(float) - old.astype(float))
    assert (row["tensor"], row["differing"], row["numbers"]) == ("w", int((gap > 0).sum()), len(values))
    assert math.isclose(row["max_abs"], gap.max())
    norm = np.linalg.norm(old.astype(float))
    assert norm == 0 or math.isclose(row["relative"], np.linalg.norm(gap) / norm, rel_tol=1e-9)


def test_bfloat16_is_read_as_numbers(tmp_path: Path) -> None:
    def file(*numbers: float) -> bytes:
        body = b"".join(np.array(n, "<f4").tobytes()[2:] for n in numbers)
        header = {"w": {"dtype": "BF16", "shape": [len(numbers)], "data_offsets": [0, len(body)]}}
        head = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
        return len(head).to_bytes(8, "little") + head + body

    (found,) = both(tmp_path, "a.safetensors", file(1.0, 2.0, -4.0), file(1.0, 2.0, -3.5))
    (row,) = found["tensors"]
    assert (row["max_abs"], row["differing"]) == (0.5, 1)


def test_shapes_names_and_infinities(tmp_path: Path) -> None:
    old = {"gone": np.ones(1), "shape": np.ones(2), "inf": np.ones(1), "nan": np.array([np.nan, 1.0])}
    new = {"came": np.ones(1), "shape": np.ones(3), "inf": np.array([np.inf]), "nan": np.array([np.nan, 2.0])}
    (found,) = both(tmp_path, "a.safetensors", old, new)
    rows = {row["tensor"]: row for row in found["tensors"]}
    assert (rows["gone"]["state"], rows["came"]["state"]) == ("missing", "extra")
    assert (rows["shape"]["old"], rows["shape"]["new"]) == ("F64 [2]", "F64 [3]")
    assert rows["inf"]["max_abs"] is None
    assert (rows["nan"]["differing"], rows["nan"]["max_abs"]) == (1, 1.0)
    json.dumps(found, allow_nan=False)


def test_json_by_its_keys_and_without_its_texts(tmp_path: Path) -> None:
    old = {"loss": [1.0, 2.0], "note": "what she wrote", "n": 3, "gone": 1, "nan": 1.0, "kind": True}
    new = {"loss": [1.0, 2.2], "note": "something else", "n": 4, "came": 1, "nan": float("nan"), "kind": "x"}
    (found,) = both(tmp_path, "a.json", old, new)
    rows = {row["key"]: row for row in found["keys"]}
    assert set(rows) == {"loss[1]", "note", "n", "gone", "came", "nan", "kind"}
    assert math.isclose(rows["loss[1]"]["relative"], 0.2 / 2.2)
    assert (rows["n"]["old"], rows["n"]["new"]) == (3, 4)
    assert rows["note"]["old"] == "a text of 14"
    assert "wrote" not in json.dumps(found, allow_nan=False)
    assert found["keys"][0]["key"] == "n", "the worst first"


@pytest.mark.parametrize("name", ["a.safetensors", "a.json"])
def test_an_unreadable_file_is_compared_by_its_bytes(tmp_path: Path, name: str) -> None:
    (found,) = both(tmp_path, name, b"\xff" * 20, b"{}")
    assert found == {"file": name, "state": "differs", "old_size": 20, "new_size": 2, "first": 0}


def test_the_words(tmp_path: Path) -> None:
    zeros, ones = np.zeros(4, np.float32), np.ones(4, np.float32)
    old = {f"t{i}": ones for i in range(8)}
    new = {f"t{i}": ones + np.float32(2.0 ** -(i + 1)) for i in range(8)} | {"more": zeros}
    files = both(tmp_path, "a.safetensors", old, new) + both(tmp_path, "b.json", {"x": 1.0}, {"x": 1.5})
    lines = differences({"files": files, "hosts": HOSTS})
    assert lines[0].startswith("a.safetensors: differs (")
    assert lines[1] == "  t0: by at most 0.5, relative 0.5, 4 of 4 differ"
    assert lines[6] == "  … and 4 more"
    assert lines[8] == "  x: 1.0 -> 1.5 (relative 0.333)"
    assert lines[-1] == "it ran elsewhere: cpu AVX2 -> AVX512"
    same = differences({"files": [], "hosts": {"old": {}, "new": {}}})
    assert same == ["both ran on the same kind of machine with the same libraries"]
    many = [{"file": f"f{i}", "state": "extra", "new_size": 1} for i in range(9)]
    assert "… and 4 more files" in differences({"files": many, "hosts": HOSTS})
