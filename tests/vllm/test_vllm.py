"""Readouts and steering in a real vLLM: the numbers of Hugging Face, however the engine runs (`pytest -m vllm`).

tests/vllm/setup.sh makes the environment; AMYBUILD_VLLM names its Python (default: .venv-vllm/bin/python). With
AMYBUILD_VLLM_PRODUCT, the folder of a product, the agreement is measured on that instead of a tiny model.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from amybuild.model.load import load_base
from amybuild.serve.files import read_readout
from amybuild.serve.fold import fold
from amybuild.serve.reader import read, steer
from amybuild.serve.steering import read_steering
from tests.harness import ROOT
from tests.readouts import write_readout
from tests.tiny import make_tiny_base

pytestmark = pytest.mark.vllm

PYTHON = os.environ.get("AMYBUILD_VLLM", str(ROOT / ".venv-vllm/bin/python"))
TOLERANCE = 1e-3
ENGINE = {"max_model_len": 512, "max_num_seqs": 16, "max_num_batched_tokens": 96, "block_size": 32}


def environment(product: Path, **more: str) -> dict[str, str]:
    names = ("VLLM_READOUT_VECTORS", "VLLM_READOUT_MANIFEST")
    files = dict(zip(names, (str(product / "readout.safetensors"), str(product / "readout.json")), strict=True))
    quiet = {"VLLM_LOGGING_LEVEL": "WARNING", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
    cpu = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    inherited = {
        key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", *names, "AMYBUILD_READOUT_SERVED")
    }
    return inherited | {"PYTHONPATH": str(ROOT)} | files | quiet | cpu | more


def start(command: list[str], env: dict[str, str], **more: Any) -> subprocess.Popen[str]:
    if not Path(PYTHON).is_file():
        pytest.fail(f"no {PYTHON}: run tests/vllm/setup.sh, or name a Python with vLLM in AMYBUILD_VLLM")
    return subprocess.Popen([PYTHON, *command], env=env, text=True, cwd="/", **more)


def generate(product: Path, job: dict[str, Any], code: int = 0, **env: str) -> Any:
    """What one engine answers, or what it says when it ends with `code`."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    process = start([str(ROOT / "tests/vllm/generate.py")], environment(product, **env), **pipes)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "answers.json")
        said, _ = process.communicate(json.dumps({"model": str(product), "out": str(out), **job}), timeout=900)
        assert process.returncode == code, said[-6000:]
        return said if code else json.loads(out.read_text())


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A product as the linker writes it: weights, an index that names them, readouts and steering beside."""
    given = os.environ.get("AMYBUILD_VLLM_PRODUCT")
    if given:
        return Path(given)
    folder = make_tiny_base(tmp_path_factory.mktemp("vllm") / "tess", hidden=128, layers=4, dtype="float32")
    write_readout(folder, ["warm", "cold", "odd"], [3, 1, 2], 128, 4)  # the last block too, and no sorted order
    write_readout(folder / "steering" / "warmth", ["warmth"], [1, 2], 128, 4, seed=1)
    index_weights(folder)
    return folder


def index_weights(folder: Path) -> None:
    from amybuild.product import _index

    _index(folder)


def requests(product: Path, count: int = 200) -> list[dict[str, Any]]:
    """Prompts of 8 to 150 tokens, several per step and several steps long; neighbours share a long beginning, and every
    third one is steered, so that a cached block of another strength would show."""
    vocabulary = json.loads((product / "config.json").read_text())["vocab_size"]
    (name,) = read_steering(product) or [None]
    rng = np.random.default_rng(0)
    start = rng.integers(5, vocabulary, 128).tolist()
    found = []
    for i in range(count):
        own = rng.integers(5, vocabulary, 8 + i % 22).tolist()
        ids = own if i % 2 else start[: 32 * (1 + i % 4)] + own
        steering = {name: (-1.0, 1.5)[i % 2]} if name and i % 3 == 0 else {}
        found.append({"ids": ids, "max_tokens": 4, "steer": steering})
    return found


def worst(product: Path, asked: list[dict[str, Any]], answers: list[dict[str, Any]]) -> tuple[float, float]:
    """The greatest difference of any readout and of any log probability from a Hugging Face forward pass of its own."""
    readout, directions = read_readout(product), read_steering(product)
    far = [0.0, 0.0]
    with load_base(product, keep=False) as loaded, torch.no_grad():
        for one, answer in zip(asked, answers, strict=True):
            assert len(answer["tokens"]) == one["max_tokens"]
            how = [directions[name].at(strength) for name, strength in one["steer"].items()]
            with steer(loaded.model, how), read(loaded.model, readout) as reading:
                logits = loaded.model(torch.tensor([one["ids"] + answer["tokens"]])).logits[0]
            rows = slice(len(one["ids"]) - 1, -1)
            logp = logits[rows].log_softmax(-1).gather(-1, torch.tensor(answer["tokens"])[:, None])[:, 0].numpy()
            far[1] = max(far[1], float(np.abs(logp - answer["logprobs"]).max()))
            if answer["readout"] is not None:
                far[0] = max(far[0], float(np.abs(reading.passes[0][0, rows] - np.array(answer["readout"])).max()))
    return far[0], far[1]


@pytest.mark.parametrize("prefix", [True, False], ids=["prefix-cache", "no-cache"])
@pytest.mark.parametrize("eager", [True, False], ids=["eager", "compiled"])
def test_200_prompts_read_and_steer_as_on_hugging_face(product: Path, eager: bool, prefix: bool) -> None:
    asked = requests(product)
    engine = {**ENGINE, "enforce_eager": eager, "enable_prefix_caching": prefix}
    process = {"VLLM_ENABLE_V1_MULTIPROCESSING": "1" if prefix else "0"}  # the engine in a process of its own, or not
    first, second = generate(product, {"engine": engine, "requests": asked, "rounds": 2}, **process)
    for answers in (first, second):
        readouts, logprobs = worst(product, asked, answers)
        print(f"greatest difference: readouts {readouts:.2g}, log probabilities {logprobs:.2g}")
        assert readouts <= TOLERANCE
        assert logprobs <= TOLERANCE
    assert any(answer["cached"] for answer in second) == prefix


def test_a_folded_llama_is_the_steered_one(product: Path, tmp_path: Path) -> None:
    one = next(iter(read_steering(product).values())).at(1.5)
    fold(product, tmp_path / "folded", [one], {})
    asked = [{**row, "steer": {}} for row in requests(product, 24)]
    (answers,) = generate(tmp_path / "folded", {"engine": {**ENGINE, "enforce_eager": True}, "requests": asked})
    steered = [{**row, "steer": {one.name: 1.5}} for row in asked]
    readouts, logprobs = worst(product, steered, answers)
    assert logprobs <= 1e-4
    assert readouts <= TOLERANCE


@pytest.mark.parametrize("damage", ["hidden size", "depth", "nan", "missing"])
def test_what_does_not_fit_is_refused_before_the_model_is_loaded(tmp_path: Path, damage: str) -> None:
    folder = make_tiny_base(tmp_path / "m", hidden=128, layers=4, dtype="float32")
    write_readout(folder, ["warm"], [3 if damage != "depth" else 7], 64 if damage == "hidden size" else 128, 8)
    if damage == "nan":
        readout = read_readout(folder)
        broken = replace(readout, vectors={3: readout.vectors[3] * np.nan})
        from safetensors.numpy import save_file

        save_file({"layer_3.vectors": broken.vectors[3]}, folder / "readout.safetensors")
    if damage == "missing":
        (folder / "readout.safetensors").unlink()
    (folder / "model.safetensors").unlink()  # nothing to load: whoever gets that far says so
    said = generate(folder, {"engine": {**ENGINE, "enforce_eager": True}, "requests": []}, code=1)
    wanted = {"hidden size": "hidden size 64", "depth": "the model has 4 blocks", "nan": "not finite"}
    assert wanted.get(damage, "not a readable safetensors file") in said


def test_without_the_environment_the_plugin_is_not_there(product: Path) -> None:
    asked = [{**row, "steer": {}} for row in requests(product, 2)]
    off = {"VLLM_READOUT_VECTORS": "", "VLLM_READOUT_MANIFEST": ""}
    (answers,) = generate(product, {"engine": {**ENGINE, "enforce_eager": True}, "requests": asked}, **off)
    assert [answer["readout"] for answer in answers] == [None, None]


class Server:
    """The OpenAI-compatible server, asked over HTTP."""

    def __init__(self, product: Path, log: Any, **env: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        words = ["-m", "vllm.entrypoints.openai.api_server", "--model", str(product), "--served-model-name", "tess"]
        words += ["--dtype", "float32", "--enforce-eager", "--max-model-len", "512", "--max-num-seqs", "8"]
        words += ["--host", "127.0.0.1", "--port", str(port)]
        self.address = f"http://127.0.0.1:{port}"
        self.process = start(words, environment(product, **env), stdout=log, stderr=subprocess.STDOUT)

    def ready(self, seconds: float = 400) -> bool:
        end = time.monotonic() + seconds
        while time.monotonic() < end and self.process.poll() is None:
            try:
                urllib.request.urlopen(f"{self.address}/health", timeout=5)
                return True
            except OSError:
                time.sleep(1)
        return False

    def ask(self, path: str, **body: Any) -> Any:
        data = json.dumps({"model": "tess", "temperature": 0, **body}).encode() if body else None
        request = urllib.request.Request(self.address + path, data, {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=120) as answer:
            text = answer.read().decode()
        if not body.get("stream"):
            return json.loads(text)
        events = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
        assert events[-1] == "[DONE]"
        return [json.loads(one) for one in events[:-1]]


@pytest.fixture(scope="module")
def server(product: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    path = tmp_path_factory.mktemp("server") / "log"
    with path.open("w") as log:
        one = Server(product, log)
        try:
            assert one.ready(), path.read_text()[-6000:]
            yield one
        finally:
            one.process.terminate()
            one.process.wait(60)


def test_the_server_tells_what_it_reads(server: Server, product: Path) -> None:
    readout = read_readout(product)
    told = server.ask("/v1/readout/manifest")
    assert (told["concepts"], told["layers"]) == (list(readout.concepts), list(readout.layers))
    assert told["steering"] == list(read_steering(product))
    np.testing.assert_allclose(told["mean"], [readout.beside["mean"][layer] for layer in readout.layers], rtol=1e-6)


def gathered(chunks: list[Any]) -> tuple[dict[int, Any], list[int]]:
    """Of a stream: index -> its choices' readouts one after another, and how many came in each chunk."""
    rows: dict[int, Any] = {}
    for chunk in chunks:
        for choice in chunk["choices"]:
            rows.setdefault(choice["index"], []).extend(choice.get("readout", []))
    return rows, [len(choice.get("readout", [])) for chunk in chunks for choice in chunk["choices"]]


