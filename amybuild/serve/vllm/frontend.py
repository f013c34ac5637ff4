"""In vLLM's frontend: strengths are checked and salt the prefix cache; readouts reach `CompletionOutput.readout`."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from amybuild.serve.vllm.install import find, served, wrap
from amybuild.serve.vllm.worker import ROWS, strengths_of


def install() -> None:
    wrap("vllm.v1.engine.input_processor", "InputProcessor.process_inputs", ("params",), _process_inputs)
    find("vllm.exceptions", "VLLMValidationError")
    processor = "vllm.v1.engine.output_processor"
    wrap(processor, "OutputProcessor.process_outputs", ("engine_core_outputs",), _process_outputs)
    wrap(processor, "RequestState._new_completion_output", ("token_ids",), _new_completion_output)
    wrap("vllm.outputs", "RequestOutput.add", ("next_output", "aggregate"), _add)


def _process_inputs(original: Any, self: Any, *args: Any, **kwargs: Any) -> Any:
    """A steered request shares cached keys and values only with requests steered just so."""
    request = original(self, *args, **kwargs)
    params = request.sampling_params
    try:
        asked = strengths_of(params.extra_args if params else None, served()[1])
    except ValueError as error:
        raise find("vllm.exceptions", "VLLMValidationError")(str(error)) from None
    if asked:
        request.cache_salt = json.dumps([request.cache_salt, sorted(asked.items())])
    return request


def _process_outputs(original: Any, self: Any, engine_core_outputs: Any, *args: Any, **kwargs: Any) -> Any:
    """Take the readouts out of what the engine sent, before anybody takes them for something else."""
    readout = served()[0]
    shape = (1, len(readout.layers), len(readout.concepts))
    for output in engine_core_outputs:
        told = output.kv_transfer_params
        if not told or ROWS not in told:
            continue
        rows = np.frombuffer(told[ROWS], "<f4").reshape(shape)
        output.kv_transfer_params = {key: value for key, value in told.items() if key != ROWS} or None
        state = self.request_states.get(output.request_id)
        if state is not None:
            state.__dict__.setdefault(ROWS, []).append(rows)
    return original(self, engine_core_outputs, *args, **kwargs)


def _new_completion_output(original: Any, self: Any, token_ids: Any, *args: Any, **kwargs: Any) -> Any:
    """`readout` on the output: float32 [its tokens, n_layers, n_concepts]."""
    output = original(self, token_ids, *args, **kwargs)
    readout = served()[0]
    rows = self.__dict__.get(ROWS, [])
    empty = np.zeros((0, len(readout.layers), len(readout.concepts)), dtype=np.float32)
    count = len(output.token_ids)
    output.readout = np.concatenate([empty, *rows[len(rows) - count :]])
    return output


def _add(original: Any, self: Any, next_output: Any, aggregate: bool) -> Any:
    """Outputs that were merged before anybody fetched them keep all their readouts."""
    before = {one.index: getattr(one, "readout", None) for one in self.outputs}
    result = original(self, next_output, aggregate)
    after = {one.index: getattr(one, "readout", None) for one in next_output.outputs}
    for one in self.outputs:
        first, then = before.get(one.index), after.get(one.index)
        if aggregate and first is not None and then is not None:
            one.readout = np.concatenate([first, then])
    return result
