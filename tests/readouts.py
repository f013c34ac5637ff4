"""Readout and steering files written beside a tiny model, for tests of what reads them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file


def readout_tensors(concepts: int, layers: Sequence[int], hidden: int, seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    found: dict[str, Any] = {}
    for layer in layers:
        rows = rng.standard_normal((concepts, hidden))
        found[f"layer_{layer}.vectors"] = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
        found[f"layer_{layer}.gap"] = rng.uniform(2, 4, concepts).astype(np.float32)
        found[f"layer_{layer}.mean"] = rng.standard_normal(concepts).astype(np.float32)
        found[f"layer_{layer}.std"] = rng.uniform(1, 2, concepts).astype(np.float32)
    return found


def write_readout(
    folder: Path, concepts: Sequence[str], layers: Sequence[int], hidden: int, depth: int, *, seed: int = 0
) -> Path:
    """readout.json and readout.safetensors with random unit directions, in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(readout_tensors(len(concepts), layers, hidden, seed), folder / "readout.safetensors")
    about = {"format_version": 1, "concepts": list(concepts), "layers": list(layers), "hidden_size": hidden}
    (folder / "readout.json").write_text(json.dumps({**about, "num_layers": depth, "dtype": "float32"}))
    return folder
