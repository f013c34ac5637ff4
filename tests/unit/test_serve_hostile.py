"""Readouts, steering and chat in hostile hands: files that never end, pairs of two builds, strengths beyond numbers."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from amybuild.errors import InputError
from amybuild.model.load import Loaded, load_base
from amybuild.serve.chat import reply
from amybuild.serve.files import read_readout
from amybuild.serve.steering import direction
from amybuild.serve.vllm.install import served
from amybuild.serve.vllm.server import _rows
from amybuild.serve.vllm.worker import strengths_of
from tests.readouts import write_readout
from tests.tiny import make_tiny_base


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_readout(tmp_path / "product", ["warm", "cold"], [1, 2], 32, 3)


@pytest.mark.parametrize("name", ["readout.json", "readout.safetensors"])
@pytest.mark.parametrize("kind", ["pipe", "endless", "folder", "nowhere"])
def test_what_is_no_file_is_refused_without_waiting_for_its_end(folder: Path, name: str, kind: str) -> None:
    path = folder / name
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "endless":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(folder / "gone")
    with pytest.raises(InputError):
        read_readout(folder)


def test_a_header_nested_beyond_reading_is_refused(folder: Path) -> None:
    header = b'{"a":' + b"[" * 200_000
    (folder / "readout.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(InputError, match="not a readable safetensors file"):
        read_readout(folder)


def test_files_of_two_builds_are_refused_though_they_would_fit(folder: Path, tmp_path: Path) -> None:
    """The order of concepts may differ: then every number would have another's name."""
    import hashlib

    def bind(at: Path) -> None:
        about = json.loads((at / "readout.json").read_text())
        about["vectors_sha256"] = hashlib.sha256((at / "readout.safetensors").read_bytes()).hexdigest()
        (at / "readout.json").write_text(json.dumps(about))

    other = write_readout(tmp_path / "other", ["cold", "warm"], [1, 2], 32, 3, seed=5)
    bind(folder)
    bind(other)
    assert read_readout(folder).concepts == ("warm", "cold")
    (folder / "readout.safetensors").write_bytes((other / "readout.safetensors").read_bytes())
    with pytest.raises(InputError, match="not the vectors of this manifest"):
        read_readout(folder)


@pytest.mark.parametrize("gap", [0.0, -1.0, 1e30])
def test_a_gap_that_is_no_distance_is_refused(folder: Path, gap: float) -> None:
    tensors = load_file(folder / "readout.safetensors")
    save_file({**tensors, "layer_1.gap": np.array([1.0, gap], np.float32)}, folder / "readout.safetensors")
    with pytest.raises(InputError, match="gap"):
        read_readout(folder)


@pytest.mark.parametrize("strength", [1e39, -1e6, float("nan"), float("inf"), 10**400])
def test_a_strength_that_would_drown_the_model_is_refused(folder: Path, strength: float) -> None:
    one = direction(read_readout(folder), "warm")
    with pytest.raises(InputError, match="strength"):
        one.at(strength)
    with pytest.raises(ValueError, match="steer"):
        strengths_of({"steer.warm": strength}, {"warm": one})
    assert strengths_of({"steer.warm": -1.5}, {"warm": one}) == {"warm": -1.5}


def test_a_readout_that_changed_while_vllm_started_is_noticed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_READOUT_VECTORS", str(folder / "readout.safetensors"))
    monkeypatch.setenv("VLLM_READOUT_MANIFEST", str(folder / "readout.json"))
    monkeypatch.setenv("AMYBUILD_READOUT_SERVED", "")
    served.cache_clear()
    try:
        served()
        served.cache_clear()  # as in a process that this one starts
        served()
        write_readout(folder, ["cold", "warm"], [1, 2], 32, 3)
        served.cache_clear()
        with pytest.raises(InputError, match="since the server was started"):
            served()
    finally:
        served.cache_clear()


def test_the_server_tells_no_number_where_there_is_none() -> None:
    class Output:
        readout = np.array([[[1.5, np.nan], [np.inf, -np.inf]]], np.float32)

    assert _rows(Output()) == [[[1.5, None], [None, None]]]
    json.dumps(_rows(Output()), allow_nan=False)


@pytest.fixture
def loaded(tmp_path: Path) -> Iterator[Loaded]:
    with load_base(make_tiny_base(tmp_path / "base", dtype="float32"), keep=False) as found:
        yield found


def say(loaded: Loaded, text: str, **more: Any) -> Any:
    return reply(loaded, [{"role": "user", "content": text}], **more)


def test_a_conversation_longer_than_the_model_reads_is_refused(loaded: Loaded) -> None:
    assert len(say(loaded, "How? " * 20, most=4).tokens) == 4
    with pytest.raises(InputError, match="512 positions"):
        say(loaded, "How? " * 400, most=4)
    with pytest.raises(InputError, match="512 positions"):
        say(loaded, "How?", most=4000)


def test_a_model_without_a_chat_template_says_so(loaded: Loaded) -> None:
    loaded.tokenizer.chat_template = None
    with pytest.raises(InputError, match="chat template"):
        say(loaded, "How?", most=4)
