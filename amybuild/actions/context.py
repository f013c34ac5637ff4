"""What an action is given: its parameters, its inputs as folders, an empty folder for its output."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from amybuild.value import field, value


class Progress(Protocol):
    """Called by an action as it goes; raises `Interrupted` when the build is being stopped."""

    def __call__(self, done: int, total: int, **fields: float | str) -> None: ...


def silent(done: int, total: int, **fields: float | str) -> None:
    """A `Progress` that shows nothing (tests, library use)."""


@value
class ActionContext:
    """One run of one action. An action reads `inputs`, writes below `out`, and touches nothing else."""

    action: str  # "task.listening/train"
    key: str  # the action key (hex); every random number is a function of it
    params: Mapping[str, Any]  # JSON values
    inputs: Mapping[str, Path]  # role -> folder of that artifact (read-only; files may be symlinks)
    out: Path  # an empty folder; all that is written below it becomes the artifact
    progress: Progress = field(default=silent)
    digests: Mapping[str, str] = field(default_factory=dict)  # role -> content digest of that input
    memo: Path | None = None  # a folder for what pure functions of those digests gave; it may be emptied at any time

    checkpoint: Path | None = None  # a folder of this key's own that outlives a killed run; gone once there is a result

    free_memory: Callable[[], int] | None = None  # bytes that can be taken on this machine

    def seed(self, purpose: str, step: int = 0) -> int:
        """A 63-bit seed that depends on the action key, the purpose and the step only."""
        text = f"{self.key}\0{purpose}\0{step}".encode()
        return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 1
