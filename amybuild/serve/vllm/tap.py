"""The tap: one operator at the output of a decoder block that steers the residual stream and projects it.

To a compiler it is a closed box, so eager mode, `torch.compile` and CUDA graphs do the same; its buffers never move, so
a captured graph reads this step's strengths and writes this step's projections.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from amybuild.errors import ActionError

NAME = "amybuild.tap.{}"  # of a block's tap in vLLM's table of layers that a compiler does not look into


@dataclass
class Tap:
    """What the operator of one block works on.

    vectors: float32 [n_concepts, hidden], or None where nothing is read. out: float32 [max_tokens, n_concepts], this
    block's part of the step's projections. steps: float32 [n_directions, hidden], or None where nothing is steered.
    strength: float32 [max_tokens, n_directions], for each token of the step. calls: how often the operator ran (under
    CUDA graphs: was recorded).
    """

    vectors: torch.Tensor | None
    out: torch.Tensor | None
    steps: torch.Tensor | None
    strength: torch.Tensor
    calls: int = 0


@torch.library.custom_op("amybuild::tap", mutates_args=())
def tap(hidden: torch.Tensor, residual: torch.Tensor | None, layer: int) -> torch.Tensor:
    """`hidden` with this step's steering added; the projections of the block's output are written beside.

    hidden (and residual, where a model hands both on: the stream is their sum) [..., hidden_size] of any float dtype.
    """
    from vllm.forward_context import get_forward_context

    one: Tap = get_forward_context().no_compile_layers[NAME.format(layer)]
    one.calls += 1
    rows = hidden.reshape(-1, hidden.shape[-1])
    tokens = rows.shape[0]
    if tokens > one.strength.shape[0]:
        raise ActionError(f"a step of {tokens} tokens; room was made for {one.strength.shape[0]}", where="vLLM")
    moved = rows.clone()  # an operator may not hand back what it was given
    if one.steps is not None:
        moved += (one.strength[:tokens] @ one.steps).to(rows.dtype)
    if one.vectors is not None and one.out is not None:
        stream = moved.float()
        if residual is not None:
            stream = stream + residual.reshape(rows.shape).float()
        one.out[:tokens].copy_(stream @ one.vectors.T)
    return moved.reshape(hidden.shape)


@tap.register_fake
def _(hidden: torch.Tensor, residual: torch.Tensor | None, layer: int) -> torch.Tensor:
    return torch.empty_like(hidden)


def install(model: Any, depth: int, layers: Sequence[int], taps: dict[str, Any], made: Mapping[int, Tap]) -> None:
    """Put a tap behind each of `layers` of a vLLM model of `depth` blocks; `taps` is where the operator finds them."""
    blocks = _blocks(model, depth)
    for layer in layers:
        taps[NAME.format(layer)] = made[layer]
        blocks[layer].register_forward_hook(_hook(layer))


def _hook(layer: int) -> Any:
    def hook(_module: Any, _args: Any, output: Any) -> Any:
        if isinstance(output, torch.Tensor):
            return torch.ops.amybuild.tap(output, None, layer)
        hidden, residual = output[0], output[1] if len(output) > 1 else None
        if residual is not None and (not isinstance(residual, torch.Tensor) or residual.shape != hidden.shape):
            residual = None  # not the other half of the stream
        return (torch.ops.amybuild.tap(hidden, residual, layer), *output[1:])

    return hook


def _blocks(model: Any, depth: int) -> Any:
    """The ModuleList of decoder blocks; of several of that length the one with the most parameters."""
    lists = [m for m in model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == depth]
    if not lists:
        raise ActionError(
            f"cannot find the {depth} decoder blocks of this model",
            where="vLLM",
            remedy="unset VLLM_READOUT_VECTORS to serve it without readouts",
        )
    return max(lists, key=lambda blocks: sum(p.numel() for p in blocks.parameters()))
