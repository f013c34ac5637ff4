"""Checkpoints of an unfinished training: tensors with JSON in the same file, whose name is its step and its digest."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amybuild.digest import canonical, digest_file

_NAME = re.compile(r"step-(\d{8})\.([0-9a-f]{64})\.safetensors\Z")
_KEEP = 2  # the one before stays until the next: a disk that lost the newest has not lost all
_EVERY = 15.0  # seconds between two, at least …
_SHARE = 20.0  # … and so many times what the last one took, so that saving costs a twentieth at most


@dataclass(frozen=True)
class Checkpoint:
    """A training after `step` steps: its tensors by name, and what else it needs to go on, as JSON."""

    step: int
    tensors: Mapping[str, Any]
    told: Mapping[str, Any]


class Checkpoints:
    """A folder for one training. Who writes holds the lock of the action, so there is one writer.

    A file is written beside, flushed and renamed; one whose bytes are not those its name says is passed over. No pickle
    is read or written. `clock` (seconds) only decides when to save, never what.
    """

    def __init__(self, folder: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.folder, self._clock = folder, clock
        self._next = clock() + _EVERY

    def due(self) -> bool:
        """Whether it is time to save again."""
        return self._clock() >= self._next

    def save(self, step: int, tensors: Mapping[str, Any], told: Mapping[str, Any]) -> None:
        """Keep the training as it is after `step` steps."""
        from safetensors.torch import save_file

        began = self._clock()
        self.folder.mkdir(parents=True, exist_ok=True)
        part = self.folder / "part"
        text = canonical({"step": step, "told": told}).decode()
        held = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        save_file(held, part, metadata={"checkpoint": text})
        _sync(part)
        os.replace(part, self.folder / f"step-{step:08d}.{digest_file(part)}.safetensors")
        _sync(self.folder)
        for _, _, path in self._files()[_KEEP:]:
            path.unlink(missing_ok=True)
        self._next = self._clock() + max(_EVERY, _SHARE * (self._clock() - began))

    def newest(self) -> Checkpoint | None:
        """The latest whole one, or None: what is damaged or not ours is as good as not there."""
        from safetensors import SafetensorError, safe_open

        for step, digest, path in self._files():
            try:
                if digest_file(path) != digest:
                    continue
                with safe_open(path, "pt") as file:
                    told = json.loads(file.metadata()["checkpoint"])["told"]
                    return Checkpoint(step, {name: file.get_tensor(name) for name in file.keys()}, told)  # noqa: SIM118
            except (OSError, ValueError, KeyError, TypeError, SafetensorError):
                continue
        return None

    def _files(self) -> list[tuple[int, str, Path]]:
        """(step, digest, path), the latest step first."""
        try:
            found = [(_NAME.match(name), name) for name in os.listdir(self.folder)]
        except OSError:
            return []
        rows = [(int(match.group(1)), match.group(2), self.folder / name) for match, name in found if match]
        return sorted(rows, reverse=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
