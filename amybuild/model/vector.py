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
from amybuild.model.load import quiet
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
    """A task vector stored whole: tuned weights, or with `difference` what they differ by, by the base's names.

    A weight that no difference names does not change.
    """

    files: tuple[Path, ...]
    difference: bool

    def deltas(self, model: Any) -> Iterator[tuple[str, Any, Any]]:
        """Stored names are not always the model's: transformers lays the tensors out, as it did the base's."""
        tuned, absent = self._laid_out(model)
        other = dict(tuned.named_parameters())
        for name, weight in model.named_parameters():
            if name in absent:
                continue
            value = other[name].detach().to(weight.device)
            yield name, weight, value if self.difference else value - weight.detach().float()

    def _laid_out(self, model: Any) -> tuple[Any, set[str]]:
        """Its tensors as a float32 model like `model` (differences too: a layout moves values and changes none), and
        the names of the weights that it does not have."""
        import torch
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        where, remedy = self.files[0].parent.name, "it belongs to another base, or is not whole: build it again"
        try:
            tensors = {name: value for path in self.files for name, value in load_file(path).items()}
            with quiet():
                found, told = type(model).from_pretrained(
                    None,
                    config=model.config,
                    state_dict=tensors,
                    dtype=torch.float32,
                    output_loading_info=True,
                    trust_remote_code=False,
                )
        except (OSError, SafetensorError, RuntimeError) as error:
            what = f"the vector does not fit the base ({type(error).__name__})"
            raise ActionError(what, where=where, remedy=remedy) from error
        absent = set(told["missing_keys"])
        odd = sorted({*told["unexpected_keys"], *(() if self.difference else absent)})
        if odd:
            raise ActionError("only one of base and vector has this tensor", where=odd[0], remedy=remedy)
        return found, absent


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

    `scale`: `{"match": glob, "factor": number}` by parameter name; the first that matches counts, as in the link.
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


def _same_shape(name: str, weight: Any, other: Any) -> None:
    if other.shape != weight.shape:
        raise ActionError(
            f"the vector has {list(other.shape)}, the base {list(weight.shape)}",
            where=name,
            remedy="it was trained on another base: build it again",
        )
