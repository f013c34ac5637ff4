"""In vLLM's workers: taps in the model, strengths before a step, the projections of sampled positions after it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from amybuild.errors import ActionError, InputError
from amybuild.serve.files import ReadoutFile, check_fits
from amybuild.serve.steering import MOST, Direction
from amybuild.serve.vllm.install import moved, served, wrap
from amybuild.serve.vllm.tap import Tap
from amybuild.serve.vllm.tap import install as install_taps

# on a ModelRunnerOutput: request -> float32 [n_layers, n_concepts]; in kv_transfer_params on the way on: its bytes
ROWS = "amybuild_readout"
PREFIX = "steer."  # of the extra arguments of a request: steer.NAME = strength


def install() -> None:
    wrap("vllm.v1.worker.worker_base", "WorkerWrapperBase.init_device", (), _init_device)
    parameters = ("scheduler_output", "model_runner_output")
    wrap("vllm.v1.core.sched.scheduler", "Scheduler.update_from_output", parameters, _update_from_output)


def strengths_of(extra: Mapping[str, Any] | None, known: Mapping[str, Direction]) -> dict[str, float]:
    """The strengths that a request asks for; `ValueError` (the client's error) for what is not to be had."""
    found = {}
    for key, value in (extra or {}).items():
        if not isinstance(key, str) or not key.startswith(PREFIX):
            continue
        name = key.removeprefix(PREFIX)
        if name not in known:
            raise ValueError(f"no steering direction '{name}'; served here: {', '.join(known) or 'none'}")
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= MOST:
            told = f"{key} is a finite number of class gaps, at most {MOST:g} either way, not {value!r:.40}"
            raise ValueError(told)
        if value:
            found[name] = float(value)
    return found


def _init_device(original: Any, self: Any, *args: Any, **kwargs: Any) -> Any:
    """After a worker made its model runner, before the model is loaded."""
    readout, steering = served()
    config = self.vllm_config
    check_fits(readout, config.model_config.hf_text_config.to_dict(), "the model to serve")
    _refuse(config)
    if not isinstance(config.additional_config, dict):
        raise moved("additional_config is no table")
    # compiled code is kept under a digest of the configuration: with other taps it is other code
    config.additional_config[ROWS] = json.dumps([sorted(_layers(readout, steering))])
    result = original(self, *args, **kwargs)
    runner = getattr(self.worker, "model_runner", None)
    if runner is None:
        raise moved("a worker has no model_runner")
    _Runner(runner, config, readout, steering)
    return result


def _layers(readout: ReadoutFile, steering: Mapping[str, Direction]) -> set[int]:
    return {*readout.layers, *(layer for one in steering.values() for layer in one.layers)}


def _refuse(config: Any) -> None:
    """Arrangements in which a step's tokens are not one row each, in order, in one process."""
    parallel = config.parallel_config
    for what, used in (
        ("speculative decoding", config.speculative_config is not None),
        ("pipeline parallelism", parallel.pipeline_parallel_size > 1),
        ("prefill context parallelism", getattr(parallel, "prefill_context_parallel_size", 1) > 1),
        ("micro-batches (DBO)", bool(getattr(parallel, "enable_dbo", False))),
        ("sequence parallelism", bool(getattr(config.compilation_config.pass_config, "enable_sp", False))),
    ):
        if used:
            raise InputError(
                f"readouts and {what} do not go together",
                where="vLLM plugin amybuild_readout",
                remedy="switch it off, or unset VLLM_READOUT_VECTORS",
            )


class _Runner:
    """One model runner with taps. Its methods are wrapped on the object, so any runner class will do."""

    def __init__(self, runner: Any, config: Any, readout: ReadoutFile, steering: Mapping[str, Direction]) -> None:
        self.runner, self.config, self.readout, self.steering = runner, config, readout, steering
        self.strengths: dict[str, dict[str, float]] = {}  # request -> direction -> strength, of those that are steered
        self.taps: dict[int, Tap] = {}
        self.rows: torch.Tensor | None = None  # float32 [max_tokens, n_layers, n_concepts]
        self.last: tuple[list[str], np.ndarray[Any, Any]] | None = None  # the step's requests, the row each ends at
        self.steered = False  # whether any strength is not zero
        prepare = "_prepare_inputs" if hasattr(runner, "_prepare_inputs") else "prepare_inputs"
        for name, method in (
            ("_dummy_run", self.first),
            ("execute_model", self.execute),
            (prepare, self.prepare),
            ("sample_tokens", self.sample),
        ):
            if not callable(getattr(runner, name, None)):
                raise moved(f"{type(runner).__name__} has no {name}")
            setattr(runner, name, _bound(method, getattr(runner, name)))

    def first(self, original: Any, *args: Any, **kwargs: Any) -> Any:
        """Before the first forward pass of any kind: the model is loaded and not yet compiled."""
        if not self.taps:
            self.install()
        return original(*args, **kwargs)

    def install(self) -> None:
        config, device = self.config, self.runner.device
        most = max(
            config.scheduler_config.max_num_batched_tokens,
            config.scheduler_config.max_num_seqs,
            *(config.compilation_config.cudagraph_capture_sizes or [0]),
        )
        layers = self.readout.layers
        self.rows = torch.zeros(most, len(layers), len(self.readout.concepts), dtype=torch.float32, device=device)
        strength = torch.zeros(most, len(self.steering), dtype=torch.float32, device=device)
        for layer in sorted(_layers(self.readout, self.steering)):
            read = layer in layers
            steps = [one.steps.get(layer, np.zeros(self.readout.hidden_size)) for one in self.steering.values()]
            self.taps[layer] = Tap(
                vectors=torch.tensor(self.readout.vectors[layer], device=device) if read else None,
                out=self.rows[:, layers.index(layer)] if read else None,
                steps=torch.tensor(np.stack(steps), dtype=torch.float32, device=device) if steps else None,
                strength=strength,
            )
        self.strength = strength
        depth = config.model_config.hf_text_config.num_hidden_layers
        table = config.compilation_config.static_forward_context
        install_taps(self.runner.model, depth, sorted(self.taps), table, self.taps)

    def execute(self, original: Any, scheduler_output: Any, *args: Any, **kwargs: Any) -> Any:
        for request in scheduler_output.finished_req_ids:
            self.strengths.pop(request, None)
        for new in scheduler_output.scheduled_new_reqs:
            params = getattr(new, "sampling_params", None)
            asked = strengths_of(params.extra_args if params else None, self.steering)
            if asked:
                self.strengths[new.req_id] = asked
        self.last = None
        return self.first(original, scheduler_output, *args, **kwargs)

    def prepare(self, original: Any, scheduler_output: Any, *args: Any, **kwargs: Any) -> Any:
        """After the runner laid out the step: which rows belong to whom, and how strongly each is steered."""
        result = original(scheduler_output, *args, **kwargs)
        batch = result if hasattr(result, "req_ids") else self.runner.input_batch
        requests = list(batch.req_ids)
        counts = np.array([scheduler_output.num_scheduled_tokens[one] for one in requests])
        self.last = (requests, counts.cumsum() - 1)
        wanted = [self.strengths.get(one) for one in requests]
        if any(wanted) or self.steered:
            table = np.zeros((int(counts.sum()), len(self.steering)), dtype=np.float32)
            ends = counts.cumsum()
            for asked, start, stop in zip(wanted, ends - counts, ends, strict=True):
                for column, name in enumerate(self.steering):
                    table[start:stop, column] = (asked or {}).get(name, 0.0)
            self.strength[: len(table)].copy_(torch.from_numpy(table))
            self.steered = any(wanted)
        return result

    def sample(self, original: Any, *args: Any, **kwargs: Any) -> Any:
        """The projections at each request's last position of the step, with what was sampled there."""
        if self.last is None:
            return original(*args, **kwargs)
        requests, ends = self.last
        self.last = None
        silent = [layer for layer, one in self.taps.items() if not one.calls]
        if silent:
            raise moved(f"block {silent[0]} ran without its tap")
        assert self.rows is not None
        found = self.rows[torch.from_numpy(ends).to(self.rows.device)]
        copied = torch.empty(found.shape, dtype=found.dtype, pin_memory=found.is_cuda)
        copied.copy_(found, non_blocking=True)
        done = None
        if found.is_cuda:
            done = torch.cuda.Event()  # type: ignore[no-untyped-call]
            done.record()
        output = original(*args, **kwargs)
        if output is None or not hasattr(output, "get_output"):
            return _with_rows(output, requests, copied, done)
        get_output = output.get_output
        output.get_output = lambda: _with_rows(get_output(), requests, copied, done)
        return output


def _bound(method: Any, original: Any) -> Any:
    return lambda *args, **kwargs: method(original, *args, **kwargs)


def _with_rows(output: Any, requests: list[str], copied: torch.Tensor, done: Any) -> Any:
    if output is None or not getattr(output, "req_ids", None):
        return output  # nothing was sampled here
    if done is not None:
        done.synchronize()
    setattr(output, ROWS, dict(zip(requests, copied.numpy().copy(), strict=True)))
    return output


def _update_from_output(original: Any, self: Any, scheduler_output: Any, model_runner_output: Any) -> Any:
    """In the engine: each new token takes its projections along, as bytes in a field that every vLLM carries."""
    result = original(self, scheduler_output, model_runner_output)
    rows = getattr(model_runner_output, ROWS, None)
    for outputs in result.values():
        for output in outputs.outputs:
            if not output.new_token_ids:
                continue
            if rows is None or output.request_id not in rows or len(output.new_token_ids) != 1:
                raise ActionError(f"{len(output.new_token_ids)} new tokens came without their readouts", where="vLLM")
            told = {ROWS: rows[output.request_id].tobytes()}
            output.kv_transfer_params = {**(output.kv_transfer_params or {}), **told}
    return result
