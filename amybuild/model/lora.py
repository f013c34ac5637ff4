"""LoRA factors: attached to a shared base for training, stored in PEFT's format, read as differences of weights."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amybuild.errors import ActionError
from amybuild.model.hooks import decoder_blocks
from amybuild.model.score import decoder_of

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
_PREFIX = "base_model.model."
_LAYER_TYPES = ("Linear", "Conv1D")


@dataclass(frozen=True)
class Factors:
    """One module's low-rank change: delta W = scaling * b @ a, with a [r, in] and b [out, r] in float32."""

    a: Any
    b: Any
    scaling: float

    def delta(self) -> Any:
        """float32 [out, in]."""
        return self.scaling * (self.b @ self.a)


@dataclass(frozen=True)
class Adapter:
    """A task vector in memory: factors by module name (`model.layers.0.self_attn.q_proj`)."""

    factors: Mapping[str, Factors]
    config: Mapping[str, Any]

    def deltas(self, model: Any) -> Iterator[tuple[str, Any, Any]]:
        """(weight name, the model's parameter, delta W float32 in its layout), in the order of names."""
        for name, factors in self.factors.items():
            weight, delta = _weight(model, name), factors.delta()
            yield f"{name}.weight", weight, delta.T if type(model.get_submodule(name)).__name__ == "Conv1D" else delta


def scaling_of(rank: int, alpha: float, rslora: bool) -> float:
    """LoRA's factor in front of B @ A: alpha / r (arXiv 2106.09685), alpha / sqrt(r) with rsLoRA (2312.03732)."""
    return alpha / math.sqrt(rank) if rslora else alpha / rank


def linear_modules(model: Any, top: int = 0) -> list[str]:
    """Names of all linear layers of the decoder, so of everything that reads text except the head; sorted.

    top: only those of so many of the last blocks; 0 = all.
    """
    where = list(decoder_blocks(model))[-top:] if top else [decoder_of(model)]
    inside = {id(module) for one in where for module in one.modules()}
    names = [
        name
        for name, module in model.named_modules()
        if id(module) in inside and type(module).__name__ in _LAYER_TYPES and _has_matrix(module)
    ]
    if not names:
        raise ActionError("no linear layers to train in this base", remedy="use an unquantised decoder model")
    return sorted(names)


def _has_matrix(module: Any) -> bool:
    return bool(module.weight.dim() == 2 and module.weight.is_floating_point())


def adapter_config(model: Any, names: list[str], rank: int, alpha: float, rslora: bool) -> dict[str, Any]:
    """PEFT's adapter_config.json for these modules; the fields that PEFT needs to load it, nothing of this machine."""
    last = sorted({name.rpartition(".")[2] for name in names})
    linear = [name for name, module in model.named_modules() if type(module).__name__ in _LAYER_TYPES]
    by_suffix = sorted(name for name in linear if name.rpartition(".")[2] in last) == sorted(names)
    transposed = any(type(model.get_submodule(name)).__name__ == "Conv1D" for name in names)
    return {
        "base_model_name_or_path": None,
        "bias": "none",
        "fan_in_fan_out": transposed,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": rank,
        "target_modules": last if by_suffix else sorted(names),
        "task_type": "CAUSAL_LM",
        "use_dora": False,
        "use_rslora": rslora,
    }


@contextmanager
def attached(
    model: Any, *, rank: int, alpha: float, rslora: bool, seed: int, top: int = 0
) -> Iterator[dict[str, tuple[Any, Any]]]:
    """LoRA on every linear layer of the decoder, or of its `top` last blocks, while the with-block runs:
    {module: (A, B)} float32 parameters.

    A is drawn as PEFT does (kaiming uniform, so within 1/sqrt(in)) from a generator keyed by `seed` and the module's
    name, B is zero: the model starts as the base. The base's modules stay, and call something else meanwhile.
    """
    import torch

    from amybuild.model.lowrank import beside

    names = linear_modules(model, top)
    scaling, pairs = scaling_of(rank, alpha, rslora), {}
    try:
        for name in names:
            module = model.get_submodule(name)
            weight, across = module.weight, type(module).__name__ == "Conv1D"
            out, width = weight.shape[::-1] if across else weight.shape
            a = torch.nn.Parameter(initial_a(rank, width, seed, name).to(weight.device))
            b = torch.nn.Parameter(torch.zeros(out, rank, device=weight.device))
            module.forward = beside(module, a, b, scaling)
            pairs[name] = (a, b)
        yield pairs
    finally:
        for name in pairs:
            del model.get_submodule(name).forward


