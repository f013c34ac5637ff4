"""A task vector of any kind, read from its folder, added to a loaded model at a strength and taken off again."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Protocol

from amybuild.errors import ActionError
from amybuild.model.lora import CONFIG, read_adapter

DELTA = "delta.safetensors"
SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"


class Vector(Protocol):
    """What `applied` needs of a task vector."""

    def deltas(self, model: Any) -> Iterator[tuple[str, Any, Any]]:
        """(weight's name, the model's parameter, its float32 difference to the tuned weight), each parameter once."""
        ...


@dataclass(frozen=True)
class Dense:
    """A task vector stored whole: tuned weights, or with `difference` what they differ by, by the base's names."""

    files: tuple[Path, ...]
    difference: bool

    def deltas(self, model: Any) -> Iterator[tuple[str, Any, Any]]:
        """One tensor in memory at a time. Buffers, and the second name of a tied weight, are passed over."""
        import torch
        from safetensors import SafetensorError, safe_open

        parameters = dict(model.named_parameters())
        others = model.state_dict().keys() - parameters.keys()
        for path in self.files:
            try:
                with safe_open(path, framework="pt") as file:
                    for name in sorted(set(file.keys()) - others):
                        if name not in parameters:
                            remedy = "the vector belongs to another base"
                            raise ActionError("the base has no such tensor", where=name, remedy=remedy)
                        weight = parameters[name]
                        value = file.get_tensor(name).to(weight.device, torch.float32)
                        yield name, weight, value if self.difference else _minus(value, weight, name)
            except (OSError, SafetensorError) as error:
                what = f"it cannot be read ({type(error).__name__})"
                raise ActionError(what, where=path.name, remedy="build this vector again") from error


def read_vector(folder: Path) -> Vector:
    """The task vector in an artifact's folder: a PEFT adapter, `delta.safetensors`, or a tuned checkpoint."""
    if (folder / CONFIG).is_file():
        return read_adapter(folder)
    if (folder / DELTA).is_file():
        return Dense((folder / DELTA,), difference=True)
    return Dense(tuple(folder / name for name in weight_files(folder)), difference=False)


def weight_files(folder: Path) -> list[str]:
    """The safetensors files of a Hugging Face checkpoint, by its index if it has one; ActionError without any."""
    if (folder / SINGLE).is_file():
        return [SINGLE]
    try:
        weight_map = json.loads((folder / INDEX).read_bytes())["weight_map"]
        names = sorted({str(name) for name in weight_map.values()})
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        names = []
    missing = [name for name in names if "/" in name or not (folder / name).is_file()]
    if missing or not names:
        what = f"its index names {missing[0]}, which is not here" if missing else f"no {SINGLE} and no index of shards"
        raise ActionError(what, where=folder.name, remedy="give the whole checkpoint, in safetensors")
    return names


@contextmanager
def applied(model: Any, vector: Vector, strength: float, scale: Sequence[Mapping[str, Any]] = ()) -> Iterator[None]:
    """Inside the block the weights are W + strength * factor * delta (added in float32); then the same bits as before.

    `scale`: `{"match": glob, "factor": number}` by weight name; the first that matches counts, as in the link.
    """
    import torch

    saved: list[tuple[Any, Any]] = []
    try:
        for name, weight, delta in vector.deltas(model):
            _same_shape(name, weight, delta)
            factor = strength * next((row["factor"] for row in scale if fnmatchcase(name, row["match"])), 1.0)
            saved.append((weight, weight.detach().clone()))
            with torch.no_grad():
                weight.copy_(weight.float() + factor * delta.to(weight.device))
        yield
    finally:
        with torch.no_grad():
            for weight, before in saved:
                weight.copy_(before)


def _minus(value: Any, weight: Any, name: str) -> Any:
    _same_shape(name, weight, value)
    return value - weight.detach().float()


def _same_shape(name: str, weight: Any, other: Any) -> None:
    if other.shape != weight.shape:
        raise ActionError(
            f"the vector has {list(other.shape)}, the base {list(weight.shape)}",
            where=name,
            remedy="it was trained on another base: build it again",
        )
