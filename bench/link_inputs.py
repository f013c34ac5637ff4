"""Inputs of the linker's benchmark: models and adapters of a real one's shapes, written deterministically by numpy."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

_BYTES = {"BF16": 2, "F32": 4}
_SPREAD, _LOUD, _LOUDER = 4e-4, 0.1, 5.0  # a fine-tune: N(0, 4e-4), a tenth of the entries five times as large


@dataclass(frozen=True)
class Shape:
    """A Llama: its sizes and what follows from them."""

    hidden: int
    inner: int
    layers: int
    heads: int
    kv_heads: int
    vocab: int
    tied: bool

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """(name, shape) of every stored tensor, in the order of the file."""
        yield "model.embed_tokens.weight", (self.vocab, self.hidden)
        for layer in range(self.layers):
            prefix = f"model.layers.{layer}"
            yield f"{prefix}.input_layernorm.weight", (self.hidden,)
            yield f"{prefix}.post_attention_layernorm.weight", (self.hidden,)
            for name, shape in self.linears():
                yield f"{prefix}.{name}.weight", shape
        yield "model.norm.weight", (self.hidden,)
        if not self.tied:
            yield "lm_head.weight", (self.vocab, self.hidden)

    def linears(self) -> Iterator[tuple[str, tuple[int, int]]]:
        """(name, [out, in]) of one block's linear layers."""
        narrow = self.hidden // self.heads * self.kv_heads
        yield from (("self_attn.q_proj", (self.hidden, self.hidden)), ("self_attn.o_proj", (self.hidden, self.hidden)))
        yield from (("self_attn.k_proj", (narrow, self.hidden)), ("self_attn.v_proj", (narrow, self.hidden)))
        yield from (("mlp.gate_proj", (self.inner, self.hidden)), ("mlp.up_proj", (self.inner, self.hidden)))
        yield "mlp.down_proj", (self.hidden, self.inner)

    def config(self) -> dict[str, Any]:
        """config.json."""
        return {
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "bfloat16",
            "hidden_size": self.hidden, "intermediate_size": self.inner, "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads, "num_key_value_heads": self.kv_heads, "vocab_size": self.vocab,
            "tie_word_embeddings": self.tied, "rms_norm_eps": 1e-5, "max_position_embeddings": 2048,
            "bos_token_id": 0, "eos_token_id": 0, "hidden_act": "silu",
        }  # fmt: skip


SMALL = Shape(hidden=576, inner=1536, layers=30, heads=9, kv_heads=3, vocab=49152, tied=True)  # 134.5M, 272 tensors
EIGHT_BILLION = Shape(hidden=4096, inner=14336, layers=32, heads=32, kv_heads=8, vocab=128256, tied=False)


def to_bf16(values: np.ndarray) -> np.ndarray:
    """float32 -> bfloat16 bits as uint16, to nearest, ties to even."""
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def from_bf16(bits: np.ndarray) -> np.ndarray:
    """bfloat16 bits as uint16 -> float32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def header(tensors: Iterable[tuple[str, tuple[int, ...]]], dtype: str) -> tuple[bytes, int]:
    """A safetensors header (with its length) and how many bytes follow it."""
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in tensors:
        start, end = end, end + math.prod(shape) * _BYTES[dtype]
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, end


def read(path: Path) -> Mapping[str, np.ndarray]:
    """The tensors of a safetensors file as memory maps; bfloat16 comes as uint16."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        entries = json.loads(file.read(length))
    kinds = {"BF16": np.uint16, "F32": np.float32}
    found = {}
    for name, entry in entries.items():
        if name != "__metadata__":
            start, shape = 8 + length + entry["data_offsets"][0], tuple(entry["shape"])
            found[name] = np.memmap(path, kinds[entry["dtype"]], "r", start, shape)
    return found


