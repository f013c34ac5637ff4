"""Steering directions as GGUF control vectors, the format of llama.cpp and repeng: written, then read back."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from amybuild.errors import ActionError, InputError
from amybuild.serve.steering import Direction

ARCHITECTURE = "controlvector"


def write_control_vector(path: Path, one: Direction, model_type: str) -> None:
    """Write `one` as a control vector: F32 tensors `direction.<k>`, k the 0-based block to whose output it is added.

    llama.cpp multiplies them by its own scale (`--control-vector-scaled FILE:SCALE`), so a scale counts in the
    direction's unit. InputError for block 0, which llama.cpp cannot steer. ActionError unless it reads back the same.
    """
    import gguf

    if 0 in one.steps:
        raise InputError(
            "llama.cpp cannot steer block 0",
            where=one.name,
            remedy="choose other blocks for this steering target (layers), or steer at run time",
        )
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        writer = gguf.GGUFWriter(beside, ARCHITECTURE)
        writer.add_string(f"{ARCHITECTURE}.model_hint", model_type)
        writer.add_uint32(f"{ARCHITECTURE}.layer_count", len(one.steps))
        for layer in one.layers:
            writer.add_tensor(f"direction.{layer}", np.ascontiguousarray(one.steps[layer], dtype=np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        found, hint = read_control_vector(beside)
        same = hint == model_type and found.layers == one.layers
        if not same or any((found.steps[layer] != one.steps[layer]).any() for layer in one.layers):
            raise ActionError("what was written does not read back the same", where=str(path))
        with open(beside, "rb") as file:
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError as error:
        raise ActionError(f"cannot be written: {error.strerror}", where=str(path)) from None
    finally:
        beside.unlink(missing_ok=True)


def read_control_vector(path: Path) -> tuple[Direction, str]:
    """A control vector and the model type that it names, refused where llama.cpp would refuse it (`InputError`)."""
    import gguf

    try:
        reader = gguf.GGUFReader(path)
        kind = reader.fields["general.architecture"].contents()
        hint = str(reader.fields[f"{ARCHITECTURE}.model_hint"].contents())
        steps = {}
        for tensor in reader.tensors:
            name, _, number = tensor.name.partition(".")
            if name != "direction" or not number.isdigit() or int(number) < 1:
                raise ValueError(f"a tensor named {tensor.name!r:.60}")
            if tensor.tensor_type != gguf.GGMLQuantizationType.F32 or len(tensor.shape) != 1:
                raise ValueError(f"'{tensor.name}' is no row of float32")
            steps[int(number)] = np.array(tensor.data, dtype=np.float32)
        if kind != ARCHITECTURE or not steps or len({step.shape for step in steps.values()}) != 1:
            raise ValueError("no directions of one length")
        if not all(np.isfinite(step).all() for step in steps.values()):
            raise ValueError("numbers that are not finite")
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise InputError(f"is no control vector: {str(error)[:120]}", where=str(path)) from None
    return Direction(path.stem, steps), hint
