"""Virtual task vectors: per weight a low-rank difference to the base, read from a PEFT adapter, never stored dense."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amybuild.errors import ActionError

if TYPE_CHECKING:
    from torch import Tensor

_PREFIX = "base_model.model."
_KEY = re.compile(r"^(?P<module>.+)\.lora_(?P<side>[AB])(?:\.default)?\.weight$")
_EXTRA_CONTENT = {  # adapter_config fields that mean "more than B @ A"
    "use_dora": "DoRA rescales whole weights",
    "lora_bias": "its biases are no low-rank difference",
    "modules_to_save": "it holds whole modules",
    "trainable_token_indices": "it holds single embedding rows",
    "layer_replication": "it changes the number of layers",
    "use_qalora": "QALoRA pools its inputs",
    "use_bdlora": "its factors are block-diagonal",
    "alora_invocation_tokens": "it acts on some tokens only",
    "arrow_config": "it routes between adapters",
    "velora_config": "its factors are projected",
    "monteclora_config": "it samples its factors",
    "kasa_config": "it carries singular values of its own",
}
_INIT_KEEPS_BASE = (True, False, None, "gaussian", "eva", "orthogonal")


@dataclass(frozen=True)
class LowRank:
    """One weight's difference, scale * (left @ right): left [out, r], right [r, in], both float32."""

    left: Tensor
    right: Tensor
    scale: float = 1.0

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in), the shape of the weight it belongs to."""
        return int(self.left.shape[0]), int(self.right.shape[1])

    def rows(self, start: int, stop: int) -> Tensor:
        """The dense rows [start, stop) of the difference, float32 [stop - start, in]."""
        dense: Tensor = (self.left[start:stop] @ self.right).mul_(self.scale)
        return dense

    def dense(self) -> Tensor:
        """The whole difference, float32 [out, in]."""
        return self.rows(0, self.shape[0])

    def __mul__(self, factor: float) -> LowRank:
        return LowRank(self.left, self.right, self.scale * factor)

    __rmul__ = __mul__

    def __add__(self, other: LowRank) -> LowRank:
        """The exact sum by concatenation (ranks add up); scales go into `left`."""
        import torch

        left = torch.cat([self.left * self.scale, other.left * other.scale], dim=1)
        return LowRank(left, torch.cat([self.right, other.right], dim=0))


@dataclass(frozen=True)
class TaskVector:
    """tau = W_tuned - W_base (arXiv 2212.04089) by weight name; weights that are not named do not change.

    A value with algebra: `2.0 * a`, `-a`, `a + b`, `b - a + c`. Sums are exact (factors are concatenated) and keep the
    union of the weights.
    """

    name: str
    deltas: Mapping[str, LowRank]

    def __mul__(self, factor: float) -> TaskVector:
        return TaskVector(self.name, {weight: delta * factor for weight, delta in self.deltas.items()})

    __rmul__ = __mul__

    def __neg__(self) -> TaskVector:
        return self * -1.0

    def __add__(self, other: TaskVector) -> TaskVector:
        total = dict(self.deltas)
        for weight, delta in other.deltas.items():
            total[weight] = total[weight] + delta if weight in total else delta
        return TaskVector(self.name, {weight: total[weight] for weight in sorted(total)})

    def __sub__(self, other: TaskVector) -> TaskVector:
        return self + -other

    def bind(self, shapes: Mapping[str, tuple[int, ...]]) -> TaskVector:
        """The same vector under the names its weights have in the base; `shapes` = the base's tensors.

        A stored name may lack or have leading components (checkpoints are saved with and without their head): such a
        name is taken when exactly one fits. Raises `ActionError` naming a tensor that is missing, ambiguous or of
        another shape.
        """
        where = f"task vector {self.name}"
        bound: dict[str, LowRank] = {}
        for weight, delta in self.deltas.items():
            stored = _stored_name(weight, shapes, where)
            if stored in bound:
                raise ActionError(f"two of its weights are the base's '{stored}'", where=where)
            if tuple(shapes[stored]) != delta.shape:
                raise ActionError(
                    f"'{stored}' is {list(shapes[stored])} in the base, {list(delta.shape)} in the vector",
                    where=where,
                    remedy="the vector was trained on another base: train it again on this one",
                )
            bound[stored] = delta
        return TaskVector(self.name, bound)


def _stored_name(weight: str, names: Iterable[str], where: str) -> str:
    known = set(names)
    if weight in known:
        return weight
    parts = weight.split(".")
    shorter = [".".join(parts[i:]) for i in range(1, len(parts) - 1)]
    found = [name for name in shorter if name in known][:1] or sorted(n for n in known if n.endswith("." + weight))
    if len(found) == 1:
        return found[0]
    if found:
        raise ActionError(f"'{weight}' could be any of {', '.join(found[:4])} in the base", where=where)
    raise ActionError(
        f"the base has no tensor '{weight}'",
        where=where,
        remedy="the vector was trained on another base, or on a weight tied to one that is stored under another name",
    )


def read_vector(folder: Path, name: str) -> TaskVector:
    """Read a PEFT LoRA adapter (`adapter_config.json`, `adapter_model.safetensors`) as a task vector.

    delta = lora_alpha / r * B @ A, or / sqrt(r) with `use_rslora` (arXiv 2312.03732); per-module ranks and alphas
    (`rank_pattern`, `alpha_pattern`) and `fan_in_fan_out` are honoured. What is more than B @ A (DoRA, biases, whole
    modules, embedding adapters …) raises `ActionError`: linking a part of an adapter would give another behaviour.
    """
    where = f"task vector {name}"
    config = _read_config(folder, where)
    factors = _read_factors(folder, where)
    deltas: dict[str, LowRank] = {}
    for module in sorted(factors):
        sides = factors[module]
        if set(sides) != {"A", "B"}:
            raise ActionError(f"'{module}' has only one of its two factors", where=where)
        a, b = sides["A"], sides["B"]
        if a.dim() != 2 or b.dim() != 2 or a.shape[0] != b.shape[1] or a.shape[0] == 0:
            raise ActionError(
                f"the factors of '{module}' are {list(a.shape)} and {list(b.shape)}: not [r, in] and [out, r]",
                where=where,
                remedy="only adapters of linear layers can be linked",
            )
        rank = int(a.shape[0])
        alpha = _number(_for_module(config.get("alpha_pattern"), module, config.get("lora_alpha", rank)), where)
        scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
        left, right = (a.T, b.T) if config.get("fan_in_fan_out") else (b, a)
        deltas[f"{module}.weight"] = LowRank(left.contiguous(), right.contiguous(), scale)
    if not deltas:
        raise ActionError("the adapter holds no factors", where=where, remedy="train it again")
    return TaskVector(name, deltas)


def _read_config(folder: Path, where: str) -> dict[str, Any]:
    try:
        config = json.loads((folder / "adapter_config.json").read_bytes())
    except (OSError, ValueError):
        config = None
    if not isinstance(config, dict):
        raise ActionError("adapter_config.json is missing or unreadable", where=where, remedy="train it again")
    kind = config.get("peft_type", "LORA")
    refused = f"it is a {kind} adapter, not LORA" if kind != "LORA" else None
    if config.get("bias", "none") != "none":
        refused = f"bias = '{config['bias']}': its biases are no low-rank difference"
    for field, why in _EXTRA_CONTENT.items():
        if config.get(field):
            refused = f"{field}: {why}"
    if config.get("init_lora_weights", True) not in _INIT_KEEPS_BASE:
        refused = f"init_lora_weights = '{config['init_lora_weights']}' changes the base's own weights"
    if refused:
        raise ActionError(
            f"cannot link this adapter: {refused}", where=where, remedy="train or convert it to a plain LoRA adapter"
        )
    return config


def _read_factors(folder: Path, where: str) -> dict[str, dict[str, Tensor]]:
    import torch
    from safetensors import SafetensorError, safe_open

    factors: dict[str, dict[str, Tensor]] = {}
    try:
        with safe_open(folder / "adapter_model.safetensors", framework="pt") as file:
            for key in sorted(file.keys()):
                match = _KEY.match(key)
                if match is None:
                    raise ActionError(f"cannot link '{key}': it is no LoRA factor of a linear layer", where=where)
                value = file.get_tensor(key)
                if not value.is_floating_point() or not bool(torch.isfinite(value).all()):
                    raise ActionError(f"'{key}' holds values that are not finite numbers", where=where)
                module = match["module"].removeprefix(_PREFIX)
                factors.setdefault(module, {})[match["side"]] = value.to(torch.float32)
    except (OSError, SafetensorError):
        raise ActionError(
            "adapter_model.safetensors is missing or unreadable", where=where, remedy="train it again"
        ) from None
    return factors


def _for_module(pattern: Any, module: str, default: Any) -> Any:
    # the first pattern that ends the module's name wins, as in PEFT's get_pattern_key
    for key, value in (pattern or {}).items():
        if re.match(rf"(.*\.)?({key})$", module):
            return value
    return default


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ActionError("lora_alpha in adapter_config.json is not a number", where=where)
    return float(value)
