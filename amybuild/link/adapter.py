"""One merged LoRA adapter out of a link: differences cut to a rank, in PEFT's format, with what they miss reported.

A weight that is no 2-D weight of a linear layer (an embedding, a norm, a bias, a stack of experts) has no place in a
LoRA: it is left out, and the report says how large its difference was.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from amybuild.errors import ActionError, InputError
from amybuild.link.delta import Delta, LowRank
from amybuild.link.finite import REMEDY
from amybuild.link.truncate import Factors, missing, norm, truncate

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
_KEY = "base_model.model.{module}.lora_{side}.weight"  # PEFT's, and the only one that vLLM reads
_EMBEDDING = re.compile(r"embed|^wte$|^wpe$")  # the last component of a module's name
_SIZES = {"F32": 4, "F16": 2, "BF16": 2}


@dataclass(frozen=True)
class Fit:
    """One weight in the adapter: the Frobenius norms of its difference and of what the written factors miss of it."""

    norm: float
    missing: float

    @property
    def residual(self) -> float:
        """missing / norm; 0 for a zero difference."""
        return self.missing / self.norm if self.norm else 0.0


@dataclass(frozen=True)
class AdapterReport:
    """What was written: the rank, a fit per weight, and the norms of the differences that could not be in it."""

    rank: int
    fits: Mapping[str, Fit]
    left_out: Mapping[str, float]

    @property
    def residual(self) -> float:
        """Over all weights of the adapter together, relative."""
        return Fit(
            _length(fit.norm for fit in self.fits.values()), _length(f.missing for f in self.fits.values())
        ).residual

    @property
    def left_out_share(self) -> float:
        """The norm of all that is left out, over the norm of the whole difference."""
        outside = _length(self.left_out.values())
        return Fit(_length([outside, *(fit.norm for fit in self.fits.values())]), outside).residual

    def record(self) -> dict[str, Any]:
        """For the product's manifest."""
        return {
            "rank": self.rank,
            "residual": self.residual,
            "residuals": {name: fit.residual for name, fit in self.fits.items()},
            "left_out": dict(self.left_out),
            "left_out_share": self.left_out_share,
        }


def can_hold(name: str, shape: tuple[int, ...]) -> bool:
    """Whether a weight looks like a linear layer's: 2-D, `<module>.weight`, and the module no embedding by its name."""
    module, _, kind = name.rpartition(".")
    return len(shape) == 2 and kind == "weight" and not _EMBEDDING.search(module.rpartition(".")[2])


