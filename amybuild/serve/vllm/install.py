"""Where the plugin takes hold of vLLM: every place is looked at first, and a vLLM that moved one is refused."""

from __future__ import annotations

import functools
import hashlib
import importlib
import inspect
import os
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from amybuild.errors import ActionError, InputError
from amybuild.serve.files import ReadoutFile, read_pair
from amybuild.serve.steering import FOLDER, Direction, direction
from amybuild.serve.vllm import MANIFEST, STEERING, VECTORS

TESTED = "0.32.0"
_DONE = "_amybuild_readout"
_SERVED = "AMYBUILD_READOUT_SERVED"  # what the first process of a server read: a digest, the manifest


@lru_cache(maxsize=1)
def served() -> tuple[ReadoutFile, dict[str, Direction]]:
    """What the environment names: the readout, and the steering directions by name (none where there are none).

    Directions are looked for in VLLM_READOUT_STEERING, a folder of folders with readout files, else in `steering/`
    beside the manifest. `InputError` for whatever is wrong with any file.
    """
    vectors, manifest = os.environ.get(VECTORS), os.environ.get(MANIFEST)
    if not vectors or not manifest:
        raise InputError(f"{VECTORS} and {MANIFEST} name one file each; set both or none", where="environment")
    readout = read_pair(Path(vectors), Path(manifest))
    told = os.environ.get(STEERING)
    folder = Path(told) if told else Path(manifest).parent / FOLDER
    if told and not folder.is_dir():
        raise InputError(f"no such folder: {told}", where=STEERING)
    found = {}
    for one in sorted(folder.iterdir()) if folder.is_dir() else ():
        if one.is_dir():
            steering = read_pair(one / "readout.safetensors", one / "readout.json")
            if (steering.hidden_size, steering.num_layers) != (readout.hidden_size, readout.num_layers):
                raise InputError("it belongs to another model than the readout", where=str(one))
            if told or "gap" in steering.beside:  # without a gap there is no unit to count strengths in
                found[one.name] = direction(steering, steering.concepts[0], one.name)
    _same_in_all_processes(readout, found)
    return readout, found


def _same_in_all_processes(readout: ReadoutFile, steering: Mapping[str, Direction]) -> None:
    """`InputError` where a process of this server read other files: they may be built anew while it starts."""
    told = hashlib.sha256(repr([readout.concepts, readout.layers, list(steering)]).encode())
    told.update(readout.stacked().tobytes())
    for one in steering.values():
        for layer in one.layers:
            told.update(one.steps[layer].tobytes())
    before, _, manifest = os.environ.get(_SERVED, "").partition(" ")
    if manifest == readout.where and before != told.hexdigest():
        raise InputError(
            "it changed since the server was started", where=readout.where, remedy="start the server again"
        )
    os.environ[_SERVED] = f"{told.hexdigest()} {readout.where}"  # the processes that this one starts inherit it


def install() -> None:
    """Check the files, then take hold of vLLM; a second call does nothing."""
    served()
    from amybuild.serve.vllm import frontend, server, worker

    worker.install()
    frontend.install()
    server.install()


def find(module: str, name: str, *parameters: str) -> Any:
    """The function or class `name` (dots for what is inside a class) of a vLLM module.

    ActionError, saying what this plugin was tested with, unless it is there and its function takes `parameters`.
    """
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
        takes = inspect.signature(found).parameters if parameters else {}
    except (ImportError, AttributeError, ValueError):
        raise moved(f"{module} has no {name}") from None
    missing = [one for one in parameters if one not in takes]
    if missing:
        raise moved(f"{module}.{name} takes no {', '.join(missing)}")
    return found


def moved(what: str) -> ActionError:
    """The error for a vLLM whose inside is not as this plugin knows it."""
    try:
        version = str(importlib.import_module("vllm").__version__)
    except (ImportError, AttributeError):
        version = "?"
    return ActionError(
        f"this vLLM ({version}) is not as amybuild's readouts know it: {what}",
        where="vLLM plugin amybuild_readout",
        remedy=f"tested with vLLM {TESTED}; unset {VECTORS} to serve without readouts",
    )


def wrap(module: str, name: str, parameters: tuple[str, ...], around: Callable[..., Any]) -> None:
    """Replace the method `Class.method` of a vLLM module by `around(original, self, *args, **kwargs)`, once."""
    original = find(module, name, *parameters)
    if getattr(original, _DONE, False):
        return

    @functools.wraps(original)
    def replacement(self: Any, *args: Any, **kwargs: Any) -> Any:
        return around(original, self, *args, **kwargs)

    setattr(replacement, _DONE, True)
    owner, _, method = name.rpartition(".")
    setattr(find(module, owner), method, replacement)
