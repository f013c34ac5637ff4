"""The vLLM plugin where no vLLM is: what it does to a block's output, and what it says of a vLLM it does not know."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from amybuild.errors import ActionError, InputError
from amybuild.serve.vllm import register
from amybuild.serve.vllm.install import find, served, wrap
from amybuild.serve.vllm.server import _with_readouts, manifest
from amybuild.serve.vllm.tap import NAME, Tap, install
from amybuild.serve.vllm.worker import _Runner, strengths_of
from tests.readouts import write_readout


@pytest.fixture
def product(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    write_readout(tmp_path, ["warm", "cold"], [1, 0], 8, 3)
    write_readout(tmp_path / "steering" / "warmth", ["warmth"], [1], 8, 3, seed=1)
    monkeypatch.setenv("VLLM_READOUT_VECTORS", str(tmp_path / "readout.safetensors"))
    monkeypatch.setenv("VLLM_READOUT_MANIFEST", str(tmp_path / "readout.json"))
    monkeypatch.setenv("AMYBUILD_READOUT_SERVED", "")
    served.cache_clear()
    yield tmp_path
    served.cache_clear()


class Block(torch.nn.Module):
    """A decoder block that hands on both halves of the stream, or their sum."""

    def __init__(self, halves: bool) -> None:
        super().__init__()
        self.halves = halves
        self.weight = torch.nn.Linear(8, 8)

    def forward(self, hidden: Any, residual: Any = None) -> Any:
        if self.halves:
            return self.weight(hidden), hidden if residual is None else hidden + residual
        return hidden + self.weight(hidden)


class Model(torch.nn.Module):
    def __init__(self, halves: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = torch.nn.ModuleList(Block(halves) for _ in range(3))

    def forward(self, hidden: Any) -> Any:
        residual = None
        for block in self.layers:
            if block.halves:
                hidden, residual = block(hidden, residual)
            else:
                hidden = block(hidden)
        return hidden if residual is None else hidden + residual


@pytest.fixture
def context(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """What vLLM gives its operators to find their layers by."""
    found = SimpleNamespace(no_compile_layers={})
    module = ModuleType("vllm.forward_context")
    module.get_forward_context = lambda: found  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", ModuleType("vllm"))
    monkeypatch.setitem(sys.modules, "vllm.forward_context", module)
    return found


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("halves", [False, True])
def test_a_tap_reads_the_whole_stream_after_it_steered_it(
    context: SimpleNamespace, halves: bool, compiled: bool
) -> None:
    plain, model = Model(halves), Model(halves)
    vectors, step, strength = torch.randn(2, 8), torch.randn(1, 8), torch.zeros(6, 1)
    strength[2] = 1.5
    out = torch.zeros(6, 2)
    install(model, 3, [1], context.no_compile_layers, {1: Tap(vectors, out, step, strength)})
    run = torch.compile(model, backend="aot_eager", fullgraph=True) if compiled else model
    hidden = torch.randn(4, 8)
    with torch.no_grad():
        found = run(hidden)
        halfway = (hidden, None) if halves else (hidden,)
        for block in plain.layers[:2]:
            halfway = block(*halfway) if halves else (block(*halfway),)
        stream = halfway[0] + halfway[1] if halves else halfway[0]
        stream = stream.clone()
        stream[2] += 1.5 * step[0]
        torch.testing.assert_close(out[:4], stream @ vectors.T)
        last = plain.layers[2]
        moved = halfway[0].clone()
        moved[2] += 1.5 * step[0]
        wanted = sum(last(moved, halfway[1])) if halves else last(moved)
        torch.testing.assert_close(found, wanted)
    assert context.no_compile_layers[NAME.format(1)].calls == 1


def test_more_tokens_than_there_is_room_for_is_an_error(context: SimpleNamespace) -> None:
    model = Model(False)
    one = Tap(torch.randn(2, 8), torch.zeros(2, 2), None, torch.zeros(2, 0))
    install(model, 3, [1], context.no_compile_layers, {1: one})
    with pytest.raises(ActionError, match="4 tokens"):
        model(torch.randn(4, 8))
    with pytest.raises(ActionError, match="cannot find the 7 decoder blocks"):
        install(model, 7, [1], {}, {1: one})


def runner(product: Path, model: Model, context: SimpleNamespace) -> Any:
    """A runner as vLLM's look from outside: three requests in a step, one of them a part of a prompt."""

    class Runner:
        device = torch.device("cpu")
        input_batch = SimpleNamespace(req_ids=["a", "b", "c"])

        def __init__(self) -> None:
            self.model = model

        def _dummy_run(self) -> None:
            self.model(torch.zeros(2, 8))

        def execute_model(self, scheduler_output: Any) -> None:
            self._prepare_inputs(scheduler_output)
            self.model(self.hidden)

        def _prepare_inputs(self, scheduler_output: Any) -> None:
            self.hidden = torch.randn(scheduler_output.total, 8)

        def sample_tokens(self) -> Any:
            return SimpleNamespace(req_ids=["a", "b", "c"])

    config = SimpleNamespace(
        scheduler_config=SimpleNamespace(max_num_batched_tokens=16, max_num_seqs=4),
        compilation_config=SimpleNamespace(
            cudagraph_capture_sizes=None, static_forward_context=context.no_compile_layers
        ),
        model_config=SimpleNamespace(hf_text_config=SimpleNamespace(num_hidden_layers=3)),
    )
    made = Runner()
    _Runner(made, config, *served())
    return made


