"""How far two outputs of one action lie apart: tensors by numbers, JSON by keys, other files by their first byte."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

_CHUNK = 1 << 22  # numbers looked at together: a tensor need not fit in memory as float64
_DTYPES = {
    **{"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "BOOL": "?"},
    **{"I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1"},
}


def compare(old: Mapping[str, Path], new: Mapping[str, Path]) -> list[dict[str, Any]]:
    """What differs between two trees (file name -> where its bytes are), a JSON object per file that does.

    ``{"file", "state": "missing" | "extra" | "differs", …}``. One that differs has the sizes and the offset of the
    first other byte; a safetensors file also ``tensors``, a JSON file ``keys``, the worst first. Strings of JSON files
    are not quoted: they may be someone's memories.
    """
    found: list[dict[str, Any]] = []
    for name in sorted(old.keys() | new.keys()):
        if name not in new:
            found.append({"file": name, "state": "missing", "old_size": old[name].stat().st_size})
        elif name not in old:
            found.append({"file": name, "state": "extra", "new_size": new[name].stat().st_size})
        elif (where := _first_difference(old[name], new[name])) is not None:
            sizes = {"old_size": old[name].stat().st_size, "new_size": new[name].stat().st_size}
            found.append(
                {"file": name, "state": "differs", **sizes, "first": where, **_inside(old[name], new[name], name)}
            )
    return found


def _first_difference(old: Path, new: Path) -> int | None:
    """The offset of the first byte that differs (the end of the shorter file counts); None when there is none."""
    if old == new:
        return None
    place = 0
    with open(old, "rb") as one, open(new, "rb") as two:
        while True:
            a, b = one.read(1 << 20), two.read(1 << 20)
            if a != b:
                same = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
                return place + same
            if not a:
                return None
            place += len(a)


def _inside(old: Path, new: Path, name: str) -> dict[str, Any]:
    """What a reader of the format can say; nothing for other files and unreadable ones."""
    try:
        if name.endswith(".safetensors"):
            return {"tensors": _tensors(old, new)}
        if name.endswith(".json"):
            rows = _keys(json.loads(old.read_bytes()), json.loads(new.read_bytes()), "")
            return {"keys": sorted(rows, key=lambda row: -(row.get("relative") or 0))}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        pass  # it is not what its name says: the first other byte is all there is to say
    return {}


# JSON


def _keys(old: Any, new: Any, path: str) -> Iterator[dict[str, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            inner = f"{path}.{key}" if path else str(key)
            if key not in new or key not in old:
                yield {"key": inner, "state": "extra" if key in new else "missing"}
            else:
                yield from _keys(old[key], new[key], inner)
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for i, (a, b) in enumerate(zip(old, new, strict=True)):
            yield from _keys(a, b, f"{path}[{i}]")
    elif old != new or type(old) is not type(new):
        yield {"key": path, "state": "differs", "old": _shown(old), "new": _shown(new), **_relative(old, new)}


def _relative(old: Any, new: Any) -> dict[str, float]:
    numbers = [value for value in (old, new) if isinstance(value, int | float) and not isinstance(value, bool)]
    if len(numbers) < 2 or not all(math.isfinite(value) for value in numbers):
        return {}
    return {"relative": abs(new - old) / max(abs(old), abs(new), 1e-300)}


def _shown(value: Any) -> Any:
    if value is None or isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    if isinstance(value, str | list | dict):
        return f"{ {str: 'a text', list: 'a list', dict: 'a table'}[type(value)] } of {len(value)}"
    return str(value)  # nan and infinities


# safetensors


def _tensors(old: Path, new: Path) -> list[dict[str, Any]]:
    """For each tensor that differs its largest absolute difference, and |new - old| / |old| in the 2-norm."""
    before, after = _header(old), _header(new)
    rows: list[dict[str, Any]] = []
    for name in sorted(before.keys() | after.keys()):
        a, b = before.get(name), after.get(name)
        if a is None or b is None:
            rows.append({"tensor": name, "state": "extra" if a is None else "missing"})
        elif (a["dtype"], a["shape"]) != (b["dtype"], b["shape"]):
            kinds = {"old": f"{a['dtype']} {a['shape']}", "new": f"{b['dtype']} {b['shape']}"}
            rows.append({"tensor": name, "state": "differs", **kinds})
        elif (apart := _apart(old, a, new, b)) is not None:
            rows.append({"tensor": name, "state": "differs", **apart})
    return sorted(rows, key=lambda row: -(row.get("relative") or 0))


def _header(path: Path) -> dict[str, Any]:
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    return {
        name: {**one, "start": 8 + length + one["data_offsets"][0]} for name, one in header.items() if name[:2] != "__"
    }


def _apart(old: Path, a: Mapping[str, Any], new: Path, b: Mapping[str, Any]) -> dict[str, Any] | None:
    import numpy as np

    kind = _DTYPES.get(a["dtype"], "u1")  # of an unknown type the bytes are compared
    size = (a["data_offsets"][1] - a["data_offsets"][0]) // np.dtype(kind).itemsize
    if not size:
        return None
    ones = np.memmap(old, dtype=kind, mode="r", offset=a["start"], shape=(size,))
    twos = np.memmap(new, dtype=kind, mode="r", offset=b["start"], shape=(size,))
    count, largest, square, norm = 0, 0.0, 0.0, 0.0
    for start in range(0, size, _CHUNK):
        x, y = ones[start : start + _CHUNK], twos[start : start + _CHUNK]
        if a["dtype"] == "BF16":  # the upper half of a float32
            x, y = ((one.astype("<u4") << 16).view("<f4") for one in (x, y))
        x, y = x.astype(np.float64), y.astype(np.float64)
        other = ~((x == y) | (np.isnan(x) & np.isnan(y)))
        with np.errstate(invalid="ignore"):
            gap = np.where(other, np.abs(y - x), 0.0)
        count += int(other.sum())
        largest = max(largest, float(np.nan_to_num(gap, nan=math.inf).max()))
        square += float(np.square(gap).sum())
        norm += float(np.square(np.nan_to_num(x, posinf=0.0, neginf=0.0)).sum())
    if not count:
        return None
    found = {"numbers": size, "differing": count, "max_abs": largest}
    finite = math.isfinite(largest) and math.isfinite(square)
    if not finite:  # a nan or an infinity came or went: no number says how far
        return {"numbers": size, "differing": count, "max_abs": None, "relative": None}
    return {**found, "relative": math.sqrt(square) / max(math.sqrt(norm), 1e-300)}
