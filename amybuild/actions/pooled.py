"""Pooled activations remembered between builds: a file per base and text, so that a new text costs one forward pass."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from amybuild.actions.remembered import Remembered

_VERSION = 1
_MOST = 1 << 30  # bytes of files that are kept


class Pooled:
    """float32 [n_layers, hidden] by text, below `folder`; no folder, or a base without a digest: nothing is kept.

    What is kept of a text is the blocks it was read at, and their rows. It answers for any of those blocks.
    """

    def __init__(self, folder: Path | None, behind: Sequence[Any], layers: Sequence[int], hidden: int) -> None:
        import torch
        import transformers

        self._files = Remembered(None if folder is None or None in behind else folder / "activations", "pooled", _MOST)
        self._behind = [_VERSION, torch.__version__, transformers.__version__, *behind]
        self._layers = list(layers)
        self._hidden = hidden

    def get(self, entry: Any) -> Any:
        """The rows of a text, or None."""
        import torch

        body = self._files.get([*self._behind, entry])
        if body is None:
            return None
        head, _, data = body.partition(b"\n")
        try:
            known = {layer: i for i, layer in enumerate(json.loads(head))}
            rows = torch.frombuffer(bytearray(data), dtype=torch.float32).reshape(len(known), self._hidden)
            return rows[[known[layer] for layer in self._layers]]
        except (ValueError, KeyError, TypeError, RuntimeError, RecursionError):
            return None

    def put(self, entry: Any, rows: Any) -> None:
        """Keep the rows [n_layers, hidden] of a text."""
        body = json.dumps(self._layers).encode() + b"\n" + rows.contiguous().numpy().tobytes()
        self._files.put([*self._behind, entry], body)

    def prune(self) -> None:
        """Drop what was not used for longest, where it is too much."""
        self._files.prune()
