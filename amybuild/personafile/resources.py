"""What a recipe says its actions need of the machine: ``resources = { gpu = 1, memory = "12G" }``."""

from __future__ import annotations

import re

from amybuild.personafile.check import Table

_UNITS = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}


def bytes_of(text: str) -> int | None:
    """``12G`` (also 12GB, 12GiB, 1.5g) in bytes, by powers of 1024; None for anything else, and for nothing."""
    found = re.fullmatch(r"(\d{1,15}(?:\.\d{1,15})?)\s*([KMGT]?)(?:I?B)?", text.strip().upper(), re.ASCII)
    return (int(float(found.group(1)) * 2 ** _UNITS[found.group(2)]) or None) if found else None


def read_resources(table: Table) -> dict[str, int]:
    """The ``resources`` of a recipe or a target's table: GPUs as a number, memory in bytes."""
    inner, found = table.child("resources"), {}
    if "gpu" in inner.data:
        found["gpu"] = inner.within("gpu", int, 0, lambda v: v >= 0, "must be at least 0")
    if "memory" in inner.data:
        size = bytes_of(inner.take("memory", str))
        if size is None:
            raise inner.fail("is no size", "memory", 'write it as in memory = "12G"')
        found["memory"] = size
    inner.taken |= {"gpu", "memory"}
    inner.done()
    return found