def test_completions_carry_a_readout_per_token(server: Server, product: Path) -> None:
    name = next(iter(read_steering(product)))
    asked = [{"ids": [9, 30, 41, 12, 77], "max_tokens": 5, "steer": {name: 1.5}}]
    asked += [{"ids": [50, 9, 30], "max_tokens": 5, "steer": {name: 1.5}}]
    body = {"prompt": [one["ids"] for one in asked], "max_tokens": 5, "ignore_eos": True, "logprobs": 1}
    body |= {"vllm_xargs": {f"steer.{name}": 1.5}, "return_token_ids": True, "n": 2, "temperature": 1}
    whole = server.ask("/v1/completions", **body)["choices"]
    found = {choice["index"]: [choice] for choice in whole}
    streamed: dict[int, Any] = {}
    for chunk in server.ask("/v1/completions", stream=True, **body):
        for choice in chunk["choices"]:
            assert len(choice.get("readout", [])) == len(choice["token_ids"])
            streamed.setdefault(choice["index"], []).append(choice)
    for choices in (found, streamed):
        assert sorted(choices) == [0, 1, 2, 3]
        for index, parts in choices.items():
            answer = {key: [x for part in parts for x in part[key]] for key in ("token_ids", "readout")}
            answer["tokens"] = answer["token_ids"]
            answer["logprobs"] = [x for part in parts for x in part["logprobs"]["token_logprobs"]]
            assert max(worst(product, [asked[index // 2]], [answer])) <= TOLERANCE


def test_chats_carry_a_readout_per_token(server: Server) -> None:
    body = {"messages": [{"role": "user", "content": "How do I boil an egg?"}], "max_tokens": 6, "ignore_eos": True}
    whole = server.ask("/v1/chat/completions", **body)
    rows = whole["choices"][0]["readout"]
    assert len(rows) == whole["usage"]["completion_tokens"] == 6
    streamed, counts = gathered(server.ask("/v1/chat/completions", stream=True, **body))
    np.testing.assert_allclose(streamed[0], rows, atol=1e-4)
    assert counts[0] == 0  # the chunk that opens the message is of no token
    assert sum(counts) == 6


def test_a_strength_that_is_none_is_the_clients_error(server: Server, product: Path) -> None:
    name = next(iter(read_steering(product)))
    for wrong in ({"steer.nobody": 1.0}, {f"steer.{name}": "much"}):
        with pytest.raises(urllib.error.HTTPError) as caught:
            server.ask("/v1/completions", prompt="How", max_tokens=2, vllm_xargs=wrong)
        assert caught.value.code == 400
        assert "steer" in caught.value.read().decode()
    assert server.ask("/v1/completions", prompt="How", max_tokens=2)["choices"][0]["readout"]


def test_without_readouts_the_server_has_no_manifest(product: Path, tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as log:
        one = Server(product, log, VLLM_READOUT_VECTORS="")
        try:
            assert one.ready(), (tmp_path / "log").read_text()[-6000:]
            with pytest.raises(urllib.error.HTTPError) as caught:
                one.ask("/v1/readout/manifest")
            assert caught.value.code == 404
        finally:
            one.process.terminate()
            one.process.wait(60)
