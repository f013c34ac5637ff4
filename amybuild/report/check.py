"""What ``--check`` found, in words: per file how far the new result lies from the cached one, and what ran where."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_MOST = 5  # tensors, keys or files that are listed before "and more"


def differences(fields: Mapping[str, Any]) -> list[str]:
    """The lines for one action (the fields of a `differs` event)."""
    blocks = [_file(file) for file in fields["files"]]
    left = len(blocks) - _MOST
    lines = [line for block in blocks[:_MOST] for line in block] + ([f"… and {left} more files"] if left > 0 else [])
    hosts = fields["hosts"]
    changed = [key for key in sorted({*hosts["old"], *hosts["new"]}) if hosts["old"].get(key) != hosts["new"].get(key)]
    if changed:
        told = ", ".join(f"{key} {hosts['old'].get(key, '-')} -> {hosts['new'].get(key, '-')}" for key in changed)
        return [*lines, f"it ran elsewhere: {told}"]
    return [*lines, "both ran on the same kind of machine with the same libraries"]


def _file(file: Mapping[str, Any]) -> list[str]:
    name = file["file"]
    if file["state"] == "missing":
        return [f"{name}: only in the cached result ({file['old_size']} bytes)"]
    if file["state"] == "extra":
        return [f"{name}: only in the new result ({file['new_size']} bytes)"]
    sizes = f"{file['old_size']} bytes"
    if file["old_size"] != file["new_size"]:
        sizes = f"{file['old_size']} -> {file['new_size']} bytes"
    rows = [_tensor(row) for row in file.get("tensors", [])] or [_key(row) for row in file.get("keys", [])]
    head = f"{name}: differs ({sizes}, from byte {file['first']} on)"
    left = len(rows) - _MOST
    more = [f"  … and {left} more"] if left > 0 else []
    return [head, *(f"  {row}" for row in rows[:_MOST]), *more]


def _tensor(row: Mapping[str, Any]) -> str:
    if row["state"] != "differs":
        return f"{row['tensor']}: only in the {'cached' if row['state'] == 'missing' else 'new'} result"
    if "numbers" not in row:
        return f"{row['tensor']}: {row['old']} -> {row['new']}"
    if row["max_abs"] is None:
        return (
            f"{row['tensor']}: a number came or went (nan or infinity), {row['differing']} of {row['numbers']} differ"
        )
    share = f"{row['differing']} of {row['numbers']} differ"
    return f"{row['tensor']}: by at most {row['max_abs']:.3g}, relative {row['relative']:.3g}, {share}"


def _key(row: Mapping[str, Any]) -> str:
    if row["state"] != "differs":
        return f"{row['key']}: only in the {'cached' if row['state'] == 'missing' else 'new'} result"
    relative = f" (relative {row['relative']:.3g})" if row.get("relative") is not None else ""
    return f"{row['key'] or 'the value'}: {row['old']} -> {row['new']}{relative}"