def step(new: dict[str, float | None], counts: dict[str, int], finished: tuple[str, ...] = ()) -> Any:
    requests = [
        SimpleNamespace(req_id=name, sampling_params=SimpleNamespace(extra_args=x and {"steer.warmth": x}))
        for name, x in new.items()
    ]
    return SimpleNamespace(
        scheduled_new_reqs=requests,
        finished_req_ids=set(finished),
        num_scheduled_tokens=counts,
        total=sum(counts.values()),
    )


def test_each_request_is_steered_by_its_own_strength_and_read_at_its_last_token(
    product: Path, context: SimpleNamespace
) -> None:
    model = Model(False)
    one = runner(product, model, context)
    readout, steering = served()
    for new, counts, finished, wanted in (
        ({"a": 2.0, "b": None, "c": -1.0}, {"a": 3, "b": 1, "c": 2}, (), [2.0, 0.0, -1.0]),
        ({}, {"a": 1, "b": 1, "c": 4}, (), [2.0, 0.0, -1.0]),
        ({"a": None}, {"a": 2, "b": 1, "c": 1}, ("a", "c"), [0.0, 0.0, 0.0]),
    ):
        with torch.no_grad():
            one.execute_model(step(new, counts, finished))
            output = one.sample_tokens()
            plain = Model(False)
            start = 0
            for (name, count), strength in zip(counts.items(), wanted, strict=True):
                stream = one.hidden[start : start + count]
                start += count
                found = {0: plain.layers[0](stream)}
                found[1] = plain.layers[1](found[0]) + strength * torch.tensor(steering["warmth"].steps[1])
                rows = [found[layer][-1].numpy() @ readout.vectors[layer].T for layer in readout.layers]
                np.testing.assert_allclose(output.amybuild_readout[name], np.stack(rows), atol=1e-5)


def test_a_runner_that_ran_without_its_taps_is_noticed(product: Path, context: SimpleNamespace) -> None:
    one = runner(product, Model(False), context)
    one.execute_model(step({}, {"a": 1, "b": 1, "c": 1}))
    for tap in context.no_compile_layers.values():
        tap.calls = 0
    one.model = Model(False)
    one.execute_model(step({}, {"a": 1, "b": 1, "c": 1}))
    with pytest.raises(ActionError, match="without its tap"):
        one.sample_tokens()


def test_a_runner_that_lacks_a_method_is_refused_by_name(product: Path) -> None:
    with pytest.raises(ActionError, match=r"has no _dummy_run[\s\S]*tested with vLLM"):
        _Runner(SimpleNamespace(prepare_inputs=print), SimpleNamespace(), *served())


def test_a_vllm_that_moved_its_inside_is_refused_with_a_remedy() -> None:
    for words in (
        ("amybuild.no_such_module", "X"),
        ("json", "nothing"),
        ("json", "JSONDecoder.nothing"),
        ("json", "dumps", "no_such_parameter"),
    ):
        with pytest.raises(ActionError, match="is not as amybuild's readouts know it") as caught:
            find(*words)
        assert caught.value.remedy
        assert "unset VLLM_READOUT_VECTORS" in caught.value.remedy
    assert find("json", "dumps", "indent") is json.dumps


def test_a_method_is_wrapped_once(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("amybuild_fake")
    module.Thing = type("Thing", (), {"double": lambda self, x: 2 * x})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "amybuild_fake", module)
    for _ in range(2):
        wrap("amybuild_fake", "Thing.double", ("x",), lambda original, self, x: original(self, x) + 1)
    assert module.Thing().double(3) == 7


def test_strengths_are_checked() -> None:
    known: Any = {"warmth": None}
    assert strengths_of({"steer.warmth": 2, "other": "x"}, known) == {"warmth": 2.0}
    assert strengths_of({"steer.warmth": 0.0}, known) == strengths_of(None, known) == {}
    for wrong in ({"steer.nobody": 1.0}, {"steer.warmth": "1"}, {"steer.warmth": True}, {"steer.warmth": np.inf}):
        with pytest.raises(ValueError, match="steer"):
            strengths_of(wrong, known)


def test_the_environment_is_checked_before_anything_is_taken_hold_of(
    product: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert list(served()[1]) == ["warmth"]
    assert manifest()["concepts"] == ["warm", "cold"]
    served.cache_clear()
    monkeypatch.setenv("VLLM_READOUT_STEERING", str(product / "nowhere"))
    with pytest.raises(InputError, match="no such folder"):
        register()
    monkeypatch.delenv("VLLM_READOUT_STEERING")
    tensors = load_file(product / "readout.safetensors")
    save_file({**tensors, "layer_1.vectors": tensors["layer_1.vectors"] * np.nan}, product / "readout.safetensors")
    with pytest.raises(InputError, match="not finite"):
        register()
    monkeypatch.delenv("VLLM_READOUT_MANIFEST")
    with pytest.raises(InputError, match="set both"):
        register()
    monkeypatch.delenv("VLLM_READOUT_VECTORS")
    register()  # nothing is asked for, and no vLLM is looked for


def test_a_streamed_chunk_takes_the_readouts_of_its_tokens() -> None:
    waiting: dict[int, Any] = {0: [[[1.0]]], 1: [[[2.0]], [[3.0]]]}
    opening = 'data: {"choices":[{"index":0,"delta":{"role":"assistant"}}]}\n\n'
    assert _with_readouts(opening, waiting) == opening
    chunk = _with_readouts('data: {"choices":[{"index":1,"delta":{"content":"é"}}]}\n\n', waiting)
    assert json.loads(chunk.removeprefix("data: "))["choices"][0]["readout"] == [[[2.0]], [[3.0]]]
    assert "é" in chunk
    assert chunk.endswith("\n\n")
    assert list(waiting) == [0]
    assert _with_readouts("data: [DONE]\n\n", waiting) == "data: [DONE]\n\n"
