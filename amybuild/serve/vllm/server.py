"""In vLLM's OpenAI-compatible server: `GET /v1/readout/manifest`, and `readout` in every choice."""

from __future__ import annotations

import inspect
import json
from collections.abc import AsyncIterator, Mapping
from math import isfinite
from typing import Any

from amybuild.serve.vllm.install import find, served, wrap

ROUTE = "/v1/readout/manifest"
_CHAT, _COMPLETION = "vllm.entrypoints.openai.chat_completion.serving", "vllm.entrypoints.openai.completion.serving"


def install() -> None:
    """Stand among the endpoint plugins, which are asked for when an API server is made (and only there)."""
    plugins = find("vllm", "plugins")
    original = find("vllm.plugins", "load_endpoint_plugins", "supported_tasks")
    if not getattr(original, "_amybuild_readout", False):

        def load(*args: Any, **kwargs: Any) -> list[Any]:
            return [*original(*args, **kwargs), Endpoint()]

        load._amybuild_readout = True  # type: ignore[attr-defined]
        plugins.load_endpoint_plugins = load


def manifest() -> dict[str, Any]:
    """What a client must know to read the numbers: concepts, layers, calibration, and what can be steered."""
    readout, steering = served()
    found: dict[str, Any] = {
        "concepts": list(readout.concepts),
        "layers": list(readout.layers),
        "hidden_size": readout.hidden_size,
        "steering": list(steering),
    }
    for kind in ("mean", "std", "bias"):
        if kind in readout.beside:
            found[kind] = [readout.beside[kind][layer].tolist() for layer in readout.layers]
    return found


class Endpoint:
    """An endpoint plugin as vLLM defines it."""

    name = "amybuild_readout"
    required_tasks = ("generate",)

    def attach_router(self, app: Any) -> None:
        find(_CHAT, "OpenAIServingChat")
        wrap(_CHAT, "OpenAIServingChat.chat_completion_stream_generator", ("result_generator",), _stream)
        wrap(_CHAT, "OpenAIServingChat.chat_completion_full_generator", ("result_generator",), _full_chat)
        wrap(_COMPLETION, "OpenAIServingCompletion.completion_stream_generator", ("result_generator",), _stream)
        name = "OpenAIServingCompletion.request_output_to_completion_response"
        wrap(_COMPLETION, name, ("final_res_batch",), _full_completion)
        app.add_api_route(ROUTE, _manifest, methods=["GET"])

    async def init_state(self, engine_client: Any, state: Any, args: Any) -> None:
        """Nothing to prepare."""


async def _manifest() -> dict[str, Any]:
    return manifest()


def _rows(output: Any) -> list[Any]:
    """[n_tokens][n_layers][n_concepts], to seven digits: more a float32 does not have. JSON knows no infinity: null."""
    readout = getattr(output, "readout", None)
    if readout is None:
        return []
    return [[[float(f"{x:.7g}") if isfinite(x) else None for x in row] for row in token] for token in readout.tolist()]


def _replaced(original: Any, self: Any, args: Any, kwargs: Any, through: Any) -> Any:
    """Call `original` with its result_generator passed through `through`."""
    bound = inspect.signature(original).bind(self, *args, **kwargs)
    bound.arguments["result_generator"] = through(bound.arguments["result_generator"])
    return original(*bound.args, **bound.kwargs), bound.arguments


async def _stream(original: Any, self: Any, *args: Any, **kwargs: Any) -> AsyncIterator[str]:
    """Server-sent events: each chunk has the readouts of the tokens that it is of, in order."""
    waiting: dict[int, list[Any]] = {}

    async def watched(results: Any) -> AsyncIterator[Any]:
        async for result in results:
            prompt, output = result if isinstance(result, tuple) else (0, result)
            for one in output.outputs:
                index = one.index + prompt * choices
                waiting.setdefault(index, []).extend(_rows(one))
            yield result

    events, arguments = _replaced(original, self, args, kwargs, watched)
    choices = getattr(arguments["request"], "n", None) or 1
    async for event in events:
        yield _with_readouts(event, waiting)


def _with_readouts(event: str, waiting: dict[int, list[Any]]) -> str:
    if not waiting or not event.startswith("data: {"):
        return event
    chunk = json.loads(event.removeprefix("data: "))
    touched = False
    for choice in chunk.get("choices") or ():
        if "role" in (choice.get("delta") or {}):
            continue  # it opens the message, before any token
        rows = waiting.pop(choice.get("index"), None)
        if rows:
            choice["readout"] = rows
            touched = True
    return f"data: {json.dumps(chunk, ensure_ascii=False, separators=(',', ':'))}\n\n" if touched else event


async def _full_chat(original: Any, self: Any, *args: Any, **kwargs: Any) -> Any:
    last: list[Any] = [None]

    async def watched(results: Any) -> AsyncIterator[Any]:
        async for result in results:
            last[0] = result
            yield result

    pending, _ = _replaced(original, self, args, kwargs, watched)
    response = await pending
    found = {one.index: one for one in last[0].outputs} if last[0] is not None else {}
    _attach(response, found)
    return response


def _full_completion(original: Any, self: Any, final_res_batch: Any, *args: Any, **kwargs: Any) -> Any:
    response = original(self, final_res_batch, *args, **kwargs)
    _attach(response, dict(enumerate(one for result in final_res_batch for one in result.outputs)))
    return response


def _attach(response: Any, outputs: Mapping[int, Any]) -> None:
    for choice in getattr(response, "choices", None) or ():
        if choice.index in outputs:
            choice.readout = _rows(outputs[choice.index])
