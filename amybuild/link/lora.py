"""PEFT adapters as task vectors: factors and scaling read from the folder, what is more than B @ A refused."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np

from amybuild.errors import ActionError
from amybuild.link.delta import F32, LowRank, floats
from amybuild.link.tensors import FLOATS, Weight, read_shard

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
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


def read_adapter(folder: Path, where: str) -> dict[str, LowRank]:
    """The differences of a PEFT LoRA adapter (`adapter_config.json`, `adapter_model.safetensors`) by weight name.

    delta = lora_alpha / r * B @ A, or / sqrt(r) with `use_rslora` (arXiv 2312.03732); per-module ranks and alphas
    (`rank_pattern`, `alpha_pattern`) and `fan_in_fan_out` are honoured. What is more than B @ A (DoRA, biases, whole
    modules, embedding adapters …) raises `ActionError`: linking a part of an adapter would give another behaviour.
    """
    config = _read_config(folder, where)
    factors = _read_factors(folder, where)
    deltas: dict[str, LowRank] = {}
    for module in sorted(factors):
        sides = factors[module]
        if set(sides) != {"A", "B"}:
            raise ActionError(f"'{module}' has only one of its two factors", where=where)
        a, b = sides["A"], sides["B"]
        if a.ndim != 2 or b.ndim != 2 or a.shape[0] != b.shape[1] or a.shape[0] == 0:
            raise ActionError(
                f"the factors of '{module}' are {list(a.shape)} and {list(b.shape)}: not [r, in] and [out, r]",
                where=where,
                remedy="only adapters of linear layers can be linked",
            )
        rank = int(a.shape[0])
        alpha = _number(_for_module(config.get("alpha_pattern"), module, config.get("lora_alpha", rank)), where)
        scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
        left, right = (a.T, b.T) if config.get("fan_in_fan_out") else (b, a)
        deltas[f"{module}.weight"] = LowRank(np.ascontiguousarray(left), np.ascontiguousarray(right), scale)
    if not deltas:
        raise ActionError("the adapter holds no factors", where=where, remedy="train it again")
    return deltas


def _read_config(folder: Path, where: str) -> dict[str, Any]:
    try:
        config = json.loads((folder / CONFIG).read_bytes())
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


def _read_factors(folder: Path, where: str) -> dict[str, dict[str, F32]]:
    factors: dict[str, dict[str, F32]] = {}
    shard = read_shard(folder / WEIGHTS, where, "train it again")
    for stored in sorted(shard.tensors, key=lambda stored: stored.name):
        match = _KEY.match(stored.name)
        if match is None:
            raise ActionError(f"cannot link '{stored.name}': it is no LoRA factor of a linear layer", where=where)
        if stored.code not in FLOATS or len(stored.shape) != 2:
            raise ActionError(
                f"the factor '{stored.name}' is {stored.code} {list(stored.shape)}, not a matrix of float numbers",
                where=where,
                remedy="only adapters of linear layers, not quantised, can be linked",
            )
        value = floats(Weight(shard, stored), 0, stored.shape[0])
        if not np.isfinite(value).all():
            raise ActionError(f"'{stored.name}' holds values that are not finite numbers", where=where)
        module = match["module"].removeprefix(PREFIX)
        factors.setdefault(module, {})[match["side"]] = value
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
