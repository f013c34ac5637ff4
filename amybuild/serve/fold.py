"""Steering folded into a checkpoint's own biases: exact where an architecture can hold it, refused where it cannot.

What the bias of the last projection of a block's MLP adds is added to the block's output, at every position: that is a
steering vector. A stock server needs no plugin for it, and cached keys and values stay right.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from amybuild.errors import ActionError, InputError
from amybuild.link.tensors import INDEX, SINGLE, Shard, read_shards
from amybuild.serve.files import MANIFEST, VECTORS, Array, model_config
from amybuild.serve.steering import Direction, total

ACCOUNT = "steering.json"
TOLERANCE = 1e-4  # nats of a log probability, in float32, after a reload
EXTRA = "model-steering.safetensors"
_COPIED = ("tokenizer", "special_tokens", "added_tokens", "vocab", "merges", "chat_template", "generation_config")
_GATED = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
_REMEDY = (
    "steer at run time (`amybuild chat --steer`, or vLLM with the plugin), or `amybuild export gguf` for llama.cpp"
)


@dataclass(frozen=True)
class Fold:
    """How checkpoints of one `model_type` hold a vector.

    `block`: the prefix of a block's tensors. `bias`: the tensor of a block that takes the vector. `with_bias`: the
    projections that all have a bias once one has (`switch` says so in config.json; those that lack one get zeros).
    `becomes`: the model type and class it is saved as, where its own has no such bias. `divisor`: the key of a factor
    on what the MLP adds. `unless`: what in config.json makes it inexact.
    """

    block: str
    bias: str
    with_bias: tuple[str, ...] = ()
    switch: Mapping[str, Any] = field(default_factory=dict)
    becomes: tuple[str, str] | None = None
    divisor: str | None = None
    unless: Callable[[Mapping[str, Any]], bool] = lambda config: False


def _slides(config: Mapping[str, Any]) -> bool:
    """Whether any attention is windowed: Llama has none to become."""
    if config.get("model_type") == "qwen2":
        return bool(config.get("use_sliding_window")) or "sliding_attention" in (config.get("layer_types") or ())
    return config.get("sliding_window") is not None


_LLAMA = ("llama", "LlamaForCausalLM")
_ALL_BIASES = {"mlp_bias": True, "attention_bias": True}
_DOWN = "mlp.down_proj.bias"
FOLDS: Mapping[str, Fold] = {
    "llama": Fold("model.layers.", _DOWN, _GATED, {"mlp_bias": True}),
    "smollm3": Fold("model.layers.", _DOWN, _GATED, {"mlp_bias": True}),
    "granite": Fold("model.layers.", _DOWN, _GATED, {"mlp_bias": True}, divisor="residual_multiplier"),
    "qwen2": Fold("model.layers.", _DOWN, (*_GATED, "self_attn.o_proj"), _ALL_BIASES, _LLAMA, unless=_slides),
    "mistral": Fold("model.layers.", _DOWN, _GATED, {"mlp_bias": True}, _LLAMA, unless=_slides),
    "gpt2": Fold("transformer.h.", "mlp.c_proj.bias"),
    "gpt_neox": Fold("gpt_neox.layers.", "mlp.dense_4h_to_h.bias"),
    "opt": Fold("model.decoder.layers.", "fc2.bias", unless=lambda c: c.get("do_layer_norm_before") is False),
    "phi": Fold("model.layers.", "mlp.fc2.bias"),
}


def fold(product: Path, out: Path, directions: Iterable[Direction], strengths: Mapping[str, float]) -> float:
    """Write `product` to the new folder `out` with the directions in its biases (at their own unit); the greatest
    difference in log probability between it, reloaded, and the steered original.

    `strengths` only enter the account. InputError for an architecture that cannot hold them; ActionError when the
    reloaded checkpoint differs by more than `TOLERANCE`, and then nothing is left behind.
    """
    config = model_config(product)
    row = fold_of(config, str(product))
    if out.exists():
        raise InputError("is there already", where=str(out), remedy="name a new folder")
    steered = list(directions)
    steps = total(steered)
    beside = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        beside.mkdir(parents=True)
        _write(product, beside, config, row, steps)
        account = {"format_version": 1, "folded": dict(strengths), "layers": sorted(steps), "from": _build_of(product)}
        (beside / ACCOUNT).write_text(json.dumps(account, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        worst = difference(product, beside, steered)
        if not worst <= TOLERANCE:
            raise ActionError(
                f"the folded checkpoint differs from the steered one by {worst:.2g} nats",
                where=str(out),
                remedy=_REMEDY,
            )
        os.replace(beside, out)
    except OSError as error:
        raise ActionError(f"cannot be written: {error.strerror}", where=str(out)) from None
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return worst


def fold_of(config: Mapping[str, Any], where: str) -> Fold:
    """The row of the table for a config.json, `InputError` with the alternatives where there is none."""
    kind = config.get("model_type")
    row = FOLDS.get(str(kind))
    if row is None:
        known = ", ".join(FOLDS)
        raise InputError(
            f"'{kind}' cannot hold a steering vector exactly (known: {known})", where=where, remedy=_REMEDY
        )
    if row.unless(config):
        raise InputError(f"this '{kind}' cannot hold a steering vector exactly", where=where, remedy=_REMEDY)
    return row


def _write(product: Path, out: Path, config: Mapping[str, Any], row: Fold, steps: Mapping[int, Array]) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    shards = read_shards(product, "checkpoint", "name the folder of a built persona")
    weights = {stored.name: (shard, stored) for shard in shards for stored in shard.tensors}
    depth = config.get("num_hidden_layers", config.get("n_layer"))
    if not isinstance(depth, int) or max(steps) >= depth:
        raise InputError(f"no block {max(steps)} in a model of {depth}", where=str(product))
    factor = float(config[row.divisor]) if row.divisor else 1.0
    new: dict[str, Any] = {}
    for layer in range(depth):
        for part in row.with_bias:
            name = f"{row.block}{layer}.{part}"
            if f"{name}.bias" not in weights:
                if f"{name}.weight" not in weights:
                    raise ActionError(f"no tensor '{name}.weight'", where=str(product), remedy=_REMEDY)
                new[f"{name}.bias"] = torch.zeros(weights[f"{name}.weight"][1].shape[0])
        if layer in steps:
            bias = f"{row.block}{layer}.{row.bias}"
            if bias not in new:
                new[bias] = _tensor(weights, bias, str(product))
            new[bias] = new[bias].float() + torch.tensor(steps[layer]) / factor
    weight_map: dict[str, str] = {}
    for shard in shards:
        name = "model-base.safetensors" if shard.path.name == SINGLE else shard.path.name
        kept = [stored.name for stored in shard.tensors if stored.name not in new]
        if len(kept) == len(shard.tensors):
            shutil.copyfile(shard.path, out / name)
        else:  # an index cannot say which of two tensors of one name counts
            tensors = load_file(shard.path)
            save_file({one: tensors[one] for one in kept}, out / name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(kept, name)
    save_file(new, out / EXTRA, metadata={"format": "pt"})
    weight_map |= dict.fromkeys(new, EXTRA)
    size = sum((out / name).stat().st_size for name in set(weight_map.values()))
    index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(weight_map.items()))}
    (out / INDEX).write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
    (out / "config.json").write_text(json.dumps(_config(config, row), indent=2, sort_keys=True) + "\n")
    for path in product.iterdir():
        if path.is_file() and (path.name.startswith(_COPIED) or path.name in (VECTORS, MANIFEST)):
            shutil.copyfile(path, out / path.name)


def _tensor(weights: Mapping[str, tuple[Shard, Any]], name: str, where: str) -> Any:
    from safetensors import safe_open

    if name not in weights:
        raise ActionError(f"no tensor '{name}'", where=where, remedy=_REMEDY)
    with safe_open(weights[name][0].path, "pt") as file:
        return file.get_tensor(name)


def _config(config: Mapping[str, Any], row: Fold) -> dict[str, Any]:
    found = {**config, **row.switch}
    if row.becomes:
        found |= {"model_type": row.becomes[0], "architectures": [row.becomes[1]]}
        for key in ("use_sliding_window", "sliding_window", "max_window_layers", "layer_types"):
            found.pop(key, None)
    return found


def _build_of(product: Path) -> str | None:
    try:
        return str(json.loads((product / "persona.json").read_bytes())["build"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def difference(product: Path, folded: Path, directions: Iterable[Direction]) -> float:
    """The greatest difference of log probabilities over fixed token sequences, both loaded in float32: `product` with
    the directions as hooks, `folded` as it is."""
    import torch

    from amybuild.model.load import load_base
    from amybuild.serve.reader import steer

    found = []
    for path, how in ((product, list(directions)), (folded, [])):
        with load_base(path, keep=False) as loaded, steer(loaded.model, how), torch.no_grad():
            size = loaded.model.get_input_embeddings().num_embeddings
            tokens = torch.arange(4 * 24).reshape(4, 24) * 7919 % size
            found.append(loaded.model(tokens).logits.log_softmax(-1))
    return float((found[0] - found[1]).abs().max())