def by_name(pairs: Mapping[str, tuple[Any, Any]]) -> dict[str, Any]:
    """The factors by the names they are stored under, module by module in the order of their names."""
    names = ("lora_A", "lora_B")
    return {f"{module}.{n}": f for module, pair in sorted(pairs.items()) for n, f in zip(names, pair, strict=True)}


def initial_a(rank: int, width: int, seed: int, name: str) -> Any:
    """float32 [rank, width], uniform within 1/sqrt(width); a function of seed and module name only."""
    import torch

    key = hashlib.sha256(f"{seed}\0{name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(key[:8], "big") >> 1)
    return (torch.rand(rank, width, generator=generator) * 2 - 1) / math.sqrt(width)


def write_adapter(folder: Path, pairs: Mapping[str, tuple[Any, Any]], config: Mapping[str, Any]) -> None:
    """Write factors and configuration in PEFT's adapter format; the same values give the same bytes."""
    import torch
    from safetensors.torch import save_file

    tensors = {}
    for name, (a, b) in sorted(pairs.items()):
        tensors[f"{_PREFIX}{name}.lora_A.weight"] = a.detach().to("cpu", torch.float32).contiguous().clone()
        tensors[f"{_PREFIX}{name}.lora_B.weight"] = b.detach().to("cpu", torch.float32).contiguous().clone()
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def read_adapter(folder: Path) -> Adapter:
    """The factors of a PEFT adapter folder. ActionError for what is not plain LoRA, naming it."""
    import torch
    from safetensors.torch import load_file

    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        tensors = load_file(folder / WEIGHTS)
    except (OSError, ValueError) as error:
        raise ActionError(
            f"no readable adapter here ({type(error).__name__})",
            where=folder.name,
            remedy=f"it needs {CONFIG}, {WEIGHTS}",
        ) from error
    for key in ("use_dora", "modules_to_save"):
        if config.get(key):
            raise ActionError(f"{key} is not supported", where=f"{folder.name}/{CONFIG}", remedy="use plain LoRA")
    rslora, alphas = bool(config.get("use_rslora")), config.get("alpha_pattern") or {}
    factors: dict[str, Factors] = {}
    for key in sorted(tensors):
        name, dot, rest = key.removeprefix(_PREFIX).partition(".lora_A.weight")
        if not dot or rest:
            if not key.endswith(".lora_B.weight"):
                raise ActionError("not a LoRA factor", where=key, remedy="use plain LoRA without biases")
            continue
        b = tensors.get(f"{_PREFIX}{name}.lora_B.weight")
        if b is None or b.shape[1] != tensors[key].shape[0]:
            raise ActionError("no lora_B of the same rank beside it", where=key, remedy="train this vector again")
        alpha = float(next((alphas[p] for p in alphas if re.match(rf"(.*\.)?({p})$", name)), config["lora_alpha"]))
        scaling = scaling_of(int(b.shape[1]), alpha, rslora)
        factors[name] = Factors(tensors[key].to(torch.float32), b.to(torch.float32), scaling)
    return Adapter(factors, config)


def _weight(model: Any, name: str) -> Any:
    try:
        return model.get_submodule(name).weight
    except AttributeError:
        raise ActionError(
            "the base has no such layer", where=name, remedy="the vector belongs to another base: build it again"
        ) from None
