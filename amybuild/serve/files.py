"""The readout files, read without torch: whatever is wrong with them is said before any model is loaded."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from amybuild.errors import ActionError, InputError
from amybuild.link.tensors import FLOATS, Shard, Stored, read_shard

Array = NDArray[np.float32]

VECTORS, MANIFEST = "readout.safetensors", "readout.json"
DTYPES = ("float32", "bfloat16", "float16", "float64", "fp32", "bf16", "fp16")
_MOST_JSON = 64 << 20
_MOST_CONCEPTS, _MOST_LAYERS, _MOST_HIDDEN = 100_000, 4096, 1 << 20
_MOST_GAP = 1e6  # a residual stream is some tens of thousands long at most
_KEY = re.compile(r"layer_(0|[1-9][0-9]{0,5})\.([a-z_]+)\Z")
_REMEDY = "build the readout again, or copy both files of one build"


@dataclass(frozen=True)
class ReadoutFile:
    """What readout.json and readout.safetensors say, checked against each other.

    `vectors[layer]` is float32 [n_concepts, hidden_size]: rows in the order of `concepts`, read at the OUTPUT of block
    `layer` (0-based). `beside[name][layer]` are the other tensors that stand there: `steer` like `vectors`; `bias`,
    `mean`, `std`, `gap`, `threshold` float32 [n_concepts]. `num_layers` is the depth of the model, None when the file
    does not say.
    """

    where: str
    concepts: tuple[str, ...]
    layers: tuple[int, ...]
    hidden_size: int
    num_layers: int | None
    vectors: Mapping[int, Array]
    beside: Mapping[str, Mapping[int, Array]]
    about: Mapping[str, Any]

    def stacked(self) -> Array:
        """float32 [n_layers, n_concepts, hidden_size], layers in the order of `layers`."""
        return np.stack([self.vectors[layer] for layer in self.layers])


def read_readout(folder: Path) -> ReadoutFile:
    """The pair of files in `folder`; `InputError` for whatever is wrong with them."""
    return read_pair(folder / VECTORS, folder / MANIFEST)


def read_pair(vectors: Path, manifest: Path) -> ReadoutFile:
    """The readout in two files. Nothing named *inside* them is ever opened. `InputError` for whatever is wrong."""
    where = str(manifest)
    about = _manifest(manifest)
    concepts = _concepts(about.get("concepts"), where)
    layers = _layers(about, where)
    hidden = _whole(about, "hidden_size", where, low=1, high=_MOST_HIDDEN)
    depth = None if about.get("num_layers") is None else _whole(about, "num_layers", where, 1, _MOST_LAYERS)
    if depth is not None and max(layers) >= depth:
        raise _wrong(f"block {max(layers)} of a model of {depth} blocks (counted from 0)", f"{where} layers")
    _convention(about, where)
    found = _tensors(vectors, concepts, layers, hidden, about.get("vectors_sha256"))
    return ReadoutFile(where, concepts, layers, hidden, depth, found.pop("vectors"), found, about)


def check_fits(readout: ReadoutFile, config: Mapping[str, Any], where: str) -> None:
    """`InputError` unless a model with this config.json has such blocks; reads no weight."""
    text = config.get("text_config") if isinstance(config.get("text_config"), Mapping) else None
    config = text or config
    hidden = config.get("hidden_size", config.get("n_embd"))
    depth = config.get("num_hidden_layers", config.get("n_layer"))
    if hidden != readout.hidden_size:
        raise InputError(
            f"the readout is for hidden size {readout.hidden_size}, the model has {hidden}",
            where=f"{readout.where}, {where}",
            remedy="readouts belong to one base: build them for this one",
        )
    if not isinstance(depth, int) or max(readout.layers) >= depth or readout.num_layers not in (None, depth):
        told = f" of {readout.num_layers}" if readout.num_layers else ""
        raise InputError(
            f"the readout reads block {max(readout.layers)}{told}, the model has {depth} blocks (counted from 0)",
            where=f"{readout.where}, {where}",
            remedy="readouts belong to one base: build them for this one",
        )


def model_config(folder: Path) -> dict[str, Any]:
    """config.json of a Hugging Face model folder, `InputError` when there is none to read."""
    return _manifest(folder / "config.json", "name the folder of a built persona, as in dist/amy")


def _wrong(what: str, where: str) -> InputError:
    return InputError(what, where=where, remedy=_REMEDY)


def _manifest(path: Path, remedy: str = _REMEDY) -> dict[str, Any]:
    try:
        if path.exists() and not path.is_file():
            raise InputError("is no file", where=str(path), remedy=remedy)
        if path.stat().st_size > _MOST_JSON:
            raise InputError("is too large to be a manifest", where=str(path), remedy=remedy)
        data = json.loads(path.read_bytes(), object_pairs_hook=_once, parse_constant=_no_constant)
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", where=str(path), remedy=remedy) from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"is not readable JSON: {str(error)[:200]}", where=str(path), remedy=remedy) from None
    if not isinstance(data, dict):
        raise InputError("is not a JSON object", where=str(path), remedy=remedy)
    return data


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands there twice")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number")


def _whole(about: Mapping[str, Any], key: str, where: str, low: int, high: int) -> int:
    value = about.get(key)
    if type(value) is not int or not low <= value <= high:
        raise _wrong(f"must be a whole number from {low} to {high}, not {value!r:.60}", f"{where} {key}")
    return value


def _concepts(names: Any, where: str) -> tuple[str, ...]:
    """Names of concepts. They become file names and JSON keys: no separators, nothing unprintable, no twin."""
    if not isinstance(names, list) or not 0 < len(names) <= _MOST_CONCEPTS:
        raise _wrong("must be a list of names", f"{where} concepts")
    for name in names:
        bad = not isinstance(name, str) or not 0 < len(name) <= 200 or not name.isprintable()
        if bad or any(c in name for c in "/\\") or name.strip(". ") == "":
            raise _wrong(f"{name!r:.60} is not a name", f"{where} concepts")
    if len(set(names)) != len(names):
        raise _wrong("a concept stands there twice", f"{where} concepts")
    return tuple(names)


def _layers(about: Mapping[str, Any], where: str) -> tuple[int, ...]:
    layers = about.get("layers")
    fine = isinstance(layers, list) and 0 < len(layers) <= _MOST_LAYERS
    if not fine or not all(type(one) is int and 0 <= one < _MOST_LAYERS for one in layers or ()):
        raise _wrong(f"must be a list of blocks, counted from 0, not {layers!r:.60}", f"{where} layers")
    assert isinstance(layers, list)
    if len(set(layers)) != len(layers):
        raise _wrong("a block stands there twice", f"{where} layers")
    return tuple(layers)


def _convention(about: Mapping[str, Any], where: str) -> None:
    """What is stated of how the file was made must be what a reader does."""
    for key, known in (
        ("format_version", (1,)),
        ("layer_index_base", (0,)),
        ("hook_point", ("block_output", "block_output_residual_sum")),
        ("dtype", (*DTYPES, *(f"torch.{name}" for name in DTYPES))),
    ):
        if key in about and (about[key] not in known or isinstance(about[key], bool)):
            raise _wrong(f"{about[key]!r:.60} is none of {', '.join(str(one) for one in known)}", f"{where} {key}")


def _tensors(
    path: Path, concepts: tuple[str, ...], layers: tuple[int, ...], hidden: int, digest: Any
) -> dict[str, dict[int, Array]]:
    """kind -> layer -> tensor, each with the shape that the manifest promises, all finite.

    `digest`: the SHA-256 of the file where the manifest tells it, else None. Rows of another build would fit just as
    well, and each would be taken for another concept's.
    """
    where = str(path)
    if path.exists() and not path.is_file():
        raise _wrong("is no file", where)
    try:
        shard = read_shard(path, where, _REMEDY)
    except (ActionError, RecursionError):
        raise _wrong("is not a readable safetensors file", where) from None
    if digest is not None and hashlib.sha256(shard.map).hexdigest() != digest:
        raise _wrong("these are not the vectors of this manifest", where)
    matrix, row = (len(concepts), hidden), (len(concepts),)
    shapes = {"vectors": matrix, "steer": matrix, "bias": row, "mean": row, "std": row, "gap": row, "threshold": row}
    found: dict[str, dict[int, Array]] = {"vectors": {}}
    for stored in shard.tensors:
        named = _KEY.match(stored.name)
        if not named or named[2] not in shapes:
            continue  # more tensors may stand beside
        layer, kind = int(named[1]), named[2]
        if layer not in layers:
            raise _wrong(f"'{stored.name}' is of a block that the manifest does not list", where)
        if stored.shape != shapes[kind]:
            raise _wrong(f"'{stored.name}' is {list(stored.shape)}, not {list(shapes[kind])}", where)
        found.setdefault(kind, {})[layer] = _array(shard, stored, where)
    for kind, by_layer in found.items():
        missing = [layer for layer in layers if layer not in by_layer]
        if missing:
            raise _wrong(f"'layer_{missing[0]}.{kind}' is missing", where)
    for layer, vectors in found["vectors"].items():
        if not np.linalg.norm(vectors, axis=1).all():
            raise _wrong(f"'layer_{layer}.vectors' has a row of zeros", where)
    if any((std <= 0).any() for std in found.get("std", {}).values()):
        raise _wrong("a '.std' is not above zero", where)
    if any(((gap <= 0) | (gap > _MOST_GAP)).any() for gap in found.get("gap", {}).values()):
        raise _wrong("a '.gap' is no distance", where)
    return found


def _array(shard: Shard, stored: Stored, where: str) -> Array:
    if stored.code not in FLOATS:
        raise _wrong(f"'{stored.name}' is stored as {stored.code}, not as floats", where)
    raw = np.frombuffer(shard.raw(stored).tobytes(), FLOATS[stored.code]).reshape(stored.shape)
    values = (raw.astype(np.uint32) << 16).view(np.float32) if stored.code == "BF16" else raw
    with np.errstate(over="ignore"):
        array = np.asarray(values, dtype=np.float32)
    if not np.isfinite(array).all():
        raise _wrong(f"'{stored.name}' holds numbers that are not finite", where)
    return array
