"""Digests over canonical, typed content: blake3 in hex, one encoder for every pre-image."""

from __future__ import annotations

import json
import os
from typing import Any

from blake3 import blake3

from amybuild.errors import InputError

_MMAP_FROM = 1 << 20


def digest_bytes(data: bytes) -> str:
    """blake3 of `data`, 64 hex digits."""
    return str(blake3(data).hexdigest())


def digest_file(path: str | os.PathLike[str]) -> str:
    """blake3 of a file's bytes, 64 hex digits."""
    hasher = blake3()
    if os.stat(path).st_size >= _MMAP_FROM:
        hasher.update_mmap(os.fspath(path))
    else:
        with open(path, "rb") as file:
            hasher.update(file.read())
    return str(hasher.hexdigest())


def canonical(value: Any) -> bytes:
    """The one byte form of a JSON value: sorted keys, no spaces, UTF-8, shortest floats; NaN is refused."""
    try:
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        return text.encode()
    except (ValueError, TypeError, RecursionError) as error:
        raise InputError(f"not a plain value: {error}", remedy="use strings, finite numbers, booleans, lists") from None


def digest_value(kind: str, value: Any) -> str:
    """Digest of a JSON value under its record kind, so that two kinds never share a pre-image."""
    return digest_bytes(kind.encode() + b"\0" + canonical(value))
