"""Small checkpoints, fine-tunes and adapters as files, written with numpy alone: what the linker's tests link."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

KINDS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "F8_E4M3": "u1"}
HIDDEN, INNER, LAYERS, VOCABULARY = 24, 40, 3, 50
SHAPES: dict[str, tuple[int, ...]] = {
    "model.embed_tokens.weight": (VOCABULARY, HIDDEN),
    **{
        f"model.layers.{layer}.{name}": shape
        for layer in range(LAYERS)
        for name, shape in {
            "input_layernorm.weight": (HIDDEN,),
            "mlp.down_proj.weight": (HIDDEN, INNER),
            "mlp.up_proj.weight": (INNER, HIDDEN),
            "self_attn.q_proj.weight": (HIDDEN, HIDDEN),
        }.items()
    },
    "model.norm.weight": (HIDDEN,),
}
MATRICES = [name for name, shape in SHAPES.items() if len(shape) == 2 and ".layers." in name]
Tensors = Mapping[str, tuple[str, NDArray[Any]]]  # name -> (dtype code, stored values)


def stored(values: NDArray[Any], code: str) -> NDArray[Any]:
    """Values rounded to a dtype (nearest, ties to even), bfloat16 as its bits."""
    if code != "BF16":
        return np.asarray(values).astype(KINDS[code])
    exact = np.asarray(values, np.float64)
    near = exact.astype(np.float32)  # to odd, so that the second rounding is the only one
    off = (near.astype(np.float64) != exact) & (near.view(np.uint32) & 1 == 0)
    away = np.abs(near.astype(np.float64)) < np.abs(exact)
    bits = np.where(off, near.view(np.uint32) + np.where(away, 1, -1), near.view(np.uint32)).astype(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")


def loaded(code: str, values: NDArray[Any]) -> NDArray[np.float64]:
    """Stored values as float64."""
    if code == "BF16":
        return (values.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return values.astype(np.float64)


def write_tensors(path: Path, tensors: Tensors, metadata: Mapping[str, str] | None = None) -> None:
    header: dict[str, Any] = {"__metadata__": dict(metadata or {"format": "pt"})}
    end = 0
    for name, (code, values) in tensors.items():
        start, end = end, end + values.nbytes
        header[name] = {"dtype": code, "shape": list(values.shape), "data_offsets": [start, end]}
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    path.write_bytes(len(head).to_bytes(8, "little") + head + b"".join(v.tobytes() for _, v in tensors.values()))


def read_tensors(path: Path) -> dict[str, tuple[str, NDArray[Any]]]:
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    found = {}
    for name, entry in json.loads(data[8:start]).items():
        if name != "__metadata__":
            first, last = (start + offset for offset in entry["data_offsets"])
            values = np.frombuffer(data[first:last], KINDS[entry["dtype"]]).reshape(entry["shape"])
            found[name] = (entry["dtype"], values)
    return found


def write_folder(folder: Path, tensors: Tensors, shards: int = 1) -> Path:
    """A Hugging Face folder: config.json, the weights in one file or in several with an index."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"num_hidden_layers": LAYERS}))
    if shards == 1:
        write_tensors(folder / "model.safetensors", tensors)
        return folder
    weight_map = {}
    for number in range(shards):
        file = f"model-{number + 1:05}-of-{shards:05}.safetensors"
        part = {name: tensors[name] for name in list(tensors)[number::shards]}
        write_tensors(folder / file, part)
        weight_map |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def base_tensors(code: str = "BF16", seed: int = 0) -> dict[str, tuple[str, NDArray[Any]]]:
    rng = np.random.default_rng(seed)
    tensors = {name: (code, stored(rng.normal(0, 0.05, shape), code)) for name, shape in SHAPES.items()}
    tensors["model.rotary.steps"] = ("I64", np.arange(8, dtype="<i8"))
    return tensors


def tuned_tensors(base: Tensors, seed: int, size: float = 4e-3) -> dict[str, tuple[str, NDArray[Any]]]:
    """The base with noise on every float weight, rounded to its dtype."""
    rng = np.random.default_rng(1000 + seed)
    return {
        name: (
            code,
            values if code == "I64" else stored(loaded(code, values) + rng.normal(0, size, values.shape), code),
        )
        for name, (code, values) in base.items()
    }


def write_adapter(
    folder: Path, seed: int, rank: int = 4, size: float = 0.05, modules: Sequence[str] = (), **config: Any
) -> Path:
    """A random PEFT adapter on the matrices of all layers, alpha = 2 * rank."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(2000 + seed)
    tensors = {}
    for name in modules or MATRICES:
        out, width = SHAPES[name]
        key = f"base_model.model.{name.removesuffix('.weight')}"
        tensors[f"{key}.lora_A.weight"] = ("F32", rng.normal(0, size, (rank, width)).astype("<f4"))
        tensors[f"{key}.lora_B.weight"] = ("F32", rng.normal(0, size, (out, rank)).astype("<f4"))
    write_tensors(folder / "adapter_model.safetensors", tensors)
    settings = {"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, "target_modules": "all-linear", **config}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    return folder
