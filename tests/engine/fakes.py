"""The whole command line with cheap actions: each writes a digest of what it was handed, in the files its rule makes.

`python -m tests.engine.fakes …` is `amybuild …` in a process of its own. FAKES_NAP is how many milliseconds an action
takes at most, FAKES_BAD names actions that fail, FAKES_LOG a file that gets a line per action that starts.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import amybuild.running
from amybuild.errors import ActionError
from amybuild.plan.code import CodeIndex
from tests.engine.seam import RUNNER, runner_of
from tests.harness import ROOT, Space

_CODE: dict[str, dict[str, str]] = {}
BASE = {"config.json": b"{}", "model.safetensors": b"weights" * 40, "tokenizer.json": b"{}"}
ACTIONS = 26  # of the project of tests/harness.py


def run(action: Any, key: str, inputs: Mapping[str, Path], out: Path, progress: Callable[..., None]) -> None:
    """The cheap stand-in for every rule."""
    if os.environ.get("FAKES_LOG"):
        with open(os.environ["FAKES_LOG"], "ab", buffering=0) as log:
            log.write(f"{action.id} {key}\n".encode())
    told: list[object] = [action.rule, action.params]
    for role, folder in sorted(inputs.items()):
        files = [folder] if folder.is_file() else sorted(p for p in folder.rglob("*") if p.is_file())
        told += [[role, path.name, hashlib.sha256(path.read_bytes()).hexdigest()] for path in files]
    digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
    if action.rule == "corpus":  # prose beside the dialogues makes no other corpus
        digest = hashlib.sha256(json.dumps(action.params, sort_keys=True).encode() + _dialogues(inputs)).hexdigest()
    progress(0, 2)
    names = ["value", *EXTRA.get(action.rule, ())]
    for name in names[:1]:
        (out / name).write_text(digest)
    time.sleep(random.random() * float(os.environ.get("FAKES_NAP", "0")) / 1000)
    if action.id in os.environ.get("FAKES_BAD", "").split():
        raise ActionError("it is bad", where=action.id, remedy="mend it")
    for name in names[1:]:
        data = json.dumps({"digest": digest}).encode() if name.endswith("json") else digest.encode() * 50
        (out / name).write_bytes(weights(data) if name == "model.safetensors" else data)
    progress(2, 2)


EXTRA = {
    "base": ("config.json", "model.safetensors"),
    "train": ("vector.safetensors", "train.json"),
    "measure": ("measure.json",),
    "verify": ("verify.json",),
    "persona_measure": ("measure.json",),
    "persona_verify": ("verify.json",),
    "link": ("config.json", "model.safetensors", "link.json"),
    "vectors": ("readout.safetensors", "readout.json"),
}


def weights(data: bytes) -> bytes:
    """A checkpoint of one tensor, as bytes: a product's index names its tensors."""
    header = json.dumps({"w": {"dtype": "U8", "shape": [len(data)], "data_offsets": [0, len(data)]}}).encode()
    return len(header).to_bytes(8, "little") + header + data


def _dialogues(inputs: Mapping[str, Path]) -> bytes:
    lines = (inputs["nodes"] / "nodes.jsonl").read_bytes().split(b"\\n")
    return b"\n".join(line for line in lines if line.startswith((b"Assistant:", b"Not:", b"User:")))


@contextlib.contextmanager
def cheap() -> Iterator[None]:
    """Every build of this process runs the cheap actions. (The code behind a rule, which cannot change meanwhile, is
    looked up once.)"""
    real, closure = getattr(amybuild.running, RUNNER), CodeIndex.closure
    setattr(amybuild.running, RUNNER, runner_of(run))

    def known(self: CodeIndex, entry: str) -> dict[str, str]:
        if entry not in _CODE:
            _CODE[entry] = closure(self, entry)
        return dict(_CODE[entry])

    CodeIndex.closure = known  # type: ignore[method-assign]
    try:
        yield
    finally:
        setattr(amybuild.running, RUNNER, real)
        CodeIndex.closure = closure  # type: ignore[method-assign]


def project(root: Path) -> Space:
    """The project of tests/harness.py on a base that no action ever loads."""
    base = root.parent / f"{root.name}-base"
    base.mkdir(parents=True)
    for name, data in BASE.items():
        (base / name).write_bytes(data)
    return Space(root, base)


def spawn(space: Space, *args: str, **env: str) -> subprocess.Popen[str]:
    """`amybuild` with cheap actions in a process of its own."""
    command = [sys.executable, "-m", "tests.engine.fakes", "-C", str(space.root), *args]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **env},
    )


if __name__ == "__main__":
    from amybuild.cli import run as command_line

    with cheap():
        command_line()
