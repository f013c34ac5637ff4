"""The readout files: what fits is read to the bit, whatever is wrong is refused before a model is loaded."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from amybuild.errors import AmyError, InputError
from amybuild.serve.files import check_fits, read_readout
from tests.readouts import write_readout

CONCEPTS, LAYERS, HIDDEN = ("warm", "cold"), (2, 1), 8


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_readout(tmp_path, CONCEPTS, LAYERS, HIDDEN, 3)


def edit(folder: Path, **changes: Any) -> None:
    path = folder / "readout.json"
    about = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in about.items() if value != "gone"}))


def change(folder: Path, name: str, value: Any) -> None:
    path = folder / "readout.safetensors"
    tensors = load_file(path)
    tensors.pop(name, None)
    if value is not None:
        tensors[name] = np.asarray(value)
    save_file(tensors, path)


def test_what_is_read_is_what_was_written_in_the_order_of_the_manifest(folder: Path) -> None:
    readout = read_readout(folder)
    stored = load_file(folder / "readout.safetensors")
    assert (readout.concepts, readout.layers, readout.hidden_size) == (CONCEPTS, LAYERS, HIDDEN)
    for place, layer in enumerate(LAYERS):
        np.testing.assert_array_equal(readout.stacked()[place], stored[f"layer_{layer}.vectors"])
        np.testing.assert_array_equal(readout.beside["gap"][layer], stored[f"layer_{layer}.gap"])


def test_bfloat16_and_a_manifest_of_four_keys_are_read(folder: Path) -> None:
    import torch
    from safetensors.torch import save_file as save_torch

    rows = {f"layer_{layer}.vectors": torch.randn(2, HIDDEN).to(torch.bfloat16) for layer in LAYERS}
    save_torch(rows, folder / "readout.safetensors")
    edit(folder, dtype="bfloat16", format_version="gone", num_layers="gone")
    np.testing.assert_array_equal(read_readout(folder).vectors[1], rows["layer_1.vectors"].float().numpy())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"concepts": []}, "concepts"),
        ({"concepts": "warm"}, "concepts"),
        ({"concepts": ["warm", "warm"]}, "twice"),
        ({"concepts": ["warm", "../../etc/passwd"]}, "is not a name"),
        ({"concepts": ["warm", ".."]}, "is not a name"),
        ({"concepts": ["warm", "a\x1b[2J"]}, "is not a name"),
        ({"concepts": ["warm", "cold", "odd"]}, ", not [3"),
        ({"layers": [2, 1, 0]}, "'layer_0.vectors' is missing"),
        ({"layers": [2]}, "does not list"),
        ({"layers": [2, 2]}, "twice"),
        ({"layers": [2, True]}, "list of blocks"),
        ({"layers": [2, -1]}, "list of blocks"),
        ({"layers": ["2", "1"]}, "list of blocks"),
        ({"num_layers": 2}, "block 2 of a model of 2"),
        ({"hidden_size": 9}, "not [2, 9]"),
        ({"hidden_size": 8.0}, "hidden_size"),
        ({"hidden_size": "gone"}, "hidden_size"),
        ({"format_version": 2}, "format_version"),
        ({"layer_index_base": 1}, "layer_index_base"),
        ({"hook_point": "block_input"}, "hook_point"),
        ({"dtype": "int8"}, "dtype"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(folder: Path, changes: dict[str, Any], said: str) -> None:
    edit(folder, **changes)
    with pytest.raises(InputError) as caught:
        read_readout(folder)
    assert said in str(caught.value)
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("layer_1.vectors", None, "missing"),
        ("layer_1.vectors", np.full((2, HIDDEN), np.nan, np.float32), "not finite"),
        ("layer_1.vectors", np.full((2, HIDDEN), np.inf, np.float32), "not finite"),
        ("layer_1.vectors", np.full((2, HIDDEN), 1e300), "not finite"),
        ("layer_1.vectors", np.zeros((2, HIDDEN), np.float32), "row of zeros"),
        ("layer_1.vectors", np.ones((HIDDEN, 2), np.float32), "not [2, 8]"),
        ("layer_1.vectors", np.ones((2, HIDDEN), np.int64), "not as floats"),
        ("layer_0.vectors", np.ones((2, HIDDEN), np.float32), "does not list"),
        ("layer_1.std", np.zeros(2, np.float32), "above zero"),
        ("layer_1.gap", np.ones(3, np.float32), "not [2]"),
        ("layer_1.gap", None, "'layer_1.gap' is missing"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(folder: Path, name: str, value: Any, said: str) -> None:
    change(folder, name, value)
    with pytest.raises(InputError) as caught:
        read_readout(folder)
    assert said in str(caught.value)


def test_other_tensors_and_keys_may_stand_beside(folder: Path) -> None:
    change(folder, "layer_1.note", np.arange(3))
    change(folder, "something", np.arange(3))
    edit(folder, vectors="../../../etc/passwd", extra=[1])  # nothing named inside is opened
    assert read_readout(folder).concepts == CONCEPTS


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": NaN}', '{"layers": [1], "layers": [2]}', "[" * 99999])
def test_json_that_is_no_manifest_is_refused(folder: Path, text: str) -> None:
    (folder / "readout.json").write_text(text)
    with pytest.raises(InputError):
        read_readout(folder)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 255), st.booleans())
def test_a_damaged_file_is_refused_or_says_what_the_bytes_say(
    tmp_path_factory: Any, place: int, byte: int, cut: bool
) -> None:
    folder = write_readout(tmp_path_factory.mktemp("r"), CONCEPTS, LAYERS, HIDDEN, 3)
    for name in ("readout.safetensors", "readout.json"):
        path = folder / name
        data = bytearray(path.read_bytes())
        if cut:
            del data[place % len(data) :]
        else:
            data[place % len(data)] = byte
        path.write_bytes(data)
        try:
            found = read_readout(folder)
        except AmyError:
            continue
        finally:
            write_readout(folder, CONCEPTS, LAYERS, HIDDEN, 3)
        assert all(np.isfinite(one).all() for one in found.vectors.values())


def test_a_header_that_promises_too_much_is_refused_without_reading_it(folder: Path) -> None:
    head = json.dumps({"layer_1.vectors": {"dtype": "F32", "shape": [2, 8], "data_offsets": [0, 1 << 60]}}).encode()
    (folder / "readout.safetensors").write_bytes(struct.pack("<Q", len(head)) + head)
    with pytest.raises(InputError):
        read_readout(folder)
    (folder / "readout.safetensors").write_bytes(struct.pack("<Q", 1 << 62))
    with pytest.raises(InputError):
        read_readout(folder)


def test_another_model_is_refused(folder: Path) -> None:
    readout = read_readout(folder)
    config = {"hidden_size": HIDDEN, "num_hidden_layers": 3}
    check_fits(readout, config, "m")
    check_fits(readout, {"text_config": config, "hidden_size": 4}, "m")
    for wrong in ({"hidden_size": 16}, {"num_hidden_layers": 2}, {"num_hidden_layers": 4}, {"hidden_size": None}):
        with pytest.raises(InputError, match="readout"):
            check_fits(readout, config | wrong, "m")


def test_to_refuse_a_file_takes_no_torch(folder: Path) -> None:
    edit(folder, concepts=[])
    script = f"""
import sys
from pathlib import Path
from amybuild.serve.files import read_readout
try:
    read_readout(Path({str(folder)!r}))
except Exception as error:
    print(type(error).__name__, [name for name in ("torch", "transformers", "numba", "vllm") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "InputError []", done.stderr