def write_adapter(
    folder: Path,
    deltas: Mapping[str, Delta],
    rank: int | None = None,
    *,
    dtype: str = "F32",
    linear: Collection[str] | None = None,
    fan_in_fan_out: bool = False,
    base: str | None = None,
) -> AdapterReport:
    """Write `adapter_config.json` and `adapter_model.safetensors` into an existing folder.

    `deltas`: per weight, under the model's own names, what is added to the base. `rank`: of every module (vLLM's
    `--max-lora-rank` must not be below it); None: the smallest that loses nothing, for low-rank differences only.
    Smaller ranks are padded with zeros, so that no `rank_pattern` is needed. B carries the size and lora_alpha = r, so
    that the scaling is 1. `dtype`: "F32", "F16" or "BF16", safetensors' names; residuals count its rounding.
    `linear`: the weights of linear layers, where the caller knows the model; by default `can_hold` decides by name.
    `fan_in_fan_out`: weights are stored [in, out] (GPT-2's Conv1D). `base`: PEFT's base_model_name_or_path.

    The same differences give the same bytes (on one machine: LAPACK's last bits differ between processors). Memory: one
    weight at a time. Raises `InputError` for a rank or dtype that is none, `ActionError` when no weight can be held or
    one holds values that are not finite.
    """
    if dtype not in _SIZES:
        raise InputError(f"dtype {dtype!r} of an adapter", where="[link] adapter", remedy="one of F32, F16, BF16")
    held = sorted(
        name for name, delta in deltas.items() if can_hold(name, delta.shape) and (linear is None or name in linear)
    )
    if not held:
        raise ActionError(
            "none of the linked weights fits into a LoRA adapter",
            where="link",
            remedy="write the full checkpoint: only linear layers' weights can be in an adapter",
        )
    rank = _enough([deltas[name] for name in held]) if rank is None else rank
    if rank < 1:
        raise InputError(f"rank {rank} of an adapter", where="[link] adapter", remedy="a whole number from 1 up")
    modules = {name: name.removesuffix(".weight") for name in held}
    fits: dict[str, Fit] = {}
    with (folder / WEIGHTS).open("wb") as file:
        file.write(_header({modules[name]: deltas[name].shape for name in held}, rank, dtype, fan_in_fan_out))
        for name in held:
            size = _finite_norm(name, deltas[name])
            factors = truncate(deltas[name], rank)
            written = Factors(rounded(factors.b, dtype), rounded(factors.a, dtype))
            fits[name] = Fit(size, missing(deltas[name], written))
            a, b = (written.b.T, written.a.T) if fan_in_fan_out else (written.a, written.b)
            _write(file, a, dtype)
            _write(file, b, dtype)
    config = _config(sorted(modules.values()), rank, fan_in_fan_out, base)
    (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    left_out = {name: _finite_norm(name, delta) for name, delta in sorted(deltas.items()) if name not in modules}
    return AdapterReport(rank, fits, left_out)


def rounded(values: Any, dtype: str) -> Any:
    """The nearest values of that dtype (ties to even), as float64."""
    single = np.asarray(values, np.float32)
    if dtype == "BF16":
        return ((_bfloat16(single).astype(np.uint32)) << 16).view(np.float32).astype(np.float64)
    return single.astype(np.float16 if dtype == "F16" else np.float32).astype(np.float64)


def _bfloat16(single: Any) -> Any:
    # the high half of a float32, rounded to nearest, ties to even; the values are finite
    bits = single.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def _finite_norm(name: str, delta: Delta) -> float:
    size = norm(delta)
    if not math.isfinite(size):
        raise ActionError(
            f"the merged difference of '{name}' holds values that are not finite numbers",
            where="link",
            remedy=REMEDY,
        )
    return size


def _write(file: BinaryIO, values: Any, dtype: str) -> None:
    single = np.ascontiguousarray(values, np.float32)
    stored = _bfloat16(single).astype("<u2") if dtype == "BF16" else single.astype("<f2" if dtype == "F16" else "<f4")
    file.write(stored.tobytes())


def _header(shapes: Mapping[str, tuple[int, ...]], rank: int, dtype: str, fan_in_fan_out: bool) -> bytes:
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    start = 0
    for module, shape in shapes.items():
        out, width = reversed(shape) if fan_in_fan_out else shape
        for side, extents in (("A", [rank, width]), ("B", [out, rank])):
            stop = start + _SIZES[dtype] * math.prod(extents)
            key = _KEY.format(module=module, side=side)
            entries[key] = {"dtype": dtype, "shape": extents, "data_offsets": [start, stop]}
            start = stop
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _config(modules: list[str], rank: int, fan_in_fan_out: bool, base: str | None) -> dict[str, Any]:
    return {
        "base_model_name_or_path": base,
        "bias": "none",
        "fan_in_fan_out": fan_in_fan_out,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": rank,
        "target_modules": modules,
        "task_type": "CAUSAL_LM",
        "use_dora": False,
        "use_rslora": False,
    }


def _enough(deltas: Collection[Delta]) -> int:
    ranks = [min(*delta.shape, int(delta.left.shape[1])) for delta in deltas if isinstance(delta, LowRank)]
    if len(ranks) < len(deltas):
        raise InputError(
            "the merged difference is not low-rank: no rank holds it exactly",
            where="[link] adapter",
            remedy="give the adapter a rank; the residual will be reported",
        )
    return max(ranks)


def _length(norms: Any) -> float:
    return math.sqrt(math.fsum(value * value for value in norms))