def write_model(folder: Path, shape: Shape, seed: int, over: Path | None = None) -> None:
    """A random bfloat16 model, or with `over` a fine-tune of the model that lies there."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(shape.config(), indent=1))
    tensors = list(shape.tensors())
    base = read(over / "model.safetensors") if over else None
    with (folder / "model.safetensors").open("wb") as file:
        file.write(header(tensors, "BF16")[0])
        for index, (name, size) in enumerate(tensors):
            rng = np.random.default_rng([seed, index])
            values = rng.standard_normal(size, np.float32)
            if base is None:
                values *= 0.02
                values += len(size) == 1
            else:
                values *= np.where(rng.random(size, np.float32) < _LOUD, _SPREAD * _LOUDER, _SPREAD).astype(np.float32)
                values += from_bf16(base[name])
            file.write(to_bf16(values).tobytes())


def write_adapter(folder: Path, shape: Shape, seed: int, rank: int = 16) -> None:
    """A PEFT LoRA adapter with random float32 factors on every linear layer."""
    folder.mkdir(parents=True)
    modules = [(f"model.layers.{n}.{name}", size) for n in range(shape.layers) for name, size in shape.linears()]
    tensors = []
    for name, (rows, columns) in modules:
        tensors += [(f"base_model.model.{name}.lora_A.weight", (rank, columns))]
        tensors += [(f"base_model.model.{name}.lora_B.weight", (rows, rank))]
    with (folder / "adapter_model.safetensors").open("wb") as file:
        file.write(header(tensors, "F32")[0])
        for index, (_, size) in enumerate(tensors):
            values = np.random.default_rng([seed, index]).standard_normal(size, np.float32)
            file.write((values * np.float32(0.01)).tobytes())
    config = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": rank, "lora_dropout": 0.0,
        "bias": "none", "fan_in_fan_out": False, "inference_mode": True, "init_lora_weights": True,
        "use_dora": False, "use_rslora": False, "base_model_name_or_path": None, "modules_to_save": None,
        "target_modules": sorted({name.rpartition(".")[2] for name, _ in modules}),
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=1))


def write_sparse(folder: Path, shape: Shape, shard: int = 4 << 30) -> int:
    """A model of zeros in shards of holes: full size to read, next to nothing on the disk. Returns its parameters."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(shape.config(), indent=1))
    shards: list[list[tuple[str, tuple[int, ...]]]] = [[]]
    filled = total = 0
    for name, size in shape.tensors():
        count = math.prod(size)
        if filled + count * 2 > shard and shards[-1]:
            shards.append([])
            filled = 0
        shards[-1].append((name, size))
        filled, total = filled + count * 2, total + count
    weight_map = {}
    for number, tensors in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        head, length = header(tensors, "BF16")
        with (folder / file).open("wb") as out:
            out.write(head)
            out.truncate(len(head) + length)
        weight_map |= dict.fromkeys((name for name, _ in tensors), file)
    index = {"metadata": {"total_size": total * 2}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1))
    return total


def settle(work: Path) -> None:
    """Have the inputs' pages in memory as a reading from the disk leaves them.

    What wrote them, and when, decides how the kernel keeps pages: small ones cost a link 0.1 to 0.25 CPU s more.
    """
    for path in sorted(work.glob("*/*.safetensors")):
        with path.open("rb", buffering=0) as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            while file.read(8 << 20):
                pass


def write_inputs(work: Path) -> None:
    """Base, four fine-tunes and four adapters below `work`; what is there already stays."""
    jobs = [("base", 0)] + [(f"ft{n}", n) for n in range(1, 5)] + [(f"lora{n}", n + 10) for n in range(1, 5)]
    for name, seed in jobs:
        if (work / name).is_dir():
            continue
        beside = work / f".{name}"
        if name.startswith("lora"):
            write_adapter(beside, SMALL, seed)
        else:
            write_model(beside, SMALL, seed, None if name == "base" else work / "base")
        beside.rename(work / name)
