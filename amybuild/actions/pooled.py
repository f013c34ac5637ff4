"""Pooled activations remembered between builds: a file per base and text, so that a new text costs one forward pass."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from amybuild.digest import digest_bytes, digest_value

_VERSION = 1
_MOST = 1 << 30  # bytes of files that are kept


class Pooled:
    """float32 [n_layers, hidden] by text, below `folder`; no folder, or a base without a digest: nothing is kept.

    A file holds a digest, the blocks it knows, and their rows. It answers for any of those blocks. What cannot be read
    is not known; what cannot be written is lost.
    """

    def __init__(self, folder: Path | None, behind: Sequence[Any], layers: Sequence[int], hidden: int) -> None:
        import torch
        import transformers

        self._folder = None if folder is None or None in behind else folder / "activations"
        self._behind = [_VERSION, torch.__version__, transformers.__version__, *behind]
        self._layers = list(layers)
        self._hidden = hidden

    def _path(self, entry: Any) -> Path | None:
        if self._folder is None:
            return None
        name = digest_value("pooled", [*self._behind, entry])
        return self._folder / name[:2] / name

    def get(self, entry: Any) -> Any:
        """The rows of a text, or None."""
        import torch

        path = self._path(entry)
        try:
            if path is None:
                return None
            check, _, body = path.read_bytes().partition(b"\n")
            head, _, data = body.partition(b"\n")
            if check.decode() != digest_bytes(body):
                return None
            known = {layer: i for i, layer in enumerate(json.loads(head))}
            rows = torch.frombuffer(bytearray(data), dtype=torch.float32).reshape(len(known), self._hidden)
            found = rows[[known[layer] for layer in self._layers]]
            os.utime(path)  # the files that were used last stay longest
            return found
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, RecursionError):
            return None

    def put(self, entry: Any, rows: Any) -> None:
        """Keep the rows [n_layers, hidden] of a text: written beside, then renamed."""
        path = self._path(entry)
        if path is None:
            return
        body = json.dumps(self._layers).encode() + b"\n" + rows.contiguous().numpy().tobytes()
        beside = path.with_suffix(f".{os.getpid()}.tmp")
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            beside.write_bytes(digest_bytes(body).encode() + b"\n" + body)
            os.replace(beside, path)

    def prune(self) -> None:
        """Drop the files that were not used for longest, until the others fit."""
        if self._folder is None:
            return
        with contextlib.suppress(OSError):
            files = [(entry.stat(), entry.path) for room in os.scandir(self._folder) for entry in os.scandir(room)]
            room = _MOST
            for stat, path in sorted(files, key=lambda file: -file[0].st_mtime_ns):
                room -= stat.st_size
                if room < 0:
                    os.unlink(path)
