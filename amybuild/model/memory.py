"""How much memory a training takes, from a base's shapes and a recipe, before anything is loaded."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

_SIZES = {"float32": 4, "bfloat16": 2, "float16": 2}
_HEADS = ("embed", "lm_head", "wte", "wpe", "shared")  # parts of names that are no linear layer of a block
FEWER = "less tokens_per_pass, activation_checkpointing = true, a smaller rank or dtype, shards, or a larger machine"
_PER_VOCABULARY = 5  # float32 numbers per reply token and word: logits, their softmax and gradient, and the base's
_GATHERED = 3  # blocks: the one that computes, the next one, and what came for it from the others
_REPLIES = 0.6  # share of a pass's tokens that are replies, at most, in dialogues


@dataclass(frozen=True)
class Estimate:
    """Bytes on the device that trains: the base's weights, what is trained with its optimiser, and one pass.

    With `shards`, of each process: its part of the blocks, those that are gathered meanwhile, and all the rest whole.

    A pass is what a block keeps for its gradient, about 10 hidden and 6 intermediate vectors a token; with activation
    checkpointing one hidden vector a token and block, and one block in full. Measured within a quarter (bench/LOG.md).
    """

    weights: int
    trained: int
    activations: int
    logits: int

    @property
    def total(self) -> int:
        """All of it."""
        return sum(getattr(self, field.name) for field in fields(self))


def estimate(config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], params: Mapping[str, Any]) -> Estimate:
    """config: the base's config.json; shapes: of its stored tensors; params: recipe fields."""
    text = config.get("text_config", config)
    blocks, hidden = int(text["num_hidden_layers"]), int(text["hidden_size"])
    inner, vocabulary = int(text.get("intermediate_size") or 4 * hidden), int(text["vocab_size"])
    size, tokens = _SIZES[str(params["dtype"])], int(params["tokens_per_pass"])
    whole = {name: _count(shape) for name, shape in shapes.items()}
    below = {name: shape for name, shape in shapes.items() if not any(part in name for part in _HEADS)}
    one_block = tokens * (10 * hidden + 6 * inner) * size
    if params["activation_checkpointing"]:
        activations = tokens * blocks * hidden * size + one_block
    else:
        activations = one_block * (int(params["top_layers"]) or blocks)
    shards, in_blocks = int(params["shards"]), sum(map(_count, below.values()))
    held = in_blocks if shards == 1 else in_blocks // shards + _GATHERED * in_blocks // blocks
    return Estimate(
        (sum(whole.values()) - in_blocks + held) * size,
        _trained(below, params),
        activations,
        int(_REPLIES * tokens) * vocabulary * 4 * _PER_VOCABULARY,
    )


def _trained(shapes: Mapping[str, tuple[int, ...]], params: Mapping[str, Any]) -> int:
    """Parameters with their gradients, an optimiser's state and the best step's values, in float32."""
    matrices = [shape for shape in shapes.values() if len(shape) == 2]
    best = 1 if params.get("watch_every") else 0
    if params["tune"] == "lora":
        return sum(int(params["rank"]) * (rows + columns) for rows, columns in matrices) * 4 * (4 + best)
    count = sum(map(_count, shapes.values()))
    rank = {"apollo": int(params["apollo_rank"]), "apollo-mini": 1}.get(str(params["optimizer"]))
    state = 2 * count if rank is None else sum(2 * min(rank, min(shape)) * max(shape) for shape in matrices)
    return 4 * (
        (2 + best) * count + state
    )  # the gradient, the values before, the state; the weights are counted as weights


def _count(shape: tuple[int, ...]) -> int:
    total = 1
    for side in shape:
        total *= side
    return total


def of_folder(folder: Path, params: Mapping[str, Any]) -> Estimate:
    """`estimate` for the base in a Hugging Face model folder; OSError, ValueError or KeyError when it is none."""
    return estimate(json.loads((folder / "config.json").read_bytes()), read_shapes(folder), params)


def read_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of the tensors in a folder's safetensors files, from their headers; OSError or ValueError else."""
    found: dict[str, tuple[int, ...]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with open(path, "rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        found |= {name: tuple(one["shape"]) for name, one in header.items() if name != "__metadata__"}
    return found
