"""Loading a base: one frozen model at a time, shared by every action that names the same files."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from amybuild.digest import digest_value
from amybuild.errors import ActionError

DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Loaded:
    """A frozen causal LM in eval mode with its tokenizer. `memo` lives as long as the model does."""

    model: Any
    tokenizer: Any
    identity: str
    memo: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def device(self) -> Any:
        """Where the model's weights lie (a torch.device)."""
        return next(self.model.parameters()).device


_LOCK = threading.RLock()
_LAST: dict[str, Loaded] = {}


@contextmanager
def load_base(path: str | Path, *, dtype: str = "float32", device: str = "cpu", keep: bool = True) -> Iterator[Loaded]:
    """The model in the Hugging Face folder `path`, for this thread alone until the block ends.

    dtype: one of `DTYPES`, always given to transformers (its default would train a bf16 base in bf16). device: "cpu",
    "cuda", or "auto" (cuda where there is one). The last model stays in memory for the next caller with the same
    files; `keep=False` loads beside it without taking its place. Raises ActionError for a folder that does not load.
    """
    with _LOCK:
        place = resolve_device(device)
        identity = _identity(Path(path), dtype, place)
        loaded = _LAST.get(identity)
        if loaded is None:
            if keep:
                release()
            loaded = Loaded(*_read(Path(path), dtype, place), identity)
            if keep:
                _LAST[identity] = loaded
        yield loaded


def release() -> None:
    """Forget the kept model, so that its memory can be used for something else."""
    with _LOCK:
        if _LAST:
            _LAST.clear()
            gc.collect()


def resolve_device(device: str) -> str:
    """cpu | cuda for cpu | cuda | auto; ActionError when cuda is asked for and there is none."""
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise ActionError("no CUDA device here", where="device", remedy='set device = "cpu" or "auto" in the recipe')
    if device not in ("cpu", "cuda"):
        raise ActionError(f"unknown device {device!r}", where="device", remedy='use "cpu", "cuda" or "auto"')
    return device


@contextmanager
def deterministic(threads: int = 0) -> Iterator[None]:
    """Deterministic torch algorithms inside the block, with `threads` CPU threads (0: as they are); then as before.

    Bits are promised for the same machine class, thread count and torch build only.
    """
    import torch

    with _LOCK:
        memory: Any = torch.utils.deterministic
        threads_before, filled = torch.get_num_threads(), memory.fill_uninitialized_memory
        deterministic_before = torch.are_deterministic_algorithms_enabled()
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS refuses determinism without it
        if threads > 0:
            torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(True)
        memory.fill_uninitialized_memory = False  # else torch writes NaN into every new tensor, a thirtieth of a step
        try:
            yield
        finally:
            memory.fill_uninitialized_memory = filled
            torch.set_num_threads(threads_before)
            torch.use_deterministic_algorithms(deterministic_before)


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars and no notices of transformers inside the block: the build has its own display."""
    import transformers

    bars = transformers.utils.logging.is_progress_bar_enabled()
    level = transformers.utils.logging.get_verbosity()
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers.utils.logging.set_verbosity(level)
        if bars:
            transformers.utils.logging.enable_progress_bar()


def _identity(path: Path, dtype: str, device: str) -> str:
    """What the files are, without reading the weights: where each really lies, its size and its time of change."""
    if not (path / "config.json").is_file():
        raise ActionError("no config.json here", where=path.name, remedy="a base is a Hugging Face model folder")
    rows = []
    for file in sorted(path.iterdir()):
        state = file.stat()
        rows.append([file.name, os.path.realpath(file), state.st_size, state.st_mtime_ns])
    return digest_value("loaded-base", [rows, dtype, device])


def _read(path: Path, dtype: str, device: str) -> tuple[Any, Any]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if dtype not in DTYPES:
        raise ActionError(f"unknown dtype {dtype!r}", where="dtype", remedy=f"one of {', '.join(DTYPES)}")
    try:
        with quiet():
            model = AutoModelForCausalLM.from_pretrained(
                path, dtype=getattr(torch, dtype), local_files_only=True, trust_remote_code=False, use_safetensors=True
            )
            tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        first = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise ActionError(
            f"the model does not load: {first}",
            where=path.name,
            remedy="the base must be a causal language model that transformers knows, in safetensors",
        ) from error
    model.to(device)
    model.eval()
    model.requires_grad_(False)
    return model, tokenizer
