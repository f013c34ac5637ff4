"""Thresholds remembered between links: a function of base, vector and trim alone, so a changed alpha costs one pass."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from amybuild.digest import digest_value

_VERSION = 1
Cut = tuple[float, float]


class Memo:
    """Thresholds by (vector, weight), kept below `folder` in one JSON file per vector; no folder: for this link only.

    `keys` names each vector's file: see `memo_keys`. What cannot be read is not known; what cannot be written is lost.
    """

    def __init__(self, keys: Mapping[str, str], folder: Path | None) -> None:
        self._keys = keys if folder is not None else {}
        self._folder = folder
        self._known = {vector: self._read(key) for vector, key in self._keys.items()}
        self._new: dict[str, dict[str, Cut]] = {}

    def get(self, vector: str, weight: str) -> Cut | None:
        """The least and the largest magnitude that stay, or None."""
        return self._known.get(vector, {}).get(weight)

    def put(self, vector: str, weight: str, cut: Cut) -> None:
        """Remember a threshold."""
        if vector in self._keys and self.get(vector, weight) != cut:
            self._new.setdefault(vector, {})[weight] = cut

    def save(self) -> None:
        """Write what is new, each file beside its place and then renamed into it."""
        for vector, cuts in self._new.items():
            whole = {**self._known[vector], **cuts}
            rows = {weight: [low, high if math.isfinite(high) else None] for weight, (low, high) in whole.items()}
            with contextlib.suppress(OSError):
                path = self._path(self._keys[vector])
                path.parent.mkdir(parents=True, exist_ok=True)
                beside = path.with_suffix(f".{os.getpid()}.tmp")
                beside.write_text(json.dumps({"version": _VERSION, "cuts": rows}), encoding="utf-8")
                os.replace(beside, path)

    def _read(self, key: str) -> dict[str, Cut]:
        try:
            found = json.loads(self._path(key).read_bytes())
            if found["version"] != _VERSION:
                return {}
            return {
                str(weight): (float(low), math.inf if high is None else float(high))
                for weight, (low, high) in found["cuts"].items()
            }
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}

    def _path(self, key: str) -> Path:
        assert self._folder is not None
        return self._folder / f"{key}.json"


def memo_keys(digests: Mapping[str, str], trim: Mapping[str, Any]) -> dict[str, str]:
    """File names by vector: `digests` holds the content digests of `base` and of every `vector.<name>`.

    `trim`: what else a threshold is a function of (method's kind, density …). A vector without a digest has no file.
    """
    base = digests.get("base")
    return {
        role.removeprefix("vector."): digest_value("link.thresholds", [_VERSION, base, digest, dict(trim)])
        for role, digest in digests.items()
        if base and role.startswith("vector.")
    }
